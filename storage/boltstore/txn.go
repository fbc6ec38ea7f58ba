package boltstore

import (
	"bytes"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/opspawn/opscore/storage"
)

// txn is a Txn in the form of the file. It shares no memory with the caller, who may go on and reuse his own when his
// context ends before the writer has come to it; and most of the work is done before the writer's turn.
type txn struct {
	rev      []byte
	accepted string // the incarnation it is for, empty for any
	conds    []cond
	puts     []pair
	deletes  [][]byte
	adds     []indexOp
	removes  []indexOp
	appends  []logAppend
	drops    []storage.Log
}

type (
	cond struct {
		key, rev []byte
		put      bool // the document is to be put, so the Txn's own revision may stand in it
	}
	pair    struct{ key, value []byte }
	indexOp struct {
		storage.IndexOp
		member []byte // the key in bucket members
	}
	logAppend struct {
		log  storage.Log
		data []byte
		cap  uint64
	}
)

// prepare translates a Txn. It returns an error wrapping [storage.ErrInvalid] if the Txn breaks the rules or has a
// name that is too long for a key of the file, so that nothing is left that could fail while it is being written.
func prepare(t *storage.Txn) (*txn, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	p := &txn{
		rev:     []byte(t.Rev),
		puts:    make([]pair, len(t.Put)),
		deletes: make([][]byte, len(t.Delete)),
		adds:    indexOps(t.IndexAdd),
		removes: indexOps(t.IndexRemove),
		appends: make([]logAppend, len(t.LogAppend)),
		drops:   slices.Clone(t.LogDelete),
	}
	for i, put := range t.Put {
		p.puts[i] = pair{[]byte(put.Key), docValue(t.Rev, put.Data)}
	}
	for i, key := range t.Delete {
		p.deletes[i] = []byte(key)
	}
	for i, a := range t.LogAppend {
		p.appends[i] = logAppend{a.Log, bytes.Clone(a.Data), uint64(a.Cap)}
	}
	p.conds = conds(t)
	return p, p.checkLengths()
}

// conds translates the conditions, those on documents to be put first: only they can tell that the Txn was applied
// already, which must be known before a conflict is declared.
func conds(t *storage.Txn) []cond {
	put := make(map[storage.Key]bool, len(t.Put))
	for _, p := range t.Put {
		put[p.Key] = true
	}
	all := make([]cond, 0, len(t.If))
	for _, first := range []bool{true, false} {
		for _, c := range t.If {
			if put[c.Key] == first {
				all = append(all, cond{key: []byte(c.Key), rev: []byte(c.Rev), put: first})
			}
		}
	}
	return all
}

func indexOps(ops []storage.IndexOp) []indexOp {
	all := make([]indexOp, len(ops))
	for i, op := range ops {
		all[i] = indexOp{op, memberKey(op.Index, op.Member)}
	}
	return all
}

// checkLengths returns an error if a key would be too long for bbolt.
func (t *txn) checkLengths() error {
	longest := 0
	for _, p := range t.puts {
		longest = max(longest, len(p.key))
	}
	for _, op := range t.adds {
		longest = max(longest, len(op.member)+numberLen)
	}
	for _, a := range t.appends {
		longest = max(longest, len(entryKey(a.log, 0)))
	}
	for _, log := range t.drops {
		longest = max(longest, len(entryKey(log, 0)))
	}
	if longest > bbolt.MaxKeySize {
		return fmt.Errorf("%w: a name is %d bytes too long", storage.ErrInvalid, longest-bbolt.MaxKeySize)
	}
	return nil
}

// buckets are the buckets of one bbolt transaction.
type buckets struct{ docs, members, order, logs, entries, meta *bbolt.Bucket }

func openBuckets(tx *bbolt.Tx) buckets {
	return buckets{
		docs:    tx.Bucket(bucketDocs),
		members: tx.Bucket(bucketMembers),
		order:   tx.Bucket(bucketOrder),
		logs:    tx.Bucket(bucketLogs),
		entries: tx.Bucket(bucketEntries),
		meta:    tx.Bucket(bucketMeta),
	}
}

// apply executes one Txn. It returns [storage.ErrConflict] as conflict, having written nothing; any other failure is
// err, after which the bbolt transaction must be rolled back.
func (b *buckets) apply(t *txn) (conflict, err error) {
	holds := true
	for _, c := range t.conds {
		if !c.put && !holds {
			break
		}
		rev, _, err := parseDoc(b.docs.Get(c.key))
		if err != nil {
			return nil, fmt.Errorf("document %q: %w", c.key, err)
		}
		if c.put && bytes.Equal(rev, t.rev) {
			return nil, nil // applied already
		}
		holds = holds && bytes.Equal(rev, c.rev)
	}
	if !holds {
		return storage.ErrConflict, nil
	}
	return nil, b.write(t)
}

// write does what a Txn wants, its conditions being met.
func (b *buckets) write(t *txn) error {
	for _, p := range t.puts {
		if err := b.docs.Put(p.key, p.value); err != nil {
			return err
		}
	}
	for _, key := range t.deletes {
		if err := b.docs.Delete(key); err != nil {
			return err
		}
	}
	for _, op := range t.adds {
		if err := b.add(op); err != nil {
			return err
		}
	}
	for _, op := range t.removes {
		if err := b.remove(op, len(t.puts) == 0); err != nil {
			return err
		}
	}
	for _, a := range t.appends {
		if err := b.append(a); err != nil {
			return err
		}
	}
	for _, log := range t.drops {
		if err := b.drop(log); err != nil {
			return err
		}
	}
	return nil
}

// add adds a member to an index, or moves it.
func (b *buckets) add(op indexOp) error {
	if old := b.members.Get(op.member); old != nil {
		score, err := parseScore(old)
		if err != nil {
			return err
		}
		if score == op.Score {
			return nil
		}
		if err := b.order.Delete(orderKey(op.Index, score, op.Member)); err != nil {
			return err
		}
	}
	if err := b.members.Put(op.member, appendScore(nil, op.Score)); err != nil {
		return err
	}
	return b.order.Put(orderKey(op.Index, op.Score, op.Member), nil)
}

// remove removes a member from an index; with ifUnmoved only if it still has the score.
func (b *buckets) remove(op indexOp, ifUnmoved bool) error {
	old := b.members.Get(op.member)
	if old == nil {
		return nil
	}
	score, err := parseScore(old)
	if err != nil || ifUnmoved && score != op.Score {
		return err
	}
	if err := b.members.Delete(op.member); err != nil {
		return err
	}
	return b.order.Delete(orderKey(op.Index, score, op.Member))
}

// append adds an entry to a log and deletes the oldest ones above its cap.
func (b *buckets) append(a logAppend) error {
	bounds, err := readBounds(b.logs, a.log)
	if err != nil {
		return err
	}
	if err := b.entries.Put(entryKey(a.log, bounds.next), a.data); err != nil {
		return err
	}
	for bounds.next++; bounds.next-bounds.oldest > a.cap; bounds.oldest++ {
		if err := b.entries.Delete(entryKey(a.log, bounds.oldest)); err != nil {
			return err
		}
	}
	return b.logs.Put([]byte(a.log), bounds.value())
}

// drop deletes a log with all its entries.
func (b *buckets) drop(log storage.Log) error {
	bounds, err := readBounds(b.logs, log)
	if err != nil {
		return err
	}
	for n := bounds.oldest; n < bounds.next; n++ {
		if err := b.entries.Delete(entryKey(log, n)); err != nil {
			return err
		}
	}
	return b.logs.Delete([]byte(log))
}
