package workflow_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

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

// signed is a workflow that waits for a signal and for a person before an agent works.
func signed() *workflow.Definition {
	first := workflow.Task{TaskID: "first", AgentCapability: "c"}
	paid := workflow.Task{TaskID: "paid"}
	paid.Signal, paid.DependsOn = &workflow.Signal{Name: "paid"}, []string{"first"}
	check := workflow.Task{TaskID: "check"}
	check.Approval, check.DependsOn = &workflow.Approval{Message: "Send it?"}, []string{"paid"}
	send := workflow.Task{TaskID: "send", AgentCapability: "c", Parameters: event.Raw(`{"tone":"warm"}`)}
	send.DependsOn = []string{"check"}
	return &workflow.Definition{ID: "gated", Tasks: []workflow.Task{first, paid, check, send}}
}

// refused sends a command that must be refused with a code.
func (b *bundle) refused(t *testing.T, kind event.CommandKind, key string, body any, code event.Code) event.Outcome {
	t.Helper()
	m := nats.NewMsg(event.CommandSubject(kind, event.MustToken(key)))
	m.Data = event.MustMarshal(body)
	o, _, err := b.conn.Call(t.Context(), m)
	if err != nil || o.OK || o.Error.Code != code {
		t.Fatalf("%s %s: %v %s, want it refused as %s", kind, key, err, event.MustMarshal(o), code)
	}
	return o
}

func TestSignalsApprovalsAndRunningAgain(t *testing.T) {
	b := setup(t)
	b.serve(t, "any", []string{"c"}, func(_ context.Context, task *agent.Task) (any, error) { return task.Input, nil })
	b.call(t, event.KindWorkflowApply, "gated", signed())
	run := uuid.NewString()
	publish(t, b, event.CommandSubject(event.KindRunSignal, run), &event.RunCommand{Name: "paid", Payload: event.Raw(`{"amount":12}`)}) // before the start
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "gated", Input: event.Raw(`{"n":1}`)})
	r := b.until(t, run, waits("check"))
	if string(r.Tasks[1].Output) != `{"amount":12}` || r.Tasks[2].WaitsFor == nil || !r.Tasks[2].WaitsFor.Approval {
		t.Fatalf("the run is %s", event.MustMarshal(r))
	}
	list, err := b.runs.Approvals(t.Context(), "", 10)
	if err != nil || len(list.Items) != 1 || list.Items[0].RunID != run || list.Items[0].Message != "Send it?" {
		t.Fatalf("what waits for people: %s %v", event.MustMarshal(list), err)
	}
	b.refused(t, event.KindRunSignal, run, &event.RunCommand{Name: "payed"}, event.CodeInvalid)
	b.call(t, event.KindRunApprove, run, &event.RunCommand{TaskID: "check", By: "ada", Comment: "fine"})
	b.call(t, event.KindRunApprove, run, &event.RunCommand{TaskID: "check", By: "bob"})
	b.refused(t, event.KindRunReject, run, &event.RunCommand{TaskID: "check", By: "bob"}, event.CodeConflict)
	if r = b.ended(t, run); r.State != event.RunCompleted || string(r.Output) != `{"tone":"warm"}` {
		t.Fatalf("the run is %s", event.MustMarshal(r))
	}
	if list, err = b.runs.Approvals(t.Context(), "", 10); err != nil || len(list.Items) != 0 {
		t.Errorf("still waiting for people: %s %v", event.MustMarshal(list), err)
	}
	b.refused(t, event.KindRunRetry, run, struct{}{}, event.CodeNotAllowedNow)
	before := r.Version
	b.call(t, event.KindRunRerun, run, &event.RunCommand{TaskID: "send", Set: event.Raw(`{"tone":"cool"}`)})
	r = b.until(t, run, func(r *event.Run) bool { return r.State.Final() && r.Version > before+1 })
	if string(r.Output) != `{"tone":"cool"}` || r.Reruns != 1 || r.Tasks[3].Attempt != 2 || !r.Tasks[0].Reused || r.Tasks[0].Attempt != 1 {
		t.Fatalf("run again it is %s", event.MustMarshal(r))
	}
}

