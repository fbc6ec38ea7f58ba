package workflow

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/opspawn/opscore/bus/event"
)

// maxEdits bounds the inputs that people have given to tasks of a run, in bytes: they stand in its document.
const maxEdits = 16 << 10

// aboveMoved is how far attempt numbers skip ahead when the documents of tasks are let go that knew theirs.
const aboveMoved = 1000

// Edit is the input that somebody has given to a task which is run again.
type Edit struct {
	TaskID string    `json:"taskId"`
	Input  event.Raw `json:"input,omitzero"` // instead of its own
	Set    event.Raw `json:"set,omitzero"`   // members that replace those of its input
}

// retry lets a run that has failed or was cancelled go on from the tasks that did not complete, or from one of them: from one that has failed together with what
// was cancelled because of that.
func (d *decider) retry(c *event.RunCommand) {
	if !d.mayReopen() {
		return
	}
	if d.run.State == event.RunCompleted {
		d.refuse(event.CodeNotAllowedNow, "the run has completed; it can be run again from one of its tasks with \"opscore run rerun\"")
		return
	}
	again := d.broken()
	if c.TaskID != "" {
		if !again[c.TaskID] {
			d.refuse(event.CodeNotAllowedNow, "task %q has not failed and was not cancelled", c.TaskID)
			return
		}
		// What was cancelled because a task had failed goes on with it: else the run would complete without that.
		failed := d.stateOf(c.TaskID) == event.TaskFailed
		maps.DeleteFunc(again, func(id string, _ bool) bool {
			return id != c.TaskID && (!failed || d.stateOf(id) != event.TaskCancelled)
		})
	}
	first := maps.Clone(again)
	d.addUnreached(again)
	d.reopen(again, first)
	d.out.Cause = "retried"
}

// rerun lets a run that has ended go on from one of its tasks: what followed from it is done again, and so is what did not complete. The outputs of
// all others are used again.
func (d *decider) rerun(c *event.RunCommand) {
	if !d.mayReopen() {
		return
	}
	t := d.def.Find(c.TaskID)
	if t == nil {
		d.refuse(event.CodeInvalid, "workflow %q has no task %q", d.def.ID, c.TaskID)
		return
	}
	if k := d.def.kind(t); len(c.Input)+len(c.Set) > 0 && k != nodeAgent && k != nodeChildren {
		d.refuse(event.CodeInvalid, "task %q takes no input", c.TaskID)
		return
	}
	if s := d.stateOf(c.TaskID); s != event.TaskCompleted && s != event.TaskFailed && s != event.TaskCancelled {
		d.refuse(event.CodeNotAllowedNow, "the run did not come to task %q: %s", c.TaskID, s)
		return
	}
	behind := d.behind(c.TaskID)
	first := map[string]bool{c.TaskID: true}
	for id := range d.broken() {
		if !behind[id] {
			first[id] = true
		}
	}
	anew := maps.Clone(behind)
	anew[c.TaskID] = true
	maps.Copy(behind, first)
	d.addUnreached(behind)
	d.reopen(behind, first)
	if d.out.Refuse == nil {
		d.edit(c, anew)
	}
	d.out.Cause = "run again"
}

// mayReopen reports whether the run has ended in a way that lets it go on, and refuses the command otherwise.
func (d *decider) mayReopen() bool {
	switch {
	case !d.run.State.Final():
		d.refuse(event.CodeNotAllowedNow, "the run goes on: %s", d.run.State)
	case d.run.Parent != nil:
		d.refuse(event.CodeNotAllowedNow, "the run is a part of run %q, which can be retried or run again", d.run.Parent.Run)
	case d.run.Undoing != nil:
		d.refuse(event.CodeNotAllowedNow, "the run has undone what it had done; start another one")
	case d.run.Total == 0:
		d.refuse(event.CodeNotAllowedNow, "the run had not begun; start another one")
	case d.run.late(d.at.Now):
		d.refuse(event.CodeNotAllowedNow, "the run was to end by %s; start another one", d.run.Control.Deadline.UTC().Format(time.RFC3339))
	default:
		return true
	}
	return false
}

