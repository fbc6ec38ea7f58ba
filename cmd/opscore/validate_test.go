package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

const doubtful = "id: d\ntasks:\n  - taskId: a\n    agentCapability: nobody-offers-this\n    retrys: 3\n"

func TestValidate(t *testing.T) {
	t.Parallel()
	p := &program{t: t}
	p.stdin = doubtful
	got := p.run("workflow", "validate", "-", "testdata/report.yaml")
	if got.code != exitOK || !strings.Contains(got.stderr, "stdin:5: warning: nobody knows \"retrys\", so it does nothing (did you mean \"retry\"?)\n") ||
		!strings.Contains(got.stderr, "\n     4 |     agentCapability: nobody-offers-this\n>    5 |     retrys: 3\n") || strings.Contains(got.stderr, "no agent offers") || !strings.Contains(got.stdout, "report") {
		t.Errorf("%+v", got)
	}
	p.stdin = fixture(t, "broken.yaml")
	got = p.run("workflow", "validate", "testdata/report.yaml", "-")
	if got.code != exitFailure || !strings.Contains(got.stderr, "stdin:4: ") || !strings.Contains(got.stderr, "opscore: 3 mistakes\n") {
		t.Errorf("%+v", got)
	}
	p.stdin = fixture(t, "broken.yaml")
	got = p.run("workflow", "validate", "-", "-o", "json")
	var out struct {
		Files []verdict `json:"files"`
	}
	if err := event.Unmarshal([]byte(got.stdout), &out); err != nil || len(out.Files) != 1 || out.Files[0].Valid || len(out.Files[0].Mistakes) != 3 ||
		out.Files[0].Mistakes[0].Excerpt == "" || got.code != exitFailure {
		t.Errorf("%v: %+v", err, got)
	}
	p.stdin = "id: d\ntask:\n  - taskId: a\n"
	const said = "stdin:1: tasks is missing\n>    1 | id: d\n     2 | task:\n" +
		"stdin:3: warning: nobody knows \"task\", so it does nothing (did you mean \"tasks\"?)\n     2 | task:\n>    3 |   - taskId: a\n"
	for _, args := range [][]string{{"validate", "-"}, {"apply", "-f", "-"}} {
		if got := p.run(append([]string{"workflow"}, args...)...); got.code != exitFailure || !strings.HasPrefix(got.stderr, said) {
			t.Errorf("%v: %+v", args, got)
		}
	}
	if got := p.run("workflow", "validate", "testdata/absent.yaml"); got.code != exitFailure || !strings.Contains(got.stderr, "absent.yaml") {
		t.Errorf("%+v", got)
	}
	if got := p.run("workflow", "validate"); got.code != exitUsage {
		t.Errorf("%+v", got)
	}
}

// With a server, a capability that nobody offers is a warning, of validate and of apply.
func TestACapabilityThatNobodyOffersIsAWarning(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "d.yaml")
	if err := os.WriteFile(file, []byte(doubtful+"    nextTaskId: b\n  - {taskId: b, agentCapability: work}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, answers(t, map[string]string{
		"GET /api/v1/agents":      `{"items":[{"agentId":"a1","capabilities":["work"]}]}`,
		"PUT /api/v1/workflows/d": `{"workflowId":"d","workflowVersion":"v"}`,
	}))
	for _, args := range [][]string{{"workflow", "validate", file}, {"workflow", "apply", "-f", file}} {
		got := p.run(args...)
		if got.code != exitOK || !strings.Contains(got.stderr, `:4: warning: no agent offers the capability "nobody-offers-this" now`) || strings.Contains(got.stderr, `"work"`) {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

func TestTheSchemaIsPrinted(t *testing.T) {
	t.Parallel()
	kept, err := os.ReadFile("../../docs/workflow.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := (&program{t: t}).run("workflow", "schema"); got.code != exitOK || got.stdout != string(kept) {
		t.Errorf("%d bytes, want %d", len(got.stdout), len(kept))
	}
}
