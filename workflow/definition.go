package workflow

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/opspawn/opscore/bus/event"
)

// Bounds of a definition.
const (
	MaxTasks           = 10_000
	MaxDefinitionBytes = 896 << 10
)

// Problem is one mistake in a definition. Line is its place in the file it was read from, 0 if that is unknown.
type Problem struct {
	Path string `json:"path"` // as in $.tasks[1].nextTaskId
	Line int    `json:"line,omitzero"`
	Text string `json:"text"`
}

// Problems is the error of a definition: all its mistakes at once.
type Problems []Problem

// Error lists the mistakes, one per line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, m := range p {
		lines[i] = m.Text
		if m.Line > 0 {
			lines[i] = fmt.Sprintf("line %d: %s", m.Line, m.Text)
		}
		if m.Path != "" {
			lines[i] += " (" + m.Path + ")"
		}
	}
	return strings.Join(lines, "\n")
}

// ParseFile reads a definition from a JSON or YAML file and checks it. Its error is Problems, with lines, or an *event.Error of
// CodeTooLarge.
func ParseFile(source []byte) (*Definition, error) {
	if len(source) > MaxDefinitionBytes {
		return nil, tooLarge(len(source))
	}
	raw, err := ToJSON(source)
	if err != nil {
		return nil, err
	}
	d, err := Parse(raw)
	var problems Problems
	if errors.As(err, &problems) {
		locate(source, problems)
	}
	return d, err
}

// ToJSON turns a JSON or YAML file into JSON. JSON is passed through, so that numbers keep their digits and the version is the one others
// compute. Its error is Problems.
func ToJSON(source []byte) (event.Raw, error) {
	if raw := event.Raw(bytes.TrimSpace(source)); len(raw) > 0 && raw[0] == '{' && raw.IsValid() {
		return raw, nil
	}
	file, err := parser.ParseBytes(source, 0)
	if err == nil && len(file.Docs) > 1 {
		second := Problem{Text: "the file holds more than one document"}
		if body := file.Docs[1].Body; body != nil {
			second.Line = body.GetToken().Position.Line
		}
		return nil, Problems{second}
	}
	raw, err := yaml.YAMLToJSON(source)
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			return nil, Problems{{Line: syntax.GetToken().Position.Line, Text: syntax.GetMessage()}}
		}
		return nil, Problems{{Text: "neither JSON nor YAML: " + err.Error()}}
	}
	if raw := event.Raw(bytes.TrimSpace(raw)); raw.IsValid() {
		return raw, nil
	}
	return nil, Problems{{Text: "it holds a number that JSON does not know: .inf or .nan"}}
}

// maxLocated bounds how many mistakes are looked up in the file.
const maxLocated = 100

// locate fills in the lines of mistakes by the paths they were found at. A member that is missing has the line of what it is missing from.
func locate(source []byte, problems Problems) {
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		return
	}
	for i := range problems[:min(len(problems), maxLocated)] {
		for at := problems[i].Path; at != "" && problems[i].Line == 0; at = parent(at) {
			problems[i].Line = lineOf(file, at)
		}
	}
}

func lineOf(file *ast.File, at string) int {
	path, err := yaml.PathString(at)
	if err != nil {
		return 0
	}
	node, err := path.FilterFile(file)
	if err != nil || node == nil || node.GetToken() == nil {
		return 0
	}
	return node.GetToken().Position.Line
}