// stateOf is how far a task of the run has come, in its document or beside it.
func (d *decider) stateOf(id string) event.TaskState {
	if t := d.run.Find(id); t != nil {
		return t.State
	}
	if d.run.Marks != nil {
		return d.run.mark(d.def.placeOf(id)).state()
	}
	if d.run.Total > inlineTasks { // of a long sequence, all up to the one that failed have completed
		for _, e := range d.run.Recent {
			if e.ID == id {
				return e.State
			}
		}
		if n, ok := d.steps()[id]; ok && n < d.run.Completed {
			return event.TaskCompleted
		}
	}
	return event.TaskPending
}

// steps says at which step a sequence comes to each of its tasks.
func (d *decider) steps() map[string]int {
	if d.way == nil {
		d.way = make(map[string]int, len(d.def.Tasks))
		for t := d.def.first(); t != nil && len(d.way) < len(d.def.Tasks); t = d.def.after(t) {
			d.way[t.TaskID] = len(d.way)
		}
	}
	return d.way
}

// broken are the tasks that the run did not get done: they have failed, and nothing was to follow from that, or were cancelled.
func (d *decider) broken() map[string]bool {
	ids := make(map[string]bool)
	for i := range d.def.Tasks {
		t := &d.def.Tasks[i]
		switch d.stateOf(t.TaskID) {
		case event.TaskCancelled:
			ids[t.TaskID] = true
		case event.TaskFailed:
			ids[t.TaskID] = t.OnFailure == nil || t.OnFailure.TaskID == "" && !t.OnFailure.Continue
		}
	}
	maps.DeleteFunc(ids, func(_ string, broken bool) bool { return !broken })
	return ids
}

// addUnreached adds the tasks that an earlier go of the run has reached and the last one has not: see dropPending.
func (d *decider) addUnreached(ids map[string]bool) {
	for i := range d.run.Tasks {
		if t := &d.run.Tasks[i]; t.State == event.TaskSkipped && t.Attempt > 0 {
			ids[t.ID] = true
		}
	}
}

// behind are all tasks that may follow from one.
func (d *decider) behind(id string) map[string]bool {
	ids := make(map[string]bool)
	if !d.def.graph() {
		for t := d.def.after(d.def.Find(id)); t != nil && !ids[t.TaskID]; t = d.def.after(t) {
			ids[t.TaskID] = true
		}
		return ids
	}
	for next := []int{d.def.placeOf(id)}; len(next) > 0; next = next[1:] {
		for _, e := range d.def.flow.edges[next[0]] {
			if to := d.def.Tasks[e.to].TaskID; !ids[to] {
				ids[to] = true
				next = append(next, e.to)
			}
		}
	}
	return ids
}

// reopen lets the run go on: the tasks of again are as if they had not been reached, and first are begun. What had ended otherwise leads to what
// follows once more, so that every join has what it had.
func (d *decider) reopen(again, first map[string]bool) {
	kept, err := d.keptEnds(again)
	if err != nil {
		if !errors.Is(err, errNeeds) {
			d.refuse(event.CodeNotAllowedNow, "what the run has decided cannot be decided again: %v", err)
		}
		return
	}
	completed := 0
	for i := range d.def.Tasks {
		if id := d.def.Tasks[i].TaskID; !again[id] && d.stateOf(id) == event.TaskCompleted {
			completed++
		}
	}
	ctl := d.control()
	ctl.Reruns++
	ctl.Begun, ctl.StoodMs, ctl.Paused, ctl.Own, ctl.Kin = d.at.Now, 0, time.Time{}, false, false
	d.run.State, d.run.Error, d.run.Ended = event.RunRunning, nil, time.Time{}
	d.run.Output, d.run.BigOutput, d.run.Asks = nil, false, nil
	d.run.Undo = slices.DeleteFunc(slices.Clone(d.run.Undo), func(place int) bool { return again[d.def.Tasks[place].TaskID] })
	d.forget(again)
	d.run.Completed = completed
	d.armRun()
	for i := range d.def.Tasks { // in the order of the definition
		t := &d.def.Tasks[i]
		switch {
		case !first[t.TaskID]:
		case d.def.graph():
			d.present(t).State = "" // begun in any case, whatever arrives
			d.met = append(d.met, i)
		default:
			d.reach(t)
		}
	}
	d.ended = kept
}

