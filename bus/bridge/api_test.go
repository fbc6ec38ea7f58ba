package bridge_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/event"
)

// serve runs an agent that does its tasks with h, until the end of the test.
func (b *bundle) serve(id, capability string, h agent.Handler) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	a, err := agent.New(agent.Config{Conn: b.conn.NC(), ID: id, Name: id, Version: "1", Capabilities: []string{capability}}, h)
	if err != nil {
		b.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	select {
	case <-a.Ready():
	case <-soon(b.t).Done():
		b.t.Fatal("the agent does not get ready")
	}
}

const oneTask = `{"id":"one","name":"One","tasks":[{"taskId":"t1","agentCapability":"think","parameters":{"a":1.0}}]}`

// problem is the part of an error body that tests look at.
type problem struct {
	Title     string     `json:"title"`
	Status    int        `json:"status"`
	Code      event.Code `json:"code"`
	Detail    string     `json:"detail"`
	RequestID string     `json:"requestId"`
	Errors    []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
	} `json:"errors"`
}

// problem checks that an answer is a problem+json with a code.
func (r response) problem(t *testing.T, status int, code event.Code) problem {
	t.Helper()
	r.want(t, status)
	if got := r.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%s: Content-Type is %q", r.Request.URL.Path, got)
	}
	p := decode[problem](t, r)
	if p.Code != code || p.Status != status || p.Title != http.StatusText(status) || p.RequestID != r.Header.Get("X-Request-Id") {
		t.Errorf("%s: %s, want code %s", r.Request.URL.Path, r.body, code)
	}
	return p
}

func TestRunIsStartedAndWaitedFor(t *testing.T) {
	b := setup(t, nil)
	b.apply("one", oneTask)
	b.serve("thinker", "think", func(context.Context, *agent.Task) (any, error) { return map[string]int{"answer": 42}, nil })
	r := b.do("POST", "/api/v1/workflows/one/runs", `{"input":{"q":"?"},"labels":{"b":"2","a":"1"}}`, "Prefer", "respond-async, wait=20").want(t, 200)
	run := decode[event.Run](t, r)
	if run.State != event.RunCompleted || string(run.Output) != `{"answer":42}` || string(run.Input) != `{"q":"?"}` || run.Labels["a"] != "1" {
		t.Errorf("run is %s", r.body)
	}
	if want := "/api/v1/runs/" + run.RunID; r.Header.Get("Location") != want || r.Header.Get("Preference-Applied") != "wait=20" {
		t.Errorf("Location %q, Preference-Applied %q", r.Header.Get("Location"), r.Header.Get("Preference-Applied"))
	}
	if got := b.do("GET", "/api/v1/runs/"+run.RunID, "").want(t, 200); got.body != r.body {
		t.Errorf("read again it is %s, not %s", got.body, r.body)
	}
}

// The runs that a task has started come in pages, each once.
func TestChildrenComeInPages(t *testing.T) {
	b := setup(t, nil)
	b.apply("map", `{"id":"map","tasks":[{"taskId":"each","agentCapability":"think","forEach":{"items":"input.xs"}}]}`)
	b.serve("thinker", "think", func(context.Context, *agent.Task) (any, error) { return nil, nil })
	run := decode[event.Run](t, b.do("POST", "/api/v1/workflows/map/runs", `{"input":{"xs":[1,2,3,4,5]}}`, "Prefer", "wait=20").want(t, 200))
	if run.State != event.RunCompleted {
		t.Fatalf("run is %+v", run)
	}
	seen := make(map[string]bool)
	for cursor, pages := "", 0; ; pages++ {
		list := decode[event.List[event.Run]](t, b.do("GET", "/api/v1/runs/"+run.RunID+"/children?limit=2&cursor="+url.QueryEscape(cursor), "").want(t, 200))
		for _, r := range list.Items {
			seen[r.RunID] = true
		}
		if cursor = list.NextCursor; cursor == "" || pages == 5 {
			break
		}
	}
	if len(seen) != 5 {
		t.Errorf("%d children, want 5", len(seen))
	}
	if list := decode[event.List[event.Run]](t, b.do("GET", "/api/v1/runs/"+run.RunID+"/children", "").want(t, 200)); len(list.Items) != 5 || list.NextCursor != "" {
		t.Errorf("without a limit: %+v", list)
	}
}

