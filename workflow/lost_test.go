package workflow_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

// judge runs a judge of liveness until the test ends.
func (b *bundle) judge(t *testing.T) {
	t.Helper()
	log := bustest.Log(t)
	keeper := lifecycle.NewKeeper(b.store, b.conn, log, func() {})
	if err := keeper.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	j := lifecycle.NewJudge(lifecycle.JudgeConfig{Store: b.store, Bus: b.conn, Keeper: keeper, Log: log, Wake: b.engine.Wake})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- j.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// takes registers an agent that beats each second, or says so, and takes every task without ever ending one.
func (b *bundle) takes(t *testing.T, id string, slots int) (asked <-chan event.Task) {
	t.Helper()
	tasks := make(chan event.Task, 16)
	sub, err := b.conn.NC().Subscribe(event.TaskSubject(id), func(m *nats.Msg) {
		var task event.Task
		if err := event.Unmarshal(m.Data, &task); err != nil {
			t.Error(err)
			return
		}
		_ = m.Respond(event.MustMarshal(event.TaskAnswer{Status: event.AnswerAccepted}))
		tasks <- task
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	b.say(t, event.VerbRegister, id, &event.Register{
		AgentName: id, Version: "1", Capabilities: []string{"work"}, Slots: slots, HeartbeatSeconds: 1, Instance: id,
	})
	b.say(t, event.VerbState, id, &event.State{State: "idle", Instance: id})
	return tasks
}

func next(t *testing.T, asked <-chan event.Task) event.Task {
	t.Helper()
	select {
	case task := <-asked:
		return task
	case <-time.After(time.Minute):
		t.Fatal("no task comes")
		return event.Task{}
	}
}

// What a lost agent holds is handed back and costs no retry. Its result counts until the task has been given to another agent, and not any more from
// then on. It is given nothing until it beats again.
func TestLostAgentsGiveTheirWorkBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.judge(t)
	b.call(t, event.KindWorkflowApply, "w", sequence("w", "work"))
	lost := b.takes(t, "lost", 2)
	held := make(map[string]event.Task)
	for range 2 {
		run := uuid.NewString()
		b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "w"})
		held[run] = next(t, lost)
	}
	bustest.Eventually(t, "its tasks were handed back", func() bool {
		a, err := b.agents.Get(t.Context(), "lost")
		return err == nil && a.Liveness == event.LivenessLost && len(a.Held) == 0
	})
	result := func(task event.Task) event.Outcome {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		m := nats.NewMsg(event.AgentSubject(event.VerbResult, "lost"))
		m.Data = event.MustMarshal(&event.Result{AttemptRef: task.Ref(), Status: event.StatusCompleted, Instance: "lost"})
		o, _, err := b.conn.Call(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	var runs []string
	for run := range held {
		runs = append(runs, run)
	}
	if o := result(held[runs[0]]); !o.OK {
		t.Errorf("the result of a task that nobody else has: %v", o.Error)
	}
	b.ended(t, runs[0])

	other := b.takes(t, "other", 1)
	if task := next(t, other); task.RunID != runs[1] || task.Attempt != 2 {
		t.Errorf("the other agent is asked for attempt %d of %s, want 2 of %s", task.Attempt, task.RunID, runs[1])
	}
	if o := result(held[runs[1]]); o.OK || o.Error.Code != event.CodeStaleAttempt {
		t.Errorf("the result of a task that another agent has: %+v", o)
	}
	cancels := make(chan *nats.Msg, 16)
	sub, err := b.conn.NC().ChanSubscribe(event.CancelSubject("lost"), cancels)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	moved := held[runs[1]]
	progress := event.MustMarshal(&event.Progress{AttemptRef: moved.Ref(), Instance: "lost"})
	if err := b.conn.NC().Publish(event.AgentSubject(event.VerbProgress, "lost"), progress); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-cancels:
		var c event.Cancel
		if err := event.Unmarshal(m.Data, &c); err != nil || c.RunID != runs[1] || c.Attempt != 1 {
			t.Errorf("it is told to stop %+v, %v", c, err)
		}
	case <-time.After(time.Minute):
		t.Error("it goes on with what another agent has, and is not told")
	}
	run := uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "w", AgentID: "lost"})
	if r, err := b.runs.Run(t.Context(), run); err != nil || r.Tasks[0].State != event.TaskReady {
		t.Errorf("a task for the lost agent: %+v, %v", r, err)
	}
	if err := b.conn.NC().Publish(event.HeartbeatSubject("lost"), []byte(`{"instance":"lost"}`)); err != nil {
		t.Fatal(err)
	}
	if task := next(t, lost); task.RunID != run {
		t.Errorf("it is asked for %s, want %s", task.RunID, run)
	}
}
