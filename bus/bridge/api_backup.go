package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Backups copies the store, and replaces it by a copy.
type Backups interface {
	// Backup makes a copy and returns it with its length in bytes. The caller closes it.
	Backup(ctx context.Context) (io.ReadCloser, int64, error)
	// Restore replaces the store by a copy, and returns how many items that had. A copy that is damaged has an error wrapping storage.ErrDamaged, and
	// nothing was changed then. Without force a store that is in use is refused with an *event.Error.
	Restore(ctx context.Context, backup io.Reader, force bool) (items int, err error)
}

// copyTimeout bounds a backup or a restore.
const copyTimeout = time.Hour

// restored is the answer to a restore.
type restored struct {
	Items int `json:"items"`
}

// backupRoutes adds the routes whose bodies are files. One request at a time is served.
func (b *Bridge) backupRoutes(r chi.Router) {
	if b.cfg.Backups == nil {
		return
	}
	busy := make(chan struct{}, 1)
	alone := func(serve func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			select {
			case busy <- struct{}{}:
				defer func() { <-busy }()
			default:
				fail(w, r, event.Errorf(event.CodeUnavailable, "another backup or restore is going on"))
				return
			}
			control := http.NewResponseController(w)
			until := time.Now().Add(copyTimeout)
			_, _ = control.SetReadDeadline(until), control.SetWriteDeadline(until) // not supported by a recorder in tests
			if err := serve(w, r); err != nil {
				fail(w, r, err)
			}
		}
	}
	r.Get(apiRoot+"/backup", alone(b.getBackup))
	r.Post(apiRoot+"/restore", alone(b.postRestore))
}

func (b *Bridge) getBackup(w http.ResponseWriter, r *http.Request) error {
	file, size, err := b.cfg.Backups.Backup(r.Context())
	if err != nil {
		return fmt.Errorf("make a backup: %w", err)
	}
	defer func() { _ = file.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.Copy(w, file) // the client sees by the length that it has not got all
	return nil
}

func (b *Bridge) postRestore(w http.ResponseWriter, r *http.Request) error {
	force, _ := strconv.ParseBool(r.URL.Query().Get("force"))
	items, err := b.cfg.Backups.Restore(r.Context(), r.Body, force)
	switch {
	case errors.Is(err, storage.ErrDamaged):
		return event.Errorf(event.CodeMalformed, "nothing was restored: %s", err)
	case err != nil:
		return fmt.Errorf("restore a backup: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	return json.MarshalWrite(w, restored{Items: items})
}
