package workflow

import (
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// undoSuffix makes the id of the task that undoes another.
const undoSuffix = "~undo"

// Undoing is how a run will end that undoes what it has done before it does: it goes on until then.
type Undoing struct {
	State  event.RunState   `json:"state"`
	Error  *event.TaskError `json:"error,omitzero"`
	Failed []NotUndone      `json:"failed,omitzero"` // at most maxNotUndone
	Missed int              `json:"missed,omitzero"` // how many failed
}

// NotUndone is a task that could not be undone.
type NotUndone struct {
	TaskID  string `json:"taskId"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

const maxNotUndone = 20 // named in the error of a run

// undo returns the task that undoes another. It goes to the agent that has done it, unless it says to which.
func (t *Task) undo() *Task {
	c := t.Compensate
	s := c.Select
	if s.AgentID == "" && s.Capability == "" && s.SameAs == "" {
		s = Select{SameAs: t.TaskID}
	}
	u := &Task{TaskID: t.TaskID + undoSuffix, Parameters: c.Parameters, Retry: t.Retry, TimeoutSeconds: t.TimeoutSeconds}
	if t.Name != "" {
		u.Name = "Undo: " + t.Name
	}
	u.Select, u.Timeouts, u.Priority = &s, t.Timeouts, t.Priority
	return u
}

// undoes lists the tasks that undo others, of a run that undoes or has undone what it has done.
func (r *Run) undoes(def *Definition) []*Task {
	if r.Undoing == nil {
		return nil
	}
	var tasks []*Task
	for i := range def.Tasks {
		t := &def.Tasks[i]
		if t.Compensate == nil {
			continue
		}
		if done := r.Find(t.TaskID); done != nil && done.State == event.TaskCompleted || r.mark(i) == markCompleted {
			tasks = append(tasks, def.flow.undo[t.TaskID+undoSuffix])
		}
	}
	return tasks
}

// compensates notes that a task has completed which can be undone.
func (d *decider) compensates(t *RunTask) {
	if d.task(t.ID).Compensate != nil {
		d.run.Undo = append(slices.Clone(d.run.Undo), d.def.placeOf(t.ID))
	}
}

// undoFirst lets a run that is to end undo what it has done, if there is anything.
func (d *decider) undoFirst(state event.RunState, why *event.TaskError) bool {
	if state == event.RunCompleted || len(d.run.Undo) == 0 || d.run.Undoing != nil {
		return false
	}
	d.run.Undoing = &Undoing{State: state, Error: why}
	d.run.Look = time.Time{}
	d.run.Waits, d.ended, d.met = 0, nil, nil
	d.out.Cause = "compensating"
	d.changed = true
	return true
}

// undoAlthoughPaused ends the pause of a run that somebody wants to end, if there is something to undo: that is work for agents, and the run goes on until it
// is done. A run that fails by itself while it is paused undoes what it has done when it is resumed.
func (d *decider) undoAlthoughPaused() {
	if len(d.run.Undo) > 0 {
		d.proceed()
	}
}

// undoNext begins to undo the task that has completed last, or ends the run when all are undone.
func (d *decider) undoNext() {
	if n := len(d.run.Undo); n > 0 {
		place := d.run.Undo[n-1]
		d.run.Undo = d.run.Undo[: n-1 : n-1]
		d.reach(d.def.flow.undo[d.def.Tasks[place].TaskID+undoSuffix])
		return
	}
	u := d.run.Undoing
	why := u.Error
	if u.Missed > 0 {
		failed := *why
		failed.Details = event.MustMarshal(struct {
			Count  int         `json:"count"`
			Failed []NotUndone `json:"notUndone"`
		}{u.Missed, u.Failed})
		why = &failed
	}
	d.close(u.State, why)
}

// notUndone notes that a task could not be undone; the others are undone all the same.
func (d *decider) notUndone(t *RunTask, e *event.TaskError) {
	u := *d.run.Undoing
	u.Missed++
	if len(u.Failed) < maxNotUndone {
		one := NotUndone{TaskID: t.ID[:len(t.ID)-len(undoSuffix)], Code: e.Code, Message: clip(e.Message, event.MaxName)}
		u.Failed = append(slices.Clone(u.Failed), one)
	}
	d.run.Undoing = &u
	d.changed = true
}
