package bridge_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// received is a request that an endpoint got.
type received struct {
	path   string
	header http.Header
	body   string
}

// endpoint is an agent's HTTP server, which keeps what it gets.
type endpoint struct {
	*httptest.Server
	mu  sync.Mutex
	got []received
}

func newEndpoint(t *testing.T, answer http.HandlerFunc) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		e.mu.Lock()
		e.got = append(e.got, received{r.URL.EscapedPath(), r.Header, string(body)})
		e.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) requests() []received {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]received(nil), e.got...)
}

func says(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// known registers an agent through the API.
func (b *bundle) known(id string, delivery event.Delivery, contact, metadata string) {
	b.t.Helper()
	registration := event.Register{AgentName: id, Version: "1", Capabilities: []string{"c"}, Delivery: delivery, ContactEndpoint: contact}
	if metadata != "" {
		registration.Metadata = event.Raw(metadata)
	}
	body := event.MustMarshal(&registration)
	agent := decode[event.Agent](b.t, b.do("PUT", "/api/v1/agents/"+url.PathEscape(id), string(body)).want(b.t, http.StatusOK))
	if agent.AgentID != id || agent.Delivery != delivery {
		b.t.Fatalf("registered as %+v", agent)
	}
}

// theTask is a task as the engine asks for it.
func theTask(run string) *event.Task {
	return &event.Task{
		RunID: run, WorkflowID: "w", WorkflowVersion: "v", TaskID: "t", Attempt: 1, Name: "Count",
		Input: event.Raw(`{"b":1.0,"a":{"x":[]}}`), Token: "tok", Deadline: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

// pushed sends the request of a task and returns the answer; "503" when nobody was there, "none" without an answer.
func (b *bundle) pushed(id string, task *event.Task) string {
	b.t.Helper()
	return b.asked(event.PushSubject(event.MustToken(id)), event.MustMarshal(task))
}

func (b *bundle) asked(subject string, body []byte) string {
	b.t.Helper()
	return b.request(subject, body)()
}

// request has sent the request when it returns, and answer waits for what is answered.
func (b *bundle) request(subject string, body []byte) (answer func() string) {
	b.t.Helper()
	inbox := nats.NewInbox()
	sub, err := b.conn.NC().SubscribeSync(inbox)
	if err != nil {
		b.t.Fatal(err)
	}
	msg := &nats.Msg{Subject: subject, Reply: inbox, Data: body, Header: nats.Header{"traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}}
	if err := b.conn.NC().PublishMsg(msg); err != nil {
		b.t.Fatal(err)
	}
	return func() string {
		defer func() { _ = sub.Unsubscribe() }()
		m, err := sub.NextMsgWithContext(soon(b.t))
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return "503"
		case err != nil:
			return "none"
		}
		return string(m.Data)
	}
}

const acceptedAnswer = `{"status":"accepted"}`

func TestWhatAnEndpointAnswersIsWhatTheEngineHears(t *testing.T) {
	b := setup(t, nil)
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"accepted", says(200, `{"status":"accepted"}`), acceptedAnswer},
		{"rejected", says(200, `{"status":"rejected","reason":"full","retryAfterMs":1500}`), `{"status":"rejected","reason":"full","retryAfterMs":1500}`},
		{"something else", says(202, `{"status":"success"}`), acceptedAnswer},
		{"no JSON", says(204, ""), acceptedAnswer},
		{"429", says(429, "", "Retry-After", "3"), `{"status":"rejected","reason":"http_status_429","retryAfterMs":3000}`},
		{"503", says(503, ""), `{"status":"rejected","reason":"http_status_503"}`},
		{"500", says(500, `{"status":"accepted"}`), `{"status":"rejected","reason":"http_status_500"}`},
		{"504, from a gateway that has asked the agent", says(504, ""), acceptedAnswer},
		{"redirect", says(307, "", "Location", "/elsewhere"), `{"status":"rejected","reason":"http_status_307"}`},
		{"closed without an answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, acceptedAnswer},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEndpoint(t, c.answer)
			b.known("h", event.DeliveryHTTP, e.URL+"/task", "")
			if got := b.pushed("h", theTask("r")); got != c.want {
				t.Errorf("the engine hears %s, want %s", got, c.want)
			}
			if n := len(e.requests()); n != 1 {
				t.Errorf("the endpoint got %d requests, want 1", n)
			}
		})
	}
}

func TestWhatNeverReachedAnAgentIsSaidSo(t *testing.T) {
	b := setup(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := "http://" + l.Addr().String() + "/"
	_ = l.Close()
	b.known("refused", event.DeliveryHTTP, free, "")
	b.known("unresolved", event.DeliveryAgentKit, "http://fake-agent-1.invalid/run", "")
	b.known("nowhere", event.DeliveryHTTP, "", "")
	if got := b.pushed("unknown", theTask("r")); got != "503" {
		t.Errorf("an unknown agent: %s, want 503", got)
	}
	if got := b.pushed("nowhere", theTask("r")); !strings.Contains(got, "contactEndpoint") {
		t.Errorf("no endpoint: %s, want a rejection that says so", got)
	}
	for i := range 4 {
		want := "503"
		if i == 3 {
			want = `"reason":"endpoint_down"` // the breaker opens
		}
		if got := b.pushed("refused", theTask("r")); !strings.Contains(got, want) {
			t.Errorf("try %d of a refused connection: %s, want %s", i, got, want)
		}
	}
	if got := b.pushed("unresolved", theTask("r")); got != "503" {
		t.Errorf("an unknown host: %s, want 503", got)
	}
	if got := b.pushed("unresolved", theTask("r")); !strings.Contains(got, "endpoint_down") {
		t.Errorf("an unknown host, again: %s, want endpoint_down", got)
	}
}

func TestATaskIsSignedByEverySecret(t *testing.T) {
	secrets := []string{"old secret", "new secret"}
	b := setup(t, func(c *bridge.Config) {
		for _, s := range secrets {
			c.PushSecrets = append(c.PushSecrets, "whsec_"+base64.StdEncoding.EncodeToString([]byte(s)))
		}
	})
	e := newEndpoint(t, says(200, ""))
	b.known("h", event.DeliveryHTTP, e.URL, "")
	task := theTask("r")
	for range 2 {
		if got := b.pushed("h", task); got != acceptedAnswer {
			t.Fatal(got)
		}
	}
	other := theTask("r")
	other.Attempt = 2
	b.pushed("h", other)
	got := e.requests()
	if len(got) != 3 || got[0].header.Get("webhook-id") != got[1].header.Get("webhook-id") || got[0].header.Get("webhook-id") == got[2].header.Get("webhook-id") {
		t.Fatalf("ids %v: a repeat has the same, another attempt another", got)
	}
	h := got[0].header
	var want []string
	for _, s := range secrets {
		mac := hmac.New(sha256.New, []byte(s))
		_, _ = fmt.Fprintf(mac, "%s.%s.%s", h.Get("webhook-id"), h.Get("webhook-timestamp"), got[0].body)
		want = append(want, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if sig := h.Get("webhook-signature"); sig != strings.Join(want, " ") {
		t.Errorf("signature %q, want %q", sig, want)
	}
	if h.Get("traceparent") == "" {
		t.Error("the trace does not go on")
	}
	var body struct {
		Type      string     `json:"type"`
		Timestamp time.Time  `json:"timestamp"`
		Data      event.Task `json:"data"`
	}
	if err := event.Unmarshal([]byte(got[0].body), &body); err != nil || body.Type != "task" || time.Since(body.Timestamp) > time.Minute {
		t.Fatalf("body %s: %v", got[0].body, err)
	}
	if diff := cmp.Diff(task, &body.Data); diff != "" {
		t.Errorf("the task (-sent +got):\n%s", diff)
	}
}

func TestSecretsAreCheckedAtTheStart(t *testing.T) {
	conn := bustest.Conn(t)
	for _, secret := range []string{"plain", "whsec_", "whsec_%%"} {
		b := &bundle{t: t, conn: conn}
		_, err := bridge.New(bridge.Config{Bus: conn, Agents: anyAgents{b}, Runs: anyRuns{b}, PushSecrets: []string{secret}})
		if err == nil || strings.Contains(err.Error(), "%%") {
			t.Errorf("secret %q: %v, want an error that does not show it", secret, err)
		}
	}
	_, err := bridge.New(bridge.Config{Bus: conn, Agents: anyAgents{}, Runs: anyRuns{}, AgentKitURL: "ftp://user:word@kit"})
	if err == nil || strings.Contains(err.Error(), "word") {
		t.Errorf("an AgentKitURL that cannot be: %v, want an error that does not show its password", err)
	}
}

type (
	anyAgents struct{ *bundle }
	anyRuns   struct{ *bundle }
)

func (anyAgents) Get(context.Context, string) (*event.Agent, error) { return nil, nil }
func (anyAgents) List(context.Context, string, int) (event.List[event.Agent], error) {
	return event.List[event.Agent]{}, nil
}
func (anyAgents) Fence(context.Context, string) (uint64, error) { return 0, nil }

func (anyRuns) Run(context.Context, string) (*event.Run, error) { return nil, nil }
func (anyRuns) Children(context.Context, string, string, int) (event.List[event.Run], error) {
	return event.List[event.Run]{}, nil
}

func (anyRuns) Approvals(context.Context, string, int) (event.List[event.Approval], error) {
	return event.List[event.Approval]{}, nil
}

func (anyRuns) Runs(context.Context, string, int) (event.List[event.Run], error) {
	return event.List[event.Run]{}, nil
}
func (anyRuns) Fence(context.Context, string) (uint64, error) { return 0, nil }
func (anyRuns) Workflow(context.Context, string, string) (*event.Definition, error) {
	return nil, nil
}

func (anyRuns) Workflows(context.Context, string, int) (event.List[event.Definition], error) {
	return event.List[event.Definition]{}, nil
}

// The members are those that AgentKit would send to an agent, no others, as recorded from it.
func TestADirectAgentGetsWhatAgentKitWouldSend(t *testing.T) {
	kit := newEndpoint(t, says(202, `{"status":"success"}`))
	b := setup(t, func(c *bridge.Config) { c.AgentKitURL, c.AgentKitKey = kit.URL+"/v1", "kit key" })
	e := newEndpoint(t, says(200, `{"status":"rejected"}`)) // no answer of this protocol
	b.known("direct", event.DeliveryAgentKit, e.URL+"/task", "")
	b.known("through/it", event.DeliveryAgentKit, e.URL+"/task", `{"opscore_delivery":"agentkit"}`)
	b.known("hidden", event.DeliveryAgentKit, "", "")
	task := theTask("run 1")
	for _, id := range []string{"direct", "through/it", "hidden"} {
		if got := b.pushed(id, task); got != acceptedAnswer {
			t.Errorf("%s: %s, want accepted", id, got)
		}
	}
	direct, through := e.requests(), kit.requests()
	if len(direct) != 1 || len(through) != 2 {
		t.Fatalf("%d direct requests and %d through AgentKit, want 1 and 2", len(direct), len(through))
	}
	const common = `"messageType":"workflow_task","payload":{"b":1.0,"a":{"x":[]},"task_name":"Count","task_parameters":{"b":1.0,"a":{"x":[]}}},"sessionContext":`
	const ids = `,"task_name":"Count","opscore_session_id":"run 1","opscore_task_id":"=run=201.t.1"}`
	for _, c := range []struct{ name, body, context string }{
		{"direct", direct[0].body, `{"sessionId":"run 1","priorMessages":[]}`},
		{"through AgentKit", through[0].body, `{"sessionId":"run 1","workflowId":"w","taskId":"=run=201.t.1","priorMessages":[]}`},
	} {
		head, rest, _ := strings.Cut(c.body, `"messageType"`)
		if want := common + c.context + ids; `"messageType"`+rest != want {
			t.Errorf("%s: %s\nwant %s", c.name, rest, want)
		}
		if !strings.HasPrefix(head, `{"senderId":"opscore_system_id","timestamp":"20`) || !strings.HasSuffix(head, `Z",`) {
			t.Errorf("%s: begins with %s", c.name, head)
		}
	}
	if got := through[0].path; got != "/v1/agents/through%2Fit/run" {
		t.Errorf("AgentKit was asked at %s", got)
	}
	if key := through[0].header.Get("Authorization"); key != "Bearer kit key" {
		t.Errorf("AgentKit was shown %q", key)
	}
	if key := direct[0].header.Get("Authorization"); key != "" {
		t.Errorf("an agent was shown %q", key)
	}
}

func TestARepeatedRequestJoinsTheOneInFlight(t *testing.T) {
	b := setup(t, nil)
	release := make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) { <-release; says(200, "")(w, r) })
	t.Cleanup(let)
	b.known("h", event.DeliveryHTTP, e.URL, "")
	var answers [3]func() string
	for i := range answers {
		answers[i] = b.request(event.PushSubject(event.MustToken("h")), event.MustMarshal(theTask("r")))
	}
	bustest.Eventually(t, "the first request", func() bool { return len(e.requests()) == 1 })
	bustest.Eventually(t, "the others to wait for it", func() bool { return waitingForAFlight() == len(answers)-1 })
	let()
	for _, answer := range answers {
		if got := answer(); got != acceptedAnswer {
			t.Errorf("answered %s", got)
		}
	}
	if n := len(e.requests()); n != 1 {
		t.Errorf("the endpoint got %d requests, want 1", n)
	}
}

// waitingForAFlight counts the goroutines that have joined a request in flight: nothing else shows that they are that far. It counts those of
// the whole process, so no test that runs beside others may use it.
func waitingForAFlight() (n int) {
	all := make([]byte, 4<<20)
	for stack := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
		if strings.Contains(stack, "singleflight.(*Group).Do(") && strings.Contains(stack, "sync.(*WaitGroup).Wait(") {
			n++
		}
	}
	return n
}

func TestAnEndpointGetsFourRequestsAtOnce(t *testing.T) {
	b := setup(t, nil)
	release := make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	var now, most atomic.Int32
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		<-release
		now.Add(-1)
		says(200, "")(w, r)
	})
	t.Cleanup(let)
	b.known("h", event.DeliveryHTTP, e.URL, "")
	answers := make(chan string, 6)
	for i := range cap(answers) {
		go func() { answers <- b.pushed("h", theTask(fmt.Sprint("r", i))) }()
	}
	for range 2 {
		if got := <-answers; got != `{"status":"rejected","reason":"endpoint_busy","retryAfterMs":200}` {
			t.Errorf("one too many is answered %s", got)
		}
	}
	other := newEndpoint(t, says(200, ""))
	b.known("other", event.DeliveryHTTP, other.URL, "")
	if got := b.pushed("other", theTask("r")); got != acceptedAnswer {
		t.Errorf("another endpoint has to wait: %s", got)
	}
	let()
	for range 4 {
		if got := <-answers; got != acceptedAnswer {
			t.Errorf("answered %s", got)
		}
	}
	if most.Load() != 4 {
		t.Errorf("%d requests at once, want 4", most.Load())
	}
}

