package bridge_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// explain returns what became of a request that was answered.
func (b *bundle) explain(r response) event.RequestTrace {
	b.t.Helper()
	id := r.Header.Get("X-Request-Id")
	trace := decode[event.RequestTrace](b.t, b.do("GET", "/api/v1/requests/"+id, "").want(b.t, http.StatusOK))
	if trace.RequestID != id || trace.Status != r.StatusCode || trace.Sequence != r.Header.Get("Opscore-Sequence") {
		b.t.Errorf("explained as %+v; the answer was %d, id %s, sequence %q", trace, r.StatusCode, id, r.Header.Get("Opscore-Sequence"))
	}
	return trace
}

// inShort writes the steps of a request one after another, each with its error in brackets, and * for one without a time.
func inShort(trace event.RequestTrace) string {
	var parts []string
	for _, s := range trace.Steps {
		text := string(s.Step)
		if s.At.IsZero() {
			text += "*"
		}
		if s.Error != "" {
			text += "(" + s.Error + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

func (b *bundle) wantSteps(r response, want string) event.RequestTrace {
	b.t.Helper()
	trace := b.explain(r)
	if got := inShort(trace); got != want {
		b.t.Errorf("%s %s, %d:\ngot  %s\nwant %s", r.Request.Method, r.Request.URL.Path, r.StatusCode, got, want)
	}
	return trace
}

const allSteps = "received authenticated published consumed committed answered"

func TestRequestIsExplainedStepByStep(t *testing.T) {
	b := setup(t, nil)
	before := time.Now().Add(-time.Second)
	r := b.do("POST", notify, registration("a1"), "X-Request-Id", "reg-1").want(t, 200)
	trace := b.wantSteps(r, allSteps)
	state, err := b.conn.StreamState(t.Context(), event.StreamAgent)
	if err != nil {
		t.Fatal(err)
	}
	if want := event.StreamAgent + "/" + strconv.FormatUint(state.LastSeq, 10); trace.Sequence != want {
		t.Errorf("sequence %q, want %q", trace.Sequence, want)
	}
	if trace.RequestID != "reg-1" || trace.Method != "POST" || trace.Route != notify || trace.Subject != event.AgentSubject(event.VerbRegister, "a1") {
		t.Errorf("%+v", trace)
	}
	for _, s := range trace.Steps {
		if s.At.Before(before) || s.At.After(time.Now()) {
			t.Errorf("%s at %v", s.Step, s.At)
		}
	}
	auth := []string{"Authorization", "Bearer " + oldKey}
	b.wantSteps(b.do("POST", "/v1/opscore/agent/a1/state", stateBody("a1", "null"), auth...).want(t, 202), allSteps)
	started := b.do("POST", "/v1/opscore/agent/a1/workflow", `{"workflowDefinition":{"id":"w","name":"n","tasks":[]}}`, auth...).want(t, 202)
	if trace := b.wantSteps(started, allSteps); !strings.HasPrefix(trace.Sequence, event.StreamWork+"/") {
		t.Errorf("sequence %q", trace.Sequence)
	}
	applied := b.do("PUT", "/api/v1/workflows/one", oneTask).want(t, 200)
	if trace := b.wantSteps(applied, allSteps); trace.Route != "/api/v1/workflows/{id}" {
		t.Errorf("route %q", trace.Route)
	}
}

func TestRefusalIsExplained(t *testing.T) {
	b := setup(t, nil)
	auth := []string{"Authorization", "Bearer " + oldKey}
	const state = "/v1/opscore/agent/a1/state"
	b.wantSteps(b.do("POST", state, stateBody("a1", "null")).want(t, 401),
		"received authenticated*(Authorization header missing) answered")
	b.wantSteps(b.do("GET", state, "").want(t, 401), // a read is kept when it is refused
		"received authenticated*(Authorization header missing) answered")
	b.wantSteps(b.do("POST", state, "{", auth...).want(t, 422),
		"received(body.1: JSON decode error) answered")
	b.wantSteps(b.do("POST", state, `{"agentId":"a1","timestamp":5}`, auth...).want(t, 422),
		"received authenticated published*(body.timestamp: Input should be a valid string; body.state: Field required) answered")
	b.wantSteps(b.do("POST", notify, strings.Replace(registration("a1"), "REGISTER", "secret", 1)).want(t, 400),
		"received authenticated published*(Unknown event type) answered")
	b.wantSteps(b.do("GET", "/v1/opscore/agent/a1/state", "", auth...).want(t, 404), "received authenticated answered(No state found for agent a1)")
	b.wantSteps(b.do("GET", "/nowhere", "").want(t, 404), "received(Not Found) answered")
	early := b.do("POST", state, stateBody("a1", "null"), auth...).want(t, 404)
	trace := b.wantSteps(early, "received authenticated published consumed committed(Agent not found: a1) answered")
	if note := trace.Steps[4].Note; !strings.Contains(note, "kept") {
		t.Errorf("the note is %q", note)
	}
	b.wantSteps(b.do("PUT", "/api/v1/workflows/one", `{"id":"one"}`).want(t, 422),
		"received authenticated published consumed committed(invalid: tasks is missing ($.tasks)) answered")
	unknown := b.do("GET", "/api/v1/requests/nobody", "")
	if p := unknown.problem(t, 404, "unknown_request"); !strings.Contains(p.Detail, "10000") {
		t.Errorf("detail is %q", p.Detail)
	}
	b.do("POST", "/api/v1/requests/nobody", "").problem(t, 405, "method_not_allowed")
	if r := b.do("GET", "/readyz", ""); b.do("GET", "/api/v1/requests/"+r.Header.Get("X-Request-Id"), "").StatusCode != 404 {
		t.Error("a probe is remembered")
	}
	b.register("a1")
	if r := b.do("POST", "/api/v1/agents/a1/heartbeat", "{}"); r.StatusCode/100 != 2 || b.do("GET", "/api/v1/requests/"+r.Header.Get("X-Request-Id"), "").StatusCode != 404 {
		t.Errorf("a heartbeat, answered %d, is remembered", r.StatusCode)
	}
}

func TestRequestsNeedTheKey(t *testing.T) {
	b := setup(t, func(c *bridge.Config) { c.Key = "k" })
	r := b.do("POST", notify, registration("a1")).want(t, 200)
	path := "/api/v1/requests/" + r.Header.Get("X-Request-Id")
	b.do("GET", path, "").problem(t, 401, "unauthorized")
	b.do("GET", path, "", "Authorization", "Bearer k").want(t, 200)
}

func TestOutagesAreExplained(t *testing.T) {
	nats := bustest.NATSServer(t)
	conn := nats.Conn()
	agents := &flakyAgents{}
	b := setupOn(t, conn, func(c *bridge.Config) { agents.AgentQueries = c.Agents; c.Agents = agents })
	agents.down.Store(true)
	b.do("GET", "/v1/opscore/agent/a1/state", "", "Authorization", "Bearer "+oldKey).unavailable(t)
	b.wantSteps(b.do("POST", notify, registration("a1")), "received authenticated published*(unavailable: the store does not answer) answered")
	agents.down.Store(false)
	nats.Kill()
	bustest.Eventually(t, "connection lost", func() bool { return !conn.Connected() })
	r := b.do("POST", notify, registration("a1"))
	r.unavailable(t)
	b.wantSteps(r, "received authenticated published*(unavailable: NATS is not connected) answered")
	b.do("GET", "/api/v1/requests/nobody", "").problem(t, 503, event.CodeUnavailable) // the others cannot be asked
}

func TestLostOutcomeIsExplained(t *testing.T) {
	conn := bustest.Conn(t)
	b := &bundle{t: t, conn: conn}
	quiet := &takenIn{}
	b.listen(newBridge(t, conn, func(c *bridge.Config) { c.Agents, c.CallTimeout = quiet, 300*time.Millisecond }))
	r := b.do("POST", notify, registration("a1"))
	r.unavailable(t)
	trace := b.wantSteps(r, "received authenticated published committed*(unavailable: not confirmed in time; "+
		"it may still take effect, and repeating it is safe) answered")
	if note := trace.Steps[3].Note; note != "no outcome within 300ms; the message is stored, and has not been taken in yet" {
		t.Errorf("the note is %q", note)
	}
	quiet.fence.Store(1 << 40)
	r = b.do("POST", notify, registration("a1")).want(t, 200)
	trace = b.wantSteps(r, "received authenticated published committed* answered")
	if note := trace.Steps[3].Note; note != "no outcome within 300ms; asked then, the message has been taken in" {
		t.Errorf("the note is %q", note)
	}
}

// The replica that is asked need not be the one that has served the request.
func TestRequestIsFoundOnAnotherReplica(t *testing.T) {
	server := bustest.NATSServer(t)
	b1, b2 := &bundle{t: t}, &bundle{t: t}
	b1.listen(newBridge(t, server.Conn(), nil))
	b2.listen(newBridge(t, server.Conn(), nil))
	r := b1.do("POST", notify, "{}").want(t, 422)
	trace := b2.explain(r)
	if want := inShort(b1.explain(r)); inShort(trace) != want {
		t.Errorf("explained as %s, want %s", inShort(trace), want)
	}
	start := time.Now()
	b2.do("GET", "/api/v1/requests/nobody", "").problem(t, 404, "unknown_request")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("asking for an unknown one took %v", took)
	}
}

// A request is remembered before its answer can have arrived, however long that is.
func TestRequestIsRememberedBeforeItsAnswerIsSeen(t *testing.T) {
	br := newBridge(t, bustest.Conn(t), nil)
	hooked := &hookedWriter{ResponseRecorder: httptest.NewRecorder()}
	hooked.wrote = func() {
		hooked.wrote = func() {}
		rec := httptest.NewRecorder()
		br.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/requests/mine", nil))
		if rec.Code != http.StatusOK {
			t.Errorf("while it is being answered: %d %s", rec.Code, rec.Body)
		}
	}
	req := httptest.NewRequestWithContext(t.Context(), "POST", notify, strings.NewReader("{"))
	req.Header.Set("X-Request-Id", "mine")
	br.Handler().ServeHTTP(hooked, req)
}

type hookedWriter struct {
	*httptest.ResponseRecorder
	wrote func()
}

func (h *hookedWriter) Write(p []byte) (int, error) { h.wrote(); return h.ResponseRecorder.Write(p) }
