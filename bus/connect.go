package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The oldest server that can do what Ops-Core needs: resetting a consumer to a sequence.
const (
	minServerMajor = 2
	minServerMinor = 14
)

// closeWait bounds each of the two steps of Close: waiting for acknowledgements, and draining.
const closeWait = 3 * time.Second

// Config says where NATS is.
type Config struct {
	// URL is one or more server addresses, separated by commas. It is ignored when InProcess is set.
	URL string
	// Name is shown in the server's list of connections.
	Name string
	// InProcess, when set, is a server in this process; see [StartEmbedded].
	InProcess nats.InProcessConnProvider
	// Log gets one line per lost and restored connection. Nil logs nothing.
	Log *slog.Logger
	// Options are applied after the defaults of this package; credentials and TLS belong here. The handlers for
	// connects, disconnects and errors stay those of this package.
	Options []nats.Option
}

// Conn is a connection to NATS. It reconnects for as long as it is open, and never keeps a message to send it later: what
// could not be sent is an error at once. All methods are safe for concurrent use.
type Conn struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	mux  *mux
	soon *aside // what is published on core NATS
	late *aside // what a stream has to acknowledge: while it does not, adding to it may block
	log  *slog.Logger
	name string

	inFlight chan struct{} // one token per unanswered PublishAsync
	maxStore int64         // bytes JetStream may use, when an embedded server told us; 0: unknown

	dead struct { // letters
		deleted atomic.Int64  // by this process, or about to be
		evicted atomic.Uint64 // and seen to be dropped
	}

	closeOnce sync.Once
	closing   chan struct{}
}

// Connect opens a connection and waits until it stands or ctx ends. Its error names the server and the last reason; a refused
// login, a server without JetStream and one older than 2.14 fail at once.
func Connect(ctx context.Context, cfg Config) (*Conn, error) {
	c := &Conn{
		mux:      newMux(),
		soon:     newAside(),
		late:     newAside(),
		log:      cfg.Log,
		name:     Redact(cfg.URL),
		inFlight: make(chan struct{}, maxInFlight),
		closing:  make(chan struct{}),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if cfg.InProcess != nil {
		c.name = "in process"
		if e, ok := cfg.InProcess.(*Embedded); ok {
			c.maxStore = e.maxStore
		}
	}
	if err := c.dial(ctx, cfg); err != nil {
		return nil, fmt.Errorf("bus: cannot connect to nats (%s): %w", c.name, err)
	}
	if err := c.setUp(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("bus: nats (%s): %w", c.name, err)
	}
	return c, nil
}

// dial waits for the first connection. The client library goes on trying in the background for ever, so the waiting, the
// reasons of failed tries and giving up are here.
func (c *Conn) dial(ctx context.Context, cfg Config) error {
	up := make(chan struct{})
	failed := make(chan error, 1)
	opts := append(connectOptions(cfg), c.handlers()...)
	opts = append(opts,
		nats.ConnectHandler(func(*nats.Conn) { close(up) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { keepLatest(failed, err) }),
	)
	nc, err := nats.Connect(cfg.URL, opts...)
	if err != nil {
		return err
	}
	c.nc = nc
	var last error
	for {
		select {
		case <-up:
			return nil
		case last = <-failed:
			if !isRefusedLogin(last) {
				continue
			}
			c.abandon(nc)
			return last
		case <-ctx.Done():
			if last == nil {
				last = nc.LastError()
			}
			c.abandon(nc)
			if last == nil {
				return ctx.Err()
			}
			return fmt.Errorf("%w: %w", ctx.Err(), last)
		}
	}
}

// abandon closes a connection that never stood, without a line about its loss.
func (c *Conn) abandon(nc *nats.Conn) {
	close(c.closing)
	nc.Close()
}

// connectOptions are the defaults followed by the caller's own options.
func connectOptions(cfg Config) []nats.Option {
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.Timeout(5 * time.Second),
		nats.MaxReconnects(-1), // the library's default gives up after two minutes, for good
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(), // credentials may be rotated under a connection that stood before
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.ReconnectBufSize(-1), // or a publish that returned an error would be sent after the reconnect
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DrainTimeout(closeWait),
	}
	if cfg.InProcess != nil {
		opts = append(opts, nats.InProcessServer(cfg.InProcess))
	}
	return append(opts, cfg.Options...)
}

// handlers log what becomes of the connection and fail the publishes whose acknowledgement can no longer come.
func (c *Conn) handlers() []nats.Option {
	return []nats.Option{
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			c.mux.failPublishes(nats.ErrDisconnected)
			if !c.isClosing() {
				c.log.Warn("nats connection lost", "server", c.name, "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			c.log.Info("nats connection restored", "server", c.name, "to", nc.ConnectedServerName())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			c.log.Warn("nats reported an error", "subject", subject, "err", err)
		}),
	}
}

// setUp checks the server and makes what needs a standing connection.
func (c *Conn) setUp(ctx context.Context) error {
	version := c.nc.ConnectedServerVersion()
	if !newEnough(version) {
		return fmt.Errorf("the server has version %s, at least %d.%d is needed", version, minServerMajor, minServerMinor)
	}
	if has, _ := c.nc.ConnectedServerJetStream(); !has {
		return errors.New("JetStream is not enabled on the server")
	}
	var err error
	if c.js, err = jetstream.New(c.nc); err != nil {
		return err
	}
	if err := c.mux.open(c.nc); err != nil {
		return err
	}
	return c.awaitJetStream(ctx)
}

// awaitJetStream asks until JetStream answers: a server that has just started accepts connections before it does.
func (c *Conn) awaitJetStream(ctx context.Context) error {
	wait := newBackoff(50*time.Millisecond, time.Second)
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := c.js.AccountInfo(try)
		cancel()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
			return errors.New("JetStream is not enabled for the account")
		}
		if !wait.sleep(ctx) {
			return fmt.Errorf("JetStream does not answer: %w: %w", ctx.Err(), err)
		}
	}
}

