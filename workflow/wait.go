package workflow

import (
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow/expr"
)

// What a task waits for that no agent does.
const (
	waitsTime     = "time"
	waitsSignal   = "signal"
	waitsApproval = "approval"
)

// await makes a task wait. The wait is over at until, whatever that means; zero is never. Its attempts count how often it has begun.
func (d *decider) await(rt *RunTask, what string, until time.Time) {
	rt.State, rt.Waits = event.TaskWaiting, what
	rt.Attempt++
	rt.Started, rt.Until, rt.Look = d.at.Now, until, until
	if d.out.Cause == "" {
		d.out.Cause = "waiting"
	}
	d.changed = true
}

// patience is until when a task waits for somebody; zero seconds are for ever.
func (d *decider) patience(seconds float64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return d.at.Now.Add(span(seconds))
}

// enterWait begins a task that lets time pass, by the clock of the wall.
func (d *decider) enterWait(t *Task, rt *RunTask) {
	until := d.patience(t.Wait.Seconds)
	if t.Wait.Until != "" {
		var err error
		if until, err = d.moment(t.Wait.Until); err != nil {
			d.blame(rt, err)
			return
		}
	}
	if until.IsZero() {
		until = d.at.Now
	}
	d.await(rt, waitsTime, until)
}

// moment evaluates an expression to a time. Its error is errNeeds or one for blame.
func (d *decider) moment(source string) (time.Time, error) {
	x, err := d.def.expression(source, expr.Time)
	if err != nil {
		return time.Time{}, err
	}
	s, err := d.scope(x.Refs())
	if err != nil {
		return time.Time{}, err
	}
	return x.Time(s)
}

// tickWaiting looks at a wait that may be over. What was said in time, but has not been taken in yet, is taken in first.
func (d *decider) tickWaiting(rt *RunTask, in *Tick) {
	if rt.Waits == waitsTime {
		d.complete(rt, nil)
		return
	}
	if in.Intake.Before(rt.Until) {
		d.lookAgain(rt, rt.Until)
		return
	}
	t := d.task(rt.ID)
	switch {
	case rt.Waits == waitsSignal && t.Signal != nil:
		d.failFor(rt, &event.TaskError{
			Code: "signal_timeout", Message: fmt.Sprintf("no signal %q within %s", t.Signal.Name, span(t.Signal.TimeoutSeconds)),
		})
	case rt.Waits == waitsApproval && t.Approval != nil:
		d.approvalDue(t, rt)
	default:
		d.failFor(rt, &event.TaskError{Code: string(event.CodeInternal), Message: "nothing is known of what the task waits for"})
	}
}
