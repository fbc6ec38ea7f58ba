package workflow

import (
	"context"

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
