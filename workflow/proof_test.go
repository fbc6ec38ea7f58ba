package workflow

import (
	"context"
	"flag"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

var onlyScene = flag.Int("scene", 0, "play this scene and no other")

// Whatever is lost, comes twice, comes late or dies: runs of two replicas end as the plain interpreter says, and nothing is done twice.
func TestRunsEndAsThePlainInterpreterSays(t *testing.T) {
	t.Parallel()
	for seed := 1; seed <= scenesPlayed; seed++ {
		if *onlyScene > 0 && seed != *onlyScene {
			continue
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			bustest.Bubble(t, func(t *testing.T) { playScene(t, uint64(seed)) })
		})
	}
}

func playScene(t *testing.T, seed uint64) {
	sc := scenes().Example(int(seed))
	s := newStage(t, sc, seed)
	defer s.close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for id, def := range map[string]event.Raw{"inner": event.Raw(fmt.Sprintf(innerDefinition, sc.inner)), sc.def.ID: event.MustMarshal(sc.def)} {
		m := nats.NewMsg(event.CommandSubject(event.KindWorkflowApply, id))
		m.Data = def
		if o, _, err := s.conn.Call(ctx, m); err != nil || !o.OK {
			t.Fatalf("workflow %s was not applied: %v %v", id, err, o.Error)
		}
	}
	s.steer(ctx)
	run := s.ends(ctx)
	if !t.Failed() {
		s.compare(ctx, run)
	}
	for _, a := range sc.acts {
		if !a.early && !t.Failed() {
			run = s.act(ctx, run, a)
		}
	}
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	if !t.Failed() {
		s.settles(ctx)
	}
	t.Logf("scene %d was over after %v; the run %s, and went on again %d times of %d; mishaps: %v, deaths: %d",
		seed, time.Since(s.began), run.State, s.goes, s.watch.told, s.count, s.deaths)
	if t.Failed() {
		t.Logf("the definition: %s; %+v", event.MustMarshal(sc.def), sc.acts)
		for id, r := range s.watch.runs {
			if id == runID || !r.State.Final() || r.State != s.read(id).State {
				t.Logf("run %s: %s", id, event.MustMarshal(r))
			}
		}
	}
}

// steer says what people say of the run, in the background: it is started, paused, resumed, sent signals and perhaps cancelled.
func (s *stage) steer(ctx context.Context) {
	say := func(kind event.CommandKind, body any) { s.say(event.CommandSubject(kind, runID), body) }
	start := func() {
		say(event.KindRunStart, &event.RunStart{WorkflowID: s.scene.def.ID, Input: event.MustMarshal(s.scene.input)})
	}
	s.at(0, time.Second, func() {
		start()
		if s.happens(repetition) {
			start()
		}
	})
	s.sendSignals() // perhaps before the start
	if s.between(0, 3) == 0 {
		s.at(time.Second, 6*time.Second, func() {
			say(event.KindRunPause, &event.RunCommand{})
			s.sleep(s.between(0, 5*time.Second))
			say(event.KindRunResume, &event.RunCommand{})
		})
	}
	if s.cancelled = s.between(0, 9) == 0; s.cancelled {
		s.at(time.Second, 10*time.Second, func() { say(event.KindRunCancel, &event.RunCommand{Reason: "enough"}) })
	}
	for _, a := range s.scene.acts {
		if a.early {
			s.acting.Add(1)
			s.at(time.Second, 10*time.Second, func() {
				_ = s.says(ctx, a, &Run{}) // whether it comes too early, nobody knows
				s.acting.Add(-1)
			})
		}
	}
}

// at lets something be done in a while, in the background.
func (s *stage) at(least, most time.Duration, do func()) {
	wait := s.between(least, most)
	s.cast.Go(func() {
		if s.sleep(wait) {
			do()
		}
	})
}

// sendSignals sends the signals that are sent, each in a while.
func (s *stage) sendSignals() {
	for _, task := range slices.Sorted(mapKeys(s.scene.signals)) {
		if s.scene.signals[task] {
			s.at(0, 8*time.Second, func() {
				s.say(event.CommandSubject(event.KindRunSignal, runID), &event.RunCommand{Name: "sig-" + task, Payload: event.Raw(`{"for":"` + task + `"}`)})
			})
		}
	}
}

