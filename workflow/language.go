package workflow

import "github.com/opspawn/opscore/bus/event"

// Definition is a workflow as data, in JSON or YAML. [VersionOf] names its content.
//
// In a definition that uses nothing newer than nextTaskId, a run begins with the first task and follows it. As soon as one task has dependsOn or
// another member of [Node], the tasks are a graph: each nextTaskId, dependsOn, switch and onFailure.taskId is an edge, and all tasks
// without an edge towards them are reached when the run begins.
type Definition struct {
	ID                string       `json:"id"`
	Name              string       `json:"name,omitzero"`
	Description       string       `json:"description,omitzero"`
	Version           string       `json:"version,omitzero"` // the author's label; runs are pinned by content
	Tasks             []Task       `json:"tasks"`
	Retry             *Retry       `json:"retry,omitzero"`             // of tasks that have none of their own
	TimeoutSeconds    float64      `json:"timeoutSeconds,omitzero"`    // of tasks that have none of their own
	RunTimeoutSeconds float64      `json:"runTimeoutSeconds,omitzero"` // of a whole run; pauses and waits for people do not count
	InputSchema       event.Raw    `json:"inputSchema,omitzero"`       // JSON Schema that the input of a run must fit
	Output            event.Raw    `json:"output,omitzero"`            // template of the run's output; absent: the output of the task that ended last
	Priority          int          `json:"priority,omitzero"`          // 0 to 9, of runs that are started without one
	Concurrency       *Concurrency `json:"concurrency,omitzero"`

	index    map[string]int // taskId: place in Tasks
	compiled *compiled
	flow     *flow // the graph of the tasks, nil if they are a sequence
}

// Task is one node of a definition. What it does is said by at most one of agentCapability, agentId or select (an agent does it), workflow,
// wait, signal and approval; without any of them it is a point where edges meet, except in a definition of the old kind, where the run's
// agent does it. forEach and loop repeat what it does.
type Task struct {
	TaskID          string    `json:"taskId"`
	Name            string    `json:"name,omitzero"`
	AgentCapability string    `json:"agentCapability,omitzero"` // empty: the run's agent
	AgentID         string    `json:"agentId,omitzero"`         // a named agent skips the check of the capability
	Parameters      event.Raw `json:"parameters,omitzero"`      // an object: the task's input, a template
	NextTaskID      *string   `json:"nextTaskId,omitzero"`
	Retry           *Retry    `json:"retry,omitzero"`
	TimeoutSeconds  float64   `json:"timeoutSeconds,omitzero"` // of an attempt, renewed by progress
	Node
}

// Node is what the language of graphs adds to a task. Expressions are CEL over input, tasks.ID.output, .state, .error and .agentId, run, and within
// forEach and loop item and index; templates are JSON whose strings may hold ${{ expression }}.
type Node struct {
	Select       *Select      `json:"select,omitzero"`
	DependsOn    []string     `json:"dependsOn,omitzero"`
	Join         event.Raw    `json:"join,omitzero"` // "all" (default), "any" or a number of edges
	When         string       `json:"when,omitzero"` // expression: false skips the task
	Switch       []Case       `json:"switch,omitzero"`
	ForEach      *ForEach     `json:"forEach,omitzero"`
	Loop         *Loop        `json:"loop,omitzero"`
	Workflow     *SubWorkflow `json:"workflow,omitzero"`
	Wait         *Wait        `json:"wait,omitzero"`
	Signal       *Signal      `json:"signal,omitzero"`
	Approval     *Approval    `json:"approval,omitzero"`
	Timeouts     *Timeouts    `json:"timeouts,omitzero"`
	OnFailure    *OnFailure   `json:"onFailure,omitzero"`
	Compensate   *Compensate  `json:"compensate,omitzero"`
	Priority     *int         `json:"priority,omitzero"` // 0 to 9, instead of the run's
	OutputSchema event.Raw    `json:"outputSchema,omitzero"`
}

// Select says which agents may do a task.
type Select struct {
	AgentID    string            `json:"agentId,omitzero"`
	Capability string            `json:"capability,omitzero"`
	Version    string            `json:"version,omitzero"` // range of semantic versions, as in ">=1.2 <2"
	Labels     map[string]string `json:"labels,omitzero"`  // all must be equal
	SameAs     string            `json:"sameAs,omitzero"`  // task whose agent does this one too
	Spread     bool              `json:"spread,omitzero"`  // prefer the agent that holds the fewest tasks
}

