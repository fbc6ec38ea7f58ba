package event

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Bounds of a registration; its gate is rewritten with every task.
const (
	MaxSlots        = 1000
	MaxCapabilities = 200
	MaxName         = 255 // bytes of a capability, of a label's key and of its value, of an error code
	MaxLabels       = 64
	MaxHeartbeat    = 24 * time.Hour
	MaxDrain        = 30 * 24 * time.Hour  // deadline of a drain
	MaxDelay        = 366 * 24 * time.Hour // of a start
)

func (e *Register) check(body []byte) *Error {
	if err := requireStrings(body, "agentName", e.AgentName, "version", e.Version); err != nil {
		return err
	}
	if len(e.Capabilities) == 0 && kindAt(body, "capabilities") != '[' {
		return missing("capabilities", "an array of strings")
	}
	if slices.Contains(e.Capabilities, "") && nullWithin(body, "capabilities") {
		return Errorf(CodeMalformed, "/capabilities must hold strings, not null")
	}
	if hasEmptyValue(e.Labels) && nullWithin(body, "labels") {
		return Errorf(CodeMalformed, "/labels must hold strings, not null")
	}
	switch e.Delivery {
	case "", DeliveryNATS, DeliveryHTTP, DeliveryPoll, DeliveryAgentKit:
	default:
		return Errorf(CodeInvalid, "delivery %q is not one of nats, http, poll, agentkit", e.Delivery)
	}
	if e.Slots < 0 || e.Slots > MaxSlots {
		return Errorf(CodeInvalid, "slots must be 1 to %d, not %d", MaxSlots, e.Slots)
	}
	if len(e.Capabilities) > MaxCapabilities {
		return Errorf(CodeTooLarge, "%d capabilities, at most %d are allowed", len(e.Capabilities), MaxCapabilities)
	}
	for _, c := range e.Capabilities {
		if len(c) > MaxName {
			return Errorf(CodeTooLarge, "a capability has %d bytes, at most %d are allowed", len(c), MaxName)
		}
	}
	if err := checkLabels(e.Labels); err != nil {
		return err
	}
	if e.HeartbeatSeconds < 0 || e.HeartbeatSeconds > MaxHeartbeat.Seconds() {
		return Errorf(CodeInvalid, "heartbeatSeconds must be 0 to %.0f", MaxHeartbeat.Seconds())
	}
	if e.Metadata.Kind() == 'n' {
		e.Metadata = nil
	}
	if err := wantObject("metadata", e.Metadata); err != nil {
		return err
	}
	if len(e.Metadata) > MaxDetails {
		return Errorf(CodeTooLarge, "metadata has %d bytes, at most %d are allowed", len(e.Metadata), MaxDetails)
	}
	return e.checkSchemas()
}

// checkSchemas bounds the schemas of capabilities, and drops what says nothing. Whether they are JSON Schemas is not judged here.
func (e *Register) checkSchemas() *Error {
	total := 0
	for _, c := range slices.Sorted(maps.Keys(e.CapabilitySchemas)) {
		if !slices.Contains(e.Capabilities, c) {
			return Errorf(CodeInvalid, "capabilitySchemas has %.100q, which is not among the capabilities; add it there or leave it out", c)
		}
		s := e.CapabilitySchemas[c]
		for _, m := range []struct {
			name   string
			schema *Raw
		}{{"input", &s.Input}, {"output", &s.Output}} {
			switch k := m.schema.Kind(); k {
			case '{', 't', 'f':
			case 'n', 0:
				*m.schema = nil
			default:
				return Errorf(CodeMalformed, "/capabilitySchemas/%s/%s must be a JSON Schema: an object, true or false, not %s", c, m.name, kindName(k))
			}
			if n := len(*m.schema); n > MaxSchema {
				return Errorf(CodeTooLarge, "the %s schema of capability %q has %d bytes, at most %d are allowed", m.name, c, n, MaxSchema)
			}
			total += len(*m.schema)
		}
		e.CapabilitySchemas[c] = s
	}
	if total > MaxSchemas {
		return Errorf(CodeTooLarge, "capabilitySchemas has %d bytes of schemas, at most %d are allowed together", total, MaxSchemas)
	}
	maps.DeleteFunc(e.CapabilitySchemas, func(_ string, s CapabilitySchemas) bool { return s.Input == nil && s.Output == nil })
	if len(e.CapabilitySchemas) == 0 {
		e.CapabilitySchemas = nil
	}
	return nil
}

