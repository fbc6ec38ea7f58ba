package workflow

import (
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// said applies what an agent says of an attempt. It is judged by attempt, token and status, never by its place in the stream: an
// attempt is outdated only when its successor has been assigned.
func (d *decider) said(in *Said) {
	ref, instance := refOf(in.Event)
	t := d.run.recall(ref.TaskID)
	if t != nil && ref.Attempt > t.Attempt && !t.held() && !t.State.Final() && d.at.Adopt {
		d.adopt(t, in.Agent, ref, instance)
	}
	if why := d.stale(t, in.Agent, ref, instance); why != nil {
		if _, ok := in.Event.(*event.Result); !ok {
			d.out.Stray = t != nil && ref.Attempt < t.Attempt // of a later one anybody may speak: it may be forged
		} else if t == nil || ref.Attempt != t.Attempt {
			d.out.Slots = []SlotChange{{Agent: in.Agent, Ref: ref, Kind: SlotLate, At: d.at.Stream}}
		}
		d.out.Refuse = why
		return
	}
	switch e := in.Event.(type) {
	case *event.Accepted:
		if t.State == event.TaskAssigned {
			d.running(t)
		}
	case *event.Progress:
		d.progress(t, e)
	case *event.Result:
		d.result(t, e)
	}
}

// stale says why what an agent says of an attempt is refused, or is nil.
func (d *decider) stale(t *RunTask, agent string, ref event.AttemptRef, instance string) *event.Error {
	switch {
	case t == nil:
		return event.Errorf(event.CodeStaleAttempt, "task %q is not active in this run", ref.TaskID)
	case ref.Attempt != t.Attempt:
		return event.Errorf(event.CodeStaleAttempt, "attempt %d of task %q is not the current one", ref.Attempt, ref.TaskID)
	case t.Agent != agent:
		return event.Errorf(event.CodeStaleAttempt, "attempt %d of task %q was given to another agent", ref.Attempt, ref.TaskID)
	case ref.Token != "" && ref.Token != t.Token:
		return event.Errorf(event.CodeStaleAttempt, "the token is not the one of attempt %d of task %q", ref.Attempt, ref.TaskID)
	case instance != "" && t.Process != "" && instance != t.Process:
		return event.Errorf(event.CodeStaleInstance, "attempt %d of task %q was given to another process", ref.Attempt, ref.TaskID)
	}
	return nil
}

// recall returns the task, or what is remembered of one that ended lately and was moved out of the document.
func (r *Run) recall(taskID string) *RunTask {
	if t := r.Find(taskID); t != nil {
		return t
	}
	for _, e := range r.Recent {
		if e.ID == taskID {
			return &RunTask{
				ID: e.ID, State: e.State, Attempt: e.Attempt, Agent: e.Agent, Token: e.Token, Process: e.Process, Word: e.Word, Schema: e.Schema,
			}
		}
	}
	return nil
}

func refOf(e event.Event) (ref event.AttemptRef, instance string) {
	switch e := e.(type) {
	case *event.Accepted:
		return e.AttemptRef, e.Instance
	case *event.Progress:
		return e.AttemptRef, e.Instance
	case *event.Result:
		return e.AttemptRef, e.Instance
	}
	return ref, instance
}

// adopt takes over an attempt that the store has lost with a regression.
func (d *decider) adopt(t *RunTask, agent string, ref event.AttemptRef, instance string) {
	t.Attempt, t.Agent, t.Token, t.Process, t.Delivery = ref.Attempt, agent, ref.Token, instance, ""
	t.Class, t.Schema = "", "" // which schema it had is lost
	d.startClocks(t)
	d.running(t)
	if t.Started.IsZero() {
		t.Started = d.at.Now
	}
	d.slot(t, SlotTake)
	d.changed = true
}

// running notes that the agent has accepted the attempt; from now on only its lease counts.
func (d *decider) running(t *RunTask) {
	t.State, t.Look, t.QueueBy = event.TaskRunning, t.Lease, time.Time{}
	d.changed = true
}

// progress shows what the agent says and renews the lease, with a commit at most every third of it.
func (d *decider) progress(t *RunTask, e *event.Progress) {
	if !t.held() {
		if !t.State.Final() {
			return // it was given up already, but its result would still be taken
		}
		if t.State == event.TaskCompleted {
			return // said before the result, and overtaken by it
		}
		d.refuse(event.CodeStaleAttempt, "attempt %d of task %q has ended", e.Attempt, e.TaskID)
		d.out.Stray = true
		return
	}
	if t.State == event.TaskAssigned {
		d.running(t)
	}
	if !d.changed && d.at.Stream.Sub(t.Renewed) < d.timeout(d.task(t.ID))/3 {
		return
	}
	t.Percent, t.Message = e.Percent, e.Message
	d.renew(t, d.at.Stream)
	t.Look, t.Renewed = t.Lease, d.at.Stream
	d.out.Cause = "progress"
	d.changed = true
}

// result ends an attempt. During the back-off before the next one it is still taken, and cancels the retry.
func (d *decider) result(t *RunTask, e *event.Result) {
	failure := e.Error
	if e.Status == event.StatusCompleted {
		failure = d.checkOutput(t, e.Output)
	}
	if t.State.Final() {
		if !sameEnd(t, failure) { // else it was taken in before
			d.refuse(event.CodeStaleAttempt, "attempt %d of task %q has ended", e.Attempt, e.TaskID)
		}
		d.slot(t, SlotLate).At = d.at.Stream
		return
	}
	slot := d.slot(t, SlotResult)
	slot.At, slot.Failed = d.at.Stream, failure != nil
	if !t.held() && failure != nil {
		return // it was given up already, for this or another reason
	}
	if failure != nil {
		d.fail(t, failure)
		return
	}
	d.complete(t, e.Output)
}

// sameEnd reports whether the task ended the way this result says.
func sameEnd(t *RunTask, failure *event.TaskError) bool {
	return t.State == event.TaskCompleted && failure == nil || t.State == event.TaskFailed && failure != nil
}

// refused takes an attempt back that never began. It costs no retry.
func (d *decider) refused(in *Refused) {
	t := d.current(in.Ref)
	if t == nil || t.State != event.TaskAssigned {
		return
	}
	kind := SlotRejected
	if in.Silent {
		kind = SlotSilent
	}
	d.slot(t, kind).After = in.After
	d.makeReady(t)
}

// gone takes an attempt back whose process has been replaced, or that is taken away from it. It costs no retry.
func (d *decider) gone(in *Gone) {
	t := d.current(in.Ref)
	if t == nil || !t.held() {
		return
	}
	kind := SlotGone
	if in.Removed {
		kind = SlotDrain
	}
	d.slot(t, kind)
	d.makeReady(t)
}

// current returns the task of an attempt if it is the last one assigned.
func (d *decider) current(ref event.AttemptRef) *RunTask {
	t := d.run.Find(ref.TaskID)
	if t == nil || t.Attempt != ref.Attempt {
		return nil
	}
	return t
}

// tick looks at what is due. Leases, the time to accept and the time of a run are judged by intake time: what waits in a stream is taken in
// before its time is called over.
func (d *decider) tick(in *Tick) {
	if d.run.State.Final() {
		return
	}
	if in.TaskID == "" {
		d.tickRun(in)
		return
	}
	t := d.run.Find(in.TaskID)
	if t == nil || d.run.look(t).IsZero() || d.at.Now.Before(t.Look) {
		return
	}
	switch t.State {
	case event.TaskReady:
		d.tickReady(t, in)
	case event.TaskWaiting:
		if t.Kids != nil {
			d.tickChildren(t)
		} else {
			d.tickWaiting(t, in)
		}
	case event.TaskRetrying:
		d.retryNow(t)
	case event.TaskAssigned:
		d.tickAssigned(t, in)
	case event.TaskRunning:
		d.tickRunning(t, in)
	}
}
