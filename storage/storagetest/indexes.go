package storagetest

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/opspawn/opscore/storage"
)

// index commits index changes, with a document of their own as a Txn needs one.
func (f *fixture) index(add, remove []storage.IndexOp) {
	f.Helper()
	rev := f.revs.Next()
	key := storage.Key("index of " + rev)
	f.write(storage.Txn{
		Rev: rev, If: []storage.Cond{{Key: key}}, Put: []storage.Put{{Key: key}},
		IndexAdd: add, IndexRemove: remove,
	})
}

// sorted returns entries in the order of an index.
func sorted(entries []storage.Entry) []storage.Entry {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b storage.Entry) int {
		return cmp.Or(cmp.Compare(a.Score, b.Score), cmp.Compare(a.Member, b.Member))
	})
	return entries
}

// ops returns the changes that add entries to an index.
func ops(index storage.Index, entries []storage.Entry) []storage.IndexOp {
	all := make([]storage.IndexOp, len(entries))
	for i, e := range entries {
		all[i] = storage.IndexOp{Index: index, Member: e.Member, Score: e.Score}
	}
	return all
}

var indexCases = []testCase{
	{"AbsentIsEmpty", func(f *fixture) { f.wantIndex("none"); f.wantCount("none", 0, storage.MaxScore, 0) }},
	{"OrderIsScoreThenBytes", func(f *fixture) {
		// Bytes, not letters: a server that compares by locale sorts these differently.
		entries := []storage.Entry{
			{Member: "b", Score: 10},
			{Member: "a", Score: 10},
			{Member: "B", Score: 10},
			{Member: "é", Score: 10},
			{Member: "z", Score: 10},
			{Member: "aa", Score: 10},
			{Member: "a\x00", Score: 10},
			{Member: "-", Score: 10},
			{Member: "\xff", Score: 10},
			{Member: "10", Score: 10},
			{Member: "9", Score: 10},
			{Member: "_", Score: 10},
			{Member: "first", Score: 0},
			{Member: "second", Score: 9},
			{Member: "last", Score: 100},
		}
		f.index(ops("i", entries), nil)
		f.wantIndex("i", sorted(entries)...)
		f.wantPages("i", sorted(entries))
	}},
	{"AddMoves", func(f *fixture) {
		f.index(ops("i", []storage.Entry{{Member: "a", Score: 1}, {Member: "b", Score: 2}}), nil)
		f.index(ops("i", []storage.Entry{{Member: "a", Score: 3}}), nil)
		f.wantIndex("i", storage.Entry{Member: "b", Score: 2}, storage.Entry{Member: "a", Score: 3})
		f.index(ops("i", []storage.Entry{{Member: "a", Score: 3}}), nil)
		f.wantIndex("i", storage.Entry{Member: "b", Score: 2}, storage.Entry{Member: "a", Score: 3})
		f.wantCount("i", 0, storage.MaxScore, 2)
	}},
	{"RemoveInATransactionIgnoresTheScore", func(f *fixture) {
		f.index(ops("i", []storage.Entry{{Member: "a", Score: 1}, {Member: "b", Score: 2}}), nil)
		f.index(nil, []storage.IndexOp{{Index: "i", Member: "a", Score: 77}, {Index: "i", Member: "none"}})
		f.wantIndex("i", storage.Entry{Member: "b", Score: 2})
	}},
	{"LoneRemoveIsConditionalOnTheScore", func(f *fixture) {
		f.index(ops("i", []storage.Entry{
			{Member: "a", Score: 1}, {Member: "b", Score: 2}, {Member: "c", Score: storage.MaxScore}, {Member: "zero"},
		}), nil)
		f.write(storage.Txn{IndexRemove: []storage.IndexOp{
			{Index: "i", Member: "a", Score: 7},
			{Index: "i", Member: "b", Score: 2},
			{Index: "i", Member: "absent", Score: 0},
			{Index: "i", Member: "c", Score: storage.MaxScore - 1},
			{Index: "other", Member: "zero", Score: 0},
		}})
		f.wantIndex("i", storage.Entry{Member: "zero"}, storage.Entry{Member: "a", Score: 1},
			storage.Entry{Member: "c", Score: storage.MaxScore})
		f.write(storage.Txn{IndexRemove: []storage.IndexOp{
			{Index: "i", Member: "zero"}, {Index: "i", Member: "a", Score: 1}, {Index: "i", Member: "c", Score: storage.MaxScore},
		}})
		f.wantIndex("i")
	}},
	{"ScoresAreExact", func(f *fixture) {
		var entries []storage.Entry
		for _, score := range []storage.Score{
			0, 1, 1 << 31, 1_790_000_000_000_001, 1 << 52, storage.MaxScore - 1, storage.MaxScore,
		} {
			entries = append(entries, storage.Entry{Member: fmt.Sprint(score), Score: score})
		}
		f.index(ops("i", entries), nil)
		f.wantIndex("i", entries...)
		f.wantPages("i", entries)
		f.wantCount("i", storage.MaxScore, storage.MaxScore, 1)
		f.wantCount("i", 1, storage.MaxScore-1, 5)
	}},
	{"UpperBoundIsInclusive", func(f *fixture) {
		f.index(ops("i", []storage.Entry{{Member: "a", Score: 1}, {Member: "b", Score: 2}, {Member: "c", Score: 3}}), nil)
		same(f, "up to 2", f.page("i", storage.Cursor{}, 2, 10),
			[]storage.Entry{{Member: "a", Score: 1}, {Member: "b", Score: 2}})
		same(f, "up to 0", f.page("i", storage.Cursor{}, 0, 10), nil)
		same(f, "bound before the cursor", f.page("i", storage.Cursor{Score: 3, Member: "c"}, 1, 10), nil)
		f.wantCount("i", 2, 3, 2)
		f.wantCount("i", 3, 2, 0)
	}},
	{"LimitIsKept", func(f *fixture) {
		f.index(ops("i", []storage.Entry{{Member: "a", Score: 1}, {Member: "b", Score: 2}}), nil)
		same(f, "limit 1", f.page("i", storage.Cursor{}, 9, 1), []storage.Entry{{Member: "a", Score: 1}})
		same(f, "limit 0", f.page("i", storage.Cursor{}, 9, 0), nil)
		same(f, "limit -1", f.page("i", storage.Cursor{}, 9, -1), nil)
	}},
	{"CursorNeedsNoMember", func(f *fixture) {
		f.index(ops("i", []storage.Entry{
			{Member: "a", Score: 5},
			{Member: "c", Score: 5},
			{Member: "e", Score: 5},
			{Member: "d", Score: 7},
			{Member: "b", Score: 1},
		}), nil)
		rest := []storage.Entry{{Member: "c", Score: 5}, {Member: "e", Score: 5}, {Member: "d", Score: 7}}
		same(f, "behind a", f.page("i", storage.Cursor{Score: 5, Member: "a"}, 9, 9), rest)
		same(f, "behind a member that is elsewhere", f.page("i", storage.Cursor{Score: 5, Member: "b"}, 9, 9), rest)
		same(f, "behind an absent member", f.page("i", storage.Cursor{Score: 5, Member: "aZ"}, 9, 9), rest)
		same(f, "behind a score", f.page("i", storage.Cursor{Score: 6, Member: "zzz"}, 9, 9), rest[2:])
		same(f, "before a score", f.page("i", storage.Cursor{Score: 7}, 9, 9), rest[2:])
		same(f, "behind all", f.page("i", storage.Cursor{Score: 7, Member: "d"}, 9, 9), nil)
	}},
	{"PagingWhileMembersLeave", func(f *fixture) {
		var entries []storage.Entry
		for i := range 50 {
			entries = append(entries, storage.Entry{Member: fmt.Sprintf("m%02d", i), Score: 1})
		}
		f.index(ops("i", entries), nil)
		var seen []storage.Entry
		f.pages("i", 7, len(entries), func(page []storage.Entry) {
			seen = append(seen, page...)
			f.index(nil, ops("i", page))
		})
		same(f, "seen", seen, entries)
		f.wantIndex("i")
	}},
	{"ManyOfEqualScore", func(f *fixture) {
		var entries []storage.Entry
		for i := range 3000 {
			entries = append(entries, storage.Entry{Member: fmt.Sprintf("agent-%d", i*7919%3000), Score: 0})
		}
		for part := range slices.Chunk(entries, 500) {
			f.index(ops("i", part), nil)
		}
		f.wantPages("i", sorted(entries))
		f.wantCount("i", 0, 0, 3000)
	}},
	{"NamesAreOpaque", func(f *fixture) {
		names := []storage.Index{"a", "a/", "a/b", "a\x00", "aa", "{a}", "b", "\xff"}
		for i, name := range names {
			f.index(ops(name, []storage.Entry{{Member: string(name), Score: storage.Score(i)}}), nil)
		}
		for i, name := range names {
			f.wantIndex(name, storage.Entry{Member: string(name), Score: storage.Score(i)})
			f.wantCount(name, 0, storage.MaxScore, 1)
		}
	}},
	{"IndexesDoNotMix", func(f *fixture) {
		f.index([]storage.IndexOp{{Index: "i", Member: "a", Score: 1}, {Index: "j", Member: "a", Score: 2}}, nil)
		f.index(nil, []storage.IndexOp{{Index: "i", Member: "a"}})
		f.wantIndex("i")
		f.wantIndex("j", storage.Entry{Member: "a", Score: 2})
	}},
}

