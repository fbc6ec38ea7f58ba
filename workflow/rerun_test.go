package workflow

import (
	"fmt"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// long begins a run of n tasks one after the other, as a sequence or as a graph.
func long(t *testing.T, n int, graph bool) *story {
	t.Helper()
	def := chain(n)
	if graph {
		for i := range def.Tasks {
			if t := &def.Tasks[i]; i > 0 {
				t.DependsOn = []string{def.Tasks[i-1].TaskID}
			}
			def.Tasks[i].NextTaskID = nil
		}
		var err error
		if def, err = Parse(event.MustMarshal(def)); err != nil {
			t.Fatal(err)
		}
	}
	s := &story{t: t, def: def, now: noon}
	s.put(&Start{Event: &event.RunStart{RunID: runID}, Workflow: "chain", DefVersion: "v1", Hash: "h"})
	return s
}

// doesAll lets agents complete the tasks from one to another.
func (s *story) doesAll(from, to int) {
	s.t.Helper()
	for i := from; i <= to; i++ {
		s.does(fmt.Sprint("t", i))
	}
}

func (s *story) commands(kind event.CommandKind, task string) {
	s.t.Helper()
	if d := s.put(commandAbout(kind, task)); d.Refuse != nil {
		s.t.Fatal(d.Refuse)
	}
}

// A run whose tasks have left its document is retried and run again as any other: from the task that is named, with the outputs before it, and it counts what
// has completed.
func TestALongRunIsRunAgain(t *testing.T) {
	t.Parallel()
	const n = inlineTasks + 50
	for _, graph := range []bool{false, true} {
		t.Run(fmt.Sprintf("graph %v", graph), func(t *testing.T) {
			t.Parallel()
			s := long(t, n, graph)
			is := func(state event.RunState, completed int) {
				t.Helper()
				if s.run.State != state || s.run.Completed != completed {
					t.Fatalf("the run is %s and %d tasks have completed, want %s and %d", s.run.State, s.run.Completed, state, completed)
				}
			}
			s.doesAll(1, 39)
			s.breaks("t40")
			is(event.RunFailed, 39)
			s.commands(event.KindRunRetry, "")
			is(event.RunRunning, 39)
			s.doesAll(40, n)
			is(event.RunCompleted, n)
			s.commands(event.KindRunRerun, "t60")
			is(event.RunRunning, 59)
			s.doesAll(60, 69)
			s.breaks("t70")
			is(event.RunFailed, 69)
			if d := s.put(commandAbout(event.KindRunRerun, "t90")); d.Refuse == nil || d.Refuse.Code != event.CodeNotAllowedNow {
				t.Errorf("it was run again from a task that it did not come to this time: %v", d.Refuse)
			}
			if d := s.put(commandAbout(event.KindRunRetry, "t50")); d.Refuse == nil || d.Refuse.Code != event.CodeNotAllowedNow {
				t.Errorf("a task was retried that has completed: %v", d.Refuse)
			}
			s.commands(event.KindRunRerun, "t20")
			is(event.RunRunning, 19)
			s.doesAll(20, n)
			is(event.RunCompleted, n)
			for _, id := range []string{"t20", "t150"} {
				whole, _ := (&decider{def: s.def, run: s.run, at: At{Data: s.docs}}).whole(id)
				if whole == nil || whole.State != event.TaskCompleted || whole.Attempt < 2 {
					t.Errorf("task %s is %s", id, event.MustMarshal(whole))
				}
			}
		})
	}
}

// To decide where a run of ten thousand tasks goes on takes a moment, not minutes.
func TestTheLongestRunIsRunAgainQuickly(t *testing.T) {
	t.Parallel()
	s := long(t, MaxTasks, false)
	done := *s.run
	done.Tasks, done.Completed, done.State = nil, MaxTasks, event.RunCompleted
	s.run = &done
	at := time.Now()
	s.commands(event.KindRunRerun, fmt.Sprint("t", MaxTasks/2))
	if s.run.Completed != MaxTasks/2-1 || s.run.Find(fmt.Sprint("t", MaxTasks/2)) == nil {
		t.Errorf("%d tasks have completed, the run is %s", s.run.Completed, s.run.State)
	}
	t.Logf("it took %s", time.Since(at))
}

// What cannot be run again is refused with a reason, and stays as it is.
func TestWhatIsNotRunAgain(t *testing.T) {
	t.Parallel()
	const plain = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"ask","approval":{},"dependsOn":["a"]}]}`
	const saga = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","compensate":{}},{"taskId":"ask","approval":{},"dependsOn":["a"]}]}`
	ended := func(source string, start *event.RunStart) *story {
		s := tell(t, source, start)
		s.does("a")
		s.put(command(event.KindRunCancel, nil))
		return s
	}
	for _, tt := range []struct {
		name string
		make func() *story
		in   *Command
		code event.Code
		why  string
	}{
		{"it goes on", func() *story { return tell(t, plain, &event.RunStart{}) }, commandAbout(event.KindRunRerun, "a"), event.CodeNotAllowedNow, "the run goes on: running"},
		{"it has completed", func() *story {
			s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"}]}`, &event.RunStart{})
			s.does("a")
			return s
		}, command(event.KindRunRetry, nil), event.CodeNotAllowedNow, `the run has completed; it can be run again from one of its tasks with "opscore run rerun"`},
		{"it had not begun", func() *story {
			s := tell(t, plain, &event.RunStart{DelaySeconds: 60})
			s.put(command(event.KindRunCancel, nil))
			return s
		}, command(event.KindRunRetry, nil), event.CodeNotAllowedNow, "the run had not begun; start another one"},
		{"it has undone what it had done", func() *story {
			s := ended(saga, &event.RunStart{})
			s.does("a~undo")
			return s
		}, command(event.KindRunRetry, nil), event.CodeNotAllowedNow, "the run has undone what it had done; start another one"},
		{"a child", func() *story {
			s := ended(plain, &event.RunStart{})
			s.run.Parent = &ParentRef{Run: "p", Task: "each", Round: 1}
			return s
		}, commandAbout(event.KindRunRerun, "a"), event.CodeNotAllowedNow, `the run is a part of run "p", which can be retried or run again`},
		{"its deadline has passed", func() *story {
			s := ended(plain, &event.RunStart{Deadline: noon.Add(time.Minute)})
			s.now = noon.Add(time.Minute)
			return s
		}, command(event.KindRunRetry, nil), event.CodeNotAllowedNow, "the run was to end by 2026-03-01T12:01:00Z; start another one"},
		{"its time, counted from its start, is over", func() *story {
			s := ended(plain, &event.RunStart{DeadlineSeconds: 60})
			s.now = noon.Add(time.Minute)
			return s
		}, command(event.KindRunRetry, nil), event.CodeNotAllowedNow, "the run was to end by 2026-03-01T12:01:00Z; start another one"},
		{"no such task", func() *story { return ended(plain, &event.RunStart{}) }, commandAbout(event.KindRunRerun, "b"), event.CodeInvalid, `workflow "d" has no task "b"`},
		{"an input for nobody", func() *story { return ended(plain, &event.RunStart{}) }, command(event.KindRunRerun, func(c *event.RunCommand) {
			c.TaskID, c.Input = "ask", event.Raw(`{}`)
		}), event.CodeInvalid, `task "ask" takes no input`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := tt.make()
			before := s.run
			d := s.put(tt.in)
			if d.Refuse == nil || d.Refuse.Code != tt.code || d.Refuse.Message != tt.why || s.run != before {
				t.Errorf("it is refused as %v", d.Refuse)
			}
		})
	}
	s := ended(saga, &event.RunStart{})
	s.breaks("a~undo") // what could not be undone is no reason to do the rest once more
	if d := s.put(command(event.KindRunRetry, nil)); !s.run.State.Final() || d.Refuse == nil {
		t.Errorf("a run that could not undo everything is %s, and %v", s.run.State, d.Refuse)
	}
}

