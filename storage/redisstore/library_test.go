package redisstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/storagetest"
)

// TestLibraryChangesWithItsVersion holds the source of the library to its version. After a change that was released
// before: raise the version, in opscore.lua and library.go. Then enter the new sum.
func TestLibraryChangesWithItsVersion(t *testing.T) {
	const version, sum = "v1", "dbb88d180aed95c2"
	got := sha256.Sum256([]byte(library))
	if hex.EncodeToString(got[:8]) != sum {
		t.Errorf("opscore.lua has the sum %x; raise its version, unless %s was never released", got[:8], version)
	}
	header := "#!lua name=opscore_" + version + "\n"
	for _, name := range []string{header, "'" + functionCommit + "'", "'" + functionRange + "'"} {
		if !strings.Contains(library, name) || !strings.Contains(name, version) {
			t.Errorf("opscore.lua does not contain %q with version %s", name, version)
		}
	}
}

// TestMismatchedCallWritesNothing calls the commit function as a driver with a bug might.
func TestMismatchedCallWritesNothing(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: storagetest.StartRedis(t).Addr()})
	defer func() { _ = client.Close() }()
	if err := client.FunctionLoadReplace(t.Context(), library).Err(); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]struct {
		keys []string
		args []any
	}{
		"a key too many":          {[]string{"a", "b", "f"}, []any{"r", "", 1, 0, 0, 0, 0, 0, 0, "", "data"}},
		"a key too few":           {[]string{"a", "f"}, []any{"r", "", 1, 0, 0, 1, 0, 0, 0, "", "data", 1, "m"}},
		"an argument too few":     {[]string{"a", "f"}, []any{"r", "", 1, 0, 0, 0, 0, 0, 0, ""}},
		"counts that are missing": {[]string{"a", "f"}, []any{"r", "", 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := client.FCall(t.Context(), functionCommit, call.keys, call.args...).Err(); !isAnswer(err) {
				t.Errorf("got %v, want a refusal", err)
			}
			if n := client.DBSize(t.Context()).Val(); n != 0 {
				t.Errorf("%d keys were written", n)
			}
		})
	}
}

// TestLibraryLoadedWhileAPipelineRan refuses the first of three Txns as if the library had come just after it. The
// second is overwritten by the third at once, so a repeat of it would conflict, though it was applied.
func TestLibraryLoadedWhileAPipelineRan(t *testing.T) {
	u, err := url.Parse(storagetest.StartRedis(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	s.client.AddHook(&refuseFirst{})
	txn := func(key storage.Key, rev, from storage.Rev) storage.Txn {
		return storage.Txn{Rev: rev, If: []storage.Cond{{Key: key, Rev: from}}, Put: []storage.Put{{Key: key}}}
	}
	errs := s.Commit(t.Context(), txn("a", "r.1", ""), txn("b", "r.2", ""), txn("b", "r.3", "r.2"))
	if err := errors.Join(errs...); err != nil {
		t.Errorf("got %v", errs)
	}
	if docs, err := s.Get(t.Context(), "a", "b"); err != nil || docs[0].Rev != "r.1" || docs[1].Rev != "r.3" {
		t.Errorf("%+v, %v", docs, err)
	}
}

// refuseFirst answers the first command of the first pipeline for the server.
type refuseFirst struct{ done bool }

func (h *refuseFirst) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (h *refuseFirst) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (h *refuseFirst) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if h.done {
			return next(ctx, cmds)
		}
		h.done = true
		cmds[0].SetErr(answer("ERR Function not found"))
		return next(ctx, cmds[1:])
	}
}

// answer is an error answer of the server.
type answer string

func (a answer) Error() string { return string(a) }
func (answer) RedisError()     {}

func TestVersionIsChecked(t *testing.T) {
	for info, ok := range map[string]bool{
		"# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n":                     true,
		"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.0.0\r\n": true,
		"# Server\r\nredis_version:10.0.0\r\n":                                              true,
		"# Server\r\nredis_version:6.2.14\r\n":                                              false,
		"# Server\r\n":                                                                      false,
	} {
		if err := checkVersion(info); (err == nil) != ok {
			t.Errorf("%q: %v", info, err)
		}
	}
}
