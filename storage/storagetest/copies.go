package storagetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/opspawn/opscore/storage"
)

// copied returns the store as one that can be copied, which both drivers are.
func (f *fixture) copied() storage.Copied {
	f.Helper()
	store, ok := f.store.(storage.Copied)
	if !ok {
		f.Fatal("the store cannot be copied")
	}
	return store
}

// items copies the store.
func (f *fixture) items() []storage.Item {
	f.Helper()
	var all []storage.Item
	err := f.copied().Snapshot(f.ctx, func(item storage.Item) error {
		all = append(all, item)
		return nil
	})
	if err != nil {
		f.Fatalf("Snapshot: %v", err)
	}
	return all
}

// replace replaces the content by some items, and then fails with an error, unless that is nil.
func (f *fixture) replace(items []storage.Item, end error) error {
	f.Helper()
	var seq iter.Seq2[storage.Item, error] = func(yield func(storage.Item, error) bool) {
		for _, item := range items {
			if !yield(item, nil) {
				return
			}
		}
		if end != nil {
			yield(storage.Item{}, end)
		}
	}
	return f.copied().Replace(f.ctx, seq)
}

func (f *fixture) incarnation() string {
	f.Helper()
	name, err := f.copied().Incarnation(f.ctx)
	if err != nil {
		f.Fatalf("Incarnation: %v", err)
	}
	return name
}

// fill stores something of all kinds, more than fits into one page of any.
func (f *fixture) fill(n int) {
	f.Helper()
	txns := make([]storage.Txn, 0, n)
	for i := range n {
		t := f.txn(storage.Key(fmt.Sprintf("doc/%d\x00\xff", i)), "", fmt.Sprint(i))
		t.IndexAdd = []storage.IndexOp{
			{Index: "by number", Member: fmt.Sprint(i), Score: storage.Score(i)},
			{Index: storage.Index(fmt.Sprintf("one of %d", i%7)), Member: "\xff" + fmt.Sprint(i), Score: storage.MaxScore - 1},
		}
		t.LogAppend = []storage.Append{{Log: storage.Log(fmt.Sprintf("log %d", i%5)), Data: []byte(fmt.Sprint(i)), Cap: 4}}
		txns = append(txns, t)
	}
	f.write(txns...)
}

// wantFilled compares with what fill stored.
func (f *fixture) wantFilled(n int) {
	f.Helper()
	for i := range n {
		if d := f.get(storage.Key(fmt.Sprintf("doc/%d\x00\xff", i)))[0]; string(d.Data) != fmt.Sprint(i) || d.Rev == "" {
			f.Fatalf("document %d is %+v", i, d)
		}
	}
	if got, err := f.store.Count(f.ctx, "by number", 0, storage.MaxScore); err != nil || got != n {
		f.Fatalf("the index has %d entries, want %d (%v)", got, n, err)
	}
	if page := f.page("one of 3", storage.Cursor{}, storage.MaxScore, 2); page[0].Member != "\xff10" || page[0].Score != storage.MaxScore-1 {
		f.Fatalf("the index has %+v", page)
	}
	same(f, "log", f.tail("log 0", 99), []string{fmt.Sprint(n - 20), fmt.Sprint(n - 15), fmt.Sprint(n - 10), fmt.Sprint(n - 5)})
}

const copySize = 2500 // above the pages of both drivers; a multiple of 5

