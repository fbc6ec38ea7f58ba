package storagetest_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opspawn/opscore/storage/storagetest"
	"github.com/opspawn/opscore/storage/storagetest/netproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a server that sends back what it gets, and counts the bytes.
type echo struct {
	net.Listener
	got atomic.Int64
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{Listener: l}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(conn, io.TeeReader(conn, e))
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); running.Wait() })
	return e
}

func (e *echo) Write(b []byte) (int, error) {
	e.got.Add(int64(len(b)))
	return len(b), nil
}

func dial(t *testing.T, p *netproxy.Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// call sends a word and waits for its echo.
func call(conn net.Conn, patience time.Duration) error {
	if _, err := conn.Write([]byte("word")); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	_, err := io.ReadFull(conn, make([]byte, len("word")))
	return err
}

const long = 10 * time.Second

func TestProxyPasses(t *testing.T) {
	conn := dial(t, storagetest.NewProxy(t, startEcho(t).Addr().String()))
	for range 3 {
		if err := call(conn, long); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProxyLosesReplies(t *testing.T) {
	server := startEcho(t)
	p := storagetest.NewProxy(t, server.Addr().String())
	p.LoseReplyAfter(1)
	conn := dial(t, p)
	if err := call(conn, long); err != nil {
		t.Fatalf("the reply before: %v", err)
	}
	if err := call(conn, long); !errors.Is(err, io.EOF) {
		t.Fatalf("the lost reply: got %v, want %v", err, io.EOF)
	}
	if got := server.got.Load(); got != 2*int64(len("word")) || p.Lost() != 1 {
		t.Fatalf("the server got %d bytes, %d replies were lost", got, p.Lost())
	}
	if err := call(dial(t, p), long); err != nil {
		t.Fatalf("the reply after: %v", err)
	}
	p.LoseReplies(-1)
	for range 2 {
		if err := call(dial(t, p), long); !errors.Is(err, io.EOF) {
			t.Fatalf("all are lost: got %v, want %v", err, io.EOF)
		}
	}
	p.LoseReplies(0)
	if err := call(dial(t, p), long); err != nil {
		t.Fatalf("none is lost: %v", err)
	}
}

func TestProxyCutsAndRefuses(t *testing.T) {
	p := storagetest.NewProxy(t, startEcho(t).Addr().String())
	conn := dial(t, p)
	if err := call(conn, long); err != nil {
		t.Fatal(err)
	}
	p.Refuse(true)
	if err := call(conn, long); err != nil {
		t.Fatalf("a connection that stands: %v", err)
	}
	if err := call(dial(t, p), long); err == nil {
		t.Fatal("a new connection works")
	}
	p.Cut()
	if err := call(conn, long); err == nil {
		t.Fatal("a connection that was cut works")
	}
	p.Refuse(false)
	if err := call(dial(t, p), long); err != nil {
		t.Fatalf("a connection afterwards: %v", err)
	}
}

func TestProxyDelays(t *testing.T) {
	p := storagetest.NewProxy(t, startEcho(t).Addr().String())
	p.Delay(time.Hour)
	if err := call(dial(t, p), 50*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, want %v", err, os.ErrDeadlineExceeded)
	}
}
