package workflow

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// ends lets the child of a round end.
func (h *helm) ends(task string, index int, state event.RunState, why *event.TaskError) Decision {
	return h.put(&ChildEnded{TaskID: task, Round: h.run.Find(task).Attempt, Index: index, State: state, Error: why, Output: event.Raw(`1`)})
}

// A workflow inside of another is run again as often as its task says, each time as another run; what was cancelled, or cannot go better, is not.
func TestAWorkflowInsideIsTriedAgain(t *testing.T) {
	t.Parallel()
	no := false
	const twice = `,"retry":{"attempts":2,"initialSeconds":4,"jitter":"none"}`
	for _, tt := range []struct {
		name, retry string
		ends        []*event.TaskError // nil: it completes
		state       event.RunState
		rounds      int
	}{
		{"no retry", ``, []*event.TaskError{broke}, event.RunFailed, 1},
		{"of the definition, for its own tasks", ``, []*event.TaskError{broke}, event.RunFailed, 1},
		{"completes at last", twice, []*event.TaskError{broke, broke, nil}, event.RunCompleted, 3},
		{"never completes", twice, []*event.TaskError{broke, broke, broke}, event.RunFailed, 3},
		{"final", twice, []*event.TaskError{{Code: "bad", Retryable: &no}}, event.RunFailed, 1},
		{"named final", `,"retry":{"attempts":2,"nonRetryable":["broke"]}`, []*event.TaskError{broke}, event.RunFailed, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHelm(t, `{"id":"d","retry":{"attempts":5},"tasks":[{"taskId":"sub","workflow":{"id":"w"}`+tt.retry+`}]}`).start(0)
			made := make(map[string]bool)
			for i, why := range tt.ends {
				d := h.put(&More{TaskID: "sub", Limit: maxSpawn})
				if len(d.Spawn) != 1 {
					t.Fatalf("round %d: %d children are made", i, len(d.Spawn))
				}
				made[childID(runID, "sub", d.Spawn[0].Round, 0)] = true
				state := event.RunCompleted
				if why != nil {
					state = event.RunFailed
				}
				h.ends("sub", 0, state, why)
				h.ends("sub", 0, state, why) // a repeat
				rt := h.run.Find("sub")
				if h.run.State.Final() {
					break
				}
				if want := h.now.Add(time.Duration(4<<i) * time.Second); rt.State != event.TaskRetrying || !rt.Look.Equal(want) || rt.Error != why {
					t.Fatalf("round %d: the task is %s", i, event.MustMarshal(rt))
				}
				if d := h.put(&More{TaskID: "sub", Limit: maxSpawn}); len(d.Spawn) > 0 {
					t.Fatal("a child is made before its time")
				}
				h.now = rt.Look
				h.put(&Tick{TaskID: "sub"})
			}
			if h.run.State != tt.state || len(made) != tt.rounds {
				t.Errorf("after %d rounds the run is %s", len(made), event.MustMarshal(h.run))
			}
			if n := len(h.run.ChildIDs()); n != tt.rounds {
				t.Errorf("%d children are known to those who list and remove them", n)
			}
		})
	}
	h := newHelm(t, `{"id":"d","tasks":[{"taskId":"sub","workflow":{"id":"w"},"retry":{"attempts":2}}]}`).start(0)
	h.put(&More{TaskID: "sub", Limit: maxSpawn})
	if h.ends("sub", 0, event.RunCancelled, broke); h.run.State != event.RunFailed {
		t.Errorf("although somebody has cancelled it the run is %s", h.run.State)
	}
}

// While the run is paused a workflow inside of it is not tried again, and the time until then stands still.
func TestAPauseHoldsTheNextTryOfAWorkflow(t *testing.T) {
	t.Parallel()
	h := newHelm(t, `{"id":"d","tasks":[{"taskId":"sub","workflow":{"id":"w"},"retry":{"initialSeconds":4,"jitter":"none"}}]}`).start(0)
	h.put(&More{TaskID: "sub", Limit: maxSpawn})
	h.put(command(event.KindRunPause, nil))
	h.now = h.now.Add(time.Minute)
	h.ends("sub", 0, event.RunFailed, broke)
	h.now = h.now.Add(time.Minute)
	h.put(&Tick{TaskID: "sub"})
	if rt := h.run.Find("sub"); rt.State != event.TaskRetrying {
		t.Fatalf("in the pause the task is %s", rt.State)
	}
	h.put(command(event.KindRunResume, nil))
	if rt := h.run.Find("sub"); !rt.Look.Equal(h.now.Add(4 * time.Second)) {
		t.Errorf("after the resume it is tried again in %s", rt.Look.Sub(h.now))
	}
}

