package workflow

import (
	"math"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// backoff is the time until the next attempt: full jitter under an exponential that is capped.
func (d *decider) backoff(t *RunTask, e *event.TaskError) time.Duration {
	r := d.retry(t.ID)
	initial, cap, factor := r.InitialSeconds, r.MaxSeconds, r.Factor
	if initial == 0 {
		initial = 1
	}
	if cap == 0 {
		cap = 60
	}
	if factor == 0 {
		factor = 2
	}
	seconds := min(initial*math.Pow(factor, float64(t.Tries)), cap) * d.at.Random
	wait := time.Duration(seconds * float64(time.Second))
	return max(wait, time.Duration(min(e.RetryAfterMs, maxRetryAfter.Milliseconds()))*time.Millisecond)
}

func (d *decider) retry(taskID string) Retry {
	if r := d.task(taskID).Retry; r != nil {
		return *r
	}
	if d.def.Retry != nil {
		return *d.def.Retry
	}
	return Retry{}
}

const (
	defaultRetries = 3
	maxRetryAfter  = time.Hour // what an agent may ask for with a failure
)

// fail ends an attempt without success: the task is tried again, or it fails and with it the run.
func (d *decider) fail(t *RunTask, e *event.TaskError) {
	r := d.retry(t.ID)
	retries := defaultRetries
	if r.Attempts != nil {
		retries = *r.Attempts
	}
	t.Error = e
	if t.Tries < retries && (e.Retryable == nil || *e.Retryable) {
		wait := d.backoff(t, e)
		t.Tries++
		t.State, t.Retry = event.TaskRetrying, d.at.Now.Add(wait)
		t.Look, t.Class = t.Retry, ""
		d.changed = true
		return
	}
	d.failFor(t, e)
}

// failFor ends a task for good. The run goes on if the task says how, else it has failed.
func (d *decider) failFor(t *RunTask, e *event.TaskError) {
	t.Error = e
	d.endTask(t, event.TaskFailed)
	d.out.Ended = t.ID
	how := d.task(t.ID).OnFailure
	switch {
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
