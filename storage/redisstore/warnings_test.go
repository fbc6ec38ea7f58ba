package redisstore_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

func TestWarnings(t *testing.T) {
	server := storagetest.StartRedis(t)
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	s, err := redisstore.Open(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if w := s.Warnings(t.Context()); len(w) != 0 {
		t.Errorf("warnings about a server with AOF: %q", w)
	}
	server.Do("CONFIG SET appendonly no")
	server.Do("CONFIG SET maxmemory-policy allkeys-lru")
	w := s.Warnings(t.Context())
	if len(w) != 2 || !strings.Contains(w[0], "appendonly yes") || !strings.Contains(w[1], "noeviction") {
		t.Errorf("warnings %q", w)
	}
}
