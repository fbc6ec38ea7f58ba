package workflow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow/expr"
)

// definitionOf returns the definition that a run follows: for most children of a forEach or a loop the one task of its parent's.
func (e *Engine) definitionOf(ctx context.Context, r *Run) (*Definition, error) {
	if r.Parent == nil || r.Parent.Only == "" {
		return e.definition(ctx, r.Workflow, r.DefVersion)
	}
	key := onlyKey(r.Workflow, r.DefVersion, r.Parent.Only)
	if c, ok := e.defs.Load(key); ok {
		return c.Value, nil
	}
	whole, err := e.definition(ctx, r.Workflow, r.DefVersion)
	if err != nil {
		return nil, err
	}
	one := whole.only(r.Parent.Only)
	if len(one.Tasks) > 0 {
		e.defs.Store(key, "", one)
	}
	return one, nil
}

// fillWindows lets the tasks of a run that has changed start the children that they may start now.
func (e *Engine) fillWindows(ctx context.Context, v *view, c *change) error {
	if c.after == nil || c.after == c.before {
		return nil
	}
	for i := 0; i < len(c.after.Tasks); i++ {
		t := &c.after.Tasks[i]
		if t.Kids == nil || t.State.Final() {
			continue
		}
		if task := c.def.Find(t.ID); task == nil || t.Kids.wants(task) == 0 {
			continue
		}
		in := &input{run: c.after.ID, in: &More{TaskID: t.ID, Limit: max(0, maxSpawn-len(c.spawn))}}
		if err := e.decide(ctx, v, c, in); err != nil {
			return err
		}
	}
	return nil
}

// spawn decides the children that a change makes. They go out with it in one Txn, so there is never a child that its parent does not know of, nor a
// parent that waits for a child which was not made.
func (e *Engine) spawn(ctx context.Context, v *view, c *change) ([]*change, error) {
	if len(c.spawn) == 0 {
		return nil, nil
	}
	if err := e.loadChildren(ctx, v, c); err != nil {
		return nil, err
	}
	children := make([]*change, 0, len(c.spawn))
	for _, s := range c.spawn {
		id := childID(c.after.ID, s.TaskID, s.Round, s.Index)
		there := v.runs[id].val
		if there.exists() {
			if err := e.meet(ctx, v, c, s, there); err != nil {
				return nil, err
			}
			continue
		}
		child := &change{run: v.runs[id], before: there, after: there} // a stub, if commands have come before it
		start, err := e.childStart(ctx, v, c, child, s)
		if err != nil {
			return nil, err
		}
		in := &input{run: id, start: start.Event}
		d, err := e.decideInput(ctx, v, child, start, At{Now: v.now, Stream: v.now, Random: rand.Float64()})
		if err != nil {
			return nil, err
		}
		if err := e.take(ctx, v, child, in, start, d); err != nil {
			return nil, err
		}
		if there.stub() {
			if err := e.absorb(ctx, v, child, there); err != nil {
				return nil, err
			}
		}
		if err := e.countSlots(ctx, v, child); err != nil {
			return nil, err
		}
		e.grow(c.after)
		children = append(children, child)
	}
	return children, nil
}

// sealFamily puts a change and the children it makes into one Txn, and gives the tasks of these to free agents.
func (e *Engine) sealFamily(ctx context.Context, v *view, c *change, children []*change, dispatching bool) error {
	g := v.open(e.revs)
	v.sealInto(g, c)
	for _, child := range children {
		if dispatching && child.after.State == event.RunRunning {
			if err := e.assignReady(ctx, v, child); err != nil {
				return err
			}
		}
		v.sealInto(g, child)
	}
	return nil
}

// loadChildren puts the runs that are to be made into the view. They do not exist, most likely; if one does, the commit will say so, and they are read.
func (e *Engine) loadChildren(ctx context.Context, v *view, c *change) error {
	unsure := slices.ContainsFunc(c.inputs, func(in *input) bool {
		_, missing := in.in.(*Missing)
		return in.again || missing
	})
	var ids []string
	for _, s := range c.spawn {
		id := childID(c.after.ID, s.TaskID, s.Round, s.Index)
		if unsure || e.runs.Has(runKey(id)) {
			ids = append(ids, id)
		} else if v.runs[id] == nil {
			v.runs[id] = &slot[*Run]{}
		}
	}
	return e.loadRuns(ctx, v, ids)
}

