package workflow

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// everything uses every member of the language, without a mistake.
const everything = `
id: everything
name: Everything
description: Uses every member of the language.
version: "2"
retry: {attempts: 2, initialSeconds: 1, maxSeconds: 10, factor: 3, jitter: none, nonRetryable: [bad_input], codes: {busy: {attempts: 9}}}
timeoutSeconds: 60
runTimeoutSeconds: 3600
inputSchema: {type: object, required: [items]}
output: {total: "${{ tasks.sum.output.total }}", all: "${{ tasks.each.output }}"}
priority: 3
concurrency: {max: 2, key: 'string(input.team) + run.workflowId'}
tasks:
  - taskId: begin
    name: Begin
    agentCapability: start
    parameters: {team: "${{ input.team }}", text: "run ${{ run.id }} of $${{ nothing }}"}
    nextTaskId: each
    outputSchema: {type: object}
    timeouts: {queueSeconds: 60, acceptSeconds: 5, runSeconds: 600, progressSeconds: 30}
    compensate: {select: {capability: undo}, parameters: {id: "${{ tasks.begin.output.id }}"}}
  - taskId: each
    select: {capability: work, version: ">=1.2 <2", labels: {zone: eu}, spread: true}
    forEach: {items: input.items, maxParallel: 4, onFailure: fail, tolerate: 1}
    parameters: {item: "${{ item }}", place: "${{ index }}", before: "${{ tasks.begin.output.x }}"}
    onFailure: {fallback: [{capability: slow-work}, {agentId: bob}]}
  - taskId: again
    agentId: bob
    loop: {while: 'output.more && index < 5', max: 10}
    parameters: {round: "${{ index }}"}
    onFailure: {taskId: broken}
  - taskId: sub
    workflow: {id: other, version: abc, input: {n: "${{ size(input.items) }}"}}
    dependsOn: [begin]
  - taskId: pause
    wait: {seconds: 5}
    dependsOn: [begin]
  - taskId: until
    wait: {until: 'timestamp(input.at) + duration("1h")'}
    dependsOn: [begin]
  - taskId: word
    signal: {name: go, schema: {type: object}, timeoutSeconds: 60}
    dependsOn: [pause]
  - taskId: boss
    approval: {message: "Approve ${{ run.id }}?", timeoutSeconds: 60, onTimeout: reject, onReject: continue}
    dependsOn: [until]
    switch:
      - {when: tasks.boss.output.approved, taskId: sum}
      - {taskId: sorry}
  - taskId: sum
    select: {sameAs: begin}
    dependsOn: [each, again, sub, word]
    join: 2
    when: 'tasks.each.state == "completed"'
    priority: 9
  - taskId: sorry
    agentCapability: mail
    onFailure: {continue: true}
  - taskId: broken
    join: any
`

