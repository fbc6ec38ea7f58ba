// Package servertest runs Ops-Core with everything in the process of a test.
package servertest

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/cmd/opscore/server"
)

// Start runs a server with an embedded bus and a file store until the test ends. Of cfg only the keys need to be there.
func Start(t testing.TB, cfg server.Config) server.Addresses {
	t.Helper()
	dir := bustest.Dir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	cfg.StoreURL, cfg.HTTPAddr, cfg.Version = "file:"+filepath.Join(dir, "opscore.db"), "127.0.0.1:0", "test"
	cfg.Embedded = &bus.EmbeddedConfig{Dir: filepath.Join(dir, "nats"), Addr: "127.0.0.1:0", Log: cfg.Log, MaxStore: 1 << 30}
	ready, done := make(chan server.Addresses, 1), make(chan error, 1)
	cfg.Ready = func(a server.Addresses) { ready <- a }
	go func() { done <- server.Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case at := <-ready:
		return at
	case err := <-done:
		done <- nil
		t.Fatal(err)
		return server.Addresses{}
	}
}
