package expr

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

// path is an expression that only says where in the JSON of a scope its value stands.
type path struct {
	root  string // input, item, output, or a task's output
	task  string // id of that task
	steps []step
}

// step is a member of an object, or a place in an array.
type step struct {
	name  string
	index int
	array bool
}

// scanPath reads a source that is a path, such as input.files[0] or tasks["a-b"].output.total. Most expressions are, and need no CEL.
func scanPath(source string) (*path, bool) {
	rest := strings.TrimSpace(source)
	root, rest := identifier(rest)
	var steps []step
	for rest != "" {
		var s step
		var ok bool
		if s, rest, ok = scanStep(rest); !ok {
			return nil, false
		}
		steps = append(steps, s)
	}
	switch {
	case root == "input" || root == "item" || root == "output":
		return &path{root: root, steps: steps}, true
	case root == "tasks" && len(steps) >= 2 && !steps[0].array && steps[1].name == "output":
		return &path{root: root, task: steps[0].name, steps: steps[2:]}, true
	}
	return nil, false
}

// Plain reports whether an expression is a path, which takes no time to compile.
func Plain(source string) bool {
	_, ok := scanPath(source)
	return ok
}

// scanStep reads .name, [0] or ["name"].
func scanStep(s string) (first step, rest string, ok bool) {
	if after, ok := strings.CutPrefix(s, "."); ok {
		name, rest := identifier(after)
		return step{name: name}, rest, name != "" && !slices.Contains([]string{"in", "true", "false", "null"}, name)
	}
	inside, ok := strings.CutPrefix(s, "[")
	if !ok {
		return step{}, "", false
	}
	if inside != "" && (inside[0] == '"' || inside[0] == '\'') {
		name, rest, ok := strings.Cut(inside[1:], inside[:1]+"]")
		return step{name: name}, rest, ok && !strings.ContainsAny(name, "\"'\\\n\r")
	}
	digits, rest, ok := strings.Cut(inside, "]")
	index, err := strconv.ParseUint(digits, 10, 31)
	return step{index: int(index), array: true}, rest, ok && err == nil && strconv.Itoa(int(index)) == digits
}

// identifier cuts a name off.
func identifier(s string) (name, rest string) {
	for i, c := range []byte(s) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

// refs is what the path refers to.
func (p *path) refs() Refs {
	if p.root == "tasks" {
		return Refs{Outputs: []string{p.task}}
	}
	return Refs{Input: p.root == "input", Item: p.root == "item", Last: p.root == "output"}
}

// in returns the JSON that stands there.
func (p *path) in(s *Scope) (event.Raw, error) {
	var raw event.Raw
	switch p.root {
	case "input":
		raw = s.Input
	case "item":
		raw = s.Item
	case "output":
		raw = s.Output
	case "tasks":
		raw = s.Tasks[p.task].Output
	}
	if len(raw) == 0 {
		raw = null
	}
	for _, step := range p.steps {
		var err error
		if raw, err = step.in(raw); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

var null = event.Raw("null")

func (s step) in(raw event.Raw) (event.Raw, error) {
	switch k := raw.Kind(); {
	case s.array && k == '[':
		n := 0
		for v := range elements(raw) {
			if n == s.index {
				return v, nil
			}
			n++
		}
		return nil, fmt.Errorf("no such place: [%d] of a list of %d", s.index, n)
	case !s.array && k == '{':
		d := jsontext.NewDecoder(bytes.NewBuffer(raw))
		if _, err := d.ReadToken(); err != nil {
			return nil, err
		}
		for d.PeekKind() == '"' {
			name, err := d.ReadToken()
			if err != nil {
				return nil, err
			}
			if name.String() == s.name {
				v, err := d.ReadValue()
				return v.Clone(), err
			}
			if err := d.SkipValue(); err != nil {
				return nil, err
			}
		}
		return nil, fmt.Errorf("no such key: %s", clip(s.name, 60))
	case s.array:
		return nil, fmt.Errorf("no such place: [%d] of %s", s.index, kindOf(raw))
	}
	return nil, fmt.Errorf("no such key: %s of %s", clip(s.name, 60), kindOf(raw))
}

// elements yields the elements of an array.
func elements(raw event.Raw) iter.Seq[event.Raw] {
	return func(yield func(event.Raw) bool) {
		d := jsontext.NewDecoder(bytes.NewBuffer(raw))
		if _, err := d.ReadToken(); err != nil {
			return
		}
		for k := d.PeekKind(); k != ']' && k != jsontext.KindInvalid; k = d.PeekKind() {
			v, err := d.ReadValue()
			if err != nil || !yield(v.Clone()) {
				return
			}
		}
	}
}

func kindOf(raw event.Raw) string {
	switch raw.Kind() {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '[':
		return "a list"
	case '{':
		return "an object"
	}
	return "nothing"
}
