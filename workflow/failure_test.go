package workflow

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

func (s *story) fails(id, code string) Decision {
	s.t.Helper()
	return s.put(failed(s.assign(id), &event.TaskError{Code: code, Message: code}))
}

// looks lets the time of a task's timer come, and looks.
func (s *story) looks(id string) Decision {
	s.t.Helper()
	s.now = s.task(id).Look
	return s.put(&Tick{TaskID: id, Intake: s.now})
}

func TestRetriesFollowTheCodeOfTheFailure(t *testing.T) {
	t.Parallel()
	const definition = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","retry":{"attempts":2,"initialSeconds":10,"jitter":"none","nonRetryable":["bad_input"],
		"codes":{"rate_limited":{"attempts":5,"initialSeconds":60,"maxSeconds":60},"fickle":{"jitter":"full"}}}}]}`
	for _, c := range []struct {
		codes string
		waits []time.Duration
		ended bool
	}{
		{"broke broke broke", seconds(10, 20), true},
		{"rate_limited broke broke", seconds(60, 20), true},
		{"rate_limited rate_limited rate_limited rate_limited rate_limited rate_limited", seconds(60, 60, 60, 60, 60), true},
		{"fickle", seconds(5), false}, // the story's chance is a half
		{"bad_input", nil, true},
		{"broke bad_input", seconds(10), true},
	} {
		s := tell(t, definition, &event.RunStart{})
		var waits []time.Duration
		for code := range strings.FieldsSeq(c.codes) {
			if s.run.State.Final() {
				t.Fatalf("%s: the run has failed before", c.codes)
			}
			s.fails("a", code)
			if a := s.task("a"); a.State == event.TaskRetrying {
				waits = append(waits, a.Retry.Sub(s.now))
				s.looks("a")
			}
		}
		if !slices.Equal(waits, c.waits) || s.run.State.Final() != c.ended {
			t.Errorf("%s: waits of %v, want %v; the run is %s", c.codes, waits, c.waits, s.run.State)
		}
	}
}

func TestFallbacksAreTriedInOrderAndHandedTheLastError(t *testing.T) {
	t.Parallel()
	s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","retry":{"attempts":1},
		"onFailure":{"fallback":[{"capability":"spare"},{"agentId":"zoe"}],"taskId":"mend"}},{"taskId":"mend","agentCapability":"m"}]}`, &event.RunStart{})
	for i, class := range []string{"c:c", "c:spare", "a:zoe"} {
		a := s.task("a")
		if a.Class != class || a.Tries != 0 || i > 0 && a.Error.Code != fmt.Sprint("second-", i-1) {
			t.Fatalf("fallback %d: %s", i, event.MustMarshal(a))
		}
		s.fails("a", fmt.Sprint("first-", i))
		s.looks("a")
		if a := s.task("a"); a.Class != class || a.Error.Code != fmt.Sprint("first-", i) {
			t.Fatalf("the retry of fallback %d: %s", i, event.MustMarshal(a))
		}
		s.fails("a", fmt.Sprint("second-", i))
	}
	s.want("a:failed mend:ready")
	if a := s.task("a"); a.Attempt != 6 || s.def.Find("a").capability(1) != "spare" || s.def.Find("a").capability(2) != "" {
		t.Errorf("%s", event.MustMarshal(a))
	}
}

func TestATaskGoesToTheAgentOfAnother(t *testing.T) {
	t.Parallel()
	const tasks = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","when":"input.a"},{"taskId":"b","select":{"sameAs":"a"},"dependsOn":["a"],"join":%s}]}`
	s := tell(t, fmt.Sprintf(tasks, `"all"`), &event.RunStart{Input: event.Raw(`{"a":true}`)})
	s.does("a")
	if b := s.task("b"); b.Class != "b:ann" {
		t.Errorf("b waits in class %s", b.Class)
	}
}

