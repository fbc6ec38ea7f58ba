package workflow

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

func TestARunEndsAsItsScriptSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		def := definitions(t, 1, 5)
		s := scripts(t, def)
		w := newWorld(t, def, s, starts(t))
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			w.step()
		}
		w.finish()
		state, completed := s.end(def)
		if w.run.State != state {
			t.Fatalf("the run %s, the script says %s: %s", w.run.State, state, event.MustMarshal(w.run))
		}
		if diff := cmp.Diff(completed, w.ended); diff != "" {
			t.Fatalf("tasks that completed: %s", diff)
		}
	})
}

func TestACancelledRunStops(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		def := definitions(t, 1, 4)
		s := scripts(t, def)
		w := newWorld(t, def, s, starts(t))
		for range rapid.IntRange(0, 40).Draw(t, "steps before") {
			w.step()
		}
		ended := w.run.State
		w.seq++
		cancel := At{Seq: w.seq, Stream: w.now}
		d := w.decide(&Cancel{Reason: "enough"}, cancel)
		if ended.Final() {
			if d.Refuse == nil || w.run.State != ended {
				t.Fatalf("a run that %s was cancelled", ended)
			}
			return
		}
		if w.run.State != event.RunCancelled || w.run.Error.Message != "enough" {
			t.Fatalf("the run is %s: %v", w.run.State, w.run.Error)
		}
		if d := w.decide(&Cancel{}, cancel); d.Refuse != nil || d.Run != nil {
			t.Fatalf("the repeated cancel: %v", d.Refuse)
		}
		for range rapid.IntRange(0, 20).Draw(t, "steps after") {
			w.step() // take fails the test if anything changes
		}
		if _, all := s.end(def); len(w.ended) > len(all) || !slices.Equal(w.ended, all[:len(w.ended)]) {
			t.Fatalf("tasks %v completed, the script says %v", w.ended, all)
		}
	})
}

func TestARunWhoseMessagesAreLostEndsAllTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		def := definitions(t, 1, 4)
		start := starts(t)
		start.Legacy = rapid.Bool().Draw(t, "legacy")
		w := newWorld(t, def, scripts(t, def), start)
		for range rapid.IntRange(0, 80).Draw(t, "steps") {
			if len(w.stream) > 0 && rapid.IntRange(0, 3).Draw(t, "lose") == 0 {
				w.stream = w.stream[1:]
			}
			if rapid.IntRange(0, 9).Draw(t, "look at the run") == 0 {
				w.decide(&Tick{Intake: w.intake()}, At{})
			}
			w.step() // checkTimers fails the test when the run is stuck
		}
		w.finish()
	})
}

func TestAnEndedTaskOfALargeRunLeavesItsDocument(t *testing.T) {
	t.Parallel()
	def := chain(inlineTasks + 1)
	rapid.Check(t, func(t *rapid.T) {
		s := make(script)
		failing := rapid.SampledFrom(def.Tasks).Draw(t, "fails").TaskID
		s[failing] = []fate{rapid.SampledFrom([]fate{completes, isRejected, failsForGood}).Draw(t, "how")}
		w := newWorld(t, def, s, &event.RunStart{})
		for !w.run.State.Final() {
			w.assign()
			w.speak(w.current())
			if len(w.stream) > 0 {
				w.deliver(0)
			}
			if len(w.run.Tasks) > 1 || len(w.run.Recent) > recentTasks {
				t.Fatalf("the run holds %d tasks and remembers %d", len(w.run.Tasks), len(w.run.Recent))
			}
			if n := len(w.old); n > 0 {
				repeat := w.old[n-1-rapid.IntRange(0, min(n, recentTasks)-1).Draw(t, "repeat")]
				if d := w.hear(repeat); d.Refuse != nil || d.Run != nil {
					t.Fatalf("a repeated result: %v", d.Refuse)
				}
				w.forge(w.attempts[len(w.attempts)-1])
			}
		}
		state, completed := s.end(def)
		if w.run.State != state || w.run.Completed != len(completed) {
			t.Fatalf("the run %s after %d tasks, the script says %s after %d", w.run.State, w.run.Completed, state, len(completed))
		}
		for _, id := range completed {
			if m := w.moved[id]; m == nil || m.State != event.TaskCompleted || len(m.Output) == 0 {
				t.Fatalf("task %s went out as %v", id, m)
			}
		}
	})
}

