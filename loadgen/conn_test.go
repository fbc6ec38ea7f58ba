package loadgen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rawServer accepts connections and lets do deal with each, until the test ends. It returns its URL.
func rawServer(t *testing.T, do func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close() //nolint:errcheck // the test is about what the other side sees
				do(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return "http://" + l.Addr().String()
}

// skipRequest reads one request.
func skipRequest(c net.Conn) bool {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err == nil {
		_, err = io.Copy(io.Discard, r.Body)
	}
	return err == nil
}

// post sends a state report over a session of its own.
func post(t *testing.T, base string, timeout time.Duration) reply {
	t.Helper()
	tr, err := newHTTPTransport(base, "key")
	if err != nil {
		t.Fatal(err)
	}
	s := tr.session()
	defer s.drop()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return s.do(ctx, &action{scenario: &Scenario{}, step: &Step{Op: OpPostState}, agent: "a", request: "r", state: "idle"})
}

func TestFailuresOfConnectionsAreClassified(t *testing.T) {
	answer := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			if skipRequest(c) {
				_, _ = io.WriteString(c, text)
			}
		}
	}
	for _, c := range []struct {
		name  string
		serve func(net.Conn) // nil: nobody listens
		want  string
		says  string
	}{
		{"nobody listens", nil, ClassRefused, "refused"},
		{"reset", func(c net.Conn) {
			skipRequest(c)
			_ = c.(*net.TCPConn).SetLinger(0) // close then sends RST
		}, ClassReset, "reset"},
		{"closed without an answer", func(c net.Conn) { skipRequest(c) }, ClassNoResponse, "EOF"},
		{"closed within an answer", answer("HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\n{"), ClassNoResponse, "EOF"},
		{"silent", func(c net.Conn) {
			_, _ = io.Copy(io.Discard, c) // until the client gives up
		}, ClassTimeout, "timeout"},
		{"no HTTP", answer("SSH-2.0-x\r\n\r\n"), ClassOther, "malformed"},
		{"a status", answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 41\r\n\r\n{\"detail\":\"Authorization header missing\"}\n"), "401", "Authorization header missing"},
		{"a problem", answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 40\r\n\r\n{\"title\":\"NATS is not connected\",\"x\":12}\n"), "503", "NATS is not connected"},
		{"chunked", answer("HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := "http://" + closedPort(t)
			if c.serve != nil {
				base = rawServer(t, c.serve)
			}
			out := post(t, base, 300*time.Millisecond)
			if c.want == "" {
				if out.failed != nil {
					t.Errorf("it failed: %v", out.failed)
				}
				return
			}
			if out.failed == nil || out.failed.class != c.want || !strings.Contains(out.failed.detail, c.says) {
				t.Errorf("the failure is %v, want class %s with %q", out.failed, c.want, c.says)
			}
		})
	}
	if f := classify(fmt.Errorf("dial: %w", &net.DNSError{Err: "no such host", Name: "x", IsNotFound: true})); f.class != ClassResolve {
		t.Errorf("a name without an address is %s", f.class)
	}
}

// closedPort returns an address that nobody listens at.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nobody has connected
	return l.Addr().String()
}

