package bridge_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/bustest"
)

// patientClient is one connection, used as the old clients use theirs: no request is sent again.
type patientClient struct {
	conn net.Conn
	in   *bufio.Reader
}

func (b *bundle) connect() (*patientClient, error) {
	u, err := url.Parse(b.url)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return nil, err
	}
	return &patientClient{conn, bufio.NewReader(conn)}, nil
}

// ask sends a request in one piece and reads the answer.
func (c *patientClient) ask(request string) (*http.Response, string, error) {
	_ = c.conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c.conn, request); err != nil {
		return nil, "", fmt.Errorf("send: %w", err)
	}
	return c.answer()
}

func (c *patientClient) answer() (*http.Response, string, error) {
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, "", fmt.Errorf("receive: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

func (c *patientClient) close() { _ = c.conn.Close() }

const askState = "GET /v1/opscore/agent/a1/state HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + oldKey + "\r\n\r\n"

func postState(id string) string {
	body := stateBody(id, "null")
	return fmt.Sprintf("POST /v1/opscore/agent/%s/state HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		id, oldKey, len(body), body)
}

// pauses lets clients send requests, pausing exactly as long between any two on the same connection, and returns how many requests were
// answered and how many got none.
func (b *bundle) pauses(clients, requests int, pause time.Duration) (answered, lost int64) {
	var ok, failed atomic.Int64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			var c *patientClient
			defer func() {
				if c != nil {
					c.close()
				}
			}()
			for i := range requests {
				if i > 0 {
					<-time.After(pause)
				}
				if c == nil {
					var err error
					if c, err = b.connect(); err != nil {
						b.t.Error(err)
						return
					}
				}
				if resp, _, err := c.ask(askState); err != nil {
					failed.Add(1)
					c.close()
					c = nil
				} else if resp.StatusCode != http.StatusOK {
					b.t.Errorf("status %d", resp.StatusCode)
				} else {
					ok.Add(1)
				}
			}
		})
	}
	all.Wait()
	return ok.Load(), failed.Load()
}

// serveWith serves queries of an agent a1 with other timeouts.
func serveWith(t *testing.T, header, body, idle time.Duration) (*bundle, func() error) {
	t.Helper()
	br := newBridge(t, bustest.Conn(t), nil)
	br.SetTimeouts(header, body, idle)
	b := &bundle{t: t}
	return b, b.listen(br)
}

// The old server closed connections after 5 s without a request, and lost a tenth of the requests that were sent just then. The same
// is seen here when the server's time is the clients' pause, which shows that the test can fail.
func TestPausesLoseNoRequest(t *testing.T) {
	const clients, requests = 20, 8
	const pause = 250 * time.Millisecond
	t.Run("shorter than the server's", func(t *testing.T) {
		t.Parallel()
		b, _ := serveWith(t, time.Second, time.Second, 40*pause)
		if answered, lost := b.pauses(clients, requests, pause); lost > 0 || answered != clients*requests {
			t.Errorf("%d answered, %d lost", answered, lost)
		}
	})
	t.Run("as long as the server's", func(t *testing.T) {
		t.Parallel()
		b, _ := serveWith(t, time.Second, time.Second, pause)
		if answered, lost := b.pauses(clients, requests, pause); lost == 0 {
			t.Errorf("none of %d was lost: the test sees nothing", answered)
		}
	})
}

