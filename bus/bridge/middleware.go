package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

const (
	headerRequestID = "X-Request-Id"
	headerSequence  = "Opscore-Sequence" // stream/sequence of the message that a write became
	maxRequestID    = 128
	maxMethod       = 16
	maxTrace        = 128 // of a traceparent
	maxTraceState   = 512
)

// exchange is what the layers of one request tell each other.
type exchange struct {
	http.ResponseWriter
	trace

	requests *requestLog   // that remembers the request
	pattern  func() string // of the route, as far as it is known
	cause    error         // of an answer that tells less than is known
	close    bool          // the connection ends with this answer
	draining func() bool   // and if so, with any

	traceparent, tracestate string // of the client, for the messages that the request leads to
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{}
}

// noRoute is the route of what matches none.
const noRoute = "none"

// noteRoute keeps the pattern that matched.
func (x *exchange) noteRoute() {
	if x.pattern == nil {
		return
	}
	if p := x.pattern(); p != "" {
		x.route = p
	}
	x.pattern = nil
}

// WriteHeader adds the headers that every answer has. The request is remembered before anybody can have got the answer.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
		x.reach(answered, time.Now())
		x.noteRoute()
		if x.isWorthKeeping() {
			x.requests.add(&x.trace)
		}
		h := x.Header()
		h.Set(headerRequestID, x.id)
		h.Set("X-Process-Time", strconv.FormatFloat(x.took().Seconds(), 'f', -1, 64))
		if seq := x.sequence(); seq != "" {
			h.Set(headerSequence, seq)
		}
		if x.close || x.draining != nil && x.draining() { // many requests wait for their answer until the end of the process
			h.Set("Connection", "close")
		}
	}
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) Write(p []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	return x.ResponseWriter.Write(p)
}

// mark names the request in the header of a message.
func (x *exchange) mark(h nats.Header) {
	h.Set(event.HeaderRequest, x.id)
	if x.traceparent == "" {
		return
	}
	h.Set(event.HeaderTraceparent, x.traceparent)
	if x.tracestate != "" && len(x.tracestate) <= maxTraceState {
		h.Set(event.HeaderTracestate, x.tracestate)
	}
}

// took is how long the request has taken until its answer, or until now.
func (x *exchange) took() time.Duration {
	until := x.at[answered]
	if until.IsZero() {
		until = time.Now()
	}
	return until.Sub(x.at[received])
}

// isProbe reports whether the request only asks whether this process serves.
func (x *exchange) isProbe() bool { return x.route == pathReady || x.route == pathLive }

// isBeat reports whether the request is one that every agent sends all the time and that is not stored.
func (x *exchange) isBeat() bool { return strings.HasSuffix(x.route, "/heartbeat") }

// isWorthKeeping reports whether somebody may want to know what became of the request.
func (x *exchange) isWorthKeeping() bool {
	return x.status >= 400 && !x.isProbe() || !x.isRead() && !x.isBeat()
}

// Unwrap lets http.ResponseController reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// observe names each request, logs what became of it, and turns a panic into an error.
func (b *Bridge) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{
			ResponseWriter: w, requests: &b.requests, draining: b.isDraining,
			trace: trace{id: requestID(r), method: clip(r.Method, maxMethod), route: noRoute},
		}
		x.reach(received, time.Now())
		if parent := r.Header.Get(event.HeaderTraceparent); len(parent) <= maxTrace {
			x.traceparent, x.tracestate = parent, r.Header.Get(event.HeaderTracestate)
		}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				b.log.Error("request panicked", "method", r.Method, "route", x.route, "request_id", x.id, "panic", p, "stack", string(debug.Stack()))
				if x.status != 0 {
					panic(http.ErrAbortHandler) // half an answer must not look like a whole one
				}
				fail(x, r, fmt.Errorf("panic: %v", p))
			}
			if x.status == 0 {
				x.WriteHeader(http.StatusOK)
			}
			b.logRequest(x, r)
		}()
		next.ServeHTTP(x, r)
	})
}

// logRequest writes one line: a warning for a request that was refused, at info level for writes of the new API, else at debug level.
func (b *Bridge) logRequest(x *exchange, r *http.Request) {
	level := slog.LevelDebug
	switch {
	case x.isProbe():
	case x.status >= 400:
		level = slog.LevelWarn
	case isAPI(r.URL.Path) && !x.isRead() && !x.isBeat():
		level = slog.LevelInfo
	}
	if x.status == http.StatusInternalServerError {
		level = slog.LevelError
	}
	if !b.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", x.method), slog.String("route", x.route), slog.Int("status", x.status),
		slog.Float64("ms", float64(x.took().Microseconds())/1000), slog.String("request_id", x.id),
	}
	if x.key != "" {
		attrs = append(attrs, slog.String("key", x.key))
	}
	if level >= slog.LevelWarn {
		suppressed, ok := b.refusals.allow(x.route, time.Now())
		if !ok {
			return
		}
		if suppressed > 0 {
			attrs = append(attrs, slog.Int("suppressed", suppressed))
		}
		attrs = append(attrs, slog.String("step", string(steps[x.failed])), slog.String("reason", x.reason))
	}
	if x.cause != nil {
		attrs = append(attrs, slog.Any("err", x.cause))
	}
	b.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// requestID takes over the id that a client gives, if it is one that can be logged.
func requestID(r *http.Request) string {
	id := r.Header.Get(headerRequestID)
	if id == "" || len(id) > maxRequestID || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Sprintf("%016x", rand.Uint64())
	}
	return id
}

// limit refuses requests beyond what the server can hold in memory at once. Probes are always answered.
func (b *Bridge) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; p == pathLive || p == pathReady || p == "/health" {
			next.ServeHTTP(w, r)
			return
		}
		slots := []chan struct{}{b.inFlight}
		if isPoll(r) {
			slots[0] = b.polling // or agents that wait would keep everybody else out
		}
		if r.ContentLength > bigBody || r.ContentLength < 0 {
			slots = append(slots, b.bigBodies)
		}
		for _, s := range slots {
			select {
			case s <- struct{}{}:
				defer func() { <-s }()
			default:
				fail(w, r, event.Errorf(event.CodeUnavailable, "too many requests at once"))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// readBody reads the whole body, within its bounds of size and time.
func readBody(w http.ResponseWriter, r *http.Request, timeout time.Duration) ([]byte, error) {
	if r.ContentLength > maxBody {
		exchangeOf(r.Context()).close = true // instead of reading on to find the next request
		return nil, errBodyTooLarge
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(timeout)) // not supported by a recorder in tests
	// No more than a little is set aside for what a client only says it will send.
	body := make([]byte, 0, min(max(r.ContentLength, 0), bigBody)+1)
	body, err := appendAll(body, http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errBodyTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		exchangeOf(r.Context()).close = true
		return nil, &Problem{Status: http.StatusRequestTimeout, Code: event.CodeMalformed, Detail: "the body did not come in time"}
	case err != nil:
		exchangeOf(r.Context()).close = true
		return nil, event.Errorf(event.CodeMalformed, "the body could not be read to its end")
	}
	// A deadline that stays would end the request while its handler waits for something.
	_ = control.SetReadDeadline(time.Time{})
	return body, nil
}

var errBodyTooLarge = event.Errorf(event.CodeTooLarge, "the body is over the limit of %d bytes", maxBody)

// appendAll is io.ReadAll into a buffer that has the right size already.
func appendAll(b []byte, r io.Reader) ([]byte, error) {
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}
