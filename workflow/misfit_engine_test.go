package workflow_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/examples/workflows"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

// schemas are those of one capability; an empty one is none.
func schemas(capability, input, output string) map[string]event.CapabilitySchemas {
	var s event.CapabilitySchemas
	if input != "" {
		s.Input = event.Raw(input)
	}
	if output != "" {
		s.Output = event.Raw(output)
	}
	return map[string]event.CapabilitySchemas{capability: s}
}

const (
	takesText   = `{"type":"object","required":["v"],"properties":{"v":{"type":"string"}}}`
	takesNumber = `{"type":"object","required":["v"],"properties":{"v":{"type":"number"}}}`
)

// A task goes to an agent that takes its input, whichever is asked first; one that nobody takes waits, says why, and goes to the first that does.
func TestATaskGoesToAnAgentThatTakesItsInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for id, input := range map[string]string{"texts": takesText, "numbers": takesNumber} {
		b.employ(t, agent.Config{ID: id, Capabilities: []string{"c"}, CapabilitySchemas: schemas("c", input, "")},
			func(context.Context, map[string]any, *agent.Task) (any, error) { return map[string]any{"by": id}, nil })
	}
	b.call(t, event.KindWorkflowApply, "w", sequence("w", "c"))
	want := make(map[string]string)
	for i := range 40 {
		want[b.launch(t, "w", `{"v":"x"}`)] = "texts"
		want[b.launch(t, "w", fmt.Sprintf(`{"v":%d}`, i))] = "numbers"
	}
	for run, by := range want {
		r := b.ended(t, run)
		if r.State != event.RunCompleted || r.Tasks[0].AgentID != by || string(r.Output) != `{"by":"`+by+`"}` {
			t.Errorf("the run for %s: %s", by, event.MustMarshal(r))
		}
	}

	run := b.launch(t, "w", `{"v":null}`)
	var x *event.RunExplanation
	bustest.Eventually(t, "nobody takes it", func() bool {
		var err error
		x, err = b.runs.ExplainRun(t.Context(), run)
		return err == nil && len(x.Tasks) == 1 && slices.Equal(x.Tasks[0].Rules, []event.RuleCount{{Rule: lifecycle.RuleSchema, Agents: 2}})
	})
	for _, refusal := range x.Tasks[0].Refused {
		wanted := map[string]string{"texts": "got null, want string", "numbers": "got null, want number"}[refusal.AgentID]
		if refusal.Rule != lifecycle.RuleSchema || !strings.Contains(refusal.Text, "/v: "+wanted) {
			t.Errorf("it is refused with %+v", refusal)
		}
	}
	if want := `register an agent that offers "c" and takes the input`; x.Tasks[0].Unblock != want {
		t.Errorf("what helps: %q, want %q", x.Tasks[0].Unblock, want)
	}
	if r, err := b.runs.Run(t.Context(), run); err != nil || r.Tasks[0].State != event.TaskReady || r.Tasks[0].Attempt != 0 || len(r.Tasks[0].Reasons) != 2 {
		t.Errorf("the run shows %s, %v", event.MustMarshal(r), err)
	}
	b.employ(t, agent.Config{ID: "all", Capabilities: []string{"c"}},
		func(context.Context, map[string]any, *agent.Task) (any, error) { return nil, nil })
	if r := b.ended(t, run); r.State != event.RunCompleted || r.Tasks[0].AgentID != "all" || r.Tasks[0].Attempt != 1 {
		t.Errorf("when one takes everything: %s", event.MustMarshal(r))
	}
}

// An agent that learns to take the input of a task that waits is given it.
func TestAnAgentThatRegistersAnotherSchemaIsGivenWhatWaits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.call(t, event.KindWorkflowApply, "w", sequence("w", "work"))
	asked := b.takes(t, "learns", 1)
	registration := &event.Register{AgentName: "learns", Version: "1", Capabilities: []string{"work"}, Instance: "learns"}
	registration.CapabilitySchemas = schemas("work", takesText, "")
	b.say(t, event.VerbRegister, "learns", registration)
	run := b.launch(t, "w", `{"v":1}`)
	bustest.Eventually(t, "it is not given to the agent", func() bool {
		r, err := b.runs.Run(t.Context(), run)
		return err == nil && len(r.Tasks) == 1 && len(r.Tasks[0].Reasons) == 1 && r.Tasks[0].Reasons[0].Rule == lifecycle.RuleSchema
	})
	registration.CapabilitySchemas = schemas("work", takesNumber, "")
	b.say(t, event.VerbRegister, "learns", registration)
	if task := next(t, asked); task.RunID != run || task.Attempt != 1 || task.PreviousError != nil {
		t.Errorf("it is given %+v", task)
	}
}

