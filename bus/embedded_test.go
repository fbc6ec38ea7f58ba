package bus_test

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
)

func TestEmbeddedLocksItsDirectory(t *testing.T) {
	dir := t.TempDir()
	cfg := bus.EmbeddedConfig{Dir: dir, Log: bustest.Log(t), MaxStore: 1 << 30}
	first, err := bus.StartEmbedded(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := bus.StartEmbedded(cfg); !errors.Is(err, bus.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second server on the directory: got %v, %v, want ErrLocked naming %s", second, err, dir)
	}
	if err := first.Healthy(); err != nil {
		t.Errorf("Healthy: %v", err)
	}
	first.Shutdown()

	again, err := bus.StartEmbedded(cfg)
	if err != nil {
		t.Fatalf("the directory stays locked after Shutdown: %v", err)
	}
	again.Shutdown()
}

func TestEmbeddedNamesATakenAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	_, err = bus.StartEmbedded(bus.EmbeddedConfig{Dir: t.TempDir(), Addr: addr})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr) {
		t.Errorf("got %v, want EADDRINUSE naming %s", err, addr)
	}
}

func TestEmbeddedRefusesABadAddress(t *testing.T) {
	for _, addr := range []string{"4222", "127.0.0.1:http", "127.0.0.1:99999"} {
		if _, err := bus.StartEmbedded(bus.EmbeddedConfig{Dir: t.TempDir(), Addr: addr}); err == nil {
			t.Errorf("address %q is taken", addr)
		}
	}
}

func TestEmbeddedWithoutListener(t *testing.T) {
	s := bustest.Server(t)
	if got := s.URL(); got != "" {
		t.Errorf("URL() = %q, want none", got)
	}
	if got := bustest.ListeningServer(t).URL(); !strings.HasPrefix(got, "nats://127.0.0.1:") {
		t.Errorf("URL() of a listening server = %q", got)
	}
}