// Clients that send a byte now and then are sent away; others on the same server do not notice.
func TestSlowClientsTimeOut(t *testing.T) {
	b, _ := serveWith(t, 300*time.Millisecond, 300*time.Millisecond, time.Minute)
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		c, err := b.connect()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.close()
		for n := 0; ; n++ {
			if resp, _, err := c.ask(askState); err != nil || resp.StatusCode != http.StatusOK || resp.Close {
				t.Errorf("request %d on a connection that is in use: %v, %v", n, resp, err)
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	defer others.Wait()
	defer close(stop)
	header := "POST " + notify + " HTTP/1.1\r\nHost: h\r\nX-Slow: " + strings.Repeat("x", 1<<14)
	body := "POST " + notify + " HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 16000\r\n\r\n" + strings.Repeat(" ", 16000)
	var slow sync.WaitGroup
	for range 20 {
		slow.Go(func() { b.drip(t, header, "") })
		slow.Go(func() { b.drip(t, body, "408") })
	}
	slow.Wait()
}

// drip sends a request byte by byte until the server ends the connection, which it must long before the end. The status, unless empty, must
// have been told.
func (b *bundle) drip(t *testing.T, request, status string) {
	c, err := b.connect()
	if err != nil {
		t.Error(err)
		return
	}
	defer c.close()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	begun := strings.Index(request, "\r\n\r\n") + 4
	if begun < 4 {
		begun = 20
	}
	if _, err := io.WriteString(c.conn, request[:begun]); err != nil {
		t.Error(err)
		return
	}
	answered := make(chan string, 1)
	go func() {
		said, _ := io.ReadAll(c.conn) // a reset may cut off what follows the answer
		answered <- string(said)
	}()
	for i := begun; i < len(request); i++ {
		select {
		case said := <-answered:
			if status != "" && (!strings.HasPrefix(said, "HTTP/1.1 "+status) || !strings.Contains(said, `{"detail":`) || !strings.Contains(said, "Connection: close")) {
				t.Errorf("the last words were %q", said)
			}
			return
		case <-tick.C:
		}
		if _, err := io.WriteString(c.conn, request[i:i+1]); err != nil {
			return // closed
		}
	}
	t.Errorf("a request of %d bytes was taken, byte by byte", len(request))
}

// A client whose connection ends must have been told with its last answer, whatever it sent until then is answered, and what is stored
// is what was answered.
func TestShutdownUnderLoadAnswersEverything(t *testing.T) {
	b := setup(t, nil)
	config := b.config
	br, err := bridge.New(config)
	if err != nil {
		t.Fatal(err)
	}
	stop := b.listen(br)
	const clients = 40
	for i := range clients {
		b.register(fmt.Sprintf("s%d", i))
	}
	var answered, told atomic.Int64
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			c, err := b.connect()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.close()
			for {
				resp, body, err := c.ask(postState(fmt.Sprintf("s%d", i)))
				if err != nil {
					t.Errorf("no answer, and no warning before: %v", err)
					return
				}
				if resp.StatusCode != http.StatusAccepted {
					t.Errorf("%d: %s", resp.StatusCode, body)
				}
				answered.Add(1)
				if resp.Close {
					told.Add(1)
					return
				}
				<-time.After(time.Duration(i%8) * 5 * time.Millisecond) // some pause, some do not
			}
		})
	}
	bustest.Eventually(t, "load", func() bool { return answered.Load() > 10*clients })
	if err := stop(); err != nil {
		t.Error(err)
	}
	all.Wait()
	if told.Load() != clients {
		t.Errorf("%d of %d clients were told that the connection ends", told.Load(), clients)
	}
	if c, err := b.connect(); err == nil {
		c.close()
		t.Error("the listener is still open")
	}
}

// What net/http refuses by itself, before the bridge sees it.
func TestLongURLs(t *testing.T) {
	b, _ := serveWith(t, time.Second, time.Second, time.Minute)
	r := b.do("GET", "/health?"+strings.Repeat("x", 8<<10), "").want(t, http.StatusRequestURITooLong)
	if detail := decode[map[string]string](t, r)["detail"]; detail == "" {
		t.Errorf("body is %s", r.body)
	}
	b.do("GET", "/health?"+strings.Repeat("x", 8000), "").want(t, http.StatusOK)
	b.do("GET", "/api/v1/agents?"+strings.Repeat("x", 8<<10), "").problem(t, http.StatusRequestURITooLong, "too_large")
	c, err := b.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	resp, _, err := c.ask("GET /health?" + strings.Repeat("x", 50_000) + " HTTP/1.1\r\nHost: h\r\n\r\n")
	if errors.Is(err, os.ErrDeadlineExceeded) || err == nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%v, %v", resp, err)
	}
}
