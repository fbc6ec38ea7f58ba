// Package storagetest is the contract of [storage.Store] as a test suite, with what is needed to break a connection.
//
// [Run] checks one driver, a file per subject. [Histories] applies random histories to several stores and a model in
// memory at once, and compares every answer and all that is stored in the end. [StartRedis] starts a real server to
// test against, and [NewProxy] stands between a client and any server to lose replies, cut connections or delay them.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/storage"
)

// Opener opens an empty store for one test.
type Opener func(t *testing.T) storage.Store

// testCase is one rule of the contract, named as what holds.
type testCase struct {
	name string
	run  func(f *fixture)
}

// Run checks that the stores of a driver keep the contract. It closes each store it opens.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	for _, subject := range []struct {
		name  string
		cases []testCase
	}{
		{"Documents", documentCases},
		{"Transactions", transactionCases},
		{"Repeats", repeatCases},
		{"Indexes", indexCases},
		{"Logs", logCases},
		{"Copies", copyCases},
		{"Lifetime", lifetimeCases},
	} {
		t.Run(subject.name, func(t *testing.T) {
			for _, c := range subject.cases {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.run(newFixture(t, open))
				})
			}
		})
	}
	t.Run("Histories", func(t *testing.T) {
		Histories(t, Subject{Name: "store", Open: open})
	})
}

// fixture is a fresh store with short ways to use it. Its methods end the test on a surprise.
type fixture struct {
	*testing.T
	ctx   context.Context
	store storage.Store
	revs  *storage.Revisions
}

func newFixture(t *testing.T, open Opener) *fixture {
	t.Helper()
	store := open(t)
	t.Cleanup(func() { _ = store.Close() }) // a second Close may fail
	return &fixture{T: t, ctx: t.Context(), store: store, revs: storage.NewRevisions()}
}

// txn returns a Txn with a fresh revision that changes one document.
func (f *fixture) txn(key storage.Key, from storage.Rev, data string) storage.Txn {
	return storage.Txn{
		Rev: f.revs.Next(),
		If:  []storage.Cond{{Key: key, Rev: from}},
		Put: []storage.Put{{Key: key, Data: []byte(data)}},
	}
}

// write commits Txns that must succeed and returns the revision of the last.
func (f *fixture) write(txns ...storage.Txn) storage.Rev {
	f.Helper()
	f.commit(txns, make([]error, len(txns))...)
	return txns[len(txns)-1].Rev
}

// commit commits Txns and compares the errors with those wanted.
func (f *fixture) commit(txns []storage.Txn, want ...error) {
	f.Helper()
	got := f.store.Commit(f.ctx, txns...)
	if len(got) != len(want) {
		f.Fatalf("Commit of %d transactions answered %d errors", len(txns), len(got))
	}
	for i := range want {
		if !errors.Is(got[i], want[i]) {
			f.Fatalf("Commit: transaction %d: got error %v, want %v", i, got[i], want[i])
		}
	}
}

// get reads documents.
func (f *fixture) get(keys ...storage.Key) []storage.Doc {
	f.Helper()
	docs, err := f.store.Get(f.ctx, keys...)
	if err != nil {
		f.Fatalf("Get: %v", err)
	}
	return docs
}

// wantDoc compares one document.
func (f *fixture) wantDoc(key storage.Key, rev storage.Rev, data string) {
	f.Helper()
	want := []storage.Doc{{Key: key, Rev: rev, Data: []byte(data)}}
	same(f, "document", f.get(key), want)
}

// page reads a part of an index.
func (f *fixture) page(index storage.Index, after storage.Cursor, to storage.Score, limit int) []storage.Entry {
	f.Helper()
	entries, err := f.store.Range(f.ctx, index, after, to, limit)
	if err != nil {
		f.Fatalf("Range: %v", err)
	}
	return entries
}

// wantIndex compares a whole index.
func (f *fixture) wantIndex(index storage.Index, want ...storage.Entry) {
	f.Helper()
	same(f, "index "+string(index), f.page(index, storage.Cursor{}, storage.MaxScore, 1000), want)
}

// tail reads the newest entries of a log as text.
func (f *fixture) tail(log storage.Log, n int) []string {
	f.Helper()
	entries, err := f.store.Tail(f.ctx, log, n)
	if err != nil {
		f.Fatalf("Tail: %v", err)
	}
	var texts []string
	for _, entry := range entries {
		texts = append(texts, string(entry))
	}
	return texts
}

// byBytes compares data as a whole, which takes cmp seconds byte by byte, and takes nothing for empty.
var byBytes = cmp.Comparer(bytes.Equal)

// same fails the test if got is not what is wanted. Nothing and empty are the same.
func same[T any](f *fixture, what string, got, want []T) {
	f.Helper()
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if diff := cmp.Diff(want, got, byBytes); diff != "" {
		f.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}
