package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// backups copies the store of a server, and replaces it by a copy. Copies lie in temporary files in between, so that the store is held for no longer than
// it takes to write one, and is not touched before all of one has arrived.
type backups struct{ s *server }

// spool is a temporary file that is gone when it is closed.
type spool struct{ *os.File }

func newSpool() (*spool, error) {
	f, err := os.CreateTemp("", "opscore-backup-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	return &spool{f}, nil
}

// Close closes and removes the file.
func (f *spool) Close() error { return errors.Join(f.File.Close(), os.Remove(f.Name())) }

func (f *spool) rewind() error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

func (b backups) store() (storage.Copied, error) {
	store, ok := b.s.store.(storage.Copied)
	if !ok {
		return nil, event.Errorf(event.CodeNotAllowedNow, "the store cannot be copied")
	}
	return store, nil
}

// Backup makes a copy of the store.
func (b backups) Backup(ctx context.Context) (_ io.ReadCloser, size int64, err error) {
	store, err := b.store()
	if err != nil {
		return nil, 0, err
	}
	f, err := newSpool()
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	began := time.Now()
	items, err := storage.WriteCopy(ctx, store, f)
	if err != nil {
		return nil, 0, err
	}
	if size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, 0, err
	}
	b.s.cfg.Log.Info("backup made", "items", items, "bytes", size, "ms", time.Since(began).Milliseconds())
	return f, size, f.rewind()
}

// Restore replaces the store by a copy. All replicas notice that it is another one, as they notice one that came back older, and heal it by replay.
func (b backups) Restore(ctx context.Context, backup io.Reader, force bool) (items int, err error) {
	store, err := b.store()
	if err != nil {
		return 0, err
	}
	f, err := newSpool()
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(f, backup); err != nil {
		return 0, fmt.Errorf("%w: %w", storage.ErrDamaged, err)
	}
	if err := f.rewind(); err != nil {
		return 0, err
	}
	if items, err = b.check(f); err != nil {
		return 0, err
	}
	if err := b.inUse(ctx); err != nil && !force {
		return 0, err
	}
	if err := f.rewind(); err != nil {
		return 0, err
	}
	b.s.cfg.Log.Warn("a backup is being restored", "items", items)
	// Half a restore is worth nothing, so it goes on without its client.
	if err := store.Replace(context.WithoutCancel(ctx), restoring(storage.ReadCopy(f))); err != nil {
		return 0, err
	}
	b.s.keeper.Alarm("a backup was restored: healing")
	return items, nil
}

// check reads a copy to its end before anything is touched.
func (b backups) check(f io.Reader) (items int, err error) {
	for item, err := range storage.ReadCopy(f) {
		if err != nil {
			return 0, err
		}
		if err := lifecycle.CheckSchema(item.Doc); err != nil {
			return 0, event.Errorf(event.CodeNotAllowedNow, "nothing was restored: %s", err)
		}
		items++
	}
	return items, nil
}

// inUse returns an error if something would be lost. What a server writes when it starts is nothing.
func (b backups) inUse(ctx context.Context) error {
	for _, index := range []storage.Index{lifecycle.AgentIndex, workflow.RunIndex} {
		n, err := b.s.store.Count(ctx, index, 0, storage.MaxScore)
		if err != nil {
			return err
		}
		if n > 0 {
			return event.Errorf(event.CodeConflict, "the store is not empty: it has %d %s; --force replaces everything in it", n, index)
		}
	}
	return nil
}

// restoring changes what a store must not take for its own.
func restoring(items iter.Seq2[storage.Item, error]) iter.Seq2[storage.Item, error] {
	return func(yield func(storage.Item, error) bool) {
		for item, err := range items {
			if err == nil {
				item.Doc, err = lifecycle.Restored(item.Doc)
			}
			if !yield(item, err) || err != nil {
				return
			}
		}
	}
}
