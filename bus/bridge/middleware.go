package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

const (
	headerRequestID = "X-Request-Id"
	maxRequestID    = 128
	maxTrace        = 128 // of a traceparent
	maxTraceState   = 512
)

// exchange is what the layers of one request tell each other.
type exchange struct {
	http.ResponseWriter

	id     string // of the request
	route  string // pattern that matched
	status int
	start  time.Time
	cause  error // of an answer that tells less than is known
	close  bool  // the connection ends with this answer

	traceparent, tracestate string // of the client, for the messages that the request leads to
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{start: time.Now()}
}

// WriteHeader adds the headers that every answer has.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
		h := x.Header()
		h.Set(headerRequestID, x.id)
		h.Set("X-Process-Time", strconv.FormatFloat(time.Since(x.start).Seconds(), 'f', -1, 64))
		if x.close {
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

// Unwrap lets http.ResponseController reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// observe names each request, logs what became of it, and turns a panic into an error.
func (b *Bridge) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{ResponseWriter: w, id: requestID(r), route: "none", start: time.Now(), close: b.isDraining()}
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

// logRequest writes one line: at info level for writes of the new API and for whatever failed, else at debug level.
func (b *Bridge) logRequest(x *exchange, r *http.Request) {
	level := slog.LevelDebug
	switch read := r.Method == http.MethodGet || r.Method == http.MethodHead; {
	case x.route == pathReady || x.route == pathLive:
	case x.status >= 400 || isAPI(r.URL.Path) && !read:
		level = slog.LevelInfo
	}
	if !b.log.Enabled(r.Context(), level) && x.cause == nil {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("route", x.route), slog.Int("status", x.status),
		slog.Float64("ms", float64(time.Since(x.start).Microseconds())/1000), slog.String("request_id", x.id),
	}
	if x.cause != nil {
		attrs = append(attrs, slog.Any("err", x.cause))
		if x.status == http.StatusInternalServerError {
			level = slog.LevelError
		}
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
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		exchangeOf(r.Context()).close = true // instead of reading on to find the next request
		return nil, errBodyTooLarge
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout)) // not supported by a recorder in tests
	// No more than a little is set aside for what a client only says it will send.
	body := make([]byte, 0, min(max(r.ContentLength, 0), bigBody)+1)
	body, err := appendAll(body, http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errBodyTooLarge
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
