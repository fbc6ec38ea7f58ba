package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
)

// TestOutput compares what every reading command prints with golden files, as a table and as JSON.
func TestOutput(t *testing.T) {
	t.Parallel()
	agent, agent2, run := fixture(t, "agent.json"), fixture(t, "agent2.json"), fixture(t, "run.json")
	waiting, workflow := fixture(t, "waiting.json"), fixture(t, "workflow.json")
	request, refused := fixture(t, "request.json"), fixture(t, "request-refused.json")
	p := newProgram(t, answers(t, map[string]string{
		"GET /api/v1/requests/q-1":    request,
		"GET /api/v1/requests/q-2":    refused,
		"GET /api/v1/agents":          `{"items":[` + agent + `,` + agent2 + `]}`,
		"GET /api/v1/agents/writer-1": agent,

		"GET /api/v1/agents/writer-1/history": fixture(t, "agent-history.json"),
		"GET /api/v1/runs/r-1/history":        fixture(t, "run-history.json"),
		"GET /api/v1/dead/12":                 fixture(t, "dead.json"),
		"GET /api/v1/runs":                    `{"items":[` + run + `]}`,
		"GET /api/v1/runs/r-1":                run,
		"GET /api/v1/runs/r-2":                waiting,
		"POST /api/v1/runs/r-1/cancel":        run,
		"GET /api/v1/workflows":               `{"items":[` + workflow + `]}`,
		"GET /api/v1/workflows/report":        workflow,
		"PUT /api/v1/workflows/report":        `{"workflowId":"report","workflowVersion":"0123456789abcdef"}`,
		"POST /api/v1/runs":                   `{"runId":"r-3","workflowId":"report","workflowVersion":"0123456789abcdef","state":"pending"}`,
	}))
	for name, args := range map[string]string{
		"agent-list":      "agent list",
		"agent-get":       "agents get writer-1",
		"agent-history":   "agent history writer-1",
		"run-history":     "run history r-1",
		"dead-get":        "dead get 12",
		"run-list":        "runs list",
		"run-get":         "run get r-1",
		"run-cancel":      "run cancel r-1 --reason late",
		"run-get-ready":   "run get r-2",
		"run-start":       "run start report",
		"workflow-list":   "workflows list",
		"workflow-get":    "workflow get report",
		"explain-request": "explain request q-1",
		"explain-refused": "explain request q-2",
		"workflow-apply":  "workflow apply -f testdata/report.yaml",
	} {
		for _, format := range []string{formatTable, formatJSON} {
			got := p.run(append(strings.Fields(args), "-o", format)...)
			if got.code != exitOK || got.stderr != "" {
				t.Errorf("%s: %+v", args, got)
			}
			golden(t, name+"."+format, got.stdout)
		}
	}
}

// TestEmptyList prints an empty list, not nothing.
func TestEmptyList(t *testing.T) {
	t.Parallel()
	p := newProgram(t, answers(t, map[string]string{"GET /api/v1/runs": `{"items":[]}`}))
	if got := p.run("run", "list", "-o", "json"); got.stdout != "{\n  \"items\": []\n}\n" {
		t.Errorf("%+v", got)
	}
	if got := p.run("run", "list"); got.stdout != "RUN  WORKFLOW  STATE  CREATED  DURATION  LABELS  ERROR\n" {
		t.Errorf("%+v", got)
	}
}

// TestListFollowsPages prints the items of all pages as one list.
func TestListFollowsPages(t *testing.T) {
	t.Parallel()
	page := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("cursor") {
		case "":
			_, _ = w.Write([]byte(`{"items":[{"agentId":"a"},{"agentId":"b"}],"nextCursor":"b & c"}`))
		case "b & c":
			_, _ = w.Write([]byte(`{"items":[{"agentId":"a-longer-one"}],"nextCursor":"d"}`))
		default:
			_, _ = w.Write([]byte(`{"items":[]}`))
		}
	}
	p := newProgram(t, http.HandlerFunc(page))
	got := p.run("agent", "list", "-o", "json")
	var list event.List[event.Agent]
	if err := event.Unmarshal([]byte(got.stdout), &list); err != nil {
		t.Fatalf("%v in %+v", err, got)
	}
	var ids []string
	for _, a := range list.Items {
		ids = append(ids, a.AgentID)
	}
	if diff := cmp.Diff([]string{"a", "b", "a-longer-one"}, ids); diff != "" {
		t.Error(diff)
	}
	if table := p.run("agent", "list").stdout; strings.Count(table, "\n") != 4 || strings.Count(table, "AGENT") != 1 {
		t.Errorf("table:\n%s", table)
	}
}

