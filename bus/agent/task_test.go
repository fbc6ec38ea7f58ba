package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
	"weak"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
)

func TestTask_Completed(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	p := c.ready(func(_ context.Context, t *agent.Task) (any, error) {
		t.AddUsage(event.Usage{Tokens: 3, Calls: 1})
		t.AddUsage(event.Usage{Tokens: 4})
		var in struct{ N int }
		err := t.Bind(&in)
		return map[string]int{"twice": 2 * in.N}, err
	})
	tk := task("a", 1)
	c.accepted(tk)
	r := c.result()
	if r.AttemptRef != tk.Ref() || r.Status != event.StatusCompleted || r.Instance != p.Instance() {
		t.Errorf("got %+v", r)
	}
	if r.Usage == nil || *r.Usage != (event.Usage{Tokens: 7, Calls: 1}) {
		t.Errorf("usage %+v", r.Usage)
	}
	if string(r.Output) != `{"twice":2}` {
		t.Errorf("output %s", r.Output)
	}
}

func TestTask_TraceContextComesBack(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	c.ready(echo)
	results, err := c.nc.SubscribeSync(event.AgentSubject(event.VerbResult, c.token))
	must(t, err)
	tk := task("a", 1)
	header := nats.Header{event.HeaderTraceparent: {"00-aa-bb-01"}, event.HeaderTracestate: {"k=v"}}
	_, err = c.nc.RequestMsg(&nats.Msg{Subject: event.TaskSubject(c.token), Header: header, Data: event.MustMarshal(&tk)}, patience)
	must(t, err)
	m, err := results.NextMsg(patience)
	must(t, err)
	if m.Header.Get(event.HeaderTraceparent) != "00-aa-bb-01" || m.Header.Get(event.HeaderTracestate) != "k=v" {
		t.Errorf("got %v", m.Header)
	}
}

func TestTask_Failed(t *testing.T) {
	t.Parallel()
	no := false
	long := strings.Repeat("é", event.MaxErrorText)
	for name, test := range map[string]struct {
		handler agent.Handler
		want    event.TaskError
	}{
		"PlainError": {failing(errBoom), event.TaskError{Code: agent.CodeFailed, Message: "boom"}},
		"Code":       {failing(agent.Fail("quota", "no more")), event.TaskError{Code: "quota", Message: "no more"}},
		"Permanent":  {failing(agent.Permanent(errBoom)), event.TaskError{Code: agent.CodeFailed, Message: "boom", Retryable: &no}},
		"RetryAfter": {
			failing(agent.RetryAfter(agent.Fail("quota", "wait"), time.Minute)),
			event.TaskError{Code: "quota", Message: "wait", RetryAfterMs: 60_000},
		},
		"OwnTimeout": {failing(context.DeadlineExceeded), event.TaskError{Code: agent.CodeFailed, Message: "context deadline exceeded"}},
		"Panic": {
			func(context.Context, *agent.Task) (any, error) { panic("oh no") },
			event.TaskError{Code: agent.CodePanic, Message: "panic: oh no"},
		},
		"Goexit": {
			func(context.Context, *agent.Task) (any, error) { runtime.Goexit(); return nil, nil },
			event.TaskError{Code: agent.CodePanic, Message: "the handler ended its goroutine"},
		},
		"BadInput": {
			func(_ context.Context, t *agent.Task) (any, error) {
				var in struct{ N string }
				return nil, t.Bind(&in)
			},
			event.TaskError{Code: agent.CodeBadInput, Retryable: &no},
		},
		"BadOutput": {returning(func() {}), event.TaskError{Code: agent.CodeBadOutput, Retryable: &no}},
		"OutputThatIsNotJSON": {
			returning(json.RawMessage(`{"a":1,"a":2}`)),
			event.TaskError{Code: agent.CodeBadOutput, Retryable: &no},
		},
		"OutputTooLarge": {returning(strings.Repeat("x", event.MaxBody)), event.TaskError{Code: agent.CodeTooLarge, Retryable: &no}},
		"LongMessage":    {failing(errors.New(long)), event.TaskError{Code: agent.CodeFailed}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newOpscore(t, shared)
			c.ready(test.handler)
			c.accepted(task("a", 1))
			r := c.result()
			if r.Status != event.StatusFailed || r.Output != nil {
				t.Fatalf("got %+v", r)
			}
			got, want := r.Error, test.want
			if got.Code != want.Code || got.RetryAfterMs != want.RetryAfterMs || (got.Retryable == nil) != (want.Retryable == nil) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if want.Message != "" && got.Message != want.Message {
				t.Errorf("message %q, want %q", got.Message, want.Message)
			}
			if len(got.Message) > event.MaxErrorText || !utf8.ValidString(got.Message) {
				t.Errorf("a message of %d bytes, valid: %t", len(got.Message), utf8.ValidString(got.Message))
			}
			c.accepted(task("b", 1)) // the slot is free again
		})
	}
}

