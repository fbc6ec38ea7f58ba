package workflow

import (
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// A timer that only a newer version knows waits for it, and holds nobody up; one that nobody knows goes.
func TestTimersOfANewerVersionWait(t *testing.T) {
	t.Parallel()
	store, conn, revs := openTestStore(t), bustest.Conn(t), storage.NewRevisions()
	keeper := lifecycle.NewKeeper(store, conn, bustest.Log(t), func() {})
	if err := keeper.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := NewEngine(Config{Store: store, Bus: conn, Keeper: keeper, Log: bustest.Log(t)})
	const member = "zz|what|the|future|brings"
	arm := storage.Txn{
		Rev: revs.Next(), If: []storage.Cond{{Key: "k"}}, Put: []storage.Put{{Key: "k"}},
		IndexAdd: []storage.IndexOp{{Index: dueIndex, Member: member, Score: 1}},
	}
	docs, err := store.Get(t.Context(), "schema")
	if err != nil {
		t.Fatal(err)
	}
	newer := storage.Txn{Rev: revs.Next(), If: []storage.Cond{{Key: "schema", Rev: docs[0].Rev}}}
	newer.Put = []storage.Put{{Key: "schema", Data: []byte(`{"version":1000,"minReader":1}`)}}
	for _, txn := range []storage.Txn{arm, newer} {
		if err := store.Commit(t.Context(), txn)[0]; err != nil {
			t.Fatal(err)
		}
	}
	fire := func() []storage.Entry {
		t.Helper()
		if err := keeper.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := e.fireDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		left, err := store.Range(t.Context(), dueIndex, storage.Cursor{}, storage.MaxScore, 10)
		if err != nil {
			t.Fatal(err)
		}
		return left
	}
	if left := fire(); len(left) != 1 || left[0].Member != member || left[0].Score <= storage.Score(time.Now().UnixMicro()) {
		t.Fatalf("beside a newer version the timers are %+v", left)
	}
	docs, _ = store.Get(t.Context(), "schema")
	older := storage.Txn{
		Rev: revs.Next(), If: []storage.Cond{{Key: "schema", Rev: docs[0].Rev}}, Put: []storage.Put{{Key: "schema", Data: []byte(`{"version":1,"minReader":1}`)}},
		IndexAdd: []storage.IndexOp{{Index: dueIndex, Member: member, Score: 1}},
	}
	if err := store.Commit(t.Context(), older)[0]; err != nil {
		t.Fatal(err)
	}
	if left := fire(); len(left) != 0 {
		t.Errorf("without a newer version the timers are %+v", left)
	}
}
