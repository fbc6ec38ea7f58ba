package event_test

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
)

var update = flag.Bool("update", false, "rewrite testdata/names.txt")

// goldenAgent is the agent that the golden files are about; its id does not stand for itself in a subject.
const goldenAgent = "agent:7"

// golden is one file of testdata: a body as it goes over the wire, frozen. A file is never edited once it was released; a new optional
// member gets a new file.
type golden struct {
	file    string // without its suffix
	subject string // of an intake message, else empty
	body    func() any
}

func goldens() []golden {
	agent := event.MustToken(goldenAgent)
	says := func(file string, verb event.Verb) golden {
		return golden{file: file, subject: event.AgentSubject(verb, agent)}
	}
	command := func(file string, kind event.CommandKind, id string) golden {
		return golden{file: file, subject: event.CommandSubject(kind, event.MustToken(id))}
	}
	const run = "0199c7a0-1111-7000-8000-000000000001"
	return []golden{
		says("register", event.VerbRegister),
		says("register-least", event.VerbRegister),
		says("register-schemas", event.VerbRegister),
		says("deregister", event.VerbDeregister),
		says("state", event.VerbState),
		says("state-least", event.VerbState),
		says("accepted", event.VerbAccepted),
		says("progress", event.VerbProgress),
		says("result-completed", event.VerbResult),
		says("result-failed", event.VerbResult),
		command("workflow-apply", event.KindWorkflowApply, "digest"),
		command("run-start", event.KindRunStart, run),
		command("run-start-inline", event.KindRunStart, run),
		command("run-cancel", event.KindRunCancel, run),
		command("run-pause", event.KindRunPause, run),
		command("run-resume", event.KindRunResume, run),
		command("run-signal", event.KindRunSignal, run),
		command("run-retry", event.KindRunRetry, run),
		command("schedule-apply", event.KindScheduleApply, "nightly"),
		command("schedule-delete", event.KindScheduleDelete, "nightly"),
		command("schedule-pause", event.KindSchedulePause, "nightly"),
		command("schedule-resume", event.KindScheduleResume, "nightly"),
		command("schedule-trigger", event.KindScheduleTrigger, "nightly"),
		command("queue-pause", event.KindQueuePause, "code"),
		command("queue-resume", event.KindQueueResume, "code"),
		command("run-retry-all", event.KindRunRetry, run),
		command("run-rerun", event.KindRunRerun, run),
		command("run-approve", event.KindRunApprove, run),
		command("run-reject", event.KindRunReject, run),
		command("run-start-later", event.KindRunStart, run),
		command("run-start-at", event.KindRunStart, run),
		command("run-start-within", event.KindRunStart, run),
		command("workflow-pause", event.KindWorkflowPause, "digest"),
		command("workflow-resume", event.KindWorkflowResume, "digest"),
		command("agent-cordon", event.KindAgentCordon, goldenAgent),
		command("agent-uncordon", event.KindAgentUncordon, goldenAgent),
		command("agent-drain", event.KindAgentDrain, goldenAgent),
		{file: "heartbeat", body: func() any { return new(event.Heartbeat) }},
		{file: "task", body: func() any { return new(event.Task) }},
		{file: "task-item", body: func() any { return new(event.Task) }},
		{file: "task-accepted", body: func() any { return new(event.TaskAnswer) }},
		{file: "task-rejected", body: func() any { return new(event.TaskAnswer) }},
		{file: "cancel", body: func() any { return new(event.Cancel) }},
		{file: "cancel-cancelled", body: func() any { return new(event.CancelAnswer) }},
		{file: "cancel-unknown", body: func() any { return new(event.CancelAnswer) }},
		{file: "cancel-finished", body: func() any { return new(event.CancelAnswer) }},
		{file: "outcome-agent", body: func() any { return new(event.Outcome) }},
		{file: "outcome-run", body: func() any { return new(event.Outcome) }},
		{file: "outcome-refused", body: func() any { return new(event.Outcome) }},
		{file: "outcome-held", body: func() any { return new(event.Outcome) }},
		{file: "run", body: func() any { return new(event.Run) }},
		{file: "run-children", body: func() any { return new(event.Run) }},
		{file: "run-undone", body: func() any { return new(event.Run) }},
		{file: "agent", body: func() any { return new(event.Agent) }},
		{file: "agent-draining", body: func() any { return new(event.Agent) }},
		{file: "agent-schemas", body: func() any { return new(event.Agent) }},
		{file: "explain-run", body: func() any { return new(event.RunExplanation) }},
		{file: "explain-run-unfit", body: func() any { return new(event.RunExplanation) }},
		{file: "explain-agent-free", body: func() any { return new(event.AgentExplanation) }},
		{file: "explain-agent", body: func() any { return new(event.AgentExplanation) }},
		{file: "definition", body: func() any { return new(event.Definition) }},
		{file: "schedule", body: func() any { return new(event.Schedule) }},
		{file: "definition-paused", body: func() any { return new(event.Definition) }},
		{file: "approval", body: func() any { return new(event.Approval) }},
		{file: "approval-of-item", body: func() any { return new(event.Approval) }},
		{file: "run-controlled", body: func() any { return new(event.Run) }},
		{file: "fact-agent", body: func() any { return new(event.Fact) }},
		{file: "fact-run", body: func() any { return new(event.Fact) }},
		{file: "list", body: func() any { return new(event.List[event.Agent]) }},
		{file: "list-empty", body: func() any { return new(event.List[event.Agent]) }},
		{file: "request", body: func() any { return new(event.RequestTrace) }},
		{file: "request-named", body: func() any { return new(event.RequestTrace) }},
		{file: "wake", body: func() any { return new(event.Wake) }},
	}
}