// wantCount compares a count.
func (f *fixture) wantCount(index storage.Index, from, to storage.Score, want int) {
	f.Helper()
	got, err := f.store.Count(f.ctx, index, from, to)
	if err != nil {
		f.Fatalf("Count: %v", err)
	}
	if got != want {
		f.Fatalf("Count of %q from %d to %d: got %d, want %d", index, from, to, got, want)
	}
}

// wantPages reads an index in pages of several sizes.
func (f *fixture) wantPages(index storage.Index, want []storage.Entry) {
	f.Helper()
	for _, limit := range []int{1 + len(want)/20, 7 + len(want)/10, len(want), len(want) + 1} {
		var got []storage.Entry
		f.pages(index, limit, len(want), func(page []storage.Entry) { got = append(got, page...) })
		same(f, fmt.Sprintf("index %s in pages of %d", index, limit), got, want)
	}
}

// pages visits an index page by page, and fails the test if that brings more entries than most.
func (f *fixture) pages(index storage.Index, limit, most int, visit func(page []storage.Entry)) {
	f.Helper()
	var cursor storage.Cursor
	for n := 0; ; {
		page := f.page(index, cursor, storage.MaxScore, limit)
		if len(page) == 0 {
			return
		}
		if n += len(page); len(page) > limit || n > most {
			f.Fatalf("a page of %d entries, the limit is %d; %d entries so far, of %d", len(page), limit, n, most)
		}
		visit(page)
		last := page[len(page)-1]
		cursor = storage.Cursor{Score: last.Score, Member: last.Member}
	}
}
