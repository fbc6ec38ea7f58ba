package boltstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/opspawn/opscore/storage"
)

// Driver opens "file:relative/path" and "file:///absolute/path".
var Driver = storage.Driver{Scheme: "file", Open: open}

const (
	// lockTimeout is how long Open waits for another process to let go of the file.
	lockTimeout = time.Second
	// queueLength bounds the Commits that wait for the writer; more wait for a place.
	queueLength = 256
)

// ErrLocked says that another process has the file open.
var ErrLocked = errors.New("it is in use by another process")

// errClosed is the error of calls after Close.
var errClosed = errors.New("the store is closed")

// errOtherContent says that the content of the file was replaced, and nobody has accepted that.
var errOtherContent = errors.New("it is another incarnation of the store than the accepted one")

// Store is a [storage.Store] in a local file.
type Store struct {
	db      *bbolt.DB
	queue   chan *request
	closing chan struct{} // closed when the writer shall stop
	stopped chan struct{} // closed when the writer has stopped
	close   func() error

	accepted atomic.Pointer[string] // the incarnation that writes are for, "" for any; never nil
}

var _ storage.Store = (*Store)(nil)

// open is Open without the trap of a nil pointer in an interface.
func open(ctx context.Context, u *url.URL) (storage.Store, error) {
	s, err := Open(ctx, u)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Open opens the file a URL names (see [Driver]), creating it and its folder when absent. It returns an error if the
// URL has a mistake, if the file is not a database, or, wrapping [ErrLocked], if another process has it open for more than a second.
func Open(ctx context.Context, u *url.URL) (*Store, error) {
	path, err := filePath(u)
	if err != nil {
		return nil, fmt.Errorf("storage URL %q: %w", u, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db, err := openFile(path)
	if err != nil {
		return nil, err
	}
	s := &Store{
		db:      db,
		queue:   make(chan *request, queueLength),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	s.close = sync.OnceValue(func() error {
		close(s.closing)
		<-s.stopped
		return db.Close()
	})
	s.Accept("")
	go s.write()
	return s, nil
}

// Close lets the writer finish what it has begun, waits for readers and closes the file. Txns still queued fail
// without having been written, as do calls after Close.
func (s *Store) Close() error {
	if err := s.close(); err != nil {
		return fmt.Errorf("close the database file: %w", err)
	}
	return nil
}

// filePath returns the path a URL names.
func filePath(u *url.URL) (string, error) {
	if u.Host != "" || u.User != nil {
		return "", errors.New("it names a host; write file:relative/path or file:///absolute/path")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("it takes no parameters")
	}
	path := u.Path
	if u.Opaque != "" { // relative
		var err error
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return "", err
		}
	}
	if path == "" {
		return "", errors.New("it names no file")
	}
	return filepath.FromSlash(path), nil
}

// openFile opens the database file and creates what is missing in it.
func openFile(path string) (*bbolt.DB, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create the folder of the database file: %w", err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout,
		// The list of free pages is rebuilt at the next opening rather than written with every group of Txns.
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: %w", path, ErrLocked)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range append([][]byte{bucketMeta}, contentBuckets...) {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open %s: create its buckets: %w", path, err)
	}
	return db, nil
}
