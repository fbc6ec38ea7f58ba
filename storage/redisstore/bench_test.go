package redisstore_test

import (
	"fmt"
	"testing"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/storagetest"
)

func BenchmarkCommit(b *testing.B) {
	store := openAt(b, storagetest.StartRedis(b).URL())
	defer func() { _ = store.Close() }()
	storagetest.BenchmarkCommit(b, store)
}

// BenchmarkRange reads pages of 100 from an index of 100,000 members with one score, behind a member that is there
// and behind one that has left. It must not matter where in the index the page lies.
func BenchmarkRange(b *testing.B) {
	const members, limit = 100_000, 100
	store := openAt(b, storagetest.StartRedis(b).URL())
	defer func() { _ = store.Close() }()
	for start := 0; start < members; start += limit {
		rev := storage.Rev(fmt.Sprint("r.", start))
		t := storage.Txn{Rev: rev, If: []storage.Cond{{Key: storage.Key(rev)}}, Put: []storage.Put{{Key: storage.Key(rev)}}}
		for i := range limit {
			t.IndexAdd = append(t.IndexAdd, storage.IndexOp{Index: "free", Member: fmt.Sprintf("agent-%05d", start+i)})
		}
		if err := store.Commit(b.Context(), t)[0]; err != nil {
			b.Fatal(err)
		}
	}
	for name, behind := range map[string]string{
		"start": "", "middle": "agent-50000", "middle,left": "agent-50000x", "end,left": "agent-99000x",
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				page, err := store.Range(b.Context(), "free", storage.Cursor{Member: behind}, 0, limit)
				if err != nil || len(page) != limit {
					b.Fatalf("%d entries, %v", len(page), err)
				}
			}
		})
	}
}
