//go:build unix

package loadgen

import (
	"net"
	"syscall"
)

// idle reports whether a connection between two requests is still open and silent, as far as this side can see. It is what Locust's
// HTTP library asks before it uses a connection again, too.
func idle(conn net.Conn) bool {
	raw, ok := conn.(syscall.Conn)
	if !ok {
		return true // TLS: whatever the server has sent is not readable from outside
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return false
	}
	silent := false
	err = control.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:]) // never blocks: Go's sockets do not
		silent = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
		return true
	})
	return err == nil && silent
}