func TestRunIsStartedWithoutWaiting(t *testing.T) {
	b := setup(t, nil)
	b.apply("one", oneTask)
	for name, r := range map[string]response{
		"at once":      b.do("POST", "/api/v1/runs", `{"workflowId":"one"}`),
		"after a time": b.do("POST", "/api/v1/runs", `{"workflowId":"one"}`, "Prefer", "wait=1"),
		"without body": b.do("POST", "/api/v1/workflows/one/runs", ""),
		"inline":       b.do("POST", "/api/v1/runs", `{"definition":`+oneTask+`}`),
	} {
		r.want(t, 202)
		run := decode[event.Run](t, r)
		if run.State != event.RunRunning || run.WorkflowID != "one" || run.WorkflowVersion == "" || !strings.HasSuffix(r.Header.Get("Location"), run.RunID) {
			t.Errorf("%s: %s", name, r.body)
		}
		if run.RunID[14] != '7' {
			t.Errorf("%s: run id %s is no UUID of version 7", name, run.RunID)
		}
	}
}

func TestIdempotencyKeyStartsOneRun(t *testing.T) {
	b := setup(t, nil)
	b.apply("one", oneTask)
	body := `{"workflowId":"one","labels":{"a":"1","b":"2","c":"3","d":"4","e":"5"}}`
	first := b.do("POST", "/api/v1/runs", body, "Idempotency-Key", "k-1").want(t, 202)
	for range 5 {
		if again := b.do("POST", "/api/v1/runs", body, "Idempotency-Key", "k-1").want(t, 202); again.body != first.body {
			t.Errorf("repeated: %s, not %s", again.body, first.body)
		}
	}
	inBody := strings.Replace(body, "{", `{"idempotencyKey":"k-1",`, 1)
	if again := b.do("POST", "/api/v1/workflows/one/runs", inBody).want(t, 202); again.body != first.body {
		t.Errorf("key in the body: %s, not %s", again.body, first.body)
	}
	b.do("POST", "/api/v1/runs", `{"workflowId":"one"}`, "Idempotency-Key", "k-1").problem(t, 409, event.CodeConflict)
	b.do("POST", "/api/v1/runs", inBody, "Idempotency-Key", "k-2").problem(t, 422, event.CodeInvalid)
	if list := decode[event.List[event.Run]](t, b.do("GET", "/api/v1/runs", "").want(t, 200)); len(list.Items) != 1 {
		t.Errorf("%d runs", len(list.Items))
	}
}

func TestRunIsCancelled(t *testing.T) {
	b := setup(t, nil)
	b.apply("one", oneTask)
	run := decode[event.Run](t, b.do("POST", "/api/v1/runs", `{"workflowId":"one"}`).want(t, 202))
	got := decode[event.Run](t, b.do("POST", "/api/v1/runs/"+run.RunID+"/cancel", `{"reason":"enough"}`).want(t, 200))
	if got.State != event.RunCancelled || got.EndedAt == nil {
		t.Errorf("run is %s", event.MustMarshal(got))
	}
	b.do("POST", "/api/v1/runs/nothing/cancel", "").problem(t, 404, event.CodeUnknownRun)
}

