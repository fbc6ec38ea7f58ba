package bridge

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

const (
	holdFor     = 900 * time.Millisecond // an offer, for an agent that is about to ask again
	takeTimeout = 3 * time.Second        // from an offer to the answer of the replica at which the agent waits
)

// offers are the tasks that wait for their agents to ask. The zero value is ready for use. What bounds them is maxPushes.
type offers struct {
	mu      sync.Mutex
	waiting map[string]*waiting // by agent token
}

// waiting is the offers to one agent.
type waiting struct {
	polled chan struct{} // closed when the agent asks
	offers int
}

// make offers a task to an agent, wherever it waits, and for a moment if it does not.
func (o *offers) make(ctx context.Context, b *Bridge, token string, task []byte) reply {
	over := time.NewTimer(holdFor)
	defer over.Stop()
	o.join(token)
	defer o.leave(token)
	for last := false; ; {
		polled := o.polled(token) // before asking: a poll that begins in between is not missed
		answer, err := ask(ctx, b, event.TaskSubject(token), task)
		var said event.TaskAnswer
		switch {
		case err == nil && event.Unmarshal(answer, &said) == nil:
			return reply{body: said}
		case !errors.Is(err, nats.ErrNoResponders):
			return reply{silent: true} // it may have been handed over
		case last:
			return reply{nobody: true}
		}
		select {
		case <-polled:
		case <-over.C:
			last = true // the hint may have been lost
		case <-ctx.Done():
			return reply{nobody: true}
		}
	}
}

func (o *offers) join(token string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.waiting[token]
	if w == nil {
		if o.waiting == nil {
			o.waiting = make(map[string]*waiting)
		}
		w = &waiting{polled: make(chan struct{})}
		o.waiting[token] = w
	}
	w.offers++
}

func (o *offers) leave(token string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.waiting[token]
	if w.offers--; w.offers == 0 {
		delete(o.waiting, token)
	}
}

func (o *offers) polled(token string) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waiting[token].polled
}

// wake lets the offers to an agent be made again.
func (o *offers) wake(token string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.waiting[token]; w != nil {
		close(w.polled)
		w.polled = make(chan struct{})
	}
}

// ask sends a core NATS request and waits for the answer.
func ask(ctx context.Context, b *Bridge, subject string, body []byte) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	answered := make(chan result, 1)
	b.cfg.Bus.Request(subject, body, takeTimeout, func(data []byte, err error) { answered <- result{data, err} })
	select {
	case r := <-answered:
		return r.data, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
