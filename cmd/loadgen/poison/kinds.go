package poison

import (
	"fmt"
	"strings"

	"github.com/opspawn/opscore/bus/event"
)

// kind is one way in which a message can be beyond help.
type kind struct {
	name  string
	class event.Code // of its letter
	large bool       // there are at most maxLarge of it
	make  func(agent, run string, random uint64) (subject string, body []byte)
}

// maxLarge bounds the messages of a megabyte.
const maxLarge = 10

// kinds are all of them. What Ops-Core does with each stands in the table of bad input in docs/wire.md.
var kinds = []kind{
	{name: "malformed JSON", class: event.CodeMalformed, make: func(agent, _ string, _ uint64) (string, []byte) {
		return event.AgentSubject(event.VerbState, agent), []byte(`{"state":"idle"`)
	}},
	{name: "wrong type", class: event.CodeMalformed, make: func(agent, _ string, _ uint64) (string, []byte) {
		return event.AgentSubject(event.VerbState, agent), []byte(`{"state":{"word":"idle"}}`)
	}},
	{name: "missing member", class: event.CodeMalformed, make: func(agent, _ string, _ uint64) (string, []byte) {
		return event.AgentSubject(event.VerbResult, agent), []byte(`{"runId":"r","taskId":"t","attempt":1}`)
	}},
	{name: "not UTF-8", class: event.CodeMalformed, make: func(agent, _ string, _ uint64) (string, []byte) {
		return event.AgentSubject(event.VerbState, agent), []byte("{\"state\":\"\xff\"}")
	}},
	{name: "subject that names nothing", class: event.CodeMalformed, make: func(agent, _ string, _ uint64) (string, []byte) {
		return event.AgentSubject(event.VerbState, agent+"%20"), []byte(`{"state":"idle"}`)
	}},
	{name: "too large", class: event.CodeTooLarge, large: true, make: func(agent, _ string, _ uint64) (string, []byte) {
		return event.AgentSubject(event.VerbState, agent), []byte(`{"state":"idle","more":"` + strings.Repeat("x", event.MaxBody) + `"}`)
	}},
	{name: "details too large", class: event.CodeTooLarge, large: true, make: func(agent, _ string, _ uint64) (string, []byte) {
		return event.AgentSubject(event.VerbState, agent), []byte(`{"state":"idle","details":{"x":"` + strings.Repeat("x", event.MaxDetails) + `"}}`)
	}},
	{name: "forged agent", class: event.CodeInvalid, make: func(agent, _ string, random uint64) (string, []byte) {
		return event.AgentSubject(event.VerbState, agent), fmt.Appendf(nil, `{"agentId":"victim-%x","state":"offline"}`, random)
	}},
	{name: "process that was replaced", class: event.CodeStaleInstance, make: func(agent, _ string, _ uint64) (string, []byte) {
		return event.AgentSubject(event.VerbState, agent), []byte(`{"state":"offline","instance":"before"}`)
	}},
	{name: "result of an unknown run", class: event.CodeUnknownRun, make: func(agent, _ string, random uint64) (string, []byte) {
		return event.AgentSubject(event.VerbResult, agent), fmt.Appendf(nil, `{"runId":"none-%x","taskId":"t","attempt":1,"status":"completed"}`, random)
	}},
	{name: "result of another's attempt", class: event.CodeStaleAttempt, make: func(agent, run string, random uint64) (string, []byte) {
		return event.AgentSubject(event.VerbResult, agent),
			fmt.Appendf(nil, `{"runId":%q,"taskId":"t","attempt":1,"token":"%x","status":"failed"}`, run, random)
	}},
	{name: "run of an unknown workflow", class: event.CodeUnknownDefinition, make: func(_, _ string, random uint64) (string, []byte) {
		return event.CommandSubject(event.KindRunStart, fmt.Sprintf("foreign-%x", random)), []byte(`{"workflowId":"nothing"}`)
	}},
	{name: "run started with another body", class: event.CodeConflict, make: func(_, run string, random uint64) (string, []byte) {
		return event.CommandSubject(event.KindRunStart, run), fmt.Appendf(nil, `{"workflowId":"poison","input":{"other":"%x"}}`, random)
	}},
	{name: "command about an unknown agent", class: event.CodeUnknownAgent, make: func(_, _ string, random uint64) (string, []byte) {
		return event.CommandSubject(event.KindAgentCordon, fmt.Sprintf("nobody-%x", random)), nil
	}},
}
