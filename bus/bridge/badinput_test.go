package bridge_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// scene is the world that bad input comes into: agent a, whose process "now" has replaced "before", is registered and idle and works on run r; agent b is
// registered too. Nothing that is said changes that, unless a case says so.
type scene struct {
	*bundle

	token string // of a's attempt
}

func (b *bundle) scene() *scene {
	b.t.Helper()
	tasks, err := b.conn.NC().SubscribeSync(event.TaskSubject("a"))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range []struct{ subject, body string }{
		{event.AgentSubject(event.VerbRegister, "b"), `{"agentName":"b","version":"1","capabilities":["other"]}`},
		{event.AgentSubject(event.VerbRegister, "a"), `{"agentName":"a","version":"1","capabilities":["think"],"instance":"before"}`},
		{event.AgentSubject(event.VerbRegister, "a"), `{"agentName":"a","version":"1","capabilities":["think"],"instance":"now"}`},
		{event.AgentSubject(event.VerbState, "a"), `{"state":"idle","instance":"now"}`},
		{event.CommandSubject(event.KindWorkflowApply, "one"), oneTask},
		{event.CommandSubject(event.KindRunStart, "r"), `{"workflowId":"one"}`},
	} {
		if o := b.ask(m.subject, m.body); !o.OK {
			b.t.Fatalf("%s: %v", m.subject, o.Error)
		}
	}
	asked, err := tasks.NextMsgWithContext(soon(b.t))
	if err != nil {
		b.t.Fatal(err)
	}
	var task event.Task
	if err := event.Unmarshal(asked.Data, &task); err != nil {
		b.t.Fatal(err)
	}
	if err := asked.Respond([]byte(`{"status":"accepted"}`)); err != nil {
		b.t.Fatal(err)
	}
	return &scene{bundle: b, token: task.Token}
}

// ask publishes a message and returns its outcome.
func (b *bundle) ask(subject, body string) event.Outcome {
	b.t.Helper()
	o, _, err := b.conn.Call(soon(b.t), &nats.Msg{Subject: subject, Data: []byte(body)})
	if err != nil {
		b.t.Fatal(err)
	}
	return o
}

// facts is what must not change, in one line.
func (s *scene) facts() string {
	s.t.Helper()
	a, err := s.agents.Get(s.t.Context(), "a")
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := s.runs.Run(s.t.Context(), "r")
	if err != nil {
		s.t.Fatal(err)
	}
	task := r.Tasks[0]
	busy := task.State == event.TaskAssigned || task.State == event.TaskRunning // which of them, its timer decides
	return fmt.Sprintf("a is %s as %s with %d held, cordoned %v; r is %s, busy %v in attempt %d", a.State, a.Instance, len(a.Held), a.Cordoned, r.State, busy, task.Attempt)
}

const unharmed = "a is idle as now with 1 held, cordoned false; r is running, busy true in attempt 1"