// What is for the agent of a task that no agent has done goes to the next fallback, wherever it stands in the row; without one it has failed.
func TestATaskForTheAgentOfATaskThatNobodyHasDone(t *testing.T) {
	t.Parallel()
	const source = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","when":"input.a"},{"taskId":"b","agentCapability":"c"},
		{"taskId":"j","join":"any","dependsOn":["a","b"],"retry":{"attempts":0},%s}]}`
	for _, tt := range []struct{ name, task, class string }{
		{"it fails", `"select":{"sameAs":"a"}`, ""},
		{"its fallback", `"select":{"sameAs":"a"},"onFailure":{"fallback":[{"capability":"spare"}]}`, "c:spare"},
		{"as a fallback", `"agentCapability":"c","onFailure":{"fallback":[{"sameAs":"a"}]}`, ""},
		{"as a fallback, and the next", `"agentCapability":"c","onFailure":{"fallback":[{"sameAs":"a"},{"sameAs":"a"},{"capability":"spare"}]}`, "c:spare"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := tell(t, fmt.Sprintf(source, tt.task), &event.RunStart{Input: event.Raw(`{"a":false}`)})
			s.does("b")
			if j := s.task("j"); j.Class == "c:c" {
				s.fails("j", "broke")
			}
			switch j := s.task("j"); {
			case tt.class != "" && (j.State != event.TaskReady || j.Class != tt.class):
				t.Errorf("it is %s", event.MustMarshal(j))
			case tt.class == "" && (j.State != event.TaskFailed || j.Error.Code != "invalid" || s.run.State != event.RunFailed):
				t.Errorf("the run is %s", event.MustMarshal(s.run))
			}
		})
	}
}

const saga = `{"id":"d","retry":{"attempts":0},"tasks":[
	{"taskId":"a","agentCapability":"c","compensate":{"select":{"capability":"undo"},"parameters":{"was":"${{ tasks.a.output }}"}}},
	{"taskId":"b","agentCapability":"c","dependsOn":["a"]},
	{"taskId":"c","agentCapability":"c","dependsOn":["b"],"compensate":{}},
	{"taskId":"d","agentCapability":"c","dependsOn":["c"]},{"taskId":"e","agentCapability":"c","dependsOn":["c"],"compensate":{}}]}`

func TestWhatWasDoneIsUndoneTheLatestFirst(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"failed", "cancelled"} {
		s := tell(t, saga, &event.RunStart{})
		s.yields("a", big(inlineOutput))
		s.does("b", "c")
		s.assign("e")
		if how == "failed" {
			s.fails("d", "broke")
		} else {
			s.put(&Cancel{Reason: "enough"})
		}
		if s.run.State != event.RunRunning || s.task("e").State != event.TaskCancelled || s.task("c~undo").Class != "b:ann" || s.run.Find("a~undo") != nil {
			t.Fatalf("%s: %s", how, event.MustMarshal(s.run))
		}
		cancel := s.put(&Cancel{})
		if cancel.Run != nil || (cancel.Refuse != nil) != (how == "failed") {
			t.Errorf("%s: a run that undoes was cancelled: %v, %v", how, cancel.Run, cancel.Refuse)
		}
		s.does("c~undo")
		if got := s.given("a~undo"); s.task("a~undo").Class != "c:undo" || got != `{"was":`+big(inlineOutput)+`}` {
			t.Fatalf("%s: to undo a %s, given %s", how, event.MustMarshal(s.task("a~undo")), got)
		}
		s.does("a~undo")
		if string(s.run.State) != how || s.run.Error.Details != nil || s.run.Completed != 3 {
			t.Errorf("%s", event.MustMarshal(s.run))
		}
	}
}

func TestWhatCannotBeUndoneIsNamedAndTheRestIsUndone(t *testing.T) {
	t.Parallel()
	s := tell(t, saga, &event.RunStart{})
	s.does("a", "b", "c")
	s.fails("d", "broke")
	s.fails("c~undo", "stuck")
	s.does("a~undo")
	want := `{"count":1,"notUndone":[{"taskId":"c","code":"stuck","message":"stuck"}]}`
	if s.run.State != event.RunFailed || s.run.Error.Code != "broke" || string(s.run.Error.Details) != want {
		t.Errorf("the run is %s: %s", s.run.State, event.MustMarshal(s.run.Error))
	}
}

func TestNothingIsUndoneOfARunThatCompletes(t *testing.T) {
	t.Parallel()
	s := tell(t, saga, &event.RunStart{})
	s.does("a", "b", "c", "d", "e")
	if s.run.State != event.RunCompleted || len(s.run.Tasks) != 5 {
		t.Errorf("%s", event.MustMarshal(s.run))
	}
	s = tell(t, saga, &event.RunStart{})
	s.fails("a", "broke")
	if s.run.State != event.RunFailed {
		t.Errorf("the run is %s although there is nothing to undo", s.run.State)
	}
}

func timed(t *testing.T, timeouts string) *story {
	t.Helper()
	return tell(t, `{"id":"d","retry":{"attempts":0},"tasks":[{"taskId":"a","agentCapability":"c","timeouts":`+timeouts+`,
		"onFailure":{"fallback":[{"agentId":"zoe"}]}}]}`, &event.RunStart{})
}

func TestATaskWaitsForAnAgentOnlySoLong(t *testing.T) {
	t.Parallel()
	s := timed(t, `{"queueSeconds":30}`)
	until := noon.Add(30 * time.Second)
	for range 5 { // refusals do not set the clock back
		s.now = s.now.Add(5 * time.Second)
		s.put(&Refused{Ref: s.assign("a")})
	}
	if a := s.task("a"); !a.Look.Equal(until) || a.State != event.TaskReady {
		t.Fatalf("its timer is %s: %s", a.Look, event.MustMarshal(a))
	}
	s.now = until
	s.put(&Tick{TaskID: "a", Intake: noon}) // what it said may wait in the stream
	if a := s.task("a"); a.State != event.TaskReady || a.Fallback != 0 || !a.Look.After(until) {
		t.Fatalf("while intake is behind: %s", event.MustMarshal(a))
	}
	s.looks("a")
	if a := s.task("a"); a.Fallback != 1 || a.Class != "a:zoe" || a.Error.Code != "queue_timeout" || !a.Look.Equal(s.now.Add(30*time.Second)) {
		t.Fatalf("after its time: %s", event.MustMarshal(a))
	}
	s.put(&Said{Agent: "ann", Event: &event.Accepted{AttemptRef: s.assign("a")}})
	if a := s.task("a"); !a.QueueBy.IsZero() || !a.Look.Equal(a.Lease) {
		t.Fatalf("once accepted: %s", event.MustMarshal(a))
	}
}

func TestAnAgentHasOnlySoLongToAccept(t *testing.T) {
	t.Parallel()
	for _, seconds := range []float64{0.5, 20} {
		s := timed(t, fmt.Sprintf(`{"acceptSeconds":%v}`, seconds))
		s.assign("a")
		for s.task("a").State == event.TaskAssigned {
			s.looks("a")
		}
		if a := s.task("a"); a.Error.Code != "not_accepted" || s.now.Sub(noon) < span(seconds) || s.now.Sub(noon) > span(seconds)+LookAgain {
			t.Errorf("after %s: %s", s.now.Sub(noon), event.MustMarshal(a))
		}
	}
}

func TestAnAttemptHasOnlySoLongInAll(t *testing.T) {
	t.Parallel()
	s := timed(t, `{"runSeconds":100,"progressSeconds":40}`)
	ref := s.assign("a")
	for s.task("a").Fallback == 0 {
		s.now = s.now.Add(20 * time.Second)
		s.put(&Said{Agent: "ann", Event: &event.Progress{AttemptRef: ref}})
		if s.task("a").Lease.After(noon.Add(100 * time.Second)) {
			t.Fatalf("the lease is %s", s.task("a").Lease)
		}
		s.put(&Tick{TaskID: "a", Intake: s.now})
	}
	if a := s.task("a"); a.Error.Code != "attempt_timeout" || s.now.Sub(noon) != 100*time.Second {
		t.Errorf("after %s: %s", s.now.Sub(noon), event.MustMarshal(a))
	}
	s = timed(t, `{"runSeconds":100,"progressSeconds":40}`)
	s.put(&Said{Agent: "ann", Event: &event.Accepted{AttemptRef: s.assign("a")}})
	s.looks("a")
	if a := s.task("a"); a.Error == nil || a.Error.Code != "timeout" || s.now.Sub(noon) != 40*time.Second {
		t.Errorf("after %s: %s", s.now.Sub(noon), event.MustMarshal(a))
	}
}

func TestARunHasOnlySoLongInAllButPeopleMayTakeTheirTime(t *testing.T) {
	t.Parallel()
	s := tell(t, `{"id":"d","runTimeoutSeconds":100,"tasks":[{"taskId":"a","agentCapability":"c"},
		{"taskId":"ask","dependsOn":["a"],"approval":{}},{"taskId":"b","agentCapability":"c","dependsOn":["ask"]}]}`, &event.RunStart{})
	if want := noon.Add(100 * time.Second); !s.run.Look.Equal(want) {
		t.Fatalf("its timer is %s, want %s", s.run.Look, want)
	}
	s.now = noon.Add(30 * time.Second)
	s.does("a")
	if !s.run.Look.IsZero() {
		t.Fatalf("while it waits for a person its timer is %s", s.run.Look)
	}
	s.now = noon.Add(time.Hour)
	s.put(&Command{RunCommand: &event.RunCommand{Kind: event.KindRunApprove, RunID: runID, TaskID: "ask"}})
	if want := s.now.Add(70 * time.Second); s.task("ask").State != event.TaskCompleted || !s.run.Look.Equal(want) {
		t.Fatalf("after the approval its timer is %s, want %s: %s", s.run.Look, want, event.MustMarshal(s.run))
	}
	s.now = s.run.Look
	s.put(&Tick{Intake: noon})
	if s.run.State != event.RunRunning {
		t.Fatalf("while intake is behind it %s", s.run.State)
	}
	s.now = s.run.Look
	if s.put(&Tick{Intake: s.now}); s.run.State != event.RunFailed || s.run.Error.Code != "run_timeout" {
		t.Errorf("after its time it is %s: %v", s.run.State, s.run.Error)
	}
}