func TestACancelReachesAnAgentByHTTP(t *testing.T) {
	b := setup(t, nil)
	body := event.MustMarshal(&event.Cancel{RunID: "r", TaskID: "t", Attempt: 1, Reason: "enough"})
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"in words", says(200, `{"status":"finished"}`), `{"status":"finished"}`},
		{"plain", says(202, ""), `{"status":"cancelled"}`},
		{"not found", says(404, ""), `{"status":"unknown"}`},
		{"gone", says(410, ""), `{"status":"unknown"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEndpoint(t, c.answer)
			b.known("h", event.DeliveryHTTP, e.URL, "")
			if got := b.asked(event.PushCancelSubject("h"), body); got != c.want {
				t.Errorf("the engine hears %s, want %s", got, c.want)
			}
			if got := e.requests(); len(got) != 1 || !strings.Contains(got[0].body, `"type":"cancel"`) || !strings.Contains(got[0].body, `"reason":"enough"`) {
				t.Errorf("the endpoint got %v", got)
			}
		})
	}
	b.known("kit", event.DeliveryAgentKit, "http://127.0.0.1:1/", "")
	if got := b.asked(event.PushCancelSubject("kit"), body); got != "503" {
		t.Errorf("an agent that cannot be told to stop: %s, want 503", got)
	}
}

// Load tests register agents at hosts that do not exist. They must not be in the way of an agent that does.
func TestAThousandUnreachableAgentsAreInNobodysWay(t *testing.T) {
	b := setup(t, nil)
	e := newEndpoint(t, says(200, ""))
	b.known("good", event.DeliveryHTTP, e.URL, "")
	const lost = 1000
	for i := range lost {
		id := fmt.Sprint("fake-", i)
		b.do("POST", "/v1/opscore/internal/agent/notify", fmt.Sprintf(`{"event_type":"REGISTER","agent_details":{"agentId":%q,"agentName":"n","version":"1",
			"capabilities":["c"],"contactEndpoint":"http://fake-agent-%d.invalid/run"}}`, id, i)).want(t, http.StatusOK)
	}
	inbox := nats.NewInbox()
	answers, err := b.conn.NC().SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	body := event.MustMarshal(theTask("r"))
	for i := range lost {
		task := theTask(fmt.Sprint("r", i))
		if err := b.conn.NC().PublishRequest(event.PushSubject(fmt.Sprint("fake-", i)), inbox, event.MustMarshal(task)); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 { // in the middle of it
			if got := b.asked(event.PushSubject("good"), body); got != acceptedAnswer {
				t.Errorf("behind %d unreachable agents: %s", i, got)
			}
			b.do("GET", "/api/v1/agents/good", "").want(t, http.StatusOK)
		}
	}
	for range lost {
		m, err := answers.NextMsgWithContext(soon(t))
		if err != nil && !errors.Is(err, nats.ErrNoResponders) {
			t.Fatalf("not every request was answered: %v", err)
		}
		if err == nil && !strings.Contains(string(m.Data), `"rejected"`) {
			t.Errorf("an unreachable agent is said to have answered %s", m.Data)
		}
	}
}

// What was sent is waited for; what waits for an agent to ask is given up, and answered.
func TestWhatIsInHandEndsWithTheBridge(t *testing.T) {
	b := setup(t, nil)
	release := make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) { <-release; says(200, "")(w, r) })
	t.Cleanup(let)
	b.known("h", event.DeliveryHTTP, e.URL, "")
	b.known("unreached", event.DeliveryHTTP, "", "") // has no endpoint: an answer shows that somebody takes requests
	// A second replica takes its share of the requests; with the first one gone, all of them.
	b.stopDelivery()
	replica, err := bridge.New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- replica.Deliver(ctx) }()
	answer := make(chan string, 1)
	bustest.Eventually(t, "the replica takes requests", func() bool { return strings.Contains(b.pushed("unreached", theTask("x")), "rejected") })
	go func() { answer <- b.pushed("h", theTask("r")) }()
	bustest.Eventually(t, "the request", func() bool { return len(e.requests()) == 1 })
	stop()
	select {
	case err := <-done:
		t.Errorf("delivery ended with a request in flight: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	let()
	if got := <-answer; got != acceptedAnswer {
		t.Errorf("the engine hears %s", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Where there is a key, the webhook that needs none changes only agents that came by it.
func TestAnOpenWebhookLeavesTheAgentsOfOthersAlone(t *testing.T) {
	notify := func(b *bundle, kind string, agent string) response {
		return b.do("POST", "/v1/opscore/internal/agent/notify", `{"event_type":"`+kind+`","agent_details":{"agentId":"`+agent+
			`","agentName":"n","version":"1","contactEndpoint":"http://elsewhere.local/"}}`)
	}
	put := func(b *bundle) {
		b.do("PUT", "/api/v1/agents/mine", `{"agentName":"n","version":"1","capabilities":[],"delivery":"poll"}`, "Authorization", "Bearer k").want(t, http.StatusOK)
	}
	b := setup(t, func(c *bridge.Config) { c.Key = "k" })
	put(b)
	for _, kind := range []string{"REGISTER", "DEREGISTER"} {
		if refused := notify(b, kind, "mine").want(t, http.StatusForbidden); !strings.Contains(refused.body, `{"detail":"`) {
			t.Errorf("%s: %s", kind, refused.body)
		}
	}
	agent := decode[event.Agent](t, b.do("GET", "/api/v1/agents/mine", "", "Authorization", "Bearer k").want(t, http.StatusOK))
	if agent.Delivery != event.DeliveryPoll {
		t.Errorf("the agent is reached by %s now", agent.Delivery)
	}
	for _, kind := range []string{"REGISTER", "REGISTER", "DEREGISTER", "REGISTER"} {
		notify(b, kind, "theirs").want(t, http.StatusOK)
	}
	open := setup(t, nil)
	put(open)
	notify(open, "REGISTER", "mine").want(t, http.StatusOK)
}
