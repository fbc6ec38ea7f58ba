package workflow_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// begin starts a run of a definition that was applied.
func (b *bundle) begin(t *testing.T, def string) (run string) {
	t.Helper()
	run = uuid.NewString()
	b.call(t, event.KindRunStart, run, event.RunStart{WorkflowID: def})
	return run
}

// waiting waits until a task of a run is ready and every agent is refused by one of these rules.
func (b *bundle) waiting(t *testing.T, run, task string, rules ...string) {
	t.Helper()
	bustest.Eventually(t, "the task waits for these reasons", func() bool {
		r, err := b.runs.Run(t.Context(), run)
		if err != nil {
			return false
		}
		for _, shown := range r.Tasks {
			if shown.TaskID == task && shown.State == event.TaskReady && len(shown.Reasons) == len(rules) {
				for i, refusal := range shown.Reasons {
					if refusal.Rule != rules[i] {
						return false
					}
				}
				return true
			}
		}
		return false
	})
}

// gated is an agent that says when it has begun a task and ends it when it is let.
type gated struct{ begun, end chan string }

func (b *bundle) serveGated(t *testing.T, id string, caps ...string) gated {
	t.Helper()
	g := gated{make(chan string, 10), make(chan string)}
	b.serve(t, id, caps, func(ctx context.Context, task *agent.Task) (any, error) {
		g.begun <- task.TaskID
		select {
		case <-g.end:
			return "done", nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	return g
}

func TestADrainedAgentFinishesItsRunsAndTakesNoOthers(t *testing.T) {
	b := setup(t)
	def := sequence("drained", "work", "")
	b.call(t, event.KindWorkflowApply, def.ID, def)
	w := b.serveGated(t, "w", "work")
	bound := b.begin(t, def.ID)
	<-w.begun
	b.call(t, event.KindAgentDrain, "w", event.AgentCommand{Reason: "upgrade"})
	other := b.begin(t, def.ID)
	b.waiting(t, other, "t1", "draining")
	if a, err := b.agents.Get(t.Context(), "w"); err != nil || !a.Draining || !a.Cordoned || a.CordonReason != "upgrade" || len(a.Held) != 1 {
		t.Errorf("agent %+v, %v", a, err)
	}
	w.end <- "t1"
	if task := <-w.begun; task != "t2" {
		t.Errorf("task %s is given to a drained agent", task)
	}
	w.end <- "t2"
	if r := b.ended(t, bound); r.State != event.RunCompleted {
		t.Errorf("the run that is bound to it %s: %+v", r.State, r.Error)
	}
	b.waiting(t, other, "t1", "draining")
	b.call(t, event.KindAgentUncordon, "w", event.AgentCommand{})
	for range 2 {
		<-w.begun
		w.end <- ""
	}
	if r := b.ended(t, other); r.State != event.RunCompleted {
		t.Errorf("the other run %s: %+v", r.State, r.Error)
	}
}

func TestWhatADrainedAgentHoldsAtItsDeadlineIsDoneByAnother(t *testing.T) {
	b := setup(t)
	def := sequence("deadline", "work")
	b.call(t, event.KindWorkflowApply, def.ID, def)
	first := b.serveGated(t, "first", "work")
	run := b.begin(t, def.ID)
	<-first.begun
	second := b.serveGated(t, "second", "work")
	b.call(t, event.KindAgentDrain, "first", event.AgentCommand{DeadlineSeconds: 0.2})
	<-second.begun
	second.end <- ""
	r := b.ended(t, run)
	if r.State != event.RunCompleted || r.Tasks[0].AgentID != "second" || r.Tasks[0].Attempt != 2 || r.Tasks[0].Error != nil {
		t.Errorf("%s", event.MustMarshal(r))
	}
	bustest.Eventually(t, "the first agent holds nothing", func() bool { // it was told to stop, and has confirmed it
		a, err := b.agents.Get(t.Context(), "first")
		return err == nil && len(a.Held) == 0 && a.Draining
	})
}

func TestADeadlineThatIsUndoneTakesNothingAway(t *testing.T) {
	b := setup(t)
	def := sequence("undone", "work")
	b.call(t, event.KindWorkflowApply, def.ID, def)
	w := b.serveGated(t, "w", "work")
	run := b.begin(t, def.ID)
	<-w.begun
	b.call(t, event.KindAgentDrain, "w", event.AgentCommand{DeadlineSeconds: 1})
	b.call(t, event.KindAgentUncordon, "w", event.AgentCommand{})
	due, err := b.store.Range(t.Context(), "due/workflow", storage.Cursor{}, storage.MaxScore, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range due {
		if entry.Member == "x|w" {
			t.Error("its deadline is still armed")
		}
	}
	w.end <- ""
	if r := b.ended(t, run); r.State != event.RunCompleted || r.Tasks[0].Attempt != 1 {
		t.Errorf("%s", event.MustMarshal(r))
	}
}

// failing serves an agent that fails its first tasks.
func (b *bundle) failing(t *testing.T, id string, times int64, caps ...string) *atomic.Int64 {
	t.Helper()
	var seen atomic.Int64
	b.serve(t, id, caps, func(context.Context, *agent.Task) (any, error) {
		if seen.Add(1) <= times {
			return nil, errors.New("broken")
		}
		return "done", nil
	})
	return &seen
}

// noRetries is a definition of one task that is tried once.
func noRetries(id, capability string) *workflow.Definition {
	def, none := sequence(id, capability), 0
	def.Retry = &workflow.Retry{Attempts: &none}
	return def
}

func TestAnAgentThatFailsItsTasksGetsNoMore(t *testing.T) {
	b := setup(t)
	def := noRetries("breaker", "work")
	b.call(t, event.KindWorkflowApply, def.ID, def)
	bad := b.failing(t, "bad", 1000, "work")
	for range 5 {
		b.ended(t, b.begin(t, def.ID))
	}
	if a, err := b.agents.Get(t.Context(), "bad"); err != nil || a.Breaker != "open" || a.Available {
		t.Fatalf("after five failures: %+v, %v", a, err)
	}
	b.failing(t, "good", 0, "work")
	bustest.Eventually(t, "the good one is known to be free", func() bool { // before, nobody but the bad one could take a task
		a, err := b.agents.Get(t.Context(), "good")
		return err == nil && a.Available
	})
	for range 20 {
		if r := b.ended(t, b.begin(t, def.ID)); r.State != event.RunCompleted {
			t.Fatalf("%s", event.MustMarshal(r))
		}
	}
	if n := bad.Load(); n != 5 {
		t.Errorf("the bad agent was given %d tasks", n)
	}
}

// A breaker must not leave nobody: a task that all candidates are kept from goes to the least bad one at once. It would be open for 80 seconds by then.
func TestABreakerDoesNotEmptyTheCandidates(t *testing.T) {
	for _, kind := range []string{"capability", "picky", "named"} {
		t.Run(kind, func(t *testing.T) {
			b := setup(t)
			def := noRetries("last", "work")
			switch kind {
			case "picky":
				def.Tasks[0] = workflow.Task{TaskID: "t1", Node: workflow.Node{Select: &workflow.Select{Capability: "work", Version: "1"}}}
			case "named":
				def.Tasks[0].AgentID = "only"
			}
			b.call(t, event.KindWorkflowApply, def.ID, def)
			seen := b.failing(t, "only", 8, "work")
			for range 8 {
				b.ended(t, b.begin(t, def.ID))
			}
			if r := b.ended(t, b.begin(t, def.ID)); r.State != event.RunCompleted {
				t.Fatalf("%s", event.MustMarshal(r))
			}
			if a, err := b.agents.Get(t.Context(), "only"); err != nil || a.Breaker != "" || !a.Available {
				t.Errorf("after a good probe: %+v, %v", a, err)
			}
			if n := seen.Load(); n != 9 {
				t.Errorf("%d tasks", n)
			}
		})
	}
}

func TestAPausedQueueGivesNothingOut(t *testing.T) {
	conn, store := bustest.Conn(t), boltStore(t)
	first, stop := replica(t, conn, store, nil)
	def, picky, named := sequence("paused", "work"), sequence("picky", ""), sequence("named", "work")
	picky.Tasks[0].Select = &workflow.Select{Capability: "work", Version: "^1"}
	named.Tasks[0].AgentID = "w"
	for _, d := range []*workflow.Definition{def, picky, named} {
		first.call(t, event.KindWorkflowApply, d.ID, d)
	}
	first.call(t, event.KindQueuePause, "work", event.QueueCommand{Reason: "incident"})
	first.serve(t, "w", []string{"work"}, func(context.Context, *agent.Task) (any, error) { return "done", nil })
	runs := []string{first.begin(t, def.ID), first.begin(t, picky.ID)}
	if r := first.ended(t, first.begin(t, named.ID)); r.State != event.RunCompleted { // the agent is free, and what is for it by name is not held back
		t.Fatalf("%s", event.MustMarshal(r))
	}
	x, err := first.runs.ExplainRun(t.Context(), runs[0])
	if err != nil || len(x.Tasks) != 1 || x.Tasks[0].Unblock != `resume the queue of "work"` || !strings.Contains(x.Text, "that queue is paused (incident)") {
		t.Errorf("%s, %v", event.MustMarshal(x), err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// A restart forgets everything but what is stored; two replicas then.
	second, stopSecond := replica(t, conn, store, nil)
	third, stopThird := replica(t, conn, store, nil)
	if r := second.ended(t, second.begin(t, named.ID)); r.State != event.RunCompleted {
		t.Fatalf("%s", event.MustMarshal(r))
	}
	queues, err := third.runs.Queues(t.Context())
	if err != nil || len(queues.Items) != 2 {
		t.Fatalf("%s, %v", event.MustMarshal(queues), err)
	}
	for _, q := range queues.Items {
		if !q.Paused || q.Reason != "incident" || q.Waiting != 1 || q.Capability != "work" {
			t.Errorf("%s", event.MustMarshal(q))
		}
	}
	second.call(t, event.KindQueueResume, "work", event.QueueCommand{})
	for _, run := range runs {
		if r := second.ended(t, run); r.State != event.RunCompleted {
			t.Errorf("%s", event.MustMarshal(r))
		}
	}
	if err := errors.Join(stopSecond(), stopThird()); err != nil {
		t.Error(err)
	}
}

func TestARunSaysWhatItWaitsFor(t *testing.T) {
	b := setup(t)
	def := sequence("explained", "work")
	b.call(t, event.KindWorkflowApply, def.ID, def)
	run, behind := b.begin(t, def.ID), b.begin(t, def.ID)
	explain := func(run string) *event.RunExplanation {
		t.Helper()
		x, err := b.runs.ExplainRun(t.Context(), run)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	if x := explain(run); x.Tasks[0].Unblock != `register an agent that offers "work"` || x.Tasks[0].Place != 1 || x.Tasks[0].Queue.Waiting != 2 {
		t.Errorf("%s", event.MustMarshal(x))
	}
	if x := explain(behind); x.Tasks[0].Place != 2 {
		t.Errorf("%s", event.MustMarshal(x))
	}
	if _, err := b.runs.ExplainAgent(t.Context(), "w"); !errors.Is(err, &event.Error{Code: event.CodeUnknownAgent}) {
		t.Errorf("an agent that is not registered: %v", err)
	}
	w := b.serveGated(t, "w", "work")
	<-w.begun
	if x := explain(run); !strings.Contains(x.Text, `agent "w"`) || x.Tasks[0].State == event.TaskReady {
		t.Errorf("%s", event.MustMarshal(x))
	}
	if x := explain(behind); x.Tasks[0].Rules[0].Rule != "slots" || x.Tasks[0].Place != 1 {
		t.Errorf("%s", event.MustMarshal(x))
	}
	if x, err := b.runs.ExplainAgent(t.Context(), "w"); err != nil || x.Available || x.Refusal.Rule != "slots" || len(x.Queues) != 1 || x.Queues[0].Waiting != 1 {
		t.Errorf("%s, %v", event.MustMarshal(x), err)
	}
	w.end <- ""
	b.ended(t, run)
	if x := explain(run); !strings.HasPrefix(x.Text, "The run is completed since") || len(x.Tasks) != 0 {
		t.Errorf("%s", event.MustMarshal(x))
	}
	<-w.begun
	w.end <- ""
	b.ended(t, behind)
	if x, err := b.runs.ExplainAgent(t.Context(), "w"); err != nil || !x.Available || x.Text != `Agent "w" is free, and no task waits that it could do.` {
		t.Errorf("%s, %v", event.MustMarshal(x), err)
	}
	if _, err := b.runs.ExplainRun(t.Context(), "none"); !errors.Is(err, &event.Error{Code: event.CodeUnknownRun}) {
		t.Errorf("a run that does not exist: %v", err)
	}
}
