package bridge_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
	"github.com/opspawn/opscore/workflow"
)

const oldKey = "test-api-key"

// bundle is Ops-Core with everything real, and a bridge in front of it.
type bundle struct {
	t      *testing.T
	conn   *bus.Conn
	agents *lifecycle.Queries
	runs   *workflow.Queries
	config bridge.Config
	served *bridge.Bridge
	url    string
	client *http.Client

	stopDelivery func()
}

// setup starts a bundle; change, unless nil, changes the bridge's configuration first.
func setup(t *testing.T, change func(*bridge.Config)) *bundle {
	t.Helper()
	return setupOn(t, bustest.Conn(t), change)
}

func setupOn(t *testing.T, conn *bus.Conn, change func(*bridge.Config)) *bundle {
	t.Helper()
	store := openStore(t)
	b := &bundle{t: t, conn: conn, agents: lifecycle.NewQueries(store), runs: workflow.NewQueries(store)}
	runCore(t, conn, store)
	b.config = bridge.Config{
		Bus: conn, Agents: b.agents, Runs: b.runs, History: bridge.History(b.agents.History), RunHistory: b.runs.History, OldKey: oldKey, Version: "test", Log: bustest.Log(t),
	}
	if change != nil {
		change(&b.config)
	}
	br, err := bridge.New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.served, b.stopDelivery = br, runDelivery(t, br)
	server := httptest.NewServer(br.Handler())
	t.Cleanup(server.Close)
	b.url, b.client = server.URL, server.Client()
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return b
}

// runDelivery hands out tasks until stop, or the end of the test.
func runDelivery(t *testing.T, br *bridge.Bridge) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- br.Deliver(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func openStore(t *testing.T) storage.Store {
	t.Helper()
	u := &url.URL{Scheme: "file", Opaque: filepath.Join(t.TempDir(), "opscore.db")}
	store, err := boltstore.Open(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// runCore runs what judges the messages, until the end of the test.
func runCore(t *testing.T, conn *bus.Conn, store storage.Store) {
	t.Helper()
	log := bustest.Log(t)
	keeper := lifecycle.NewKeeper(store, conn, log, func() {})
	if err := keeper.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	engine := workflow.NewEngine(workflow.Config{Store: store, Bus: conn, Keeper: keeper, Log: log})
	agents := lifecycle.New(lifecycle.Config{Store: store, Bus: conn, Log: log, Wake: engine.Wake})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 3)
	for _, run := range []func(context.Context) error{keeper.Run, engine.Run, agents.Run} {
		go func() { done <- run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// response is an answer that was read to its end.
type response struct {
	*http.Response
	body string
}

// do sends a request; the header list is name, value, name, value …
func (b *bundle) do(method, target, body string, header ...string) response {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.url+target, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return b.send(req)
}

func (b *bundle) send(req *http.Request) response {
	b.t.Helper()
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return response{resp, string(data)}
}

// want fails the test unless an answer has a status.
func (r response) want(t *testing.T, status int) response {
	t.Helper()
	if r.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %s", r.Request.Method, r.Request.URL.Path, r.StatusCode, status, r.body)
	}
	return r
}

// decode reads the body of an answer.
func decode[T any](t *testing.T, r response) T {
	t.Helper()
	var v T
	if err := event.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return v
}

// apply stores a definition through the API.
func (b *bundle) apply(id, definition string) {
	b.t.Helper()
	b.do("PUT", "/api/v1/workflows/"+id, definition).want(b.t, http.StatusOK)
}

// register makes an agent known the way AgentKit does.
func (b *bundle) register(id string) {
	b.t.Helper()
	b.do("POST", "/v1/opscore/internal/agent/notify", registration(id)).want(b.t, http.StatusOK)
}

func registration(id string) string {
	return `{"event_type":"REGISTER","agent_details":{"agentId":` + string(event.MustMarshal(id)) +
		`,"agentName":"n","version":"1","capabilities":["c"],"contactEndpoint":"http://fake.local/"}}`
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// soon is a context for what must happen at once.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
