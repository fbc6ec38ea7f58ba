package workflow

import (
	"context"
	"slices"

	"github.com/opspawn/opscore/storage"
)

// flight is the changes of a view on their way to the store. Flights of an engine follow one another in the order in which they were launched: each that was
// launched must be begun, by begin or end, before its launcher waits for anything of those behind it.
type flight struct {
	txns   []storage.Txn
	before <-chan struct{} // closed when the flight launched before has landed; nil when there was none
	begun  bool
	landed chan struct{}
	errs   []error // the outcomes, once it has landed
}

// begin lets a flight go on a goroutine of its own, unless it is on its way or nil. Only whoever has launched it calls this, and end.
func (f *flight) begin(ctx context.Context, store storage.Store) {
	if f != nil && !f.begun {
		f.begun = true
		go f.fly(ctx, store)
	}
}

// end returns the outcomes when the flight has landed. One that has not begun goes here, on a stack that is large enough from the times before: most turns
// are small, and then a new goroutine costs more than what it does.
func (f *flight) end(ctx context.Context, store storage.Store) []error {
	if !f.begun {
		f.begun = true
		f.fly(ctx, store)
	}
	<-f.landed
	return f.errs
}

func (f *flight) fly(ctx context.Context, store storage.Store) {
	defer close(f.landed)
	if f.before != nil {
		<-f.before
	}
	f.errs = store.Commit(ctx, f.txns...)
}

// launch makes the flight of a view: all its changes, to be sent to the store in one round trip when those launched before have been committed, since later
// views are decided on what earlier ones will have written.
func (e *Engine) launch(v *view) {
	v.head = e.session.txns(v.now, v.changes, e.revs)
	v.published = e.facts.published()
	left := v.ride(v.published)
	txns := append(make([]storage.Txn, 0, len(v.groups)+3), v.head...)
	for _, g := range v.groups {
		if g.assigns() {
			g.condition(e.session.key, e.session.rev)
		}
		txns = append(txns, g.txn)
	}
	for _, ops := range [][]storage.IndexOp{distinct(left), distinct(v.removes)} {
		for part := range slices.Chunk(ops, maxRemoves) {
			txns = append(txns, storage.Txn{IndexRemove: part})
		}
	}
	if len(txns) == 0 {
		return
	}
	v.flight = &flight{txns: txns, before: e.lastFlight, landed: make(chan struct{})}
	e.lastFlight = v.flight.landed
	e.flights[v] = true
}

// land waits for the outcomes of a view's changes, and lets others take their turn meanwhile.
func (e *Engine) land(ctx context.Context, v *view) []error {
	e.mu.Unlock()
	defer e.mu.Lock() // after a panic too, or unlocking it would end the process
	return v.flight.end(ctx, e.cfg.Store)
}

// abandon ends what a panic has left: the flight of a view that nobody finishes. What it writes stands, and its timers see to the rest.
func (e *Engine) abandon(ctx context.Context, v *view) {
	if v == nil || !e.flights[v] {
		return
	}
	delete(e.flights, v)
	v.flight.begin(ctx, e.cfg.Store) // those behind it wait for it
}