// A run that goes on again has its whole time again, however long it has waited for people before, or stood after its end.
func TestARunThatGoesOnAgainHasItsWholeTime(t *testing.T) {
	t.Parallel()
	for name, definition := range map[string]string{
		"asked":  `{"id":"d","runTimeoutSeconds":60,"tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"ask","approval":{}},{"taskId":"b","agentCapability":"c","dependsOn":["a","ask"]}]}`,
		"legacy": `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","nextTaskId":"b"},{"taskId":"b","agentCapability":"c"}]}`,
	} {
		legacy := name == "legacy"
		limit := map[bool]time.Duration{false: time.Minute, true: LegacyTimeout}[legacy]
		s := tell(t, definition, &event.RunStart{Legacy: legacy})
		s.now = noon.Add(30 * time.Minute)
		s.put(commandAbout(event.KindRunApprove, "ask"))
		s.now = noon.Add(time.Hour)
		if s.breaks("a"); s.run.State != event.RunFailed {
			t.Fatalf("%s: the run is %s", name, s.run.State)
		}
		s.now = noon.Add(3 * time.Hour)
		s.commands(event.KindRunRetry, "a")
		if !s.run.Look.Equal(s.now.Add(limit)) {
			t.Errorf("%s: it is looked at %s after it went on", name, s.run.Look.Sub(s.now))
		}
	}
}

