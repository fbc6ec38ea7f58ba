package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/opspawn/opscore/bus/bustest"
)

func TestServeRefusesToBeOpen(t *testing.T) {
	t.Parallel()
	p := &program{t: t, env: map[string]string{}}
	got := p.run("serve", "--redis-url", "nothing:")
	if got.code != exitUsage || !strings.Contains(got.stderr, "OPSCORE_API_KEY") || !strings.Contains(got.stderr, "--insecure") {
		t.Errorf("without a key: %+v", got)
	}
	if got := p.run("serve", "--redis-url", "nothing:", "--http-addr", "127.0.0.1:0", "--insecure"); got.code != exitFailure || !strings.Contains(got.stderr, "store") {
		t.Errorf("told to: %+v", got)
	}
	if got := p.run("dev", "--http-addr", "0.0.0.0:0"); got.code != exitUsage {
		t.Errorf("dev for everybody: %+v", got)
	}
	p.env[envAPIKey] = "k"
	if got := p.run("serve", "--redis-url", "nothing:", "--http-addr", "127.0.0.1:0"); got.code != exitFailure || !strings.Contains(got.stderr, "store") {
		t.Errorf("with a key: %+v", got)
	}
}

func TestServeTakesKeysWithNames(t *testing.T) {
	t.Parallel()
	for keys, want := range map[string]struct {
		code int
		text string
	}{
		"ada:k1 bob:k:2\nada:k3": {exitFailure, "store"}, // it goes on as far as the store
		"ada:k1 k2":              {exitUsage, "OPSCORE_API_KEYS: entry 2 is not name:key"},
		":k1":                    {exitUsage, "entry 1 is not name:key"},
		"ada:k1 bob:k1":          {exitUsage, "entries 1 and 2 have the same key"},
		"  ":                     {exitUsage, "no OPSCORE_API_KEY"},
	} {
		p := &program{t: t, env: map[string]string{envAPIKeys: keys}}
		got := p.run("serve", "--redis-url", "nothing:", "--http-addr", "127.0.0.1:0")
		if got.code != want.code || !strings.Contains(got.stderr, want.text) || strings.Contains(got.stderr, "k1") || strings.Contains(got.stderr, "k2") {
			t.Errorf("%q: %+v", keys, got)
		}
	}
}

// lines is a stream that is read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// dev runs "opscore dev" until the end of the test and returns its URL and what it logs.
func dev(t *testing.T, env map[string]string) (url string, log *lines) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log = &lines{}
	done := make(chan int, 1)
	go func() {
		args := []string{"dev", "--data-dir", bustest.Dir(t), "--http-addr", "127.0.0.1:0", "--nats-addr", "127.0.0.1:0"}
		done <- run(ctx, args, func(k string) string { return env[k] }, strings.NewReader(""), io.Discard, log)
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-done; code != exitOK {
			t.Errorf("dev ended with %d:\n%s", code, log)
		}
	})
	ready := regexp.MustCompile(`"http":"(http://[^"]+)"`)
	bustest.Eventually(t, "ready", func() bool { return ready.MatchString(log.String()) })
	return ready.FindStringSubmatch(log.String())[1], log
}

// status is what a request with a key is answered.
func status(t *testing.T, method, url, key, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

const (
	oldState    = "/v1/opscore/agent/a1/state"
	oldTrigger  = "/v1/opscore/agent/a1/workflow"
	oldNotify   = "/v1/opscore/internal/agent/notify"
	oldRegister = `{"event_type":"REGISTER","agent_details":{"agentId":"a1","agentName":"n","version":"1","contactEndpoint":"http://fake.local"}}`
	oldSample   = `{"workflowDefinitionId":"sample_workflow_id"}`
)

// Without a key, dev serves old clients with the key that they fall back to, and says so once. The sample definition is there with the first request.
func TestDevWithoutAKeyExpectsTheOldDefault(t *testing.T) {
	t.Parallel()
	url, log := dev(t, map[string]string{})
	if got := status(t, "GET", url+"/api/v1/workflows/sample_workflow_id", "", ""); got != 200 {
		t.Errorf("sample workflow, at once: %d", got)
	}
	if got := status(t, "POST", url+oldNotify, "", oldRegister); got != 200 {
		t.Errorf("register: %d", got)
	}
	for _, c := range []struct{ method, path, body string }{{"GET", oldState, ""}, {"POST", oldState, "{}"}, {"POST", oldTrigger, "{}"}} {
		for key, admitted := range map[string]bool{legacyKey: true, "": false, "k": false} {
			if got := status(t, c.method, url+c.path, key, c.body); (got != 401) != admitted {
				t.Errorf("%s %s with key %q: %d", c.method, c.path, key, got)
			}
		}
	}
	if got := status(t, "POST", url+oldTrigger, legacyKey, oldSample); got != 202 {
		t.Errorf("sample workflow: %d", got)
	}
	if got := status(t, "GET", url+"/api/v1/agents", "", ""); got != 200 {
		t.Errorf("the new API: %d", got)
	}
	if n := strings.Count(log.String(), envAPIKey); n != 1 {
		t.Errorf("%d lines about the key:\n%s", n, log)
	}
}

func TestDevWithAKeyExpectsNoOther(t *testing.T) {
	t.Parallel()
	url, log := dev(t, map[string]string{envAPIKey: "k"})
	for _, path := range []string{oldState, "/api/v1/agents"} {
		for key, admitted := range map[string]bool{legacyKey: false, "": false, "k": true} {
			if got := status(t, "GET", url+path, key, ""); (got != 401) != admitted {
				t.Errorf("GET %s with key %q: %d", path, key, got)
			}
		}
	}
	if strings.Contains(log.String(), envAPIKey) || strings.Contains(log.String(), legacyKey) {
		t.Errorf("a key that is set needs no warning:\n%s", log)
	}
}