// ends waits until the run has ended, and says a person's word where it waits for one.
func (s *stage) ends(ctx context.Context) *Run {
	said := make(map[string]bool)
	for s.sleep(200 * time.Millisecond) {
		settled := s.acting.Load() == 0
		run := s.read(runID)
		switch {
		case run == nil:
		case run.State.Final():
			if settled {
				return run
			}
		case ctx.Err() != nil:
			s.t.Errorf("the run does not end; due: %v", append(s.entries(dueIndex), s.entries(kinIndex)...))
			return run
		default:
			for i := range run.Tasks {
				t := &run.Tasks[i]
				word := s.scene.words[t.ID]
				asked := fmt.Sprint(t.ID, " ", reruns(run))
				if !t.asks() || word == "" || said[asked] {
					continue
				}
				said[asked] = true
				kind := event.KindRunApprove
				if word == wordReject {
					kind = event.KindRunReject
				}
				for range 1 + s.between(0, 1) { // the same word again changes nothing
					s.say(event.CommandSubject(kind, runID), &event.RunCommand{TaskID: t.ID, By: "zoe"})
				}
			}
		}
		if ctx.Err() != nil {
			s.t.Errorf("the run was not started")
			return nil
		}
	}
	return nil
}

func (s *stage) read(id string) *Run {
	docs, err := s.store.Get(s.done, runKey(id))
	if err != nil {
		s.t.Errorf("read run %s: %v", id, err)
		return nil
	}
	if docs[0].Rev == "" {
		return nil
	}
	r := new(Run)
	if err := event.Unmarshal(docs[0].Data, r); err != nil {
		s.t.Error(err)
		return nil
	}
	if r.stub() {
		return nil
	}
	return r
}

func (s *stage) entries(index storage.Index) (members []string) {
	entries, err := s.store.Range(s.done, index, storage.Cursor{}, storage.MaxScore, 1000)
	if err != nil {
		s.t.Error(err)
	}
	for _, e := range entries {
		members = append(members, e.Member)
	}
	return members
}

// settles waits until nothing is due, and fails the test unless everything is given back and every child has ended.
func (s *stage) settles(ctx context.Context) {
	left := func() (what []string) {
		for _, m := range append(s.entries(dueIndex), s.entries(kinIndex)...) {
			if !strings.HasPrefix(m, timerBackoff) { // of agents alone
				what = append(what, "due: "+m)
			}
		}
		s.watch.mu.Lock()
		defer s.watch.mu.Unlock()
		for agent, g := range s.watch.gates {
			for _, h := range g.Held {
				what = append(what, "held on "+agent+": "+attemptName(h.RunID, h.TaskID, h.Attempt))
			}
		}
		for id, l := range s.watch.limit {
			if !l.idle() {
				what = append(what, fmt.Sprintf("limiter %s: %s", id, event.MustMarshal(l)))
			}
		}
		for id, r := range s.watch.runs {
			if !r.State.Final() {
				what = append(what, fmt.Sprintf("run %s is %s", id, r.State))
			}
		}
		return what
	}
	for range 600 {
		if len(left()) == 0 {
			break
		}
		s.sleep(200 * time.Millisecond)
	}
	synctest.Wait() // what was said last is heard
	if what := left(); len(what) > 0 {
		s.t.Errorf("left behind: %v", what)
	}
	for _, index := range []storage.Index{readyIndex("c:c"), readyIndex("c:spare"), readyIndex("c:undo"), approvalIndex, earlyIndex} {
		if members := s.entries(index); len(members) > 0 {
			s.t.Errorf("index %s holds %v", index, members)
		}
	}
	if fact := s.fact.Load(); fact == nil || fact.Run.State != s.read(runID).State {
		s.t.Errorf("the fact of the end: %s", event.MustMarshal(fact))
	}
}

