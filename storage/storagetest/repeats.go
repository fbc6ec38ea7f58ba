package storagetest

import (
	"errors"
	"fmt"

	"github.com/opspawn/opscore/storage"
)

// everything returns a Txn that uses each kind of change, on documents that are absent.
func (f *fixture) everything(n int) storage.Txn {
	name := func(s string) string { return fmt.Sprintf("%s%d", s, n) }
	return storage.Txn{
		Rev: f.revs.Next(),
		If: []storage.Cond{
			{Key: storage.Key(name("a"))}, {Key: storage.Key(name("b"))}, {Key: storage.Key(name("absent"))},
		},
		Put: []storage.Put{
			{Key: storage.Key(name("a")), Data: []byte("A")}, {Key: storage.Key(name("b")), Data: []byte("B")},
		},
		Delete:      []storage.Key{storage.Key(name("absent"))},
		IndexAdd:    []storage.IndexOp{{Index: "due", Member: name("a"), Score: storage.Score(n)}},
		IndexRemove: []storage.IndexOp{{Index: "idle", Member: name("a")}},
		LogAppend:   []storage.Append{{Log: "log", Data: []byte(name("entry")), Cap: 100}},
	}
}

var repeatCases = []testCase{
	{"RepeatSucceedsAndChangesNothing", func(f *fixture) {
		var txns []storage.Txn
		var entries []storage.Entry
		var lines []string
		for n := range 20 {
			txns = append(txns, f.everything(n))
			entries = append(entries, storage.Entry{Member: fmt.Sprintf("a%d", n), Score: storage.Score(n)})
			lines = append(lines, fmt.Sprintf("entry%d", n))
		}
		for range 3 {
			f.write(txns...)
			f.wantDoc("a7", txns[7].Rev, "A")
			f.wantDoc("b7", txns[7].Rev, "B")
			f.wantIndex("due", entries...)
			same(f, "log", f.tail("log", 1000), lines)
		}
	}},
	{"RepeatDoesNotUndoALaterIndexChange", func(f *fixture) {
		t := f.everything(1)
		f.write(t)
		other := f.txn("other", "", "")
		other.IndexAdd = []storage.IndexOp{{Index: "due", Member: "a1", Score: 77}, {Index: "idle", Member: "a1", Score: 5}}
		f.write(other)
		f.write(t)
		f.wantIndex("due", storage.Entry{Member: "a1", Score: 77})
		f.wantIndex("idle", storage.Entry{Member: "a1", Score: 5})
	}},
	{"OneOwnRevisionIsEnough", func(f *fixture) {
		for _, overwritten := range []storage.Key{"a1", "b1"} {
			t := f.everything(1)
			for i := range t.If { // start from whatever the last round left
				t.If[i].Rev = f.get(t.If[i].Key)[0].Rev
			}
			f.write(t)
			later := f.write(f.txn(overwritten, t.Rev, "later"))
			lines := f.tail("log", 1000)
			f.write(t)
			f.wantDoc(overwritten, later, "later")
			same(f, "log", f.tail("log", 1000), lines)
		}
	}},
	{"OverwrittenSinceConflictsAndChangesNothing", func(f *fixture) {
		t := f.everything(1)
		f.write(t)
		a, b := f.write(f.txn("a1", t.Rev, "A2")), f.write(f.txn("b1", t.Rev, "B2"))
		f.commit([]storage.Txn{t}, storage.ErrConflict)
		f.wantDoc("a1", a, "A2")
		f.wantDoc("b1", b, "B2")
		same(f, "log", f.tail("log", 1000), []string{"entry1"})
	}},
	{"OwnRevisionWinsOverABrokenCondition", func(f *fixture) {
		guard := f.write(f.txn("guard", "", ""))
		t := f.txn("a", "", "A")
		t.If = []storage.Cond{{Key: "guard", Rev: guard}, {Key: "a"}}
		f.write(t)
		f.write(f.txn("guard", guard, "moved on"))
		f.write(t)
	}},
	{"RevisionInAComparedDocumentIsNoProof", func(f *fixture) {
		t := f.txn("a", "", "A")
		f.write(t)
		other := f.txn("b", "", "B")
		other.Rev = t.Rev // never done by callers; shows that only documents to be put count
		other.If = append(other.If, storage.Cond{Key: "a", Rev: t.Rev})
		f.write(other)
		f.wantDoc("b", t.Rev, "B")
	}},
	{"RepeatedChainKeepsItsEnd", func(f *fixture) {
		first := f.txn("a", "", "1")
		second := f.txn("a", first.Rev, "2")
		second.LogAppend = []storage.Append{{Log: "log", Data: []byte("2"), Cap: 9}}
		f.write(first, second)
		f.commit([]storage.Txn{first, second}, storage.ErrConflict, nil)
		f.wantDoc("a", second.Rev, "2")
		same(f, "log", f.tail("log", 9), []string{"2"})
	}},
	{"TwiceInOneCommit", func(f *fixture) {
		t := f.everything(1)
		f.write(t, t)
		same(f, "log", f.tail("log", 9), []string{"entry1"})
	}},
	{"LateRepeatOfACreationMeetsTheTombstone", func(f *fixture) {
		creation := f.txn("a", "", "born")
		created := f.write(creation)
		tomb := f.write(f.txn("a", created, "tombstone"))
		if err := f.store.Commit(f.ctx, creation)[0]; !errors.Is(err, storage.ErrConflict) {
			f.Fatalf("late repeat: %v, want a conflict", err)
		}
		f.wantDoc("a", tomb, "tombstone")
	}},
}
