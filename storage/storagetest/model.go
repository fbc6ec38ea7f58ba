package storagetest

import (
	"slices"

	"github.com/opspawn/opscore/storage"
)

// model is the contract written down as plainly as possible: a store in memory, without concurrency or errors.
type model struct {
	docs    map[storage.Key]storage.Doc
	indexes map[storage.Index]map[string]storage.Score
	logs    map[storage.Log][][]byte
}

func newModel() *model {
	return &model{
		docs:    make(map[storage.Key]storage.Doc),
		indexes: make(map[storage.Index]map[string]storage.Score),
		logs:    make(map[storage.Log][][]byte),
	}
}

func (m *model) get(keys []storage.Key) []storage.Doc {
	docs := make([]storage.Doc, len(keys))
	for i, key := range keys {
		docs[i] = m.docs[key]
		docs[i].Key = key
	}
	return docs
}

func (m *model) page(index storage.Index, after storage.Cursor, to storage.Score, limit int) []storage.Entry {
	var all []storage.Entry
	for member, score := range m.indexes[index] {
		if score > after.Score || score == after.Score && member > after.Member {
			if score <= to {
				all = append(all, storage.Entry{Member: member, Score: score})
			}
		}
	}
	all = sorted(all)
	return all[:min(len(all), max(0, limit))]
}

func (m *model) count(index storage.Index, from, to storage.Score) int {
	n := 0
	for _, score := range m.indexes[index] {
		if from <= score && score <= to {
			n++
		}
	}
	return n
}

func (m *model) tail(log storage.Log, n int) [][]byte {
	entries := m.logs[log]
	return entries[len(entries)-min(len(entries), max(0, n)):]
}

func (m *model) commit(txns []storage.Txn) []error {
	errs := make([]error, len(txns))
	for i, t := range txns {
		errs[i] = m.apply(&t)
	}
	return errs
}

// apply executes one Txn or leaves no trace.
func (m *model) apply(t *storage.Txn) error {
	if err := t.Check(); err != nil {
		return err
	}
	for _, put := range t.Put {
		if m.docs[put.Key].Rev == t.Rev {
			return nil
		}
	}
	for _, c := range t.If {
		if m.docs[c.Key].Rev != c.Rev {
			return storage.ErrConflict
		}
	}
	for _, put := range t.Put {
		m.docs[put.Key] = storage.Doc{Key: put.Key, Rev: t.Rev, Data: slices.Clone(put.Data)}
	}
	for _, key := range t.Delete {
		delete(m.docs, key)
	}
	for _, op := range t.IndexAdd {
		if m.indexes[op.Index] == nil {
			m.indexes[op.Index] = make(map[string]storage.Score)
		}
		m.indexes[op.Index][op.Member] = op.Score
	}
	for _, op := range t.IndexRemove {
		if score, there := m.indexes[op.Index][op.Member]; there && (!t.OnlyRemoves() || score == op.Score) {
			delete(m.indexes[op.Index], op.Member)
		}
	}
	for _, a := range t.LogAppend {
		entries := append(m.logs[a.Log], slices.Clone(a.Data))
		m.logs[a.Log] = entries[max(0, len(entries)-a.Cap):]
	}
	for _, log := range t.LogDelete {
		delete(m.logs, log)
	}
	return nil
}