// Each row is a definition of two tasks a and b, what is wrong with it, and where.
var mistakenNodes = []struct{ name, tasks, path, text string }{
	{"two bodies", `{"taskId":"a","agentCapability":"x","wait":{"seconds":1}}`, "$.tasks[0]", "a task does one thing, this one has agentCapability and wait"},
	{"three bodies", `{"taskId":"a","select":{"capability":"x"},"signal":{"name":"s"},"workflow":{"id":"w"}}`, "$.tasks[0]", "a task does one thing, this one has select and workflow and signal"},
	{"select and agentId", `{"taskId":"a","select":{"capability":"x"},"agentId":"y"}`, "$.tasks[0]", "a task does one thing, this one has select and agentCapability"},
	{"forEach and loop", `{"taskId":"a","agentId":"x","forEach":{"items":"input.l"},"loop":{"while":"false","max":1}}`, "$.tasks[0]", "a task has forEach or loop, not both"},
	{"forEach of nothing", `{"taskId":"a","forEach":{"items":"input.l"}}`, "$.tasks[0]", "forEach and loop repeat what a task does; this one does nothing"},
	{"a message of no item", `{"taskId":"a","approval":{"message":"${{ item }}"}}`, "$.tasks[0].approval.message", "approval.message refers to item, which is there only in"},
	{"until of no round", `{"taskId":"a","forEach":{"items":"input.l"},"wait":{"until":"output.at"}}`, "$.tasks[0].wait.until", "wait.until refers to output, which is there only in a task with loop"},
	{"a template of a name", `{"taskId":"a","signal":{"name":"paid-${{ input.id }}"}}`, "$.tasks[0].signal.name", "signal.name is no template"},
	{"fallback of a workflow", `{"taskId":"a","workflow":{"id":"w"},"onFailure":{"fallback":[{"capability":"c"}]}}`, "$.tasks[0].onFailure.fallback", "fallback names agents"},
	{"fallback of approvals", `{"taskId":"a","forEach":{"items":"input.l"},"approval":{},"onFailure":{"fallback":[{"capability":"c"}]}}`, "$.tasks[0].onFailure.fallback", "fallback names agents"},
	{"select of nothing", `{"taskId":"a","select":{"version":"1"}}`, "$.tasks[0].select", "select must have capability, agentId or sameAs"},
	{"version range", `{"taskId":"a","select":{"capability":"x","version":"newest"}}`, "$.tasks[0].select.version", `"newest" is no range of versions`},
	{"labels", `{"taskId":"a","select":{"capability":"x","labels":["y"]}}`, "$.tasks[0].select.labels", "labels must be an object, not an array"},
	{"sameAs nobody", `{"taskId":"a","select":{"sameAs":"c"}}`, "$.tasks[0].select.sameAs", `sameAs "c" names no task of this definition`},
	{"sameAs later", `{"taskId":"a","select":{"sameAs":"b"},"nextTaskId":"b"},{"taskId":"b","agentId":"x"}`, "$.tasks[0].select.sameAs", `task "b" does not come before this one`},
	{"sameAs no agent", `{"taskId":"a","wait":{"seconds":1},"nextTaskId":"b"},{"taskId":"b","select":{"sameAs":"a"}}`, "$.tasks[1].select.sameAs", `task "a" is not done by an agent`},
	{"dependsOn nobody", `{"taskId":"first"},{"taskId":"b","dependsOn":["frist"]}`, "$.tasks[1].dependsOn[0]", `dependsOn "frist" names no task of this definition (did you mean "first"?)`},
	{"dependsOn twice", `{"taskId":"a"},{"taskId":"b","dependsOn":["a","a"]}`, "$.tasks[1].dependsOn[1]", `dependsOn names "a" twice`},
	{"dependsOn itself", `{"taskId":"a","dependsOn":["a"]}`, "$.tasks[0].dependsOn[0]", "a cycle: a → a"},
	{"a cycle of all edges", `{"taskId":"a","nextTaskId":"b"},{"taskId":"b","switch":[{"taskId":"c"}]},{"taskId":"c","onFailure":{"taskId":"d"}},{"taskId":"a2"},{"taskId":"d","nextTaskId":"a"}`, "$.tasks[4].nextTaskId", "a cycle: a → b → c → d → a"},
	{"switch to nobody", `{"taskId":"a","switch":[{"taskId":"c"}]}`, "$.tasks[0].switch[0].taskId", `taskId "c" names no task`},
	{"switch without taskId", `{"taskId":"a","switch":[{"when":"true"}]}`, "$.tasks[0].switch[0].taskId", `taskId "" names no task`},
	{"a case behind always", `{"taskId":"a","switch":[{"taskId":"b"},{"when":"true","taskId":"b"}]},{"taskId":"b"}`, "$.tasks[0].switch[0]", "a case without when is always taken, so it must be the last"},
	{"a switch that is no list", `{"taskId":"a","switch":{"when":"true"}}`, "$.tasks[0].switch", "switch must be an array, not an object"},
	{"onFailure to nobody", `{"taskId":"a","onFailure":{"taskId":"c"}}`, "$.tasks[0].onFailure.taskId", `onFailure.taskId "c" names no task`},
	{"onFailure of nothing", `{"taskId":"a","onFailure":{}}`, "$.tasks[0].onFailure", "onFailure must have fallback, taskId or continue"},
	{"onFailure twice", `{"taskId":"a","onFailure":{"taskId":"b","continue":true}},{"taskId":"b"}`, "$.tasks[0].onFailure", "onFailure has taskId or continue, not both"},
	{"fallback for a wait", `{"taskId":"a","wait":{"seconds":1},"onFailure":{"fallback":[{"capability":"x"}]}}`, "$.tasks[0].onFailure.fallback", "fallback names agents, but this task is not done by one"},
	{"fallback of nothing", `{"taskId":"a","agentId":"x","onFailure":{"fallback":[{}]}}`, "$.tasks[0].onFailure.fallback[0]", "select must have capability"},
	{"continue", `{"taskId":"a","onFailure":{"continue":"yes"}}`, "$.tasks[0].onFailure.continue", `continue must be true or false, not "yes"`},
	{"join of a word", `{"taskId":"a","join":"some"}`, "$.tasks[0].join", `join must be "all", "any" or a number from 1, not "some"`},
	{"join of a fraction", `{"taskId":"a"},{"taskId":"b","dependsOn":["a"],"join":1.5}`, "$.tasks[1].join", `join must be "all", "any" or a number from 1, not 1.5`},
	{"join of none", `{"taskId":"a"},{"taskId":"b","dependsOn":["a"],"join":0}`, "$.tasks[1].join", `join must be "all", "any" or a number from 1, not 0`},
	{"join of too many", `{"taskId":"a","nextTaskId":"b"},{"taskId":"b","dependsOn":["a"],"join":2}`, "$.tasks[1].join", "join can never be met: it wants 2 of 1 edges"},
	{"join without edges", `{"taskId":"a","join":"any"}`, "$.tasks[0].join", "join can never be met: it wants 1 of 0 edges"},
	{"when of a number", `{"taskId":"a","when":"1 + 1"}`, "$.tasks[0].when", "when: the expression must be true or false, it is a number (at character 1)"},
	{"when that breaks off", `{"taskId":"a","when":"input.n >"}`, "$.tasks[0].when", "when: the expression ends too early (at character 10)"},
	{"when in braces", `{"taskId":"a","when":"${{ input.n }}"}`, "$.tasks[0].when", "when is an expression already, write it without ${{ }}:  input.n "},
	{"when is no string", `{"taskId":"a","when":true}`, "$.tasks[0].when", "when must be a string, not true"},
	{"a name that is none", `{"taskId":"a","when":"inptu.n == 1"}`, "$.tasks[0].when", "when: undeclared reference to 'inptu' (did you mean 'input'?) (at character 1)"},
	{"item outside forEach", `{"taskId":"a","agentId":"x","select":null,"when":"item.n == 1"}`, "$.tasks[0].when", "when refers to item, which is there only in"},
	{"item in its own list", `{"taskId":"a","agentId":"x","forEach":{"items":"item"}}`, "$.tasks[0].forEach.items", "forEach.items refers to item"},
	{"item in a loop", `{"taskId":"a","agentId":"x","loop":{"while":"item","max":1}}`, "$.tasks[0].loop.while", "loop.while refers to item"},
	{"index outside", `{"taskId":"a","agentId":"x","join":null,"when":"index == 1"}`, "$.tasks[0].when", "when refers to index, which is there only in a task with forEach or loop"},
	{"output outside", `{"taskId":"a","agentId":"x","when":"output.ok"}`, "$.tasks[0].when", "when refers to output, which is there only in a task with loop"},
	{"its own output", `{"taskId":"a","agentId":"x","when":"tasks.a.output"}`, "$.tasks[0].when", "when refers to the task itself"},
	{"a later task", `{"taskId":"a","agentId":"x","when":"tasks.b.output","nextTaskId":"b"},{"taskId":"b"}`, "$.tasks[0].when", `when refers to task "b", which does not come before this one: its output may not exist yet`},
	{"a task beside", `{"taskId":"a","agentId":"x","select":null,"parameters":{"p":["${{ tasks.b.state }}"]}},{"taskId":"b"}`, "$.tasks[0].parameters", `parameters refers to task "b", which does not come before this one`},
	{"a task that is none", `{"taskId":"first","nextTaskId":"b"},{"taskId":"b","agentId":"x","parameters":{"p":"${{ tasks.fist.output }}"}}`, "$.tasks[1].parameters", `parameters refers to task "fist", which is no task of this definition (did you mean "first"?)`},
	{"parameters", `{"taskId":"a","agentId":"x","parameters":{"p":["ok","${{ 1 + }}"]}}`, "$.tasks[0].parameters.p[1]", "parameters.p[1]: the expression ends too early (at character 9)"},
	{"parameters without end", `{"taskId":"a","agentId":"x","parameters":{"p":"${{ 1 "}}`, "$.tasks[0].parameters.p", "parameters.p: ${{ without }} (at character 1)"},
	{"items of a number", `{"taskId":"a","agentId":"x","forEach":{"items":"size(input.l)"}}`, "$.tasks[0].forEach.items", "forEach.items: the expression must be a list, it is a number (at character 1)"},
	{"items missing", `{"taskId":"a","agentId":"x","forEach":{}}`, "$.tasks[0].forEach.items", "forEach.items is missing"},
	{"maxParallel", `{"taskId":"a","agentId":"x","forEach":{"items":"input.l","maxParallel":1001}}`, "$.tasks[0].forEach.maxParallel", "forEach.maxParallel must be 0 to 1000"},
	{"forEach.onFailure", `{"taskId":"a","agentId":"x","forEach":{"items":"input.l","onFailure":"ignore"}}`, "$.tasks[0].forEach.onFailure", `forEach.onFailure must be fail or collect, not "ignore"`},
	{"tolerate", `{"taskId":"a","agentId":"x","forEach":{"items":"input.l","onFailure":"collect","tolerate":1}}`, "$.tasks[0].forEach.tolerate", "forEach.tolerate must be a number from 0"},
	{"a loop without end", `{"taskId":"a","agentId":"x","loop":{"while":"true"}}`, "$.tasks[0].loop.max", "loop.max must be 1 to 1000"},
	{"a loop without condition", `{"taskId":"a","agentId":"x","loop":{"max":1}}`, "$.tasks[0].loop.while", "loop.while is missing"},
	{"workflow without id", `{"taskId":"a","workflow":{}}`, "$.tasks[0].workflow.id", "id is missing"},
	{"workflow.input", `{"taskId":"a","workflow":{"id":"w","input":[1]}}`, "$.tasks[0].workflow.input", "input must be an object"},
	{"wait for nothing", `{"taskId":"a","wait":{}}`, "$.tasks[0].wait", "wait must have either seconds or until"},
	{"wait for both", `{"taskId":"a","wait":{"seconds":1,"until":"input.t"}}`, "$.tasks[0].wait", "wait must have either seconds or until"},
	{"wait for years", `{"taskId":"a","wait":{"seconds":1e9}}`, "$.tasks[0].wait.seconds", "seconds must be 0 to 31536000"},
	{"wait until true", `{"taskId":"a","wait":{"until":"1 == 1"}}`, "$.tasks[0].wait.until", "wait.until: the expression must be a timestamp or a string, it is a boolean"},
	{"signal without name", `{"taskId":"a","signal":{}}`, "$.tasks[0].signal.name", "signal.name is missing"},
	{"signal.schema", `{"taskId":"a","signal":{"name":"s","schema":{"type":"strin"}}}`, "$.tasks[0].signal.schema", "signal.schema: it is no JSON Schema: /type: "},
	{"approval.onReject", `{"taskId":"a","approval":{"onReject":"ignore"}}`, "$.tasks[0].approval.onReject", `approval.onReject must be fail or continue, not "ignore"`},
	{"approval.onTimeout", `{"taskId":"a","approval":{"onTimeout":"approve"}}`, "$.tasks[0].approval.onTimeout", "approval.onTimeout needs timeoutSeconds"},
	{"approval.message", `{"taskId":"a","approval":{"message":"${{ who }}?"}}`, "$.tasks[0].approval.message", "approval.message: undeclared reference to 'who' (at character 5)"},
	{"timeouts", `{"taskId":"a","agentId":"x","timeouts":{"queueSeconds":-1}}`, "$.tasks[0].timeouts.queueSeconds", "queueSeconds must be 0 to 31536000"},
	{"outputSchema", `{"taskId":"a","agentId":"x","outputSchema":{"$ref":"https://example.com/s"}}`, "$.tasks[0].outputSchema", "outputSchema: https://example.com/s is not part of the schema"},
	{"priority", `{"taskId":"a","agentId":"x","priority":10}`, "$.tasks[0].priority", "priority must be 0 to 9"},
	{"compensate", `{"taskId":"a","agentId":"x","compensate":{"select":{},"parameters":[]}}`, "$.tasks[0].compensate.parameters", "parameters must be an object"},
	{"compensate nobody", `{"taskId":"a","wait":{"seconds":1},"compensate":{}}`, "$.tasks[0].compensate", "compensate must say in select who undoes it"},
	{"jitter", `{"taskId":"a","agentId":"x","retry":{"jitter":"half"}}`, "$.tasks[0].retry.jitter", `retry.jitter must be full or none, not "half"`},
	{"codes", `{"taskId":"a","agentId":"x","retry":{"codes":{"busy":{"attempts":-1}}}}`, "$.tasks[0].retry.codes", `of code "busy": retry.attempts must be 0 to 1000`},
	{"codes of codes", `{"taskId":"a","agentId":"x","retry":{"codes":{"busy":{"nonRetryable":["x"]}}}}`, "$.tasks[0].retry.codes", `the retry of code "busy" must not have codes of its own`},
	{"an id like an undo's", `{"taskId":"a~undo","wait":{"seconds":1}}`, "$.tasks[0].taskId", `taskId "a~undo" looks like an item of a forEach, or like what undoes a task`},
	{"an id like an item's", `{"taskId":"a[3]","wait":{"seconds":1}}`, "$.tasks[0].taskId", `taskId "a[3]" looks like an item of a forEach`},
}

