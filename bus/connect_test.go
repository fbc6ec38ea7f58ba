package bus_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
)

func TestConnectSaysWhereAndWhy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = bus.Connect(ctx, bus.Config{URL: "nats://user:secret@" + addr})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), addr) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v, want a deadline error that names %s and hides the password", err, addr)
	}
}

// plainServer is a server as somebody else runs it.
func plainServer(t *testing.T, opts *server.Options) string {
	t.Helper()
	opts.Host, opts.Port, opts.NoSigs, opts.StoreDir = "127.0.0.1", server.RANDOM_PORT, true, t.TempDir()
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	return s.ClientURL()
}

func TestConnectNeedsJetStream(t *testing.T) {
	_, err := bus.Connect(testContext(t), bus.Config{URL: plainServer(t, &server.Options{})})
	if err == nil || !strings.Contains(err.Error(), "JetStream is not enabled") {
		t.Errorf("got %v", err)
	}
}

func TestConnectFailsAtOnceWhenRefused(t *testing.T) {
	url := plainServer(t, &server.Options{JetStream: true, Username: "u", Password: "p"})
	_, err := bus.Connect(testContext(t), bus.Config{URL: url})
	if err == nil || !strings.Contains(err.Error(), "Authorization") && !strings.Contains(err.Error(), "authorization") {
		t.Errorf("got %v", err)
	}
}

// A connection made before its server is there stands as soon as the server does.
func TestConnectWaitsForTheServer(t *testing.T) {
	s := bustest.NATSServer(t)
	s.Stop()
	ctx := testContext(t)
	connected := make(chan error, 1)
	go func() {
		c, err := bus.Connect(ctx, bus.Config{URL: s.URL()})
		if err == nil {
			c.Close()
		}
		connected <- err
	}()
	s.Restart()
	if err := <-connected; err != nil {
		t.Error(err)
	}
}

func TestCloseTwice(t *testing.T) {
	c := bustest.Conn(t)
	c.Close()
	c.Close()
	if c.Connected() {
		t.Error("still connected")
	}
	if _, err := c.Publish(testContext(t), stateMsg("a", "{}")); err == nil {
		t.Error("Publish on a closed connection succeeds")
	}
	if err := c.PublishAsync(stateMsg("a", "{}"), nil); err == nil {
		t.Error("PublishAsync on a closed connection succeeds")
	}
}