// A task for one agent alone cannot go to another: when that does not take its input it has failed, without a retry, and the next fallback tries it.
func TestATaskForOneAgentFailsWhenThatDoesNotTakeItsInput(t *testing.T) {
	t.Parallel()
	b := setup(t)
	says := func(id string) workflows.StandIn {
		return func(context.Context, map[string]any, *agent.Task) (any, error) { return map[string]any{"by": id}, nil }
	}
	b.employ(t, agent.Config{ID: "picky", Capabilities: []string{"c"}, CapabilitySchemas: schemas("c", takesText, "")}, says("picky"))
	b.employ(t, agent.Config{ID: "spare", Capabilities: []string{"d"}}, says("spare"))
	b.call(t, event.KindWorkflowApply, "alone", event.Raw(`{"id":"alone","tasks":[{"taskId":"a","agentId":"picky","agentCapability":"c"}]}`))
	b.call(t, event.KindWorkflowApply, "fallback", event.Raw(`{"id":"fallback","tasks":[
		{"taskId":"a","select":{"agentId":"picky","capability":"c"},"onFailure":{"fallback":[{"capability":"d"}]}}]}`))

	r := b.ended(t, b.launch(t, "alone", `{"v":1}`))
	if r.State != event.RunFailed || r.Error.Code != "invalid_input" || !strings.Contains(r.Error.Message, `agent "picky"`) ||
		!strings.Contains(r.Error.Message, "/v: got number, want string") || r.Tasks[0].Attempt != 0 {
		t.Errorf("alone: %s", event.MustMarshal(r))
	}
	if r := b.ended(t, b.launch(t, "alone", `{"v":"x"}`)); r.State != event.RunCompleted {
		t.Errorf("what it takes: %s", event.MustMarshal(r))
	}
	if r := b.ended(t, b.launch(t, "fallback", `{"v":1}`)); r.State != event.RunCompleted || string(r.Output) != `{"by":"spare"}` {
		t.Errorf("with a fallback: %s", event.MustMarshal(r))
	}
}

// What an attempt is held to is what its agent had registered when it was given to it, on Redis, whichever replica judges and whatever was registered since.
func TestAnAttemptIsHeldToTheSchemaOfItsAssignment(t *testing.T) {
	t.Parallel()
	store, err := storage.Open(t.Context(), storagetest.StartRedis(t).URL(), redisstore.Driver)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	conn := bustest.Conn(t)
	b, stop := replica(t, conn, store, nil)
	b.call(t, event.KindWorkflowApply, "w", event.Raw(`{"id":"w","retry":{"attempts":1,"initialSeconds":0.01},"tasks":[{"taskId":"a","agentCapability":"work"}]}`))
	asked := b.takes(t, "a", 1)
	register := func(output string) {
		b.say(t, event.VerbRegister, "a", &event.Register{
			AgentName: "a", Version: "1", Capabilities: []string{"work"}, Instance: "a", CapabilitySchemas: schemas("work", "", output),
		})
	}
	register(takesText)
	run := b.launch(t, "w", `{}`)
	first := next(t, asked)
	register(takesNumber)
	if err := stop(); err != nil { // the other replica has seen nothing
		t.Fatal(err)
	}
	b, stop = replica(t, conn, store, nil)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	result := func(task *event.Task, output string) event.Outcome {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		m := nats.NewMsg(event.AgentSubject(event.VerbResult, "a"))
		m.Data = event.MustMarshal(&event.Result{AttemptRef: task.Ref(), Status: event.StatusCompleted, Output: event.Raw(output)})
		o, _, err := b.conn.Call(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	result(&first, `{"v":1}`) // fits what it says now, and not what it had said
	second := next(t, asked)
	if e := second.PreviousError; e == nil || e.Code != "invalid_output" || !strings.Contains(e.Message, "/v: got number, want string") {
		t.Errorf("the next attempt is told %+v", second.PreviousError)
	}
	register("") // whatever it says now
	result(&second, `{"v":2}`)
	if r := b.ended(t, run); r.State != event.RunCompleted || string(r.Output) != `{"v":2}` {
		t.Errorf("the run ended as %s", event.MustMarshal(r))
	}
	if o := result(&second, `{"v":2}`); !o.OK {
		t.Errorf("its repeat: %+v", o)
	}
	if o := result(&second, `{"v":"x"}`); o.OK || o.Error.Code != event.CodeStaleAttempt {
		t.Errorf("another word about it: %+v", o)
	}
}

// reader counts how often the schemas of agents are read.
type reader struct {
	storage.Store
	schemas atomic.Int64
}

func (r *reader) Get(ctx context.Context, keys ...storage.Key) ([]storage.Doc, error) {
	for _, k := range keys {
		if strings.HasPrefix(string(k), "agent-schemas/") {
			r.schemas.Add(1)
		}
	}
	return r.Store.Get(ctx, keys...)
}

// Runs on agents that have registered no schemas read none; on others each schema is read once, however many runs and agents there are.
func TestSchemasAreReadOnce(t *testing.T) {
	t.Parallel()
	store := &reader{Store: boltStore(t)}
	b, stop := replica(t, bustest.Conn(t), store, nil)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	work := func(context.Context, map[string]any, *agent.Task) (any, error) { return map[string]any{"v": 1}, nil }
	b.employ(t, agent.Config{ID: "free", Capabilities: []string{"free"}}, work)
	for _, id := range []string{"typed-1", "typed-2"} {
		b.employ(t, agent.Config{ID: id, Capabilities: []string{"typed"}, CapabilitySchemas: schemas("typed", takesText, takesNumber)}, work)
	}
	registered := store.schemas.Load() // by lifecycle, which adds to them
	for _, c := range []struct {
		capability string
		reads      int64
	}{{"free", 0}, {"typed", 2}} {
		b.call(t, event.KindWorkflowApply, c.capability, sequence(c.capability, c.capability))
		for range 20 {
			if r := b.ended(t, b.launch(t, c.capability, `{"v":"x"}`)); r.State != event.RunCompleted {
				t.Errorf("%s", event.MustMarshal(r))
			}
		}
		if got := store.schemas.Load() - registered; got != c.reads {
			t.Errorf("20 runs on agents of capability %s read schemas %d times, want %d", c.capability, got, c.reads)
		}
	}
}
