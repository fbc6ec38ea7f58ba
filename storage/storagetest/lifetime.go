package storagetest

import (
	"context"
	"errors"

	"github.com/opspawn/opscore/storage"
)

var lifetimeCases = []testCase{
	{"CancelledContextIsNoConflict", func(f *fixture) {
		ctx, cancel := context.WithCancel(f.ctx)
		cancel()
		t := f.txn("a", "", "1")
		for i, err := range f.store.Commit(ctx, t, f.txn("b", "", "2")) {
			if !errors.Is(err, context.Canceled) || errors.Is(err, storage.ErrConflict) || errors.Is(err, storage.ErrInvalid) {
				f.Fatalf("Commit: transaction %d: %v", i, err)
			}
		}
		for name, err := range f.reads(ctx) {
			if !errors.Is(err, context.Canceled) {
				f.Fatalf("%s: got %v, want %v", name, err, context.Canceled)
			}
		}
		f.write(t) // whatever happened then, it can be repeated
		f.wantDoc("a", t.Rev, "1")
	}},
	{"CallsAfterCloseFail", func(f *fixture) {
		rev := f.write(f.txn("a", "", "1"))
		if err := f.store.Close(); err != nil {
			f.Fatalf("Close: %v", err)
		}
		for i, err := range f.store.Commit(f.ctx, f.txn("a", rev, "2"), f.txn("a", "", "2")) {
			if err == nil || errors.Is(err, storage.ErrConflict) || errors.Is(err, storage.ErrInvalid) {
				f.Fatalf("Commit: transaction %d: %v", i, err)
			}
		}
		for name, err := range f.reads(f.ctx) {
			if err == nil {
				f.Fatalf("%s works after Close", name)
			}
		}
	}},
	{"CloseDuringCommits", func(f *fixture) {
		started, done := make(chan struct{}), make(chan error)
		go func() {
			defer close(done)
			rev := f.write(f.txn("a", "", ""))
			close(started)
			for {
				t := f.txn("a", rev, "")
				if err := f.store.Commit(f.ctx, t)[0]; err != nil {
					done <- err
					return
				}
				rev = t.Rev
			}
		}()
		<-started
		if err := f.store.Close(); err != nil {
			f.Fatalf("Close: %v", err)
		}
		if err := <-done; !errors.Is(err, storage.ErrUnknown) {
			f.Fatalf("Commit: got %v, want %v", err, storage.ErrUnknown)
		}
	}},
}

// reads calls each method that reads, and returns what went wrong.
func (f *fixture) reads(ctx context.Context) map[string]error {
	_, get := f.store.Get(ctx, "a")
	_, page := f.store.Range(ctx, "i", storage.Cursor{}, storage.MaxScore, 1)
	_, count := f.store.Count(ctx, "i", 0, storage.MaxScore)
	_, tail := f.store.Tail(ctx, "l", 1)
	return map[string]error{"Get": get, "Range": page, "Count": count, "Tail": tail}
}
