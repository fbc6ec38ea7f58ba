package boltstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/opspawn/opscore/storage"
)

// What the fence says while nothing may be written. It goes on to say so after a Replace that failed.
const (
	held        = "!"
	notReplaced = held + "a backup is being restored, or its restore failed and must be repeated"
)

const (
	// firstIncarnation is that of a file whose content was never replaced.
	firstIncarnation = "file"
	// replaceBatch is how many items one transaction of the file takes in.
	replaceBatch = 2000
	// maxItemEntries bounds the entries of an index in one item.
	maxItemEntries = 10_000
)

var keyFence = []byte("fence")

var _ storage.Copied = (*Store)(nil)

// Incarnation names the content of the file: another one after it was replaced. It fails when a Replace was not finished.
func (s *Store) Incarnation(ctx context.Context) (string, error) {
	var fence string
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		fence = string(tx.Bucket(bucketMeta).Get(keyFence))
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read the fence: %w", err)
	}
	if reason, ok := strings.CutPrefix(fence, held); ok {
		return "", fmt.Errorf("%w: %s", storage.ErrHeld, reason)
	}
	return firstIncarnation + fence, nil
}

// Accept lets Txns reach no other content than the one of this incarnation.
func (s *Store) Accept(incarnation string) { s.accepted.Store(&incarnation) }

// admits reports why a Txn for an incarnation must not be executed.
func (b *buckets) admits(t *txn) error {
	fence := string(b.meta.Get(keyFence))
	switch {
	case strings.HasPrefix(fence, held):
		return unknown(storage.ErrHeld)
	case t.accepted != "" && t.accepted != firstIncarnation+fence:
		return unknown(errOtherContent)
	}
	return nil
}

// Snapshot calls visit with everything in the file, as one moment has seen it. Writes go on meanwhile; the file grows by what they free.
func (s *Store) Snapshot(ctx context.Context, visit func(storage.Item) error) error {
	return s.view(ctx, func(tx *bbolt.Tx) error {
		err := tx.Bucket(bucketDocs).ForEach(func(key, value []byte) error {
			rev, data, err := parseDoc(value)
			if err != nil {
				return fmt.Errorf("document %q: %w", key, err)
			}
			return visitWhile(ctx, visit, storage.Item{Doc: storage.Doc{Key: storage.Key(key), Rev: storage.Rev(rev), Data: slices.Clone(data)}})
		})
		if err != nil {
			return err
		}
		if err := copyIndexes(ctx, tx, visit); err != nil {
			return err
		}
		return tx.Bucket(bucketLogs).ForEach(func(name, _ []byte) error {
			bounds, err := readBounds(tx.Bucket(bucketLogs), storage.Log(name))
			if err != nil {
				return err
			}
			item := storage.Item{Log: storage.Log(name)}
			for n := bounds.oldest; n < bounds.next; n++ {
				item.Lines = append(item.Lines, slices.Clone(tx.Bucket(bucketEntries).Get(entryKey(item.Log, n))))
			}
			return visitWhile(ctx, visit, item)
		})
	})
}

func visitWhile(ctx context.Context, visit func(storage.Item) error, item storage.Item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return visit(item)
}

// copyIndexes visits the entries of all indexes, which stand one index after the other.
func copyIndexes(ctx context.Context, tx *bbolt.Tx, visit func(storage.Item) error) error {
	var item storage.Item
	flush := func() error {
		if len(item.Entries) == 0 {
			return nil
		}
		full := item
		item.Entries = nil
		return visitWhile(ctx, visit, full)
	}
	err := tx.Bucket(bucketOrder).ForEach(func(key, _ []byte) error {
		n, used := binary.Uvarint(key)
		if used <= 0 || n > uint64(len(key)-used) || len(key)-used-int(n) < numberLen {
			return fmt.Errorf("index entry: %w", errDamaged)
		}
		name := storage.Index(key[used : used+int(n)])
		if name != item.Index || len(item.Entries) == maxItemEntries {
			if err := flush(); err != nil {
				return err
			}
			item.Index = name
		}
		item.Entries = append(item.Entries, parseOrder(key[used+int(n):]))
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// Replace puts the items in place of everything in the file.
func (s *Store) Replace(ctx context.Context, items iter.Seq2[storage.Item, error]) error {
	if err := s.update(ctx, func(b *buckets, tx *bbolt.Tx) error {
		for _, name := range contentBuckets {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return b.meta.Put(keyFence, []byte(notReplaced))
	}); err != nil {
		return err
	}
	batch := make([]storage.Item, 0, replaceBatch)
	flush := func() error {
		defer func() { batch = batch[:0] }()
		return s.update(ctx, func(b *buckets, _ *bbolt.Tx) error {
			for i := range batch {
				if err := b.put(&batch[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for item, err := range items {
		if err != nil {
			return fmt.Errorf("replace the content of the database file: %w", err)
		}
		if batch = append(batch, item); len(batch) == replaceBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	// No Txn that waits may be taken for one of the new content: it names the incarnation before.
	mark := "/" + string(storage.NewRevisions().Next())
	return s.update(ctx, func(b *buckets, _ *bbolt.Tx) error { return b.meta.Put(keyFence, []byte(mark)) })
}

// update changes the file in one transaction.
func (s *Store) update(ctx context.Context, change func(*buckets, *bbolt.Tx) error) error {
	err := ctx.Err()
	if err == nil {
		err = s.db.Update(func(tx *bbolt.Tx) error {
			b := openBuckets(tx)
			return change(&b, tx)
		})
	}
	if err != nil {
		return fmt.Errorf("replace the content of the database file: %w", err)
	}
	return nil
}

// put writes an item. One that comes twice changes nothing.
func (b *buckets) put(item *storage.Item) error {
	switch {
	case item.Doc.Key != "":
		return b.docs.Put([]byte(item.Doc.Key), docValue(item.Doc.Rev, item.Doc.Data))
	case item.Log != "":
		if err := b.drop(item.Log); err != nil {
			return err
		}
		for _, line := range item.Lines {
			if err := b.append(logAppend{item.Log, line, uint64(len(item.Lines))}); err != nil {
				return err
			}
		}
	}
	for _, e := range item.Entries {
		op := storage.IndexOp{Index: item.Index, Member: e.Member, Score: e.Score}
		if err := b.add(indexOp{op, memberKey(op.Index, op.Member)}); err != nil {
			return err
		}
	}
	return nil
}