const oneTask = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"}]}`

func TestRetriesBackOffExponentiallyUpToACap(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		retry string
		want  []time.Duration // the longest wait before each retry
	}{
		"by default":    {`{}`, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}},
		"to the cap":    {`{"attempts":8}`, seconds(1, 2, 4, 8, 16, 32, 60, 60)},
		"as they say":   {`{"attempts":4,"initialSeconds":10,"maxSeconds":50,"factor":3}`, seconds(10, 30, 50, 50)},
		"not at all":    {`{"attempts":0}`, nil},
		"at most 1000":  {`{"attempts":1000,"factor":1e300}`, append(seconds(1), slices.Repeat(seconds(60), 999)...)},
		"ever the same": {`{"attempts":3,"factor":1}`, seconds(1, 1, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, random := range []float64{0, 0.25, 0.999} {
				s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","retry":`+c.retry+`}]}`, &event.RunStart{})
				for _, longest := range c.want {
					ref := s.assign("a")
					at := s.at()
					at.Random = random
					s.putAt(failed(ref, &event.TaskError{Code: "broke"}), at)
					wait := s.task("a").Retry.Sub(s.now)
					if want := time.Duration(random * float64(longest)); wait.Round(time.Microsecond) != want.Round(time.Microsecond) {
						t.Fatalf("retry %d comes after %s, want %s", s.task("a").Tries, wait, want)
					}
					s.now = s.task("a").Look
					s.put(&Tick{TaskID: "a", Intake: s.now})
				}
				s.put(failed(s.assign("a"), &event.TaskError{Code: "broke"}))
				if s.run.State != event.RunFailed || s.run.Error.Code != "broke" {
					t.Fatalf("after %d retries the run is %s: %v", len(c.want), s.run.State, s.run.Error)
				}
			}
		})
	}
}

func seconds(n ...int) []time.Duration {
	d := make([]time.Duration, len(n))
	for i := range n {
		d[i] = time.Duration(n[i]) * time.Second
	}
	return d
}

func TestAnAgentMayAskForALongerWait(t *testing.T) {
	t.Parallel()
	for ms, want := range map[int64]time.Duration{
		0: 500 * time.Millisecond, 100: 500 * time.Millisecond, 7000: 7 * time.Second, -1: 500 * time.Millisecond,
		1 << 62: maxRetryAfter, 9_223_372_036_854_775_807: maxRetryAfter,
	} {
		s := tell(t, oneTask, &event.RunStart{})
		s.put(failed(s.assign("a"), &event.TaskError{Code: "busy", RetryAfterMs: ms}))
		if got := s.task("a").Retry.Sub(s.now); got != want {
			t.Errorf("asked for %d ms, it waits %s, want %s", ms, got, want)
		}
	}
}

func TestWhatIsNotRetryableFailsAtOnce(t *testing.T) {
	t.Parallel()
	no := false
	s := tell(t, oneTask, &event.RunStart{})
	s.put(failed(s.assign("a"), &event.TaskError{Code: "bad_input", Retryable: &no}))
	if s.run.State != event.RunFailed || s.task("a").State != event.TaskFailed || s.task("a").Tries != 0 {
		t.Errorf("the run is %s, the task %s after %d retries", s.run.State, s.task("a").State, s.task("a").Tries)
	}
}

func TestRefusalsSpendNoRetry(t *testing.T) {
	t.Parallel()
	s := tell(t, `{"id":"d","retry":{"attempts":1},"tasks":[{"taskId":"a","agentCapability":"c"}]}`, &event.RunStart{})
	for i := range 30 {
		ref := s.assign("a")
		switch i % 3 {
		case 0:
			s.put(&Refused{Ref: ref, After: time.Second})
		case 1:
			s.put(&Refused{Ref: ref, Silent: true})
		case 2:
			s.put(&Gone{Ref: ref})
		}
		if a := s.task("a"); a.State != event.TaskReady || a.Tries != 0 || a.Attempt != i+1 {
			t.Fatalf("after %d refusals the task is %s with %d retries spent, attempt %d", i+1, a.State, a.Tries, a.Attempt)
		}
	}
}

