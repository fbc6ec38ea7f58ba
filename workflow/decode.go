package workflow

import (
	"bytes"
	"errors"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

// mismatch is told of a value that has not the type it must have.
type mismatch func(at jsontext.Pointer, want string, got event.Raw)

// errTooManyTasks stops the decoding: a task without members is far smaller as JSON than in memory.
var errTooManyTasks = errors.New("too many tasks")

// tolerant decodes as much of a definition as has the right types.
func tolerant(found mismatch) json.Options {
	tasks := 0
	return json.WithUnmarshalers(json.JoinUnmarshalers(
		json.UnmarshalFromFunc(func(*jsontext.Decoder, *Task) error {
			if tasks++; tasks > MaxTasks {
				return errTooManyTasks
			}
			return errors.ErrUnsupported
		}),
		object[Definition](found), object[Task](found), object[Retry](found), object[Select](found), object[Case](found), object[ForEach](found),
		object[Loop](found), object[SubWorkflow](found), object[Wait](found), object[Signal](found), object[Approval](found), object[Timeouts](found),
		object[OnFailure](found), object[Compensate](found), object[Concurrency](found), object[map[string]string](found), object[map[string]Retry](found),
		array[[]Task](found), array[[]string](found), array[[]Case](found), array[[]Select](found),
		scalar[string]("a string", found), scalar[float64]("a number", found), scalar[int]("a whole number", found), scalar[bool]("true or false", found),
	))
}

func object[T any](found mismatch) *json.Unmarshalers { return typed[T]('{', "an object", found) }
func array[T any](found mismatch) *json.Unmarshalers  { return typed[T]('[', "an array", found) }

// countTasks counts the tasks of a definition without decoding them.
func countTasks(raw event.Raw) int {
	d := jsontext.NewDecoder(bytes.NewBuffer(raw))
	if _, err := d.ReadToken(); err != nil {
		return 0
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return 0
		}
		if name.String() != "tasks" || d.PeekKind() != '[' {
			if d.SkipValue() != nil {
				return 0
			}
			continue
		}
		n := 0
		for _, err = d.ReadToken(); err == nil && d.PeekKind() != ']'; n++ {
			err = d.SkipValue()
		}
		return n
	}
	return 0
}

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
	case isNumber(name) && at.Parent() == "/tasks":
		return "a task"
	case isNumber(name):
		return "an element of " + at.Parent().LastToken()
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
