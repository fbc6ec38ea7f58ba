package lifecycle

import (
	"context"
	"errors"
	"fmt"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// The version of what this program stores. It is raised when something new is stored that an older version does not know; schemaReader is raised, to the
// same number, when an older version would do harm to it, and not only leave it alone.
const (
	schemaVersion = 1
	schemaReader  = 1
)

// schemaKey names the document that says which version has written the store.
const schemaKey storage.Key = "schema"

// Schema is the newest version that has written a store, and the oldest that may still do so.
type Schema struct {
	Version   int `json:"version"`
	MinReader int `json:"minReader"`
}

// check refuses a store that is too new.
func (s Schema) check() error {
	if s.MinReader > schemaVersion {
		return fmt.Errorf("the store was written by a newer version of Ops-Core (schema %d, for %d or newer; this one has %d): start that version",
			s.Version, s.MinReader, schemaVersion)
	}
	return nil
}

func decodeSchema(d storage.Doc) (s Schema, err error) {
	err = decodeDoc(d, &s)
	return s, err
}

// CheckSchema returns an error if a document says that its store is too new for this version. Any other document is none of its business.
func CheckSchema(d storage.Doc) error {
	if d.Key != schemaKey {
		return nil
	}
	s, err := decodeSchema(d)
	if err != nil {
		return err
	}
	return s.check()
}

// EnsureSchema refuses a store that is too new for this version, and writes this version into one that is new or older. Versions that can read what
// this one writes go on beside it.
func EnsureSchema(ctx context.Context, store storage.Store) error {
	revs := storage.NewRevisions()
	for {
		docs, err := store.Get(ctx, schemaKey)
		if err != nil {
			return fmt.Errorf("read the schema of the store: %w", err)
		}
		s, err := decodeSchema(docs[0])
		if err != nil {
			return err
		}
		if err := s.check(); err != nil {
			return err
		}
		if s.Version >= schemaVersion {
			return nil
		}
		next := Schema{Version: schemaVersion, MinReader: max(s.MinReader, schemaReader)}
		err = store.Commit(ctx, storage.Txn{
			Rev: revs.Next(),
			If:  []storage.Cond{{Key: schemaKey, Rev: docs[0].Rev}},
			Put: []storage.Put{{Key: schemaKey, Data: event.MustMarshal(next)}},
		})[0]
		if err != nil && !errors.Is(err, storage.ErrConflict) {
			return fmt.Errorf("write the schema of the store: %w", err)
		}
	}
}

// Restored returns a document of a backup as it belongs into a store that is restored: the epoch names no database that runs, so that all replicas find
// out that this is another one, and heal it.
func Restored(d storage.Doc) (storage.Doc, error) {
	if d.Key != epochKey {
		return d, nil
	}
	e, err := decodeEpoch(d)
	if err != nil {
		return d, err
	}
	e.Incarnation = "restored"
	d.Data = event.MustMarshal(e)
	return d, nil
}

// noteSchema keeps what the store says of its versions. It fails when a newer version has made it unfit for this one, which must write no more.
func (k *Keeper) noteSchema(d storage.Doc) error {
	s, err := decodeSchema(d)
	if err == nil {
		err = s.check()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.schema = s
	if err != nil {
		k.healing = err.Error()
	}
	return err
}

// versioned reports whether the store says its version, which one that came back empty does not.
func (k *Keeper) versioned() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.schema.Version >= schemaVersion
}

// Newer reports whether a version of Ops-Core that is newer than this one has written the store, so that what this one does not know may be that one's.
func (k *Keeper) Newer() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.schema.Version > schemaVersion
}
