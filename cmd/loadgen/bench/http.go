package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/cmd/loadgen/env"
)

const (
	httpKey    = env.DefaultKey
	httpConns  = 32 // keep-alive connections
	httpAgents = 1000
	httpTime   = 5 * time.Second
	httpWarm   = time.Second
	idleTime   = 25 * time.Second
	idleConns  = 5000
)

// request is one HTTP request as bytes, and the status that answers it.
type request struct {
	raw  []byte
	want int
}

func newRequest(method, path, body string, want int) request {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\n", method, path, httpKey)
	if body != "" {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n" + body)
	return request{b.Bytes(), want}
}

// The three operations that are measured. N counts up, the connection is one of httpConns.
func registerRequest(n int) request {
	id := "http-" + strconv.Itoa(n%httpAgents)
	return newRequest("POST", "/v1/opscore/internal/agent/notify", `{"event_type":"REGISTER","agent_details":{"agentId":"`+id+`","agentName":"LoadTestAgent-`+id+
		`","version":"1.0","capabilities":["state_reporting"],"contactEndpoint":"http://fake-agent-`+id+`.local/run","metadata":{"load_test_user":"`+id+`"}}}`, http.StatusOK)
}

func stateRequest(n int) request {
	id := "http-" + strconv.Itoa(n%httpAgents)
	words := []string{"idle", "active", "error", "finished"}
	return newRequest("POST", "/v1/opscore/agent/"+id+"/state", `{"agentId":"`+id+`","timestamp":"2026-11-22T10:00:00.123456+00:00","state":"`+words[n%4]+
		`","details":{"load_test":true,"user":"user-`+id+`"}}`, http.StatusAccepted)
}

func readRequest(n int) request {
	return newRequest("GET", "/v1/opscore/agent/http-"+strconv.Itoa(n%httpAgents)+"/state", "", http.StatusOK)
}

// hammer keeps httpConns connections busy for a while and returns the requests per second and their 99th percentile in ms.
func hammer(ctx context.Context, addr string, next func(n int) request) (rate, p99 float64, err error) {
	g, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	var waits []time.Duration
	begin := time.Now()
	measure, end := begin.Add(httpWarm), begin.Add(httpWarm+httpTime)
	for conn := range httpConns {
		g.Go(func() error {
			mine, err := hammerOne(ctx, addr, func(i int) request { return next(conn + i*httpConns) }, measure, end)
			mu.Lock()
			waits = append(waits, mine...)
			mu.Unlock()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, 0, err
	}
	slices.Sort(waits)
	return float64(len(waits)) / httpTime.Seconds(), float64(waits[len(waits)*99/100].Microseconds()) / 1000, nil
}

func hammerOne(ctx context.Context, addr string, next func(i int) request, measure, end time.Time) (waits []time.Duration, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	in := bufio.NewReader(conn)
	for i := 0; ; i++ {
		begin := time.Now()
		if begin.After(end) {
			return waits, nil
		}
		if err := exchange(conn, in, next(i)); err != nil {
			return nil, err
		}
		if begin.After(measure) {
			waits = append(waits, time.Since(begin))
		}
	}
}

func exchange(conn net.Conn, in *bufio.Reader, r request) error {
	if _, err := conn.Write(r.raw); err != nil {
		return err
	}
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != r.want {
		err = fmt.Errorf("answered %s: %s", answer.Status, body)
	}
	return err
}

func benchHTTP(ctx context.Context, l *lab) ([]Figure, error) {
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	plain, err := l.help(ctx, "bare")
	if err != nil {
		return nil, err
	}
	bare, _, err := hammer(ctx, plain.addr, stateRequest)
	if err != nil {
		return nil, fmt.Errorf("bare HTTP: %w", err)
	}
	addr := strings.TrimPrefix(l.env.URLs[0], "http://")
	var figures []Figure
	for _, op := range []struct {
		name, goal string
		next       func(int) request
	}{
		{"register by the webhook", "≥ 4000 /s", registerRequest},
		{"POST state → 202 after the commit", "≥ 5000 /s, p99 < 20 ms", stateRequest},
		{"GET state", "≥ 10000 /s", readRequest},
	} {
		before := l.cpu()
		rate, p99, err := hammer(ctx, addr, op.next)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", op.name, err)
		}
		figures = append(figures, Figure{
			Name: op.name + ", 32 connections", Value: rate, Unit: "/s", Ratio: rate / bare, Baseline: "a bare net/http answer", Goal: op.goal,
			Note: fmt.Sprintf("p99 %.1f ms; CPU seconds in %.0f s: %s", p99, (httpTime + httpWarm).Seconds(), l.cpu().since(before)),
		})
	}
	idle, err := l.benchIdle(ctx, addr)
	return append(figures, idle), err
}

// benchIdle opens connections, sends one request on each, leaves them open, and looks when the server has noticed that it is idle.
func (l *lab) benchIdle(ctx context.Context, addr string) (Figure, error) {
	before, _ := l.env.Memory(env.Replica(1))
	conns := make([]net.Conn, 0, idleConns)
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for i := range idleConns {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%4))}}
		c, err := d.Dial("tcp", addr)
		if err != nil {
			return Figure{}, fmt.Errorf("connection %d: %w", i, err)
		}
		conns = append(conns, c)
		if err := exchange(c, bufio.NewReader(c), readRequest(i)); err != nil {
			return Figure{}, errors.Join(fmt.Errorf("connection %d", i), err)
		}
	}
	if err := sleep(ctx, idleTime); err != nil {
		return Figure{}, err
	}
	own, resident := l.env.Memory(env.Replica(1))
	return Figure{
		Name: "memory of a server with 5,000 idle connections", Value: own, Unit: "MiB", Goal: "< 150 MB",
		Note: fmt.Sprintf("VmRSS %.0f MiB; before them %.0f MiB", resident, before),
	}, nil
}
