package loadgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	probeEvery   = time.Second
	probeTimeout = 3 * time.Second
	probeBody    = 64 << 10 // of an answer that is read
	maxProbes    = 20_000   // five and a half hours; later ones replace the last
)

// Prober asks a server once a second what it says of itself, and finds out how long it leaves an idle connection open.
type Prober struct {
	base   string
	client *http.Client
	begun  time.Time
	stop   context.CancelFunc
	ended  sync.WaitGroup

	mu     sync.Mutex
	probes []Probe
	idle   time.Duration
}

// StartProber begins to ask the server with a base URL, as http://127.0.0.1:8000. It goes on until Stop.
func StartProber(base string) *Prober {
	ctx, stop := context.WithCancel(context.Background())
	p := &Prober{
		base: strings.TrimSuffix(base, "/"), begun: time.Now(), stop: stop,
		// Each probe takes a connection of its own: what the last one did must not colour the next.
		client: &http.Client{Timeout: probeTimeout, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	p.ended.Go(func() { p.watch(ctx) })
	p.ended.Go(func() { p.lieIdle(ctx) })
	return p
}

// Stop asks a last time, ends the prober and adds what it found to the evidence.
func (p *Prober) Stop(e *Evidence) {
	p.stop()
	p.ended.Wait()
	p.add(p.look(context.Background()))
	e.Target, e.Probes, e.IdleClosed = p.base, p.probes, p.idle
}

func (p *Prober) watch(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		if seen := p.look(ctx); ctx.Err() == nil {
			p.add(seen)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Prober) add(seen Probe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.probes) == maxProbes {
		p.probes = p.probes[:maxProbes-1]
	}
	p.probes = append(p.probes, seen)
}

// look asks both probes.
func (p *Prober) look(ctx context.Context) Probe {
	seen := Probe{Second: time.Since(p.begun).Seconds()}
	seen.Health, _ = p.ask(ctx, "/health")
	var body []byte
	seen.Ready, body = p.ask(ctx, "/readyz")
	var said struct {
		Checks []struct {
			Name  string `json:"name"`
			OK    bool   `json:"ok"`
			Error string `json:"error"`
		} `json:"checks"`
	}
	if json.Unmarshal(body, &said) != nil {
		return seen // it is another server's
	}
	for _, c := range said.Checks {
		if !c.OK {
			seen.Failing = append(seen.Failing, c.Name+": "+c.Error)
		}
	}
	return seen
}

// ask returns the status of a path, or the class of the error, and the body.
func (p *Prober) ask(ctx context.Context, path string) (status string, body []byte) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path, nil)
	if err != nil {
		return ClassOther, nil
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return classify(err).class, nil
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ = io.ReadAll(io.LimitReader(resp.Body, probeBody)) // what there is of it
	return strconv.Itoa(resp.StatusCode), body
}

// lieIdle makes one request on a connection, leaves it open, and waits for the server to close it.
func (p *Prober) lieIdle(ctx context.Context) {
	at, err := url.Parse(p.base)
	if err != nil || at.Scheme != "http" { // with TLS a proxy closes, whose time-outs the requests will tell of
		return
	}
	addr := at.Host
	if at.Port() == "" {
		addr = net.JoinHostPort(at.Hostname(), "80")
	}
	conn, err := (&net.Dialer{Timeout: probeTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := fmt.Fprintf(conn, "GET %s/health HTTP/1.1\r\nHost: %s\r\n\r\n", at.Path, at.Host); err != nil {
		return
	}
	answer := make([]byte, probeBody)
	var last time.Time // when it was used
	for {
		_, err := conn.Read(answer)
		switch {
		case err == nil:
			last = time.Now()
			continue
		case ctx.Err() == nil && !last.IsZero() && !errors.Is(err, net.ErrClosed):
			p.mu.Lock()
			p.idle = time.Since(last)
			p.mu.Unlock()
		}
		return
	}
}
