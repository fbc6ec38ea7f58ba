package workflow_test

import (
	"context"
	"errors"
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
	for range 20 {
		if r := b.ended(t, b.begin(t, def.ID)); r.State != event.RunCompleted {
			t.Fatalf("%s", event.MustMarshal(r))
		}
	}
	if n := bad.Load(); n != 5 {
		t.Errorf("the bad agent was given %d tasks", n)
	}
}

// A breaker must not leave nobody: a task that all candidates are kept from goes to the least bad one, long before the ten seconds are over.
func TestABreakerDoesNotEmptyTheCandidates(t *testing.T) {
	for _, kind := range []string{"capability", "named"} {
		t.Run(kind, func(t *testing.T) {
			b := setup(t)
			def := noRetries("last", "work")
			if kind == "named" {
				def.Tasks[0].AgentID = "only"
			}
			b.call(t, event.KindWorkflowApply, def.ID, def)
			seen := b.failing(t, "only", 5, "work")
			for range 5 {
				b.ended(t, b.begin(t, def.ID))
			}
			if r := b.ended(t, b.begin(t, def.ID)); r.State != event.RunCompleted {
				t.Fatalf("%s", event.MustMarshal(r))
			}
			if a, err := b.agents.Get(t.Context(), "only"); err != nil || a.Breaker != "" || !a.Available {
				t.Errorf("after a good probe: %+v, %v", a, err)
			}
			if n := seen.Load(); n != 6 {
				t.Errorf("%d tasks", n)
			}
		})
	}
}
