package bridge_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

const notify = "/v1/opscore/internal/agent/notify"

func stateBody(id, details string) string {
	return `{"agentId":"` + id + `","timestamp":"2025-04-21T10:11:12Z","state":"idle","details":` + details + `}`
}

func TestOversizedRequestsAreRefusedInOldForm(t *testing.T) {
	b := setup(t, nil)
	b.register("a1")
	auth := []string{"Authorization", "Bearer " + oldKey}
	big := `{"x":"` + strings.Repeat("x", 64<<10) + `"}`
	long := strings.Repeat("ü", 200)
	for name, r := range map[string]response{
		"details":         b.do("POST", "/v1/opscore/agent/a1/state", stateBody("a1", big), auth...),
		"body":            b.do("POST", "/v1/opscore/agent/a1/state", stateBody("a1", strings.Repeat(" ", 1<<20)+"null"), auth...),
		"body of notify":  b.do("POST", notify, `{"x":"`+strings.Repeat("x", 1<<20)+`"}`),
		"id":              b.do("POST", notify, registration(long)),
		"id in the path":  b.do("POST", "/v1/opscore/agent/"+long+"/state", stateBody(long, "null"), auth...),
		"definition id":   b.do("POST", "/v1/opscore/agent/a1/workflow", `{"workflowDefinition":{"id":"`+long+`","name":"n","tasks":[]}}`, auth...),
		"inline workflow": b.do("POST", "/v1/opscore/agent/a1/workflow", `{"workflowDefinition":{"id":"w","name":"n","tasks":[],"x":"`+strings.Repeat("x", 1020<<10)+`"}}`, auth...),
	} {
		r.want(t, http.StatusRequestEntityTooLarge)
		if detail := decode[map[string]string](t, r)["detail"]; detail == "" {
			t.Errorf("%s: body is %s", name, r.body)
		}
	}
	b.do("POST", "/v1/opscore/agent/a1/state", stateBody("a1", big[:60<<10]+`"}`), auth...).want(t, http.StatusAccepted)
}

func TestBodyWithoutLengthIsCapped(t *testing.T) {
	b := setup(t, nil)
	body := struct{ *strings.Reader }{strings.NewReader(strings.Repeat(" ", 2<<20))} // its length is not known to the client
	req, err := http.NewRequestWithContext(t.Context(), "POST", b.url+notify, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = -1
	b.send(req).want(t, http.StatusRequestEntityTooLarge)
}

func TestInvalidUTF8IsABadRequest(t *testing.T) {
	b := setup(t, nil)
	r := b.do("POST", notify, "{\"a\":\"\xff\"}").want(t, http.StatusBadRequest)
	if r.body != `{"detail":"There was an error parsing the body"}` {
		t.Errorf("body is %s", r.body)
	}
	b.do("GET", "/v1/opscore/agent/a%ff/state", "", "Authorization", "Bearer "+oldKey).want(t, http.StatusNotFound)
}

func sign(secret, stamp, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "." + body))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestWebhookSignature(t *testing.T) {
	b := setup(t, func(c *bridge.Config) { c.WebhookSecrets = []string{"old", "new"} })
	body := registration("a1")
	at := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }
	for name, c := range map[string]struct {
		stamp, signature string
		status           int
	}{
		"first secret":   {at(0), sign("old", at(0), body), 200},
		"second secret":  {at(0), sign("new", at(0), body), 200},
		"a little old":   {at(-4 * time.Minute), sign("new", at(-4*time.Minute), body), 200},
		"too old":        {at(-6 * time.Minute), sign("new", at(-6*time.Minute), body), 401},
		"from tomorrow":  {at(24 * time.Hour), sign("new", at(24*time.Hour), body), 401},
		"other secret":   {at(0), sign("other", at(0), body), 401},
		"other body":     {at(0), sign("new", at(0), body+" "), 401},
		"other time":     {at(0), sign("new", at(-time.Minute), body), 401},
		"no signature":   {at(0), "", 401},
		"no hexadecimal": {at(0), "xyz", 401},
		"no timestamp":   {"", sign("new", "", body), 401},
	} {
		if r := b.do("POST", notify, body, "X-AgentKit-Timestamp", c.stamp, "X-AgentKit-Signature", c.signature); r.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d: %s", name, r.StatusCode, c.status, r.body)
		}
	}
	b.do("POST", notify, body).want(t, 401)
	b.do("POST", notify, "{").want(t, 422) // syntax comes first
}

