package workflow

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// act is how somebody lets the run go on again: retried, or run again from a task.
type act struct {
	kind  event.CommandKind
	task  string // that it is run again from
	as    string // how that is done from then on, empty for as before
	n     int    // and what it brings
	early bool   // it is said while the run goes on, or when it has ended, as it comes
}

// deed is what becomes of a task.
type deed struct {
	completes bool
	value     int
	output    any
	failing   []bool
}

// again draws how the run is let go on again.
func (s *scene) again(t *rapid.T, tasks []string) {
	for i := range rapid.SampledFrom([]int{0, 0, 0, 1, 1, 2, 3}).Draw(t, "acts") {
		a := act{
			kind: rapid.SampledFrom([]event.CommandKind{event.KindRunRerun, event.KindRunRerun, event.KindRunRetry}).Draw(t, "act"),
			task: rapid.SampledFrom(tasks).Draw(t, "from"), early: i == 0 && rapid.IntRange(0, 3).Draw(t, "early") == 0,
		}
		if a.kind == event.KindRunRerun && !a.early && s.takesInput(a.task) && rapid.Bool().Draw(t, "edited") {
			a.as, a.n = rapid.SampledFrom([]string{asGood, asFinal}).Draw(t, "as then"), rapid.IntRange(0, 3).Draw(t, "value then")
		}
		s.acts = append(s.acts, a)
	}
}

// takesInput reports whether a task does what its input says, so that another input is another deed.
func (s *scene) takesInput(id string) bool {
	t := s.def.Find(id)
	return t.Loop == nil && (t.AgentCapability != "" || t.Select != nil || t.Workflow != nil)
}

// command is what is said to the run.
func (s *scene) command(a act, run *Run) *event.RunCommand {
	c := &event.RunCommand{TaskID: a.task}
	if a.kind == event.KindRunRetry {
		c.TaskID = ""
		if i := slices.IndexFunc(run.Tasks, func(t RunTask) bool { return s.broke(t.ID, t.State) && t.State == event.TaskFailed }); i >= 0 && a.n == 0 {
			c.TaskID = run.Tasks[i].ID // what was cancelled goes on with it
		}
	}
	switch {
	case a.as == "":
	case s.def.Find(a.task).ForEach != nil:
		c.Set = event.Raw(fmt.Sprintf(`{"as":%q}`, a.as))
	default:
		c.Set = event.Raw(fmt.Sprintf(`{"as":%q,"n":%d}`, a.as, a.n))
	}
	return c
}

// broke reports whether a task that has ended so is what the run did not get done.
func (s *scene) broke(id string, state event.TaskState) bool {
	t := s.def.Find(id)
	return state == event.TaskCancelled || state == event.TaskFailed && t != nil && (t.OnFailure == nil || t.OnFailure.TaskID == "" && !t.OnFailure.Continue)
}

// allows reports whether a run that has ended may go on so.
func (s *scene) allows(a act, run *Run, tasks map[string]*RunTask) bool {
	switch {
	case run.Undoing != nil:
		return false
	case a.kind == event.KindRunRetry:
		return run.State != event.RunCompleted
	}
	return slices.Contains([]event.TaskState{event.TaskCompleted, event.TaskFailed, event.TaskCancelled}, tasks[a.task].State)
}

// anew are the tasks that are done again although they have completed: the one that the run begins with, and all behind it.
func (s *scene) anew(a act) map[string]bool {
	ids := make(map[string]bool)
	if a.kind == event.KindRunRetry {
		return ids
	}
	for next := []string{a.task}; len(next) > 0; next = next[1:] {
		if ids[next[0]] {
			continue
		}
		ids[next[0]] = true
		from := s.def.Find(next[0])
		for i := range s.def.Tasks {
			if is, _, _ := s.edge(from, &s.def.Tasks[i], nil); is {
				next = append(next, s.def.Tasks[i].TaskID)
			}
		}
	}
	return ids
}

// change makes the deeds those of a run that goes on so: what people have said of a task holds until it, or one before it, is run again.
func (s *scene) change(a act) {
	for id := range s.anew(a) {
		if d, ok := s.drawn[id]; ok {
			s.bodies[id], s.values[id], s.outputs[id], s.failing[id] = d.completes, d.value, d.output, d.failing
			delete(s.drawn, id)
		}
	}
	if a.as == "" {
		return
	}
	id, good := a.task, a.as == asGood
	s.drawn[id] = deed{s.bodies[id], s.values[id], s.outputs[id], s.failing[id]}
	s.bodies[id] = good || s.alone[id]
	if items, ok := s.input[id].([]any); ok {
		brings := make([]any, len(items))
		for i := range items {
			if good {
				brings[i] = map[string]any{"n": i}
			}
		}
		s.outputs[id], s.failing[id] = brings, slices.Repeat([]bool{!good}, len(items))
		return
	}
	s.values[id], s.outputs[id] = a.n, map[string]any{"n": a.n}
}

