package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// connect returns a connection that is up, and what to do with it at the end. It waits for NATS until ctx ends.
func connect(ctx context.Context, cfg *Config) (nc *nats.Conn, disconnect func(), err error) {
	nc, disconnect = cfg.Conn, func() {}
	if nc == nil {
		if nc, err = nats.Connect(cfg.URL, cfg.natsOptions()...); err != nil {
			return nil, nil, fmt.Errorf("connect to %s: %w", cfg.URL, err)
		}
		disconnect = nc.Close
	}
	status := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(status)
	const look = time.Second // for refused credentials, which change no status
	for !nc.IsConnected() {
		if nc.IsClosed() {
			err = fmt.Errorf("the connection is closed: %w", closedBy(nc))
		} else if cfg.Conn == nil && isAuth(nc.LastError()) {
			err = fmt.Errorf("connect to %s: %w", cfg.URL, nc.LastError())
		} else if ctx.Err() != nil {
			err = fmt.Errorf("wait for NATS at %s: %w", cfg.URL, context.Cause(ctx))
		}
		if err != nil {
			disconnect()
			return nil, nil, err
		}
		select {
		case <-status:
		case <-ctx.Done():
		case <-time.After(look):
		}
	}
	return nc, disconnect, nil
}

// natsOptions are those of a connection that never gives up and never sends behind its publisher's back.
func (c *Config) natsOptions() []nats.Option {
	log := c.Log
	return append([]nats.Option{
		nats.Name("opscore agent " + c.ID),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(500*time.Millisecond, time.Second),
		nats.IgnoreAuthErrorAbort(), // once connected: the service that checks credentials may be away for a while
		nats.ReconnectBufSize(-1),   // the outbox repeats what was not sent
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("disconnected from NATS", keyErr, err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("connected to NATS again", "url", nc.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if sub != nil {
				log.Error("NATS reports an error", "subject", sub.Subject, keyErr, err)
				return
			}
			log.Error("NATS reports an error", keyErr, err)
		}),
	}, c.NATSOptions...)
}

func isAuth(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		errors.Is(err, nats.ErrAccountAuthExpired)
}

// closedBy returns why a connection was closed.
func closedBy(nc *nats.Conn) error {
	if err := nc.LastError(); err != nil {
		return err
	}
	return nats.ErrConnectionClosed
}
