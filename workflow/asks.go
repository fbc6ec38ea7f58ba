package workflow

import (
	"context"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Asks is how long a run has waited for people: that is none of its time, nor of the runs that it is inside of.
type Asks struct {
	Since time.Time `json:"since,omitzero"` // zero while it waits for nobody
	Ms    int64     `json:"ms,omitzero"`    // before that
	At    time.Time `json:"at,omitzero"`    // of a child: when it began or ceased to wait
}

func (a *Asks) open() bool { return a != nil && !a.Since.IsZero() }

func (a *Asks) lasted() time.Duration {
	if a == nil {
		return 0
	}
	return time.Duration(a.Ms) * time.Millisecond
}

// ChildAsks says that a child has begun to wait for people, or has ceased to.
type ChildAsks struct {
	TaskID string
	Round  int
	Index  int
	On     bool
}

func (*ChildAsks) input() {}

// childAsks notes which children wait for people.
func (d *decider) childAsks(in *ChildAsks) {
	_, rt := d.parent(in.TaskID, in.Round)
	if rt == nil || !slices.Contains(rt.Kids.Active, in.Index) || slices.Contains(rt.Kids.Asks, in.Index) == in.On {
		return
	}
	k := d.changeKids(rt)
	if in.On {
		k.Asks = append(k.Asks, in.Index)
	} else {
		k.Asks = slices.DeleteFunc(k.Asks, func(index int) bool { return index == in.Index })
	}
}

// awaited reports whether a task waits for people, itself or in the runs that it has started.
func (t *RunTask) awaited() bool {
	return t.asks() || t.Kids != nil && len(t.Kids.Asks) > 0 && !t.State.Final()
}

// clocked reports whether it matters how long the run waits for people.
func (d *decider) clocked() bool {
	p := d.run.Parent
	return d.def.RunTimeoutSeconds != 0 || p != nil && p.Clock
}

// askClock lets the clock of the whole run stand while it waits for people, and go on when it does not. A pause counts for itself.
func (d *decider) askClock() {
	r := d.run
	if !d.clocked() || r.State.Final() || r.Undoing != nil {
		return
	}
	asks := r.State == event.RunRunning && slices.ContainsFunc(r.Tasks, func(t RunTask) bool { return t.awaited() })
	if asks == r.Asks.open() {
		return
	}
	next := &Asks{Ms: r.Asks.lasted().Milliseconds()}
	if asks {
		next.Since = d.at.Now
	} else {
		next.Ms += d.at.Now.Sub(r.Asks.Since).Milliseconds()
	}
	if r.Parent != nil && r.Parent.Clock {
		next.At = d.at.Now
	}
	r.Asks = next
	d.armRun()
}

// asksTurned returns when a child that goes on began or ceased to wait for people between two documents of it; zero if it did not, or nobody needs to know.
func asksTurned(before, after *Run) time.Time {
	if after.Parent == nil || !after.Parent.Clock || after.State.Final() || before.Asks.open() == after.Asks.open() {
		return time.Time{}
	}
	return after.Asks.At
}

// asksDue tells a parent that a child has begun to wait for people, or has ceased to. Which of it is true is looked at when that is decided.
func (e *Engine) asksDue(ctx context.Context, id string, op *storage.IndexOp) ([]*input, error) {
	child, err := e.reread(ctx, id, (*Run).exists)
	if err != nil {
		return nil, err
	}
	if child == nil || child.Parent == nil {
		return nothing(op), nil
	}
	p := child.Parent
	return []*input{{run: p.Run, in: &ChildAsks{TaskID: p.Task, Round: p.Round, Index: p.Index}, timer: op}}, nil
}

// lookAtChild completes what is said of a child by what its document says. The change will be committed only if that still holds, so of two replicas that tell of
// it the one which has seen less tells nothing.
func (e *Engine) lookAtChild(ctx context.Context, v *view, c *change, in *ChildAsks) (Input, error) {
	if !c.after.exists() {
		return in, nil
	}
	id := childID(c.after.ID, in.TaskID, in.Round, in.Index)
	v.distrustRun(e, id)
	if err := e.loadRuns(ctx, v, []string{id}); err != nil {
		return nil, err
	}
	child := v.runs[id]
	c.conds = append(c.conds, storage.Cond{Key: runKey(id), Rev: child.rev})
	said := *in
	said.On = child.val.exists() && !child.val.State.Final() && child.val.Asks.open()
	return &said, nil
}
