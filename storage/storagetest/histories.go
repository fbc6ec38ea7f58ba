package storagetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/storage"
)

// Subject is a store that takes part in [Histories].
type Subject struct {
	Name string
	Open Opener
	// Double commits Txns twice in a row and returns the answers of the second time. Nil calls Commit twice; a driver
	// over a network can lose the first reply instead and let its client library do it.
	Double func(store storage.Store, txns []storage.Txn) []error
}

// The small world of a history: few names, so that things meet.
var (
	worldKeys    = []storage.Key{"a", "b", "c", "d", "e"}
	worldIndexes = []storage.Index{"i", "j"}
	worldMembers = []string{"m", "M", "mm", "m\x00", "é", "0"}
	worldScores  = []storage.Score{0, 1, 1, 2, 1_790_000_000_000_001, storage.MaxScore}
	worldLogs    = []storage.Log{"l", "k"}
)

// Histories applies the same random histories to all subjects and to a model in memory, and compares every answer and,
// at the end of each history, everything that is stored. A history holds Txns of all kinds, with right, stale and
// invented revisions, late repeats of earlier ones, and pipelines that are executed twice.
func Histories(t *testing.T, subjects ...Subject) {
	stores := make([]storage.Store, len(subjects))
	for i, s := range subjects {
		stores[i] = s.Open(t)
		t.Cleanup(func() { _ = stores[i].Close() })
	}
	revs := storage.NewRevisions()
	world := 0
	rapid.Check(t, func(rt *rapid.T) {
		world++ // each history has names of its own in the same stores
		h := &history{
			T: rt, subjects: subjects, stores: stores, model: newModel(), revs: revs, world: fmt.Sprintf("%d/", world),
			seen: map[storage.Key][]storage.Rev{},
		}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			h.step()
		}
		h.compareAll()
	})
}

// history is one random history under way.
type history struct {
	*rapid.T
	subjects []Subject
	stores   []storage.Store
	model    *model
	revs     *storage.Revisions
	world    string
	seen     map[storage.Key][]storage.Rev // revisions each document has, had or was meant to have
	past     []storage.Txn
}

// step commits one batch, once or twice, or reads.
func (h *history) step() {
	switch kind := rapid.SampledFrom([]string{"commit", "commit", "double", "read"}).Draw(h.T, "step"); kind {
	case "read":
		h.read()
	default:
		h.commit(h.batch(), kind == "double")
	}
}

// batch draws the Txns of one Commit.
func (h *history) batch() []storage.Txn {
	var txns []storage.Txn
	for range rapid.IntRange(1, 6).Draw(h.T, "transactions") {
		if len(h.past) > 0 && rapid.IntRange(0, 5).Draw(h.T, "repeat") == 0 {
			txns = append(txns, rapid.SampledFrom(h.past).Draw(h.T, "repeated"))
			continue
		}
		t := h.txn()
		txns = append(txns, t)
		h.past = append(h.past, t)
	}
	return txns
}

// txn draws one Txn. Now and then it is invalid.
func (h *history) txn() storage.Txn {
	if rapid.IntRange(0, 6).Draw(h.T, "lone") == 0 {
		return storage.Txn{IndexRemove: h.ops("remove", 1)}
	}
	t := storage.Txn{Rev: h.revs.Next()}
	for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom(worldKeys), 1, 4, rapid.ID).Draw(h.T, "keys") {
		key = storage.Key(h.world) + key
		t.If = append(t.If, storage.Cond{Key: key, Rev: h.rev(key)})
		switch rapid.SampledFrom([]string{"put", "put", "put", "delete", "compare"}).Draw(h.T, "do") {
		case "put":
			t.Put = append(t.Put, storage.Put{Key: key, Data: h.data()})
			h.seen[key] = append(h.seen[key], t.Rev)
		case "delete":
			t.Delete = append(t.Delete, key)
		}
	}
	t.IndexAdd, t.IndexRemove = h.ops("add", 0), h.ops("remove", 0)
	for range rapid.IntRange(0, 2).Draw(h.T, "appends") {
		log := storage.Log(h.world) + rapid.SampledFrom(worldLogs).Draw(h.T, "log")
		t.LogAppend = append(t.LogAppend, storage.Append{Log: log, Data: h.data(), Cap: rapid.IntRange(1, 4).Draw(h.T, "cap")})
	}
	if rapid.IntRange(0, 7).Draw(h.T, "drop") == 0 { // now and then one that is appended to, which is invalid
		t.LogDelete = append(t.LogDelete, storage.Log(h.world)+rapid.SampledFrom(worldLogs).Draw(h.T, "dropped"))
	}
	return t
}

