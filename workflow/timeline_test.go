package workflow

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Whoever reads the transitions of a run one after the other knows the states of the run and of all its tasks, whatever happened to it; and no
// transition says that nothing changed.
func TestTransitionsTellTheStates(t *testing.T) {
	t.Parallel()
	long := chain(inlineTasks + 1) // its tasks leave the document when they end
	rapid.Check(t, func(t *rapid.T) {
		def := long
		if rapid.Bool().Draw(t, "short") {
			def = definitions(t, 1, 4)
		}
		type place struct {
			state   string
			attempt int
		}
		told := make(map[string]place)
		w := &world{
			t: t, def: def, script: scripts(t, def), now: noon, slots: make(map[slotKey]slotState),
			applied: make(map[slotKey]bool), moved: make(map[string]*RunTask), docs: make(library),
		}
		w.onDecision = func(before *Run, d Decision) {
			if d.Run == nil {
				return
			}
			for _, s := range transitions(nil, before, d.Run, "x") {
				at := told[s.TaskID]
				if at.state != s.From || s.To == "" || at == (place{s.To, s.Attempt}) {
					t.Fatalf("%+v follows on %+v", s, at)
				}
				told[s.TaskID] = place{s.To, s.Attempt}
			}
			want := map[string]place{"": {state: string(d.Run.State)}}
			for _, task := range d.Run.Tasks {
				want[task.ID] = place{string(task.State), task.Attempt}
			}
			for id, task := range w.moved {
				want[id] = place{string(task.State), task.Attempt}
			}
			if diff := cmp.Diff(want, told, cmp.AllowUnexported(place{})); diff != "" {
				t.Fatalf("states (-document +timeline): %s", diff)
			}
		}
		start := starts(t)
		start.RunID = runID
		w.decide(&Start{Event: start, Workflow: def.ID, DefVersion: "v1", Hash: "h"}, At{Stream: w.now})
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			w.step()
		}
		if rapid.Bool().Draw(t, "cancel") && !w.run.State.Final() {
			w.seq++
			w.decide(&Cancel{}, At{Seq: w.seq, Stream: w.now})
		}
	})
}

func TestTransitionsSayWhy(t *testing.T) {
	t.Parallel()
	before := &Run{State: event.RunRunning, Tasks: []RunTask{{ID: "a", State: event.TaskRunning, Attempt: 2, Agent: "x"}}}
	why := &event.TaskError{Code: "broken", Message: strings.Repeat("é", timelineMessage)}
	after := &Run{State: event.RunFailed, Error: why, Tasks: []RunTask{{ID: "a", State: event.TaskFailed, Attempt: 2, Agent: "x", Error: why}}}
	clipped := strings.Repeat("é", timelineMessage/2)
	want := []event.Transition{
		{Cause: "result", TaskID: "a", From: "running", To: "failed", Attempt: 2, AgentID: "x", Code: "broken", Message: clipped},
		{Cause: "result", From: "running", To: "failed", Code: "broken", Message: clipped},
	}
	if diff := cmp.Diff(want, transitions(nil, before, after, "result")); diff != "" {
		t.Error(diff)
	}
	for in, want := range map[Input]string{
		&Said{Event: &event.Result{}}: "result", &Refused{}: "rejected", &Refused{Silent: true}: "no responder", &Tick{}: "timer", nil: "paused",
	} {
		if got := causeOf(in, "paused"); got != want {
			t.Errorf("%T is %q, want %q", in, got, want)
		}
	}
}

func TestMomentIsEncodedAsMarshalDoes(t *testing.T) {
	t.Parallel()
	full := event.Transition{At: noon, Cause: "c", TaskID: "t", From: "a", To: "b", Attempt: 1, AgentID: "x", Code: "e", Message: "m\n"}
	for _, m := range []moment{{N: 3, At: noon, Steps: []event.Transition{full, {}}}, {Steps: []event.Transition{}}} {
		if got, want := string(m.encode()), string(event.MustMarshal(&m)); got != want {
			t.Errorf("encode:  %s\nmarshal: %s", got, want)
		}
	}
}

// A timeline that has grown beyond what is kept says how much is missing.
func TestLongTimelineSaysWhatItDropped(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	revs := storage.NewRevisions()
	run := &Run{ID: "r", State: event.RunRunning}
	var rev storage.Rev
	for range timelineCap + 7 {
		c := &change{after: run, story: []event.Transition{{Cause: "a", TaskID: "t", To: "ready"}, {Cause: "b", TaskID: "t", To: "assigned"}}}
		txn := storage.Txn{Rev: revs.Next(), If: []storage.Cond{{Key: runKey("r"), Rev: rev}}}
		c.tell(&txn, noon)
		txn.Put = []storage.Put{{Key: runKey("r"), Data: run.encode()}}
		if err := store.Commit(t.Context(), txn)[0]; err != nil {
			t.Fatal(err)
		}
		rev = txn.Rev
	}
	h, err := NewQueries(store).History(t.Context(), "r")
	if err != nil || h.Dropped != 14 || len(h.Items) != 2*timelineCap || !h.Items[0].At.Equal(noon) {
		t.Errorf("%d transitions, %d dropped, %v", len(h.Items), h.Dropped, err)
	}
	if run.Story != 2*(timelineCap+7) {
		t.Errorf("the run counts %d transitions", run.Story)
	}
}

// What the timeline costs beside a commit: two moments of a run of one task.
func BenchmarkTimelineOfOneTask(b *testing.B) {
	def := chain(1)
	start := &Start{Event: &event.RunStart{RunID: "r"}, Workflow: "w", DefVersion: "v", Hash: "h"}
	created := Decide(def, nil, start, At{Now: noon, Stream: noon})
	give := &Assign{TaskID: def.Tasks[0].TaskID, Agent: "a", Token: "x"}
	assigned := Decide(def, created.Run, give, At{Now: noon})
	result := &Said{Agent: "a", Event: &event.Result{AttemptRef: assigned.Run.Tasks[0].ref("r"), Status: event.StatusCompleted}}
	ended := Decide(def, assigned.Run, result, At{Now: noon, Stream: noon})
	b.ReportAllocs()
	for b.Loop() {
		var txn storage.Txn
		first := &change{}
		first.advance(start, &created)
		first.advance(give, &assigned)
		first.tell(&txn, noon)
		second := &change{before: assigned.Run, after: assigned.Run}
		second.advance(result, &ended)
		second.tell(&txn, noon.Add(time.Second))
	}
}
