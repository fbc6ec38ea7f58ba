package workflow

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// lookAfter does at once what a change has left to be done between parents and children. Should it be lost, the due entries of the same Txn see to it.
func (e *Engine) lookAfter(c *change) {
	e.wakeQueue(c)
	r, before := c.after, c.before
	if before == nil {
		before = &Run{}
	}
	if r.Parent != nil && r.State.Final() && !before.State.Final() {
		e.cfg.Crash("workflow-before-parent")
		e.inbox.fire(endDue(r))
	}
	if at := asksTurned(before, r); !at.IsZero() {
		e.inbox.fire(dueOp(kinIndex, timer(timerAsks, r.ID), at))
	}
	for i := range r.Tasks {
		t := &r.Tasks[i]
		if t.Kids == nil {
			continue
		}
		old := before.Find(t.ID)
		if old == nil {
			old = &RunTask{}
		}
		switch {
		case old.leaves(t):
			e.inbox.fire(dueOp(kinIndex, timer(timerKin, r.ID, t.ID), t.Ended))
		case !t.State.Final() && (old.Kids != t.Kids || !old.Look.Equal(t.Look)):
			e.goOn(c, old, t)
		}
	}
	if at := pauseTurned(before, r); !at.IsZero() {
		for i := range r.Tasks {
			if k := r.Tasks[i].Kids; k != nil && len(k.Active) > 0 {
				e.inbox.fire(dueOp(kinIndex, timer(timerKin, r.ID, r.Tasks[i].ID), at))
			}
		}
	}
	for i := range before.Tasks {
		if t := &before.Tasks[i]; t.Kids != nil && t.leaves(&RunTask{}) && r.Find(t.ID) == nil {
			e.inbox.fire(dueOp(kinIndex, timer(timerKin, r.ID, t.ID), time.Time{}))
		}
	}
}

// goOn does what a task that has children shows to be left undone.
func (e *Engine) goOn(c *change, old, t *RunTask) {
	task := c.def.Find(t.ID)
	switch {
	case task == nil:
	case !t.Kids.Opened || t.Kids.joins(task):
		e.jobs.add(job{run: c.after.ID, task: t.ID})
	case t.Kids.wants(task) > 0:
		e.inbox.more(c.after.ID, t.ID)
	case old.Kids != nil && !old.Look.After(time.Now()): // its timer was due
		e.jobs.add(job{run: c.after.ID, task: t.ID})
	}
}

// expand puts what follows from due entries in their place.
func (e *Engine) expand(ctx context.Context, inputs []*input) ([]*input, error) {
	var entries []*storage.IndexOp
	var rest []*input
	for _, in := range inputs {
		if in.fired {
			entries = append(entries, in.timer)
		} else {
			rest = append(rest, in)
		}
	}
	if len(entries) == 0 {
		return inputs, nil
	}
	found, err := e.lookUp(ctx, entries)
	return append(rest, found...), err
}

// lookUp turns due entries into inputs. The children among them are read together.
func (e *Engine) lookUp(ctx context.Context, entries []*storage.IndexOp) (inputs []*input, err error) {
	var children []string
	for _, op := range entries {
		if kind, ids, ok := parseTimer(op.Member); ok && kind == timerChild {
			children = append(children, ids[0])
		}
	}
	if err := e.loadRuns(ctx, &view{runs: make(map[string]*slot[*Run])}, children); err != nil {
		return nil, err
	}
	for _, op := range entries {
		more, err := e.timerInputs(ctx, op)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, more...)
	}
	return inputs, nil
}

// nothing lets a due entry go that nothing follows from.
func nothing(op *storage.IndexOp) []*input {
	return []*input{{gate: &gateInput{kind: gateNothing}, timer: op}}
}

// remembered returns a run as it is remembered, or else as the store has it; nil if there is none.
func (e *Engine) remembered(ctx context.Context, id string) (*Run, error) {
	v := &view{runs: make(map[string]*slot[*Run], 1)}
	if err := e.loadRuns(ctx, v, []string{id}); err != nil {
		return nil, err
	}
	return v.runs[id].val, nil
}

// reread returns a run as it is remembered if that is as it should be, and else as the store has it: another replica may have written what an entry is about.
func (e *Engine) reread(ctx context.Context, id string, good func(*Run) bool) (*Run, error) {
	r, err := e.remembered(ctx, id)
	if err != nil || r == nil || good(r) {
		return r, err
	}
	e.runs.Forget(runKey(id))
	return e.remembered(ctx, id)
}