// keptEnds are the ends of the tasks that are not done again.
func (d *decider) keptEnds(again map[string]bool) ([]ended, error) {
	if !d.def.graph() {
		return nil, nil
	}
	var kept []ended
	for i := range d.def.Tasks {
		t := &d.def.Tasks[i]
		state := d.stateOf(t.TaskID)
		if again[t.TaskID] || state != event.TaskCompleted && state != event.TaskFailed && state != event.TaskSkipped {
			continue
		}
		end := ended{place: i, state: state}
		if state == event.TaskFailed && t.OnFailure != nil && t.OnFailure.TaskID == "" {
			end.state = event.TaskCompleted
		}
		if state == event.TaskCompleted {
			choice, err := d.choose(t.Switch)
			if err != nil {
				return nil, err
			}
			end.choice = choice
		}
		kept = append(kept, end)
	}
	return kept, nil
}

// forget lets go of what the tasks have come to. Their attempts go on counting; those of tasks that were moved out of the document skip ahead.
func (d *decider) forget(again map[string]bool) {
	above := false
	for id := range again {
		place := d.def.placeOf(id)
		if d.run.mark(place) != markNone {
			d.run.setMark(place, markNone)
			above = true
		} else if d.run.Find(id) == nil && d.run.Total > inlineTasks {
			above = true
		}
	}
	if above {
		d.control().Above += aboveMoved
	}
	d.run.Recent = slices.DeleteFunc(slices.Clone(d.run.Recent), func(e EndedTask) bool { return again[e.ID] })
	for i := range d.run.Tasks {
		t := &d.run.Tasks[i]
		switch {
		case again[t.ID]:
			*t = RunTask{ID: t.ID, State: event.TaskPending, Attempt: t.Attempt, Kids: t.Kids, Error: t.Error}
		case t.State == event.TaskCompleted:
			t.Reused = true
		}
	}
}

// dropPending removes the tasks that were not reached from a run that has ended. One that was reached in an earlier go keeps its attempts.
func (d *decider) dropPending() {
	d.run.Tasks = slices.DeleteFunc(d.run.Tasks, func(t RunTask) bool { return t.State == event.TaskPending && t.Attempt == 0 })
	for i := range d.run.Tasks {
		if t := &d.run.Tasks[i]; t.State == event.TaskPending {
			d.endTask(t, event.TaskSkipped)
		}
	}
}

// edit notes the input that somebody gives to a task which is run again. What was given before to it, and to what follows from it, does not hold any more; what
// was given to others does, also when they are retried.
func (d *decider) edit(c *event.RunCommand, anew map[string]bool) {
	ctl := d.control()
	ctl.Edits = slices.DeleteFunc(ctl.Edits, func(e Edit) bool { return anew[e.TaskID] })
	if len(c.Input) == 0 && len(c.Set) == 0 {
		return
	}
	size := len(c.Input) + len(c.Set)
	for _, e := range ctl.Edits {
		size += len(e.Input) + len(e.Set)
	}
	if size > maxEdits {
		d.refuse(event.CodeTooLarge, "the inputs given to tasks of this run have %d bytes together, at most %d are allowed", size, maxEdits)
		return
	}
	ctl.Edits = append(ctl.Edits, Edit{TaskID: c.TaskID, Input: c.Input, Set: c.Set})
}

// taskInput is what a task is given: its own input, unless somebody has edited that. Its error is errNeeds or one for blame.
func (d *decider) taskInput(t *Task) (event.Raw, error) {
	return d.run.edited(t.TaskID, func() (event.Raw, error) { return d.ownInput(t) })
}

// edited returns the input of a task as somebody has edited it; own makes what it is given otherwise. Its error is that of own.
func (r *Run) edited(taskID string, own func() (event.Raw, error)) (event.Raw, error) {
	var edit Edit
	if r.Control != nil {
		if i := slices.IndexFunc(r.Control.Edits, func(e Edit) bool { return e.TaskID == taskID }); i >= 0 {
			edit = r.Control.Edits[i]
		}
	}
	in := edit.Input
	if len(in) == 0 {
		var err error
		if in, err = own(); err != nil {
			return nil, err
		}
	}
	if len(edit.Set) == 0 {
		return in, nil
	}
	members, set := make(map[string]event.Raw), make(map[string]event.Raw)
	if json.Unmarshal(in, &members) != nil || json.Unmarshal(edit.Set, &set) != nil {
		return in, nil // both were checked to be objects
	}
	maps.Copy(members, set)
	return json.Marshal(members, json.Deterministic(true))
}