var copyCases = []testCase{
	{"AnEmptyStoreHasNoItems", func(f *fixture) { same(f, "items", f.items(), nil) }},
	{"ACopyTakesThePlaceOfEverything", func(f *fixture) {
		f.fill(copySize)
		items := f.items()
		rev := f.get("doc/7\x00\xff")[0].Rev
		stray := f.txn("stray", "", "s")
		stray.IndexAdd = []storage.IndexOp{{Index: "by number", Member: "stray", Score: 1}, {Index: "strays", Member: "stray", Score: 1}}
		stray.LogAppend = []storage.Append{{Log: "log 0", Data: []byte("stray"), Cap: 9}, {Log: "strays", Data: []byte("stray"), Cap: 9}}
		changed := f.txn("doc/7\x00\xff", rev, "changed")
		f.write(stray, changed)
		// Items may come twice.
		if err := f.replace(append(slices.Clone(items), items[:len(items)/2]...), nil); err != nil {
			f.Fatal(err)
		}
		f.wantFilled(copySize)
		f.wantDoc("doc/7\x00\xff", rev, "7")
		same(f, "documents", f.get("stray"), []storage.Doc{{Key: "stray"}})
		f.wantIndex("strays")
		same(f, "log", f.tail("strays", 9), nil)
		f.write(f.txn("doc/7\x00\xff", rev, "goes on"))
	}},
	{"ATransactionForTheContentBeforeIsRefused", func(f *fixture) {
		before := f.incarnation()
		f.copied().Accept(before)
		f.write(f.txn("a", "", "1"))
		items := f.items()
		if err := f.replace(items, nil); err != nil {
			f.Fatal(err)
		}
		f.commit([]storage.Txn{f.txn("b", "", "2")}, storage.ErrUnknown)
		same(f, "documents", f.get("b"), []storage.Doc{{Key: "b"}})
		after := f.incarnation()
		if after == before || after == "" {
			f.Fatalf("the incarnation is %q, and was %q", after, before)
		}
		f.copied().Accept(after)
		f.write(f.txn("b", "", "2"))
	}},
	{"NothingIsWrittenAfterAHalfReplace", func(f *fixture) {
		f.fill(20)
		items := f.items()
		broken := errors.New("broken")
		if err := f.replace(items[:len(items)/2], broken); !errors.Is(err, broken) {
			f.Fatalf("Replace: %v", err)
		}
		f.commit([]storage.Txn{f.txn("a", "", "1"), {IndexRemove: []storage.IndexOp{{Index: "i", Member: "m"}}}}, storage.ErrHeld, storage.ErrUnknown)
		if name, err := f.copied().Incarnation(f.ctx); !errors.Is(err, storage.ErrHeld) {
			f.Fatalf("Incarnation: %q, %v", name, err)
		}
		if err := f.replace(items, nil); err != nil {
			f.Fatal(err)
		}
		f.wantFilled(20)
		f.write(f.txn("a", "", "1"))
	}},
	{"ASnapshotIsOfOneMoment", func(f *fixture) {
		const pairs = 300
		key := func(side string, i int) storage.Key { return storage.Key(fmt.Sprintf("%s/%d", side, i)) }
		put := func(i int, from storage.Rev, data string) storage.Txn {
			t := f.txn(key("left", i), from, data)
			t.If = append(t.If, storage.Cond{Key: key("right", i), Rev: from})
			t.Put = append(t.Put, storage.Put{Key: key("right", i), Data: []byte(data)})
			return t
		}
		revs := make([]storage.Rev, pairs)
		for i := range revs {
			revs[i] = f.write(put(i, "", "0"))
		}
		ctx, stop := context.WithCancel(f.ctx)
		wrote := make(chan struct{}, 1)
		go func() { // changes pairs for as long as the copies last
			defer close(wrote)
			for n := 0; ctx.Err() == nil; n++ {
				i := n % pairs
				t := put(i, revs[i], fmt.Sprint(n))
				for ctx.Err() == nil {
					if f.store.Commit(ctx, t)[0] == nil { // held, or it may have happened: again
						revs[i] = t.Rev
						select {
						case wrote <- struct{}{}:
						default:
						}
						break
					}
				}
			}
		}()
		for range 5 {
			<-wrote
			at := make(map[storage.Key]storage.Rev)
			for _, item := range f.items() {
				at[item.Doc.Key] = item.Doc.Rev
			}
			for i := range pairs {
				if at[key("left", i)] != at[key("right", i)] || at[key("left", i)] == "" {
					f.Errorf("pair %d: %q and %q", i, at[key("left", i)], at[key("right", i)])
				}
			}
		}
		stop()
		for range wrote { // until it has ended
		}
	}},
	{"ASnapshotEndsWithTheErrorOfItsVisitor", func(f *fixture) {
		f.fill(10)
		broken := errors.New("broken")
		if err := f.copied().Snapshot(f.ctx, func(storage.Item) error { return broken }); !errors.Is(err, broken) {
			f.Fatalf("Snapshot: %v", err)
		}
		f.write(f.txn("a", "", "1")) // which is not held
		ctx, cancel := context.WithCancel(f.ctx)
		err := f.copied().Snapshot(ctx, func(storage.Item) error { cancel(); return nil })
		if err != nil && !errors.Is(err, context.Canceled) {
			f.Fatalf("Snapshot: %v", err)
		}
		f.write(f.txn("b", "", "1"))
	}},
}

// CopyBetween copies one store into another.
func CopyBetween(t *testing.T, from, to Opener) {
	source, target := newFixture(t, from), newFixture(t, to)
	source.fill(copySize)
	if err := target.replace(source.items(), nil); err != nil {
		t.Fatal(err)
	}
	target.wantFilled(copySize)
}
