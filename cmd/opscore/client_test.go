package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
)

// recorder remembers the requests that reach a handler.
type recorder struct {
	next http.Handler

	mu   sync.Mutex
	seen []received
}

// received is a request and its body.
type received struct {
	*http.Request
	body string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	r.seen = append(r.seen, received{req, string(body)})
	r.mu.Unlock()
	r.next.ServeHTTP(w, req)
}

// requests returns the requests so far, of which there must be some.
func (r *recorder) requests(t *testing.T) []received {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) == 0 {
		t.Fatal("no request was made")
	}
	return slices.Clone(r.seen)
}

// write answers every request with one body.
func write(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
}

// hangUp breaks the connection of a request.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// TestIDsAreEscaped sends every id as one part of the path.
func TestIDsAreEscaped(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"a-1":      "/api/v1/agents/a-1",
		"a/b c?d%": "/api/v1/agents/a%2Fb%20c%3Fd%25",
		"..":       "/api/v1/agents/%2E%2E",
		"ü#":       "/api/v1/agents/%C3%BC%23",
	} {
		rec := &recorder{next: write(`{}`)}
		if got := newProgram(t, rec).run("agent", "get", id); got.code != exitOK {
			t.Errorf("%q: %+v", id, got)
		}
		if got := rec.requests(t)[0].RequestURI; got != want {
			t.Errorf("%q: asked for %s, want %s", id, got, want)
		}
	}
}

// TestServerBelowAPath keeps the path that a proxy adds.
func TestServerBelowAPath(t *testing.T) {
	t.Parallel()
	rec := &recorder{next: write(`{"items":[]}`)}
	p := newProgram(t, rec)
	if got := p.run("run", "list", "--server", p.env[envServer]+"/fleet/"); got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	if got := rec.requests(t)[0].URL.Path; got != "/fleet/api/v1/runs" {
		t.Errorf("asked for %s", got)
	}
}

// TestKey shows the key of the environment or of the file that it names.
func TestKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("of-the-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{nil, ""},
		{map[string]string{envAPIKey: " of-the-env "}, "Bearer of-the-env"},
		{map[string]string{envAPIKeyFile: file}, "Bearer of-the-file"},
	} {
		rec := &recorder{next: write(`{"items":[]}`)}
		p := newProgram(t, rec)
		for k, v := range c.env {
			p.env[k] = v
		}
		if got := p.run("agent", "list"); got.code != exitOK {
			t.Errorf("%v: %+v", c.env, got)
		}
		if got := rec.requests(t)[0].Header.Get("Authorization"); got != c.want {
			t.Errorf("%v: Authorization %q, want %q", c.env, got, c.want)
		}
	}
	p := newProgram(t, answers(t, nil))
	p.env[envAPIKeyFile] = file + ".absent"
	if got := p.run("agent", "list"); got.code != exitFailure || !strings.Contains(got.stderr, envAPIKeyFile) {
		t.Errorf("%+v", got)
	}
}

// TestStartIsRepeatedUnderOneKey sends a start whose answer was lost once more, so that the server can tell the two are one.
func TestStartIsRepeatedUnderOneKey(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	rec := &recorder{next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			hangUp(w, r)
		}
		w.WriteHeader(http.StatusAccepted)
		write(`{"runId":"r-1","workflowId":"report","workflowVersion":"v","state":"pending"}`)(w, r)
	})}
	p := newProgram(t, rec)
	p.stdin = ` {"week": 47} `
	got := p.run("run", "start", "report", "--agent", "a/1", "--input", "@-", "--label", "team=sales", "--label", "q=a=b")
	if got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	const body = `{"workflowId":"report","input":{"week":47},"agentId":"a/1","labels":{"q":"a=b","team":"sales"}}`
	requests := rec.requests(t)
	if len(requests) < 2 {
		t.Fatalf("%d requests", len(requests))
	}
	for i, r := range requests {
		if key := r.Header.Get("Idempotency-Key"); key == "" || key != requests[0].Header.Get("Idempotency-Key") {
			t.Errorf("request %d has the key %q", i+1, key)
		}
		if !sameJSON(t, r.body, body) {
			t.Errorf("request %d has the body %s", i+1, r.body)
		}
	}
}

// TestTheSameCommandStartsTheSameRun lets a script repeat a command with its key: a body that is another each time would be refused.
func TestTheSameCommandStartsTheSameRun(t *testing.T) {
	t.Parallel()
	rec := &recorder{next: write(`{"runId":"r-1","workflowId":"report","workflowVersion":"v","state":"running"}`)}
	p := newProgram(t, rec)
	for range 2 {
		if got := p.run("run", "start", "report", "--idempotency-key", "k", "--priority", "3", "--delay", "2s", "--deadline", "90s"); got.code != exitOK {
			t.Fatalf("%+v", got)
		}
	}
	for i, r := range rec.requests(t) {
		const body = `{"workflowId":"report","priority":3,"delaySeconds":2,"deadlineSeconds":90}`
		if key := r.Header.Get("Idempotency-Key"); key != "k" || !sameJSON(t, r.body, body) {
			t.Errorf("request %d has the key %q and the body %s", i+1, key, r.body)
		}
	}
}

