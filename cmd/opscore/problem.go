package main

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/opspawn/opscore/bus/event"
)

// apiError is a refusal of the server.
type apiError struct {
	problem
	status     int    // of HTTP
	typed      bool   // it came as problem+json: from Ops-Core, not from something in between
	retryAfter string // as the server gave it
	server     string
}

// problem is a body of application/problem+json.
type problem struct {
	Title     string          `json:"title,omitzero"`
	Detail    string          `json:"detail,omitzero"`
	Code      event.Code      `json:"code,omitzero"`
	Errors    []problemDetail `json:"errors,omitzero"`
	RequestID string          `json:"requestId,omitzero"` // finds the request in the server's log
}

// problemDetail is one mistake in a request.
type problemDetail struct {
	Message  string `json:"message,omitzero"`
	Location string `json:"location,omitzero"`
}

// String says where the mistake is and what it is.
func (d problemDetail) String() string {
	if d.Location == "" {
		return d.Message
	}
	return d.Location + ": " + d.Message
}

// refusal makes the error of an answer that is not a success.
func (c *client) refusal(resp *http.Response, body []byte) error {
	e := &apiError{status: resp.StatusCode, server: c.base, retryAfter: resp.Header.Get("Retry-After")}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind == "application/problem+json" && event.Unmarshal(body, &e.problem) == nil {
		e.typed = true
	}
	if location := resp.Header.Get("Location"); !e.typed && location != "" && resp.StatusCode/100 == 3 {
		e.Detail = fmt.Sprintf("it redirects to %s; name the right URL with --server or %s", location, envServer)
	}
	return e
}

// unavailable reports whether the server, or what stands in front of it, cannot serve now.
func (e *apiError) unavailable() bool {
	return e.status == http.StatusBadGateway || e.status == http.StatusServiceUnavailable || e.status == http.StatusGatewayTimeout
}

// Error says what the server refused and what to do about it.
func (e *apiError) Error() string {
	switch {
	case e.status == http.StatusUnauthorized:
		return fmt.Sprintf("%s wants a valid key (%s); put it into %s", e.server, e.text(), envAPIKey)
	case e.unavailable():
		text := fmt.Sprintf("%s is not available: %s", e.server, e.text())
		if e.retryAfter != "" {
			text += fmt.Sprintf("; try again after %s", retryTime(e.retryAfter))
		}
		return text
	case !e.typed:
		return fmt.Sprintf("%s does not answer like Ops-Core (%s); check --server and %s", e.server, e.text(), envServer)
	}
	text := e.text()
	for _, d := range e.Errors {
		if !strings.Contains(e.Detail, d.Message) {
			text += "; " + d.String()
		}
	}
	if e.status >= http.StatusInternalServerError && e.RequestID != "" {
		text += fmt.Sprintf(" (request %s)", e.RequestID)
	}
	return text
}

// text is what the server said of the reason, or the name of the HTTP status.
func (e *apiError) text() string {
	for _, s := range []string{e.Detail, e.Title} {
		if s != "" {
			return s
		}
	}
	return strings.TrimSpace(fmt.Sprintf("HTTP %d %s", e.status, http.StatusText(e.status)))
}

// retryTime reads a Retry-After header: a number of seconds or a date.
func retryTime(header string) string {
	if strings.Trim(header, "0123456789") == "" {
		return header + "s"
	}
	return header
}

// unreachableError says that a request got no answer.
type unreachableError struct {
	server string
	cause  error
	sent   bool // the request may have arrived at a server that understands it
}

// Error says which server was tried and what to do about it.
func (e *unreachableError) Error() string {
	if errors.Is(e.cause, errNATS) {
		return fmt.Sprintf("%s is a NATS server, not the HTTP address of Ops-Core, which looks like %s; name that with --server or %s", e.server, defaultServer, envServer)
	}
	if e.sent {
		return fmt.Sprintf("no answer from %s: %s; the request may have arrived", e.server, rootCause(e.cause))
	}
	return fmt.Sprintf("cannot reach %s: %s; start a server with \"opscore dev\", or name another one with --server or %s", e.server, rootCause(e.cause), envServer)
}

func (e *unreachableError) Unwrap() error { return e.cause }

// unreachable makes the error of a request without an answer: the context's own if that was cancelled.
func (c *client) unreachable(ctx context.Context, err error, sent bool) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	var op *net.OpError
	dialing := errors.As(err, &op) && op.Op == "dial"
	return &unreachableError{server: c.base, cause: err, sent: sent && !dialing && !errors.Is(err, errNATS)}
}

// rootCause says in short why a connection failed.
func rootCause(err error) string {
	var (
		op   *net.OpError
		dns  *net.DNSError
		call *os.SyscallError
		slow net.Error
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &slow) && slow.Timeout():
		return "it took too long"
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &call):
		return call.Err.Error()
	case errors.As(err, &op):
		return op.Err.Error()
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}