// meet deals with a run that has the id of a child which is to be made. If it is no child of this run, somebody has started it under that id.
func (e *Engine) meet(ctx context.Context, v *view, c *change, s Spawn, there *Run) error {
	if p := there.Parent; p != nil && p.Run == c.after.ID && p.Task == s.TaskID {
		return nil
	}
	return e.decide(ctx, v, c, &input{run: c.after.ID, in: &ChildEnded{
		TaskID: s.TaskID, Round: s.Round, Index: s.Index, State: event.RunFailed,
		Error: &event.TaskError{Code: codeChildConflict, Message: "there is a run " + there.ID + " that is no child of this one"},
	}})
}

// childStart returns what a child is started with, and puts the definition it follows into its change. A child that cannot be made as it should is made all the
// same, and fails with the reason: then its task treats it as every other that fails.
func (e *Engine) childStart(ctx context.Context, v *view, c, child *change, s Spawn) (*Start, error) {
	parent, t := c.after, c.def.Find(s.TaskID)
	ref := &ParentRef{
		Run: parent.ID, Task: s.TaskID, Round: s.Round, Index: s.Index, Items: t.ForEach != nil || t.Loop != nil, Born: parent.born(), Depth: parent.depth() + 1, Tree: parent.tree(),
		Clock: c.def.RunTimeoutSeconds > 0 || parent.Parent != nil && parent.Parent.Clock,
	}
	start := &Start{
		Event:    &event.RunStart{RunID: ref.ID(), Labels: parent.Labels, Priority: parent.Priority},
		Workflow: parent.Workflow, DefVersion: parent.DefVersion, Parent: ref,
	}
	if t.ForEach == nil && t.Loop == nil {
		ref.Previous = parent.Find(s.TaskID).Error
	}
	problem, err := e.childDefinition(ctx, parent, t, start, child)
	if err != nil {
		return nil, err
	}
	if problem == nil {
		problem, err = e.tellChild(ctx, v, c, t, s, start.Event)
	}
	if start.Problem = problem; err != nil {
		return nil, err
	}
	if t.inner() {
		return start, nil
	}
	if start.Queue, err = e.queueOf(ctx, child, start.Workflow); err != nil {
		return nil, err
	}
	return start, e.admit(ctx, v, child, start)
}

// childDefinition finds the definition that a child follows.
func (e *Engine) childDefinition(ctx context.Context, parent *Run, t *Task, start *Start, child *change) (problem *event.TaskError, err error) {
	if t.inner() {
		start.Parent.Only = t.TaskID
		child.def, err = e.definitionOf(ctx, &Run{Workflow: parent.Workflow, DefVersion: parent.DefVersion, Parent: start.Parent})
		return nil, err
	}
	id, version := t.Workflow.ID, t.Workflow.Version
	start.Workflow, start.DefVersion, child.def = id, version, &Definition{ID: id}
	if start.Parent.Depth > MaxDepth {
		return &event.TaskError{Code: codeTooDeep, Message: fmt.Sprintf("workflow %q would be inside of more than %d others", id, MaxDepth)}, nil
	}
	if version == "" {
		newest, err := e.newest(ctx, id)
		if err != nil {
			return nil, err
		}
		if newest.Value == nil {
			return &event.TaskError{Code: string(event.CodeUnknownDefinition), Message: fmt.Sprintf("there is no workflow %q", id)}, nil
		}
		version = newest.Value.Version
		child.conds = append(child.conds, storage.Cond{Key: definitionKey(id), Rev: newest.Rev}) // as for a run that is started
	}
	def, err := e.definition(ctx, id, version)
	if err != nil {
		return nil, err
	}
	if len(def.Tasks) == 0 && def.index == nil {
		return &event.TaskError{Code: string(event.CodeUnknownDefinition), Message: fmt.Sprintf("workflow %q has no version %q", id, version)}, nil
	}
	start.DefVersion, child.def = version, def
	return nil, nil
}