func TestAResultDuringBackOffIsTaken(t *testing.T) {
	t.Parallel()
	s := tell(t, oneTask, &event.RunStart{})
	ref := s.assign("a")
	s.now = s.task("a").AcceptBy
	d := s.put(&Tick{TaskID: "a", Intake: s.now})
	if s.task("a").State != event.TaskRetrying || len(d.Slots) != 1 || d.Slots[0].Kind != SlotDrain {
		t.Fatalf("the task is %s, slots %v", s.task("a").State, d.Slots)
	}
	d = s.put(completed(ref, `"late"`))
	if s.run.State != event.RunCompleted || len(d.Slots) != 1 || d.Slots[0].Kind != SlotResult {
		t.Fatalf("the run is %s, slots %v", s.run.State, d.Slots)
	}
	if a := s.task("a"); !a.Retry.IsZero() || !a.Look.IsZero() || a.Error != nil || string(a.Output) != `"late"` {
		t.Errorf("the task ended as %s", event.MustMarshal(a))
	}
}

func TestALateResultFreesASlotThatDrains(t *testing.T) {
	t.Parallel()
	for _, r := range []string{"completed", "failed"} {
		s := tell(t, `{"id":"d","retry":{"attempts":0},"tasks":[{"taskId":"a","agentCapability":"c"}]}`, &event.RunStart{})
		ref := s.assign("a")
		s.now = s.task("a").AcceptBy
		s.put(&Tick{TaskID: "a", Intake: s.now})
		if s.run.State != event.RunFailed {
			t.Fatalf("the run is %s", s.run.State)
		}
		said := completed(ref, `1`)
		if r == "failed" {
			said = failed(ref, &event.TaskError{Code: "late"})
		}
		d := s.put(said)
		if d.Run != nil || len(d.Slots) != 1 || d.Slots[0].Kind != SlotLate || d.Slots[0].At.IsZero() {
			t.Errorf("a result that %s late: slots %v", r, d.Slots)
		}
	}
}

func TestALargeOutputGetsADocumentOfItsOwn(t *testing.T) {
	t.Parallel()
	s := tell(t, oneTask, &event.RunStart{})
	output := `"` + string(bytes.Repeat([]byte("x"), inlineOutput)) + `"`
	d := s.put(completed(s.assign("a"), output))
	if a := s.task("a"); string(d.Big[0].Data) != output || !a.Big || a.Output != nil || s.run.LastDone != "a" || s.run.LastBig != 1 {
		t.Errorf("%d bytes apart, the run %s", len(d.Big[0].Data), event.MustMarshal(s.run))
	}
}

func TestALegacyRunHasAnHour(t *testing.T) {
	t.Parallel()
	s := tell(t, oneTask, &event.RunStart{Legacy: true})
	if want := noon.Add(time.Hour); !s.run.Look.Equal(want) {
		t.Fatalf("its timer is %s, want %s", s.run.Look, want)
	}
	ref := s.assign("a")
	s.now = noon.Add(time.Hour - time.Second)
	if d := s.put(&Tick{Intake: s.now}); d.Run != nil {
		t.Fatalf("a second too early the run %s", d.Run.State)
	}
	s.now = noon.Add(2 * time.Hour) // the engine was down, and the result waits in the stream
	s.put(&Tick{Intake: noon.Add(time.Minute)})
	if s.run.State != event.RunRunning || !s.run.Look.Equal(s.now.Add(LookAgain)) {
		t.Fatalf("the run is %s and looks again at %s", s.run.State, s.run.Look)
	}
	s.now = s.run.Look
	d := s.put(&Tick{Intake: s.now})
	if s.run.State != event.RunFailed || s.run.Error.Code != "run_timeout" || s.task("a").State != event.TaskCancelled {
		t.Fatalf("the run is %s: %v", s.run.State, s.run.Error)
	}
	if len(d.Slots) != 1 || d.Slots[0].Kind != SlotDrain || d.Slots[0].Ref != ref {
		t.Errorf("slots %v", d.Slots)
	}
	if s := tell(t, oneTask, &event.RunStart{}); !s.run.Look.IsZero() {
		t.Errorf("a new run has a timer: %s", s.run.Look)
	}
}

