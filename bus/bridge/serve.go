package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// The bounds of the server.
const (
	writeTimeout = 2 * time.Minute // from the header of a request on; longer than anybody may wait for an answer
	maxHeader    = 32 << 10
	maxURI       = 8 << 10
	maxBody      = 1 << 20
	maxInFlight  = 4096
	bigBody      = 64 << 10
	maxBigBodies = 128 // bodies over bigBody, or of unknown length, in memory at once

	drainTime = 10 * time.Second // for requests that are being served
	abortTime = 5 * time.Second  // for handlers whose connections were closed
)

// timeouts is how long a connection may take for what; part is the time for clients on idle connections to be told, by an answer,
// that they shall close them.
type timeouts struct{ header, body, idle, part time.Duration }

// defaultTimeouts: old clients pause up to a minute between two requests on one connection, and count a connection that is closed at
// the wrong moment as a failure.
var defaultTimeouts = timeouts{header: 10 * time.Second, body: 30 * time.Second, idle: 180 * time.Second, part: time.Second}

var errDraining = errors.New("shutting down")

// Serve answers requests on a listener until ctx ends, and closes the listener. When ctx ends it goes on for up to a second so that
// clients learn from a Connection: close that the connection ends, then waits up to 10 s for requests in flight. It returns when
// its goroutines are gone, with an error if the listener failed. Meanwhile other replicas can ask it for the requests that it remembers. A
// Bridge serves once.
func (b *Bridge) Serve(ctx context.Context, l net.Listener) error {
	questions, err := b.answerReplicas()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { _ = questions.Unsubscribe() }() // the connection may be closed already
	var open atomic.Int64
	srv := b.server(&open)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err = <-failed:
		b.drain(srv, &open)
	case <-ctx.Done():
		b.drain(srv, &open)
		err = <-failed
	}
	awaitZero(&open, abortTime)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("bridge: serve HTTP: %w", err)
}

// server makes the http.Server, which counts its connections in open.
func (b *Bridge) server(open *atomic.Int64) *http.Server {
	return &http.Server{
		Handler:           b.handler,
		ReadHeaderTimeout: b.timeouts.header,
		IdleTimeout:       b.timeouts.idle,
		WriteTimeout:      writeTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed, http.StateHijacked:
				open.Add(-1)
			}
		},
	}
}

// drain ends the service in order: readiness is withdrawn and every answer closes its connection; then nothing new is taken and
// what is being served ends; then it is cut off.
func (b *Bridge) drain(srv *http.Server, open *atomic.Int64) {
	b.drainOnce.Do(func() { close(b.draining) })
	awaitZero(open, b.timeouts.part)
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		b.log.Warn("requests cut off at shutdown", "after", drainTime, "err", err)
		_ = srv.Close() // there is nothing left to do about it
	}
}

func (b *Bridge) isDraining() bool {
	select {
	case <-b.draining:
		return true
	default:
		return false
	}
}

// awaitZero waits until a count is zero, or for the given time.
func awaitZero(n *atomic.Int64, limit time.Duration) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n.Load() > 0 {
		select {
		case <-tick.C:
		case <-timeout.C:
			return
		}
	}
}