// Whatever is forged, replayed, out of order, dated in the future or about something foreign is refused with a reason or changes nothing. Without somebody who
// waits for the answer, what is refused becomes one dead letter of that class.
func TestBadInput(t *testing.T) {
	b := setup(t, nil)
	s := b.scene()
	result := func(member, value string) string {
		body := `{"runId":"r","taskId":"t1","attempt":1,"token":"` + s.token + `","instance":"now","status":"completed"}`
		_, rest, _ := strings.Cut(body, `"`+member+`":`)
		old, _, _ := strings.Cut(rest, ",")
		return strings.Replace(body, `"`+member+`":`+old, `"`+member+`":`+value, 1)
	}
	resultOf := func(agent string) string { return event.AgentSubject(event.VerbResult, agent) }
	stateOf := func(agent string) string { return event.AgentSubject(event.VerbState, agent) }
	start := event.CommandSubject(event.KindRunStart, "r")
	for _, c := range []struct {
		name, subject, body string
		want                event.Code // empty: taken in
		after               string     // empty: unharmed
	}{
		{"forged: another agent's id in the body", stateOf("a"), `{"agentId":"b","state":"offline"}`, event.CodeInvalid, ""},
		{"forged: a result with a made-up token", resultOf("a"), result("token", `"guessed"`), event.CodeStaleAttempt, ""},
		{"forged: a result by an agent that has not got the task", resultOf("b"), result("instance", `"x"`), event.CodeStaleAttempt, ""},
		{"forged: a subject in another spelling", stateOf("=61"), `{"state":"offline"}`, event.CodeMalformed, ""},
		{"foreign: a process that was replaced reports", stateOf("a"), `{"state":"offline","instance":"before"}`, event.CodeStaleInstance, ""},
		{"foreign: a process that was replaced delivers", resultOf("a"), result("instance", `"before"`), event.CodeStaleInstance, ""},
		{"foreign: a result of an unknown run", resultOf("a"), result("runId", `"nothing"`), event.CodeUnknownRun, ""},
		{"foreign: a result of an unknown task", resultOf("a"), result("taskId", `"t9"`), event.CodeStaleAttempt, ""},
		{"foreign: a cordon of an unknown agent", event.CommandSubject(event.KindAgentCordon, "nobody"), ``, event.CodeUnknownAgent, ""},
		{"foreign: a run of an unknown workflow", event.CommandSubject(event.KindRunStart, "r2"), `{"workflowId":"none"}`, event.CodeUnknownDefinition, ""},
		{"future: an attempt that was not made", resultOf("a"), result("attempt", "2"), event.CodeStaleAttempt, ""},
		{"future: a report dated in the year 2999", stateOf("a"), `{"state":"idle","instance":"now","timestamp":"2999-01-01T00:00:00Z"}`, "", ""},
		{
			"reordered: a report dated in the past is the newest all the same", stateOf("a"), `{"state":"finished","instance":"now","timestamp":"1970-01-01T00:00:00Z"}`, "",
			strings.Replace(unharmed, "idle", "finished", 1),
		},
		{"put right again", stateOf("a"), `{"state":"idle","instance":"now"}`, "", ""},
		{"replayed: the start once more", start, `{"workflowId":"one"}`, "", ""},
		{"replayed: the start with another body", start, `{"workflowId":"one","input":{"other":1}}`, event.CodeConflict, ""},
		{"replayed: the registration once more", event.AgentSubject(event.VerbRegister, "b"), `{"agentName":"b","version":"1","capabilities":["other"]}`, "", ""},
		{"broken: no JSON", stateOf("a"), `{"state":"offline"`, event.CodeMalformed, ""},
		{"broken: a member twice", stateOf("a"), `{"state":"idle","state":"offline"}`, event.CodeMalformed, ""},
		{"broken: a wrong type", stateOf("a"), `{"state":7}`, event.CodeMalformed, ""},
		{"too large", stateOf("a"), `{"state":"offline","details":{"x":"` + strings.Repeat("x", event.MaxDetails) + `"}}`, event.CodeTooLarge, ""},
	} {
		if c.after == "" {
			c.after = unharmed
		}
		o := b.ask(c.subject, c.body)
		switch {
		case c.want == "" && !o.OK:
			t.Errorf("%s: refused: %v", c.name, o.Error)
		case c.want != "" && (o.OK || o.Error.Code != c.want):
			t.Errorf("%s: %+v %v, want %s", c.name, o.OK, o.Error, c.want)
		}
		if got := s.facts(); got != c.after {
			t.Errorf("%s: %s", c.name, got)
		}
		if c.want == "" {
			continue
		}
		before := s.deadOf(c.want)
		b.publish(c.subject, c.body)
		bustest.Eventually(t, c.name+" is buried", func() bool { return s.deadOf(c.want) > before })
		if n := s.deadOf(c.want); n != before+1 {
			t.Errorf("%s: %d dead letters", c.name, n-before)
		}
	}
	// After all that the result itself is taken, once.
	if o := b.ask(resultOf("a"), result("instance", `"now"`)); !o.OK || o.State != string(event.RunCompleted) {
		t.Errorf("the result: %+v", o)
	}
	if o := b.ask(resultOf("a"), result("instance", `"now"`)); !o.OK {
		t.Errorf("replayed: the result once more: %v", o.Error)
	}
	if o := b.ask(resultOf("a"), strings.Replace(result("instance", `"now"`), "completed", "failed", 1)); o.OK || o.Error.Code != event.CodeStaleAttempt {
		t.Errorf("reordered: a failure behind the result: %+v", o)
	}
}

// deadOf counts the dead letters of a class.
func (s *scene) deadOf(class event.Code) int {
	list, err := s.conn.DeadLetters(s.t.Context(), event.DeadFilter{Class: class}, "", 500)
	if err != nil {
		s.t.Fatal(err)
	}
	return len(list.Items)
}

// A verb or a kind that nobody reads is carried by no stream: its sender hears nothing, rather than that it is stored.
func TestUnknownVerbsAreNotStored(t *testing.T) {
	conn := bustest.Conn(t)
	for _, subject := range []string{"opscore.v1.agent.sing.a", "opscore.v1.command.run-eat.r", "opscore.v1.agent.state.a.b"} {
		if err := conn.NC().PublishMsg(&nats.Msg{Subject: subject}); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.NC().RequestWithContext(soon(t), subject, nil); err == nil {
			t.Errorf("%s was acknowledged", subject)
		}
	}
}