func (g golden) text(tb testing.TB) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", g.file+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// decode returns what the file says, as the type it is about.
func (g golden) decode(tb testing.TB) any {
	tb.Helper()
	if g.subject == "" {
		v := g.body()
		if err := event.Unmarshal(g.text(tb), v); err != nil {
			tb.Fatal(err)
		}
		return v
	}
	m, err := event.Decode(g.subject, g.text(tb))
	if err != nil {
		tb.Fatal(err)
	}
	if w, ok := m.Event.(*event.WorkflowApply); ok {
		return &w.Definition
	}
	return m.Event
}

func TestGoldenBodiesSurviveDecodingByteByByte(t *testing.T) {
	for _, g := range goldens() {
		t.Run(g.file, func(t *testing.T) {
			again, err := event.Marshal(g.decode(t))
			if err != nil {
				t.Fatal(err)
			}
			indented := jsontext.Value(again)
			if err := indented.Indent(jsontext.WithIndent("  ")); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(g.text(t)), string(indented)+"\n"); diff != "" {
				t.Errorf("decoded and encoded again (-file +again):\n%s", diff)
			}
		})
	}
}

func TestEveryGoldenFileIsRead(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	for _, g := range goldens() {
		known[g.file+".json"] = true
	}
	for _, f := range files {
		if !known[filepath.Base(f)] {
			t.Errorf("%s is read by no test", f)
		}
	}
}

// A member that stands in no golden file could be renamed without a test noticing.
func TestEveryMemberOfTheWireStandsInAGoldenFile(t *testing.T) {
	seen := goldenMembers(t)
	for typ, members := range seen {
		for name, used := range members {
			if !used {
				t.Errorf("%v: member %s stands in no golden file", typ, name)
			}
		}
	}
	if want := 20; len(seen) < want {
		t.Errorf("golden files hold %d types, want at least %d", len(seen), want)
	}
}

// goldenMembers lists the members of every type that the golden files hold, and says whether a file gives them a value.
func goldenMembers(t *testing.T) map[reflect.Type]map[string]bool {
	t.Helper()
	seen := make(map[reflect.Type]map[string]bool)
	for _, g := range goldens() {
		collectMembers(reflect.ValueOf(g.decode(t)), seen)
	}
	return seen
}

// collectMembers notes for each struct within v which of its members have a value.
func collectMembers(v reflect.Value, seen map[reflect.Type]map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			collectMembers(v.Elem(), seen)
		}
	case reflect.Slice:
		for i := range v.Len() {
			collectMembers(v.Index(i), seen)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			collectMembers(it.Value(), seen)
		}
	case reflect.Struct:
		for field, value := range v.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name != "-" && name != "" {
				if seen[v.Type()] == nil {
					seen[v.Type()] = make(map[string]bool)
				}
				seen[v.Type()][name] = seen[v.Type()][name] || !value.IsZero()
			}
			collectMembers(value, seen)
		}
	}
}

func TestUnknownMembersAreIgnored(t *testing.T) {
	for _, g := range goldens() {
		if g.subject == "" || g.file == "workflow-apply" {
			continue
		}
		t.Run(g.file, func(t *testing.T) {
			want, err := event.Decode(g.subject, g.text(t))
			if err != nil {
				t.Fatal(err)
			}
			more := strings.Replace(string(g.text(t)), "{", `{"registrationTime":"2025-01-01","x":[{"y":null}],`, 1)
			got, err := event.Decode(g.subject, []byte(more))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("with unknown members (-without +with):\n%s", diff)
			}
		})
	}
}