func TestEveryMistakeOfATaskIsNamed(t *testing.T) {
	t.Parallel()
	for _, c := range mistakenNodes {
		_, err := Parse(event.Raw(`{"id":"d","tasks":[` + c.tasks + `]}`))
		var got Problems
		if !errors.As(err, &got) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		found := false
		for _, p := range got {
			found = found || p.Path == c.path && strings.HasPrefix(p.Text, c.text)
		}
		if !found {
			t.Errorf("%s: got\n%v\nwant %s (%s)", c.name, got, c.text, c.path)
		}
	}
}

func TestEveryMistakeOfADefinitionIsNamed(t *testing.T) {
	t.Parallel()
	for members, want := range map[string]Problem{
		`"priority":-1`:                                 {Path: "$.priority", Text: "priority must be 0 to 9"},
		`"runTimeoutSeconds":-1`:                        {Path: "$.runTimeoutSeconds", Text: "runTimeoutSeconds must be 0 to 31536000"},
		`"inputSchema":5`:                               {Path: "$.inputSchema", Text: "inputSchema: a schema must be an object, or true or false"},
		`"output":"${{ tasks.b.output }}"`:              {Path: "$.output", Text: `output refers to task "b", which is no task of this definition`},
		`"output":{"a":"${{ item }}"}`:                  {Path: "$.output", Text: "output refers to item, which is there only in what a task with forEach is given: its parameters, workflow.input, wait.until and approval.message"},
		`"concurrency":{"max":0}`:                       {Path: "$.concurrency.max", Text: "concurrency.max must be at least 1"},
		`"concurrency":{"max":1,"key":"[1]"}`:           {Path: "$.concurrency.key", Text: "concurrency.key: the expression must be a string, a number or a boolean, it is a list (at character 1)"},
		`"concurrency":{"max":1,"key":"tasks.a.state"}`: {Path: "$.concurrency.key", Text: `concurrency.key refers to task "a", but it is looked at before the run begins`},
		`"concurrency":[]`:                              {Path: "$.concurrency", Text: "concurrency must be an object, not an array"},
	} {
		_, err := Parse(event.Raw(`{"id":"d","tasks":[{"taskId":"a","agentId":"x"}],` + members + `}`))
		var got Problems
		if !errors.As(err, &got) || len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %v, want %v", members, err, want)
		}
	}
}