// The vector was captured from AgentKit.
func TestSignatureIsAgentKits(t *testing.T) {
	body := `{"event_type":"REGISTER","agent_details":{"agentId":"4159b305-809b-4fd9-83ac-381aba17ff76","agentName":"n1","version":"1.0","capabilities":[],"contactEndpoint":"http://127.0.0.1:8110/task","metadata":{}}}`
	want := "4f98eb2637435434e3258a69a68e809c19d9fc30d16ee089b393e6623fdb4aad"
	if got := hex.EncodeToString(bridge.WebhookSignature("s3cret", "1795290730", []byte(body))); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// unavailable checks that an answer says to try again, in the form of its API.
func (r response) unavailable(t *testing.T) {
	t.Helper()
	r.want(t, http.StatusServiceUnavailable)
	if r.Header.Get("Retry-After") == "" {
		t.Errorf("%s: no Retry-After", r.Request.URL.Path)
	}
	if strings.HasPrefix(r.Request.URL.Path, "/api/") {
		r.problem(t, http.StatusServiceUnavailable, event.CodeUnavailable)
		return
	}
	detail, _ := decode[map[string]any](t, r)["detail"].(map[string]any)
	if detail["code"] != "unavailable" || detail["message"] == "" || detail["requestId"] != r.Header.Get("X-Request-Id") {
		t.Errorf("body is %s", r.body)
	}
}

func (b *bundle) writesAreRefused(t *testing.T) {
	t.Helper()
	auth := []string{"Authorization", "Bearer " + oldKey}
	b.do("POST", notify, registration("a1")).unavailable(t)
	b.do("POST", "/v1/opscore/agent/a1/state", stateBody("a1", "null"), auth...).unavailable(t)
	b.do("POST", "/v1/opscore/agent/a1/workflow", `{"workflowDefinition":{"id":"w","name":"n","tasks":[]}}`, auth...).unavailable(t)
	b.do("PUT", "/api/v1/workflows/one", oneTask).unavailable(t)
	b.do("POST", "/api/v1/runs", `{"workflowId":"one"}`).unavailable(t)
	b.do("POST", "/api/v1/agents/a1/cordon", "").unavailable(t)
}

func TestNATSDownIsUnavailable(t *testing.T) {
	nats := bustest.NATSServer(t)
	conn := nats.Conn()
	b := setupOn(t, conn, nil)
	b.register("a1")
	nats.Kill()
	bustest.Eventually(t, "connection lost", func() bool { return !conn.Connected() })
	start := time.Now()
	b.writesAreRefused(t)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("refusing took %v although the connection was known to be down", took)
	}
	b.do("GET", "/v1/opscore/agent/a1/state", "", "Authorization", "Bearer "+oldKey).want(t, 200)
	b.do("GET", "/health", "").want(t, 200)
	b.do("GET", "/livez", "").want(t, 200)
	ready := b.do("GET", "/readyz", "").want(t, 503)
	if ready.body != `{"status":"unavailable","checks":[{"name":"nats","ok":false,"error":"not connected"}]}` {
		t.Errorf("readyz is %s", ready.body)
	}
	nats.Restart()
	bustest.Eventually(t, "served again", func() bool { return b.do("POST", notify, registration("a2")).StatusCode == 200 })
	if ready := b.do("GET", "/readyz", "").want(t, 200); ready.body != `{"status":"ready","checks":[{"name":"nats","ok":true}]}` {
		t.Errorf("readyz is %s", ready.body)
	}
}

// flakyAgents are queries whose store can be switched off.
type flakyAgents struct {
	bridge.AgentQueries
	down  atomic.Bool
	asked atomic.Int64
}

var errDown = errors.New("dial tcp 10.0.0.1:6379: connection refused")

func (f *flakyAgents) Get(ctx context.Context, id string) (*event.Agent, error) {
	f.asked.Add(1)
	if f.down.Load() {
		return nil, errDown
	}
	return f.AgentQueries.Get(ctx, id)
}

func (f *flakyAgents) Fence(ctx context.Context, id string) (uint64, error) {
	f.asked.Add(1)
	if f.down.Load() {
		return 0, errDown
	}
	return f.AgentQueries.Fence(ctx, id)
}