// Soon calls send, which publishes something on core NATS that nobody waits for: at once when there is little of it, and otherwise together with what else there
// is within 4 ms, in the order of the calls. It may call it before it returns. Send must not block, nor call Soon.
func (c *Conn) Soon(send func()) { c.soon.add(send) }

// NC returns the connection of the client library, for subscriptions and services on core NATS.
func (c *Conn) NC() *nats.Conn { return c.nc }

// JS returns the JetStream of the connection.
func (c *Conn) JS() jetstream.JetStream { return c.js }

// Connected reports whether the connection stands at this moment.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// Close waits up to 3 s for the acknowledgements of asynchronous publishes, drains all subscriptions for up to 3 s and
// closes the connection. Whatever is still waiting then gets nats.ErrConnectionClosed. Close may be called more than once.
func (c *Conn) Close() {
	c.closeOnce.Do(func() {
		close(c.closing)
		c.soon.flush()
		c.late.flush()
		if c.nc.IsConnected() {
			c.mux.awaitPublishes(closeWait)
		}
		c.drain()
		c.nc.Close()
		c.mux.close()
	})
}

func (c *Conn) drain() {
	closed := c.nc.StatusChanged(nats.CLOSED)
	if c.nc.Drain() != nil {
		return // not connected: there is nothing to drain
	}
	timeout := time.NewTimer(closeWait)
	defer timeout.Stop()
	select {
	case <-closed:
	case <-timeout.C:
	}
}

func (c *Conn) isClosing() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// newEnough reports whether a version like "2.15.2" or "v2.14.0-beta.1" is at least the oldest one allowed.
func newEnough(version string) bool {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	x, errX := strconv.Atoi(major)
	y, errY := strconv.Atoi(minor)
	if errX != nil || errY != nil {
		return false
	}
	return x > minServerMajor || x == minServerMajor && y >= minServerMinor
}

func isRefusedLogin(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) ||
		errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired)
}

// Redact removes passwords and tokens from a list of server addresses.
func Redact(urls string) string {
	parts := strings.Split(urls, ",")
	for i, p := range parts {
		p = strings.TrimSpace(p)
		if u, err := url.Parse(p); err == nil && u.User != nil {
			u.User = url.User("xxxxx") // as net/url itself redacts
			p = u.String()
		} else if at := strings.LastIndexByte(p, '@'); at >= 0 {
			p = "xxxxx" + p[at:]
		}
		parts[i] = p
	}
	return strings.Join(parts, ",")
}

// keepLatest puts v into a channel of capacity one, in place of what is there.
func keepLatest[T any](ch chan T, v T) {
	for {
		select {
		case ch <- v:
			return
		default:
		}
		select {
		case <-ch:
		default:
		}
	}
}
