package boltstore

import (
	"context"
	"fmt"

	"github.com/opspawn/opscore/storage"
)

// request is one Commit on its way to the writer.
type request struct {
	txns []*txn
	done chan []error // one error per Txn; has room for the answer, so the writer never waits
}

// Commit applies Txns in order, all of one call in one bbolt transaction, and returns after the file was synced. When
// ctx ends first, or the file cannot be written, the error of each Txn wraps [storage.ErrUnknown].
func (s *Store) Commit(ctx context.Context, txns ...storage.Txn) []error {
	errs := make([]error, len(txns))
	r := &request{txns: make([]*txn, 0, len(txns)), done: make(chan []error, 1)}
	for i := range txns {
		t, err := prepare(&txns[i])
		if errs[i] = err; err == nil {
			t.accepted = *s.accepted.Load()
			r.txns = append(r.txns, t)
		}
	}
	if len(r.txns) == 0 {
		return errs
	}
	answers := s.submit(ctx, r)
	for i := range errs {
		if errs[i] == nil {
			errs[i], answers = answers[0], answers[1:]
		}
	}
	return errs
}

// submit hands a request to the writer and waits for the answers.
func (s *Store) submit(ctx context.Context, r *request) []error {
	if err := ctx.Err(); err != nil {
		return r.all(unknown(err))
	}
	select {
	case <-s.closing: // never queue behind a writer that is about to stop
		return r.all(unknown(errClosed))
	default:
	}
	select {
	case s.queue <- r:
	case <-ctx.Done():
		return r.all(unknown(ctx.Err()))
	case <-s.closing:
		return r.all(unknown(errClosed))
	}
	select {
	case errs := <-r.done:
		return errs
	case <-ctx.Done():
		return r.all(unknown(ctx.Err()))
	case <-s.stopped:
	}
	select {
	case errs := <-r.done: // answered just before the writer stopped
		return errs
	default:
		return r.all(unknown(errClosed))
	}
}

// all returns err for every Txn of the request.
func (r *request) all(err error) []error {
	errs := make([]error, len(r.txns))
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// unknown returns the error of a Txn that was not answered because of err.
func unknown(err error) error {
	return fmt.Errorf("commit to the database file: %w: %w", storage.ErrUnknown, err)
}
