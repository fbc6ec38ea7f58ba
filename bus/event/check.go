package event

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

func (e *Register) check(body []byte) *Error {
	if err := requireStrings(body, "agentName", e.AgentName, "version", e.Version); err != nil {
		return err
	}
	if e.Capabilities == nil && !hasMember(body, "capabilities", '[') {
		return missing("capabilities")
	}
	switch e.Delivery {
	case "", DeliveryNATS, DeliveryHTTP, DeliveryPoll, DeliveryAgentKit:
	default:
		return Errorf(CodeInvalid, "delivery %q is not one of nats, http, poll, agentkit", e.Delivery)
	}
	if e.Slots < 0 || e.Slots > MaxSlots {
		return Errorf(CodeInvalid, "slots must be 1 to %d", MaxSlots)
	}
	if len(e.Capabilities) > MaxCapabilities {
		return Errorf(CodeTooLarge, "%d capabilities, at most %d are allowed", len(e.Capabilities), MaxCapabilities)
	}
	if e.HeartbeatSeconds < 0 {
		return Errorf(CodeInvalid, "heartbeatSeconds must not be negative")
	}
	if err := wantObject("metadata", e.Metadata); err != nil {
		return err
	}
	if len(e.Metadata) > MaxDetails {
		return Errorf(CodeTooLarge, "metadata has %d bytes, at most %d are allowed", len(e.Metadata), MaxDetails)
	}
	return nil
}

// Bounds of a registration; its gate is rewritten with every task.
const (
	MaxSlots        = 1000
	MaxCapabilities = 200
)

func (e *Deregister) check([]byte) *Error { return nil }

func (e *State) check(body []byte) *Error {
	if err := requireStrings(body, "state", e.State); err != nil {
		return err
	}
	if len(e.Details) > MaxDetails {
		return Errorf(CodeTooLarge, "details has %d bytes, at most %d are allowed", len(e.Details), MaxDetails)
	}
	return wantObject("details", e.Details)
}

func (r *AttemptRef) checkRef() *Error {
	switch {
	case r.RunID == "":
		return missing("runId")
	case r.TaskID == "":
		return missing("taskId")
	case r.Attempt < 1:
		return Errorf(CodeMalformed, "attempt is missing or below 1")
	}
	return nil
}

func (e *Accepted) check([]byte) *Error { return e.checkRef() }
func (e *Progress) check([]byte) *Error { return e.checkRef() }

func (e *Result) check([]byte) *Error {
	if err := e.checkRef(); err != nil {
		return err
	}
	switch e.Status {
	case StatusCompleted:
	case StatusFailed:
		if e.Error == nil {
			e.Error = &TaskError{Code: "failed", Message: "the agent gave no reason"}
		}
	case "":
		return missing("status")
	default:
		return Errorf(CodeMalformed, "status %q is not completed or failed", e.Status)
	}
	if e.Error != nil && len(e.Error.Message) > MaxErrorText {
		return Errorf(CodeTooLarge, "error.message has %d bytes, at most %d are allowed", len(e.Error.Message), MaxErrorText)
	}
	return nil
}

func (e *WorkflowApply) check([]byte) *Error { return nil }

func (e *RunStart) check([]byte) *Error {
	if e.WorkflowID == "" && len(e.Definition) == 0 {
		return Errorf(CodeMalformed, "workflowId or definition is missing")
	}
	return wantObject("input", e.Input)
}

func (e *RunCommand) check([]byte) *Error {
	if e.Kind == KindRunSignal && e.Name == "" {
		return missing("name")
	}
	return nil
}

func (e *AgentCommand) check([]byte) *Error { return nil }

func missing(member string) *Error { return Errorf(CodeMalformed, "%s is missing", member) }

// requireStrings checks that members are present. A value that is not empty proves it; only for empty ones the body is read again,
// which keeps the hot path to one pass.
func requireStrings(body []byte, nameValue ...string) *Error {
	for i := 0; i < len(nameValue); i += 2 {
		if nameValue[i+1] == "" && !hasMember(body, nameValue[i], '"') {
			return missing(nameValue[i])
		}
	}
	return nil
}

// hasMember reports whether a JSON object has a member of this name and kind.
func hasMember(body []byte, name string, kind jsontext.Kind) bool {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return false
	}
	for d.PeekKind() == '"' {
		t, err := d.ReadToken()
		if err != nil {
			return false
		}
		if t.String() == name {
			return d.PeekKind() == kind
		}
		if d.SkipValue() != nil {
			return false
		}
	}
	return false
}

func wantObject(name string, v Raw) *Error {
	if k := v.Kind(); len(v) > 0 && k != '{' && k != 'n' {
		return Errorf(CodeMalformed, "/%s has the wrong type: %s is not allowed here", name, kindName(k))
	}
	return nil
}

// HonoursReply reports whether an outcome may be published to a subject given in HeaderReply.
func HonoursReply(subject string) bool {
	return strings.HasPrefix(subject, InboxPrefix) && !strings.ContainsAny(subject, "*> \t\r\n")
}