func TestAUserKeepsOneConnection(t *testing.T) {
	var connections atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "{}")
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	tr, err := newHTTPTransport(s.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	session := tr.session()
	defer session.drop()
	const deadline = 500 * time.Millisecond
	for i := range 50 {
		if i == 1 {
			<-time.After(deadline) // of the first request: it must not outlive that
		}
		ctx, cancel := context.WithTimeout(t.Context(), max(deadline, time.Duration(i)*time.Second))
		out := session.do(ctx, &action{scenario: &Scenario{}, step: &Step{Op: OpGetState}, agent: "a", request: "r"})
		cancel()
		if out.failed != nil {
			t.Fatalf("request %d: %v", i, out.failed)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("50 requests took %d connections, want 1", n)
	}
	session.drop()
	if out := session.do(t.Context(), &action{scenario: &Scenario{}, step: &Step{Op: OpGetState}, agent: "a", request: "r"}); out.failed != nil {
		t.Error(out.failed)
	}
	if n := connections.Load(); n != 2 {
		t.Errorf("after a drop there were %d connections, want 2", n)
	}
}

func TestAnIdleConnectionThatTheServerHasClosedIsReplaced(t *testing.T) {
	var requests atomic.Int64
	closed := make(chan struct{}, 10)
	base := rawServer(t, func(c net.Conn) {
		if skipRequest(c) {
			requests.Add(1)
			_, _ = io.WriteString(c, "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}")
			_ = c.Close() // without having said so
			closed <- struct{}{}
		}
	})
	tr, err := newHTTPTransport(base, "")
	if err != nil {
		t.Fatal(err)
	}
	s := tr.session().(*httpSession)
	defer s.drop()
	for i := range 5 {
		if i > 0 {
			<-closed
			eventually(t, "the close to arrive", func() bool { return !idle(s.conn.conn) })
		}
		if out := s.do(t.Context(), &action{scenario: &Scenario{}, step: &Step{Op: OpPostState}, agent: "a", request: "r"}); out.failed != nil {
			t.Fatalf("request %d failed: %v", i, out.failed)
		}
	}
	if requests.Load() != 5 {
		t.Errorf("the server got %d requests, want 5", requests.Load())
	}
}

func TestARequestIsNeverRepeated(t *testing.T) {
	var requests atomic.Int64
	base := rawServer(t, func(c net.Conn) {
		for first := true; skipRequest(c); first = false {
			requests.Add(1)
			if !first {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}")
		}
	})
	tr, err := newHTTPTransport(base, "")
	if err != nil {
		t.Fatal(err)
	}
	s := tr.session()
	defer s.drop()
	a := &action{scenario: &Scenario{}, step: &Step{Op: OpPostState}, agent: "a", request: "r"}
	if out := s.do(t.Context(), a); out.failed != nil {
		t.Fatal(out.failed)
	}
	if out := s.do(t.Context(), a); out.failed == nil || out.failed.class != ClassNoResponse {
		t.Errorf("a request on a connection that was closed for it gives %v, want %s", out.failed, ClassNoResponse)
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("the server saw %d requests, want 2: net/http would have sent the second twice", n)
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestAnAnswerThatIsTooLongIsRefused(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		block := make([]byte, 1<<20)
		for range maxAnswer>>20 + 2 {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	if out := post(t, s.URL, 20*time.Second); out.failed == nil || out.failed.class != ClassContent {
		t.Errorf("it gives %v, want class %s", out.failed, ClassContent)
	}
}

func TestURLsOfServers(t *testing.T) {
	for base, want := range map[string]string{
		"http://a:8000":  "http://a:8000",
		"http://a/ops/":  "http://a/ops",
		"https://[::1]/": "https://[::1]",
		"":               "",
		"a:8000":         "",
		"ftp://a":        "",
		"http://u:p@a":   "",
		"http://a?x=1":   "",
	} {
		tr, err := newHTTPTransport(base, "")
		switch {
		case want == "" && !errors.Is(err, ErrConfig):
			t.Errorf("%q gives %v, want an ErrConfig", base, err)
		case want != "" && (err != nil || tr.base.String() != want):
			t.Errorf("%q gives %v, %v, want %s", base, tr, err, want)
		}
	}
}

func TestRequestsAreWhatHTTPSays(t *testing.T) {
	base, err := url.Parse("http://host:1/prefix")
	if err != nil {
		t.Fatal(err)
	}
	c := httpConn{base: base}
	text := string(c.appendRequest(nil, "POST", "/x", [][2]string{{"X-Request-Id", "7"}}, []byte("{}")))
	want := "POST /prefix/x HTTP/1.1\r\nHost: host:1\r\nUser-Agent: opscore-loadgen\r\nAccept: */*\r\nX-Request-Id: 7\r\n" +
		"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
	if text != want {
		t.Errorf("the request is\n%q\nwant\n%q", text, want)
	}
}
