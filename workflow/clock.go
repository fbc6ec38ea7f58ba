package workflow

import (
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Codes of failures by time.
const (
	codeQueueTimeout   = "queue_timeout"   // nobody has taken the task in time
	codeNotAccepted    = "not_accepted"    // its agent did not answer in time
	codeTimeout        = "timeout"         // no result and no progress in time
	codeAttemptTimeout = "attempt_timeout" // no result in time, whatever progress there was
	codeRunTimeout     = "run_timeout"     // the run has not ended in time
)

// span turns seconds of a definition into a duration, zero if it says none.
func span(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// timeout is how long an attempt may go on without progress.
func (d *decider) timeout(t *Task) time.Duration {
	if c := t.Timeouts; c != nil && c.ProgressSeconds > 0 {
		return span(c.ProgressSeconds)
	}
	for _, s := range []float64{t.TimeoutSeconds, d.def.TimeoutSeconds} {
		if s > 0 {
			return span(s)
		}
	}
	return DefaultTimeout
}

// acceptWithin is how long an agent has to accept an attempt.
func acceptWithin(t *Task, via event.Delivery) time.Duration {
	switch {
	case t.Timeouts != nil && t.Timeouts.AcceptSeconds > 0:
		return span(t.Timeouts.AcceptSeconds)
	case via != "":
		return event.PushDeadline
	}
	return event.AcceptDeadline
}

// queue arms the clock of a task that waits for an agent. A refusal does not set it back: it runs until an agent has accepted the task.
func (d *decider) queue(t *RunTask) {
	if c := d.task(t.ID).Timeouts; c != nil && c.QueueSeconds > 0 && t.QueueBy.IsZero() {
		t.QueueBy = d.at.Now.Add(span(c.QueueSeconds))
	}
	t.Look = t.QueueBy
}

// startClocks starts the clocks of an attempt that is given to an agent.
func (d *decider) startClocks(t *RunTask) {
	task, now := d.task(t.ID), d.at.Now
	t.Assigned, t.Renewed = now, now
	t.Lease, t.EndBy = time.Time{}, time.Time{}
	if c := task.Timeouts; c != nil && c.RunSeconds > 0 {
		t.EndBy = now.Add(span(c.RunSeconds))
	}
	d.renew(t, now)
	t.AcceptBy, t.Look = now.Add(acceptWithin(task, t.Delivery)), now.Add(AskAgain)
	if t.Delivery != "" {
		t.AcceptBy, t.Look = earlier(t.AcceptBy, t.Lease), now.Add(PushAskAgain)
	}
	t.Look = earlier(t.Look, t.AcceptBy)
}

// renew gives an attempt its time without progress again. The lease never ends behind the time that the attempt has in all.
func (d *decider) renew(t *RunTask, from time.Time) {
	if lease := from.Add(d.timeout(d.task(t.ID))); lease.After(t.Lease) {
		t.Lease = lease
	}
	if !t.EndBy.IsZero() {
		t.Lease = earlier(t.Lease, t.EndBy)
	}
}

// tickReady fails a task that nobody has taken in time. It spends no retry: nothing was tried.
func (d *decider) tickReady(t *RunTask, in *Tick) {
	if in.Intake.Before(t.QueueBy) {
		d.lookAgain(t, t.QueueBy)
		return
	}
	within := span(d.task(t.ID).Timeouts.queue())
	d.giveOn(t, &event.TaskError{Code: codeQueueTimeout, Message: "no agent has taken the task within " + within.String()})
}

func (c *Timeouts) queue() float64 {
	if c == nil {
		return 0
	}
	return c.QueueSeconds
}

// tickAssigned looks at an attempt that was not known to be accepted.
func (d *decider) tickAssigned(t *RunTask, in *Tick) {
	switch {
	case in.Accepted == t.Attempt:
		d.running(t)
	case in.Intake.Before(t.AcceptBy):
		if !t.once() {
			d.out.Ask = t.ID
		}
		again := d.at.Now.Add(AskAgain)
		if t.Delivery != "" {
			again = earlier(d.at.Now.Add(PushAskAgain), t.AcceptBy)
		}
		d.lookAgain(t, again)
	case t.once():
		d.running(t) // it was asked, or perhaps not, but must not be asked again: whether it is at work only its lease can tell
	default:
		d.giveUp(t, codeNotAccepted, "the agent did not accept the task within "+t.AcceptBy.Sub(t.Assigned).String())
	}
}

// tickRunning looks at an attempt whose lease may be over.
func (d *decider) tickRunning(t *RunTask, in *Tick) {
	switch {
	case in.Intake.Before(t.Lease):
		d.lookAgain(t, t.Lease)
	case !t.EndBy.IsZero() && !t.Lease.Before(t.EndBy):
		d.giveUp(t, codeAttemptTimeout, "no result within "+t.EndBy.Sub(t.Assigned).String())
	default:
		d.giveUp(t, codeTimeout, "no result and no progress within "+d.timeout(d.task(t.ID)).String())
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// lookAgain arms the timer for a time that has not come, but not for one that has.
func (d *decider) lookAgain(t *RunTask, at time.Time) {
	if soon := d.at.Now.Add(LookAgain); at.Before(soon) {
		at = soon
	}
	t.Look = at
	d.changed = true
}

// giveUp ends an attempt that did not end by itself: its agent is told, and the slot drains until it has confirmed.
func (d *decider) giveUp(t *RunTask, code, message string) {
	d.slot(t, SlotDrain).Failed = true
	d.fail(t, &event.TaskError{Code: code, Message: message})
}
