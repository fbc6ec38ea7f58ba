package event_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
)

// Bodies that are right, to be broken in one place.
const (
	goodRegister = `{"agentName":"a","version":"1","capabilities":["x"]}`
	goodState    = `{"state":"idle"}`
	goodResult   = `{"runId":"r","taskId":"t","attempt":1,"status":"completed"}`
	goodStart    = `{"workflowId":"w"}`
)

func subjects() (register, state, progress, result, start, signal, rerun string) {
	return event.AgentSubject(event.VerbRegister, "a"), event.AgentSubject(event.VerbState, "a"),
		event.AgentSubject(event.VerbProgress, "a"), event.AgentSubject(event.VerbResult, "a"),
		event.CommandSubject(event.KindRunStart, "r"), event.CommandSubject(event.KindRunSignal, "r"),
		event.CommandSubject(event.KindRunRerun, "r")
}

// refusal decodes a message that must be refused.
func refusal(t *testing.T, subject string, body []byte) *event.Error {
	t.Helper()
	m, err := event.Decode(subject, body)
	var refused *event.Error
	if !errors.As(err, &refused) {
		t.Fatalf("Decode(%q, %.200q) = %+v, %v; want an *event.Error", subject, body, m.Event, err)
	}
	if m.Event != nil {
		t.Errorf("a refused message has the event %+v", m.Event)
	}
	return refused
}

