package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/storage/boltstore"
)

// legacyKey is the key that the old service fell back to; its clients send it unless they are told otherwise.
const legacyKey = "test-api-key"

// newDevCommand builds the command that runs everything in one process.
func newDevCommand(a *app) *cobra.Command {
	var dataDir, natsAddr, httpAddr string
	var delivery deliveryFlags
	var runs runFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process, with nothing to install",
		Long: `dev runs Ops-Core in one process: an embedded NATS server, a file store, and the HTTP API.

Without --data-dir the data is removed at the end. On a loopback address /api/v1 needs no key; when OPSCORE_API_KEY is set it is
needed everywhere but on the webhook and the probes.`,
		Example: "  opscore dev\n  opscore dev --data-dir ./data --http-addr 127.0.0.1:8080",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, done, err := a.devConfig(dataDir, natsAddr, httpAddr, delivery, runs)
			if err != nil {
				return err
			}
			return errors.Join(a.runServer(cmd.Context(), cfg), done())
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "keep the data in this `folder` (default: a temporary one that is removed)")
	cmd.Flags().StringVar(&natsAddr, "nats-addr", "127.0.0.1:4222", "`address` of the NATS server")
	cmd.Flags().StringVar(&httpAddr, "http-addr", "127.0.0.1:8000", "`address` of the HTTP API")
	delivery.add(cmd)
	runs.add(cmd)
	return cmd
}

// devConfig returns what dev runs, and what to do with the data afterwards.
func (a *app) devConfig(dataDir, natsAddr, httpAddr string, delivery deliveryFlags, runs runFlags) (cfg server.Config, done func() error, err error) {
	done = func() error { return nil }
	if cfg, err = a.serverConfig(httpAddr, delivery, runs); err != nil {
		return cfg, done, err
	}
	if cfg.Key == "" && len(cfg.Keys) == 0 {
		if !isLoopback(httpAddr) {
			return cfg, done, notLoopback(httpAddr)
		}
		cfg.OldKey = legacyKey
	}
	if dataDir == "" {
		if dataDir, err = os.MkdirTemp("", "opscore-dev-"); err != nil {
			return cfg, done, fmt.Errorf("make a temporary folder: %w", err)
		}
		done = func() error { return bus.RemoveData(dataDir) }
	}
	cfg.StoreURL = "file:" + filepath.Join(dataDir, "opscore.db")
	cfg.Embedded = &bus.EmbeddedConfig{Dir: filepath.Join(dataDir, "nats"), Addr: natsAddr, Log: cfg.Log}
	return cfg, done, nil
}

// notLoopback says why dev does not listen on an address without a key.
func notLoopback(addr string) error {
	var malformed *net.AddrError
	if _, _, err := net.SplitHostPort(addr); errors.As(err, &malformed) {
		return usagef("--http-addr %q is not of the form HOST:PORT, as in 127.0.0.1:8000: %s", addr, malformed.Err)
	}
	return usagef("%s is not a loopback address: set OPSCORE_API_KEY, or listen on 127.0.0.1", addr)
}

// runServer runs a server until the program is told to stop, which is no failure.
func (a *app) runServer(ctx context.Context, cfg server.Config) error {
	cfg.Ready = func(at server.Addresses) {
		if cfg.OldKey != "" {
			cfg.Log.Warn("no OPSCORE_API_KEY: /api/v1 is open, the old routes expect the key " + cfg.OldKey)
		}
		args := []any{"nats", bus.Redact(at.NATS), "version", cfg.Version}
		if at.HTTP != "" {
			args = append(args, "http", "http://"+at.HTTP)
		}
		cfg.Log.Info("ready", args...)
	}
	server.TuneMemory()
	err := server.Run(ctx, cfg)
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && strings.Contains(err.Error(), "embedded server"):
		return fmt.Errorf("%w (choose another with --nats-addr)", err)
	case cfg.Embedded != nil && (errors.Is(err, boltstore.ErrLocked) || errors.Is(err, bus.ErrLocked)):
		return fmt.Errorf("%w (stop what uses it, or choose another folder with --data-dir)", err)
	}
	return err
}