func TestWhatIsRightIsTaken(t *testing.T) {
	t.Parallel()
	d, err := ParseFile([]byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ToJSON([]byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	if w := Warnings(raw); len(w) > 0 {
		t.Errorf("warnings: %v", w)
	}
	names, _ := d.Capabilities()
	if diff := cmp.Diff([]string{"mail", "slow-work", "start", "undo", "work"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestMistakesHaveTheirPlaceAndAnExcerpt(t *testing.T) {
	t.Parallel()
	source := strings.Replace(everything, "tasks.begin.output.x }}", "tasks.bgin.output.x }}", 1)
	_, err := ParseFile([]byte(source))
	var p Problems
	if !errors.As(err, &p) || len(p) != 1 {
		t.Fatal(err)
	}
	const want = `    24 |     forEach: {items: input.items, maxParallel: 4, onFailure: fail, tolerate: 1}
>   25 |     parameters: {item: "${{ item }}", place: "${{ index }}", before: "${{ tasks.bgin.output.x }}…
    26 |     onFailure: {fallback: [{capability: slow-work}, {agentId: bob}]}
`
	if diff := cmp.Diff(want, p[0].Excerpt([]byte(source))); diff != "" {
		t.Error(diff)
	}
	long := `{"id":"d","tasks":[` + tasks(1000) + `,{"taskId":"z","nextTaskId":"nobody"},{"taskId":"` + strings.Repeat("y", 100) + `"}]}`
	_, err = ParseFile([]byte(long))
	if !errors.As(err, &p) || !strings.Contains(p[len(p)-1].Excerpt([]byte(long)), `"nobody"`) || len(p[len(p)-1].Excerpt([]byte(long))) > 200 {
		t.Errorf("of one long line: %s", p[len(p)-1].Excerpt([]byte(long)))
	}
	if got := (Problem{}).Excerpt([]byte(source)); got != "" {
		t.Errorf("without a place: %s", got)
	}
}

func TestWarningsAreNoMistakes(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`{"id":"d","tasks":[{"taskId":"a","task_id":7,"retries":"many","dependOn":["b"]}],"timeout":5}`: `nobody knows "task_id", so it does nothing (did you mean "taskId"?) ($.tasks[0].task_id)
nobody knows "retries", so it does nothing ($.tasks[0].retries)
nobody knows "dependOn", so it does nothing (did you mean "dependsOn"?) ($.tasks[0].dependOn)
nobody knows "timeout", so it does nothing ($.timeout)`,
		`{"id":"d","tasks":[{"taskId":"a","retry":{"codes":{"x":{"atempts":1}}},"select":{"capability":"y","label":{}}}]}`: `nobody knows "atempts", so it does nothing (did you mean "attempts"?) ($.tasks[0].retry.codes.x.atempts)
nobody knows "label", so it does nothing (did you mean "labels"?) ($.tasks[0].select.label)`,
		`{"id":"d","tasks":[{"taskId":"a"},{"taskId":"b"}]}`: `task "b" is never reached: no nextTaskId leads to it from the first task ($.tasks[1])`,
		`{"id":"d","tasks":[{"taskId":"a","dependsOn":[],"parameters":{"x":1}},{"taskId":"b","workflow":{"id":"d"}}]}`: `nothing takes these parameters: the task has no agentCapability, agentId, select or workflow ($.tasks[0].parameters)
the workflow includes itself; it ends when a condition leaves this task out, or at 16 levels ($.tasks[1].workflow.id)`,
		`{"id":"d","tasks":[{"taskId":"a","signal":{"name":"s"},"retry":{"attempts":2},"timeoutSeconds":5},{"taskId":"b","forEach":{"items":"[1]"},"approval":{},"retry":{}},
			{"taskId":"p","dependsOn":["a"],"retry":{}},{"taskId":"w","workflow":{"id":"x"},"retry":{}},{"taskId":"e","forEach":{"items":"[1]"},"agentCapability":"c","retry":{}}]}`: `nothing is tried again here: neither an agent nor another workflow does this task ($.tasks[0].retry)
this is the time of agents, and no agent does this task; signal and approval have a timeoutSeconds of their own ($.tasks[0].timeoutSeconds)
nothing is tried again here: neither an agent nor another workflow does this task ($.tasks[1].retry)
nothing is tried again here: neither an agent nor another workflow does this task ($.tasks[2].retry)`,
		`{"id":"d","tasks":[{"taskId":"a","wait":{"seconds":1},"timeouts":{"queueSeconds":1},"outputSchema":{"anything":1}}]}`: `these are the clocks of agents, and no agent does this task ($.tasks[0].timeouts)`,
	} {
		if _, err := Parse(event.Raw(source)); err != nil {
			t.Errorf("%s: %v", source, err)
		}
		if diff := cmp.Diff(want, Warnings(event.Raw(source)).Error()); diff != "" {
			t.Errorf("%s: %s", source, diff)
		}
	}
}

// Those who use the old API know no templates: what they write is taken as before.
func TestTheOldKindIsAsLenientAsItWas(t *testing.T) {
	t.Parallel()
	for _, source := range []string{
		`{"id":"d","tasks":[{"taskId":"a","parameters":{"p":"${{ whatever"}}]}`,
		`{"id":"d","tasks":[{"taskId":"a[0]"}],"output":"${{ 1 + }}","inputSchema":5,"priority":77}`,
	} {
		if _, err := parse(event.Raw(source), true); err != nil {
			t.Errorf("%s: %v", source, err)
		}
		if _, err := parse(event.Raw(source), false); err == nil {
			t.Errorf("%s is taken by the new API", source)
		}
	}
}

// Whether a task comes before another is what a walk over the links says.
func TestAncestorsAreThoseThatLinksLeadFrom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 80).Draw(t, "tasks")
		def := &Definition{ID: "d"}
		names := ids(n)
		order := rapid.Permutation(names).Draw(t, "order")
		place := make(map[string]int, n)
		for i, name := range order {
			place[name] = i
		}
		into := make([][]int, n)
		for i := range n {
			task := Task{TaskID: names[i]}
			for range rapid.IntRange(0, 3).Draw(t, "links") {
				if j := rapid.IntRange(0, n-1).Draw(t, "to"); place[names[j]] < place[names[i]] {
					task.DependsOn = append(task.DependsOn, names[j])
					into[i] = append(into[i], j)
				}
			}
			def.Tasks = append(def.Tasks, task)
		}
		c := &checker{d: def, index: make(map[string]int)}
		for i, name := range names {
			c.index[name] = i
		}
		c.drawLinks()
		c.cycles()
		if len(c.found) > 0 {
			t.Fatalf("mistakes: %v", c.found)
		}
		i := rapid.IntRange(0, n-1).Draw(t, "task")
		want := make(map[int]bool)
		for queue := into[i]; len(queue) > 0; queue = queue[1:] {
			if !want[queue[0]] {
				want[queue[0]] = true
				queue = append(queue, into[queue[0]]...)
			}
		}
		for j := range n {
			if got := c.before(j, i); got != want[j] {
				t.Fatalf("task %s before %s: %v", names[j], names[i], got)
			}
		}
	})
}

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"dependOn": "dependsOn", "nexttaskid": "nextTaskId", "foreach": "forEach", "onFail": "", "x": "", "taskId": "", "": "",
	} {
		got := didYouMean(word, []string{"dependsOn", "nextTaskId", "forEach", "onFailure", "taskId"})
		if want != "" {
			want = fmt.Sprintf(" (did you mean %q?)", want)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
