package event

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Message is a decoded intake message and what its subject says.
type Message struct {
	Address
	Event Event
}

// Decode turns the subject and body of an intake message into one of the events of this package. Its error is always an
// *Error: CodeMalformed for an unknown subject, broken JSON, a wrong type or a missing member, CodeTooLarge for a
// body over a limit, CodeInvalid for an agentId that is not the one of the subject.
func Decode(subject string, body []byte) (Message, error) {
	addr, err := ParseSubject(subject)
	if err != nil {
		return Message{}, err
	}
	e := newEvent(addr)
	if e == nil {
		return Message{Address: addr}, unknownSubject(subject)
	}
	if len(body) > MaxBody {
		return Message{Address: addr}, Errorf(CodeTooLarge, "the body has %d bytes, at most %d are allowed", len(body), MaxBody)
	}
	if err := decodeBody(e, body); err != nil {
		return Message{Address: addr}, err
	}
	if err := e.check(body); err != nil {
		return Message{Address: addr}, err
	}
	if id := ownID(e); id != "" && id != addr.ID {
		return Message{Address: addr}, Errorf(CodeInvalid, "agentId %q does not match the subject's %q; leave it out or make them the same", id, addr.ID)
	}
	return Message{Address: addr, Event: e}, nil
}

// Known reports whether this version knows what is published on a subject. It may know too little of a newer one's.
func Known(subject string) bool {
	addr, err := ParseSubject(subject)
	return err == nil && newEvent(addr) != nil
}

// newEvent makes the empty event for an address, or nil if there is none.
func newEvent(a Address) Event {
	if a.Family == "agent" {
		switch Verb(a.Name) {
		case VerbRegister:
			return &Register{}
		case VerbDeregister:
			return &Deregister{}
		case VerbState:
			return &State{}
		case VerbAccepted:
			return &Accepted{}
		case VerbProgress:
			return &Progress{}
		case VerbResult:
			return &Result{}
		}
		return nil
	}
	switch kind := CommandKind(a.Name); {
	case kind == KindWorkflowApply:
		return &WorkflowApply{ID: a.ID}
	case kind == KindRunStart:
		return &RunStart{RunID: a.ID}
	case kind == KindWorkflowPause || kind == KindWorkflowResume:
		return &WorkflowCommand{Kind: kind, ID: a.ID}
	case slices.Contains(workflowKinds, kind):
		return &RunCommand{Kind: kind, RunID: a.ID}
	case kind == KindScheduleApply:
		return &ScheduleApply{ID: a.ID}
	case slices.Contains(scheduleKinds, kind):
		return &ScheduleCommand{Kind: kind, ID: a.ID}
	case slices.Contains(queueKinds, kind):
		return &QueueCommand{Kind: kind, Capability: a.ID}
	case slices.Contains(agentKinds, kind):
		return &AgentCommand{Kind: kind, AgentID: a.ID}
	}
	return nil
}

func decodeBody(e Event, body []byte) error {
	if w, ok := e.(*WorkflowApply); ok {
		w.Definition = Raw(body)
		return nil
	}
	if bodyOptional(e) && len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if bytes.Equal(bytes.TrimSpace(body), []byte("null")) {
		return Errorf(CodeMalformed, "the body must be an object, not null")
	}
	return Unmarshal(body, e)
}

// bodyOptional reports whether an empty body means "no members" rather than broken JSON.
func bodyOptional(e Event) bool {
	switch e.(type) {
	case *Deregister, *RunCommand, *ScheduleCommand, *QueueCommand, *AgentCommand, *WorkflowCommand:
		return true
	}
	return false
}

// Unmarshal decodes any body of this package, strict on types and names. Its error is an *Error with CodeMalformed that names
// the member.
func Unmarshal(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return Errorf(CodeMalformed, "%s", jsonProblem(err))
	}
	return nil
}

// jsonProblem says what is wrong with a body, and where, without Go's type names.
func jsonProblem(err error) string {
	var sem *json.SemanticError
	if errors.As(err, &sem) {
		where := string(sem.JSONPointer)
		if where == "" {
			where = "the body"
		}
		if sem.JSONKind == 0 || sem.GoType == nil {
			return where + ": " + sem.Error()
		}
		want, have := typeName(sem.GoType), kindName(sem.JSONKind)
		if sem.JSONKind == '0' && strings.HasSuffix(want, "number") {
			have = "one that is out of range"
			if want == "a whole number" {
				have = "one with a fraction, an exponent or too many digits"
			}
		}
		return where + " must be " + want + ", not " + have
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return "the body is empty or ends too early; send one JSON object"
	}
	return "the body is not strict JSON: " + strings.TrimPrefix(err.Error(), "jsontext: ")
}

// typeName is what a member of a Go type looks like in JSON.
func typeName(t reflect.Type) string {
	if t == reflect.TypeFor[time.Time]() {
		return "a time in RFC 3339"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "a boolean"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "an array"
	}
	return "an object"
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	return "this value"
}

// Marshal encodes any body of this package. It cannot fail for values that were decoded or built from valid Raw members.
func Marshal(v any) ([]byte, error) { return json.Marshal(v) }

// MustMarshal is Marshal for bodies made by Ops-Core itself. It panics if a Raw member is not JSON.
func MustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("event: " + err.Error())
	}
	return b
}

func ownID(e Event) string {
	switch e := e.(type) {
	case *Register:
		return e.AgentID
	case *Deregister:
		return e.AgentID
	case *State:
		return e.AgentID
	case *Accepted:
		return e.AgentID
	case *Progress:
		return e.AgentID
	case *Result:
		return e.AgentID
	}
	return ""
}
