package bus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// maxRequests bounds how many requests wait for an answer at the same time.
const maxRequests = 100_000

// ErrTooManyRequests says that 100,000 requests are waiting for an answer already.
var ErrTooManyRequests = errors.New("bus: too many requests are waiting for an answer")

// Request sends a core NATS request and returns at once. Done is called exactly once, from another goroutine, with the
// answer or with one of: nats.ErrNoResponders when nobody subscribes to the subject, [context.DeadlineExceeded] after the
// timeout (with a resolution of 50 ms; the request may have been taken), [ErrTooManyRequests], or why it could not be sent,
// which includes being disconnected.
//
// Done must return quickly and must not block: every answer of the connection comes by the same goroutine. It may keep data.
func (c *Conn) Request(subject string, data []byte, timeout time.Duration, done func(data []byte, err error)) {
	inbox, id, err := c.mux.add(waitRequest, max(timeout, sweepEvery), func(m *nats.Msg, err error) {
		switch {
		case err == nil:
			done(m.Data, nil)
		case errors.Is(err, errTimeout):
			done(nil, context.DeadlineExceeded)
		default:
			done(nil, err)
		}
	})
	if err == nil {
		if err = c.nc.PublishRequest(subject, inbox, data); err == nil {
			return
		}
		if _, mine := c.mux.take(id); !mine {
			return // the connection's end has told it
		}
	}
	// A goroutine, because the caller may hold a lock that done takes.
	go done(nil, err)
}