func TestRefusalsNameTheCodeAndWhatToDo(t *testing.T) {
	register, state, progress, result, start, signal, rerun := subjects()
	with := func(body, member string) string { return strings.Replace(body, "{", "{"+member+",", 1) }
	without := func(body, member string) string {
		cut := strings.Replace(body, member+",", "", 1)
		return strings.Replace(cut, ","+member, "", 1)
	}
	manyCapabilities := `"capabilities":["x"` + strings.Repeat(`,"x"`, event.MaxCapabilities) + `]`
	big := func(n int) string { return strings.Repeat("x", n) }

	for _, c := range []struct {
		name          string
		subject, body string
		code          event.Code
		says          string
	}{
		{"nothing at all", register, ``, event.CodeMalformed, "the body is empty or ends too early; send one JSON object"},
		{"half a body", register, goodRegister[:20], event.CodeMalformed, "ends too early"},
		{"no JSON", register, `agent=a`, event.CodeMalformed, "not strict JSON: invalid character 'a'"},
		{"two bodies", state, goodState + goodState, event.CodeMalformed, "not strict JSON: invalid character '{' after top-level value"},
		{"an array", state, `[]`, event.CodeMalformed, "the body must be an object, not an array"},
		{"a string", state, `"idle"`, event.CodeMalformed, "the body must be an object, not a string"},
		{"null", state, ` null `, event.CodeMalformed, "the body must be an object, not null"},
		{"null where a body is optional", event.AgentSubject(event.VerbDeregister, "a"), `null`, event.CodeMalformed, "must be an object"},
		{"a member twice", state, `{"state":"idle","state":"busy"}`, event.CodeMalformed, `duplicate object member name "state"`},
		{"a member twice inside", state, with(goodState, `"details":{"a":1,"a":2}`), event.CodeMalformed, `duplicate object member name "a"`},
		{"broken UTF-8", state, "{\"state\":\"\xff\"}", event.CodeMalformed, `invalid UTF-8 within "/state"`},
		{"half a surrogate pair", state, `{"state":"\ud800"}`, event.CodeMalformed, `invalid surrogate pair`},

		{"no agentName", register, without(goodRegister, `"agentName":"a"`), event.CodeMalformed, "agentName is missing: want a string"},
		{"agentName null", register, strings.Replace(goodRegister, `"a"`, `null`, 1), event.CodeMalformed, "agentName is missing: want a string"},
		{"agentName in another case", register, strings.Replace(goodRegister, `agentName`, `agentname`, 1), event.CodeMalformed, "agentName is missing"},
		{"no version", register, without(goodRegister, `"version":"1"`), event.CodeMalformed, "version is missing: want a string"},
		{"no capabilities", register, without(goodRegister, `"capabilities":["x"]`), event.CodeMalformed, "capabilities is missing: want an array of strings"},
		{"capabilities null", register, strings.Replace(goodRegister, `["x"]`, `null`, 1), event.CodeMalformed, "capabilities is missing: want an array of strings"},
		{"a capability null", register, strings.Replace(goodRegister, `["x"]`, `["x",null]`, 1), event.CodeMalformed, "/capabilities must hold strings, not null"},
		{"a label null", register, with(goodRegister, `"labels":{"a":null}`), event.CodeMalformed, "/labels must hold strings, not null"},
		{"no state", state, `{}`, event.CodeMalformed, "state is missing: want a string"},
		{"state null", state, `{"state":null}`, event.CodeMalformed, "state is missing: want a string"},
		{"no runId", result, without(goodResult, `"runId":"r"`), event.CodeMalformed, "runId is missing: want a string"},
		{"no taskId", progress, `{"runId":"r","attempt":1}`, event.CodeMalformed, "taskId is missing: want a string"},
		{"no attempt", progress, `{"runId":"r","taskId":"t"}`, event.CodeMalformed, "attempt is missing: want a whole number from 1"},
		{"no status", result, without(goodResult, `"status":"completed"`), event.CodeMalformed, "status is missing: want completed or failed"},
		{"no error code", result, with(goodResult, `"error":{"message":"m"}`), event.CodeMalformed, "error.code is missing"},
		{"no error message", result, with(goodResult, `"error":{"code":"c"}`), event.CodeMalformed, "error.message is missing: want a string"},
		{"no workflow", start, `{}`, event.CodeMalformed, "workflowId or definition is missing; give one of them"},
		{"a workflow null", start, `{"workflowId":null,"definition":null}`, event.CodeMalformed, "workflowId or definition is missing"},
		{"a signal without a name", signal, `{"payload":1}`, event.CodeMalformed, "name is missing: want the name of the signal"},
		{"a rerun of nothing", rerun, ``, event.CodeMalformed, "taskId is missing: want the task that the command is about"},
		{"a rerun with a list", rerun, `{"taskId":"t","set":[]}`, event.CodeMalformed, "/set must be an object, not an array"},
		{"a delay without end", start, `{"workflowId":"w","delaySeconds":1e9}`, event.CodeInvalid, "delaySeconds must be 0 to 31622400"},
		{"a deadline in the past", start, `{"workflowId":"w","deadlineSeconds":-1}`, event.CodeInvalid, "deadlineSeconds must be 0 to 31622400"},
		{"two deadlines", start, `{"workflowId":"w","deadlineSeconds":1,"deadline":"2026-03-01T13:00:00Z"}`, event.CodeInvalid, "deadlineSeconds and deadline exclude"},
		{"a payload that is large", signal, `{"name":"n","payload":"` + strings.Repeat("x", event.MaxSignal) + `"}`, event.CodeTooLarge, "payload has 65538 bytes, at most 65536 are allowed"},

		{"agentName a number", register, strings.Replace(goodRegister, `"a"`, `7`, 1), event.CodeMalformed, "/agentName must be a string, not a number"},
		{"capabilities a string", register, strings.Replace(goodRegister, `["x"]`, `"x"`, 1), event.CodeMalformed, "/capabilities must be an array, not a string"},
		{"a capability a number", register, strings.Replace(goodRegister, `["x"]`, `["x",1]`, 1), event.CodeMalformed, "/capabilities/1 must be a string, not a number"},
		{"labels an array", register, with(goodRegister, `"labels":[]`), event.CodeMalformed, "/labels must be an object, not an array"},
		{"metadata an array", register, with(goodRegister, `"metadata":[]`), event.CodeMalformed, "/metadata must be an object, not an array"},
		{"details a list", state, with(goodState, `"details":[1]`), event.CodeMalformed, "/details must be an object, not an array"},
		{"slots a string", register, with(goodRegister, `"slots":"2"`), event.CodeMalformed, "/slots must be a whole number, not a string"},
		{"slots with a fraction", register, with(goodRegister, `"slots":1.5`), event.CodeMalformed, "/slots must be a whole number, not one with a fraction"},
		{"slots out of all bounds", register, with(goodRegister, `"slots":99999999999999999999`), event.CodeMalformed, "/slots must be a whole number, not one with a fraction, an exponent or too many digits"},
		{"a heartbeat out of all bounds", register, with(goodRegister, `"heartbeatSeconds":1e400`), event.CodeMalformed, "/heartbeatSeconds must be a number, not one that is out of range"},
		{"attempt a string", result, strings.Replace(goodResult, `1,`, `"1",`, 1), event.CodeMalformed, "/attempt must be a whole number, not a string"},
		{"attempt zero", result, strings.Replace(goodResult, `1,`, `0,`, 1), event.CodeMalformed, "attempt is missing: want a whole number from 1"},
		{"percent a string", progress, with(goodResult, `"percent":"5"`), event.CodeMalformed, "/percent must be a number, not a string"},
		{"status of another word", result, strings.Replace(goodResult, `completed`, `done`, 1), event.CodeMalformed, `status must be completed or failed, not "done"`},
		{"error a string", result, with(goodResult, `"error":"x"`), event.CodeMalformed, "/error must be an object, not a string"},
		{"retryable a string", result, with(goodResult, `"error":{"code":"c","message":"","retryable":"yes"}`), event.CodeMalformed, "/error/retryable must be a boolean, not a string"},
		{"input a list", start, with(goodStart, `"input":[]`), event.CodeMalformed, "/input must be an object, not an array"},

		{"delivery of another word", register, with(goodRegister, `"delivery":"fax"`), event.CodeInvalid, `delivery "fax" is not one of nats, http, poll, agentkit`},
		{"slots below one", register, with(goodRegister, `"slots":-1`), event.CodeInvalid, "slots must be 1 to 1000, not -1"},
		{"slots over the bound", register, with(goodRegister, `"slots":1001`), event.CodeInvalid, "slots must be 1 to 1000, not 1001"},
		{"heartbeats in the past", register, with(goodRegister, `"heartbeatSeconds":-0.5`), event.CodeInvalid, "heartbeatSeconds must be 0 to 86400"},
		{"heartbeats once a week", register, with(goodRegister, `"heartbeatSeconds":604800`), event.CodeInvalid, "heartbeatSeconds must be 0 to 86400"},
		{"an id of another agent", state, with(goodState, `"agentId":"b"`), event.CodeInvalid, `agentId "b" does not match the subject's "a"; leave it out or make them the same`},

		{"schemas a list", register, with(goodRegister, `"capabilitySchemas":[]`), event.CodeMalformed, "/capabilitySchemas must be an object, not an array"},
		{"schemas of a capability a list", register, with(goodRegister, `"capabilitySchemas":{"x":[]}`), event.CodeMalformed, "/capabilitySchemas/x must be an object, not an array"},
		{"a schema a string", register, with(goodRegister, `"capabilitySchemas":{"x":{"output":"object"}}`), event.CodeMalformed, "/capabilitySchemas/x/output must be a JSON Schema: an object, true or false, not a string"},
		{"a schema of another capability", register, with(goodRegister, `"capabilitySchemas":{"y":{}}`), event.CodeInvalid, `capabilitySchemas has "y", which is not among the capabilities; add it there or leave it out`},
		{"too large a schema", register, with(goodRegister, `"capabilitySchemas":{"x":{"input":{"x":"`+big(event.MaxSchema)+`"}}}`), event.CodeTooLarge, `the input schema of capability "x" has 65544 bytes, at most 65536 are allowed`},
		{"too many schemas", register, `{"agentName":"","version":"","capabilities":["0","1","2","3","4"],"capabilitySchemas":{` + manySchemas(5, event.MaxSchema) + `}}`, event.CodeTooLarge, `capabilitySchemas has 327680 bytes of schemas, at most 262144 are allowed together`},

		{"too many capabilities", register, strings.Replace(goodRegister, `"capabilities":["x"]`, manyCapabilities, 1), event.CodeTooLarge, "201 capabilities, at most 200 are allowed"},
		{"too large a body", state, with(goodState, `"x":"`+big(event.MaxBody)+`"`), event.CodeTooLarge, "bytes, at most 983040 are allowed"},
		{"a body one byte too large", state, `{"state":"` + big(event.MaxBody+1-len(`{"state":""}`)) + `"}`, event.CodeTooLarge, "the body has 983041 bytes, at most 983040 are allowed"},
		{"too large details", state, with(goodState, `"details":{"x":"`+big(event.MaxDetails)+`"}`), event.CodeTooLarge, "details has 65544 bytes, at most 65536 are allowed"},
		{"too large metadata", register, with(goodRegister, `"metadata":{"x":"`+big(event.MaxDetails)+`"}`), event.CodeTooLarge, "metadata has 65544 bytes, at most 65536 are allowed"},
		{"too long an error", result, with(goodResult, `"error":{"code":"c","message":"`+big(event.MaxErrorText+1)+`"}`), event.CodeTooLarge, "error.message has 4097 bytes, at most 4096 are allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused := refusal(t, c.subject, []byte(c.body))
			if refused.Code != c.code || !strings.Contains(refused.Message, c.says) {
				t.Errorf("refused with %q, want code %s and %q", refused, c.code, c.says)
			}
		})
	}
}

