package workflow_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow"
)

// until waits until a run is as it should be.
func (b *bundle) until(t *testing.T, run string, ok func(*event.Run) bool) *event.Run {
	t.Helper()
	var last *event.Run
	bustest.Eventually(t, "run "+run+" is as it should be", func() bool {
		r, err := b.runs.Run(t.Context(), run)
		last = r
		return err == nil && ok(r)
	})
	return last
}

// waits reports whether a task of a run waits.
func waits(task string) func(*event.Run) bool {
	return func(r *event.Run) bool {
		for _, t := range r.Tasks {
			if t.TaskID == task && t.State == event.TaskWaiting {
				return true
			}
		}
		return false
	}
}

// waitThenWork is a workflow that lets time pass, and then has an agent do something.
func waitThenWork(seconds float64) *workflow.Definition {
	work := workflow.Task{TaskID: "work", AgentCapability: "c"}
	work.DependsOn = []string{"rest"}
	rest := workflow.Task{TaskID: "rest"}
	rest.Wait = &workflow.Wait{Seconds: seconds}
	return &workflow.Definition{ID: "rested", Tasks: []workflow.Task{rest, work}}
}

func TestAWaitLetsTimePass(t *testing.T) {
	b := setup(t)
	b.serve(t, "any", []string{"c"}, func(context.Context, *agent.Task) (any, error) { return map[string]int{"n": 1}, nil })
	b.call(t, event.KindWorkflowApply, "rested", waitThenWork(0.3))
	run := uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "rested"})
	r := b.ended(t, run)
	if r.State != event.RunCompleted || string(r.Output) != `{"n":1}` {
		t.Fatalf("run ended as %s", event.MustMarshal(r))
	}
	if waited := r.Tasks[0].EndedAt.Sub(*r.Tasks[0].StartedAt); waited < 300*time.Millisecond {
		t.Errorf("the wait took %s", waited)
	}
}

// A run that is paused hands nothing out and lets no time pass, also when its replica is replaced meanwhile; resumed, it goes on.
func TestPauseOutlivesTheReplica(t *testing.T) {
	conn, store := bustest.Conn(t), boltStore(t)
	b, stop := replica(t, conn, store, nil)
	b.serve(t, "any", []string{"c"}, func(context.Context, *agent.Task) (any, error) { return map[string]int{"n": 1}, nil })
	b.call(t, event.KindWorkflowApply, "rested", waitThenWork(0.2))
	b.call(t, event.KindWorkflowApply, "one", sequence("one", "c"))
	resting, ready := uuid.NewString(), uuid.NewString()
	b.call(t, event.KindRunStart, resting, &event.RunStart{WorkflowID: "rested"})
	b.call(t, event.KindRunPause, resting, struct{}{})
	publish(t, b, event.CommandSubject(event.KindRunPause, ready), struct{}{}) // before its start
	b.call(t, event.KindRunStart, ready, &event.RunStart{WorkflowID: "one"})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	b, stop = replica(t, conn, store, nil)
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	other := uuid.NewString()
	b.call(t, event.KindRunStart, other, &event.RunStart{WorkflowID: "rested"})
	b.ended(t, other) // by then the others would have ended too
	for _, id := range []string{resting, ready} {
		r, err := b.runs.Run(t.Context(), id)
		if err != nil || r.State != event.RunPaused || r.PausedAt == nil {
			t.Fatalf("the run is %s, %v", event.MustMarshal(r), err)
		}
		for _, task := range r.Tasks {
			if task.State.Final() || task.Attempt > 1 || task.AgentID != "" {
				t.Errorf("task %s is %s in attempt %d", task.TaskID, task.State, task.Attempt)
			}
		}
		b.call(t, event.KindRunResume, id, struct{}{})
	}
	for _, id := range []string{resting, ready} {
		if r := b.ended(t, id); r.State != event.RunCompleted {
			t.Errorf("run ended as %s", event.MustMarshal(r))
		}
	}
}
