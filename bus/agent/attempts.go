package agent

import (
	"context"
	"sync"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// How much is remembered of attempts that have ended, so that a request repeated because its answer was lost does not start them again.
// Ids are kept much longer than bodies: a body is only needed until Ops-Core has read the result from the stream.
const (
	keepEnded  = 10 * time.Minute
	maxEnded   = 1 << 16
	maxBodies  = 10_000
	maxBodyMem = 4 << 20
)

// phase is where an attempt stands in this process.
type phase int

const (
	running   phase = iota
	finished        // the handler returned and its result counts
	cancelled       // Ops-Core does not want it any more; the handler may still be running
)

// attempt is one attempt this process has accepted. Its fields belong to the table.
type attempt struct {
	ref     event.AttemptRef
	phase   phase
	cancel  context.CancelCauseFunc // nil once the handler has returned: it would keep its context alive
	result  *message                // what was reported, while it is remembered
	endedAt time.Time
}

// verdict is the table's answer to a task request.
type verdict int

const (
	start    verdict = iota
	repeated         // this very attempt is running or has finished
	outdated         // it was cancelled, or a newer attempt of the task is known
	full             // no free slot
	crowded          // too many results wait to be stored
	closed           // the agent is draining
)

type taskKey struct{ run, task string }

// attempts is the one place that knows what runs, what has ended and how many slots are taken.
type attempts struct {
	mu       sync.Mutex
	slots    int
	closed   bool
	latest   map[taskKey]*attempt
	running  map[*attempt]struct{} // each holds a slot until its handler returns, cancelled or not
	ended    []*attempt            // oldest first
	bodies   []*attempt            // those of ended that still have their result, oldest first
	bodyMem  int
	handlers sync.WaitGroup
}

func newAttempts(slots int) *attempts {
	return &attempts{slots: slots, latest: map[taskKey]*attempt{}, running: map[*attempt]struct{}{}}
}

// begin judges a task request. With the verdict start the attempt holds a slot until end, and done must be called when its
// goroutine ends. A newer attempt of a task cancels an older one that runs, even when it finds no slot itself. With a backlog of
// results nothing is started.
func (t *attempts) begin(ref event.AttemptRef, cancel context.CancelCauseFunc, backlog bool) (verdict, *attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := taskKey{ref.RunID, ref.TaskID}
	if last := t.latest[key]; last != nil {
		switch {
		case last.ref.Attempt == ref.Attempt && last.ref.Token == ref.Token:
			if last.phase == cancelled {
				return outdated, last
			}
			return repeated, last
		case ref.Attempt < last.ref.Attempt:
			return outdated, last
		case last.phase == running:
			last.phase = cancelled
			last.cancel(ErrCancelled)
		}
	}
	if t.closed {
		return closed, nil
	}
	if len(t.running) >= t.slots {
		return full, nil
	}
	if backlog {
		return crowded, nil
	}
	a := &attempt{ref: ref, cancel: cancel}
	t.latest[key] = a
	t.running[a] = struct{}{}
	t.handlers.Add(1)
	return start, a
}

// end frees the slot of an attempt whose handler has returned, and reports whether its result is still wanted.
func (t *attempts) end(a *attempt, now time.Time) (wanted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, a)
	if a.phase == running {
		a.phase = finished
	}
	a.endedAt, a.cancel = now, nil
	t.ended = append(t.ended, a)
	for len(t.ended) > maxEnded || now.Sub(t.ended[0].endedAt) > keepEnded {
		t.forget()
	}
	return a.phase == finished
}

// forget drops the oldest attempt that has ended.
func (t *attempts) forget() {
	a := t.ended[0]
	t.ended[0], t.ended = nil, t.ended[1:]
	if key := (taskKey{a.ref.RunID, a.ref.TaskID}); t.latest[key] == a {
		delete(t.latest, key)
	}
}

// remember keeps the result of a finished attempt for requests that come again.
func (t *attempts) remember(a *attempt, result *message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.result != nil { // replaced: it is in bodies already
		t.bodyMem -= len(a.result.body)
	} else {
		t.bodies = append(t.bodies, a)
	}
	a.result = result
	t.bodyMem += len(result.body)
	for len(t.bodies) > 0 && (len(t.bodies) > maxBodies || t.bodyMem > maxBodyMem) {
		old := t.bodies[0]
		t.bodies[0], t.bodies = nil, t.bodies[1:]
		t.bodyMem -= len(old.result.body)
		old.result = nil
	}
}

// resultOf returns what was reported for an attempt, or nil if it has not ended or its body is forgotten.
func (t *attempts) resultOf(a *attempt) *message {
	t.mu.Lock()
	defer t.mu.Unlock()
	return a.result
}

// stop cancels an attempt on request and returns the answer to give.
func (t *attempts) stop(run, task string, number int, cause error) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.latest[taskKey{run, task}]
	if last == nil || last.ref.Attempt != number {
		return t.stopOlder(run, task, number)
	}
	switch last.phase {
	case finished:
		return event.AnswerFinished
	case running:
		last.phase = cancelled
		last.cancel(cause)
	}
	return event.AnswerCancelled
}

// stopOlder answers for an attempt that is not the latest of its task: if it still runs, it has been cancelled already.
func (t *attempts) stopOlder(run, task string, number int) string {
	for a := range t.running {
		if a.ref.RunID == run && a.ref.TaskID == task && a.ref.Attempt == number {
			return event.AnswerCancelled
		}
	}
	return event.AnswerUnknown
}

// drop cancels every running attempt; their results are not wanted any more.
func (t *attempts) drop(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for a := range t.running {
		a.phase = cancelled
		a.cancel(cause)
	}
}

// close makes every later begin of a new attempt answer closed, and returns a channel that is closed when the last handler's
// goroutine has ended.
func (t *attempts) close() <-chan struct{} {
	t.mu.Lock()
	t.closed = true // begin cannot add to handlers after this
	t.mu.Unlock()
	idle := make(chan struct{})
	go func() {
		t.handlers.Wait()
		close(idle)
	}()
	return idle
}

// done says that the goroutine of a started attempt has ended.
func (t *attempts) done() { t.handlers.Done() }

// load returns the share of slots taken, 0 to 1.
func (t *attempts) load() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return float64(len(t.running)) / float64(t.slots)
}

// held lists the attempts whose handlers have not returned.
func (t *attempts) held() []event.AttemptRef {
	t.mu.Lock()
	defer t.mu.Unlock()
	refs := make([]event.AttemptRef, 0, len(t.running))
	for a := range t.running {
		refs = append(refs, a.ref)
	}
	return refs
}