func TestBodiesAtTheirLimitsAreTaken(t *testing.T) {
	register, state, _, result, start, signal, _ := subjects()
	big := func(n int) string { return strings.Repeat("x", n) }
	padded := func(n int) string { return `{"state":"` + big(n-len(`{"state":""}`)) + `"}` }
	for _, c := range []struct{ name, subject, body string }{
		{"the largest body", state, padded(event.MaxBody)},
		{"the largest details", state, `{"state":"","details":{"x":"` + big(event.MaxDetails-len(`{"x":""}`)) + `"}}`},
		{"the longest error", result, `{"runId":"r","taskId":"t","attempt":1,"status":"failed","error":{"code":"c","message":"` + big(event.MaxErrorText) + `"}}`},
		{"an error that says nothing", result, `{"runId":"r","taskId":"t","attempt":1,"status":"failed","error":{"message":"","code":"c"}}`},
		{"the most slots", register, `{"agentName":"","version":"","capabilities":[],"slots":1000}`},
		{"the most capabilities", register, `{"agentName":"","version":"","capabilities":["x"` + strings.Repeat(`,"x"`, event.MaxCapabilities-1) + `]}`},
		{"the most schemas", register, `{"agentName":"","version":"","capabilities":["0","1","2","3"],"capabilitySchemas":{` + manySchemas(4, event.MaxSchema) + `}}`},
		{"the slowest heartbeat", register, `{"agentName":"","version":"","capabilities":[],"heartbeatSeconds":86400}`},
		{"an empty deregistration", event.AgentSubject(event.VerbDeregister, "a"), ``},
		{"an empty pause", event.CommandSubject(event.KindRunPause, "r"), " \n"},
		{"an empty cordon", event.CommandSubject(event.KindAgentCordon, "a"), ``},
		{"a signal without a payload", signal, `{"name":"go"}`},
		{"a start without input", start, `{"workflowId":"w","input":null}`},
		{"details null", state, `{"state":"idle","details":null}`},
		{"optional members null", register, `{"agentName":"","version":"","capabilities":[],"slots":null,"labels":null,"metadata":null,"delivery":null,"instance":null}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := event.Decode(c.subject, []byte(c.body)); err != nil {
				t.Error(err)
			}
		})
	}
}

// manySchemas are n output schemas of a size, of capabilities from "0".
func manySchemas(n, size int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"%d":{"output":{"x":"%s"}}`, i, strings.Repeat("x", size-len(`{"x":""}`)))
	}
	return strings.Join(all, ",")
}

