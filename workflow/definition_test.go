package workflow

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// sample is the definition that the old service shipped, member for member.
const sample = `{
  "id": "sample_workflow_id",
  "name": "Sample Workflow",
  "description": "A simple workflow for testing.",
  "version": "1.0",
  "tasks": [
    {
      "taskId": "step_1",
      "name": "First Step",
      "agentCapability": "test_capability",
      "parameters": {"message": "Hello from step 1"},
      "nextTaskId": "step_2"
    },
    {
      "taskId": "step_2",
      "name": "Second Step",
      "agentCapability": "another_capability",
      "parameters": {"value": 123},
      "nextTaskId": null
    }
  ]
}
`

const sampleYAML = `# the same
id: sample_workflow_id
name: Sample Workflow
description: A simple workflow for testing.
version: "1.0"
tasks:
  - taskId: step_1
    name: First Step
    agentCapability: test_capability
    parameters: {message: Hello from step 1}
    nextTaskId: step_2
  - taskId: step_2
    name: Second Step
    agentCapability: another_capability
    parameters:
      value: 123
    nextTaskId: null
`

func TestTheOldShapeIsReadFromJSONAndYAML(t *testing.T) {
	t.Parallel()
	next := "step_2"
	want := &Definition{
		ID: "sample_workflow_id", Name: "Sample Workflow", Description: "A simple workflow for testing.", Version: "1.0",
		Tasks: []Task{
			{
				TaskID: "step_1", Name: "First Step", AgentCapability: "test_capability",
				Parameters: event.Raw(`{"message":"Hello from step 1"}`), NextTaskID: &next,
			},
			{TaskID: "step_2", Name: "Second Step", AgentCapability: "another_capability", Parameters: event.Raw(`{"value":123}`)},
		},
	}
	for name, source := range map[string]string{"JSON": sample, "YAML": sampleYAML, "JSON with a margin": "\n\t " + sample + " \r\n"} {
		got, err := ParseFile([]byte(source))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(event.MustMarshal(want), compact(t, got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got.Find("step_2") != &got.Tasks[1] || got.Find("step_3") != nil {
			t.Errorf("%s: tasks are not found by their ids", name)
		}
	}
}

func compact(t *testing.T, d *Definition) []byte {
	t.Helper()
	raw := event.Raw(event.MustMarshal(d))
	if err := raw.Compact(); err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRetryAndTimeoutAreRead(t *testing.T) {
	t.Parallel()
	const definition = `{"id":"d","timeoutSeconds":2.5,"retry":{"attempts":0},"tasks":[{"taskId":"a","timeoutSeconds":7,
		"retry":{"attempts":2,"initialSeconds":0.5,"maxSeconds":8,"factor":1.5}}]}`
	d, err := Parse(event.Raw(definition))
	if err != nil {
		t.Fatal(err)
	}
	two, none := 2, 0
	if diff := cmp.Diff(&Retry{Attempts: &two, InitialSeconds: 0.5, MaxSeconds: 8, Factor: 1.5}, d.Tasks[0].Retry); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&Retry{Attempts: &none}, d.Retry); diff != "" {
		t.Error(diff)
	}
	if d.TimeoutSeconds != 2.5 || d.Tasks[0].TimeoutSeconds != 7 {
		t.Errorf("timeouts %v and %v", d.TimeoutSeconds, d.Tasks[0].TimeoutSeconds)
	}
}

func TestUnknownMembersAreIgnored(t *testing.T) {
	t.Parallel()
	const definition = `{"id":"d","ID":5,"owner":{"a":[1]},"tasks":[{"taskId":"a","task_id":7,"retries":"many","retry":{"why":null}}]}`
	d, err := Parse(event.Raw(definition))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"id":"d","tasks":[{"taskId":"a","retry":{}}]}`; string(event.MustMarshal(d)) != want {
		t.Errorf("got %s, want %s", event.MustMarshal(d), want)
	}
}

// Each file holds every mistake that can stand beside the others.
const (
	mistakenJSON = `{
  "name": "no id",
  "timeoutSeconds": -1,
  "retry": {"attempts": 1001, "factor": -2},
  "tasks": [
    {"taskId": "a", "nextTaskId": "b", "parameters": [1]},
    {"taskId": "b",
     "nextTaskId": "a"},
    {"taskId": "a"},
    {"name": "no taskId"},
    {"taskId": "self",
     "nextTaskId": "self"},
    {"taskId": "c",
     "nextTaskId": "nowhere"},
    {"taskId": "d", "agentCapability": 5,
     "timeoutSeconds": "soon", "retry": {"attempts": 1.5,
     "maxSeconds": 1e12}},
    "e"
  ]
}
`
	mistakenYAML = `name: no id
timeoutSeconds: -1
retry: {attempts: 1001, factor: -2}
tasks:
  - taskId: a
    nextTaskId: b
    parameters: [1]
  - taskId: b
    nextTaskId: a
  - taskId: a
  - name: no taskId
  - taskId: self
    nextTaskId: self
  - taskId: c
    nextTaskId: nowhere
  - taskId: d
    agentCapability: 5
    timeoutSeconds: soon
    retry:
      attempts: 1.5
      maxSeconds: 1000000000000
  - e
`
)

func TestAllMistakesAreNamedAtOnceWithTheirLines(t *testing.T) {
	t.Parallel()
	mistakes := []struct {
		path, text string
		json, yaml int // lines
	}{
		{"$.tasks[6].agentCapability", `agentCapability must be a string, not 5`, 15, 17},
		{"$.tasks[6].timeoutSeconds", `timeoutSeconds must be a number, not "soon"`, 16, 18},
		{"$.tasks[6].retry.attempts", `attempts must be a whole number, not 1.5`, 16, 20},
		{"$.tasks[7]", `a task must be an object, not "e"`, 18, 22},
		{"$.id", `id is missing`, 1, 1},
		{"$.timeoutSeconds", `timeoutSeconds must be 0 to 31536000`, 3, 2},
		{"$.retry.attempts", `retry.attempts must be 0 to 1000`, 4, 3},
		{"$.retry.factor", `retry.factor must not be negative`, 4, 3},
		{"$.tasks[0].parameters", `parameters must be an object`, 6, 7},
		{"$.tasks[2].taskId", `taskId "a" is used twice, first by task 1`, 9, 10},
		{"$.tasks[3].taskId", `taskId is missing`, 10, 11},
		{"$.tasks[6].retry.maxSeconds", `retry.maxSeconds must be 0 to 31536000`, 17, 21},
		{"$.tasks[5].nextTaskId", `nextTaskId "nowhere" names no task of this definition`, 14, 15},
		{"$.tasks[1].nextTaskId", `a cycle: a → b → a`, 8, 9},
		{"$.tasks[4].nextTaskId", `a cycle: self → self`, 12, 13},
	}
	for name, source := range map[string]string{"JSON": mistakenJSON, "YAML": mistakenYAML} {
		_, err := ParseFile([]byte(source))
		var got Problems
		if !errors.As(err, &got) {
			t.Fatalf("%s: %v", name, err)
		}
		var want Problems
		for _, m := range mistakes {
			p := Problem{Path: m.path, Text: m.text, Line: m.json}
			if name == "YAML" {
				p.Line = m.yaml
			}
			want = append(want, p)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Problem{}, "Column")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if lines := strings.Count(err.Error(), "\n") + 1; lines != len(mistakes) {
			t.Errorf("%s: the error has %d lines, want one for each of %d mistakes", name, lines, len(mistakes))
		}
	}
}

func TestAMistakeIsNamed(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 50) // 100 bytes, 301 when escaped
	for _, c := range []struct{ source, want string }{
		{`{"id":"d"}`, "line 1: tasks is missing ($.tasks)"},
		{`{"id":"d","tasks":null}`, "line 1: tasks is missing ($.tasks)"},
		{`{"id":"d","tasks":{}}`, "line 1: tasks must be an array, not an object ($.tasks)"},
		{`{"id":5,"tasks":[]}`, "line 1: id must be a string, not 5 ($.id)"},
		{`{"id":"d","tasks":[null]}`, "line 1: taskId is missing ($.tasks[0].taskId)"},
		{
			`{"id":"d","tasks":[{"taskId":"` + long + `"}]}`,
			"line 1: taskId is too long: escaped for a subject it must have at most 255 bytes ($.tasks[0].taskId)",
		},
		{`{"id":"` + long + `","tasks":[]}`, "line 1: id is too long: escaped for a subject it must have at most 255 bytes ($.id)"},
		{
			`{"id":"d","tasks":[{"taskId":"a","agentId":"` + long + `"}]}`,
			"line 1: agentId is too long: escaped for a subject it must have at most 255 bytes ($.tasks[0].agentId)",
		},
		{
			`{"id":"d","tasks":[{"taskId":"a","timeoutSeconds":1e300}]}`,
			"line 1: timeoutSeconds must be 0 to 31536000 ($.tasks[0].timeoutSeconds)",
		},
		{
			`{"id":"d","tasks":[{"taskId":"a","timeoutSeconds":1e999}]}`,
			"line 1: timeoutSeconds must be a number, not 1e999 ($.tasks[0].timeoutSeconds)",
		},
		{`{"id":"d","tasks":[{"taskId":"a","retry":[]}]}`, "line 1: retry must be an object, not an array ($.tasks[0].retry)"},
		{"[]", "line 1: the definition must be an object, not an array ($)"},
		{"", "id is missing ($.id)\ntasks is missing ($.tasks)"},
		{"just text", "line 1: the definition must be an object, not \"just text\" ($)"},
		{"id: d\nid: e\n", `line 2: mapping key "id" already defined at [1:1]`},
		{"{\"id\":\"d\",\n\"id\":\"e\"}", `line 2: mapping key "id" already defined at [1:2]`},
		{"id: d\n\ttasks: []\n", `line 2: a tab stands here; YAML is indented with blanks`},
		{"id: d\ntasks: []\n---\nid: e\n", "line 4: the file holds more than one document"},
		{"id: d\ntasks: []\nsince: .inf\n", "it holds a number that JSON does not know: .inf or .nan"},
	} {
		_, err := ParseFile([]byte(c.source))
		var p Problems
		if !errors.As(err, &p) || err.Error() != c.want {
			t.Errorf("%.60q:\n got %v\nwant %s", c.source, err, c.want)
		}
	}
}

func TestADefinitionIsBounded(t *testing.T) {
	t.Parallel()
	fat := `{"id":"d","tasks":[],"x":"` + strings.Repeat("x", MaxDefinitionBytes) + `"}`
	for name, parse := range map[string]func() error{
		"Parse":     func() error { _, err := Parse(event.Raw(fat)); return err },
		"ParseFile": func() error { _, err := ParseFile([]byte(fat)); return err },
	} {
		var e *event.Error
		if err := parse(); !errors.As(err, &e) || e.Code != event.CodeTooLarge {
			t.Errorf("%s of %d bytes: %v", name, len(fat), err)
		}
	}
	for n, want := range map[int]string{MaxTasks: "", MaxTasks + 1: "line 1: 10001 tasks, at most 10000 are allowed ($.tasks)"} {
		source := `{"id":"d","tasks":[` + tasks(n) + `]}`
		if _, err := ParseFile([]byte(source)); text(err) != want {
			t.Errorf("%d tasks: %v", n, err)
		}
	}
}

func TestMistakesOfALargeFileAreFoundInNoTime(t *testing.T) {
	t.Parallel()
	source := `{"id":"d","tasks":[` + strings.TrimSuffix(strings.Repeat(`{"taskId":5},`, MaxTasks), ",") + `]}`
	_, err := ParseFile([]byte(source))
	var p Problems
	if !errors.As(err, &p) || len(p) != MaxTasks || p[0].Line != 1 {
		t.Errorf("%d mistakes", len(p))
	}
}

func tasks(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`{"taskId":"t%d"}`, i)
	}
	return strings.Join(all, ",")
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A cycle is found wherever it begins, and only where there is one.
func TestACycleIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "tasks")
		def := &Definition{ID: "d"}
		names := ids(n)
		next := make([]int, n)
		for i := range n {
			task := Task{TaskID: names[i]}
			if next[i] = rapid.IntRange(-1, n-1).Draw(t, "next"); next[i] >= 0 {
				task.NextTaskID = &names[next[i]]
			}
			def.Tasks = append(def.Tasks, task)
		}
		onCycle := make(map[int]bool)
		for i := range n {
			for j, steps := next[i], 0; j >= 0 && steps < n; j, steps = next[j], steps+1 {
				if j == i {
					onCycle[i] = true
				}
			}
		}
		named := make(map[int]bool)
		for _, p := range def.Check() {
			_, walk, ok := strings.Cut(p.Text, "a cycle: ")
			if !ok {
				t.Fatalf("another mistake: %s", p.Text)
			}
			places := strings.Split(walk, " → ")
			for _, id := range places[1:] {
				i := def.place(id)
				if named[i] {
					t.Fatalf("task %s is on two cycles", id)
				}
				named[i] = true
			}
		}
		if diff := cmp.Diff(onCycle, named); diff != "" {
			t.Fatalf("tasks on a cycle: %s", diff)
		}
	})
}

func (d *Definition) place(taskID string) int {
	for i := range d.Tasks {
		if d.Tasks[i].TaskID == taskID {
			return i
		}
	}
	return -1
}

func TestAVersionNamesContent(t *testing.T) {
	t.Parallel()
	version := func(source string) string {
		v, kept, err := VersionOf(event.Raw(source))
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		again, same, err := VersionOf(kept)
		if err != nil || again != v || string(same) != string(kept) {
			t.Errorf("what is kept of %s has version %s, not %s", source, again, v)
		}
		return v
	}
	const source = `{"id":"d","tasks":[{"taskId":"a","parameters":{"n":1,"s":"A/é"}}]}`
	first := version(source)
	if len(first) != 16 {
		t.Errorf("version %q has not 16 digits", first)
	}
	for what, same := range map[string]string{
		"member order":        `{"tasks":[{"parameters":{"s":"A/é","n":1},"taskId":"a"}],"id":"d"}`,
		"white space":         "{ \"id\" :\t\"d\",\r\n\"tasks\":[ {\"taskId\":\"a\",\"parameters\":{\"n\":1,\"s\":\"A/é\"}} ] }\n",
		"spelling of strings": `{"id":"\u0064","tasks":[{"taskId":"a","parameters":{"n":1,"s":"\u0041\/\u00e9"}}]}`,
	} {
		if got := version(same); got != first {
			t.Errorf("%s changes the version", what)
		}
	}
	for what, other := range map[string]string{
		"a value":               strings.Replace(source, `"n":1`, `"n":2`, 1),
		"the type of a value":   strings.Replace(source, `"n":1`, `"n":"1"`, 1),
		"the way of a number":   strings.Replace(source, `"n":1`, `"n":1.0`, 1),
		"the order of tasks":    `{"id":"d","tasks":[{"taskId":"b"},{"taskId":"a"}]}`,
		"an unknown member":     strings.Replace(source, `"id"`, `"x":1,"id"`, 1),
		"a member that is null": strings.Replace(source, `"taskId":"a"`, `"taskId":"a","nextTaskId":null`, 1),
	} {
		if got := version(other); got == first {
			t.Errorf("%s does not change the version", what)
		}
	}
}

// A task is given the number that was written, to the last digit, and two definitions never share a version by rounding.
func TestNumbersKeepTheirDigits(t *testing.T) {
	t.Parallel()
	const digits = `{"id":"d","tasks":[{"parameters":{"n":12345678901234567891,"f":0.10000000000000000001},"taskId":"a"}]}`
	one, kept, err := VersionOf(event.Raw(digits))
	if err != nil || !strings.Contains(string(kept), "12345678901234567891") || !strings.Contains(string(kept), "0.10000000000000000001") {
		t.Errorf("%v: %s", err, kept)
	}
	two, _, err := VersionOf(event.Raw(strings.Replace(digits, "567891", "567892", 1)))
	if err != nil || one == two {
		t.Errorf("%v: versions %s and %s", err, one, two)
	}
	if _, _, err := VersionOf(event.Raw(`{"a":1,"a":2}`)); err == nil {
		t.Error("a member that is given twice has a version")
	}
}

func TestTheFormOfTheFileDoesNotChangeTheVersion(t *testing.T) {
	t.Parallel()
	var versions []string
	for _, source := range []string{sample, sampleYAML} {
		raw, err := ToJSON([]byte(source))
		if err != nil {
			t.Fatal(err)
		}
		v, _, err := VersionOf(raw)
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, v)
	}
	if versions[0] != versions[1] {
		t.Errorf("versions %s as JSON and %s as YAML", versions[0], versions[1])
	}
}

func FuzzParseFile(f *testing.F) {
	for _, source := range []string{sample, sampleYAML, mistakenJSON, mistakenYAML, everything, "a: &x [*x]", "{", "- - -", "\"\\ud800\""} {
		f.Add([]byte(source))
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		d, err := ParseFile(source)
		if err != nil {
			var p Problems
			var e *event.Error
			if !errors.As(err, &p) && !errors.As(err, &e) {
				t.Errorf("an error of no known type: %v", err)
			}
			if p != nil && len(p) == 0 {
				t.Error("an error without mistakes")
			}
			return
		}
		if _, err := Parse(event.MustMarshal(d)); err != nil {
			t.Errorf("what was read is refused when it is written: %v", err)
		}
	})
}
