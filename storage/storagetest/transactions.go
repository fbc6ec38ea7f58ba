package storagetest

import (
	"errors"
	"fmt"
	"sync"

	"github.com/opspawn/opscore/storage"
)

var transactionCases = []testCase{
	{"WrongRevisionConflicts", func(f *fixture) {
		f.commit([]storage.Txn{f.txn("a", "nothing.1", "one")}, storage.ErrConflict)
		same(f, "documents", f.get("a"), []storage.Doc{{Key: "a"}})
		rev := f.write(f.txn("a", "", "one"))
		f.commit([]storage.Txn{f.txn("a", "", "two"), f.txn("a", "other.1", "two")}, storage.ErrConflict, storage.ErrConflict)
		f.wantDoc("a", rev, "one")
	}},
	{"DeleteIsConditional", func(f *fixture) {
		rev := f.write(f.txn("a", "", "one"))
		deletion := func(from storage.Rev) storage.Txn {
			t := f.txn("b", "", "kept")
			t.If = append(t.If, storage.Cond{Key: "a", Rev: from})
			t.Delete = []storage.Key{"a"}
			return t
		}
		f.commit([]storage.Txn{deletion(""), deletion("other.1")}, storage.ErrConflict, storage.ErrConflict)
		f.wantDoc("a", rev, "one")
		same(f, "documents", f.get("b"), []storage.Doc{{Key: "b"}})
		f.write(deletion(rev))
		same(f, "documents", f.get("a"), []storage.Doc{{Key: "a"}})
		f.commit([]storage.Txn{f.txn("a", rev, "ghost")}, storage.ErrConflict)
		f.wantDoc("a", f.write(f.txn("a", "", "reborn")), "reborn")
	}},
	{"ComparedDocumentIsNotWritten", func(f *fixture) {
		guard := f.write(f.txn("guard", "", "g"))
		guarded := func(from storage.Rev) storage.Txn {
			t := f.txn("a", "", "one")
			t.If = []storage.Cond{{Key: "guard", Rev: from}, {Key: "a"}, {Key: "absent"}}
			return t
		}
		f.commit([]storage.Txn{guarded("other.1"), guarded("")}, storage.ErrConflict, storage.ErrConflict)
		f.wantDoc("a", f.write(guarded(guard)), "one")
		f.wantDoc("guard", guard, "g")
	}},
	{"ConditionOnAbsentOtherHolds", func(f *fixture) {
		t := f.txn("a", "", "one")
		t.If = append(t.If, storage.Cond{Key: "b"})
		f.write(f.txn("b", "", "there"))
		f.commit([]storage.Txn{t}, storage.ErrConflict)
	}},
	{"ConflictLeavesNoTrace", conflictLeavesNoTrace},
	{"ConflictIsLocal", func(f *fixture) {
		a, b, c := f.txn("a", "", "1"), f.txn("b", "other.1", "2"), f.txn("c", "", "3")
		f.commit([]storage.Txn{a, b, c}, nil, storage.ErrConflict, nil)
		same(f, "documents", f.get("a", "b", "c"), []storage.Doc{
			{Key: "a", Rev: a.Rev, Data: []byte("1")}, {Key: "b"}, {Key: "c", Rev: c.Rev, Data: []byte("3")},
		})
	}},
	{"LaterSeesEarlierOfTheSameCommit", func(f *fixture) {
		var chain []storage.Txn
		from := storage.Rev("")
		for i := range 5 {
			chain = append(chain, f.txn("a", from, fmt.Sprint(i)))
			from = chain[i].Rev
		}
		missed := f.txn("a", chain[1].Rev, "too late")
		f.commit(append(chain, missed), nil, nil, nil, nil, nil, storage.ErrConflict)
		f.wantDoc("a", from, "4")
	}},
	{"ChainBreaksBehindAConflict", func(f *fixture) {
		first := f.txn("a", "other.1", "1")
		second := f.txn("a", first.Rev, "2")
		f.commit([]storage.Txn{first, second}, storage.ErrConflict, storage.ErrConflict)
		same(f, "documents", f.get("a"), []storage.Doc{{Key: "a"}})
	}},
	{"SeveralDocumentsAndConditionsInAnyOrder", func(f *fixture) {
		x := f.write(f.txn("x", "", "x"))
		rev := f.revs.Next()
		f.write(storage.Txn{
			Rev:    rev,
			If:     []storage.Cond{{Key: "y"}, {Key: "x", Rev: x}, {Key: "b"}, {Key: "a"}},
			Put:    []storage.Put{{Key: "a", Data: []byte("A")}, {Key: "b", Data: []byte("B")}},
			Delete: []storage.Key{"x"},
		})
		same(f, "documents", f.get("a", "b", "x", "y"), []storage.Doc{
			{Key: "a", Rev: rev, Data: []byte("A")}, {Key: "b", Rev: rev, Data: []byte("B")}, {Key: "x"}, {Key: "y"},
		})
	}},
	{"InvalidIsRefusedAlone", func(f *fixture) {
		good := f.txn("a", "", "good")
		noCondition := f.txn("b", "", "bad")
		noCondition.If = nil
		noPut := storage.Txn{Rev: f.revs.Next(), If: []storage.Cond{{Key: "a"}}, Delete: []storage.Key{"a"}}
		noRev := f.txn("b", "", "bad")
		noRev.Rev = ""
		f.commit([]storage.Txn{noCondition, good, noPut, noRev, {}},
			storage.ErrInvalid, nil, storage.ErrInvalid, storage.ErrInvalid, storage.ErrInvalid)
		f.commit([]storage.Txn{noPut}, storage.ErrInvalid)
		f.wantDoc("a", good.Rev, "good")
		same(f, "documents", f.get("b"), []storage.Doc{{Key: "b"}})
	}},
	{"NoTransactionsNoErrors", func(f *fixture) { f.commit(nil) }},
	{"OneWinnerOfARace", oneWinnerOfARace},
	{"NoUpdateIsLost", noUpdateIsLost},
}

