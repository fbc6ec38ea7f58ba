package workflow

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/goccy/go-yaml"

	"github.com/opspawn/opscore/bus/event"
)

// Bounds of a definition.
const (
	MaxTasks           = 10_000
	MaxDefinitionBytes = 896 << 10
)

// Definition is a workflow as data, in JSON or YAML. Its version is the hash of its canonical JSON.
type Definition struct {
	ID             string  `json:"id"`
	Name           string  `json:"name,omitzero"`
	Description    string  `json:"description,omitzero"`
	Version        string  `json:"version,omitzero"` // the author's label; runs are pinned by content
	Tasks          []Task  `json:"tasks"`
	Retry          *Retry  `json:"retry,omitzero"`          // of tasks that have none of their own
	TimeoutSeconds float64 `json:"timeoutSeconds,omitzero"` // of tasks that have none of their own

	index map[string]int // taskId: place in Tasks
}

// Task is one node of a definition.
type Task struct {
	TaskID          string    `json:"taskId"`
	Name            string    `json:"name,omitzero"`
	AgentCapability string    `json:"agentCapability,omitzero"` // empty: the run's agent
	AgentID         string    `json:"agentId,omitzero"`         // a named agent skips the check of the capability
	Parameters      event.Raw `json:"parameters,omitzero"`      // an object: the task's input
	NextTaskID      *string   `json:"nextTaskId,omitzero"`
	Retry           *Retry    `json:"retry,omitzero"`
	TimeoutSeconds  float64   `json:"timeoutSeconds,omitzero"`
}

// Retry says how often a failed task is tried again, and when: initial × factorⁿ, at most max, with full jitter.
type Retry struct {
	Attempts       *int    `json:"attempts,omitzero"` // retries after the first attempt; absent: 3
	InitialSeconds float64 `json:"initialSeconds,omitzero"`
	MaxSeconds     float64 `json:"maxSeconds,omitzero"`
	Factor         float64 `json:"factor,omitzero"`
}

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

// ParseFile reads a definition from a JSON or YAML file and checks it. Its error is Problems, with lines.
func ParseFile(source []byte) (*Definition, error) {
	raw, err := toJSON(source)
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

// toJSON turns a file into JSON. JSON is passed through, so that numbers keep their digits.
func toJSON(source []byte) (event.Raw, error) {
	if raw := event.Raw(bytes.TrimSpace(source)); len(raw) > 0 && raw[0] == '{' && raw.IsValid() {
		return raw, nil
	}
	raw, err := yaml.YAMLToJSON(source)
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			return nil, Problems{{Line: syntax.GetToken().Position.Line, Text: syntax.GetMessage()}}
		}
		return nil, Problems{{Text: "neither JSON nor YAML: " + err.Error()}}
	}
	return event.Raw(bytes.TrimSpace(raw)), nil
}

// locate fills in the lines of mistakes by the paths they were found at.
func locate(source []byte, problems Problems) {
	for i, p := range problems {
		path, err := yaml.PathString(p.Path)
		if p.Path == "" || err != nil {
			continue
		}
		node, err := path.ReadNode(bytes.NewReader(source))
		if err == nil && node != nil && node.GetToken() != nil {
			problems[i].Line = node.GetToken().Position.Line
		}
	}
}

// Parse decodes a definition from JSON and checks it. Its error is Problems or an *event.Error of CodeTooLarge.
func Parse(raw event.Raw) (*Definition, error) {
	d, err := Decode(raw)
	if err != nil {
		return nil, err
	}
	if p := d.Check(); len(p) > 0 {
		return nil, p
	}
	return d, nil
}