func TestSchemasThatSayNothingCountAsAbsent(t *testing.T) {
	register, _, _, _, _, _, _ := subjects()
	for _, none := range []string{`null`, `{}`, `{"x":null}`, `{"x":{}}`, `{"x":{"input":null,"output":null}}`} {
		m, err := event.Decode(register, []byte(`{"agentName":"","version":"","capabilities":["x"],"capabilitySchemas":`+none+`}`))
		if err != nil || m.Event.(*event.Register).CapabilitySchemas != nil {
			t.Errorf("%s: %+v, %v; want none", none, m.Event, err)
		}
	}
	m, err := event.Decode(register, []byte(`{"agentName":"","version":"","capabilities":["x"],"capabilitySchemas":{"x":{"input":null,"output":false}}}`))
	want := map[string]event.CapabilitySchemas{"x": {Output: event.Raw(`false`)}}
	if err != nil || !cmp.Equal(want, m.Event.(*event.Register).CapabilitySchemas) {
		t.Errorf("%+v, %v; want %v", m.Event, err, want)
	}
}

func TestNullMetadataAndInputCountAsAbsent(t *testing.T) {
	register, _, _, _, start, _, _ := subjects()
	m, err := event.Decode(register, []byte(`{"agentName":"","version":"","capabilities":[],"metadata":null}`))
	if err != nil || m.Event.(*event.Register).Metadata != nil {
		t.Errorf("metadata null: %+v, %v; want no metadata", m.Event, err)
	}
	m, err = event.Decode(start, []byte(`{"workflowId":"w","input":null,"definition":null}`))
	want := &event.RunStart{RunID: "r", WorkflowID: "w"}
	if diff := cmp.Diff(want, m.Event); err != nil || diff != "" {
		t.Errorf("input null: %v (-want +got):\n%s", err, diff)
	}
}