// conflictLeavesNoTrace fails each condition of a Txn that does everything, and looks for what it might have done.
func conflictLeavesNoTrace(f *fixture) {
	old := f.write(f.txn("old", "", "old"))
	seed := f.txn("seed", "", "")
	seed.IndexAdd = []storage.IndexOp{{Index: "i", Member: "m", Score: 1}}
	seed.LogAppend = []storage.Append{{Log: "l", Data: []byte("first"), Cap: 1}}
	f.write(seed)
	for broken := range 4 {
		t := storage.Txn{
			Rev:         f.revs.Next(),
			If:          []storage.Cond{{Key: "a"}, {Key: "b"}, {Key: "old", Rev: old}, {Key: "only compared"}},
			Put:         []storage.Put{{Key: "a"}, {Key: "b"}},
			Delete:      []storage.Key{"old"},
			IndexAdd:    []storage.IndexOp{{Index: "i", Member: "new", Score: 2}},
			IndexRemove: []storage.IndexOp{{Index: "i", Member: "m"}},
			LogAppend:   []storage.Append{{Log: "l", Data: []byte("second"), Cap: 1}},
		}
		t.If[broken].Rev = "other.1"
		f.commit([]storage.Txn{t}, storage.ErrConflict)
		same(f, "documents", f.get("a", "b", "old"), []storage.Doc{
			{Key: "a"}, {Key: "b"}, {Key: "old", Rev: old, Data: []byte("old")},
		})
		f.wantIndex("i", storage.Entry{Member: "m", Score: 1})
		same(f, "log", f.tail("l", 9), []string{"first"})
	}
}

// oneWinnerOfARace lets 32 writers create the same document.
func oneWinnerOfARace(f *fixture) {
	txns := make([]storage.Txn, 32)
	errs := make([]error, len(txns))
	var writers sync.WaitGroup
	for i := range txns {
		txns[i] = f.txn("a", "", fmt.Sprint(i))
		txns[i].LogAppend = []storage.Append{{Log: "l", Data: []byte(fmt.Sprint(i)), Cap: 100}}
		writers.Go(func() { errs[i] = f.store.Commit(f.ctx, txns[i])[0] })
	}
	writers.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			f.Fatalf("writers %d and %d both won", winner, i)
		case !errors.Is(err, storage.ErrConflict):
			f.Fatalf("writer %d: %v", i, err)
		}
	}
	if winner < 0 {
		f.Fatal("no writer won")
	}
	f.wantDoc("a", txns[winner].Rev, fmt.Sprint(winner))
	same(f, "log", f.tail("l", 100), []string{fmt.Sprint(winner)})
}

// noUpdateIsLost lets writers count up one document, each reading again after a conflict.
func noUpdateIsLost(f *fixture) {
	const writers, rounds = 8, 20
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for done := 0; done < rounds; {
				docs, err := f.store.Get(f.ctx, "n")
				if err != nil {
					f.Errorf("Get: %v", err)
					return
				}
				t := f.txn("n", docs[0].Rev, string(docs[0].Data)+"x")
				switch err := f.store.Commit(f.ctx, t)[0]; {
				case err == nil:
					done++
				case !errors.Is(err, storage.ErrConflict):
					f.Errorf("Commit: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	if n := len(f.get("n")[0].Data); n != writers*rounds {
		f.Fatalf("%d updates succeeded, %d are there", writers*rounds, n)
	}
}