func failing(err error) agent.Handler {
	return func(context.Context, *agent.Task) (any, error) { return nil, err }
}

func returning(v any) agent.Handler {
	return func(context.Context, *agent.Task) (any, error) { return v, nil }
}

func TestTask_RequestIsNotReadable(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	c.ready(echo)
	tk := task("a", 0)
	c.rejected(tk, "malformed")
}

func TestTask_RepeatedRequestIsNotStartedTwice(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	g := newGate()
	c.ready(g.handle, slots(2))
	tk := task("a", 1)
	c.accepted(tk)
	wait(t, g.started)

	c.accepted(tk) // running
	close(g.release)
	first := c.result()
	c.accepted(tk) // finished: Ops-Core asks because it has not seen the result
	again := c.result()
	if first.AttemptRef != again.AttemptRef || string(first.Output) != string(again.Output) {
		t.Errorf("got %+v, then %+v", first, again)
	}
	if len(g.started) != 0 {
		t.Error("it was started twice")
	}
}

// A result is remembered for long, what led to it is not.
func TestTask_IsForgottenOnceItsResultIsStored(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	tasks, inputs := make(chan weak.Pointer[agent.Task], 1), make(chan weak.Pointer[byte], 1)
	c.ready(func(_ context.Context, t *agent.Task) (any, error) {
		tasks <- weak.Make(t)
		inputs <- weak.Make(&t.Input[0])
		return len(t.Input), nil
	})
	tk := task("a", 1)
	tk.Input = event.MustMarshal(strings.Repeat("x", 64<<10))
	c.accepted(tk)
	first := c.result()
	kept, input := wait(t, tasks), wait(t, inputs)
	for end := time.Now().Add(patience); kept.Value() != nil || input.Value() != nil; runtime.GC() {
		if time.Now().After(end) {
			t.Fatalf("the agent still holds the task: %t, its input: %t", kept.Value() != nil, input.Value() != nil)
		}
	}
	c.accepted(tk)
	if again := c.result(); string(again.Output) != string(first.Output) {
		t.Errorf("got %s, then %s", first.Output, again.Output)
	}
}

func TestTask_RepeatedResultIsLoggedOnce(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	log := make(lineWriter, 100)
	p := c.ready(echo, func(cfg *agent.Config) { cfg.Log = slog.New(slog.NewTextHandler(log, nil)) })
	tk := task("a", 1)
	c.accepted(tk)
	c.result()
	for !strings.Contains(wait(t, log), "task completed") { // so its result is acknowledged
	}
	for range 3 {
		c.accepted(tk)
		c.result()
	}
	p.stop()
	must(t, p.end(t))
	for len(log) > 0 {
		if line := <-log; strings.Contains(line, "task completed") {
			t.Errorf("again: %s", line)
		}
	}
}

func TestTask_Slots(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	g := newGate()
	c.ready(g.handle, slots(2))
	c.accepted(task("a", 1))
	c.accepted(task("b", 1))
	a := c.ask(task("c", 1))
	if a.Status != event.AnswerRejected || a.Reason != "no free slot" || a.RetryAfterMs <= 0 {
		t.Fatalf("got %+v", a)
	}
	g.release <- struct{}{}
	c.result()
	c.accepted(task("c", 1))
	close(g.release)
}

func TestTask_NewerAttemptCancelsOlder(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	g := newGate()
	p := c.ready(g.handle, slots(2))
	c.accepted(task("a", 1))
	wait(t, g.started)
	c.accepted(task("a", 2))
	if err := wait(t, g.causes); !errors.Is(err, agent.ErrCancelled) {
		t.Errorf("cause %v", err)
	}
	c.rejected(task("a", 1), "newer")
	close(g.release)
	if r := c.result(); r.Attempt != 2 {
		t.Errorf("result of attempt %d", r.Attempt)
	}
	p.stop()
	must(t, p.end(t))
	if n := results(c.rest()); n != 0 {
		t.Errorf("%d more results", n)
	}
}

