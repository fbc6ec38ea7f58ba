package workflow

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// library holds the documents that runs have besides their own.
type library map[storage.Key]event.Raw

// decide decides an input, with what it needs, and keeps the documents that follow.
func (s library) decide(def *Definition, run *Run, in Input, at At) Decision {
	d := Decide(def, run, in, at)
	for round := 1; len(d.Need) > 0; round++ {
		if at.Last {
			panic(fmt.Sprintf("%v is needed although nothing more is loaded", d.Need))
		}
		if at.Data == nil {
			at.Data = make(map[storage.Key]event.Raw)
		}
		for _, k := range d.Need {
			at.Data[k] = s[k]
		}
		at.Last = round == maxRounds
		d = Decide(def, run, in, at)
	}
	if d.Run == nil {
		return d
	}
	if start, ok := in.(*Start); ok && d.Run.BigInput {
		s[runInputKey(d.Run.ID)] = start.Event.Input
	}
	for _, o := range d.Big {
		s[outputKey(d.Run.ID, o.TaskID, o.Attempt)] = o.Data
	}
	if d.Result != nil {
		s[runResultKey(d.Run.ID)] = d.Result
	}
	for i := range d.Moved {
		s[runTaskKey(d.Run.ID, d.Moved[i].ID)] = event.MustMarshal(&d.Moved[i])
	}
	return d
}

// given returns what a task is given when its agent is asked.
func (s *story) given(id string) string {
	s.t.Helper()
	d := &decider{def: s.def, run: s.run, at: At{Data: s.docs}}
	in, err := d.taskInput(s.def.Find(id))
	if err != nil {
		s.t.Fatalf("input of %s: %v, needs %v", id, err, d.out.Need)
	}
	return string(in)
}

// yields lets an agent complete a task with an output.
func (s *story) yields(id, output string) Decision {
	s.t.Helper()
	return s.put(completed(s.assign(id), output))
}

func big(n int) string { return `"` + strings.Repeat("x", n) + `"` }

func TestTasksAreGivenWhatOthersBrought(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"small": 10, "large": inlineOutput} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			input := `{"q":` + big(n) + `}`
			s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},
				{"taskId":"b","agentCapability":"c","dependsOn":["a"],"parameters":{"q":"${{ input.q }}","a":"${{ tasks.a.output.text }}","by":"by ${{ tasks.a.agentId }}"}},
				{"taskId":"z","agentCapability":"c","dependsOn":["b"]}],
				"output":{"last":"${{ tasks.z.output }}","first":"${{ tasks.a.output.text }}"}}`, &event.RunStart{Input: event.Raw(input)})
			if got := s.given("a"); got != input {
				t.Errorf("a is given %s", got)
			}
			s.yields("a", `{"text":`+big(n)+`}`)
			want := `{"q":` + big(n) + `,"a":` + big(n) + `,"by":"by ann"}`
			if got := s.given("b"); got != want {
				t.Errorf("b is given %s, want %s", got, want)
			}
			if got := string(s.last.Inputs["b"]); got != want {
				t.Errorf("when b was reached it was to be given %s", got)
			}
			s.yields("b", `1`)
			if got := s.given("z"); got != `{}` {
				t.Errorf("z is given %s", got)
			}
			s.yields("z", `7`)
			output := s.run.Output
			if s.run.BigOutput {
				output = s.docs[runResultKey(runID)]
			}
			if want := `{"last":7,"first":` + big(n) + `}`; s.run.State != event.RunCompleted || string(output) != want {
				t.Errorf("the run is %s: %s with output %s", s.run.State, event.MustMarshal(s.run.Error), output)
			}
		})
	}
}

func TestAConditionSkipsATaskAndWhatFollows(t *testing.T) {
	t.Parallel()
	for score, want := range map[string]string{
		`9`: "a:completed b:ready c:pending d:skipped",
		`1`: "a:completed b:skipped c:skipped d:skipped",
	} {
		s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"b","agentCapability":"c","dependsOn":["a"],"when":"tasks.a.output > 5"},
			{"taskId":"c","agentCapability":"c","dependsOn":["b"]},{"taskId":"d","agentCapability":"c","when":"input.never"}]}`,
			&event.RunStart{Input: event.Raw(`{"never":false}`)})
		s.yields("a", score)
		s.want(want)
	}
}

func TestASwitchTakesTheFirstCaseThatHolds(t *testing.T) {
	t.Parallel()
	const tasks = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","switch":[
			{"when":"tasks.a.output == 'x'","taskId":"x"},{"when":"tasks.a.output in ['x','y']","taskId":"y"}%s]},
		{"taskId":"x","agentCapability":"c"},{"taskId":"y","agentCapability":"c"},{"taskId":"other","agentCapability":"c"},
		{"taskId":"z","agentCapability":"c","dependsOn":["x","y","other"]}]}`
	for output, want := range map[string]string{
		`"x"`: "a:completed x:ready y:skipped other:skipped z:pending",
		`"y"`: "a:completed x:skipped y:ready other:skipped z:pending",
		`"n"`: "a:completed x:skipped y:skipped other:ready z:pending",
	} {
		s := tell(t, fmt.Sprintf(tasks, `,{"taskId":"other"}`), &event.RunStart{})
		s.yields("a", output)
		s.want(want)
	}
	s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","switch":[{"when":"tasks.a.output == 1","taskId":"x"}]},{"taskId":"x","agentCapability":"c"}]}`,
		&event.RunStart{})
	s.yields("a", `2`)
	if s.want("a:completed x:skipped"); s.run.State != event.RunCompleted {
		t.Errorf("the run is %s", s.run.State)
	}
}