// checkLabels bounds labels: they are part of documents that are written often.
func checkLabels(labels map[string]string) *Error {
	if len(labels) > MaxLabels {
		return Errorf(CodeTooLarge, "%d labels, at most %d are allowed", len(labels), MaxLabels)
	}
	for k, v := range labels {
		if len(k) > MaxName || len(v) > MaxName {
			return Errorf(CodeTooLarge, "a label has %d bytes, at most %d are allowed for its key and its value each", max(len(k), len(v)), MaxName)
		}
	}
	return nil
}

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
		return missing("runId", "a string")
	case r.TaskID == "":
		return missing("taskId", "a string")
	case r.Attempt < 1:
		return missing("attempt", "a whole number from 1")
	}
	return nil
}

func (e *Accepted) check([]byte) *Error { return e.checkRef() }
func (e *Progress) check([]byte) *Error { return e.checkRef() }

func (e *Result) check(body []byte) *Error {
	if err := e.checkRef(); err != nil {
		return err
	}
	switch e.Status {
	case StatusCompleted, StatusFailed:
	case "":
		return missing("status", "completed or failed")
	default:
		return Errorf(CodeMalformed, "status must be completed or failed, not %q", e.Status)
	}
	if e.Error == nil && e.Status == StatusFailed {
		e.Error = &TaskError{Code: "failed", Message: "the agent gave no reason"}
	}
	if e.Error == nil {
		return nil
	}
	e.Error.Details = nil
	if e.Error.Code == "" {
		return missing("error.code", "a string that is not empty")
	}
	if e.Error.Message == "" && kindAt(body, "error", "message") != '"' {
		return missing("error.message", "a string")
	}
	if len(e.Error.Code) > MaxName {
		return Errorf(CodeTooLarge, "error.code has %d bytes, at most %d are allowed", len(e.Error.Code), MaxName)
	}
	if len(e.Error.Message) > MaxErrorText {
		return Errorf(CodeTooLarge, "error.message has %d bytes, at most %d are allowed", len(e.Error.Message), MaxErrorText)
	}
	return nil
}

func (e *WorkflowApply) check([]byte) *Error { return nil }

func (e *RunStart) check([]byte) *Error {
	if e.Definition.Kind() == 'n' {
		e.Definition = nil
	}
	if e.Input.Kind() == 'n' {
		e.Input = nil
	}
	if e.WorkflowID == "" && len(e.Definition) == 0 {
		return Errorf(CodeMalformed, "workflowId or definition is missing; give one of them")
	}
	if e.AgentID != "" {
		if _, err := Token(e.AgentID); err != nil {
			return Errorf(CodeTooLarge, "agentId: its escaped form is over %d bytes", MaxToken)
		}
	}
	if err := checkLabels(e.Labels); err != nil {
		return err
	}
	switch {
	case e.DelaySeconds < 0 || e.DelaySeconds > MaxDelay.Seconds():
		return Errorf(CodeInvalid, "delaySeconds must be 0 to %.0f", MaxDelay.Seconds())
	case e.DelaySeconds > 0 && !e.StartAt.IsZero():
		return Errorf(CodeInvalid, "delaySeconds and startAt exclude each other")
	case e.DeadlineSeconds < 0 || e.DeadlineSeconds > MaxDelay.Seconds():
		return Errorf(CodeInvalid, "deadlineSeconds must be 0 to %.0f", MaxDelay.Seconds())
	case e.DeadlineSeconds > 0 && !e.Deadline.IsZero():
		return Errorf(CodeInvalid, "deadlineSeconds and deadline exclude each other")
	}
	return wantObject("input", e.Input)
}

