package event_test

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
)

// goldenNames freezes every name and number of the wire. Lines may be added, with -update; a changed or lost line breaks those
// who speak the wire.
var goldenNames = filepath.Join("testdata", "names.txt")

func TestNamesOfTheWireAreFrozen(t *testing.T) {
	got := wireNames(t)
	if *update {
		if err := os.WriteFile(goldenNames, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenNames)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("names of the wire (-%s +code):\n%s", goldenNames, diff)
	}
}

// wireNames lists the exported constants of the package, what its functions make of an id, and its durations.
func wireNames(t *testing.T) string {
	var b strings.Builder
	for _, c := range constants(t) {
		fmt.Fprintf(&b, "%s = %s\n", c.Name(), c.Val().ExactString())
	}
	fmt.Fprintf(&b, "DefaultHeartbeat = %v\nAcceptDeadline = %v\nPushDeadline = %v\nMaxHeartbeat = %v\n",
		event.DefaultHeartbeat, event.AcceptDeadline, event.PushDeadline, time.Duration(event.MaxHeartbeat))
	fmt.Fprintf(&b, "AgentSubjects = %v\nWorkSubjects = %v\n", event.AgentSubjects(), event.WorkSubjects())
	fmt.Fprintf(&b, "register subject = %s\n", event.AgentSubject(event.VerbRegister, "a"))
	fmt.Fprintf(&b, "run-start subject = %s\n", event.CommandSubject(event.KindRunStart, "r"))
	fmt.Fprintf(&b, "heartbeat subject = %s\n", event.HeartbeatSubject("a"))
	fmt.Fprintf(&b, "task subject = %s\n", event.TaskSubject("a"))
	fmt.Fprintf(&b, "cancel subject = %s\n", event.CancelSubject("a"))
	fmt.Fprintf(&b, "push subject = %s\n", event.PushSubject("a"))
	fmt.Fprintf(&b, "push cancel subject = %s\n", event.PushCancelSubject("a"))
	fmt.Fprintf(&b, "poll subject = %s\n", event.PollSubject("a"))
	fmt.Fprintf(&b, "agent fact subject = %s\n", event.FactSubject("agent", "a"))
	fmt.Fprintf(&b, "run fact subject = %s\n", event.FactSubject("run", "r"))
	fmt.Fprintf(&b, "dead subject = %s\n", event.DeadSubject(event.CodeTooLarge))
	fmt.Fprintf(&b, "query subject = %s\n", event.APISubject("run", "get"))
	return b.String()
}

// constants returns the exported constants of the package whose value is a text or a number, by name.
func constants(t *testing.T) []*types.Const {
	t.Helper()
	fset := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	// What is imported is not looked at: the constants that need it, the durations, have no value then and are left out.
	config := types.Config{Importer: nothing{}, Error: func(error) {}}
	pkg, _ := config.Check("event", fset, files, nil)
	var found []*types.Const
	for _, name := range pkg.Scope().Names() {
		c, ok := pkg.Scope().Lookup(name).(*types.Const)
		if ok && c.Exported() && c.Val().Kind() != constant.Unknown {
			found = append(found, c)
		}
	}
	return found
}

// nothing imports nothing.
type nothing struct{}

var _ types.Importer = nothing{}

func (nothing) Import(path string) (*types.Package, error) {
	return nil, fmt.Errorf("%s is not needed", path)
}

// Those who read docs/wire.md speak other languages: nothing that this package names may be absent there.
func TestEveryNameOfTheWireIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "wire.md"))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.FieldsFunc(string(page), func(r rune) bool {
		return strings.ContainsRune(" \n\t`|,;:\"(){}[]", r)
	})
	for _, c := range constants(t) {
		if c.Val().Kind() != constant.String || strings.HasPrefix(c.Name(), "Consumer") {
			continue // durables are the servers' own
		}
		name := constant.StringVal(c.Val())
		if strings.HasPrefix(c.Name(), "Subject") {
			name = strings.TrimRight(name, "*>")
			if !strings.Contains(string(page), name) {
				t.Errorf("docs/wire.md does not mention subject %s (%s)", name, c.Name())
			}
			continue
		}
		if !slices.Contains(words, strings.TrimSuffix(name, ".")) && !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/wire.md does not mention %s (%s)", name, c.Name())
		}
	}
	for _, subject := range []string{
		event.AgentSubject(event.VerbRegister, "<agent>"), event.HeartbeatSubject("<agent>"), event.TaskSubject("<agent>"),
		event.CancelSubject("<agent>"), event.PushSubject("<agent>"), event.PushCancelSubject("<agent>"),
		event.FactSubject("agent", "<id>"), event.FactSubject("run", "<id>"), event.DeadSubject("<code>"), event.APISubject("<noun>", "<verb>"),
	} {
		if !strings.Contains(string(page), "`"+subject+"`") {
			t.Errorf("docs/wire.md does not mention subject `%s`", subject)
		}
	}
}

// What the page tells people to type is taken.
func TestExamplesOfThePageAreTaken(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "wire.md"))
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile(`nats req (opscore\.v1\.(?:agent|command)\.\S+) '([^']*)'`).FindAllStringSubmatch(string(page), -1)
	if len(examples) < 8 {
		t.Errorf("%d examples found, want at least 8", len(examples))
	}
	for _, e := range examples {
		if _, err := event.Decode(e[1], []byte(e[2])); err != nil {
			t.Errorf("%s: %v", e[0], err)
		}
	}
}

// Every member of every body stands on the page too, in code type.
func TestEveryMemberOfTheWireIsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "wire.md"))
	if err != nil {
		t.Fatal(err)
	}
	for typ, members := range goldenMembers(t) {
		for name := range members {
			if !strings.Contains(string(page), "`"+name+"`") && !strings.Contains(string(page), `"`+name+`"`) {
				t.Errorf("docs/wire.md does not mention member %s of %v", name, typ)
			}
		}
	}
}

func TestStreamOfIntakeSubjects(t *testing.T) {
	for subject, want := range map[string]string{
		event.AgentSubject(event.VerbRegister, "a"):             event.StreamAgent,
		event.AgentSubject(event.VerbState, "=a=2Eb"):           event.StreamAgent,
		event.AgentSubject(event.VerbResult, "a"):               event.StreamWork,
		event.CommandSubject(event.KindAgentCordon, "a"):        event.StreamAgent,
		event.CommandSubject(event.KindRunStart, "r"):           event.StreamWork,
		event.CommandSubject(event.KindWorkflowApply, "w"):      event.StreamWork,
		event.AgentSubject(event.VerbState, ""):                 "",
		event.AgentSubject(event.VerbState, "a.b"):              "",
		event.CommandSubject(event.CommandKind("run-eat"), "r"): "",
		event.HeartbeatSubject("a"):                             "",
	} {
		if got := event.StreamOf(subject); got != want {
			t.Errorf("%s: %q, want %q", subject, got, want)
		}
	}
}