func TestAnExpressionWithoutValueFailsItsTask(t *testing.T) {
	t.Parallel()
	for name, task := range map[string]string{
		"when":       `"when":"tasks.a.output.n > 1"`,
		"parameters": `"parameters":{"n":"${{ tasks.a.output.n + 1 }}"}`,
		"too large":  `"parameters":{"a":"${{ tasks.a.output.x }}","b":"${{ tasks.a.output.x }}"}`,
	} {
		for _, onFailure := range []string{"", `,"onFailure":{"taskId":"mend"}`} {
			s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},
				{"taskId":"b","agentCapability":"c","dependsOn":["a"],`+task+onFailure+`},{"taskId":"mend","agentCapability":"c","dependsOn":["b"]}]}`, &event.RunStart{})
			s.yields("a", `{"x":`+big(event.MaxBody/2)+`}`)
			b, code := s.task("b"), "expression_error"
			if name == "too large" {
				code = "too_large"
			}
			if b.State != event.TaskFailed || b.Error.Code != code || b.Tries != 0 || b.Attempt != 0 {
				t.Errorf("%s: b is %s", name, event.MustMarshal(b))
			}
			if onFailure == "" && s.run.State != event.RunFailed {
				t.Errorf("%s: the run is %s", name, s.run.State)
			}
			if onFailure != "" && s.task("mend").State != event.TaskReady {
				t.Errorf("%s: mend is %s", name, s.task("mend").State)
			}
		}
	}
}

func TestWhatWasMovedOutCanStillBeReferredTo(t *testing.T) {
	t.Parallel()
	const n = inlineTasks + 50
	def := chain(n)
	def.Tasks[n-1].Parameters = event.Raw(`{"first":"${{ tasks.t1.output }}","large":"${{ tasks.t2.output }}","by":"${{ tasks.t3.agentId }}"}`)
	def.Output = event.Raw(`"${{ tasks.t1.output }} ${{ tasks.t150.state }}"`)
	def, err := Parse(event.MustMarshal(def))
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, def: def, now: noon}
	s.put(&Start{Event: &event.RunStart{RunID: runID}, Workflow: "chain", DefVersion: "v1", Hash: "h"})
	large := big(2 * inlineOutput)
	for i := range n - 1 {
		s.yields(fmt.Sprint("t", i+1), cmp.Or(map[int]string{0: `"one"`, 1: large}[i], `1`))
	}
	if got, want := s.given("t150"), `{"first":"one","large":`+large+`,"by":"ann"}`; got != want {
		t.Errorf("the last task is given %s", got)
	}
	s.yields("t150", `1`)
	if got := string(s.run.Output); got != `"one completed"` {
		t.Errorf("the run is %s with output %s: %v", s.run.State, got, s.run.Error)
	}
}

// In a sequence the input of the run replaces the parameters of the first task, as it always did. Expressions in them are no accident: they win, except in a
// run that comes from those who know none.
func TestTheFirstTaskOfASequence(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, parameters, input string
		legacy                  bool
		want                    string
	}{
		{"input", `{"a":1}`, `{"n":7}`, false, `{"n":7}`},
		{"no input", `{"a":1}`, `{}`, false, `{"a":1}`},
		{"no parameters", `{}`, `{"n":7}`, false, `{"n":7}`},
		{"expressions", `{"a":1,"n":"${{ input.n }}"}`, `{"n":7}`, false, `{"a":1,"n":7}`},
		{"expressions that ask for no input", `{"by":"${{ run.id }}"}`, `{"n":7}`, false, `{"by":"` + runID + `"}`},
		{"braces of another language", `{"a":"{{ n }}"}`, `{"n":7}`, false, `{"n":7}`},
		{"what only looks like an expression", `{"a":"$${{ n }}"}`, `{"n":7}`, false, `{"n":7}`},
		{"old, input", `{"n":"${{ input.n }}"}`, `{"n":7}`, true, `{"n":7}`},
		{"old, no input", `{"n":"${{ input.n }}"}`, `{}`, true, `{"n":"${{ input.n }}"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","parameters":`+tt.parameters+`,"nextTaskId":"b"},{"taskId":"b","agentCapability":"c"}]}`,
				&event.RunStart{Input: event.Raw(tt.input), Legacy: tt.legacy})
			if got := s.given("a"); got != tt.want {
				t.Errorf("it is given %s, want %s", got, tt.want)
			}
		})
	}
	s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","parameters":{"n":"${{ input.n }}"}}]}`, &event.RunStart{Input: event.Raw(`{"m":7}`)})
	if s.run.State != event.RunFailed || s.run.Error.Code != "expression_error" {
		t.Errorf("without the value that it asks for the run is %s: %v", s.run.State, s.run.Error)
	}
}
