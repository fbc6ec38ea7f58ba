package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/storage/storagetest"
)

const testKey = "the-key"

// logBuffer is a server's log that can be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) lines(t *testing.T, ids map[string]bool) []loadgen.LogLine {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	lines, err := loadgen.ReadLogs("opscore-1", bytes.NewReader(l.b.Bytes()), ids)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// installation is a real Ops-Core with what was done to it.
type installation struct {
	url string
	log *logBuffer
	// hurt, if there is something, breaks it while the load is on.
	hurt func()
}

// opscore runs a real server on a store until the test ends.
func opscore(t *testing.T, store string) *installation {
	t.Helper()
	in := &installation{log: &logBuffer{}}
	ready, ended := make(chan server.Addresses, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cfg := server.Config{
		StoreURL: store, Embedded: &bus.EmbeddedConfig{Dir: bustest.Dir(t), MaxStore: 1 << 30}, HTTPAddr: "127.0.0.1:0", Key: testKey,
		Log: slog.New(slog.NewJSONHandler(in.log, nil)), Ready: func(a server.Addresses) { ready <- a },
	}
	go func() { ended <- server.Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	select {
	case a := <-ready:
		in.url = "http://" + a.HTTP
	case err := <-ended:
		ended <- err
		t.Fatalf("the server does not start: %v", err)
	}
	return in
}

// onDisk runs a server on an embedded store.
func onDisk(t *testing.T) *installation {
	t.Helper()
	return opscore(t, "file:"+t.TempDir()+"/store.db")
}

// front puts an HTTP handler before an installation.
func (in *installation) front(t *testing.T, wrap func(next http.Handler) http.Handler) *installation {
	t.Helper()
	target, err := url.Parse(in.url)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(wrap(httputil.NewSingleHostReverseProxy(target)))
	t.Cleanup(s.Close)
	return &installation{url: s.URL, log: in.log}
}

// deadBehindPort takes connections and closes them, as a container's port does whose process has died.
func deadBehindPort(t *testing.T) *installation {
	l := listen(t)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	return &installation{url: "http://" + l.Addr().String(), log: &logBuffer{}}
}

func closedPort(t *testing.T) *installation {
	l := listen(t)
	_ = l.Close()
	return &installation{url: "http://" + l.Addr().String(), log: &logBuffer{}}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// brokenTriggers answers every trigger with 500, as a server does whose code for it is broken.
func brokenTriggers(t *testing.T) *installation {
	in := onDisk(t)
	log := slog.New(slog.NewJSONHandler(in.log, nil))
	return in.front(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/workflow") {
				next.ServeHTTP(w, r)
				return
			}
			log.Error("request", "status", 500, "request_id", r.Header.Get("X-Request-Id"), "err", "name '_workflow_definitions_lock' is not defined")
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"detail":"Internal Server Error"}`)
		})
	})
}

// bareDefinitions sends definitions to the real bridge as the first script of scenario 2 did: without the member they belong into.
func bareDefinitions(t *testing.T) *installation {
	return onDisk(t).front(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/workflow") {
				var body struct {
					WorkflowDefinition json.RawMessage `json:"workflowDefinition"`
				}
				if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
					t.Error(err)
				}
				r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body.WorkflowDefinition)), int64(len(body.WorkflowDefinition))
			}
			next.ServeHTTP(w, r)
		})
	})
}

const (
	shortIdle = 300 * time.Millisecond // of a server whose keep-alive is too short
	farAway   = 100 * time.Millisecond // until its clients learn that it has closed a connection
)

// shortKeepAlive closes idle connections before their users' next requests. Its clients learn that late, as they do over a network:
// what they send meanwhile is answered with a reset.
func shortKeepAlive(t *testing.T) *installation {
	in := onDisk(t)
	l := listen(t)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go impatient(conn.(*net.TCPConn), strings.TrimPrefix(in.url, "http://"))
		}
	}()
	return &installation{url: "http://" + l.Addr().String(), log: in.log}
}

// impatient passes bytes on between a client and a server, until nothing has come from either for shortIdle.
func impatient(client *net.TCPConn, server string) {
	defer func() { _ = client.Close() }()
	upstream, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer func() { _ = upstream.Close() }()
	go func() {
		_, _ = io.Copy(client, upstream)
	}()
	buffer := make([]byte, 64<<10)
	for {
		_ = client.SetReadDeadline(time.Now().Add(shortIdle))
		n, err := client.Read(buffer)
		if err != nil {
			break
		}
		if _, err := upstream.Write(buffer[:n]); err != nil {
			return
		}
	}
	_ = client.SetReadDeadline(time.Now().Add(farAway))
	if n, _ := client.Read(buffer); n > 0 {
		_ = client.SetLinger(0) // closing it resets it
	}
}

// storeOutage kills the Redis of a server while the load is on.
func storeOutage(t *testing.T) *installation {
	redis := storagetest.StartRedis(t)
	in := opscore(t, redis.URL())
	in.hurt = redis.Kill
	return in
}

// diesUnderLoad ends a server while the load is on, without a word to its clients.
func diesUnderLoad(t *testing.T) *installation {
	in := onDisk(t)
	target, err := url.Parse(in.url)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(httputil.NewSingleHostReverseProxy(target))
	stop := sync.OnceFunc(func() {
		_ = s.Listener.Close()
		s.CloseClientConnections()
		s.Close()
	})
	t.Cleanup(stop)
	return &installation{url: s.URL, log: in.log, hurt: stop}
}

// users is a short load of the kind of scenario 3, with pauses around shortIdle.
func users() *loadgen.Scenario {
	s, _ := loadgen.Builtin("scenario-3")
	s.Stages, s.Users, s.RunTime = nil, 20, 3*time.Second
	s.Tasks[2].Weight = 40 // triggers, which are few otherwise
	s.Pause = loadgen.Span{Min: shortIdle - 50*time.Millisecond, Max: shortIdle + 350*time.Millisecond}
	return s
}

// Every root cause of the failed load tests that this load generator was made for is injected for real, and must be named.
func TestVerdictNamesTheCause(t *testing.T) {
	tests := []struct {
		name string
		set  func(*testing.T) *installation
		key  string
		code string
		says string // something that the cause must contain
	}{
		{"dead server behind an open port", deadBehindPort, testKey, loadgen.CauseDeadBehindPort, "no server answers behind it"},
		{"500 on every trigger", brokenTriggers, testKey, loadgen.CauseBroken, "_workflow_definitions_lock"},
		{"wrong payload", bareDefinitions, testKey, loadgen.CausePayload, "workflowDefinition must be provided"},
		{"keep-alive shorter than the pauses", shortKeepAlive, testKey, loadgen.CauseIdleReset, "idle"},
		{"no key", onDisk, "", loadgen.CauseKeyMissing, "Authorization header missing"},
		{"another key", onDisk, "another-key", loadgen.CauseKeyWrong, "Invalid authentication credentials"},
		{"stopped server", closedPort, testKey, loadgen.CauseStopped, "not running"},
		{"server dies", diesUnderLoad, testKey, loadgen.CauseDied, "answered first"},
		{"store outage", storeOutage, testKey, loadgen.CauseStoreDown, "store does not answer"},
		{"nothing", onDisk, testKey, "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in := test.set(t)
			cfg := loadgen.Config{
				Scenario: users(), Target: loadgen.Target{HTTP: in.url, Key: test.key}, Seed: 1, Grace: 5 * time.Second,
				Log: slog.New(slog.DiscardHandler),
			}
			if in.hurt != nil {
				cfg.Scenario.RunTime = 8 * time.Second               // long enough after that, however slow this machine is
				cfg.Progress = func(*loadgen.Snapshot) { in.hurt() } // after a second
			}
			r, evidence, err := runWatched(t.Context(), cfg)
			if r != nil {
				evidence.Logs = in.log.lines(t, r.RequestIDs())
			}
			v, ok := judge(r, evidence, err)
			if !ok {
				t.Fatalf("no verdict: %v", err)
			}
			if v.OK != (test.code == "") || v.Code != test.code || !strings.Contains(v.Cause, test.says) {
				t.Errorf("code %q, want %q, cause %q, want one that says %q", v.Code, test.code, v.Cause, test.says)
			}
			if t.Failed() || testing.Verbose() {
				t.Log(strings.Join(append(append(v.Lines, "Cause: "+v.Cause, "Do: "+v.Do), v.Logs...), "\n"))
			}
		})
	}
}
