package workflow

import (
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
)

// openTestStore opens an empty store that is closed when the test ends.
func openTestStore(t *testing.T) storage.Store {
	t.Helper()
	store, err := boltstore.Driver.Open(t.Context(), &url.URL{Scheme: "file", Opaque: filepath.Join(t.TempDir(), "x.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// A replica's session is removed an hour after it was last written; one that was idle for so long goes on under another name.
func TestRetireSessions(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	e := NewEngine(Config{Store: store})
	now := time.Now()
	for name, at := range map[string]time.Time{"old": now.Add(-2 * time.Hour), "new": now} {
		s := session{key: sessionKey(name), at: at}
		if errs := store.Commit(t.Context(), s.txns(at, []*change{{assigned: []string{"t"}}}, e.revs)...); errs[0] != nil {
			t.Fatal(errs[0])
		}
	}
	for range 2 {
		if err := e.retireSessions(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	docs, err := store.Get(t.Context(), sessionKey("old"), sessionKey("new"))
	if err != nil || docs[0].Rev != "" || docs[1].Rev == "" {
		t.Errorf("the old session has revision %q, the new one %q, %v", docs[0].Rev, docs[1].Rev, err)
	}
	s := session{key: sessionKey("old"), rev: "gone", at: now.Add(-2 * time.Hour)}
	if errs := store.Commit(t.Context(), s.txns(now, []*change{{assigned: []string{"t"}}}, e.revs)...); errs[0] != nil {
		t.Errorf("a replica that was idle for two hours cannot go on: %v", errs[0])
	}
	if n, err := store.Count(t.Context(), sessionIndex, 0, storage.MaxScore); n != 2 || err != nil {
		t.Errorf("%d sessions are listed, %v", n, err)
	}
}
