package storage_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

// TestDriversAgree applies random histories to both drivers at once. Pipelines that are executed twice are made the
// way they arise: Redis executes the pipeline, its reply is lost, and the client library sends it again.
func TestDriversAgree(t *testing.T) {
	proxy := storagetest.NewProxy(t, storagetest.StartRedis(t).Addr())
	lost := 0
	storagetest.Histories(t,
		storagetest.Subject{
			Name: "bolt",
			Open: func(t *testing.T) storage.Store {
				return open(t, "file://"+filepath.ToSlash(filepath.Join(t.TempDir(), "opscore.db")))
			},
		},
		storagetest.Subject{
			Name: "redis",
			Open: func(t *testing.T) storage.Store {
				store := open(t, "redis://"+proxy.Addr()+"?timeout=1m") // a busy disk can hold Redis up for seconds
				// From now on a connection stands: the replies to come are those of pipelines, not of a handshake.
				removal := storage.Txn{IndexRemove: []storage.IndexOp{{Index: "none", Member: "m"}}}
				if err := store.Commit(t.Context(), removal)[0]; err != nil {
					t.Fatal(err)
				}
				return store
			},
			Double: func(store storage.Store, txns []storage.Txn) []error {
				if !anyValid(txns) {
					return store.Commit(t.Context(), txns...) // sends nothing
				}
				proxy.LoseReplyAfter(0)
				errs := store.Commit(t.Context(), txns...)
				if lost++; proxy.Lost() != lost {
					t.Fatalf("%d replies were lost, want %d; the answers: %v", proxy.Lost(), lost, errs)
				}
				return errs
			},
		},
	)
	if lost == 0 {
		t.Fatal("no pipeline was executed twice")
	}
}

func anyValid(txns []storage.Txn) bool {
	for i := range txns {
		if txns[i].Check() == nil {
			return true
		}
	}
	return false
}

func open(t *testing.T, rawURL string) storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), rawURL, redisstore.Driver, boltstore.Driver)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOpenNamesTheKnownSchemes(t *testing.T) {
	_, err := storage.Open(t.Context(), "mongodb://user:secret@host/db", redisstore.Driver, boltstore.Driver)
	if err == nil || !strings.Contains(err.Error(), "redis: file:") || strings.Contains(err.Error(), "secret") {
		t.Fatalf("got %v", err)
	}
}

func TestCheckRefusesBrokenRules(t *testing.T) {
	put := storage.Txn{
		Rev: "r.1",
		If:  []storage.Cond{{Key: "a"}, {Key: "b"}},
		Put: []storage.Put{{Key: "a"}},
	}
	if err := put.Check(); err != nil {
		t.Fatalf("a valid transaction is refused: %v", err)
	}
	member := storage.IndexOp{Index: "i", Member: "m"}
	lone := storage.Txn{IndexRemove: []storage.IndexOp{member}}
	if err := lone.Check(); err != nil {
		t.Fatalf("a lone removal is refused: %v", err)
	}
	for name, spoil := range map[string]func(*storage.Txn){
		"nothing in it":            func(t *storage.Txn) { *t = storage.Txn{} },
		"no document put":          func(t *storage.Txn) { t.Put, t.Delete = nil, []storage.Key{"a"} },
		"no revision":              func(t *storage.Txn) { t.Rev = "" },
		"put without condition":    func(t *storage.Txn) { t.If = t.If[1:] },
		"delete without condition": func(t *storage.Txn) { t.Delete = []storage.Key{"c"} },
		"two conditions":           func(t *storage.Txn) { t.If = append(t.If, storage.Cond{Key: "a"}) },
		"put twice":                func(t *storage.Txn) { t.Put = append(t.Put, storage.Put{Key: "a"}) },
		"put and deleted":          func(t *storage.Txn) { t.Delete = []storage.Key{"a"} },
		"empty key":                func(t *storage.Txn) { t.If[0].Key, t.Put[0].Key = "", "" },
		"no cap":                   func(t *storage.Txn) { t.LogAppend = []storage.Append{{Log: "l"}} },
		"deletes no log":           func(t *storage.Txn) { t.LogDelete = []storage.Log{""} },
		"deletes a log twice":      func(t *storage.Txn) { t.LogDelete = []storage.Log{"l", "l"} },
		"deletes what it extends": func(t *storage.Txn) {
			t.LogAppend, t.LogDelete = []storage.Append{{Log: "l", Cap: 1}}, []storage.Log{"l"}
		},
		"no log":    func(t *storage.Txn) { t.LogAppend = []storage.Append{{Cap: 1}} },
		"no index":  func(t *storage.Txn) { t.IndexAdd = []storage.IndexOp{{Member: "m"}} },
		"no member": func(t *storage.Txn) { t.IndexRemove = []storage.IndexOp{{Index: "i"}} },
		"added and removed": func(t *storage.Txn) {
			t.IndexAdd, t.IndexRemove = []storage.IndexOp{member}, []storage.IndexOp{member}
		},
		"score too small": func(t *storage.Txn) { t.IndexAdd = []storage.IndexOp{{Index: "i", Member: "m", Score: -1}} },
		"score too large": func(t *storage.Txn) {
			t.IndexAdd = []storage.IndexOp{{Index: "i", Member: "m", Score: storage.MaxScore + 1}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			broken := put
			broken.If, broken.Put = append([]storage.Cond{}, put.If...), append([]storage.Put{}, put.Put...)
			spoil(&broken)
			if err := broken.Check(); !errors.Is(err, storage.ErrInvalid) {
				t.Fatalf("got %v, want %v", err, storage.ErrInvalid)
			}
		})
	}
}

func TestRevisionsAreUnique(t *testing.T) {
	seen := make(map[storage.Rev]bool)
	for range 3 { // three processes
		revs := storage.NewRevisions()
		for range 1000 {
			rev := revs.Next()
			if rev == "" || seen[rev] {
				t.Fatalf("revision %q came twice", rev)
			}
			seen[rev] = true
		}
	}
}
