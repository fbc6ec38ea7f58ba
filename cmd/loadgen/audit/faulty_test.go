package audit

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
)

// A faulty store does one write in faultEvery wrongly, and says that all is well.
const faultEvery = 10_000

type fault string

const (
	faultNone    fault = ""
	faultDrop    fault = "drop"    // the write is not done
	faultDouble  fault = "double"  // it is done twice, without conditions
	faultReorder fault = "reorder" // it is done after all others, without conditions
)

// faulty is a real store that breaks its contract. It counts the writes that hold an event.
type faulty struct {
	storage.Store

	do     fault
	victim int // which of the writes
	revs   *storage.Revisions

	mu    sync.Mutex
	count int
	hit   storage.Key // what the victim wrote, once it was hit
	held  *storage.Txn
}

// faultyDriver opens the store in Redis that a URL names and wraps it.
func faultyDriver(wrap func(storage.Store) storage.Store) storage.Driver {
	return storage.Driver{Scheme: "faulty", Open: func(ctx context.Context, u *url.URL) (storage.Store, error) {
		real := *u
		real.Scheme = redisstore.Driver.Scheme
		s, err := redisstore.Driver.Open(ctx, &real)
		if err != nil {
			return nil, err
		}
		return wrap(s), nil
	}}
}

func (f *faulty) Commit(ctx context.Context, txns ...storage.Txn) []error {
	errs := make([]error, 0, len(txns))
	for _, t := range txns {
		if !f.chosen(&t) {
			errs = append(errs, f.Store.Commit(ctx, t)...)
			continue
		}
		switch f.do {
		case faultDouble:
			errs = append(errs, f.Store.Commit(ctx, t)...)
			if err := f.force(ctx, t); err != nil {
				panic(err)
			}
		case faultReorder:
			f.mu.Lock()
			f.held = &t
			f.mu.Unlock()
			errs = append(errs, nil)
		default:
			errs = append(errs, nil)
		}
	}
	return errs
}

// chosen reports whether a write is the one to be done wrongly.
func (f *faulty) chosen(t *storage.Txn) bool {
	if f.do == faultNone || len(t.LogAppend) == 0 {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if f.count%faultEvery != f.victim || f.hit != "" {
		return false
	}
	for _, p := range t.Put {
		if strings.HasPrefix(string(p.Key), "agent/") {
			f.hit = p.Key
		}
	}
	return true
}

// force does a write whatever stands there.
func (f *faulty) force(ctx context.Context, t storage.Txn) error {
	t.Rev = f.revs.Next()
	conditions := t.If
	t.If = nil
	for _, c := range conditions {
		docs, err := f.Get(ctx, c.Key)
		if err != nil {
			return err
		}
		t.If = append(t.If, storage.Cond{Key: c.Key, Rev: docs[0].Rev})
	}
	if err := f.Store.Commit(ctx, t)[0]; err != nil {
		return fmt.Errorf("force a write: %w", err)
	}
	return nil
}

// release does the write that was held back.
func (f *faulty) release(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == nil {
		return nil
	}
	return f.force(ctx, *f.held)
}