// TestListThatBreaks fails, and leaves no JSON that looks whole.
func TestListThatBreaks(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]http.HandlerFunc{
		"refusal":     problemOf(500, `{"detail":"no more"}`),
		"same cursor": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"items":[],"nextCursor":"x"}`)) },
	} {
		p := newProgram(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("cursor") {
				second(w, r)
				return
			}
			_, _ = w.Write([]byte(`{"items":[{"agentId":"a"}],"nextCursor":"x"}`))
		}))
		got := p.run("agent", "list", "-o", "json")
		if got.code != exitFailure || event.Raw(got.stdout).IsValid() || got.stderr == "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestRow aligns, cuts and colours cells.
func TestRow(t *testing.T) {
	t.Parallel()
	cells := []cell{text("añb"), text("c").in(colorGood), text("")}
	for _, c := range []struct {
		style style
		limit int
		want  string
	}{
		{style{}, 0, "añb   c  -"},
		{style{}, 7, "añb   c"},
		{style{}, 6, "añb"},
		{style{}, 2, "a…"},
		{style{color: true}, 0, "añb   \x1b[32mc\x1b[0m  -"},
	} {
		if got := c.style.row(cells, []int{4, 1, 1}, c.limit); got != c.want {
			t.Errorf("limit %d: %q, want %q", c.limit, got, c.want)
		}
	}
}

// TestTimes shows times as people say them on a terminal, and exactly elsewhere.
func TestTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour:                         "now",
		300 * time.Millisecond:             "now",
		12345 * time.Millisecond:           "12.3s ago",
		3*time.Minute + 4*time.Second:      "3m4s ago",
		5*time.Hour + 29*time.Second:       "5h0m ago",
		50*time.Hour + 10*time.Minute:      "2d ago",
		time.Hour - 100*time.Millisecond:   "1h0m0s ago",
		999*time.Millisecond + 1*time.Hour: "1h0m ago",
	} {
		if got := (style{terminal: true, now: now}).time(now.Add(-d)).text; got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := (style{now: now}).time(now).text; got != "2026-11-21T12:00:00Z" {
		t.Errorf("%q", got)
	}
}

// TestReasonLines names each reason once, and not all of many agents.
func TestReasonLines(t *testing.T) {
	t.Parallel()
	var many []event.Refusal
	for _, id := range strings.Fields("a b c d e f g") {
		many = append(many, event.Refusal{AgentID: id, Rule: "cordoned", Text: "it is cordoned"})
	}
	got := reasonLines(append(many, event.Refusal{AgentID: "h", Rule: "a_new_rule"}))
	if diff := cmp.Diff([]string{"a, b, c, d, e and 2 more: it is cordoned", "h: a_new_rule"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestCompletionOffersIDs asks the server what a shell may complete.
func TestCompletionOffersIDs(t *testing.T) {
	t.Parallel()
	p := newProgram(t, answers(t, map[string]string{
		"GET /api/v1/runs":      `{"items":[{"runId":"r-1"},{"runId":"r-2"}]}`,
		"GET /api/v1/workflows": `{"items":[{"workflowId":"report"}]}`,
		"GET /api/v1/agents":    `{"items":[{"agentId":"writer-1"}]}`,
	}))
	for args, want := range map[string]string{
		"run get":             "r-1\nr-2\n",
		"run start":           "report\n",
		"agent get":           "writer-1\n",
		"run start x --agent": "writer-1\n",
		"run get r-1":         "",
	} {
		got := p.run(append(append([]string{"__complete"}, strings.Fields(args)...), "")...)
		if !strings.HasPrefix(got.stdout, want+":4\n") {
			t.Errorf("%s: %+v", args, got)
		}
	}
}
