package env

import (
	"fmt"
	"net"
	"time"

	"github.com/opspawn/opscore/storage/storagetest/netproxy"
)

// proxyPatience is how long a server may go on sending behind a reply that was lost.
const proxyPatience = 500 * time.Millisecond

// newProxy starts a proxy to a server's host:port.
func newProxy(target string) (*netproxy.Proxy, error) {
	addr, err := freeAddr() // not any port: one that nobody takes while connections come and go
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("start a proxy: %w", err)
	}
	return netproxy.New(listener, target, proxyPatience), nil
}