// compare compares how the run has ended with what the interpreter says.
func (s *stage) compare(ctx context.Context, run *Run) {
	fates, state := s.scene.play()
	if s.cancelled && run.State == event.RunCancelled {
		state = event.RunCancelled
	}
	if run.State != state {
		s.t.Errorf("the run %s (%v), the interpreter says %s", run.State, run.Error, state)
		return
	}
	completed := 0
	for i := range s.scene.def.Tasks {
		t := &s.scene.def.Tasks[i]
		rt, got := s.task(ctx, run, t.TaskID)
		if got == event.TaskCompleted {
			completed++
		}
		left := got == event.TaskSkipped && rt.Attempt > 0 && reruns(run) > 0 // the run came to it before, and not this time
		cut := run.State != event.RunCompleted && (got == event.TaskCancelled || got == event.TaskPending || left)
		if !cut && got != fates[t.TaskID] {
			s.t.Errorf("task %s is %s, the interpreter says %q: %s", t.TaskID, got, fates[t.TaskID], event.MustMarshal(rt))
			continue
		}
		if want, known := s.scene.outputs[t.TaskID]; known && got == event.TaskCompleted {
			failing := s.scene.failing[t.TaskID]
			if s.scene.forNobody(t, fates) && t.ForEach != nil {
				want, failing = make([]any, len(failing)), slices.Repeat([]bool{true}, len(failing))
			}
			s.compareOutput(run, rt, want, failing)
		}
	}
	if run.Completed != completed {
		s.t.Errorf("%d tasks have completed, the run counts %d", completed, run.Completed)
	}
	s.compareUndone(run)
}

// task returns a task as it is kept, in the document of its run or in one of its own.
func (s *stage) task(ctx context.Context, run *Run, id string) (*RunTask, event.TaskState) {
	if rt := run.Find(id); rt != nil {
		return rt, rt.State
	}
	state := run.mark(s.scene.def.placeOf(id)).state()
	docs, err := s.store.Get(ctx, runTaskKey(runID, id))
	if err != nil {
		s.t.Fatal(err)
	}
	rt := new(RunTask)
	if docs[0].Rev != "" {
		if err := event.Unmarshal(docs[0].Data, rt); err != nil {
			s.t.Fatal(err)
		}
	}
	if rt.State != state { // it is of a time before the run went on again
		return &RunTask{ID: id}, state
	}
	return rt, state
}

// compareOutput compares what a task has brought.
func (s *stage) compareOutput(run *Run, rt *RunTask, want any, failing []bool) {
	raw := rt.Output
	if rt.Big {
		docs, err := s.store.Get(s.done, outputKey(run.ID, rt.ID, rt.Attempt))
		if err != nil {
			s.t.Fatal(err)
		}
		raw = docs[0].Data
	}
	var got any
	if err := event.Unmarshal(raw, &got); err != nil {
		s.t.Errorf("the output of %s is %s: %v", rt.ID, raw, err)
		return
	}
	for i, bad := range failing {
		item, _ := got.([]any)[i].(map[string]any)
		if (item["error"] != nil) != bad {
			s.t.Errorf("item %d of %s is %v", i, rt.ID, item)
		}
		if bad {
			got.([]any)[i] = nil
		}
	}
	var wanted any
	_ = event.Unmarshal(event.MustMarshal(want), &wanted)
	if wanted == nil {
		wanted = []any{}
	}
	if got = unpadded(got); !reflect.DeepEqual(got, wanted) {
		s.t.Errorf("the output of %s is %v, want %v", rt.ID, got, wanted)
	}
}

// unpadded is an output without what only makes it large.
func unpadded(v any) any {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "pad")
	case []any:
		for _, item := range v {
			unpadded(item)
		}
	}
	return v
}

// compareUndone compares what was undone with what had completed: the latest first, each once.
func (s *stage) compareUndone(run *Run) {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	var done, undone, want []string
	for _, id := range s.watch.ended[run.ID] {
		if of, is := strings.CutSuffix(id, undoSuffix); is {
			undone = append(undone, of)
		} else if t := s.scene.def.Find(id); t != nil && t.Compensate != nil {
			done = append(done, id)
		}
	}
	for _, id := range slices.Backward(done) {
		if run.State != event.RunCompleted && s.scene.bodies[id+undoSuffix] {
			want = append(want, id)
		}
	}
	if !slices.Equal(want, undone) {
		s.t.Errorf("undone: %v, want %v", undone, want)
	}
}
