package storagetest

import (
	"net"
	"testing"
	"time"

	"github.com/opspawn/opscore/storage/storagetest/netproxy"
)

// NewProxy starts a proxy to a server's host:port. It ends, with all its connections, when the test ends.
func NewProxy(t testing.TB, target string) *netproxy.Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start a proxy: %v", err)
	}
	p := netproxy.New(listener, target, 2*time.Second)
	t.Cleanup(p.Close)
	return p
}
