package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// The bounds of requests to agents.
const (
	maxPosts       = 256  // at the same time
	maxStrangers   = 64   // of them to targets that have not answered last time: those that hang must not take every place
	maxTargetPosts = 4    // of them to one target
	maxSlow        = 2048 // more that have waited for an answer for a while: targets that hang must not keep the places of those that answer
	maxQueue       = 256  // requests that wait for one target
	maxTargets     = 10_000
	maxPostAnswer  = 64 << 10 // bytes that are read of an answer

	connectTimeout = 3 * time.Second  // of finding the address and connecting
	placeTimeout   = time.Second      // of waiting for a place
	patience       = placeTimeout / 2 // with an answer, until a request is a slow one
	idleTarget     = 4 * time.Second  // shorter than servers keep a connection: one closed at the wrong moment hides what became of a request

	breakerFailures = 3 // in a row, until a target is left alone
	breakerPause    = 5 * time.Second
)

// posting is a request to be sent.
type posting struct {
	url    string
	header http.Header
	body   []byte
	// once is set when the receiver does not know a repeat: the request gets a connection of its own, so that it cannot meet the end of an
	// old one.
	once bool
}

// targets sends requests, and remembers of each server it sends to whether it can be reached.
type targets struct {
	client    *http.Client
	fresh     *http.Client // with a connection of its own for each request
	places    chan struct{}
	strangers chan struct{}
	slow      chan struct{}

	mu   sync.Mutex
	byID map[string]*target
}

// target is a server: a scheme, a host and a port.
type target struct {
	breaker      *gobreaker.CircuitBreaker[*posted]
	places       chan struct{}
	queue        atomic.Int32
	answers      atomic.Bool  // it did, last time
	unresolvable atomic.Bool  // its host had no address, last time
	opened       atomic.Int64 // when the breaker opened, Unix time in ns
	users        int          // under the lock of targets
}

func newTargets() *targets {
	t := &targets{
		client: newClient(), fresh: newClient(),
		places: make(chan struct{}, maxPosts), strangers: make(chan struct{}, maxStrangers), slow: make(chan struct{}, maxSlow),
		byID: make(map[string]*target),
	}
	t.fresh.Transport.(*http.Transport).DisableKeepAlives = true
	return t
}

func newClient() *http.Client {
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSHandshakeTimeout: connectTimeout,
			MaxIdleConns: maxPosts, MaxIdleConnsPerHost: maxTargetPosts, IdleConnTimeout: idleTarget,
			MaxResponseHeaderBytes: maxHeader, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (t *targets) close() { t.client.CloseIdleConnections() }

// post sends a request and reads the answer. The error wraps errNotSent when nobody can have got it, is a *busyError when it was not
// begun, and leaves open what became of the request otherwise.
func (t *targets) post(ctx context.Context, p posting) (*posted, error) {
	u, err := url.Parse(p.url)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, &busyError{"the endpoint is not an http or https URL", noEndpointWait}
	}
	to := t.enter(u.Scheme + "://" + u.Host)
	if to == nil {
		return nil, &busyError{"too many endpoints at once", time.Second}
	}
	defer t.leave(to)
	if to.breaker.State() == gobreaker.StateOpen {
		return nil, to.down()
	}
	give, err := t.place(ctx, to)
	if err != nil {
		return nil, err
	}
	defer give()
	answer, err := to.breaker.Execute(func() (*posted, error) { return t.send(ctx, to, p) })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return nil, to.down()
	}
	return answer, err
}

// enter returns the target of an id, and keeps it from being forgotten until leave. It returns nil if all places are taken.
func (t *targets) enter(id string) *target {
	t.mu.Lock()
	defer t.mu.Unlock()
	to := t.byID[id]
	if to == nil {
		if len(t.byID) >= maxTargets && !t.forgetOne() {
			return nil
		}
		to = newTarget(id)
		t.byID[id] = to
	}
	to.users++
	return to
}

func (t *targets) leave(to *target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	to.users--
}

// forgetOne drops any target that is not in use.
func (t *targets) forgetOne() bool {
	for id, to := range t.byID {
		if to.users == 0 {
			delete(t.byID, id)
			return true
		}
	}
	return false
}

func newTarget(id string) *target {
	to := &target{places: make(chan struct{}, maxTargetPosts)}
	to.breaker = gobreaker.NewCircuitBreaker[*posted](gobreaker.Settings{
		Name: id, Timeout: breakerPause,
		// A name without an address is asked for once, and then not for a while.
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.ConsecutiveFailures >= breakerFailures || to.unresolvable.Load()
		},
		OnStateChange: func(_ string, _, now gobreaker.State) {
			if now == gobreaker.StateOpen {
				to.opened.Store(time.Now().UnixNano())
			}
		},
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) }, // the bridge stops
	})
	return to
}

// down says when the target is tried again.
func (to *target) down() *busyError {
	left := time.Until(time.Unix(0, to.opened.Load()).Add(breakerPause))
	return &busyError{"endpoint_down", min(max(left, briefly), breakerPause)}
}

// place waits for a place, a second at most. The caller gives it back.
func (t *targets) place(ctx context.Context, to *target) (give func(), err error) {
	if to.queue.Add(1) > maxQueue {
		to.queue.Add(-1)
		return nil, &busyError{"endpoint_busy", briefly}
	}
	defer to.queue.Add(-1)
	want := []chan struct{}{to.places, t.places}
	if !to.answers.Load() {
		want = []chan struct{}{to.places, t.strangers, t.places}
	}
	timeout := time.NewTimer(placeTimeout)
	defer timeout.Stop()
	for i, places := range want {
		select {
		case places <- struct{}{}:
			continue
		case <-timeout.C:
		case <-ctx.Done():
		}
		for _, taken := range want[:i] {
			<-taken
		}
		return nil, &busyError{"endpoint_busy", briefly}
	}
	return t.holding(want), nil
}

// holding returns what gives places back. The last of them is one of t.places; it is changed for a slow one in time, if there is one.
func (t *targets) holding(taken []chan struct{}) (give func()) {
	var mu sync.Mutex
	last := len(taken) - 1
	slowed := time.AfterFunc(patience, func() {
		mu.Lock()
		defer mu.Unlock()
		if taken == nil {
			return
		}
		select {
		case t.slow <- struct{}{}:
			<-taken[last]
			taken[last] = t.slow
		default:
		}
	})
	return func() {
		slowed.Stop()
		mu.Lock()
		defer mu.Unlock()
		for _, place := range taken {
			<-place
		}
		taken = nil
	}
}

// send sends a request and notes what that says about the target.
func (t *targets) send(ctx context.Context, to *target, p posting) (*posted, error) {
	answer, err := t.exchange(ctx, p)
	var unresolved *net.DNSError
	to.answers.Store(err == nil)
	to.unresolvable.Store(errors.As(err, &unresolved))
	return answer, err
}

func (t *targets) exchange(ctx context.Context, p posting) (*posted, error) {
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(p.body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	req.Header = p.header
	client := t.client
	if p.once {
		client = t.fresh
	}
	resp, err := client.Do(req)
	switch {
	case err != nil && !connected.Load():
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	case err != nil:
		return nil, fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	answer := &posted{status: resp.StatusCode, header: resp.Header}
	// What cannot be read is no answer in words; the status says enough.
	answer.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxPostAnswer))
	return answer, nil
}