// tellChild puts into the start of a child which agent it is for, and its input: the parameters of its task, or the input of the workflow that it runs, seen from
// its parent. Without any it is given the item, or what the time before has brought.
func (e *Engine) tellChild(ctx context.Context, v *view, c *change, t *Task, s Spawn, start *event.RunStart) (problem *event.TaskError, err error) {
	p, err := e.plan(ctx, v, c, t, s.Round)
	if err != nil {
		return failure(err)
	}
	start.AgentID = p.agent
	scope := p.scope
	switch {
	case t.ForEach != nil:
		item, problem, err := e.item(ctx, c, s)
		if problem != nil || err != nil {
			return problem, err
		}
		scope = scope.With(item, s.Index)
	case t.Loop != nil:
		last, err := e.lastOutput(ctx, c.after.ID, s)
		if err != nil {
			return nil, err
		}
		scope = scope.With(nil, s.Index)
		scope.Output = last
	}
	in, err := c.after.edited(t.TaskID, func() (event.Raw, error) {
		if p.input == nil {
			return defaultInput(t, scope), nil
		}
		return p.input.Render(scope, maxChildInput)
	})
	if err != nil {
		return evalError(err), nil
	}
	if in.Kind() != '{' {
		return &event.TaskError{Code: string(event.CodeInvalid), Message: "the input must be an object"}, nil
	}
	start.Input = in
	return nil, nil
}

// maxChildInput leaves room for what else goes with a task to its agent.
const maxChildInput = event.MaxBody - 16<<10

func defaultInput(t *Task, s *expr.Scope) event.Raw {
	switch {
	case t.ForEach != nil:
		return event.MustMarshal(struct {
			Item  event.Raw `json:"item"`
			Index int       `json:"index"`
		}{s.Item, s.Index})
	case t.Loop != nil:
		return event.MustMarshal(struct {
			Index  int       `json:"index"`
			Output event.Raw `json:"output,omitzero"`
		}{s.Index, s.Output})
	}
	return event.Raw(`{}`)
}

// taskError returns the failure of a task that an error of an expression is, nil for other errors.
func taskError(err error) *event.TaskError {
	var wrong *expr.Error
	if errors.As(err, &wrong) {
		return wrong.TaskError()
	}
	return nil
}

// lastOutput returns what the time before of a loop has brought, null the first time.
func (e *Engine) lastOutput(ctx context.Context, run string, s Spawn) (event.Raw, error) {
	if s.Index == 0 {
		return event.Raw("null"), nil
	}
	last, err := e.readRuns(ctx, []string{childID(run, s.TaskID, s.Round, s.Index-1)})
	if err != nil {
		return nil, err
	}
	outputs, err := e.outputs(ctx, last)
	if err != nil {
		return nil, err
	}
	return outputs[0], nil
}

// born is when the first of a run's ancestors was created, which is itself for a run that is no child.
func (r *Run) born() time.Time {
	if r.Parent != nil {
		return r.Parent.Born
	}
	return r.Created
}

func (r *Run) depth() int {
	if r.Parent != nil {
		return r.Parent.Depth
	}
	return 0
}

// pauseTurned returns when a run that goes on was paused or resumed between two documents of it, as the score of what its children are told by; zero if it was not.
func pauseTurned(before, after *Run) time.Time {
	was, is := before.State == event.RunPaused, after.State == event.RunPaused
	switch {
	case was == is || after.State.Final():
		return time.Time{}
	case is:
		return after.Control.Paused
	}
	return before.Control.Paused.Add(time.Microsecond)
}

// leaves reports whether a task has ended before its children. One that is no longer in the document has ended too.
func (t *RunTask) leaves(after *RunTask) bool {
	kids := after.Kids
	if after.State == "" {
		kids = t.Kids
	} else if !after.State.Final() {
		return false
	}
	return !t.State.Final() && kids != nil && len(kids.Active) > 0
}