// childDue tells a parent that a child has ended. What is only remembered is good enough if it says so: a run that has ended stays so.
func (e *Engine) childDue(ctx context.Context, id string, op *storage.IndexOp) ([]*input, error) {
	child, err := e.reread(ctx, id, func(r *Run) bool { return r.State.Final() })
	if err != nil {
		return nil, err
	}
	if child == nil || child.Parent == nil || !child.State.Final() {
		return nothing(op), nil
	}
	parent, err := e.reread(ctx, child.Parent.Run, (*Run).exists) // what is remembered may be only the commands that were kept for its start
	if err != nil {
		return nil, err
	}
	if !parent.exists() {
		return nothing(op), nil
	}
	def, err := e.definitionOf(ctx, parent)
	if err != nil {
		return nil, err
	}
	t := def.Find(child.Parent.Task)
	end := endOfChild(child)
	if t == nil || t.ForEach != nil || end.Error != nil {
		return []*input{{run: parent.ID, in: end, timer: op}}, nil
	}
	if t.Loop != nil {
		e.jobs.add(job{run: parent.ID, task: t.TaskID, child: id, due: *op})
		return nil, nil
	}
	outputs, err := e.outputs(ctx, []*Run{child})
	if err != nil {
		return nil, err
	}
	end.Output = outputs[0]
	return []*input{{run: parent.ID, in: end, timer: op}}, nil
}

// endOfChild is what its parent hears of a child that has ended, without its output.
func endOfChild(child *Run) *ChildEnded {
	p := child.Parent
	end := &ChildEnded{TaskID: p.Task, Round: p.Round, Index: p.Index, State: child.State, Error: child.Error}
	if child.State == event.RunCompleted {
		end.Error = nil
	} else if end.Error == nil {
		end.Error = &event.TaskError{Code: string(child.State), Message: "run " + child.ID + " was " + string(child.State)}
	}
	return end
}

// kinDue ends the children of a task that ended before them, or pauses and resumes them with it. It is looked at again until all are as they should be.
func (e *Engine) kinDue(ctx context.Context, run, task string, op *storage.IndexOp) ([]*input, error) {
	e.runs.Forget(runKey(run))
	r, err := e.remembered(ctx, run)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nothing(op), nil
	}
	t := r.Find(task)
	if t == nil {
		if t, err = e.movedTask(ctx, run, task); err != nil {
			return nil, err
		}
	}
	if t == nil || t.Kids == nil {
		return nothing(op), nil
	}
	kin := t.kin(run)
	ids := make([]string, len(kin))
	for i := range kin {
		ids[i] = kin[i].ID()
		e.runs.Forget(runKey(ids[i])) // one that only seems to be as it should be would be left behind
	}
	v := &view{runs: make(map[string]*slot[*Run], len(ids))}
	if err := e.loadRuns(ctx, v, ids); err != nil {
		return nil, err
	}
	var inputs []*input
	for i, id := range ids {
		child := v.runs[id].val
		wanted := t.wants(kin[i].Round)
		halts, turn := wanted && r.State == event.RunPaused, r.turns()
		if !wanted {
			turn = lastTurn
		}
		switch {
		case child == nil || child.State.Final():
		case !wanted && child.Undoing == nil:
			inputs = append(inputs, &input{run: id, in: &Orphaned{Parent: kin[i]}})
		case child.pausedWithParent() != halts || child.heard() < turn: // one that is as it should be must not heed an older word any more either
			inputs = append(inputs, &input{run: id, in: &Held{On: halts, Turn: turn}})
		}
	}
	if len(inputs) == 0 {
		return nothing(op), nil
	}
	return inputs, nil
}

// kin lists the children of a task that may go on, those of earlier rounds among them.
func (t *RunTask) kin(run string) []ParentRef {
	var list []ParentRef
	for _, past := range append(slices.Clone(t.Kids.Past), round{N: t.Kids.Round, Active: t.Kids.Active}) {
		for _, index := range past.Active {
			list = append(list, ParentRef{Run: run, Task: t.ID, Round: past.N, Index: index})
		}
	}
	return list
}

// wants reports whether a task still has use for the children of a round: it has neither ended before them, nor is it to begin once more.
func (t *RunTask) wants(round int) bool {
	return round == t.Kids.Round && !t.State.Final() && t.State != event.TaskPending
}

// movedTask reads a task that has left the document of its run; nil if there is none.
func (e *Engine) movedTask(ctx context.Context, run, task string) (*RunTask, error) {
	docs, err := e.cfg.Store.Get(ctx, runTaskKey(run, task))
	if err != nil || docs[0].Rev == "" {
		return nil, err
	}
	t := new(RunTask)
	if err := event.Unmarshal(docs[0].Data, t); err != nil {
		return nil, fmt.Errorf("document %s: %w", docs[0].Key, err)
	}
	return t, nil
}