func TestStoreDownIsUnavailableBeforeAnythingIsPublished(t *testing.T) {
	agents := &flakyAgents{}
	var log bytes.Buffer
	b := setup(t, func(c *bridge.Config) {
		agents.AgentQueries = c.Agents
		c.Agents = agents
		c.Log = slog.New(slog.NewTextHandler(&syncWriter{w: &log}, nil))
	})
	b.register("a1")
	agents.down.Store(true)
	r := b.do("GET", "/v1/opscore/agent/a1/state", "", "Authorization", "Bearer "+oldKey)
	r.unavailable(t)
	if strings.Contains(r.body, "10.0.0.1") {
		t.Errorf("the answer tells too much: %s", r.body)
	}
	before, err := b.conn.StreamState(t.Context(), event.StreamAgent)
	if err != nil {
		t.Fatal(err)
	}
	asked := agents.asked.Load()
	b.writesAreRefused(t)
	if n := agents.asked.Load() - asked; n > 3 {
		t.Errorf("the store was asked %d times although it was known to be down", n)
	}
	after, err := b.conn.StreamState(t.Context(), event.StreamAgent)
	if err != nil || after.LastSeq != before.LastSeq {
		t.Errorf("%d messages were published, %v", after.LastSeq-before.LastSeq, err)
	}
	agents.down.Store(false)
	bustest.Eventually(t, "served again", func() bool { return b.do("POST", notify, registration("a2")).StatusCode == 200 })
}

