package workflow

import (
	"context"
	"errors"
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

// A timeline begins in the run, moves to the log when it grows, and says how much is missing once it has grown beyond what is kept.
func TestTimelineGrowsOutOfTheRun(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	revs := storage.NewRevisions()
	run := &Run{ID: "r", State: event.RunRunning}
	var rev storage.Rev
	inline := 0
	for i := range timelineCap + 50 {
		c := &change{after: run, story: []event.Transition{{Cause: "a", TaskID: "t", To: "ready"}, {Cause: "b", TaskID: "t", To: "assigned", Attempt: i}}}
		txn := storage.Txn{Rev: revs.Next(), If: []storage.Cond{{Key: runKey("r"), Rev: rev}}}
		c.tell(&txn, noon)
		doc := run.encode()
		if len(doc) > 2*timelineInline {
			t.Fatalf("moment %d: the run has %d bytes", i, len(doc))
		}
		txn.Put = []storage.Put{{Key: runKey("r"), Data: doc}}
		if err := store.Commit(t.Context(), txn)[0]; err != nil {
			t.Fatal(err)
		}
		rev = txn.Rev
		if len(txn.LogAppend) == 0 {
			inline++
		}
		if i%97 != 0 && i != timelineCap+49 {
			continue
		}
		h, err := NewQueries(store).History(t.Context(), "r")
		if err != nil || h.Dropped+len(h.Items) != 2*(i+1) || h.Items[len(h.Items)-1].Attempt != i || !h.Items[0].At.Equal(noon) {
			t.Fatalf("after moment %d: %d transitions, %d dropped, %v", i, len(h.Items), h.Dropped, err)
		}
		if i < timelineCap && h.Dropped > 0 || i == timelineCap+49 && h.Dropped == 0 {
			t.Fatalf("after moment %d: %d transitions, %d dropped", i, len(h.Items), h.Dropped)
		}
	}
	if inline < timelineCap/2 {
		t.Errorf("only %d of %d moments were written without the log", inline, timelineCap+50)
	}
}

// A run that nobody has started, but for which commands are kept, has no timeline.
func TestNoTimelineOfARunThatWasNotStarted(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	txn := storage.Txn{Rev: storage.NewRevisions().Next(), If: []storage.Cond{{Key: runKey("r")}}, Put: []storage.Put{{Key: runKey("r"), Data: (&Run{ID: "r"}).encode()}}}
	if err := store.Commit(t.Context(), txn)[0]; err != nil {
		t.Fatal(err)
	}
	if _, err := NewQueries(store).History(t.Context(), "r"); !isUnknown(err) {
		t.Errorf("got %v", err)
	}
}

func isUnknown(err error) bool {
	var e *event.Error
	return errors.As(err, &e) && e.Code == event.CodeUnknownRun
}

// What moves to the log while a timeline is being read is found twice, and shown once.
func TestTimelineReadWhileItMoves(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	revs := storage.NewRevisions()
	run := &Run{ID: "r", State: event.RunRunning}
	write := func(rev storage.Rev) storage.Rev {
		c := &change{after: run, story: []event.Transition{{Cause: "a", TaskID: "t", To: "ready", Message: strings.Repeat("m", timelineMessage)}}}
		txn := storage.Txn{Rev: revs.Next(), If: []storage.Cond{{Key: runKey("r"), Rev: rev}}}
		c.tell(&txn, noon)
		txn.Put = []storage.Put{{Key: runKey("r"), Data: run.encode()}}
		if err := store.Commit(t.Context(), txn)[0]; err != nil {
			t.Fatal(err)
		}
		return txn.Rev
	}
	rev := write("")
	rev = write(rev)
	h, err := NewQueries(&interrupted{Store: store, then: func() {
		for i := 0; len(run.Moments) > 0 && i < 20; i++ { // until all have moved
			rev = write(rev)
		}
	}}).History(t.Context(), "r")
	if err != nil || len(h.Items) != run.Story || h.Dropped != 0 || run.Story < 3 {
		t.Errorf("%d of %d transitions, %d dropped, %v", len(h.Items), run.Story, h.Dropped, err)
	}
}

// interrupted is a store to which something happens after a document was read.
type interrupted struct {
	storage.Store
	then func()
}

func (s *interrupted) Get(ctx context.Context, keys ...storage.Key) ([]storage.Doc, error) {
	docs, err := s.Store.Get(ctx, keys...)
	s.then()
	return docs, err
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