func TestTask_NewerAttemptWithoutSlotStillCancelsOlder(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	release := make(chan struct{})
	c.ready(func(ctx context.Context, t *agent.Task) (any, error) {
		if t.Attempt == 1 {
			<-ctx.Done()
			<-release // it takes its time
		}
		return nil, nil
	})
	c.accepted(task("a", 1))
	c.rejected(task("a", 2), "no free slot")
	if got := c.cancel(task("a", 1)); got != event.AnswerCancelled {
		t.Errorf("cancel of the older: %s", got)
	}
	close(release)
	for c.ask(task("a", 2)).Status != event.AnswerAccepted {
		runtime.Gosched()
	}
	if r := c.result(); r.Attempt != 2 {
		t.Errorf("result of attempt %d", r.Attempt)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	g := newGate()
	p := c.ready(g.handle)
	c.accepted(task("a", 1))
	wait(t, g.started)
	if got := c.cancel(task("a", 2)); got != event.AnswerUnknown {
		t.Errorf("another attempt: %s", got)
	}
	for range 2 { // a lost answer is asked for again
		if got := c.cancel(task("a", 1)); got != event.AnswerCancelled {
			t.Errorf("running: %s", got)
		}
	}
	err := wait(t, g.causes)
	if !errors.Is(err, agent.ErrCancelled) || !strings.Contains(err.Error(), "not needed") {
		t.Errorf("cause %v", err)
	}
	c.rejected(task("a", 1), "cancelled")

	for c.ask(task("b", 1)).Status != event.AnswerAccepted { // as soon as the first handler has returned
		runtime.Gosched()
	}
	close(g.release)
	if r := c.result(); r.TaskID != "b" {
		t.Errorf("result of %s", r.TaskID)
	}
	if got := c.cancel(task("b", 1)); got != event.AnswerFinished {
		t.Errorf("finished: %s", got)
	}
	p.stop()
	must(t, p.end(t))
	if n := results(c.rest()); n != 0 {
		t.Errorf("%d results of the cancelled attempt", n)
	}
}

func TestDeadline_CancelsHandler(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	g := newGate()
	c.ready(g.handle)
	tk := task("a", 1)
	tk.Deadline = time.Now().Add(50 * time.Millisecond)
	c.accepted(tk)
	if err := wait(t, g.causes); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cause %v", err)
	}
	if r := c.result(); r.Error == nil || r.Error.Code != agent.CodeTimeout || r.Error.Retryable != nil {
		t.Errorf("got %+v", r.Error)
	}
}

func TestDeadline_MovesWithProgress(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	const span, times = 400 * time.Millisecond, 6
	c.ready(func(ctx context.Context, t *agent.Task) (any, error) {
		tick := time.NewTicker(span / 3)
		defer tick.Stop()
		for i := range times { // twice the span
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if err := t.Progress(ctx, agent.Progress{Message: "working", Percent: float64(10 * i), Data: i}); err != nil {
				return nil, err
			}
		}
		return "done", nil
	})
	tk := task("a", 1)
	tk.Deadline = time.Now().Add(span)
	c.accepted(tk)
	for i := range times {
		p := c.next().Event.(*event.Progress)
		if p.AttemptRef != tk.Ref() || p.Message != "working" || (p.Percent == nil) != (i == 0) {
			t.Errorf("got %+v", p)
		}
	}
	if r := c.result(); r.Status != event.StatusCompleted {
		t.Errorf("got %+v", r.Error)
	}
}

func TestDeadline_InThePastDoesNotStopTheTask(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	c.ready(echo)
	tk := task("a", 1)
	tk.Deadline = time.Now().Add(-time.Hour) // the agent's clock is an hour ahead
	c.accepted(tk)
	if r := c.result(); r.Status != event.StatusCompleted {
		t.Errorf("got %+v", r.Error)
	}
}

func TestProgress_TellsOfTheCancellation(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	got := make(chan error, 1)
	c.ready(func(ctx context.Context, t *agent.Task) (any, error) {
		<-ctx.Done()
		got <- t.Progress(context.WithoutCancel(ctx), agent.Progress{})
		return nil, nil
	})
	c.accepted(task("a", 1))
	c.cancel(task("a", 1))
	if err := wait(t, got); !errors.Is(err, agent.ErrCancelled) {
		t.Errorf("got %v", err)
	}
}

func TestTask_MadeByHand(t *testing.T) {
	tk := &agent.Task{Task: task("a", 1)}
	out, err := echo(t.Context(), tk)
	must(t, err)
	must(t, tk.Progress(t.Context(), agent.Progress{Message: "half"}))
	if b, _ := json.Marshal(out); string(b) != `{"n":1}` {
		t.Errorf("got %s", b)
	}
}