// A run that failed goes on from the task that failed; what had completed is not done again, and its join finds what it had.
func TestRetryGoesOnFromWhatFailed(t *testing.T) {
	b := setup(t)
	var broken atomic.Bool
	broken.Store(true)
	var good atomic.Int32
	b.serve(t, "any", []string{"good", "bad", "last"}, func(_ context.Context, task *agent.Task) (any, error) {
		switch {
		case task.TaskID == "bad" && broken.Load():
			return nil, agent.Permanent(agent.Fail("broken", "not yet"))
		case task.TaskID == "good":
			good.Add(1)
		}
		return map[string]string{"by": task.TaskID}, nil
	})
	last := workflow.Task{TaskID: "last", AgentCapability: "last"}
	last.DependsOn = []string{"good", "bad"}
	def := &workflow.Definition{ID: "joined", Tasks: []workflow.Task{
		{TaskID: "good", AgentCapability: "good"}, {TaskID: "bad", AgentCapability: "bad"}, last,
	}}
	def.Tasks[1].DependsOn = []string{"good"}
	b.call(t, event.KindWorkflowApply, "joined", def)
	run := uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "joined"})
	if r := b.ended(t, run); r.State != event.RunFailed {
		t.Fatalf("the run is %s", event.MustMarshal(r))
	}
	broken.Store(false)
	b.call(t, event.KindRunRetry, run, struct{}{})
	r := b.until(t, run, func(r *event.Run) bool { return r.State == event.RunCompleted })
	if good.Load() != 1 || r.Tasks[1].Attempt != 2 || string(r.Output) != `{"by":"last"}` {
		t.Errorf("good was done %d times; the run is %s", good.Load(), event.MustMarshal(r))
	}
}

// Runs that are started of a paused definition wait, and begin when it is resumed.
func TestAPausedDefinitionHoldsItsRuns(t *testing.T) {
	b := setup(t)
	b.serve(t, "any", []string{"c"}, func(context.Context, *agent.Task) (any, error) { return nil, nil })
	b.call(t, event.KindWorkflowApply, "one", sequence("one", "c"))
	b.call(t, event.KindWorkflowPause, "one", struct{}{})
	b.refused(t, event.KindWorkflowPause, "none", struct{}{}, event.CodeUnknownDefinition)
	var runs []string
	for range 3 {
		run := uuid.NewString()
		if o := b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "one", DelaySeconds: 0.01}); o.State != string(event.RunPending) {
			t.Fatalf("it was started as %s", o.State)
		}
		runs = append(runs, run)
	}
	for _, run := range runs {
		b.until(t, run, func(r *event.Run) bool { return r.State == event.RunPending && r.StartAt == nil }) // its time has come, its turn has not
	}
	b.call(t, event.KindRunCancel, runs[0], struct{}{})
	b.call(t, event.KindWorkflowResume, "one", struct{}{})
	for i, want := range []event.RunState{event.RunCancelled, event.RunCompleted, event.RunCompleted} {
		if r := b.ended(t, runs[i]); r.State != want {
			t.Errorf("run %d is %s", i, event.MustMarshal(r))
		}
	}
}

// A cancel says of each task whether its agent has stopped; one for a run that is not started is kept for it, and whoever waits is told.
func TestCancelIsConfirmed(t *testing.T) {
	b := setup(t)
	began := make(chan struct{}, 1)
	b.serve(t, "slow", []string{"slow"}, func(ctx context.Context, _ *agent.Task) (any, error) {
		began <- struct{}{}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	b.call(t, event.KindWorkflowApply, "slow", sequence("slow", "slow"))
	run, early := uuid.NewString(), uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "slow"})
	<-began
	b.call(t, event.KindRunCancel, run, struct{}{})
	b.until(t, run, func(r *event.Run) bool { return r.Tasks[0].Cancel == event.CancelConfirmed })
	if o := b.refused(t, event.KindRunCancel, early, struct{}{}, event.CodeUnknownRun); !o.Held {
		t.Errorf("the outcome is %s", event.MustMarshal(o))
	}
	if _, err := b.runs.Run(t.Context(), early); !errors.Is(err, &event.Error{Code: event.CodeUnknownRun}) {
		t.Errorf("a run that nobody has started: %v", err)
	}
	if o := b.call(t, event.KindRunStart, early, &event.RunStart{WorkflowID: "slow"}); o.State != string(event.RunCancelled) {
		t.Errorf("it was started as %s", o.State)
	}
}