// Decode decodes a definition from JSON without checking what it means.
func Decode(raw event.Raw) (*Definition, error) {
	if len(raw) > MaxDefinitionBytes {
		return nil, event.Errorf(event.CodeTooLarge, "the definition has %d bytes, at most %d are allowed", len(raw), MaxDefinitionBytes)
	}
	d := new(Definition)
	if err := event.Unmarshal(raw, d); err != nil {
		var e *event.Error
		errors.As(err, &e)
		return nil, Problems{{Path: pathOf(e.Message), Text: e.Message}}
	}
	d.index = make(map[string]int, len(d.Tasks))
	for i, t := range slices.Backward(d.Tasks) {
		d.index[t.TaskID] = i // of a taskId that is used twice, the first counts
	}
	return d, nil
}

// pathOf turns the JSON pointer at the head of a decoding error into a path.
func pathOf(message string) string {
	pointer, _, _ := strings.Cut(message, " ")
	if !strings.HasPrefix(pointer, "/") {
		return ""
	}
	var b strings.Builder
	b.WriteByte('$')
	for token := range jsontext.Pointer(pointer).Tokens() {
		if strings.Trim(token, "0123456789") == "" {
			b.WriteString("[" + token + "]")
		} else {
			b.WriteString("." + token)
		}
	}
	return b.String()
}

// Check returns all mistakes of a definition: what must hold before a run of it can end well.
func (d *Definition) Check() Problems {
	var p Problems
	add := func(path, format string, args ...any) {
		p = append(p, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
	}
	if d.ID == "" {
		add("$.id", "id is missing")
	} else if _, err := event.Token(d.ID); err != nil {
		add("$.id", "%v", err)
	}
	if len(d.Tasks) > MaxTasks {
		add("$.tasks", "%d tasks, at most %d are allowed", len(d.Tasks), MaxTasks)
		return p
	}
	index := make(map[string]int, len(d.Tasks))
	for i := range d.Tasks {
		t := &d.Tasks[i]
		at := fmt.Sprintf("$.tasks[%d]", i)
		if first, dup := index[t.TaskID]; dup {
			add(at+".taskId", "taskId %q is used twice, first by task %d", t.TaskID, first+1)
		} else {
			index[t.TaskID] = i
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

func (t *Task) check(at string, add func(path, format string, args ...any)) {
	if t.TaskID == "" {
		add(at+".taskId", "taskId is missing")
	}
	if len(t.TaskID) > event.MaxToken {
		add(at+".taskId", "taskId has %d bytes, at most %d are allowed", len(t.TaskID), event.MaxToken)
	}
	if k := t.Parameters.Kind(); len(t.Parameters) > 0 && k != '{' && k != 'n' {
		add(at+".parameters", "parameters must be an object")
	}
	if t.TimeoutSeconds < 0 {
		add(at+".timeoutSeconds", "timeoutSeconds must not be negative")
	}
	if r := t.Retry; r != nil {
		if r.Attempts != nil && (*r.Attempts < 0 || *r.Attempts > 1000) {
			add(at+".retry.attempts", "retry.attempts must be 0 to 1000")
		}
		if r.InitialSeconds < 0 || r.MaxSeconds < 0 || r.Factor < 0 {
			add(at+".retry", "the seconds and factor of retry must not be negative")
		}
	}
}

// checkCycle follows nextTaskId from every task; each has one successor at most, so a walk longer than the definition is a cycle.
func (d *Definition) checkCycle(index map[string]int, add func(path, format string, args ...any)) {
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

// Find returns the task of an id, or nil.
func (d *Definition) Find(taskID string) *Task {
	if i, ok := d.index[taskID]; ok {
		return &d.Tasks[i]
	}
	return nil
}

// VersionOf returns the version of a definition: the first 16 hexadecimal digits of the SHA-256 of its canonical JSON (RFC 8785).
func VersionOf(raw event.Raw) (string, event.Raw, error) {
	canonical := raw.Clone()
	if err := canonical.Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false)); err != nil {
		return "", nil, event.Errorf(event.CodeMalformed, "the definition is not JSON: %v", err)
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:8]), canonical, nil
}
