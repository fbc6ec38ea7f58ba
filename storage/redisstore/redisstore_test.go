package redisstore_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var prefixes atomic.Int64

// openAt opens a fresh store on a server.
func openAt(t testing.TB, server string) *redisstore.Store {
	t.Helper()
	s, err := openURL(t, fmt.Sprintf("%s?prefix=test%d", server, prefixes.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openURL(t testing.TB, rawURL string) (*redisstore.Store, error) {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return redisstore.Open(t.Context(), u)
}

// TestContract is generous with time: it is about answers, and a busy disk can hold the server up for seconds.
func TestContract(t *testing.T) {
	server := storagetest.StartRedis(t)
	storagetest.Run(t, func(t *testing.T) storage.Store {
		t.Helper()
		s, err := openURL(t, fmt.Sprintf("%s?prefix=test%d&timeout=1m", server.URL(), prefixes.Add(1)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestKeysLieInOneSlot(t *testing.T) {
	server := storagetest.StartRedis(t)
	s, err := openURL(t, server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	err = s.Commit(t.Context(), storage.Txn{
		Rev:       "r.1",
		If:        []storage.Cond{{Key: "agent/1"}},
		Put:       []storage.Put{{Key: "agent/1"}},
		IndexAdd:  []storage.IndexOp{{Index: "due", Member: "m"}},
		LogAppend: []storage.Append{{Log: "agent/1", Cap: 1}},
	})[0]
	if err != nil {
		t.Fatal(err)
	}
	admin := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _ = admin.Close() }()
	keys, err := admin.Keys(t.Context(), "*").Result()
	slices.Sort(keys)
	want := []string{"{opscore}:d:agent/1", "{opscore}:i:due", "{opscore}:l:agent/1"}
	if err != nil || !slices.Equal(keys, want) {
		t.Fatalf("got %q, %v, want %q", keys, err, want)
	}
}

func TestPrefixesShareAServer(t *testing.T) {
	server := storagetest.StartRedis(t)
	a, b := openAt(t, server.URL()), openAt(t, server.URL())
	defer func() { _, _ = a.Close(), b.Close() }()
	txn := storage.Txn{Rev: "r.1", If: []storage.Cond{{Key: "k"}}, Put: []storage.Put{{Key: "k"}}}
	if err := a.Commit(t.Context(), txn)[0]; err != nil {
		t.Fatal(err)
	}
	if docs, err := b.Get(t.Context(), "k"); err != nil || docs[0].Rev != "" {
		t.Fatalf("%+v, %v", docs, err)
	}
}

func TestOpenNamesTheMistake(t *testing.T) {
	for rawURL, mention := range map[string]string{
		"redis:///0":                        "host",
		"redis://127.0.0.1/zero":            "zero",
		"redis://127.0.0.1/-1":              "-1",
		"redis://127.0.0.1?prefix=":         "prefix",
		"redis://127.0.0.1?prefix=a{b}":     "brace",
		"redis://127.0.0.1?prefx=a":         "prefx",
		"redis://127.0.0.1?timeout=2":       "timeout",
		"redis://127.0.0.1?timeout=1ms":     "100ms",
		"redis://127.0.0.1?prefix=%zz":      "%zz",
		"redis://127.0.0.1?prefix=a&prefix": "prefix",
		"redis://127.0.0.1:1":               "127.0.0.1:1",
		"rediss://u:secret@127.0.0.1:1":     "127.0.0.1:1",
	} {
		t.Run(rawURL, func(t *testing.T) {
			start := time.Now()
			_, err := openURL(t, rawURL)
			if err == nil || !strings.Contains(err.Error(), mention) || strings.Contains(err.Error(), "secret") {
				t.Fatalf("got %v, want a mention of %q", err, mention)
			}
			if took := time.Since(start); took > reported {
				t.Fatalf("took %v", took)
			}
		})
	}
}

func TestOpenWithPassword(t *testing.T) {
	server := storagetest.StartRedis(t)
	admin := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer func() { _ = admin.Close() }()
	if err := admin.Do(t.Context(), "acl", "setuser", "core", "on", ">pass", "~{opscore}:*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	s, err := openURL(t, "redis://core:pass@"+server.Addr()+"/3")
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if _, err := openURL(t, "redis://core:wrong@"+server.Addr()); err == nil || strings.Contains(err.Error(), "wrong@") {
		t.Fatalf("wrong password: %v", err)
	}
}
