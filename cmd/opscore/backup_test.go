package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/storage/storagetest"
)

// onRedis runs a server with a real Redis and a NATS server of its own until the end of the test.
func onRedis(t *testing.T, redis *storagetest.RedisServer) (url string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan server.Addresses, 1), make(chan error, 1)
	go func() {
		done <- server.Run(ctx, server.Config{
			StoreURL: redis.URL(), HTTPAddr: "127.0.0.1:0", OldKey: legacyKey, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
			Embedded: &bus.EmbeddedConfig{Dir: bustest.Dir(t), MaxStore: 1 << 30}, Ready: func(a server.Addresses) { ready <- a },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case at := <-ready:
		return "http://" + at.HTTP
	case err := <-done:
		done <- nil
		t.Fatal(err)
		return ""
	}
}

// register registers an agent over the old API.
func register(t *testing.T, url, id string) {
	t.Helper()
	body := strings.ReplaceAll(oldRegister, `"a1"`, `"`+id+`"`)
	bustest.Eventually(t, "register "+id, func() bool { return status(t, "POST", url+oldNotify, "", body) == 200 })
}

// has waits until a server is ready and knows an agent.
func has(t *testing.T, url, id string) {
	t.Helper()
	bustest.Eventually(t, id+" is known", func() bool {
		return status(t, "GET", url+"/readyz", "", "") == 200 && status(t, "GET", url+"/api/v1/agents/"+id, "", "") == 200
	})
}

// What was stored comes back with the backup, and what was said since from the streams, whatever the store is. A server that is new takes a backup of
// another one whose streams are gone.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	redis := storagetest.StartRedis(t)
	devURL, _ := dev(t, map[string]string{})
	file := filepath.Join(t.TempDir(), "x.backup")
	for name, url := range map[string]string{"file store": devURL, "redis": onRedis(t, redis)} {
		t.Run(name, func(t *testing.T) {
			p := &program{t: t, env: map[string]string{envServer: url}}
			register(t, url, "before")
			has(t, url, "before")
			if got := p.run("backup", file); got.code != exitOK || !strings.Contains(got.stdout, " items, ") {
				t.Fatalf("backup: %+v", got)
			}
			register(t, url, "since")
			has(t, url, "since")
			if got := p.run("restore", file); got.code != exitFailure || !strings.Contains(got.stderr, "--force") {
				t.Errorf("restore into a store in use: %+v", got)
			}
			if got := p.run("restore", "--force", file); got.code != exitOK || !strings.Contains(got.stdout, "restored") {
				t.Fatalf("restore: %+v", got)
			}
			has(t, url, "before")
			has(t, url, "since")
			register(t, url, "after")
			has(t, url, "after")
		})
	}
	t.Run("a new server", func(t *testing.T) {
		url, log := dev(t, map[string]string{})
		p := &program{t: t, env: map[string]string{envServer: url}}
		if got := p.run("restore", file); got.code != exitOK {
			t.Fatalf("restore into an empty store: %+v", got)
		}
		has(t, url, "before")
		register(t, url, "after")
		has(t, url, "after")
		if !strings.Contains(log.String(), "a backup was restored: healing") {
			t.Errorf("the log does not name the restore:\n%s", log)
		}
	})
}

func TestADamagedBackupChangesNothing(t *testing.T) {
	t.Parallel()
	url, _ := dev(t, map[string]string{})
	p := &program{t: t, env: map[string]string{envServer: url}}
	file := filepath.Join(t.TempDir(), "x.backup")
	register(t, url, "a")
	has(t, url, "a")
	if got := p.run("backup", file); got.code != exitOK {
		t.Fatalf("backup: %+v", got)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string][]byte{"cut off": whole[:len(whole)/2], "empty": nil, "text": []byte("no backup\n")} {
		if err := os.WriteFile(file, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := p.run("restore", "--force", file); got.code != exitFailure || !strings.Contains(got.stderr, "damaged") {
			t.Errorf("%s: %+v", name, got)
		}
		// Nor does the server trust whoever sends it.
		if got := status(t, "POST", url+"/api/v1/restore?force=true", "", string(broken)); got != 400 && got != 422 {
			t.Errorf("%s, sent as it is: %d", name, got)
		}
	}
	has(t, url, "a")
	if err := os.WriteFile(file, bytes.Clone(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := p.run("restore", "--force", file); got.code != exitOK {
		t.Errorf("the whole one: %+v", got)
	}
	has(t, url, "a")
}
