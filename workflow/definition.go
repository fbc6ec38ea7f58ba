package workflow

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

// Bounds of a definition.
const (
	MaxTasks           = 10_000
	MaxDefinitionBytes = 896 << 10
)

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
		Locate(source, problems)
	}
	return d, err
}

// Parse decodes a definition from JSON and checks it. Its error is Problems or an *event.Error of CodeTooLarge.
func Parse(raw event.Raw) (*Definition, error) { return parse(raw, false) }

func parse(raw event.Raw, legacy bool) (*Definition, error) {
	d, problems, err := decode(raw)
	if err != nil {
		return nil, err
	}
	wrong := make(map[string]bool, len(problems))
	for _, p := range problems {
		wrong[p.Path] = true
	}
	for _, p := range d.check(legacy) {
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
	if err := json.Unmarshal(raw, d, tolerant(found)); err != nil {
		if errors.Is(err, errTooManyTasks) {
			return nil, nil, Problems{{Path: "$.tasks", Text: fmt.Sprintf("%d tasks, at most %d are allowed", countTasks(raw), MaxTasks)}}
		}
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