// TestOtherPostsAreSentOnce does not repeat what might be done twice.
func TestOtherPostsAreSentOnce(t *testing.T) {
	t.Parallel()
	rec := &recorder{next: http.HandlerFunc(hangUp)}
	got := newProgram(t, rec).run("run", "cancel", "r-1", "--reason", "late")
	want := result{exitUnreachable, "", "opscore: no answer from http://server: EOF; the request may have arrived\n"}
	if requests := rec.requests(t); got != want || len(requests) != 1 || requests[0].body != `{"reason":"late"}` {
		t.Errorf("%d requests, the first with %s, got %+v", len(requests), requests[0].body, got)
	}
}

// TestRepeatsEnd gives up on a server that breaks every connection.
func TestRepeatsEnd(t *testing.T) {
	t.Parallel()
	rec := &recorder{next: http.HandlerFunc(hangUp)}
	got := newProgram(t, rec).run("run", "start", "report")
	if n := len(rec.requests(t)); got.code != exitUnreachable || n < tries {
		t.Errorf("%d requests, got %+v", n, got)
	}
}

// TestTimeout bounds a command whose server says nothing.
func TestTimeout(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	p := newProgram(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	began := time.Now()
	got := p.run("run", "list", "--timeout", "100ms")
	close(release)
	want := result{exitUnreachable, "", "opscore: no answer from http://server: it took too long; the request may have arrived\n"}
	if got != want || time.Since(began) > 20*time.Second {
		t.Errorf("after %v: %+v", time.Since(began), got)
	}
}

// TestApply sends JSON as it was written, and YAML as JSON.
func TestApply(t *testing.T) {
	t.Parallel()
	asJSON := `{"id":"report",  "tasks":[{"taskId":"x","agentCapability":"c","parameters":{"n":1.0}}]}`
	for _, c := range []struct{ name, args, stdin, want string }{
		{"YAML file", "testdata/report.yaml", "", `{"id":"report","name":"Weekly report","description":"Collects, writes and sends the report of a week.","tasks":[
			{"taskId":"collect","agentCapability":"search","parameters":{"sources":["mail","wiki"]},"nextTaskId":"write"},
			{"taskId":"write","agentCapability":"writing","nextTaskId":"send"},{"taskId":"send","agentId":"mailer"}]}`},
		{"JSON on stdin", "-", asJSON + "\n", asJSON},
	} {
		rec := &recorder{next: write(`{"workflowId":"report","workflowVersion":"v"}`)}
		p := newProgram(t, rec)
		p.stdin = c.stdin
		if got := p.run("workflow", "apply", "-f", c.args); got.code != exitOK {
			t.Fatalf("%s: %+v", c.name, got)
		}
		if sent := rec.requests(t)[0]; !sameJSON(t, sent.body, c.want) || sent.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: sent %s", c.name, sent.body)
		}
	}
}

// TestApplyListsMistakes shows every mistake with its line, and sends nothing.
func TestApplyListsMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, source string
		want         []string // in this order
	}{
		{"meaning", fixture(t, "broken.yaml"), []string{
			"stdin:4: ", "    4 |     nextTaskId: wriet\n", "stdin:6: ", "    6 |     timeoutSeconds: -1\n",
			"stdin:7: ", "    7 |   - taskId: write\n", "opscore: stdin was not applied: 3 mistakes\n",
		}},
		{"syntax", "id: report\ntasks: [\n", []string{"stdin:2: ", "    2 | tasks: [\n", "opscore: stdin was not applied: 1 mistake\n"}},
		{"type", "{\n  \"id\": \"report\",\n\t\"tasks\": [{\"taskId\": 5}]\n}\n", []string{
			"stdin:3: ", "    3 |     \"tasks\": [{\"taskId\": 5}]\n", "opscore: stdin was not applied: 1 mistake\n",
		}},
		{"documents", "id: a\ntasks: []\n---\nid: b\ntasks: []\n", []string{"stdin:4: ", "opscore: stdin was not applied: 1 mistake\n"}},
		{"empty", "", []string{"stdin: ", "opscore: stdin was not applied: "}},
	} {
		p := newProgram(t, answers(t, nil))
		p.stdin = c.source
		got := p.run("workflow", "apply", "-f", "-")
		rest := got.stderr
		for _, want := range c.want {
			_, after, ok := strings.Cut(rest, want)
			if !ok {
				t.Errorf("%s: no %q in %q", c.name, want, rest)
			}
			rest = after
		}
		if got.code != exitFailure || got.stdout != "" {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	p := newProgram(t, answers(t, nil))
	if got := p.run("workflow", "apply", "-f", "testdata/absent.yaml"); got.code != exitFailure || !strings.Contains(got.stderr, "testdata/absent.yaml") {
		t.Errorf("%+v", got)
	}
}

// sameJSON reports whether two JSON texts mean the same.
func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	return cmp.Equal(canonical(t, a), canonical(t, b))
}

func canonical(t *testing.T, s string) string {
	t.Helper()
	raw := event.Raw(s)
	if err := raw.Canonicalize(); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
	return string(raw)
}
