package workflow

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow/contract"
)

func unfit(schema string) Unfit { return Unfit{Schema: schema, Why: "/v: no"} }

// The input of a task does not change while it waits: what it does not fit is remembered once, and none of it outlives a run that is run again.
func TestWhatAnInputDoesNotFitIsRemembered(t *testing.T) {
	t.Parallel()
	s := tell(t, tableDefinition, &event.RunStart{})
	ready := s.task("a").Ready
	says := func(schema string, ready time.Time) Decision {
		return s.put(&Misfit{TaskID: "a", Agent: "ann", Ready: ready, Unfit: unfit(schema)})
	}
	for _, schema := range []string{"s2", "s1"} {
		says(schema, ready)
	}
	if got := s.task("a"); got.Class != "s:cap=c&unfit=s1&unfit=s2" || !got.Ready.Equal(ready) || got.Error != nil || got.Attempt != 0 {
		t.Errorf("the task waits as %+v", got)
	}
	if d := says("s1", ready); d.Run != nil || d.Refuse != nil {
		t.Errorf("a repeat: %+v", d)
	}
	if d := says("s3", ready.Add(-time.Second)); d.Run != nil || d.Refuse != nil {
		t.Errorf("of an earlier time: %+v", d)
	}
	s.put(&Refused{Ref: s.assign("a")})
	if got := s.task("a"); got.Class != "s:cap=c&unfit=s1&unfit=s2" {
		t.Errorf("after a refusal it waits in %q", got.Class)
	}
	s.put(&Cancel{})
	s.put(&Command{RunCommand: &event.RunCommand{Kind: event.KindRunRerun, RunID: runID, TaskID: "a", Input: event.Raw(`{"v":1}`)}})
	if got := s.task("a"); got.State != event.TaskReady || got.Class != "c:c" || got.Unfit != nil {
		t.Errorf("run again it waits as %+v", got)
	}
}

// A task that no agent can take ends: one for an agent alone at once, others when there were as many schemas as are remembered.
func TestATaskWhoseInputFitsNobodyFails(t *testing.T) {
	t.Parallel()
	s := tell(t, tableDefinition, &event.RunStart{})
	for i := range maxUnfit {
		s.put(&Misfit{TaskID: "a", Agent: "ann", Ready: s.task("a").Ready, Unfit: unfit(fmt.Sprintf("s%d", i))})
		if got := s.task("a"); got.State != event.TaskReady || len(got.Unfit) != i+1 {
			t.Fatalf("after %d schemas: %+v", i+1, got)
		}
	}
	s.put(&Misfit{TaskID: "a", Agent: "ann", Ready: s.task("a").Ready, Unfit: unfit("last")})
	if s.run.State != event.RunFailed || s.run.Error.Code != CodeInvalidInput || *s.run.Error.Retryable {
		t.Errorf("after one more the run is %s: %+v", s.run.State, s.run.Error)
	}

	s = tell(t, `{"id":"d","tasks":[{"taskId":"a","agentId":"ann","agentCapability":"c","onFailure":{"fallback":[{"capability":"d"}]}}]}`, &event.RunStart{})
	s.put(&Misfit{TaskID: "a", Agent: "ann", Ready: s.task("a").Ready, Unfit: unfit("s")})
	got := s.task("a")
	if got.State != event.TaskReady || got.Class != "c:d" || got.Error.Code != CodeInvalidInput || got.Tries != 0 {
		t.Fatalf("the fallback: %+v", got)
	}
	if want := `the input does not fit the schema that agent "ann" has registered for capability "c": /v: no`; got.Error.Message != want {
		t.Errorf("it failed with %q, want %q", got.Error.Message, want)
	}
}

// A result is judged by the schema of its attempt, also when it comes again after its task has left the document of the run.
func TestAResultIsJudgedByTheSchemaOfItsAttempt(t *testing.T) {
	t.Parallel()
	def := chain(inlineTasks + 1)
	schema, err := contract.Compile(event.Raw(`{"type":"object","required":["n"]}`))
	if err != nil {
		t.Fatal(err)
	}
	at := At{Now: noon, Stream: noon, Seq: 1}
	run := Decide(def, nil, &Start{Event: &event.RunStart{RunID: runID}, Workflow: def.ID}, at).Run
	first := run.Tasks[0].ID
	run = Decide(def, run, &Assign{TaskID: first, Agent: "ann", Token: "t", Schema: "x"}, at).Run
	says := func(output string) Decision {
		at := at
		if run.recall(first).Schema == "x" { // as the engine does
			at.Schema = schema
		}
		ref := event.AttemptRef{RunID: runID, TaskID: first, Attempt: 1, Token: "t"}
		return Decide(def, run, &Said{Agent: "ann", Event: &event.Result{AttemptRef: ref, Status: event.StatusCompleted, Output: event.Raw(output)}}, at)
	}
	if got := says(`{"m":1}`).Run.recall(first); got.State != event.TaskRetrying || !strings.Contains(got.Error.Message, `agent "ann" has registered`) {
		t.Fatalf("an output that does not fit: %+v", got)
	}
	run = says(`{"n":1}`).Run
	if run.Find(first) != nil || run.recall(first).State != event.TaskCompleted {
		t.Fatalf("an output that fits: %+v", run.recall(first))
	}
	if d := says(`{"n":1}`); d.Run != nil || d.Refuse != nil {
		t.Errorf("its repeat: %+v", d)
	}
	if d := says(`{"m":1}`); d.Run != nil || d.Refuse == nil {
		t.Errorf("another word: %+v", d)
	}
}