// A message whose outcome does not come is looked for in what its aggregate has taken in.
func TestLostOutcomeIsFoundByFence(t *testing.T) {
	conn := bustest.Conn(t)
	b := &bundle{t: t, conn: conn}
	quiet := &takenIn{}
	br, err := bridge.New(bridge.Config{
		Bus: conn, Agents: quiet, Runs: noRuns{}, OldKey: oldKey, CallTimeout: 300 * time.Millisecond, Log: bustest.Log(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.listen(br)
	b.do("POST", notify, registration("a1")).unavailable(t) // nobody judges it
	quiet.fence.Store(1 << 40)
	b.register("a1")
	auth := []string{"Authorization", "Bearer " + oldKey}
	b.do("POST", "/v1/opscore/agent/a1/state", stateBody("a1", "null"), auth...).want(t, 202)
	b.do("POST", "/v1/opscore/agent/early/state", stateBody("early", "null"), auth...).want(t, 404)
}

// takenIn are queries of an agent a1 that has taken in everything up to a sequence.
type takenIn struct{ fence atomic.Uint64 }

func (q *takenIn) Get(_ context.Context, id string) (*event.Agent, error) {
	if id != "a1" {
		return nil, event.Errorf(event.CodeUnknownAgent, "no agent %q", id)
	}
	return &event.Agent{AgentID: id}, nil
}

func (q *takenIn) List(context.Context, string, int) (event.List[event.Agent], error) {
	return event.List[event.Agent]{}, nil
}
func (q *takenIn) Fence(context.Context, string) (uint64, error) { return q.fence.Load(), nil }

// noRuns are queries that panic: their methods are those of a nil interface.
type noRuns struct{ bridge.RunQueries }

// syncWriter makes a writer safe for concurrent use.
type syncWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (s *syncWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

func (s *syncWriter) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.String()
}

// listen serves a bridge on a port of its own and returns what stops it and waits.
func (b *bundle) listen(br *bridge.Bridge) (stop func() error) {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- br.Serve(ctx, l) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	b.url, b.client = "http://"+l.Addr().String(), &http.Client{Transport: &http.Transport{}}
	b.t.Cleanup(func() {
		b.client.CloseIdleConnections()
		if err := stop(); err != nil {
			b.t.Error(err)
		}
	})
	return stop
}

func newBridge(t *testing.T, conn *bus.Conn, change func(*bridge.Config)) *bridge.Bridge {
	t.Helper()
	c := bridge.Config{Bus: conn, Agents: &takenIn{}, Runs: noRuns{}, OldKey: oldKey, Log: bustest.Log(t)}
	if change != nil {
		change(&c)
	}
	br, err := bridge.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return br
}

func TestShutdownTellsClientsOnOpenConnections(t *testing.T) {
	b, br := &bundle{t: t}, newBridge(t, bustest.Conn(t), nil)
	br.SetPartTime(time.Minute)
	stop := b.listen(br)
	client := func() (ask func() *http.Response) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		answers := bufio.NewReader(conn)
		return func() *http.Response {
			t.Helper()
			if _, err := conn.Write([]byte("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bufio.NewReader(resp.Body).WriteTo(new(bytes.Buffer)); err != nil {
				t.Fatal(err)
			}
			return resp
		}
	}
	first, second := client(), client()
	for _, ask := range []func() *http.Response{first, second} {
		if resp := ask(); resp.StatusCode != 200 || resp.Close {
			t.Fatalf("before: status %d, close %v", resp.StatusCode, resp.Close)
		}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	// The status of this one may be from before the stop, which may begin between its status and its header.
	bustest.Eventually(t, "Connection: close", func() bool { return first().Close })
	if resp := second(); resp.StatusCode != 503 || !resp.Close {
		t.Errorf("while draining: status %d, close %v", resp.StatusCode, resp.Close)
	}
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(50 * time.Second):
		t.Error("Serve does not return when all connections are closed")
	}
}

func TestShutdownWaitsForRequestsInFlight(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	b := &bundle{t: t}
	stop := b.listen(newBridge(t, bustest.Conn(t), func(c *bridge.Config) {
		c.Ready = func(context.Context) []bridge.Check {
			close(entered)
			<-leave
			return nil
		}
	}))
	status := make(chan int, 1)
	go func() { status <- b.do("GET", "/readyz", "").StatusCode }()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	select {
	case err := <-stopped:
		t.Fatalf("Serve returned while a request was in flight: %v", err)
	case <-time.After(1500 * time.Millisecond):
	}
	close(leave)
	if got := <-status; got != 503 {
		t.Errorf("status %d", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestBrokenListenerIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := newBridge(t, bustest.Conn(t), nil).Serve(t.Context(), l); err == nil {
		t.Error("no error")
	}
}

func TestPanicIsAnInternalError(t *testing.T) {
	var log bytes.Buffer
	out := &syncWriter{w: &log}
	b := &bundle{t: t}
	b.listen(newBridge(t, bustest.Conn(t), func(c *bridge.Config) {
		c.Log = slog.New(slog.NewTextHandler(out, nil))
	}))
	r := b.do("GET", "/api/v1/runs/x", "")
	if p := r.problem(t, 500, event.CodeInternal); strings.Contains(p.Detail, "nil") {
		t.Errorf("detail is %q", p.Detail)
	}
	old := b.do("POST", "/v1/opscore/agent/a1/workflow", `{"workflowDefinitionId":"w"}`, "Authorization", "Bearer "+oldKey).want(t, 500)
	if old.body != `{"detail":"Internal Server Error"}` {
		t.Errorf("body is %s", old.body)
	}
	bustest.Eventually(t, "log", func() bool {
		return strings.Contains(out.String(), "nil pointer") && strings.Contains(out.String(), r.Header.Get("X-Request-Id"))
	})
}

func TestWhatIsLogged(t *testing.T) {
	out := &syncWriter{w: new(bytes.Buffer)}
	b := setup(t, func(c *bridge.Config) {
		c.Log = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	b.register("a1")
	b.apply("one", oneTask)
	b.do("GET", "/api/v1/agents", "")
	b.do("GET", "/api/v1/agents/nobody", "")
	b.do("GET", "/readyz", "")
	b.do("GET", "/v1/opscore/agent/a1/state", "")
	for _, line := range []string{
		"level=DEBUG msg=request method=POST route=/v1/opscore/internal/agent/notify status=200",
		"level=INFO msg=request method=PUT route=/api/v1/workflows/{id} status=200",
		"level=DEBUG msg=request method=GET route=/api/v1/agents status=200",
		"level=WARN msg=request method=GET route=/api/v1/agents/{id} status=404",
		"level=DEBUG msg=request method=GET route=/readyz status=200",
		"level=WARN msg=request method=GET route=/v1/opscore/agent/{agent_id}/state status=401",
	} {
		bustest.Eventually(t, line, func() bool { return strings.Contains(out.String(), line) })
	}
	if strings.Contains(out.String(), oldKey) {
		t.Error("the key is in the log")
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := bridge.New(bridge.Config{}); err == nil {
		t.Error("no error")
	}
}

// Old clients pause for a minute and do not repeat a request whose connection was closed meanwhile.
func TestIdleConnectionsAreKept(t *testing.T) {
	srv := newBridge(t, bustest.Conn(t), nil).Server()
	if srv.IdleTimeout < 120*time.Second {
		t.Errorf("idle connections are closed after %v", srv.IdleTimeout)
	}
	if srv.ReadHeaderTimeout <= 0 || srv.ReadTimeout != 0 || srv.WriteTimeout < 70*time.Second || srv.MaxHeaderBytes <= 0 {
		t.Errorf("limits: %v %v %v %d", srv.ReadHeaderTimeout, srv.ReadTimeout, srv.WriteTimeout, srv.MaxHeaderBytes)
	}
}

// damagedAgents are queries that find a document that cannot be read.
type damagedAgents struct{ bridge.AgentQueries }

func (damagedAgents) Get(context.Context, string) (*event.Agent, error) {
	return nil, fmt.Errorf("document agent/x: %w", event.Errorf(event.CodeMalformed, "the body is not JSON"))
}

func TestDamagedDocumentIsAnInternalError(t *testing.T) {
	b := &bundle{t: t}
	b.listen(newBridge(t, bustest.Conn(t), func(c *bridge.Config) { c.Agents = damagedAgents{} }))
	b.do("GET", "/api/v1/agents/x", "").problem(t, 500, event.CodeInternal)
}

// slowRuns are queries of runs in which nothing is ever taken in; every workflow is known.
type slowRuns struct {
	noRuns
	fence uint64
}

func (r *slowRuns) Fence(context.Context, string) (uint64, error) { return r.fence, nil }
func (*slowRuns) Workflow(context.Context, string, string) (*event.Definition, error) {
	return &event.Definition{}, nil
}

func (*slowRuns) Run(_ context.Context, id string) (*event.Run, error) {
	return &event.Run{RunID: id, Tasks: []event.RunTask{{TaskID: "t", Attempt: 2, AgentID: "a1"}}}, nil
}

// Who does not know what became of a start must not be told to repeat it, unless that starts the same run.
func TestAStartThatIsNotConfirmedSaysWhetherItMayBeRepeated(t *testing.T) {
	b := &bundle{t: t}
	b.listen(newBridge(t, bustest.Conn(t), func(c *bridge.Config) { c.Runs, c.CallTimeout = &slowRuns{}, 100*time.Millisecond }))
	for _, c := range []struct{ path, body, header, value, want string }{
		{"/v1/opscore/agent/a1/workflow", `{"workflowDefinitionId":"w"}`, "Authorization", "Bearer " + oldKey, "would start another one"},
		{"/api/v1/runs", `{"workflowId":"w"}`, "Prefer", "wait=1", "would start another one"},
		{"/api/v1/runs", `{"workflowId":"w"}`, "Idempotency-Key", "k", "repeating it is safe"},
	} {
		r := b.do("POST", c.path, c.body, c.header, c.value)
		if r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" || !strings.Contains(r.body, c.want) {
			t.Errorf("%s %s: %d %s", c.path, c.header, r.StatusCode, r.body)
		}
	}
}

// When the outcome of a report is lost, the run says whether it counts; not for an agent that the attempt was not given to.
func TestALostOutcomeDoesNotCountForAnotherAgent(t *testing.T) {
	b := &bundle{t: t}
	b.listen(newBridge(t, bustest.Conn(t), func(c *bridge.Config) { c.Runs, c.CallTimeout = &slowRuns{fence: 1 << 40}, 100*time.Millisecond }))
	report := func(agent string, attempt int) response {
		ref := event.AttemptRef{RunID: "r", TaskID: "t", Attempt: attempt}
		return b.do("POST", "/api/v1/agents/"+agent+"/result", string(event.MustMarshal(&event.Result{AttemptRef: ref, Status: event.StatusCompleted})))
	}
	report("a1", 2).want(t, http.StatusOK)
	report("a1", 1).problem(t, http.StatusConflict, event.CodeStaleAttempt)
	report("other", 2).problem(t, http.StatusConflict, event.CodeStaleAttempt)
}

// Connections on which a request waits when the process begins to stop end with its answer.
func TestAPollThatEndsWithTheProcessClosesItsConnection(t *testing.T) {
	b := &bundle{t: t, conn: bustest.Conn(t)}
	stop := b.listen(newBridge(t, b.conn, func(c *bridge.Config) { c.Agents = pollingAgents{} }))
	answer := b.polled("p", "?wait=60&instance=i")
	bustest.Eventually(t, "the agent waits", func() bool { return b.waits("p") })
	go func() { _ = stop() }()
	if r := <-answer; r.StatusCode != http.StatusNoContent || !r.Close {
		t.Errorf("status %d, close %v", r.StatusCode, r.Close)
	}
}

// pollingAgents are queries in which every agent asks for its tasks, and has one.
type pollingAgents struct{ bridge.AgentQueries }

func (pollingAgents) Get(_ context.Context, id string) (*event.Agent, error) {
	return &event.Agent{AgentID: id, Delivery: event.DeliveryPoll, Available: true}, nil
}
