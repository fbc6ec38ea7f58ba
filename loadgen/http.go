package loadgen

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// The routes of the old API, and those of the new one that the load generator uses.
const (
	pathNotify    = "/v1/opscore/internal/agent/notify"
	pathAgents    = "/v1/opscore/agent/"
	pathRuns      = "/api/v1/runs"
	pathWorkflows = "/api/v1/workflows/"
)

// headerSequence tells where a message stands that an answer is about, as "OPSCORE_AGENT/123".
const headerSequence = "Opscore-Sequence"

// httpTransport sends what users do over HTTP.
type httpTransport struct {
	base *url.URL
	key  string
}

func newHTTPTransport(base, key string) (*httpTransport, error) {
	u, err := url.Parse(strings.TrimRight(base, "/"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%w: %q is not the URL of a server; it looks like http://127.0.0.1:8000", ErrConfig, base)
	}
	return &httpTransport{base: u, key: key}, nil
}

func (t *httpTransport) session() session {
	return &httpSession{transport: t, conn: httpConn{base: t.base}}
}

func (*httpTransport) close() {}

func (*httpTransport) newRunID() string { return "" }

func (*httpTransport) operation(op Op) string {
	switch op {
	case OpRegister:
		return "POST register"
	case OpDeregister:
		return "POST deregister"
	case OpPostState:
		return "POST state"
	case OpGetState, OpAwaitState:
		return "GET state"
	case OpTrigger:
		return "POST workflow"
	case OpStartRun:
		return "POST run"
	}
	return string(op)
}

// httpSession is one user's.
type httpSession struct {
	transport *httpTransport
	conn      httpConn
}

func (s *httpSession) drop() { s.conn.close() }

// httpRequest is one request to be sent.
type httpRequest struct {
	method, path string
	body         any // nil: none
	noKey        bool
	id           string // X-Request-Id
	header       [][2]string
}

func (s *httpSession) do(ctx context.Context, a *action) reply {
	r := httpRequest{method: http.MethodPost, noKey: a.step.NoKey, id: a.request}
	exactly := 0
	switch a.step.Op {
	case OpRegister, OpDeregister:
		r.path, r.body = pathNotify, notification(a)
		exactly = http.StatusOK
	case OpPostState:
		r.path, r.body = pathAgents+url.PathEscape(a.agent)+"/state", stateReport(a)
	case OpGetState, OpAwaitState:
		r.method, r.path = http.MethodGet, pathAgents+url.PathEscape(a.agent)+"/state"
	case OpTrigger:
		r.path, r.body = pathAgents+url.PathEscape(a.agent)+"/workflow", trigger(a)
	case OpStartRun:
		r.path, r.body = pathRuns, runStart(a)
	}
	answer, err := s.send(ctx, &r)
	out := reply{status: answer.status, bytes: len(answer.body)}
	switch {
	case err != nil:
		out.failed = classify(err)
		return out
	case answer.status >= 400, exactly != 0 && answer.status != exactly:
		out.failed = failuref(strconv.Itoa(answer.status), "%s", detail(answer.body))
		out.refused = answer.status >= 400 && answer.status < 500
		return out
	}
	out.position = parsePosition(answer.header.Get(headerSequence))
	out.missing = bytes.Equal(bytes.TrimSpace(answer.body), []byte("null"))
	return out
}

// send makes one exchange.
func (s *httpSession) send(ctx context.Context, r *httpRequest) (httpAnswer, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = event.Marshal(r.body); err != nil {
			return httpAnswer{}, fmt.Errorf("encode the body: %w", err)
		}
	}
	header := append(r.header, [2]string{"X-Request-Id", r.id})
	if !r.noKey && s.transport.key != "" {
		header = append(header, [2]string{"Authorization", "Bearer " + s.transport.key})
	}
	buffer := make([]byte, 0, 512+len(body))
	return s.conn.roundTrip(ctx, r.method, s.conn.appendRequest(buffer, r.method, r.path, header, body))
}

// detail returns what an answer says is wrong: its member detail or title, or else its text.
func detail(body []byte) string {
	var problem struct {
		Detail event.Raw `json:"detail"`
		Title  string    `json:"title"`
	}
	if event.Unmarshal(body, &problem) == nil {
		var text string
		switch {
		case event.Unmarshal(problem.Detail, &text) == nil && text != "":
			return text
		case len(problem.Detail) > 0:
			return string(problem.Detail)
		case problem.Title != "":
			return problem.Title
		}
	}
	return strings.TrimSpace(string(body))
}

// parsePosition reads the header about the place of a message; the zero Position if there is none.
func parsePosition(text string) Position {
	stream, number, _ := strings.Cut(text, "/")
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return Position{}
	}
	return Position{Stream: stream, Seq: seq}
}

// The bodies of the old API, member by member as the original scripts send them. A number for the ledger is left out when it is 0.

func notification(a *action) any {
	event := "REGISTER"
	if a.step.Op == OpDeregister {
		event = "DEREGISTER"
	}
	type details struct {
		AgentID         string         `json:"agentId"`
		AgentName       string         `json:"agentName"`
		Version         string         `json:"version"`
		Capabilities    []string       `json:"capabilities"`
		ContactEndpoint string         `json:"contactEndpoint"`
		Metadata        map[string]any `json:"metadata"`
	}
	return struct {
		EventType string  `json:"event_type"`
		Details   details `json:"agent_details"`
	}{event, details{
		AgentID: a.agent, AgentName: agentName(a.agent), Version: "1.0", Capabilities: a.scenario.capabilities(),
		ContactEndpoint: contactEndpoint(a.agent), Metadata: a.metadata(),
	}}
}

func stateReport(a *action) any {
	return struct {
		AgentID   string         `json:"agentId"`
		Timestamp string         `json:"timestamp"`
		State     string         `json:"state"`
		Details   map[string]any `json:"details"`
	}{a.agent, pythonTime(time.Now()), a.state, a.details()}
}

// pythonTime writes a time as datetime.now(timezone.utc).isoformat() does.
func pythonTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000+00:00") }

func trigger(a *action) any {
	body := make(map[string]any, 4)
	if a.step.Inline {
		body["workflowDefinition"] = a.scenario.Definition
	} else {
		body["workflowDefinitionId"] = a.step.Workflow
	}
	if len(a.step.Context) > 0 {
		body["agentId"] = a.agent
		body["context"] = merged(map[string]any{"load_test": true, "user": "user-" + a.agent}, a.step.Context)
	}
	if a.n > 0 {
		body["initialPayload"] = map[string]any{"n": a.n}
	}
	return body
}

func runStart(a *action) any {
	body := map[string]any{"input": a.input()}
	if a.step.Inline {
		body["definition"] = a.scenario.Definition
	} else {
		body["workflowId"] = a.step.Workflow
	}
	return body
}