// Case is one way out of a task that switches: the first whose condition holds is taken, the tasks of the others are skipped.
type Case struct {
	When   string `json:"when,omitzero"` // expression; empty: always
	TaskID string `json:"taskId"`
}

// ForEach does a task once for each item of a list. Its output is the list of their outputs, in the order of the items.
type ForEach struct {
	Items       string `json:"items"`                // expression, a list
	MaxParallel int    `json:"maxParallel,omitzero"` // 0 means 16
	OnFailure   string `json:"onFailure,omitzero"`   // "fail" (default): the first failure ends it; "collect": failures become {"error": …} items
	Tolerate    int    `json:"tolerate,omitzero"`    // with "fail": so many failures are collected before
}

// Loop does a task again while its condition holds, which is looked at after each time. Its output is the last one.
type Loop struct {
	While string `json:"while"` // expression, with index and output of the time before
	Max   int    `json:"max"`   // times at most; more is a failure
}

// SubWorkflow runs another definition. Its output is the output of that run.
type SubWorkflow struct {
	ID      string    `json:"id"`
	Version string    `json:"version,omitzero"` // empty: the latest when it is started
	Input   event.Raw `json:"input,omitzero"`   // a template, an object
}

// Wait lets time pass: Seconds, or until a time.
type Wait struct {
	Seconds float64 `json:"seconds,omitzero"`
	Until   string  `json:"until,omitzero"` // expression: a timestamp, or a string in RFC 3339
}

// Signal waits for a signal of a name, which may have come before. Its output is the payload.
type Signal struct {
	Name           string    `json:"name"`
	Schema         event.Raw `json:"schema,omitzero"`         // JSON Schema of the payload; what does not fit is refused
	TimeoutSeconds float64   `json:"timeoutSeconds,omitzero"` // 0: no limit; then the task fails
}

// Approval waits for a person's word. Its output is {"approved", "by", "comment", "at"}.
type Approval struct {
	Message        string  `json:"message,omitzero"` // a template
	TimeoutSeconds float64 `json:"timeoutSeconds,omitzero"`
	OnTimeout      string  `json:"onTimeout,omitzero"` // "fail" (default), "approve" or "reject"
	OnReject       string  `json:"onReject,omitzero"`  // "fail" (default) or "continue"
}

// Timeouts are the clocks of a task besides timeoutSeconds. Time in which the run is paused does not count, nor do outages of Ops-Core itself.
type Timeouts struct {
	QueueSeconds    float64 `json:"queueSeconds,omitzero"`    // waiting for an agent
	AcceptSeconds   float64 `json:"acceptSeconds,omitzero"`   // for the agent's answer to a request
	RunSeconds      float64 `json:"runSeconds,omitzero"`      // of an attempt, whatever progress it makes
	ProgressSeconds float64 `json:"progressSeconds,omitzero"` // without progress; instead of timeoutSeconds
}

// Retry says how often a failed task is tried again, and when: initial × factorⁿ, at most max, with full jitter.
type Retry struct {
	Attempts       *int             `json:"attempts,omitzero"` // retries after the first attempt; absent: 3
	InitialSeconds float64          `json:"initialSeconds,omitzero"`
	MaxSeconds     float64          `json:"maxSeconds,omitzero"`
	Factor         float64          `json:"factor,omitzero"`
	Jitter         string           `json:"jitter,omitzero"`       // "full" (default) or "none"
	Codes          map[string]Retry `json:"codes,omitzero"`        // instead, for failures with this code; without codes of its own
	NonRetryable   []string         `json:"nonRetryable,omitzero"` // codes of failures that are final
}

// OnFailure says what follows when a task has failed for good. Without it the run fails.
type OnFailure struct {
	Fallback []Select `json:"fallback,omitzero"` // others to try, in order; each has the retries of the task
	TaskID   string   `json:"taskId,omitzero"`   // task that is reached then, and only then
	Continue bool     `json:"continue,omitzero"` // go on as if it had completed, with the output null
}

// Compensate undoes a completed task when the run fails or is cancelled: the latest first.
type Compensate struct {
	Select     Select    `json:"select"`
	Parameters event.Raw `json:"parameters,omitzero"` // a template
}

// Concurrency bounds how many runs of a definition go on at the same time; more wait, in order.
type Concurrency struct {
	Max int    `json:"max"`
	Key string `json:"key,omitzero"` // expression over input and run: the bound holds for each value of it
}