// What the store has lost of an attempt is lost: its agent is believed, and not held to what it had said before another attempt.
func TestAnAdoptedAttemptIsHeldToNoSchema(t *testing.T) {
	t.Parallel()
	s := tell(t, tableDefinition, &event.RunStart{})
	s.put(&Assign{TaskID: "a", Agent: "ann", Token: "t", Schema: "x"})
	ref := s.task("a").ref(runID)
	s.put(&Gone{Ref: ref})
	at := s.at()
	at.Adopt = true
	if at.Schema, _ = contract.Compile(event.Raw(`false`)); at.Schema == nil {
		t.Fatal("no schema")
	}
	ref.Attempt, ref.Token = 1001, ""
	s.putAt(&Said{Agent: "bob", Event: &event.Result{AttemptRef: ref, Status: event.StatusCompleted}}, at)
	if got := s.task("a"); got.State != event.TaskCompleted || got.Schema != "" {
		t.Errorf("it came to %+v", got)
	}
}

// A task fails for a schema only if its agent has it now, and not because a replica remembers an older gate.
func TestAMisfitWithWhatAnAgentHasReplacedFailsNothing(t *testing.T) {
	t.Parallel()
	store := openTestStore(t)
	e := NewEngine(Config{Store: store})
	gate := func(input string) *lifecycle.Gate {
		return &lifecycle.Gate{Agent: "ann", Registered: true, Slots: 1, Schemas: map[string]lifecycle.SchemaIDs{"c": {Input: input}}}
	}
	rev := e.revs.Next()
	put := storage.Txn{Rev: rev, If: []storage.Cond{{Key: lifecycle.GateKey("ann")}}, Put: []storage.Put{{Key: lifecycle.GateKey("ann"), Data: gate("new").Encode()}}}
	if err := store.Commit(t.Context(), put)[0]; err != nil {
		t.Fatal(err)
	}
	e.gates.Store(lifecycle.GateKey("ann"), e.revs.Next(), gate("old"))
	for _, c := range []struct {
		def, schema string
		stands      bool
		conds       int
	}{
		{`{"id":"d","tasks":[{"taskId":"a","agentId":"ann","agentCapability":"c"}]}`, "old", false, 1},
		{`{"id":"d","tasks":[{"taskId":"a","agentId":"ann","agentCapability":"c"}]}`, "new", true, 1},
		{`{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"}]}`, "old", true, 0}, // nothing fails
	} {
		s := tell(t, c.def, &event.RunStart{})
		v := &view{now: noon, gates: make(map[string]*slot[*lifecycle.Gate])}
		if err := e.loadGates(t.Context(), v, []string{"ann"}); err != nil {
			t.Fatal(err)
		}
		ch := &change{def: s.def, before: s.run, after: s.run}
		stands, err := e.stands(t.Context(), v, ch, &Misfit{TaskID: "a", Agent: "ann", Ready: s.task("a").Ready, Unfit: unfit(c.schema)})
		if err != nil || stands != c.stands || len(ch.conds) != c.conds {
			t.Errorf("%s with schema %q: stands %t, %v, on conditions %v", c.def, c.schema, stands, err, ch.conds)
		}
		if c.conds > 0 && ch.conds[0] != (storage.Cond{Key: lifecycle.GateKey("ann"), Rev: rev}) {
			t.Errorf("on condition %v", ch.conds[0])
		}
		e.gates.Store(lifecycle.GateKey("ann"), e.revs.Next(), gate("old"))
	}
}

// A task that is looked at again before it was decided that it does not fit is not put into the inbox again; the inbox holds a bounded number.
func TestATaskIsTurnedAwayOnceAtATime(t *testing.T) {
	t.Parallel()
	var b inbox
	b.init()
	for range 3 {
		b.turnAway("r", &Misfit{TaskID: "a"})
		b.turnAway("r", &Misfit{TaskID: "b"})
	}
	if !b.turnedAway("r", "a") || b.turnedAway("other", "a") || len(b.inputs) != 2 {
		t.Errorf("%d inputs wait", len(b.inputs))
	}
	if inputs, _, _ := b.take(); len(inputs) != 2 || b.turnedAway("r", "a") || len(b.misfits) != 0 {
		t.Errorf("%d inputs taken, %v left", len(inputs), b.misfits)
	}
	for i := range maxFired + 10 {
		b.turnAway("r", &Misfit{TaskID: fmt.Sprint(i)})
	}
	if len(b.inputs) != maxFired {
		t.Errorf("%d inputs wait", len(b.inputs))
	}
}