// says tells the run to go on again, and returns why it does not. It may be said twice.
func (s *stage) says(ctx context.Context, a act, run *Run) error {
	m := nats.NewMsg(event.CommandSubject(a.kind, runID))
	m.Data = event.MustMarshal(s.scene.command(a, run))
	times := 1
	if s.happens(repetition) {
		times = 2 // the run may have ended again
	}
	var why error
	for first := true; times > 0; times-- {
		s.watch.expect(s.scene.anew(a))
		switch o, _, err := s.conn.Call(ctx, m); {
		case err != nil:
			s.t.Errorf("%s has no outcome: %v", a.kind, err)
			return err
		case o.OK:
			s.sendSignals()
			first, why = false, nil
		case first:
			why = fmt.Errorf("refused: %w", o.Error)
		}
	}
	return why
}

// act lets the run that has ended go on again, and compares how it ends then, and what of it is new.
func (s *stage) act(ctx context.Context, run *Run, a act) *Run {
	before := s.tasks(ctx, run)
	allowed := s.scene.allows(a, run, before)
	s.mu.Lock()
	s.calm = time.Now().Add(calmAfter)
	s.mu.Unlock()
	switch why := s.says(ctx, a, run); {
	case (why == nil) != allowed:
		s.t.Errorf("%s %s of a run that %s: %v, undoing %v, task %s", a.kind, a.task, run.State, why, run.Undoing != nil, before[a.task].State)
		return run
	case why != nil:
		return run
	}
	s.scene.change(a)
	s.goes++
	if run = s.ends(ctx); s.t.Failed() {
		return run
	}
	s.compare(ctx, run)
	anew := s.scene.anew(a)
	for id, t := range s.tasks(ctx, run) {
		old := before[id]
		done := old.State == event.TaskCompleted || old.State == event.TaskFailed && !s.scene.broke(id, old.State)
		switch {
		case !done || old.Ended.IsZero():
		case !anew[id] && (t.Attempt != old.Attempt || t.State != old.State || !t.Ended.Equal(old.Ended)):
			s.t.Errorf("%s %s has done %s again: %s, before %s", a.kind, a.task, id, event.MustMarshal(t), event.MustMarshal(old))
		case anew[id] && t.State == event.TaskCompleted && !t.Ended.After(old.Ended):
			s.t.Errorf("%s %s has not done %s again: %s", a.kind, a.task, id, event.MustMarshal(t))
		}
	}
	return run
}

// tasks returns all tasks of the run as they are kept.
func (s *stage) tasks(ctx context.Context, run *Run) map[string]*RunTask {
	tasks := make(map[string]*RunTask, len(s.scene.def.Tasks))
	for i := range s.scene.def.Tasks {
		id := s.scene.def.Tasks[i].TaskID
		rt, state := s.task(ctx, run, id)
		t := *rt
		t.State = state
		tasks[id] = &t
	}
	return tasks
}

// expect notes that the run may be let go on again once more, and which tasks are done again then.
func (w *watcher) expect(anew map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told++
	w.anew = anew
}

// reopened looks at a run that goes on again, and returns what is left of it as it was before. What has completed stays so, but for what is done anew.
func (w *watcher) reopened(id string, before, after *Run) *Run {
	if id != runID || reruns(after) != reruns(before)+1 || reruns(after) > w.told {
		w.t.Errorf("run %s, which %s, was let go on again for the %d. time, and was told to %d times", id, before.State, reruns(after), w.told)
	}
	w.ended[id] = slices.DeleteFunc(w.ended[id], func(task string) bool { return w.anew[task] })
	for _, task := range w.ended[id] {
		if t := after.Find(task); t == nil && after.mark(w.def.placeOf(task)) != markCompleted || t != nil && t.State != event.TaskCompleted {
			w.t.Errorf("task %s, which has completed, is %s when run %s goes on again", task, event.MustMarshal(t), id)
		}
	}
	rest := *before
	rest.Tasks = slices.Clone(before.Tasks)
	for i := range rest.Tasks {
		if t := &rest.Tasks[i]; w.anew[t.ID] || t.State != event.TaskCompleted {
			*t = RunTask{ID: t.ID, Attempt: t.Attempt}
		}
	}
	return &rest
}

func reruns(r *Run) int {
	if r.Control == nil {
		return 0
	}
	return r.Control.Reruns
}
