package workflow

import (
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// scene is a graph for the stage: every kind of task that docs/workflows.md names, and beside each what must become of it.
type scene struct {
	*plot
	input   map[string]any     // of the run
	signals map[string]bool    // by task: whether somebody sends it
	words   map[string]string  // by approval: what a person says, empty for nothing
	outputs map[string]any     // by task, where it follows from the definition: what it brings when it completes
	inner   int                // how many inner workflows go on at the same time
	failing map[string][]bool  // by forEach: which of its items fail
	seats   map[string]int     // by agent: slots
	risks   map[string]float64 // by mishap: how likely it is
	acts    []act              // how the run is let go on again when it has ended
	drawn   map[string]deed    // by task that people have given another input: what would become of it without that
}

// innerDefinition is the workflow that runs inside of others, at most so many times at the same time.
const innerDefinition = `{"id":"inner","concurrency":{"max":%d},"output":{"n":"${{ tasks.b.output.n }}"},"tasks":[
	{"taskId":"a","agentCapability":"c","parameters":{"as":"good","n":1},"retry":{"attempts":50,"initialSeconds":0.1,"maxSeconds":0.2},"timeoutSeconds":3},
	{"taskId":"b","agentCapability":"c","dependsOn":["a"],"parameters":{"as":"${{ input.as }}","n":"${{ input.n }}"},
		"retry":{"attempts":50,"initialSeconds":0.1,"maxSeconds":0.2,"nonRetryable":["final"]},"timeoutSeconds":3}]}`

// How an agent does a task, as its parameters say: whatever mishaps delay it, what comes of it in the end is certain.
const (
	asGood  = "good"  // it completes
	asFlaky = "flaky" // it fails, and completes when it is tried again
	asBad   = "bad"   // it fails each time; it has few retries
	asFinal = "final" // it fails for good
)

var patient = &Retry{Attempts: ptr(50), InitialSeconds: 0.1, MaxSeconds: 0.2, NonRetryable: []string{asFinal}}

func ptr[T any](v T) *T { return &v }

// scenes draws what is played on the stage.
func scenes() *rapid.Generator[*scene] {
	return rapid.Custom(func(t *rapid.T) *scene {
		p := &plot{
			values: make(map[string]int), when: make(map[string]premise), cases: make(map[string][]int), bodies: make(map[string]bool),
			bound: make(map[string]string), alone: make(map[string]bool),
		}
		s := &scene{
			plot: p, input: make(map[string]any), signals: make(map[string]bool), words: make(map[string]string),
			outputs: make(map[string]any), failing: make(map[string][]bool), seats: make(map[string]int), risks: make(map[string]float64),
			drawn: make(map[string]deed),
		}
		s.inner = rapid.IntRange(1, 4).Draw(t, "inner ones")
		def := &Definition{ID: "def"}
		order := ids(rapid.IntRange(2, 7).Draw(t, "tasks"))
		for i, id := range order {
			task := Task{TaskID: id, AgentCapability: "c"}
			p.values[id] = rapid.IntRange(0, 3).Draw(t, "value")
			p.ways(t, &task, order[:i], order[i+1:])
			s.body(t, &task)
			def.Tasks = append(def.Tasks, task)
		}
		p.bindings(t, def.Tasks)
		if rapid.IntRange(0, 7).Draw(t, "large") == 0 {
			for i := range inlineTasks {
				def.Tasks = append(def.Tasks, Task{TaskID: fmt.Sprint("f", i)})
			}
		}
		def.Tasks = rapid.Permutation(def.Tasks).Draw(t, "places")
		def.Tasks[0].DependsOn = append([]string{}, def.Tasks[0].DependsOn...)
		p.premises(t, def)
		if rapid.IntRange(0, 2).Draw(t, "limited") == 0 {
			def.Concurrency = &Concurrency{Max: 1}
		}
		parsed, err := Parse(event.MustMarshal(def))
		if err != nil {
			panic(fmt.Sprintf("%v: %s", err, event.MustMarshal(def)))
		}
		p.def = parsed
		for _, agent := range []string{"ann", "bob", "cid"} {
			s.seats[agent] = rapid.IntRange(1, 3).Draw(t, "slots")
		}
		for _, mishap := range mishaps {
			s.risks[mishap] = rapid.SampledFrom([]float64{0, 0, 0.05, 0.2}).Draw(t, mishap)
		}
		s.again(t, order)
		return s
	})
}

// body draws what a task does.
func (s *scene) body(t *rapid.T, task *Task) {
	id := task.TaskID
	if s.cases[id] != nil { // its cases are about what an agent brings
		s.agentBody(t, task)
		return
	}
	switch rapid.IntRange(0, 11).Draw(t, "body") {
	default:
		s.agentBody(t, task)
		return
	case 0:
		task.AgentCapability = ""
		if task.OnFailure != nil { // nothing fails there
			task.OnFailure = nil
		}
		return
	case 1, 2:
		s.eachBody(t, task)
	case 3:
		s.loopBody(t, task)
	case 4, 5:
		task.AgentCapability = ""
		as := rapid.SampledFrom([]string{asGood, asGood, asFinal}).Draw(t, "inner as")
		task.Workflow = &SubWorkflow{ID: "inner", Input: event.Raw(fmt.Sprintf(`{"as":%q,"n":%d}`, as, s.values[id]))}
		s.bodies[id] = as == asGood
		s.outputs[id] = map[string]any{"n": s.values[id]}
	case 6:
		task.AgentCapability = ""
		task.Wait = &Wait{Seconds: rapid.Float64Range(0.1, 4).Draw(t, "seconds")}
		s.bodies[id] = true
	case 7:
		task.AgentCapability = ""
		task.Signal = &Signal{Name: "sig-" + id}
		s.signals[id] = rapid.IntRange(0, 2).Draw(t, "sent") > 0
		if s.bodies[id] = s.signals[id]; !s.bodies[id] {
			task.Signal.TimeoutSeconds = 3
		}
		s.outputs[id] = map[string]any{"for": id}
	case 8:
		s.approvalBody(t, task)
	}
	if task.OnFailure != nil {
		task.OnFailure.Fallback = nil
		if task.OnFailure.TaskID == "" && !task.OnFailure.Continue {
			task.OnFailure = nil
		}
	}
}

// agentBody draws how an agent does a task, the agents that are tried after it, and how it is undone.
func (s *scene) agentBody(t *rapid.T, task *Task) {
	id := task.TaskID
	as := rapid.SampledFrom([]string{asGood, asGood, asGood, asFlaky, asBad, asFinal}).Draw(t, "as")
	spare := rapid.SampledFrom([]string{asGood, asFinal}).Draw(t, "spare as")
	pad := big(rapid.SampledFrom([]int{0, 2 * inlineOutput}).Draw(t, "pad"))
	task.Parameters = event.Raw(fmt.Sprintf(`{"as":%q,"spare":%q,"n":%d,"pad":%s}`, as, spare, s.values[id], pad))
	task.Retry, task.TimeoutSeconds = patient, rapid.Float64Range(2, 4).Draw(t, "timeout")
	if as == asBad {
		retries := *patient // with what mishaps bring
		retries.Codes = map[string]Retry{asBad: {Attempts: ptr(rapid.IntRange(0, 2).Draw(t, "retries"))}}
		task.Retry = &retries
	}
	s.bodies[id] = as == asGood || as == asFlaky
	if task.OnFailure != nil && len(task.OnFailure.Fallback) > 0 {
		s.alone[id] = spare == asGood
		s.bodies[id] = s.bodies[id] || s.alone[id]
	}
	s.outputs[id] = map[string]any{"n": s.values[id]}
	if rapid.Bool().Draw(t, "picky") {
		task.AgentCapability = ""
		task.Select = &Select{Capability: "c", Version: ">=1", Labels: map[string]string{"pool": "a"}, Spread: rapid.Bool().Draw(t, "spread")}
		task.Priority = ptr(rapid.IntRange(MinPriority, MaxPriority).Draw(t, "priority"))
	}
	if rapid.IntRange(0, 3).Draw(t, "compensate") == 0 {
		undo := rapid.SampledFrom([]string{asGood, asGood, asFinal}).Draw(t, "undo as")
		task.Compensate = &Compensate{Parameters: event.Raw(fmt.Sprintf(`{"as":%q,"n":"${{ tasks.%s.output.n }}"}`, undo, id))}
		if rapid.Bool().Draw(t, "undone by others") {
			task.Compensate.Select = Select{Capability: "undo"}
		}
		s.bodies[id+undoSuffix] = undo == asGood
	}
}

// eachBody draws a task that is done for each item of a list of the input.
func (s *scene) eachBody(t *rapid.T, task *Task) {
	id := task.TaskID
	var items, brings []any
	fails := 0
	for n := range rapid.IntRange(0, 8).Draw(t, "items") {
		as := rapid.SampledFrom([]string{asGood, asGood, asGood, asFlaky, asFinal}).Draw(t, "item as")
		items = append(items, map[string]any{"as": as, "n": n})
		bad := as == asFinal
		s.failing[id] = append(s.failing[id], bad)
		if bad {
			fails++
			brings = append(brings, nil)
		} else {
			brings = append(brings, map[string]any{"n": n})
		}
	}
	s.input[id] = items
	if items == nil {
		s.input[id] = []any{}
	}
	input := event.Raw(`{"as":"${{ item.as }}","n":"${{ item.n }}"}`)
	if rapid.IntRange(0, 2).Draw(t, "inner") == 0 {
		task.AgentCapability, task.Workflow = "", &SubWorkflow{ID: "inner", Input: input}
	} else {
		task.Parameters, task.Retry, task.TimeoutSeconds = input, patient, 3
	}
	task.ForEach = &ForEach{Items: "input." + id, MaxParallel: rapid.IntRange(0, 4).Draw(t, "parallel")}
	tolerated := 0
	switch rapid.IntRange(0, 2).Draw(t, "policy") {
	case 0:
		task.ForEach.OnFailure, tolerated = "collect", len(items)
	case 1:
		task.ForEach.Tolerate = rapid.IntRange(1, 3).Draw(t, "tolerate")
		tolerated = task.ForEach.Tolerate
	}
	s.bodies[id], s.alone[id] = fails <= tolerated, len(items) <= tolerated
	s.outputs[id] = brings
}

// loopBody draws a task that is done until it has counted far enough.
func (s *scene) loopBody(t *rapid.T, task *Task) {
	id := task.TaskID
	last, most := rapid.IntRange(0, 4).Draw(t, "counts to"), rapid.IntRange(1, 5).Draw(t, "at most")
	task.Parameters = event.Raw(`{"as":"good","n":"${{ index }}"}`)
	task.Retry, task.TimeoutSeconds = patient, 3
	task.Loop = &Loop{While: fmt.Sprintf("output.n < %d", last), Max: most}
	s.bodies[id] = last < most
	s.outputs[id], s.values[id] = map[string]any{"n": last}, last
}

// approvalBody draws a question and its answer.
func (s *scene) approvalBody(t *rapid.T, task *Task) {
	task.AgentCapability = ""
	a := &Approval{OnReject: rapid.SampledFrom([]string{"", "continue"}).Draw(t, "on reject")}
	word := rapid.SampledFrom([]string{wordApprove, wordApprove, wordReject, ""}).Draw(t, "word")
	s.words[task.TaskID] = word
	if word == "" {
		a.TimeoutSeconds = 2
		a.OnTimeout = rapid.SampledFrom([]string{"", wordApprove, wordReject}).Draw(t, "on timeout")
		word = a.OnTimeout
	}
	task.Approval = a
	s.bodies[task.TaskID] = word == wordApprove || word == wordReject && a.OnReject == "continue"
}

// premises adds conditions about tasks that are certain to have ended.
func (p *plot) premises(t *rapid.T, def *Definition) {
	for i := range def.Tasks {
		task := &def.Tasks[i]
		edges := 0
		for j := range def.Tasks {
			if is, _, _ := p.edge(&def.Tasks[j], task, nil); is {
				edges++
			}
		}
		if string(task.Join) > fmt.Sprint(edges) || edges == 0 {
			task.Join = nil // Check refuses what can never be met
		}
		if sure := len(task.DependsOn) > 0 && (task.Join == nil || string(task.Join) == `"all"`); sure && rapid.IntRange(0, 2).Draw(t, "when") == 0 {
			c := premise{task: task.DependsOn[0], more: rapid.IntRange(0, 3).Draw(t, "more than"), safe: rapid.Bool().Draw(t, "safe")}
			if !p.brings(&def.Tasks[slices.IndexFunc(def.Tasks, func(t Task) bool { return t.TaskID == c.task })]) {
				c.safe = false
			}
			p.when[task.TaskID] = c
			task.When = c.source()
		}
	}
}

// bindings lets tasks be done by the agents that have done others, which are certain to have ended before, or makes those agents their first fallback. Each of
// the tasks comes after those before it.
func (p *plot) bindings(t *rapid.T, tasks []Task) {
	var others []string // done by agents
	for i := range tasks {
		task := &tasks[i]
		if task.AgentCapability == "" && task.Select == nil {
			continue
		}
		bound, sure := rapid.IntRange(0, 5).Draw(t, "bound"), task.Join == nil || string(task.Join) == `"all"`
		if sure && bound < 4 && len(others) > 0 {
			other := rapid.SampledFrom(others).Draw(t, "same as")
			if !slices.Contains(task.DependsOn, other) {
				task.DependsOn = append(task.DependsOn, other)
			}
			if bound < 3 {
				task.AgentCapability, task.Select = "", &Select{SameAs: other}
				p.bound[task.TaskID] = other
			} else if task.OnFailure != nil && len(task.OnFailure.Fallback) > 0 { // it does no better than the agents before
				task.OnFailure.Fallback = append([]Select{{SameAs: other}}, task.OnFailure.Fallback...)
			}
		}
		if task.ForEach == nil && task.Loop == nil {
			others = append(others, task.TaskID)
		}
	}
}
