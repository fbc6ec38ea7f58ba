package workflow

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Retries of a definition that does not say otherwise.
const (
	defaultRetries = 3
	defaultInitial = 1.0  // seconds
	defaultMax     = 60.0 // seconds
	defaultFactor  = 2.0
	maxRetryAfter  = time.Hour // what an agent may ask for with a failure
)

// retryOf says how a task is tried again after a failure with a code. What the policy for the code leaves open the one of the task says, and what that
// leaves open are the defaults.
func (d *Definition) retryOf(t *Task, code string) Retry {
	r := Retry{}
	if p := cmp.Or(t.Retry, d.Retry); p != nil {
		r = *p
	}
	if special, ok := r.Codes[code]; ok {
		r.Attempts = cmp.Or(special.Attempts, r.Attempts)
		r.InitialSeconds = cmp.Or(special.InitialSeconds, r.InitialSeconds)
		r.MaxSeconds = cmp.Or(special.MaxSeconds, r.MaxSeconds)
		r.Factor = cmp.Or(special.Factor, r.Factor)
		r.Jitter = cmp.Or(special.Jitter, r.Jitter)
	}
	if r.Attempts == nil {
		r.Attempts = new(int)
		*r.Attempts = defaultRetries
	}
	r.InitialSeconds = cmp.Or(r.InitialSeconds, defaultInitial)
	r.MaxSeconds = cmp.Or(r.MaxSeconds, defaultMax)
	r.Factor = cmp.Or(r.Factor, defaultFactor)
	return r
}

// allows reports whether a failure may be tried again when so many retries are spent.
func (r *Retry) allows(tries int, e *event.TaskError) bool {
	return tries < *r.Attempts && (e.Retryable == nil || *e.Retryable) && !slices.Contains(r.NonRetryable, e.Code)
}

// wait is the time until the next attempt: an exponential that is capped, or anything below it.
func (r *Retry) wait(tries int, random float64, e *event.TaskError) time.Duration {
	seconds := min(r.InitialSeconds*math.Pow(r.Factor, float64(tries)), r.MaxSeconds)
	if r.Jitter != "none" {
		seconds *= random
	}
	asked := time.Duration(min(e.RetryAfterMs, maxRetryAfter.Milliseconds())) * time.Millisecond
	return max(time.Duration(seconds*float64(time.Second)), asked)
}

// fail ends an attempt without success: the task is tried again, by the same agents or by others, or it fails.
func (d *decider) fail(t *RunTask, e *event.TaskError) {
	t.QueueBy, t.EndBy = time.Time{}, time.Time{}
	if !d.tryAgain(d.task(t.ID), t, e) {
		d.giveOn(t, e)
	}
}

// tryAgain lets a task wait for its next attempt, if a retry is left.
func (d *decider) tryAgain(task *Task, t *RunTask, e *event.TaskError) bool {
	t.Error = e
	r := d.def.retryOf(task, e.Code)
	if !r.allows(t.Tries, e) {
		return false
	}
	wait := r.wait(t.Tries, d.at.Random, e)
	t.Tries++
	t.State, t.Retry = event.TaskRetrying, d.at.Now.Add(wait)
	t.Look, t.Class = t.Retry, ""
	d.changed = true
	return true
}

// retryNow begins the next attempt of a task.
func (d *decider) retryNow(t *RunTask) {
	if task := d.task(t.ID); d.def.kind(task) == nodeChildren {
		d.enterChildren(task, t)
	} else {
		d.makeReady(t)
	}
}

// giveOn lets the next fallback try a task that has failed, or fails it when there is none.
func (d *decider) giveOn(t *RunTask, e *event.TaskError) {
	t.Error, t.QueueBy, t.EndBy = e, time.Time{}, time.Time{}
	if how := d.task(t.ID).OnFailure; how != nil && t.Fallback < len(how.Fallback) {
		t.Fallback++
		t.Tries = 0
		d.offer(t)
		return
	}
	d.failFor(t, e)
}

// offer puts a task into the queue of those that may do it. What is for nobody, since no agent has done the task whose agent is to do it, is offered to the
// next fallback, and has failed when there is none.
func (d *decider) offer(rt *RunTask) {
	d.makeReady(rt)
	if rt.Class != "" {
		return
	}
	message := "task " + rt.ID + " has no agentCapability and no agent was named when the run was started"
	if s := d.task(rt.ID).wants(rt.Fallback); s != nil {
		message = "no agent has done task " + s.SameAs + ", and task " + rt.ID + " is for the same"
	}
	d.giveOn(rt, &event.TaskError{Code: string(event.CodeInvalid), Message: message})
}

// failFor ends a task for good. The run goes on if the task says how, else it has failed.
func (d *decider) failFor(t *RunTask, e *event.TaskError) {
	t.Error = e
	d.endTask(t, event.TaskFailed)
	d.out.Ended = t.ID
	how := d.task(t.ID).OnFailure
	switch {
	case d.run.Undoing != nil:
		d.notUndone(t, e)
	case how != nil && how.TaskID != "":
		d.leave(t, event.TaskFailed, "")
	case how != nil && how.Continue:
		d.leave(t, event.TaskCompleted, "")
	default:
		d.end(event.RunFailed, e)
		return
	}
	d.out.Cause = "task failed"
}

// wants is what a task asks for now: its own selector, or that of the fallback it has come to. It is nil for tasks of the old kind.
func (t *Task) wants(fallback int) *Select {
	if fallback > 0 && t.OnFailure != nil && fallback <= len(t.OnFailure.Fallback) {
		return &t.OnFailure.Fallback[fallback-1]
	}
	return t.Select
}

// capability is what an agent must offer to do the task, empty for a named agent.
func (t *Task) capability(fallback int) string {
	if s := t.wants(fallback); s != nil {
		return s.Capability
	}
	return t.AgentCapability
}

// class is the selector class of a task: the agent it must go to, or what it asks of one. It is empty if that is nobody.
func (d *decider) class(rt *RunTask) string {
	t := d.task(rt.ID)
	s := t.wants(rt.Fallback)
	switch {
	case s != nil && s.SameAs != "":
		if other, _ := d.whole(s.SameAs); other != nil && other.Agent != "" {
			return classOf(Selector{Agent: other.Agent, Bound: true})
		}
		return ""
	case s != nil:
		return classOf(Selector{
			Agent: s.AgentID, Capability: s.Capability, Version: s.Version, Labels: s.Labels, Spread: s.Spread, Unfit: rt.unfit(),
		})
	case t.AgentID != "":
		return classOf(Selector{Agent: t.AgentID})
	case d.run.Named && len(d.def.Tasks) > 0 && t == &d.def.Tasks[0]:
		return classOf(Selector{Agent: d.run.Agent})
	case t.AgentCapability != "":
		return classOf(Selector{Capability: t.AgentCapability, Unfit: rt.unfit()})
	}
	return classOf(Selector{Agent: d.run.Agent, Bound: true})
}