func TestDefinitionIsStoredAndRead(t *testing.T) {
	b := setup(t, nil)
	first := decode[event.Definition](t, b.do("PUT", "/api/v1/workflows/one", oneTask).want(t, 200))
	second := decode[event.Definition](t, b.do("PUT", "/api/v1/workflows/one", strings.Replace(oneTask, "One", "Two", 1)).want(t, 200))
	if first.WorkflowVersion == "" || first.WorkflowVersion == second.WorkflowVersion {
		t.Fatalf("versions %q and %q", first.WorkflowVersion, second.WorkflowVersion)
	}
	old := decode[event.Definition](t, b.do("GET", "/api/v1/workflows/one?version="+first.WorkflowVersion, "").want(t, 200))
	if !strings.Contains(string(old.Definition), `"One"`) || old.Tasks != 1 {
		t.Errorf("old version is %s", event.MustMarshal(old))
	}
	latest := decode[event.Definition](t, b.do("GET", "/api/v1/workflows/one", "").want(t, 200))
	if !strings.Contains(string(latest.Definition), `"Two"`) {
		t.Errorf("latest version is %s", event.MustMarshal(latest))
	}
	b.do("GET", "/api/v1/workflows/two", "").problem(t, 404, event.CodeUnknownDefinition)
	b.do("GET", "/api/v1/workflows/one?version=0", "").problem(t, 404, event.CodeUnknownDefinition)
	b.do("POST", "/api/v1/workflows/two/runs", "").problem(t, 404, event.CodeUnknownDefinition)
}

func TestMistakesOfDefinitionAreListed(t *testing.T) {
	b := setup(t, nil)
	p := b.do("PUT", "/api/v1/workflows/w", `{"id":"w","name":"W","tasks":[{"taskId":"a","nextTaskId":"z"},{"taskId":"","parameters":1}]}`).
		problem(t, 422, event.CodeInvalid)
	var at []string
	for _, e := range p.Errors {
		at = append(at, e.Location)
	}
	if got := strings.Join(at, " "); !strings.Contains(got, "$.tasks[0].nextTaskId") || !strings.Contains(got, "$.tasks[1].taskId") {
		t.Errorf("mistakes at %s", got)
	}
	b.do("PUT", "/api/v1/workflows/other", oneTask).problem(t, 422, event.CodeInvalid)
	b.do("PUT", "/api/v1/workflows/w", `{"id":`).problem(t, 400, event.CodeMalformed)
	b.do("PUT", "/api/v1/workflows/w", "").problem(t, 400, event.CodeMalformed)
	b.do("PUT", "/api/v1/workflows/w", `id: w`, "Content-Type", "application/yaml").problem(t, 415, event.CodeMalformed)
}

func TestAgentIsShownCordonedAndDeregistered(t *testing.T) {
	b := setup(t, nil)
	id := "a b:c/%d"
	b.register(id)
	path := "/api/v1/agents/" + url.PathEscape(id)
	agent := decode[event.Agent](t, b.do("GET", path, "").want(t, 200))
	if agent.AgentID != id || agent.State != "UNKNOWN" || agent.Delivery != event.DeliveryAgentKit || agent.ContactEndpoint != "http://fake.local/" {
		t.Errorf("agent is %s", event.MustMarshal(agent))
	}
	if got := decode[event.Agent](t, b.do("POST", path+"/cordon", `{"reason":"repair"}`).want(t, 200)); !got.Cordoned || got.Available {
		t.Errorf("cordoned agent is %s", event.MustMarshal(got))
	}
	got := decode[event.Agent](t, b.do("POST", path+"/drain", `{"reason":"upgrade","deadlineSeconds":60}`).want(t, 200))
	if !got.Cordoned || !got.Draining || got.DrainBy.IsZero() || got.CordonReason != "upgrade" {
		t.Errorf("drained agent is %s", event.MustMarshal(got))
	}
	b.do("POST", path+"/drain", `{"deadlineSeconds":-1}`).problem(t, 422, event.CodeInvalid)
	if got := decode[event.Agent](t, b.do("POST", path+"/uncordon", "").want(t, 200)); got.Cordoned || got.Draining {
		t.Errorf("uncordoned agent is %s", event.MustMarshal(got))
	}
	history := b.do("GET", path+"/history", "").want(t, 200)
	if !strings.Contains(history.body, `"event":"register"`) || !strings.Contains(history.body, `"reason":"repair"`) {
		t.Errorf("history is %s", history.body)
	}
	b.do("DELETE", path, "").want(t, 200)
	b.do("GET", path, "").problem(t, 404, event.CodeUnknownAgent)
	b.do("DELETE", path, "").problem(t, 404, event.CodeUnknownAgent)
	b.do("POST", path+"/cordon", "").problem(t, 404, event.CodeUnknownAgent)
	b.do("GET", "/api/v1/agents/nobody/history", "").problem(t, 404, event.CodeUnknownAgent)
	b.do("POST", "/api/v1/agents/"+strings.Repeat("%20", 200)+"/cordon", "").problem(t, 413, event.CodeTooLarge)
}

