package loadgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"
)

// failure is why a request failed: a Class constant or an HTTP status, and what was said.
type failure struct {
	class  string
	detail string
}

func (f *failure) Error() string { return f.class + ": " + f.detail }

// maxDetail bounds what is kept of what a server says, in bytes.
const maxDetail = 500

// failuref makes a failure of a class.
func failuref(class, format string, args ...any) *failure {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + "…"
	}
	return &failure{class: class, detail: text}
}

// classify names the kind of an error of a connection.
func classify(err error) *failure {
	var (
		known    *failure
		resolve  *net.DNSError
		deadline interface{ Timeout() bool }
	)
	is := func(targets ...error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
	class := ClassOther
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &resolve) && !resolve.IsTimeout:
		class = ClassResolve
	case is(syscall.ECONNREFUSED, nats.ErrNoResponders, nats.ErrNoServers):
		class = ClassRefused
	case is(syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, nats.ErrDisconnected):
		class = ClassReset
	case is(io.EOF, io.ErrUnexpectedEOF, nats.ErrConnectionClosed):
		class = ClassNoResponse
	case is(os.ErrDeadlineExceeded, context.DeadlineExceeded, context.Canceled, nats.ErrTimeout), errors.As(err, &deadline) && deadline.Timeout():
		class = ClassTimeout
	}
	return failuref(class, "%v", err)
}