func (e *RunCommand) check([]byte) *Error {
	switch e.Kind {
	case KindRunSignal:
		if e.Name == "" {
			return missing("name", "the name of the signal")
		}
		if len(e.Name) > MaxName {
			return Errorf(CodeTooLarge, "name has %d bytes, at most %d are allowed", len(e.Name), MaxName)
		}
		if len(e.Payload) > MaxSignal {
			return Errorf(CodeTooLarge, "payload has %d bytes, at most %d are allowed", len(e.Payload), MaxSignal)
		}
	case KindRunApprove, KindRunReject, KindRunRerun:
		if e.TaskID == "" {
			return missing("taskId", "the task that the command is about")
		}
	}
	if len(e.By) > MaxName {
		return Errorf(CodeTooLarge, "by has %d bytes, at most %d are allowed", len(e.By), MaxName)
	}
	if n := max(len(e.Comment), len(e.Reason)); n > MaxErrorText {
		return Errorf(CodeTooLarge, "comment or reason has %d bytes, at most %d are allowed", n, MaxErrorText)
	}
	if err := wantObject("input", e.Input); err != nil {
		return err
	}
	return wantObject("set", e.Set)
}

func (e *QueueCommand) check([]byte) *Error { return nil }

func (e *WorkflowCommand) check([]byte) *Error { return nil }

func (e *AgentCommand) check([]byte) *Error {
	if e.DeadlineSeconds < 0 || e.DeadlineSeconds > MaxDrain.Seconds() {
		return Errorf(CodeInvalid, "deadlineSeconds must be 0 to %.0f", MaxDrain.Seconds())
	}
	return nil
}

func missing(member, want string) *Error {
	return Errorf(CodeMalformed, "%s is missing: want %s", member, want)
}

// requireStrings checks that members are present. A value that is not empty proves it; only for empty ones the body is read again,
// which keeps the hot path to one pass.
func requireStrings(body []byte, nameValue ...string) *Error {
	for i := 0; i < len(nameValue); i += 2 {
		if nameValue[i+1] == "" && kindAt(body, nameValue[i]) != '"' {
			return missing(nameValue[i], "a string")
		}
	}
	return nil
}

// kindAt returns the kind of the value at a path of member names, or 0 if there is none.
func kindAt(body []byte, path ...string) jsontext.Kind {
	d := seek(body, path...)
	if d == nil {
		return 0
	}
	return d.PeekKind()
}

// seek returns a decoder that stands before the value at a path of member names, or nil if there is none.
func seek(body []byte, path ...string) *jsontext.Decoder {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	for _, name := range path {
		if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
			return nil
		}
		for {
			t, err := d.ReadToken()
			if err != nil || t.Kind() != '"' {
				return nil
			}
			if t.String() == name {
				break
			}
			if d.SkipValue() != nil {
				return nil
			}
		}
	}
	return d
}

// nullWithin reports whether an array or an object of the body has a null among its values.
func nullWithin(body []byte, name string) bool {
	d := seek(body, name)
	if d == nil {
		return false
	}
	if t, err := d.ReadToken(); err != nil || t.Kind() != '[' && t.Kind() != '{' {
		return false
	}
	for {
		t, err := d.ReadToken()
		if err != nil || t.Kind() == ']' || t.Kind() == '}' {
			return false
		}
		if t.Kind() == 'n' {
			return true
		}
	}
}

func hasEmptyValue(m map[string]string) bool {
	for _, v := range m {
		if v == "" {
			return true
		}
	}
	return false
}

func wantObject(name string, v Raw) *Error {
	if k := v.Kind(); len(v) > 0 && k != '{' && k != 'n' {
		return Errorf(CodeMalformed, "/%s must be an object, not %s", name, kindName(k))
	}
	return nil
}

// HonoursReply reports whether an outcome may be published to a subject given in HeaderReply. Publishing to one that is too long or
// not well-formed would make the server close the connection.
func HonoursReply(subject string) bool {
	inbox, ok := strings.CutPrefix(subject, InboxPrefix)
	if !ok || len(subject) > MaxToken {
		return false
	}
	for token := range strings.SplitSeq(inbox, ".") {
		if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == '*' || r == '>' || r == 0x7f }) {
			return false
		}
	}
	return true
}