func TestListsArePaged(t *testing.T) {
	b := setup(t, nil)
	for i := range 5 {
		b.register(fmt.Sprintf("agent-%d", i))
		b.apply(fmt.Sprintf("w-%d", i), fmt.Sprintf(`{"id":"w-%d","name":"W","tasks":[]}`, i))
		b.do("POST", fmt.Sprintf("/api/v1/workflows/w-%d/runs", i), "").want(t, 202)
	}
	for path, noun := range map[string]string{"/api/v1/agents": "agentId", "/api/v1/workflows": "workflowId", "/api/v1/runs": "runId"} {
		seen := make(map[string]bool)
		next := path + "?limit=2"
		for pages := 0; next != "" && pages < 5; pages++ {
			r := b.do("GET", next, "").want(t, 200)
			for _, item := range decode[event.List[map[string]any]](t, r).Items {
				seen[fmt.Sprint(item[noun])] = true
			}
			link, _, _ := strings.Cut(r.Header.Get("Link"), ">")
			next = strings.TrimPrefix(link, "<")
		}
		if len(seen) != 5 {
			t.Errorf("%s: %d items", path, len(seen))
		}
	}
}

func TestBadRequestsAreProblems(t *testing.T) {
	b := setup(t, nil)
	for _, c := range []struct {
		method, target, body string
		status               int
		code                 event.Code
	}{
		{"GET", "/api", "", 404, "not_found"},
		{"GET", "/api/v1/nothing", "", 404, "not_found"},
		{"GET", "/api/v1/agents/", "", 404, "not_found"},
		{"PATCH", "/api/v1/agents", "", 405, "method_not_allowed"},
		{"GET", "/api/v1/agents?limit=0", "", 422, event.CodeInvalid},
		{"GET", "/api/v1/agents?limit=501", "", 422, event.CodeInvalid},
		{"GET", "/api/v1/agents?limit=x", "", 422, event.CodeInvalid},
		{"GET", "/api/v1/runs?cursor=x", "", 422, event.CodeInvalid},
		{"GET", "/api/v1/runs/nothing", "", 404, event.CodeUnknownRun},
		{"POST", "/api/v1/runs", "", 400, event.CodeMalformed},
		{"POST", "/api/v1/runs", "{", 400, event.CodeMalformed},
		{"POST", "/api/v1/runs", "{}", 400, event.CodeMalformed},
		{"POST", "/api/v1/runs", `{"workflowId":5}`, 422, event.CodeInvalid},
		{"POST", "/api/v1/runs", `{"workflowId":"one","input":[]}`, 400, event.CodeMalformed},
		{"POST", "/api/v1/runs", `{"workflowId":"one","agentId":"` + strings.Repeat("ü", 200) + `"}`, 413, event.CodeTooLarge},
		{"POST", "/api/v1/runs", `{"definition":{"id":"d","tasks":[{}]}}`, 422, event.CodeInvalid},
		{"POST", "/api/v1/workflows/one/runs", `{"workflowId":"two"}`, 422, event.CodeInvalid},
		{"POST", "/api/v1/workflows/one/runs", `{"definition":{}}`, 422, event.CodeInvalid},
		{"POST", "/api/v1/runs", `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, 413, event.CodeTooLarge},
	} {
		t.Run(c.method+" "+c.target+" "+c.body[:min(len(c.body), 40)], func(t *testing.T) {
			b.do(c.method, c.target, c.body).problem(t, c.status, c.code)
		})
	}
	if allow := b.do("PATCH", "/api/v1/agents/a%2Fb", "").Header.Get("Allow"); allow != "GET, HEAD, PUT, DELETE" {
		t.Errorf("Allow is %q", allow)
	}
	b.do("POST", "/api/v1/runs", `{"workflowId":"one"}`, "Origin", "https://elsewhere.example").problem(t, 403, event.CodeForbidden)
}

func TestKeyRulesTheAPI(t *testing.T) {
	b := setup(t, func(c *bridge.Config) { c.Key = "secret" })
	r := b.do("GET", "/api/v1/agents", "")
	r.problem(t, 401, "unauthorized")
	if got := r.Header.Get("WWW-Authenticate"); got != `Bearer realm="opscore"` {
		t.Errorf("WWW-Authenticate is %q", got)
	}
	b.do("GET", "/api/v1/agents", "", "Authorization", "Bearer other").problem(t, 401, "unauthorized")
	b.do("PUT", "/api/v1/workflows/one", "{", "Authorization", "Bearer "+oldKey).problem(t, 401, "unauthorized")
	b.do("GET", "/api/v1/agents", "", "Authorization", "Bearer secret").want(t, 200)
	b.do("GET", "/v1/opscore/agent/x/state", "", "Authorization", "Bearer "+oldKey).want(t, 401)
	b.do("GET", "/v1/opscore/agent/x/state", "", "Authorization", "Bearer secret").want(t, 404)
	for _, open := range []string{"/health", "/livez", "/readyz", "/openapi.json", "/docs"} {
		b.do("GET", open, "").want(t, 200)
	}
	b.register("a1")
}

func TestSystemAndDescription(t *testing.T) {
	b := setup(t, nil)
	system := b.do("GET", "/api/v1/system", "").want(t, 200)
	for _, part := range []string{`"version":"test"`, `"status":"ready"`, `"name":"OPSCORE_AGENT"`} {
		if !strings.Contains(system.body, part) {
			t.Errorf("system is %s", system.body)
		}
	}
	doc := b.do("GET", "/openapi.json", "").want(t, 200)
	for _, part := range []string{`"/api/v1/runs/{id}/cancel"`, `"openapi":"3.1.0"`, `"Problem"`} {
		if !strings.Contains(doc.body, part) {
			t.Errorf("the description lacks %s", part)
		}
	}
	if strings.Contains(doc.body, "ErrorModel\"}") || strings.Contains(doc.body, "jsontext") {
		t.Error("the description shows what the API does not use")
	}
	if page := b.do("GET", "/docs", "").want(t, 200); !strings.Contains(page.body, "Cancel a run") || strings.Contains(page.body, "//unpkg") {
		t.Errorf("page is %s", page.body)
	}
	b.do("HEAD", "/api/v1/agents", "").want(t, 200)
}

func TestRequestIDGoesAlong(t *testing.T) {
	b := setup(t, nil)
	heard := make(chan *nats.Msg, 1)
	sub, err := b.conn.NC().ChanSubscribe(event.SubjectRegister, heard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	parent := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := b.do("POST", "/v1/opscore/internal/agent/notify", registration("a1"), "X-Request-Id", "mine-1", "traceparent", parent).want(t, 200)
	if got := r.Header.Get("X-Request-Id"); got != "mine-1" {
		t.Errorf("X-Request-Id is %q", got)
	}
	select {
	case m := <-heard:
		if m.Header.Get(event.HeaderRequest) != "mine-1" || m.Header.Get(event.HeaderTraceparent) != parent {
			t.Errorf("header of the message: %v", m.Header)
		}
	case <-time.After(time.Minute):
		t.Fatal("no message")
	}
	if got := b.do("GET", "/health", "", "X-Request-Id", "two words").Header.Get("X-Request-Id"); got == "two words" || got == "" {
		t.Errorf("X-Request-Id is %q", got)
	}
}