// A child is paused while its parent is, or people want it to be: in whatever order they say so. Time passes for it when neither holds.
func TestAChildIsPausedByItselfOrWithItsParent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := newHelm(t, `{"id":"d","tasks":[{"taskId":"w","wait":{"seconds":1000}}]}`)
		h.put(&Start{Event: &event.RunStart{RunID: runID}, Workflow: "d", DefVersion: "v", Parent: &ParentRef{Run: "p", Task: "each", Round: 1}})
		var own, kin bool
		var stood time.Duration
		for range rapid.IntRange(1, 12).Draw(rt, "words") {
			step := time.Duration(rapid.IntRange(1, 10_000).Draw(rt, "ms")) * time.Millisecond
			if own || kin {
				stood += step
			}
			h.now = h.now.Add(step)
			on := rapid.Bool().Draw(rt, "on")
			if rapid.Bool().Draw(rt, "people") {
				own = on
				h.put(command(map[bool]event.CommandKind{true: event.KindRunPause, false: event.KindRunResume}[on], nil))
			} else {
				kin = on
				h.put(&Held{On: on})
			}
			if (h.run.State == event.RunPaused) != (own || kin) {
				rt.Fatalf("by itself %v, with its parent %v: it is %s", own, kin, event.MustMarshal(h.run))
			}
			if w := h.run.Find("w"); h.run.State == event.RunRunning && !w.Until.Equal(noon.Add(1000*time.Second+stood)) {
				rt.Fatalf("after %s of pause the wait ends at %s", stood, w.Until)
			}
		}
	})
}

// A child that was paused by a version which did not note why goes on with its parent, as it did there.
func TestAnOldPauseEndsWithThatOfTheParent(t *testing.T) {
	t.Parallel()
	h := newHelm(t, `{"id":"d","tasks":[{"taskId":"w","wait":{"seconds":1000}}]}`)
	h.put(&Start{Event: &event.RunStart{RunID: runID}, Workflow: "d", DefVersion: "v", Parent: &ParentRef{Run: "p", Task: "each", Round: 1}})
	old := *h.run
	old.State, old.Control = event.RunPaused, &Control{Paused: noon}
	h.run = &old
	if h.put(&Held{On: false}); h.run.State != event.RunRunning {
		t.Errorf("it is %s", h.run.State)
	}
}

// A run that is cancelled while it is paused undoes what it has done; one that fails does so when it is resumed.
func TestWhatIsUndoneOfAPausedRun(t *testing.T) {
	t.Parallel()
	const source = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","compensate":{}},{"taskId":"b","agentCapability":"c","dependsOn":["a"],"retry":{"attempts":0}}]}`
	paused := func() *helm {
		h := newHelm(t, source).start(0)
		h.work(event.StatusCompleted)
		h.put(&Assign{TaskID: "b", Agent: "bob", Token: "t"})
		h.put(command(event.KindRunPause, nil))
		return h
	}
	undoes := func(h *helm) bool { return h.run.class(h.run.at(0, "a~undo")) != "" }
	h := paused()
	if h.put(command(event.KindRunCancel, nil)); h.run.State != event.RunRunning || !undoes(h) {
		t.Errorf("cancelled it is %s", event.MustMarshal(h.run))
	}
	h = paused()
	h.put(&Said{Agent: "bob", Event: &event.Result{AttemptRef: h.run.Find("b").ref(runID), Status: event.StatusFailed, Error: broke}})
	if h.run.State != event.RunPaused || undoes(h) {
		t.Errorf("failed it is %s", event.MustMarshal(h.run))
	}
	if h.put(command(event.KindRunResume, nil)); h.run.State != event.RunRunning || !undoes(h) {
		t.Errorf("resumed it is %s", event.MustMarshal(h.run))
	}
}

// kinTable says what becomes of a child by what its parent does and by what people say of it.
func kinTable(t *testing.T) string {
	parent := &ParentRef{Run: "p", Task: "each", Round: 1}
	pause, resume := command(event.KindRunPause, nil), command(event.KindRunResume, nil)
	states := []struct {
		name string
		said []Input
	}{
		{"running", nil},
		{"paused by people", []Input{pause}},
		{"paused with its parent", []Input{&Held{On: true}}},
		{"paused for both", []Input{pause, &Held{On: true}}},
		{"cancelled", []Input{command(event.KindRunCancel, nil)}},
	}
	words := []struct {
		name string
		in   Input
	}{
		{"parent is paused", &Held{On: true}},
		{"parent is resumed", &Held{On: false}},
		{"parent's task has ended", &Orphaned{Parent: *parent}},
		{"pause", pause},
		{"resume", resume},
		{"retry", command(event.KindRunRetry, nil)},
	}
	rows := make([]row, len(words))
	for i, w := range words {
		rows[i].event = w.name
		for _, s := range states {
			h := newHelm(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"}]}`)
			h.put(&Start{Event: &event.RunStart{RunID: runID}, Workflow: "d", DefVersion: "v", Parent: parent})
			for _, in := range s.said {
				h.put(in)
			}
			before := kinState(h.run)
			if before != s.name {
				t.Fatalf("the child is %s, not %s", before, s.name)
			}
			result := result{s.name, "-"}
			if d := h.put(w.in); d.Refuse != nil {
				result.text = "refused: " + string(d.Refuse.Code)
			} else if after := kinState(h.run); after != before {
				result.text = after
			}
			rows[i].results = append(rows[i].results, result)
		}
	}
	return render("EVENT\tCHILD IS\tRESULT", rows)
}

// kinState says in words how a child is, and why it is paused.
func kinState(r *Run) string {
	switch {
	case r.State != event.RunPaused:
		return string(r.State)
	case r.Control.Own && r.Control.Kin:
		return "paused for both"
	case r.Control.Own:
		return "paused by people"
	}
	return "paused with its parent"
}
