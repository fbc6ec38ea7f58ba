package boltstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/opspawn/opscore/storage"
)

// idleStore returns a store whose writer does not run, so that a test can take its turns.
func idleStore(t *testing.T) *Store {
	t.Helper()
	db, err := openFile(filepath.Join(t.TempDir(), "opscore.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s := &Store{
		db: db, queue: make(chan *request, queueLength), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	s.Accept("")
	return s
}

// newRequest returns a request with one Txn that replaces a document and leaves a trace in an index and a log.
func newRequest(t *testing.T, rev, from storage.Rev) *request {
	t.Helper()
	prepared, err := prepare(&storage.Txn{
		Rev:       rev,
		If:        []storage.Cond{{Key: "a", Rev: from}},
		Put:       []storage.Put{{Key: "a", Data: []byte(rev)}},
		IndexAdd:  []storage.IndexOp{{Index: "i", Member: string(rev), Score: 1}},
		LogAppend: []storage.Append{{Log: "l", Data: []byte(rev), Cap: 9}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &request{txns: []*txn{prepared}, done: make(chan []error, 1)}
}

func TestConflictInsideAGroupIsLocal(t *testing.T) {
	s := idleStore(t)
	group := []*request{
		newRequest(t, "r.1", ""), newRequest(t, "r.2", "r.1"), newRequest(t, "lost", "r.1"),
		newRequest(t, "r.3", "r.2"), newRequest(t, "r.3", "r.2"), newRequest(t, "late", ""),
	}
	s.apply(group)
	for i, want := range []error{nil, nil, storage.ErrConflict, nil, nil, storage.ErrConflict} {
		if got := (<-group[i].done)[0]; !errors.Is(got, want) {
			t.Errorf("request %d: got %v, want %v", i, got, want)
		}
	}
	tail, err := s.Tail(t.Context(), "l", 9)
	if got := fmt.Sprintf("%s", tail); err != nil || got != "[r.1 r.2 r.3]" {
		t.Errorf("log: %s, %v", got, err)
	}
	if n, err := s.Count(t.Context(), "i", 0, 9); err != nil || n != 3 {
		t.Errorf("index: %d entries, %v", n, err)
	}
}

func TestGroupTakesWhatIsQueuedOnly(t *testing.T) {
	s := idleStore(t)
	first := newRequest(t, "r.0", "")
	if group := s.group(first); len(group) != 1 {
		t.Fatalf("%d requests from an empty queue", len(group))
	}
	for range 3 {
		s.queue <- newRequest(t, "r.1", "")
	}
	if group := s.group(first); len(group) != 4 {
		t.Fatalf("%d requests, want 4", len(group))
	}
	large := &request{txns: make([]*txn, maxGroup)}
	s.queue <- first
	if group := s.group(large); len(group) != 1 {
		t.Fatalf("a full group took %d requests", len(group))
	}
}

// TestWriteErrorIsUnknown takes the file away from the writer.
func TestWriteErrorIsUnknown(t *testing.T) {
	s := idleStore(t)
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	group := []*request{newRequest(t, "r.1", ""), newRequest(t, "r.2", "r.1")}
	s.apply(group)
	for i, r := range group {
		if err := (<-r.done)[0]; !errors.Is(err, storage.ErrUnknown) {
			t.Errorf("request %d: %v", i, err)
		}
	}
}

func TestContextEndsWaiting(t *testing.T) {
	change := storage.Txn{Rev: "r.1", If: []storage.Cond{{Key: "a"}}, Put: []storage.Put{{Key: "a"}}}
	for name, full := range map[string]bool{"for the answer": false, "for a place in the queue": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Store{queue: make(chan *request, 1), closing: make(chan struct{}), stopped: make(chan struct{})}
				s.Accept("")
				if full {
					s.queue <- nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- s.Commit(ctx, change)[0] }()
				synctest.Wait()
				cancel()
				if err := <-done; !errors.Is(err, storage.ErrUnknown) || !errors.Is(err, context.Canceled) {
					t.Fatalf("got %v", err)
				}
			})
		})
	}
}

// TestQueuedTxnIsACopy lets a caller give up and use his memory for something else before the writer's turn.
func TestQueuedTxnIsACopy(t *testing.T) {
	s := idleStore(t)
	data := []byte("original")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- s.Commit(ctx, storage.Txn{
			Rev:       "r.1",
			If:        []storage.Cond{{Key: "a"}},
			Put:       []storage.Put{{Key: "a", Data: data}},
			LogAppend: []storage.Append{{Log: "l", Data: data, Cap: 1}},
		})[0]
	}()
	queued := <-s.queue
	cancel()
	if err := <-done; !errors.Is(err, storage.ErrUnknown) {
		t.Fatalf("got %v, want %v", err, storage.ErrUnknown)
	}
	copy(data, "reused!!")
	s.apply([]*request{queued})
	if docs, err := s.Get(t.Context(), "a"); err != nil || string(docs[0].Data) != "original" {
		t.Errorf("document: %q, %v", docs, err)
	}
	if tail, err := s.Tail(t.Context(), "l", 1); err != nil || string(tail[0]) != "original" {
		t.Errorf("log: %q, %v", tail, err)
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	u := &url.URL{Scheme: "file", Path: filepath.Join(t.TempDir(), "opscore.db")}
	s, err := Open(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan error)
	const callers = 50
	for i := range callers {
		go func() {
			key := storage.Key(fmt.Sprint(i))
			results <- s.Commit(t.Context(), storage.Txn{
				Rev: storage.Rev("r." + key), If: []storage.Cond{{Key: key}}, Put: []storage.Put{{Key: key}},
			})[0]
		}()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range callers {
		if err := <-results; err != nil && !errors.Is(err, storage.ErrUnknown) {
			t.Errorf("got %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
