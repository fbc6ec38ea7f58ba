package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// letters waits until as many dead letters of a class are stored, and returns them.
func (b *bundle) letters(t *testing.T, class event.Code, n int) []event.DeadLetter {
	t.Helper()
	var list *event.DeadList
	bustest.Eventually(t, fmt.Sprintf("%d dead letters of class %s", n, class), func() bool {
		var err error
		list, err = b.conn.DeadLetters(t.Context(), event.DeadFilter{Class: class}, "", 100)
		return err == nil && len(list.Items) == n
	})
	return list.Items
}

// A run that fails because the retries of a task are spent leaves a dead letter, which is the command to try again; also if it cannot be stored at
// once. One that fails for good at the first time, or whose workflow deals with the failure, leaves none.
func TestRetriesThatAreSpentLeaveALetter(t *testing.T) {
	b := setup(t)
	if err := b.conn.JS().DeleteStream(t.Context(), event.StreamDead); err != nil {
		t.Fatal(err)
	}
	runs := make(map[string]string)
	for _, id := range []string{"spent", "forgood", "handled"} {
		b.serve(t, "on-"+id, []string{id}, func(context.Context, *agent.Task) (any, error) { // one each, or its breaker would open
			if id == "forgood" {
				return nil, agent.Permanent(agent.Fail("broken", "for good"))
			}
			return nil, agent.Fail("broken", "no paper")
		})
		d := sequence(id, id)
		retries := 1
		d.Tasks[0].Retry = &workflow.Retry{Attempts: &retries, InitialSeconds: 0.01}
		if id == "handled" {
			d.Tasks[0].OnFailure = &workflow.OnFailure{Continue: true}
		}
		b.call(t, event.KindWorkflowApply, id, d)
		runs[id] = uuid.NewString()
		b.call(t, event.KindRunStart, runs[id], &event.RunStart{WorkflowID: id})
	}
	for _, run := range runs {
		b.ended(t, run)
	}
	if err := b.conn.EnsureStreams(t.Context(), bus.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	l := b.letters(t, event.CodeRetriesSpent, 1)[0]
	if want := event.CommandSubject(event.KindRunRetry, runs["spent"]); l.Subject != want || l.RunID != runs["spent"] || l.AgentID != "on-spent" || l.Count != 2 {
		t.Errorf("the letter is %s", event.MustMarshal(&l))
	}
	whole, err := b.conn.DeadLetter(t.Context(), l.Seq)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := event.Decode(whole.Subject, whole.Body); err != nil || !strings.Contains(string(whole.Body), "no paper") {
		t.Errorf("the command is %s, %v", whole.Body, err)
	}
	bustest.Eventually(t, "nothing is due any more", func() bool {
		due, err := b.store.Range(t.Context(), lifecycle.HandBack, storage.Cursor{}, storage.MaxScore, 10)
		return err == nil && len(due) == 0
	})
	b.letters(t, event.CodeRetriesSpent, 1)
}

// A command that nobody waits for any more is refused, and kept.
func TestExpiredCommandIsKept(t *testing.T) {
	b := setup(t)
	b.call(t, event.KindWorkflowApply, "w", sequence("w", "c"))
	answers, err := b.conn.NC().SubscribeSync(nats.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg(event.CommandSubject(event.KindRunStart, "late"))
	m.Header.Set(event.HeaderReply, answers.Subject)
	m.Header.Set(event.HeaderDeadline, "0")
	m.Data = []byte(`{"workflowId":"w"}`)
	if _, err := b.conn.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	l := b.letters(t, event.CodeExpired, 1)[0]
	if l.RunID != "late" || l.Subject != m.Subject {
		t.Errorf("the letter is %s", event.MustMarshal(&l))
	}
	if _, err := b.runs.Run(t.Context(), "late"); err == nil {
		t.Error("the run was started")
	}
	if _, err := b.conn.ReplayDead(t.Context(), l.Seq, nil); err != nil { // its sender may be gone, but somebody wants it now
		t.Fatal(err)
	}
	bustest.Eventually(t, "the run is started", func() bool {
		r, err := b.runs.Run(t.Context(), "late")
		return err == nil && r.State == event.RunRunning
	})
}

// A dead letter of a task whose retries were spent is the retry: sent again when what was wrong is mended, it lets the run go on, together with what was cancelled
// with it. When the run went on before, the letter is refused, and says why.
func TestALetterOfSpentRetriesLetsTheRunGoOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var broken atomic.Bool
	hold := make(chan struct{})
	b.serve(t, "printer", []string{"print"}, func(_ context.Context, task *agent.Task) (any, error) {
		if broken.Load() {
			return nil, agent.Fail("broken", "no paper")
		}
		return task.Attempt, nil
	})
	b.serve(t, "binder", []string{"bind"}, func(ctx context.Context, _ *agent.Task) (any, error) {
		select {
		case <-hold:
			return "bound", nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	b.define(t, `{"id":"book","output":{"printed":"${{ tasks.print.output }}","bound":"${{ tasks.bind.output }}"},"tasks":[
		{"taskId":"print","agentCapability":"print","retry":{"attempts":1,"initialSeconds":0.01}},{"taskId":"bind","agentCapability":"bind"},
		{"taskId":"send","dependsOn":["print","bind"]}]}`)
	fail := func() (run string, letter uint64) {
		broken.Store(true)
		run = b.launch(t, "book", `{}`)
		if r := b.until(t, run, func(r *event.Run) bool { return r.State.Final() }); r.State != event.RunFailed || r.Error.Code != "broken" {
			t.Fatalf("the run is %s", event.MustMarshal(r))
		}
		broken.Store(false)
		return run, b.letters(t, event.CodeRetriesSpent, 1)[0].Seq
	}
	run, letter := fail()
	if _, err := b.conn.ReplayDead(t.Context(), letter, nil); err != nil {
		t.Fatal(err)
	}
	close(hold)
	if r := b.again(t, run, 1); r.State != event.RunCompleted || string(r.Output) != `{"bound":"bound","printed":3}` {
		t.Errorf("the run is %s", event.MustMarshal(r))
	}
	b.letters(t, event.CodeRetriesSpent, 0)
	if _, err := b.conn.ReplayDead(t.Context(), letter, nil); !errors.Is(err, &event.Error{Code: event.CodeUnknownLetter}) {
		t.Errorf("sent again twice: %v", err)
	}

	run, letter = fail()
	b.call(t, event.KindRunRetry, run, struct{}{})
	if r := b.again(t, run, 1); r.State != event.RunCompleted {
		t.Errorf("the run is %s", event.MustMarshal(r))
	}
	if _, err := b.conn.ReplayDead(t.Context(), letter, nil); err != nil {
		t.Fatal(err)
	}
	if l := b.letters(t, event.CodeNotAllowedNow, 1)[0]; l.RunID != run || l.Hops != 1 || !strings.Contains(l.Reason, "the run has completed") {
		t.Errorf("the letter came back as %s", event.MustMarshal(&l))
	}
	if r, err := b.runs.Run(t.Context(), run); err != nil || r.Reruns != 1 {
		t.Errorf("the run is %s, %v", event.MustMarshal(r), err)
	}
}
