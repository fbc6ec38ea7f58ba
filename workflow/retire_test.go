package workflow

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
)

// openTestStore opens an empty store that is closed when the test ends.
func openTestStore(t *testing.T) storage.Store {
	t.Helper()
	store, err := boltstore.Driver.Open(t.Context(), &url.URL{Scheme: "file", Opaque: filepath.Join(t.TempDir(), "x.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// A replica's session is removed an hour after it was last written; one that was idle for so long goes on under another name.
func TestRetireSessions(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	e := NewEngine(Config{Store: store})
	now := time.Now()
	for name, at := range map[string]time.Time{"old": now.Add(-2 * time.Hour), "new": now} {
		s := session{key: sessionKey(name), at: at}
		if errs := store.Commit(t.Context(), s.txns(at, []*change{{assigned: []string{"t"}}}, e.revs)...); errs[0] != nil {
			t.Fatal(errs[0])
		}
	}
	for range 2 {
		if err := e.retireSessions(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	docs, err := store.Get(t.Context(), sessionKey("old"), sessionKey("new"))
	if err != nil || docs[0].Rev != "" || docs[1].Rev == "" {
		t.Errorf("the old session has revision %q, the new one %q, %v", docs[0].Rev, docs[1].Rev, err)
	}
	s := session{key: sessionKey("old"), rev: "gone", at: now.Add(-2 * time.Hour)}
	if errs := store.Commit(t.Context(), s.txns(now, []*change{{assigned: []string{"t"}}}, e.revs)...); errs[0] != nil {
		t.Errorf("a replica that was idle for two hours cannot go on: %v", errs[0])
	}
	if n, err := store.Count(t.Context(), sessionIndex, 0, storage.MaxScore); n != 2 || err != nil {
		t.Errorf("%d sessions are listed, %v", n, err)
	}
}

// old is when the runs of these tests ended, or begin.
var old = time.Now().Add(-30 * 24 * time.Hour).Truncate(time.Microsecond)

// shelve stores runs, each a second after the one before. The lists of a run are those of its version.
func shelve(t *testing.T, store storage.Store, name string, n int, state event.RunState, listed bool) {
	t.Helper()
	txns := make([]storage.Txn, n)
	revs := storage.NewRevisions()
	for i := range txns {
		at := old.Add(time.Duration(i) * time.Second)
		r := &Run{ID: fmt.Sprintf("%s-%04d", name, i), State: state, Created: at, Tasks: []RunTask{{ID: "t", Attempt: 1, Big: true}}}
		if state.Final() {
			r.Ended = at
		}
		txn := storage.Txn{Rev: revs.Next(), IndexAdd: []storage.IndexOp{{Index: runIndex, Member: r.ID, Score: micros(at)}}}
		for key, data := range map[storage.Key][]byte{runKey(r.ID): r.encode(), outputKey(r.ID, "t", 1): []byte(`"x"`)} {
			txn.If, txn.Put = append(txn.If, storage.Cond{Key: key}), append(txn.Put, storage.Put{Key: key, Data: data})
		}
		if listed && state.Final() {
			txn.IndexAdd = append(txn.IndexAdd, storage.IndexOp{Index: endedIndex, Member: r.ID, Score: micros(at)})
		}
		txn.LogAppend = []storage.Append{{Log: timelineLog(r.ID), Data: []byte("{}"), Cap: 9}}
		txns[i] = txn
	}
	for i, err := range store.Commit(t.Context(), txns...) {
		if err != nil {
			t.Fatalf("run %d: %v", i, err)
		}
	}
}

// kept counts the runs that are listed, and fails the test unless documents, lists and logs agree on each.
func kept(t *testing.T, store storage.Store, name string, n int) (count int) {
	t.Helper()
	listed, err := store.Range(t.Context(), runIndex, storage.Cursor{}, storage.MaxScore, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	in := make(map[string]bool)
	for _, e := range listed {
		in[e.Member] = true
	}
	for i := range n {
		id := fmt.Sprintf("%s-%04d", name, i)
		docs, err := store.Get(t.Context(), runKey(id), outputKey(id, "t", 1))
		if err != nil {
			t.Fatal(err)
		}
		log, err := store.Tail(t.Context(), timelineLog(id), 1)
		if err != nil || (docs[0].Rev != "") != in[id] || (docs[1].Rev != "") != in[id] || (len(log) > 0) != in[id] {
			t.Errorf("%s is half removed: listed %v, document %q, output %q, log %q (%v)", id, in[id], docs[0].Rev, docs[1].Rev, log, err)
		}
		if in[id] {
			count++
		}
	}
	return count
}

func TestRetireByCountTakesTheOldest(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	shelve(t, store, "done", 100, event.RunCompleted, true)
	e := NewEngine(Config{Store: store, Bus: bustest.Conn(t), Log: bustest.Log(t), Retention: 365 * 24 * time.Hour, MaxEnded: 40})
	if n, err := e.Retire(t.Context(), time.Now()); n != 60 || err != nil {
		t.Fatalf("%d runs were removed, %v", n, err)
	}
	if n := kept(t, store, "done", 60); n != 0 {
		t.Errorf("%d of the oldest are left", n)
	}
	if n := kept(t, store, "done", 100); n != 40 {
		t.Errorf("%d are left", n)
	}
	if n, err := e.Retire(t.Context(), time.Now()); n != 0 || err != nil {
		t.Errorf("%d more were removed, %v", n, err)
	}
}

// What was stored before ended runs had a list of their own is found by its age, page by page; runs that go on stay, however old they are.
func TestRetireFindsWhatIsNotListedAsEnded(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	shelve(t, store, "busy", 250, event.RunRunning, true)
	shelve(t, store, "done", 250, event.RunCompleted, false)
	e := NewEngine(Config{Store: store, Bus: bustest.Conn(t), Log: bustest.Log(t)})
	removed, rounds := 0, 0
	for ; removed < 250 && rounds < 20; rounds++ {
		n, err := e.Retire(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if n > retirePage {
			t.Errorf("%d runs were removed in one step", n)
		}
		removed += n
	}
	if kept(t, store, "done", 250) != 0 || kept(t, store, "busy", 250) != 250 {
		t.Errorf("%d runs were removed in %d rounds", removed, rounds)
	}
}

// A list may name a run that is gone, after a half restore: it is struck off, and holds nobody up.
func TestRetireStrikesOffWhatIsGone(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	shelve(t, store, "done", 3, event.RunCompleted, true)
	add := storage.Txn{Rev: "r.1", If: []storage.Cond{{Key: "k"}}, Put: []storage.Put{{Key: "k"}}}
	for i := range 2 * retireBite {
		add.IndexAdd = append(add.IndexAdd, storage.IndexOp{Index: endedIndex, Member: fmt.Sprint("gone", i), Score: micros(old) - 1})
	}
	if err := store.Commit(t.Context(), add)[0]; err != nil {
		t.Fatal(err)
	}
	e := NewEngine(Config{Store: store, Bus: bustest.Conn(t), Log: bustest.Log(t)})
	for range 4 {
		if _, err := e.Retire(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := store.Count(t.Context(), endedIndex, 0, storage.MaxScore); n != 0 || err != nil || kept(t, store, "done", 3) != 0 {
		t.Errorf("%d are still listed as ended (%v)", n, err)
	}
}

// A removal that takes long goes on being the one that removes, and ends when another replica has taken it over.
func TestALongRemovalSaysThatItGoesOn(t *testing.T) {
	t.Parallel()
	store, conn := openTestStore(t), bustest.Conn(t)
	shelve(t, store, "a", 10, event.RunCompleted, true)
	one, two := NewEngine(Config{Store: store, Bus: conn, Log: bustest.Log(t)}), NewEngine(Config{Store: store, Bus: conn, Log: bustest.Log(t)})
	entries, err := store.Range(t.Context(), endedIndex, storage.Cursor{}, storage.MaxScore, 10)
	if err != nil || len(entries) != 10 {
		t.Fatalf("%d runs have ended, %v", len(entries), err)
	}
	now := time.Now()
	remove := func(e *Engine, from, n int, at time.Time) {
		t.Helper()
		if got, err := e.retireRuns(t.Context(), entries[from:from+5], at); got != n || err != nil {
			t.Errorf("%d runs were removed, want %d, %v", got, n, err)
		}
	}
	remove(one, 0, 5, now.Add(time.Hour)) // an hour after it has begun
	remove(two, 5, 0, now.Add(time.Hour+retirePeriod))
	remove(two, 5, 5, now.Add(time.Hour+2*retireYield))
	remove(one, 5, 0, now.Add(time.Hour+2*retireYield))
}

// Removing is slow, but not while there are more and more; and no more go than are too many.
func TestRetireHurriesWhenThereAreFarTooMany(t *testing.T) {
	t.Parallel()
	type bite struct {
		limit int
		rest  time.Duration
	}
	for _, c := range []struct {
		excess, far, removed int
		want                 bite
	}{
		{150, 100, 0, bite{retireGulp, retireHaste}},
		{150, 100, 49, bite{retireGulp, retireHaste}},
		{150, 100, 50, bite{retireBite, retireRest}},
		{150, 100, 147, bite{3, retireRest}},
		{150, 100, 150, bite{retireBite, retireRest}},
		{20, 10, 0, bite{20, retireHaste}},
		{-7, 10, 0, bite{retireBite, retireRest}},
	} {
		plan := retirePlan{excess: c.excess, far: c.far}
		if limit, rest := plan.bite(c.removed); (bite{limit, rest}) != c.want {
			t.Errorf("when %d of %d are removed: %d and a rest of %d, want %+v", c.removed, c.excess, limit, rest, c.want)
		}
	}
}

// One replica removes; when it is gone another one does.
func TestRetireIsLeftToOneReplica(t *testing.T) {
	t.Parallel()
	store, conn := openTestStore(t), bustest.Conn(t)
	shelve(t, store, "a", 5, event.RunCompleted, true)
	one, two := NewEngine(Config{Store: store, Bus: conn, Log: bustest.Log(t)}), NewEngine(Config{Store: store, Bus: conn, Log: bustest.Log(t)})
	now := time.Now()
	if n, err := one.Retire(t.Context(), now); n != 5 || err != nil {
		t.Fatalf("%d runs were removed, %v", n, err)
	}
	shelve(t, store, "b", 5, event.RunCompleted, true)
	if n, err := two.Retire(t.Context(), now.Add(retirePeriod)); n != 0 || err != nil {
		t.Errorf("the other replica has removed %d runs, %v", n, err)
	}
	if n, err := two.Retire(t.Context(), now.Add(2*retireYield)); n != 5 || err != nil {
		t.Errorf("the other replica has removed %d runs, %v", n, err)
	}
}

// A run with more parts than fit into one Txn goes part by part, its own document last, so that it is found again when the removal stops half-way.
func TestRetireALargeRun(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	r := &Run{ID: "large", State: event.RunCompleted, Created: old, Ended: old}
	txn := storage.Txn{Rev: "r.1", IndexAdd: []storage.IndexOp{
		{Index: runIndex, Member: r.ID, Score: micros(old)}, {Index: endedIndex, Member: r.ID, Score: micros(old)},
	}}
	var keys []storage.Key
	for i := range 2*retireOps + 10 {
		task := RunTask{ID: fmt.Sprint("t", i), Attempt: 1, Big: true}
		r.Tasks = append(r.Tasks, task)
		keys = append(keys, outputKey(r.ID, task.ID, 1))
	}
	keys = append(keys, runKey(r.ID))
	for _, key := range keys {
		txn.If, txn.Put = append(txn.If, storage.Cond{Key: key}), append(txn.Put, storage.Put{Key: key, Data: r.encode()})
	}
	if err := store.Commit(t.Context(), txn)[0]; err != nil {
		t.Fatal(err)
	}
	short := &shortOfTxns{Store: store, left: 1}
	e := NewEngine(Config{Store: short, Bus: bustest.Conn(t), Log: bustest.Log(t)})
	if n, err := e.Retire(t.Context(), time.Now()); n != 0 || err == nil {
		t.Fatalf("%d runs were removed by one Txn, %v", n, err)
	}
	short.left = 100
	if n, err := e.Retire(t.Context(), time.Now()); n != 1 || err != nil {
		t.Fatalf("%d runs were removed, %v", n, err)
	}
	docs, err := store.Get(t.Context(), keys...)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		if d.Rev != "" {
			t.Errorf("%s is left", d.Key)
		}
	}
	if short.most > retireOps+1 {
		t.Errorf("a Txn wrote %d documents", short.most)
	}
}

// shortOfTxns fails after some Txns.
type shortOfTxns struct {
	storage.Store
	left, most int
}

func (s *shortOfTxns) Commit(ctx context.Context, txns ...storage.Txn) []error {
	errs := make([]error, len(txns))
	for i, t := range txns {
		if s.left--; s.left < 0 {
			errs[i] = storage.ErrUnknown
			continue
		}
		s.most = max(s.most, len(t.Put)+len(t.Delete))
		errs[i] = s.Store.Commit(ctx, t)[0]
	}
	return errs
}