// rev draws the revision a condition demands: mostly the newest one seen, which is right unless a conflict came
// between, else an older one, none, or one that never was.
func (h *history) rev(key storage.Key) storage.Rev {
	seen := h.seen[key]
	switch n := rapid.IntRange(0, 9).Draw(h.T, "revision"); {
	case n < 6:
		return h.model.docs[key].Rev
	case n < 8 && len(seen) > 0:
		return seen[len(seen)-1]
	case n < 9 && len(seen) > 0:
		return rapid.SampledFrom(seen).Draw(h.T, "stale")
	default:
		return rapid.SampledFrom([]storage.Rev{"", "never.1"}).Draw(h.T, "other")
	}
}

func (h *history) data() []byte {
	return rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(h.T, "data")
}

// ops draws index changes.
func (h *history) ops(label string, atLeast int) []storage.IndexOp {
	var all []storage.IndexOp
	for range rapid.IntRange(atLeast, 3).Draw(h.T, label) {
		all = append(all, storage.IndexOp{
			Index:  storage.Index(h.world) + rapid.SampledFrom(worldIndexes).Draw(h.T, "index"),
			Member: rapid.SampledFrom(worldMembers).Draw(h.T, "member"),
			Score:  rapid.SampledFrom(worldScores).Draw(h.T, "score"),
		})
	}
	return all
}

// commit commits a batch everywhere and compares the answers.
func (h *history) commit(txns []storage.Txn, double bool) {
	want := h.model.commit(txns)
	if double {
		want = h.model.commit(txns)
	}
	for n, store := range h.stores {
		var got []error
		switch {
		case !double:
			got = store.Commit(h.Context(), txns...)
		case h.subjects[n].Double != nil:
			got = h.subjects[n].Double(store, txns)
		default:
			store.Commit(h.Context(), txns...)
			got = store.Commit(h.Context(), txns...)
		}
		for i := range want {
			if !sameOutcome(got[i], want[i]) {
				h.Fatalf("%s: transaction %d of %+v: got error %v, want %v", h.subjects[n].Name, i, txns, got[i], want[i])
			}
		}
	}
}

// sameOutcome compares the kinds of two answers.
func sameOutcome(got, want error) bool {
	for _, kind := range []error{storage.ErrConflict, storage.ErrInvalid} {
		if errors.Is(want, kind) {
			return errors.Is(got, kind)
		}
	}
	return got == nil
}

// read draws one read and compares its answers.
func (h *history) read() {
	index := storage.Index(h.world) + rapid.SampledFrom(worldIndexes).Draw(h.T, "index")
	score := rapid.SampledFrom(worldScores)
	member := rapid.SampledFrom(append([]string{"", "zzz", "l"}, worldMembers...))
	after := storage.Cursor{Score: score.Draw(h.T, "after"), Member: member.Draw(h.T, "behind")}
	h.compareIndex(index, after, score.Draw(h.T, "to"), rapid.IntRange(0, 5).Draw(h.T, "limit"))
}

// compareAll compares everything that is stored.
func (h *history) compareAll() {
	var keys []storage.Key
	for _, key := range worldKeys {
		keys = append(keys, storage.Key(h.world)+key)
	}
	for n, store := range h.stores {
		docs, err := store.Get(h.Context(), keys...)
		h.same(n, "documents", docs, h.model.get(keys), err)
		for _, log := range worldLogs {
			log = storage.Log(h.world) + log
			tail, err := store.Tail(h.Context(), log, 100)
			h.same(n, "log "+string(log), tail, h.model.tail(log, 100), err)
		}
	}
	for _, index := range worldIndexes {
		h.compareIndex(storage.Index(h.world)+index, storage.Cursor{}, storage.MaxScore, 100)
	}
}

// compareIndex compares a page of an index and a count.
func (h *history) compareIndex(index storage.Index, after storage.Cursor, to storage.Score, limit int) {
	for n, store := range h.stores {
		page, err := store.Range(h.Context(), index, after, to, limit)
		h.same(n, fmt.Sprintf("index %s behind %+v to %d", index, after, to), page, h.model.page(index, after, to, limit), err)
		count, err := store.Count(h.Context(), index, after.Score, to)
		h.same(n, "count of index "+string(index), count, h.model.count(index, after.Score, to), err)
	}
}

func (h *history) same(subject int, what string, got, want any, err error) {
	if err != nil {
		h.Fatalf("%s: %s: %v", h.subjects[subject].Name, what, err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		h.Fatalf("%s: %s (-model +store):\n%s", h.subjects[subject].Name, what, diff)
	}
}
