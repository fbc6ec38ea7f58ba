// Package bustest gives tests a real NATS server, in the test's process or, to be killed, in one of its own.
//
// A package whose tests use [NATSServer] calls [Main] from its TestMain: the server process is the test binary itself.
package bustest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/opspawn/opscore/bus"
)

const (
	maxStore = 2 << 30 // of a test's server
	startUp  = 20 * time.Second
	patience = time.Minute // what takes a moment takes many on a machine that does much else; a test that hangs is still told
)

// Server starts a server in this process that stores in a temporary directory, and stops it at the end of the test. It does
// not listen: connect with [Dial].
func Server(tb testing.TB) *bus.Embedded {
	tb.Helper()
	return start(tb, "")
}

// ListeningServer is Server with a listener on a free port of the loopback interface.
func ListeningServer(tb testing.TB) *bus.Embedded {
	tb.Helper()
	return start(tb, "127.0.0.1:0")
}

// Dir makes a folder for a server that runs in this process, and removes it at the end of the test. Unlike the folder of [testing.TB.TempDir] it may be written
// to for a moment after the server was shut down.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "opscore-test-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := bus.RemoveData(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

func start(tb testing.TB, addr string) *bus.Embedded {
	tb.Helper()
	s, err := bus.StartEmbedded(bus.EmbeddedConfig{Dir: Dir(tb), Addr: addr, Log: Log(tb), MaxStore: maxStore})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Shutdown)
	return s
}

// Conn starts a server in this process and returns a connection to it, with the streams and durables of Ops-Core.
func Conn(tb testing.TB) *bus.Conn {
	tb.Helper()
	return Dial(tb, Server(tb))
}

// Dial returns a connection to a server in this process, with the streams and durables of Ops-Core. It is closed at the end of
// the test.
func Dial(tb testing.TB, server nats.InProcessConnProvider) *bus.Conn {
	tb.Helper()
	return dial(tb, bus.Config{Name: tb.Name(), InProcess: server, Log: Log(tb)})
}

// DialURL is Dial for a server that listens.
func DialURL(tb testing.TB, url string) *bus.Conn {
	tb.Helper()
	return dial(tb, bus.Config{Name: tb.Name(), URL: url, Log: Log(tb)})
}

func dial(tb testing.TB, cfg bus.Config) *bus.Conn {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startUp)
	defer cancel()
	c, err := bus.Connect(ctx, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	if err := c.EnsureStreams(ctx, bus.StreamConfig{}); err != nil {
		tb.Fatal(err)
	}
	return c
}

// Log returns a logger that writes to the test's log, warnings and errors only unless the tests run verbosely.
func Log(tb testing.TB) *slog.Logger {
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: level}))
}

// Eventually waits until a condition holds, looking every 5 ms, and fails the test if it does not within a minute.
func Eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// Main runs the tests of a package, fails if they leave goroutines behind, and ends the process. In a process that [NATSServer] has
// started, it runs that server instead.
func Main(m *testing.M, options ...goleak.Option) {
	if dir := os.Getenv(envDir); dir != "" {
		if err := serve(dir, os.Getenv(envAddr)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, options...)
}
