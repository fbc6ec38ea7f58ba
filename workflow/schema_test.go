package workflow

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow/contract"
)

// languageTypes are the types of the language.
var languageTypes = []reflect.Type{
	reflect.TypeFor[Definition](), reflect.TypeFor[Task](), reflect.TypeFor[Select](), reflect.TypeFor[Case](), reflect.TypeFor[ForEach](),
	reflect.TypeFor[Loop](), reflect.TypeFor[SubWorkflow](), reflect.TypeFor[Wait](), reflect.TypeFor[Signal](), reflect.TypeFor[Approval](),
	reflect.TypeFor[Timeouts](), reflect.TypeFor[Retry](), reflect.TypeFor[OnFailure](), reflect.TypeFor[Compensate](), reflect.TypeFor[Concurrency](),
}

func TestTheSchemaIsAboutEveryMemberAndNoOther(t *testing.T) {
	t.Parallel()
	members := make(map[string]bool)
	for _, of := range languageTypes {
		for name := range membersOf(of) {
			members[of.Name()+"."+name] = true
			if memberDocs[of.Name()+"."+name].text == "" {
				t.Errorf("nothing is said of %s.%s", of.Name(), name)
			}
		}
	}
	for name := range memberDocs {
		if !members[name] {
			t.Errorf("%s is no member of the language", name)
		}
	}
	var schema struct {
		Defs map[string]struct {
			Properties map[string]event.Raw `json:"properties"`
			Required   []string             `json:"required"`
		} `json:"$defs"`
	}
	if err := event.Unmarshal(JSONSchema(), &schema); err != nil {
		t.Fatal(err)
	}
	if len(schema.Defs) != len(languageTypes) {
		t.Errorf("the schema is about %d types, want %d", len(schema.Defs), len(languageTypes))
	}
	for name, d := range schema.Defs {
		for _, needed := range d.Required {
			if d.Properties[needed] == nil {
				t.Errorf("%s must have %s, which is no member", name, needed)
			}
		}
	}
}

func TestTheSchemaOfTheDocumentationIsThisOne(t *testing.T) {
	t.Parallel()
	file := filepath.Join("..", "docs", "workflow.schema.json")
	if *update {
		if err := os.WriteFile(file, JSONSchema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(kept), string(JSONSchema())); diff != "" {
		t.Errorf("write it anew with go test ./workflow -run Schema -update:\n%s", diff)
	}
}

// What the checks take the schema takes, and of what they refuse by its shape alone it refuses most.
func TestTheSchemaTakesWhatTheChecksTake(t *testing.T) {
	t.Parallel()
	c := editorSchema(t)
	raw, err := ToJSON([]byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(raw); err != nil {
		t.Errorf("everything: %v", err)
	}
	byShape := []string{
		"labels", "a switch that is no list", "continue", "join of a word", "join of a fraction", "when is no string", "forEach and loop", "items missing",
		"maxParallel", "forEach.onFailure", "a loop without end", "workflow without id", "workflow.input", "wait for years", "signal without name",
		"approval.onReject", "timeouts", "priority", "jitter", "codes",
	}
	for _, m := range mistakenNodes {
		err := c.Check(event.Raw(`{"id":"d","tasks":[` + m.tasks + `]}`))
		if slices.Contains(byShape, m.name) && err == nil {
			t.Errorf("%s is taken", m.name)
		}
	}
	if c.Check(event.Raw(`{"id":"d","tasks":[{"taskId":"a","dependOn":["b"]}]}`)) == nil {
		t.Error("a member that nobody knows is not named")
	}
}

// editorSchema compiles the schema of the language; it is larger than those of definitions may be.
func editorSchema(t *testing.T) *contract.Contract {
	t.Helper()
	compact := event.Raw(JSONSchema())
	if err := compact.Compact(); err != nil {
		t.Fatal(err)
	}
	c, err := contract.Compile(compact)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
