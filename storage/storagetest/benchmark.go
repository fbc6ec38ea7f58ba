package storagetest

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/opspawn/opscore/storage"
)

// The shape of the benchmarks: what a batch of events makes of a fleet of agents.
const (
	benchBatch = 256
	benchFleet = 10_000
	benchData  = 400
	benchCap   = 64
)

// BenchmarkCommit measures how many Txns a store takes in a second, in batches of 256 as the consumers write them: one
// document with a log entry; two documents with an index entry; the former from four writers at once; and one Txn
// alone in its Commit.
func BenchmarkCommit(b *testing.B, store storage.Store) {
	revs := storage.NewRevisions()
	b.Run("document+log", func(b *testing.B) { newLoad(revs, "a", 1).run(b, store, benchBatch) })
	b.Run("2documents+index", func(b *testing.B) { newLoad(revs, "b", 2).run(b, store, benchBatch) })
	b.Run("document+log/writers=4", func(b *testing.B) {
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() { newLoad(revs, fmt.Sprintf("c%d", w), 1).apply(b, store, benchBatch, b.N/4) })
		}
		writers.Wait()
		report(b)
	})
	b.Run("alone", func(b *testing.B) { newLoad(revs, "d", 1).run(b, store, 1) })
}

// load makes Txns that update the documents of a fleet in turn.
type load struct {
	revs *storage.Revisions
	docs int // documents per Txn: with one there is a log entry, with two an index entry
	keys [][]storage.Key
	from []storage.Rev
	data []byte
	n    int
}

func newLoad(revs *storage.Revisions, name string, docs int) *load {
	l := &load{revs: revs, docs: docs, from: make([]storage.Rev, benchFleet), data: bytes.Repeat([]byte("x"), benchData)}
	for i := range benchFleet {
		var keys []storage.Key
		for d := range docs {
			keys = append(keys, storage.Key(fmt.Sprintf("agent/%s/%s-%d/%d", revs.Next(), name, i, d)))
		}
		l.keys = append(l.keys, keys)
	}
	return l
}

// next returns the next Txn.
func (l *load) next() storage.Txn {
	i := l.n % benchFleet
	t := storage.Txn{Rev: l.revs.Next()}
	for _, key := range l.keys[i] {
		t.If = append(t.If, storage.Cond{Key: key, Rev: l.from[i]})
		t.Put = append(t.Put, storage.Put{Key: key, Data: l.data})
	}
	if l.docs == 1 {
		log := storage.Log("log/" + string(l.keys[i][0]))
		t.LogAppend = []storage.Append{{Log: log, Data: l.data[:benchData/4], Cap: benchCap}}
	} else {
		member := string(l.keys[i][0])
		t.IndexAdd = []storage.IndexOp{{Index: "due", Member: member, Score: storage.Score(1_790_000_000_000_000 + l.n)}}
	}
	l.from[i] = t.Rev
	l.n++
	return t
}

// apply commits n Txns.
func (l *load) apply(b *testing.B, store storage.Store, batch, n int) {
	txns := make([]storage.Txn, 0, batch)
	for n > 0 {
		txns = txns[:0]
		for range min(batch, n) {
			txns = append(txns, l.next())
		}
		for _, err := range store.Commit(b.Context(), txns...) {
			if err != nil {
				b.Error(err)
				return
			}
		}
		n -= len(txns)
	}
}

func (l *load) run(b *testing.B, store storage.Store, batch int) {
	b.ReportAllocs()
	b.ResetTimer()
	l.apply(b, store, batch, b.N)
	report(b)
}

func report(b *testing.B) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txns/s")
}
