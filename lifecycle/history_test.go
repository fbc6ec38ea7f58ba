package lifecycle_test

import (
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
)

// Changes of liveness stand among the events by time. However often an agent flaps, no event is pushed out.
func TestHistoryHoldsChangesOfLiveness(t *testing.T) {
	t.Parallel()
	store, err := boltstore.Open(t.Context(), &url.URL{Scheme: "file", Opaque: filepath.Join(t.TempDir(), "x.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	revs := storage.NewRevisions()
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var rev storage.Rev
	write := func(change func(*storage.Txn)) {
		txn := storage.Txn{Rev: revs.Next(), If: []storage.Cond{{Key: "k", Rev: rev}}, Put: []storage.Put{{Key: "k"}}}
		change(&txn)
		if err := store.Commit(t.Context(), txn)[0]; err != nil {
			t.Fatal(err)
		}
		rev = txn.Rev
	}
	var want []string
	for i := range 100 {
		at := began.Add(time.Duration(i) * time.Minute)
		write(func(txn *storage.Txn) { lifecycle.LogLiveness(txn, "a", event.LivenessSuspect, "2 beats missed", at) })
		if i >= 100-lifecycle.HistoryDepth {
			want = append(want, "liveness suspect 2 beats missed")
		}
		if i%50 != 0 {
			continue
		}
		write(func(txn *storage.Txn) {
			said := lifecycle.HistoryEntry{Seq: uint64(i + 1), At: at.Add(time.Second), Event: "state", State: "idle"}
			for range 2 { // delivered twice
				txn.LogAppend = append(txn.LogAppend, storage.Append{Log: lifecycle.HistoryLog("a"), Data: event.MustMarshal(&said), Cap: 96})
			}
		})
		want = append(want, "state idle")
	}
	entries, err := lifecycle.NewQueries(store).History(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		line := fmt.Sprint(e.Event, " ", e.State)
		if e.Event == lifecycle.EventLiveness {
			line = fmt.Sprint(e.Event, " ", e.Liveness, " ", e.Reason)
		}
		got = append(got, line)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