func TestAFailureWithoutAReasonGetsOne(t *testing.T) {
	_, _, _, result, _, _, _ := subjects()
	m, err := event.Decode(result, []byte(`{"runId":"r","taskId":"t","attempt":1,"status":"failed"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &event.TaskError{Code: "failed", Message: "the agent gave no reason"}
	if diff := cmp.Diff(want, m.Event.(*event.Result).Error); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

// Old clients compare numbers with what they had sent.
func TestNumbersKeepTheirDigits(t *testing.T) {
	_, state, _, _, _, _, _ := subjects()
	const details = `{"b":1.0,"a":12345678901234567890123,"e":1e2,"text":"grün ☕"}`
	m, err := event.Decode(state, []byte(`{"state":"idle","details":`+details+`}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(event.MustMarshal(m.Event)); got != `{"state":"idle","details":`+details+`}` {
		t.Errorf("encoded again: %s", got)
	}
}

func TestDecodeSaysWhoIsMeant(t *testing.T) {
	m, err := event.Decode(event.CommandSubject(event.KindRunPause, event.MustToken("run:1")), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := event.Message{
		Address: event.Address{Family: "command", Name: "run-pause", ID: "run:1"},
		Event:   &event.RunCommand{Kind: event.KindRunPause, RunID: "run:1"},
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
	m, err = event.Decode(event.AgentSubject(event.VerbState, "a"), []byte(`{"agentId":"a","state":"idle"}`))
	if err != nil || m.ID != "a" {
		t.Errorf("a body that repeats the subject's id: %+v, %v", m, err)
	}
}

func TestForeignSubjectsAreRefused(t *testing.T) {
	for _, subject := range []string{
		"", ".", "opscore", event.Root, event.Root + ".", event.Root + ".agent", event.Root + ".agent.state",
		event.Root + ".agent.state.", event.Root + ".agent.state.a.b", event.Root + ".agent..a", event.Root + ".agent.shout.a",
		event.Root + ".command.run-fly.r", event.Root + ".command.register.a", event.Root + ".agent.run-start.a",
		event.Root + ".fact.run.r", event.Root + ".heartbeat.a", event.Root + ".task.a", "opscore.v2.agent.state.a", "x" + event.AgentSubject(event.VerbState, "a"),
		event.AgentSubject(event.VerbState, "a:b"), event.AgentSubject(event.VerbState, "==61"), event.AgentSubject(event.VerbState, "=FF"),
		event.AgentSubject(event.VerbState, "a b"), event.AgentSubject(event.VerbState, strings.Repeat("a", 256)),
	} {
		refused := refusal(t, subject, []byte(goodState))
		if refused.Code != event.CodeMalformed || !strings.Contains(refused.Message, "subject") {
			t.Errorf("%q: refused with %q, want a malformed subject", subject, refused)
		}
	}
	refused := refusal(t, event.Root+".agent.shout.a", nil)
	if want := "want opscore.v1.agent.<verb>.<agent> or opscore.v1.command.<kind>.<key>"; !strings.Contains(refused.Message, want) {
		t.Errorf("refused with %q, want %q", refused, want)
	}
}

func TestEveryIntakeSubjectIsParsedBack(t *testing.T) {
	for _, id := range []string{"a", "agent:7", "ä/b c", strings.Repeat("x", 128), "=", "a.b"} {
		token := event.MustToken(id)
		for _, verb := range []event.Verb{
			event.VerbRegister, event.VerbDeregister, event.VerbState, event.VerbAccepted, event.VerbProgress, event.VerbResult,
		} {
			wantAddress(t, event.AgentSubject(verb, token), event.Address{Family: "agent", Name: string(verb), ID: id})
		}
		for _, kind := range []event.CommandKind{
			event.KindWorkflowApply, event.KindRunStart, event.KindRunCancel, event.KindRunPause, event.KindRunResume,
			event.KindRunSignal, event.KindRunRetry, event.KindRunRerun, event.KindRunApprove, event.KindRunReject,
			event.KindWorkflowPause, event.KindWorkflowResume, event.KindAgentCordon, event.KindAgentUncordon, event.KindAgentDrain,
			event.KindQueuePause, event.KindQueueResume,
		} {
			wantAddress(t, event.CommandSubject(kind, token), event.Address{Family: "command", Name: string(kind), ID: id})
		}
	}
}

func wantAddress(t *testing.T, subject string, want event.Address) {
	t.Helper()
	got, err := event.ParseSubject(subject)
	if err != nil || got != want {
		t.Errorf("ParseSubject(%q) = %+v, %v; want %+v", subject, got, err, want)
	}
	if token := event.Key(subject); token != event.MustToken(want.ID) {
		t.Errorf("Key(%q) = %q", subject, token)
	}
}

// Each verb and each kind of command is carried by exactly one of the two streams.
func TestStreamsShareTheSubjectsOut(t *testing.T) {
	all := append(event.AgentSubjects(), event.WorkSubjects()...)
	seen := make(map[string]bool)
	for _, filter := range all {
		if seen[filter] {
			t.Errorf("%s is carried twice", filter)
		}
		seen[filter] = true
		if _, err := event.Decode(strings.TrimSuffix(filter, "*")+"a", []byte("{}")); err != nil && strings.Contains(err.Error(), "subject") {
			t.Errorf("%s is carried but not known: %v", filter, err)
		}
	}
	if len(all) != 28 {
		t.Errorf("%d subjects, want 6 verbs and 22 kinds", len(all))
	}
}

// A refusal quotes what it was given, which may be a megabyte of anything; its message still goes into one answer and one header.
func TestRefusalsStayShortAndPrintable(t *testing.T) {
	register, _, _, result, _, _, _ := subjects()
	long := strings.Repeat("é", 300_000)
	for _, c := range []struct{ subject, body string }{
		{register, `{"agentName":"","version":"","capabilities":[],"delivery":"` + long + `"}`},
		{register, `{"agentName":"","version":"","capabilities":[],"labels":{"` + long + `":1}}`},
		{register, `{"agentName":"","version":"","capabilities":[],"agentId":"` + long + `"}`},
		{result, `{"runId":"r","taskId":"t","attempt":1,"status":"` + long + `"}`},
		{event.Root + ".agent.state." + long, `{}`},
	} {
		refused := refusal(t, c.subject, []byte(c.body))
		if len(refused.Message) > event.MaxErrorText || !utf8.ValidString(refused.Message) {
			t.Errorf("a message of %d bytes, want at most %d of UTF-8: %.100q", len(refused.Message), event.MaxErrorText, refused.Message)
		}
	}
}

func TestOnlyInboxesAreAnswered(t *testing.T) {
	for subject, want := range map[string]bool{
		"_INBOX.abc":                             true,
		"_INBOX.abc.def":                         true,
		"":                                       false,
		"_INBOX":                                 false,
		"_INBOX.":                                false,
		"_INBOX..a":                              false,
		"_INBOX.a.":                              false,
		"_INBOX.*":                               false,
		"_INBOX.a.>":                             false,
		"_INBOX.a b":                             false,
		"_INBOX.a\r\nPUB opscore.v1.wake 0":      false,
		"_INBOX.a\x00":                           false,
		"_INBOXES.a":                             false,
		" _INBOX.a":                              false,
		event.AgentSubject(event.VerbState, "a"): false,
		"_INBOX." + strings.Repeat("a", 248):     true,
		"_INBOX." + strings.Repeat("a", 249):     false,
	} {
		if got := event.HonoursReply(subject); got != want {
			t.Errorf("HonoursReply(%.40q) = %t, want %t", subject, got, want)
		}
	}
}

func TestErrorsMatchByCode(t *testing.T) {
	err := fmt.Errorf("start: %w", event.Errorf(event.CodeConflict, "run %s exists", "r"))
	if !errors.Is(err, &event.Error{Code: event.CodeConflict}) || errors.Is(err, &event.Error{Code: event.CodeInvalid}) {
		t.Errorf("%v matches by something else than its code", err)
	}
	if got, want := err.Error(), "start: conflict: run r exists"; got != want {
		t.Errorf("error text %q, want %q", got, want)
	}
}

func TestFinalStatesAreTheLastOnes(t *testing.T) {
	for state, want := range map[event.RunState]bool{
		event.RunPending: false, event.RunRunning: false, event.RunPaused: false,
		event.RunCompleted: true, event.RunFailed: true, event.RunCancelled: true,
	} {
		if state.Final() != want {
			t.Errorf("run state %s: final %t", state, state.Final())
		}
	}
	for state, want := range map[event.TaskState]bool{
		event.TaskPending: false, event.TaskReady: false, event.TaskAssigned: false, event.TaskRunning: false,
		event.TaskWaiting: false, event.TaskRetrying: false,
		event.TaskCompleted: true, event.TaskFailed: true, event.TaskSkipped: true, event.TaskCancelled: true,
	} {
		if state.Final() != want {
			t.Errorf("task state %s: final %t", state, state.Final())
		}
	}
}