// A task that is retried takes along what was cancelled because it had failed: else the run would complete without that. One that was cancelled goes on alone.
func TestARetryTakesAlongWhatWasCancelled(t *testing.T) {
	t.Parallel()
	const source = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"b","agentCapability":"c"},{"taskId":"z","agentCapability":"c","dependsOn":["a","b"]}]}`
	s := tell(t, source, &event.RunStart{})
	s.breaks("a")
	s.commands(event.KindRunRetry, "a")
	s.want("a:ready b:ready z:pending")
	s.does("a", "b", "z")
	if s.run.State != event.RunCompleted {
		t.Errorf("the run is %s", s.run.State)
	}
	s = tell(t, source, &event.RunStart{})
	s.put(command(event.KindRunCancel, nil))
	s.commands(event.KindRunRetry, "a")
	s.want("a:ready b:cancelled z:pending")
}

// The input that somebody has given to a task holds when it is retried, and when others are run again; no more when it, or what leads to it, is run again.
func TestAnInputThatWasGivenHoldsUntilTheTaskIsRunAgain(t *testing.T) {
	t.Parallel()
	s := tell(t, `{"id":"d","retry":{"attempts":0},"tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"b","agentCapability":"c","dependsOn":["a"],"parameters":{"tone":"dry"}},
		{"taskId":"z","agentCapability":"c","dependsOn":["b"]}]}`, &event.RunStart{})
	given := func(want string) {
		t.Helper()
		in, err := (&decider{def: s.def, run: s.run, at: At{Data: s.docs}}).taskInput(s.def.Find("b"))
		if err != nil || string(in) != want {
			t.Fatalf("b is given %s (%v), want %s", in, err, want)
		}
	}
	rerun := func(task, set string) {
		t.Helper()
		c := commandAbout(event.KindRunRerun, task)
		c.Set = event.Raw(set)
		if d := s.put(c); d.Refuse != nil {
			t.Fatal(d.Refuse)
		}
	}
	s.does("a", "b", "z")
	rerun("b", `{"tone":"cool"}`)
	given(`{"tone":"cool"}`)
	s.fails("b", "broke")
	s.commands(event.KindRunRetry, "")
	given(`{"tone":"cool"}`)
	s.does("b", "z")
	rerun("z", "")
	given(`{"tone":"cool"}`)
	s.does("z")
	rerun("a", "")
	s.does("a")
	given(`{"tone":"dry"}`)
}

// A child of the go before ends when the task that had started it is to begin once more, and has not yet: that changes nothing.
func TestAChildOfAnEarlierGoEndsBeforeItsTaskBeginsAgain(t *testing.T) {
	t.Parallel()
	s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"w","workflow":{"id":"in"},"dependsOn":["a"]}]}`, &event.RunStart{})
	s.does("a")
	s.put(&More{TaskID: "w", Limit: 1})
	s.put(command(event.KindRunCancel, nil))
	s.commands(event.KindRunRerun, "a")
	for _, in := range []*ChildEnded{{State: event.RunCompleted}, {State: event.RunFailed, Error: broke}} {
		in.TaskID, in.Round = "w", 1
		if d := s.put(in); d.Run != nil {
			t.Fatalf("it changes %s", event.MustMarshal(d.Run))
		}
	}
	s.does("a")
	if w := s.task("w"); w.State != event.TaskWaiting || w.Attempt != 2 {
		t.Errorf("the task is %s", event.MustMarshal(w))
	}
}
