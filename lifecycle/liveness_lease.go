package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

const (
	leaseRenew = time.Second     // how often it is written, or looked at
	leaseTTL   = 3 * time.Second // a lease that was not written for so long can be taken
	leaveWait  = time.Second     // for giving it back at the end
)

// leaseKey names the document of the lease to judge.
const leaseKey storage.Key = "liveness/judge"

// leaseDoc says who judges. It is replaced with each renewal: no clocks are compared, a lease is over when it was not seen to change for a while.
type leaseDoc struct {
	Holder string `json:"holder,omitzero"` // of the revisions it writes; empty: given back
	N      uint64 `json:"n"`
}

// lease is the right to judge, held by one replica at a time. Every Txn of a judge conditions on its revision, so that one who has lost it
// without noticing cannot change anything.
type lease struct {
	store storage.Store
	revs  *storage.Revisions
	name  string // of this replica; fit for a subject

	held   bool
	doc    leaseDoc
	rev    storage.Rev // of the document, as it was written or read last
	seen   tick        // when it was first seen so
	looked tick
	begun  bool
}

func newLease(store storage.Store, revs *storage.Revisions) *lease {
	return &lease{store: store, revs: revs, name: strings.ReplaceAll(string(revs.Next()), ".", "-")}
}

// step renews the lease, or takes it when nobody holds it. It fails with the store's error, and is not held then.
func (l *lease) step(ctx context.Context, now tick) error {
	if l.begun && now-l.looked < leaseRenew {
		return nil
	}
	l.looked, l.begun = now, true
	if !l.held {
		free, err := l.look(ctx, now)
		if err != nil || !free {
			return err
		}
	}
	return l.write(ctx, now, l.name)
}

// lapse lets the lease go once others may have taken it.
func (l *lease) lapse(now tick) {
	l.held = l.held && now-l.seen <= leaseTTL
}

// look reads the document and reports whether the lease can be taken.
func (l *lease) look(ctx context.Context, now tick) (free bool, err error) {
	docs, err := l.store.Get(ctx, leaseKey)
	if err != nil {
		return false, fmt.Errorf("read the lease: %w", err)
	}
	var doc leaseDoc
	if err := decodeDoc(docs[0], &doc); err != nil {
		return false, err
	}
	if docs[0].Rev != l.rev {
		l.rev, l.seen = docs[0].Rev, now
	}
	l.doc = doc
	return doc.Holder == "" || doc.Holder == l.name || now-l.seen > leaseTTL, nil
}

func (l *lease) write(ctx context.Context, now tick, holder string) error {
	next := leaseDoc{Holder: holder, N: l.doc.N + 1}
	t := storage.Txn{
		Rev: l.revs.Next(),
		If:  []storage.Cond{{Key: leaseKey, Rev: l.rev}},
		Put: []storage.Put{{Key: leaseKey, Data: event.MustMarshal(next)}},
	}
	err := l.store.Commit(ctx, t)[0]
	l.held = err == nil && holder != ""
	switch {
	case err == nil:
		l.doc, l.rev, l.seen = next, t.Rev, now
		return nil
	case errors.Is(err, storage.ErrConflict):
		return nil // somebody else has it
	}
	return fmt.Errorf("write the lease: %w", err)
}

// leave gives the lease back, so that another replica need not wait until it is over.
func (l *lease) leave(ctx context.Context) {
	if !l.held {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWait)
	defer cancel()
	_ = l.write(ctx, 0, "") // else it ends by itself
}