// A run of the old API keeps the limit that it was started with, whatever a replica that looks at it later was told.
func TestALegacyRunKeepsItsLimit(t *testing.T) {
	def, err := Decode([]byte(oneTask))
	if err != nil {
		t.Fatal(err)
	}
	start := &Start{Event: &event.RunStart{RunID: runID, Legacy: true, AgentID: "ann"}, Workflow: "d", Limit: 90 * time.Second}
	run := Decide(def, nil, start, At{Now: noon, Stream: noon}).Run
	if want := noon.Add(90 * time.Second); !run.Look.Equal(want) {
		t.Fatalf("the run is looked at by %v, want %v", run.Look, want)
	}
	stored := new(Run)
	if err := event.Unmarshal(run.encode(), stored); err != nil {
		t.Fatal(err)
	}
	early, late := noon.Add(89*time.Second), noon.Add(90*time.Second)
	if d := Decide(def, stored, &Tick{Intake: early}, At{Now: early}); d.Run != nil {
		t.Errorf("too early: %+v", d.Run)
	}
	d := Decide(def, stored, &Tick{Intake: late}, At{Now: late})
	if d.Run == nil || d.Run.State != event.RunFailed || d.Run.Error.Code != "run_timeout" || !strings.Contains(d.Run.Error.Message, "1m30s") {
		t.Errorf("after its time the run is %+v", d.Run)
	}
}

func TestALegacyRunOfABadDefinitionFailsWithItsMistakes(t *testing.T) {
	t.Parallel()
	why := &event.TaskError{Code: "invalid", Message: "a cycle"}
	d := Decide(&Definition{ID: "d"}, nil, &Start{Event: &event.RunStart{RunID: runID, Legacy: true}, Workflow: "d", Problem: why}, At{Now: noon})
	if d.Run == nil || d.Run.State != event.RunFailed || d.Run.Error != why || d.Run.Ended.IsZero() {
		t.Errorf("%s", event.MustMarshal(d.Run))
	}
}

func TestARunWithoutTasksCompletes(t *testing.T) {
	t.Parallel()
	if s := tell(t, `{"id":"d","tasks":[]}`, &event.RunStart{}); s.run.State != event.RunCompleted {
		t.Errorf("the run is %s", s.run.State)
	}
}

func TestATaskNobodyCanBeNamedForFailsTheRun(t *testing.T) {
	t.Parallel()
	s := tell(t, `{"id":"d","tasks":[{"taskId":"a"}]}`, &event.RunStart{})
	if s.run.State != event.RunFailed || s.task("a").State != event.TaskFailed || s.task("a").Error == nil {
		t.Errorf("%s", event.MustMarshal(s.run))
	}
}