// parent returns the path without its last member or place, empty for the root.
func parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// Parse decodes a definition from JSON and checks it. Its error is Problems or an *event.Error of CodeTooLarge.
func Parse(raw event.Raw) (*Definition, error) {
	d, problems, err := decode(raw)
	if err != nil {
		return nil, err
	}
	wrong := make(map[string]bool, len(problems))
	for _, p := range problems {
		wrong[p.Path] = true
	}
	for _, p := range d.Check() {
		// What could not be decoded was named already; it is not missing as well.
		if !wrong[p.Path] && !wrong[parent(p.Path)] {
			problems = append(problems, p)
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return d, nil
}

// Decode decodes a definition from JSON without checking what it means. Its error is Problems or an *event.Error of CodeTooLarge.
func Decode(raw event.Raw) (*Definition, error) {
	d, problems, err := decode(raw)
	if err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return d, nil
}

// decode decodes as much of a definition as has the right types, and names all that has not. Unknown members are ignored.
func decode(raw event.Raw) (*Definition, Problems, error) {
	if len(raw) > MaxDefinitionBytes {
		return nil, nil, tooLarge(len(raw))
	}
	d := &Definition{compiled: new(compiled)}
	var problems Problems
	found := func(at jsontext.Pointer, want string, got event.Raw) {
		problems = append(problems, Problem{Path: pathOf(at), Text: nameOf(at) + " must be " + want + ", not " + shorten(got)})
	}
	tolerant := json.WithUnmarshalers(json.JoinUnmarshalers(
		typed[Definition]('{', "an object", found), typed[[]Task]('[', "an array", found),
		typed[Task]('{', "an object", found), typed[Retry]('{', "an object", found),
		scalar[string]("a string", found), scalar[float64]("a number", found), scalar[int]("a whole number", found),
	))
	if err := json.Unmarshal(raw, d, tolerant); err != nil {
		var syntax *jsontext.SyntacticError
		if errors.As(err, &syntax) {
			err = syntax
		}
		return nil, nil, Problems{{Text: "the definition is not JSON: " + strings.TrimPrefix(err.Error(), "jsontext: ")}}
	}
	d.index = make(map[string]int, len(d.Tasks))
	for i, t := range slices.Backward(d.Tasks) {
		d.index[t.TaskID] = i // of a taskId that is used twice, the first counts
	}
	d.compile()
	return d, problems, nil
}

func tooLarge(size int) error {
	return event.Errorf(event.CodeTooLarge, "the definition has %d bytes, at most %d are allowed", size, MaxDefinitionBytes)
}

// mismatch is told of a value that has not the type it must have.
type mismatch func(at jsontext.Pointer, want string, got event.Raw)

// typed passes over a value of another kind than its own.
func typed[T any](kind jsontext.Kind, want string, found mismatch) *json.Unmarshalers {
	return json.UnmarshalFromFunc(func(d *jsontext.Decoder, _ *T) error {
		if k := d.PeekKind(); k == kind || k == 'n' || k == jsontext.KindInvalid {
			return errors.ErrUnsupported // the usual way
		}
		got, err := d.ReadValue()
		if err == nil {
			found(d.StackPointer(), want, got)
		}
		return err
	})
}

// scalar passes over a value that does not fit.
func scalar[T any](want string, found mismatch) *json.Unmarshalers {
	return json.UnmarshalFromFunc(func(d *jsontext.Decoder, v *T) error {
		got, err := d.ReadValue()
		if err == nil && json.Unmarshal(got, v) != nil {
			found(d.StackPointer(), want, got)
		}
		return err
	})
}

// pathOf turns a JSON pointer into a path.
func pathOf(at jsontext.Pointer) string {
	var b strings.Builder
	b.WriteByte('$')
	for token := range at.Tokens() {
		if isNumber(token) {
			b.WriteString("[" + token + "]")
		} else {
			b.WriteString("." + token)
		}
	}
	return b.String()
}

// nameOf is what a mistake calls the value that a pointer points to.
func nameOf(at jsontext.Pointer) string {
	switch name := at.LastToken(); {
	case at == "":
		return "the definition"
	case isNumber(name):
		return "a task"
	default:
		return name
	}
}

func isNumber(token string) bool { return strings.Trim(token, "0123456789") == "" }

// shorten says what was found instead: a value that is short as it is, others by their kind.
func shorten(v event.Raw) string {
	switch k := v.Kind(); {
	case k == '{':
		return "an object"
	case k == '[':
		return "an array"
	case len(v) <= 32:
		return string(v)
	case k == '"':
		return "a string"
	default:
		return "a number so large"
	}
}

// Check returns all mistakes of a definition: what must hold before a run of it can end well.
func (d *Definition) Check() Problems {
	var p Problems
	add := func(path, format string, args ...any) {
		p = append(p, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
	}
	checkID("$", "id", d.ID, add)
	checkClocks("$", d.TimeoutSeconds, d.Retry, add)
	switch {
	case d.Tasks == nil:
		add("$.tasks", "tasks is missing")
	case len(d.Tasks) > MaxTasks:
		add("$.tasks", "%d tasks, at most %d are allowed", len(d.Tasks), MaxTasks)
		return p
	}
	index := make(map[string]int, len(d.Tasks))
	for i := range d.Tasks {
		t := &d.Tasks[i]
		at := fmt.Sprintf("$.tasks[%d]", i)
		if first, dup := index[t.TaskID]; !dup {
			index[t.TaskID] = i
		} else if t.TaskID != "" {
			add(at+".taskId", "taskId %q is used twice, first by task %d", t.TaskID, first+1)
		}
		t.check(at, add)
	}
	for i, t := range d.Tasks {
		if t.NextTaskID != nil && *t.NextTaskID != "" {
			if _, ok := index[*t.NextTaskID]; !ok {
				add(fmt.Sprintf("$.tasks[%d].nextTaskId", i), "nextTaskId %q names no task of this definition", *t.NextTaskID)
			}
		}
	}
	d.checkCycle(index, add)
	return p
}

// problem takes a mistake.
type problem func(path, format string, args ...any)

func (t *Task) check(at string, add problem) {
	checkID(at, "taskId", t.TaskID, add)
	if t.AgentID != "" {
		checkID(at, "agentId", t.AgentID, add)
	}
	if len(t.AgentCapability) > event.MaxName {
		add(at+".agentCapability", "agentCapability has %d bytes, at most %d are allowed", len(t.AgentCapability), event.MaxName)
	}
	if k := t.Parameters.Kind(); len(t.Parameters) > 0 && k != '{' && k != 'n' {
		add(at+".parameters", "parameters must be an object")
	}
	checkClocks(at, t.TimeoutSeconds, t.Retry, add)
}

// checkID checks an id that will be part of subjects and of members of indexes.
func checkID(at, name, id string, add problem) {
	if id == "" {
		add(at+"."+name, "%s is missing", name)
	} else if _, err := event.Token(id); err != nil {
		add(at+"."+name, "%s is too long: escaped for a subject it must have at most %d bytes", name, event.MaxToken)
	}
}

// Bounds of the clocks of a definition.
const (
	maxSeconds = 365 * 24 * 60 * 60
	maxRetries = 1000
)

func checkClocks(at string, timeout float64, r *Retry, add problem) {
	seconds := func(path string, s float64) {
		if s < 0 || s > maxSeconds {
			add(at+"."+path, "%s must be 0 to %d", path, maxSeconds)
		}
	}
	seconds("timeoutSeconds", timeout)
	if r == nil {
		return
	}
	if r.Attempts != nil && (*r.Attempts < 0 || *r.Attempts > maxRetries) {
		add(at+".retry.attempts", "retry.attempts must be 0 to %d", maxRetries)
	}
	seconds("retry.initialSeconds", r.InitialSeconds)
	seconds("retry.maxSeconds", r.MaxSeconds)
	if r.Factor < 0 {
		add(at+".retry.factor", "retry.factor must not be negative")
	}
}

// checkCycle follows nextTaskId from every task; each has one successor at most, so a walk longer than the definition is a cycle.
func (d *Definition) checkCycle(index map[string]int, add problem) {
	const unseen, open, done = 0, 1, 2
	mark := make([]int, len(d.Tasks))
	for start := range d.Tasks {
		var walk []int
		for i, ok := start, true; ok && mark[i] != done; i, ok = d.next(i, index) {
			if mark[i] == open {
				names := make([]string, 0, len(walk)+1)
				for _, j := range walk[slices.Index(walk, i):] {
					names = append(names, d.Tasks[j].TaskID)
				}
				add(fmt.Sprintf("$.tasks[%d].nextTaskId", walk[len(walk)-1]), "a cycle: %s → %s", strings.Join(names, " → "), d.Tasks[i].TaskID)
				break
			}
			mark[i] = open
			walk = append(walk, i)
		}
		for _, i := range walk {
			mark[i] = done
		}
	}
}

func (d *Definition) next(i int, index map[string]int) (int, bool) {
	n := d.Tasks[i].NextTaskID
	if n == nil || *n == "" {
		return 0, false
	}
	j, ok := index[*n]
	return j, ok
}

// Find returns the task of an id, which may be one that undoes another, or nil.
func (d *Definition) Find(taskID string) *Task {
	if i, ok := d.index[taskID]; ok {
		return &d.Tasks[i]
	}
	if d.flow != nil {
		return d.flow.undo[taskID]
	}
	return nil
}

// begins reports whether runs begin with the task.
func (d *Definition) begins(taskID string) bool {
	i := d.placeOf(taskID)
	return i == 0 && d.flow == nil || i >= 0 && d.flow != nil && d.flow.in[i] == 0
}

// placeOf returns the place of a task in the definition, -1 if it is not there.
func (d *Definition) placeOf(taskID string) int {
	if i, ok := d.index[taskID]; ok {
		return i
	}
	return -1
}

// VersionOf returns the version of a definition and the form it is kept in. The version is the first 16 hexadecimal digits of the SHA-256 of
// that form, which is canonical JSON: members in order, no white space, one spelling of each string. Numbers stay as they were
// written: RFC 8785 would round those that no double holds, which would change what a task is given and let two definitions share a version.
// So 1 and 1.0 make two versions.
func VersionOf(raw event.Raw) (string, event.Raw, error) {
	canonical := raw.Clone()
	if err := canonical.Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false)); err != nil {
		return "", nil, event.Errorf(event.CodeMalformed, "the definition is not JSON: %v", err)
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:8]), canonical, nil
}
