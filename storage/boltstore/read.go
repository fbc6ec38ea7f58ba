package boltstore

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/opspawn/opscore/storage"
)

// view runs a read on a snapshot of the file.
func (s *Store) view(ctx context.Context, read func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.db.View(read)
	if err == berrors.ErrDatabaseNotOpen { //nolint:errorlint // bbolt returns it bare
		return errClosed
	}
	return err
}

// Get reads documents, in the order of keys, as one snapshot.
func (s *Store) Get(ctx context.Context, keys ...storage.Key) ([]storage.Doc, error) {
	docs := make([]storage.Doc, len(keys))
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bucketDocs)
		for i, key := range keys {
			value := bucket.Get([]byte(key))
			rev, data, err := parseDoc(value)
			if err != nil {
				return fmt.Errorf("document %q: %w", key, err)
			}
			docs[i] = storage.Doc{Key: key, Rev: storage.Rev(rev)}
			if value != nil {
				docs[i].Data = append([]byte{}, data...)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("get %d documents: %w", len(keys), err)
	}
	return docs, nil
}

// Range reads at most limit entries with a score ≤ to that stand behind after, as one snapshot.
func (s *Store) Range(
	ctx context.Context, index storage.Index, after storage.Cursor, to storage.Score, limit int,
) ([]storage.Entry, error) {
	var entries []storage.Entry
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		first := orderKey(index, after.Score, after.Member)
		walk(tx, index, first, func(key []byte, e storage.Entry) bool {
			if e.Score > to || len(entries) >= limit {
				return false
			}
			if !bytes.Equal(key, first) { // the cursor's own entry is not behind it
				entries = append(entries, e)
			}
			return true
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("range over index %q: %w", index, err)
	}
	return entries, nil
}

// Count counts the entries with from ≤ score ≤ to. It walks over all of them.
func (s *Store) Count(ctx context.Context, index storage.Index, from, to storage.Score) (int, error) {
	n := 0
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		walk(tx, index, orderKey(index, from, ""), func(_ []byte, e storage.Entry) bool {
			if e.Score > to {
				return false
			}
			n++
			return true
		})
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count index %q: %w", index, err)
	}
	return n, nil
}

// walk visits the entries of an index from key first on, until visit returns false.
func walk(tx *bbolt.Tx, index storage.Index, first []byte, visit func(key []byte, e storage.Entry) bool) {
	prefix := namePrefix(string(index), 0)
	c := tx.Bucket(bucketOrder).Cursor()
	for key, _ := c.Seek(first); bytes.HasPrefix(key, prefix); key, _ = c.Next() {
		if !visit(key, parseOrder(key[len(prefix):])) {
			return
		}
	}
}

// Tail reads the newest n entries of a log, oldest first.
func (s *Store) Tail(ctx context.Context, log storage.Log, n int) ([][]byte, error) {
	if n < 1 {
		return nil, nil
	}
	var tail [][]byte
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		bounds, err := readBounds(tx.Bucket(bucketLogs), log)
		if err != nil {
			return err
		}
		have := bounds.next - bounds.oldest
		tail = make([][]byte, 0, min(uint64(n), have))
		entries := tx.Bucket(bucketEntries)
		for number := bounds.next - uint64(cap(tail)); number < bounds.next; number++ {
			tail = append(tail, append([]byte{}, entries.Get(entryKey(log, number))...))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tail of log %q: %w", log, err)
	}
	return tail, nil
}