func TestATaskGoesToItsClass(t *testing.T) {
	t.Parallel()
	const definition = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","nextTaskId":"b"},{"taskId":"b","nextTaskId":"x"},
		{"taskId":"x","agentCapability":"c","agentId":"zoe","nextTaskId":"y"},{"taskId":"y","agentCapability":"d"}]}`
	for named, want := range map[string][]string{
		"":    {"c:c", "b:ann", "a:zoe", "c:d"},
		"bob": {"a:bob", "b:bob", "a:zoe", "c:d"},
	} {
		s := tell(t, definition, &event.RunStart{AgentID: named})
		var got []string
		for _, id := range []string{"a", "b", "x", "y"} {
			got = append(got, s.task(id).Class)
			s.put(completed(s.assign(id), `1`))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("with agent %q named: %s", named, diff)
		}
	}
}

func TestOnlyTheSameBodyRepeatsAStart(t *testing.T) {
	t.Parallel()
	s := tell(t, oneTask, &event.RunStart{})
	again := &Start{Event: &event.RunStart{RunID: runID}, Workflow: "d", DefVersion: "v1", Hash: "h"}
	if d := s.put(again); d.Run != nil || d.Refuse != nil {
		t.Errorf("the same body: %v", d.Refuse)
	}
	other := *again
	other.Hash = "other"
	if d := s.put(&other); d.Run != nil || d.Refuse == nil || d.Refuse.Code != event.CodeConflict {
		t.Errorf("another body: %v", d.Refuse)
	}
}

func TestTheLastCommandsAreRemembered(t *testing.T) {
	t.Parallel()
	var r Run
	for seq := range uint64(100) {
		if r.apply(seq) {
			t.Fatalf("command %d was applied before", seq)
		}
		if first := max(int(seq)-appliedCommands+1, 0); !r.apply(uint64(first)) {
			t.Fatalf("after command %d, command %d is forgotten", seq, first)
		}
	}
	if len(r.Commands) != appliedCommands {
		t.Errorf("%d commands are remembered, want %d", len(r.Commands), appliedCommands)
	}
}

func TestAfterARegressionAnUnknownAttemptIsAdopted(t *testing.T) {
	t.Parallel()
	lost := event.AttemptRef{RunID: runID, TaskID: "a", Attempt: 3, Token: "lost"}
	for _, e := range []event.Event{&event.Accepted{AttemptRef: lost}, &event.Progress{AttemptRef: lost}} {
		s := tell(t, oneTask, &event.RunStart{})
		at := s.at()
		if d := s.putAt(&Said{Agent: "bob", Event: e}, at); d.Refuse == nil {
			t.Errorf("%T was not refused without a regression", e)
		}
		at.Adopt = true
		d := s.putAt(&Said{Agent: "bob", Event: e}, at)
		a := s.task("a")
		if a.State != event.TaskRunning || a.Attempt != 3 || a.Agent != "bob" || a.Token != "lost" || a.Class != "" || a.Look.IsZero() {
			t.Errorf("%T: the task is %s", e, event.MustMarshal(a))
		}
		if len(d.Slots) != 1 || d.Slots[0].Kind != SlotTake || d.Slots[0].Ref != lost {
			t.Errorf("%T: slots %v", e, d.Slots)
		}
	}
	s := tell(t, oneTask, &event.RunStart{})
	at := s.at()
	at.Adopt = true
	d := s.putAt(&Said{Agent: "bob", Event: &event.Result{AttemptRef: lost, Status: event.StatusCompleted}}, at)
	if s.run.State != event.RunCompleted || len(d.Slots) != 2 || d.Slots[0].Kind != SlotTake || d.Slots[1].Kind != SlotResult {
		t.Errorf("the run is %s, slots %v", s.run.State, d.Slots)
	}
	s = tell(t, oneTask, &event.RunStart{})
	held := s.put(&Assign{TaskID: "a", Agent: "ann", Token: "new", Above: 1000}).Run.Find("a").ref(runID)
	if held.Attempt != 1001 {
		t.Errorf("attempt %d is assigned above 1000", held.Attempt)
	}
	at = s.at()
	at.Adopt = true
	if d := s.putAt(&Said{Agent: "bob", Event: &event.Accepted{AttemptRef: lost}}, at); d.Refuse == nil {
		t.Error("an older attempt was adopted over the one that is held")
	}
}

func TestProgressRenewsTheLeaseWithFewCommits(t *testing.T) {
	t.Parallel()
	s := tell(t, `{"id":"d","timeoutSeconds":30,"tasks":[{"taskId":"a","agentCapability":"c"}]}`, &event.RunStart{})
	ref := s.assign("a")
	half := 50.0
	progress := &Said{Agent: "ann", Event: &event.Progress{AttemptRef: ref, Message: "half", Percent: &half}}
	s.now = noon.Add(time.Second)
	s.put(progress)
	if a := s.task("a"); a.State != event.TaskRunning || !a.Lease.Equal(noon.Add(31*time.Second)) || a.Message != "half" {
		t.Fatalf("the first progress: %s", event.MustMarshal(a))
	}
	commits := 0
	for range 290 { // 29 s in steps of 0.1 s
		s.now = s.now.Add(100 * time.Millisecond)
		if d := s.put(progress); d.Run != nil {
			commits++
		}
	}
	if commits != 2 {
		t.Errorf("%d commits in 29 s of progress, want one every 10 s", commits)
	}
	if a := s.task("a"); s.now.After(a.Lease) || !a.Look.Equal(a.Lease) {
		t.Errorf("now is %s, the lease %s, the timer %s", s.now, a.Lease, a.Look)
	}
}

func TestProgressThatComesLateDoesNotShortenTheLease(t *testing.T) {
	t.Parallel()
	s := tell(t, oneTask, &event.RunStart{})
	ref := s.assign("a")
	lease := s.task("a").Lease
	at := s.at()
	at.Stream = noon.Add(-time.Second) // by the stream's clock it was said before the task was assigned
	s.putAt(&Said{Agent: "ann", Event: &event.Progress{AttemptRef: ref}}, at)
	if a := s.task("a"); a.State != event.TaskRunning || !a.Lease.Equal(lease) {
		t.Errorf("the task is %s, its lease moved from %s to %s", a.State, lease, a.Lease)
	}
}
