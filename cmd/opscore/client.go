package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

// Bounds of the client.
const (
	apiPath        = "/api/v1"
	requestTimeout = 30 * time.Second // of one request
	maxAnswer      = 64 << 20         // bytes of an answer
	pageSize       = 200              // items of a list asked for at once
	tries          = 3                // of a request that may be repeated, when its connection breaks
	retryPause     = 150 * time.Millisecond
)

// client talks to the HTTP API of one server.
type client struct {
	base string // without a slash at its end
	key  string // empty: none is shown
	http *http.Client
}

// call makes the body of a command that talks to the server, within the time that --timeout allows.
func (a *app) call(do func(ctx context.Context, c *client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if a.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, a.timeout)
			defer cancel()
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.http.CloseIdleConnections()
		return do(ctx, c, args)
	}
}

// client returns a client of the server that flags and environment name.
func (a *app) client() (*client, error) {
	key, err := a.apiKey()
	if err != nil {
		return nil, err
	}
	return newClient(a.serverURL(), key)
}

// newClient returns a client of the server at a URL. It fails with a usageError if that is not the URL of a server.
func newClient(server, key string) (*client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, usagef("%q is not the URL of a server; it looks like %s (--server or %s)", server, defaultServer, envServer)
	}
	if u.User != nil {
		return nil, usagef("the URL of the server must not hold a password; put the key into %s", envAPIKey)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = dial
	return &client{
		base: strings.TrimRight(u.String(), "/"),
		key:  key,
		http: &http.Client{
			Transport: transport,
			// A redirect would turn a POST into a GET and could carry the key to another server.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// errNATS says that what answers speaks NATS, not HTTP.
var errNATS = errors.New("it is a NATS server")

// dial connects to a server.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &greeted{Conn: conn}, nil
}

// greeted is a connection that fails with errNATS when it begins with the greeting of a NATS server. The HTTP client would log that
// greeting, or take it for a broken answer.
type greeted struct {
	net.Conn
	read bool // only what comes first is looked at
}

func (g *greeted) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if !g.read && bytes.HasPrefix(p[:n], []byte("INFO {")) {
		return 0, errNATS
	}
	g.read = g.read || n > 0
	return n, err
}

// request is one call of the API.
type request struct {
	method string
	path   string     // below apiPath, made by apiRoute
	query  url.Values // may be nil
	body   any        // encoded as JSON; nil: none
	key    string     // Idempotency-Key; it allows a POST to be repeated
}

// apiRoute joins the parts of a path; ids may hold any character.
func apiRoute(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteByte('/')
		if strings.Trim(p, ".") == "" { // a server would take "." and ".." for folders
			b.WriteString(strings.ReplaceAll(p, ".", "%2E"))
		} else {
			b.WriteString(url.PathEscape(p))
		}
	}
	return b.String()
}

// repeatable reports whether a request that may have arrived can be sent once more.
func (r *request) repeatable() bool { return r.method != http.MethodPost || r.key != "" }

// send makes a request and decodes its answer. It fails with an apiError when the server refuses, with an unreachableError when there is
// no answer, and with the context's error when that ends.
func send[T any](ctx context.Context, c *client, r request) (T, error) {
	var answer T
	body, err := c.roundTrips(ctx, &r)
	if err != nil {
		return answer, err
	}
	if err := event.Unmarshal(body, &answer); err != nil {
		return answer, fmt.Errorf("%s answered something else than Ops-Core does (%w); check --server and %s", c.base, err, envServer)
	}
	return answer, nil
}

// pages follows a list page by page.
func pages[T any](ctx context.Context, c *client, path string) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) {
		cursor := ""
		for {
			query := url.Values{"limit": {strconv.Itoa(pageSize)}}
			if cursor != "" {
				query.Set("cursor", cursor)
			}
			page, err := send[event.List[T]](ctx, c, request{method: http.MethodGet, path: path, query: query})
			if err == nil && cursor != "" && page.NextCursor == cursor {
				err = errors.New("the server gives the same page of the list again and again")
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(page.Items, nil) || page.NextCursor == "" {
				return
			}
			cursor = page.NextCursor
		}
	}
}

// roundTrips makes a request, once more if its connection breaks and it may be repeated.
func (c *client) roundTrips(ctx context.Context, r *request) ([]byte, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = event.Marshal(r.body); err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
	}
	for try := 1; ; try++ {
		answer, err := c.roundTrip(ctx, r, body)
		var broken *unreachableError
		if !errors.As(err, &broken) || !broken.sent || !r.repeatable() || try == tries {
			return answer, err
		}
		select {
		case <-time.After(time.Duration(try) * retryPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// roundTrip makes a request and returns the body of its answer.
func (c *client) roundTrip(ctx context.Context, r *request, body []byte) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	target := c.base + apiPath + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(limited, r.method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	c.setHeader(req.Header, r, body != nil)
	var sent atomic.Bool
	req = req.WithContext(httptrace.WithClientTrace(limited, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }}))
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err, sent.Load())
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, c.unreachable(ctx, err, true)
	}
	if len(answer) > maxAnswer {
		return nil, fmt.Errorf("the answer of %s is larger than %d MiB", c.base, maxAnswer>>20)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, c.refusal(resp, answer)
	}
	return answer, nil
}

// setHeader fills in the headers of a request.
func (c *client) setHeader(h http.Header, r *request, hasBody bool) {
	h.Set("Accept", "application/json, application/problem+json")
	h.Set("User-Agent", "opscore/"+readBuild().Version)
	if hasBody {
		h.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		h.Set("Authorization", "Bearer "+c.key)
	}
	if r.key != "" {
		h.Set("Idempotency-Key", r.key)
	}
}
