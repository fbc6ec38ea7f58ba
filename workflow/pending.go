package workflow

import (
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Begin says that it is the turn of a run that waits in a queue, or with another queue that it waits there first.
type Begin struct{ Queue string }

func (*Begin) input() {}

// pending reports whether the run has not begun.
func (r *Run) pending() bool {
	return r.State == event.RunPending || r.Control != nil && (r.Control.Queue != "" || !r.Control.Begin.IsZero())
}

// queue is where the run waits for its turn: nowhere before its time to begin has come, and while it is paused it keeps its place.
func (r *Run) queue() string {
	if r.Control == nil || r.State.Final() {
		return ""
	}
	return r.Control.Queue
}

// beginOrWait lets a run that is started begin, or wait for its time or its turn.
func (d *decider) beginOrWait(in *Start) {
	if ends := in.Event.Ends(d.run.Created); !ends.IsZero() {
		d.control().Deadline = ends
	}
	if in.Slot != "" {
		d.control().Slot = in.Slot
	}
	// The stream's clock may be ahead of this one: who asks for no delay gets none.
	if at := in.Event.Begins(d.run.Created); at.After(d.at.Now) && at.After(d.run.Created) {
		d.control().Begin = at
		d.run.State = event.RunPending
	} else if in.Queue != "" {
		d.control().Queue = in.Queue
		d.run.State = event.RunPending
	}
	if d.run.State != event.RunPending {
		d.first()
	}
	if !d.run.State.Final() {
		d.armRun()
	}
}

// itsTurn lets a run begin that was pending, unless it has to wait in another queue first.
func (d *decider) itsTurn(in *Begin) {
	if !d.run.pending() || d.run.State.Final() || d.at.Now.Before(d.run.Control.Begin) || in.Queue != "" && in.Queue == d.run.Control.Queue {
		return
	}
	ctl := d.control()
	ctl.Begin, ctl.Queue = time.Time{}, in.Queue
	if d.run.State == event.RunPaused { // it begins when it is resumed
		ctl.Begin, ctl.Queue = d.at.Now, ""
		return
	}
	if in.Queue == "" {
		d.run.State, ctl.Begun = event.RunRunning, d.at.Now
		d.out.Cause = "begun"
		d.first()
	}
	if !d.run.State.Final() {
		d.armRun()
	}
}

// limit is when the run fails unless it has ended, zero for never.
func (d *decider) limit() time.Time {
	var limit time.Time
	switch {
	case d.run.Undoing != nil:
		return limit
	case d.run.Legacy:
		limit = d.run.endsBy()
	case d.def.RunTimeoutSeconds > 0 && !d.run.pending():
		limit = d.run.began().Add(span(d.def.RunTimeoutSeconds) + d.run.stood() + d.run.Asks.lasted())
	}
	if d.run.State == event.RunPaused || d.run.Asks.open() && !d.run.Legacy {
		limit = time.Time{}
	}
	if ctl := d.run.Control; ctl != nil && !ctl.Deadline.IsZero() && (limit.IsZero() || ctl.Deadline.Before(limit)) {
		limit = ctl.Deadline
	}
	return limit
}

// armRun arms the run's own timer for the first of what may be due: its limit, or its time to begin.
func (d *decider) armRun() {
	d.run.Look = d.limit()
	if ctl := d.run.Control; d.run.State == event.RunPending && !ctl.Begin.IsZero() && (d.run.Look.IsZero() || ctl.Begin.Before(d.run.Look)) {
		d.run.Look = ctl.Begin
	}
	d.changed = true
}

// tickRun looks at what is due about a run as a whole. That a pending run begins is said by a *Begin.
func (d *decider) tickRun(in *Tick) {
	limit := d.limit()
	switch {
	case d.run.Look.IsZero() || d.at.Now.Before(d.run.Look):
	case limit.IsZero() || d.at.Now.Before(limit):
		d.armRun()
	case in.Intake.Before(limit):
		d.run.Look = d.at.Now.Add(LookAgain)
		d.changed = true
	default:
		d.end(event.RunFailed, &event.TaskError{Code: codeRunTimeout, Message: "the run did not end " + d.within(limit)})
	}
}

// within says which limit is over.
func (d *decider) within(limit time.Time) string {
	switch {
	case limit.Equal(d.run.Control.deadline()):
		return "by " + limit.UTC().Format(time.RFC3339)
	case d.run.Legacy:
		return "within " + (d.run.endsBy().Sub(d.run.began()) - d.run.stood()).String()
	}
	return "within " + span(d.def.RunTimeoutSeconds).String()
}

// began is when the run began, or was last retried or run again.
func (r *Run) began() time.Time {
	if r.Control == nil || r.Control.Begun.IsZero() {
		return r.Created
	}
	return r.Control.Begun
}

// late reports whether the deadline of the run has passed.
func (r *Run) late(now time.Time) bool {
	by := r.Control.deadline()
	return !by.IsZero() && !now.Before(by)
}

func (c *Control) deadline() time.Time {
	if c == nil {
		return time.Time{}
	}
	return c.Deadline
}
