package workflow

// memberDocs is what the JSON Schema says of each member of the language.
var memberDocs = map[string]memberDoc{
	"Definition.id":                about("Names the workflow. Applying another definition under the same id makes a new version."),
	"Definition.name":              about("For people."),
	"Definition.description":       about("For people."),
	"Definition.version":           about("The author's label. Runs are pinned to the content, not to this."),
	"Definition.tasks":             {"The tasks. A run of a definition without edges but nextTaskId begins with the first one.", map[string]any{"maxItems": MaxTasks}},
	"Definition.retry":             about("Retries of tasks that say nothing of their own."),
	"Definition.timeoutSeconds":    clock("Time of an attempt without progress, of tasks that say nothing of their own"),
	"Definition.runTimeoutSeconds": clock("Time of a whole run; pauses and waits for people do not count"),
	"Definition.inputSchema":       typedAs("JSON Schema that the input of a run must fit.", "object", "boolean", "null"),
	"Definition.output":            aTemplate("The output of a run; without it, that of the task that ended last."),
	"Definition.priority":          between("Of runs that are started without one; 9 goes first.", MinPriority, MaxPriority),
	"Definition.concurrency":       about("How many runs go on at the same time; more wait, in order."),

	"Task.taskId":          about("Names the task within the workflow."),
	"Task.name":            about("For people."),
	"Task.agentCapability": about("Any agent that offers this capability does the task."),
	"Task.agentId":         about("This agent does the task."),
	"Task.parameters":      aTemplate("What the task is given.", "object", "null"),
	"Task.nextTaskId":      about("The task that follows."),
	"Task.retry":           about("How often and when a failed attempt is tried again."),
	"Task.timeoutSeconds":  clock("Time of an attempt without progress"),
	"Task.select":          about("Which agents may do the task."),
	"Task.dependsOn":       about("Tasks that this one follows."),
	"Task.join": {"How many of the edges into the task must be taken before it begins: all that are not skipped (default), any, or a number.", map[string]any{
		"anyOf": []any{map[string]any{"enum": []any{"all", "any", nil}}, map[string]any{"type": "integer", "minimum": 1}},
	}},
	"Task.when":         anExpression("The task is skipped when this is false"),
	"Task.switch":       about("Ways out of the task: the first whose condition holds is taken, the others are skipped."),
	"Task.forEach":      about("Does the task once for each item of a list. Its output is the list of their outputs."),
	"Task.loop":         about("Does the task again while a condition holds. Its output is the last one."),
	"Task.workflow":     about("Runs another workflow. Its output is the output of that run."),
	"Task.wait":         about("Lets time pass."),
	"Task.signal":       about("Waits for a signal, which may have come before. Its output is the payload."),
	"Task.approval":     about("Waits for a person's word. Its output is {approved, by, comment, at}."),
	"Task.timeouts":     about("The clocks of the task besides timeoutSeconds."),
	"Task.onFailure":    about("What follows when the task has failed for good; without it the run fails."),
	"Task.compensate":   about("What undoes the task when the run fails or is cancelled later."),
	"Task.priority":     between("Instead of the run's; 9 goes first.", MinPriority, MaxPriority),
	"Task.outputSchema": typedAs("JSON Schema that the output must fit; what does not is a failed attempt.", "object", "boolean", "null"),

	"Select.agentId":    about("This agent."),
	"Select.capability": about("Agents that offer this capability."),
	"Select.version":    about("Agents whose version is in this range, as in \">=1.2 <2\"."),
	"Select.labels":     about("Agents that have all of these labels."),
	"Select.sameAs":     about("The agent that did this task."),
	"Select.spread":     about("Prefers the agent that holds the fewest tasks."),

	"Case.when":   anExpression("The condition; without it the case is always taken"),
	"Case.taskId": about("The task that follows then."),

	"ForEach.items":       anExpression("The list"),
	"ForEach.maxParallel": between("How many items are done at the same time; 0 stands for 16.", 0, MaxParallel),
	"ForEach.onFailure":   words("fail (default): the first failure ends it. collect: failures become {\"error\": …} in the output.", "fail", "collect"),
	"ForEach.tolerate":    about("With fail: so many failures are collected before one ends it."),

	"Loop.while": anExpression("Looked at after each time, with index, and the output of that time as output"),
	"Loop.max":   between("Times at most; to want more is a failure.", 1, MaxLoop),

	"SubWorkflow.id":      about("The workflow that is run."),
	"SubWorkflow.version": about("Which version of it; without it, the latest when it is started."),
	"SubWorkflow.input":   aTemplate("The input of that run.", "object", "null"),

	"Wait.seconds": clock("How long"),
	"Wait.until":   anExpression("Until when: a timestamp, or a string in RFC 3339"),

	"Signal.name":           about("The name of the signal."),
	"Signal.schema":         typedAs("JSON Schema of the payload; a signal that does not fit is refused.", "object", "boolean", "null"),
	"Signal.timeoutSeconds": clock("Then the task fails; 0 means no limit"),

	"Approval.message":        aTemplate("What the person is told."),
	"Approval.timeoutSeconds": clock("How long it waits; 0 means no limit"),
	"Approval.onTimeout":      words("What follows then: fail (default), approve or reject.", "fail", "approve", "reject"),
	"Approval.onReject":       words("What follows a rejection: fail (default), or continue with approved false.", "fail", "continue"),

	"Timeouts.queueSeconds":    clock("Waiting for an agent"),
	"Timeouts.acceptSeconds":   clock("For the agent's answer to a request"),
	"Timeouts.runSeconds":      clock("Of an attempt, whatever progress it makes"),
	"Timeouts.progressSeconds": clock("Without progress; instead of timeoutSeconds"),

	"Retry.attempts":       between("Retries after the first attempt; without it, 3.", 0, maxRetries),
	"Retry.initialSeconds": clock("The first back-off; 0 stands for 1"),
	"Retry.maxSeconds":     clock("The longest back-off; 0 stands for 60"),
	"Retry.factor":         about("The back-off grows by this; 0 stands for 2."),
	"Retry.jitter":         words("full (default): anything up to the back-off. none: the back-off itself.", "full", "none"),
	"Retry.codes":          about("Instead, for failures with this code."),
	"Retry.nonRetryable":   about("Codes of failures that are final."),

	"OnFailure.fallback": {"Others to try, in order, each with the retries of the task.", map[string]any{"maxItems": maxFallback}},
	"OnFailure.taskId":   about("The task that is reached then, and only then."),
	"OnFailure.continue": about("Goes on as if the task had completed, with the output null."),

	"Compensate.select":     about("Which agents may undo it; without it, the one that has done it."),
	"Compensate.parameters": aTemplate("What they are given.", "object", "null"),

	"Concurrency.max": between("Runs that go on at the same time.", 1, 1_000_000),
	"Concurrency.key": anExpression("The bound holds for each value of it, which may follow from input and run"),
}
