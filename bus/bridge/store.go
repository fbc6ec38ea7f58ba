package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

const (
	probeEvery   = time.Second // how often a store that does not answer is asked whether it does again
	probeTimeout = time.Second
)

var errStoreDown = event.Errorf(event.CodeUnavailable, "the store does not answer")

// storeGuard remembers that the store does not answer, so that requests are refused at once instead of waiting one by one. Once a
// second one request asks again.
type storeGuard struct {
	probe func(ctx context.Context) error

	mu   sync.Mutex
	down bool
	next time.Time // when it is asked again
}

// check returns nil unless the store is known not to answer.
func (g *storeGuard) check(ctx context.Context) error {
	switch down, turn := g.look(time.Now()); {
	case !down:
		return nil
	case !turn:
		return errStoreDown
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := g.probe(ctx); err != nil {
		return errors.Join(errStoreDown, err)
	}
	g.set(false)
	return nil
}

// look reports whether the store is down and, if so, whether it is the caller's turn to ask it.
func (g *storeGuard) look(now time.Time) (down, turn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.down || now.Before(g.next) {
		return g.down, false
	}
	g.next = now.Add(probeEvery)
	return true, true
}

func (g *storeGuard) set(down bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down, g.next = down, time.Now()
}

// query reads something within the time of a call. An error that is no refusal means that the store does not answer; a refusal that
// no query gives is what a damaged document leads to.
func query[T any](ctx context.Context, b *Bridge, read func(ctx context.Context) (T, error)) (T, error) {
	var none T
	if err := b.store.check(ctx); err != nil {
		return none, err
	}
	limited, cancel := context.WithTimeout(ctx, b.cfg.CallTimeout)
	defer cancel()
	v, err := read(limited)
	var refusal *event.Error
	switch {
	case err == nil, ctx.Err() != nil: // when the client is gone, an error says nothing about the store
		return v, err
	case !errors.As(err, &refusal):
		b.store.set(true)
		return v, errors.Join(errStoreDown, err)
	}
	switch refusal.Code {
	case event.CodeUnknownAgent, event.CodeUnknownRun, event.CodeUnknownDefinition, event.CodeUnknownSchedule, event.CodeInvalid, event.CodeUnavailable,
		event.CodeStaleAttempt: // see aboutAttempt
		return v, err
	}
	return v, fmt.Errorf("query: %s", err.Error())
}

func (b *Bridge) agent(ctx context.Context, id string) (*event.Agent, error) {
	return query(ctx, b, func(ctx context.Context) (*event.Agent, error) { return b.cfg.Agents.Get(ctx, id) })
}

func (b *Bridge) run(ctx context.Context, id string) (*event.Run, error) {
	return query(ctx, b, func(ctx context.Context) (*event.Run, error) { return b.cfg.Runs.Run(ctx, id) })
}

func (b *Bridge) workflow(ctx context.Context, id, version string) (*event.Definition, error) {
	return query(ctx, b, func(ctx context.Context) (*event.Definition, error) { return b.cfg.Runs.Workflow(ctx, id, version) })
}
