package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// Handler does one task. Its output is encoded with encoding/json and ends the attempt as completed; nil means no output. An
// error ends it as failed: [Fail], [Permanent] and [RetryAfter] say more than a plain error, after which Ops-Core
// retries as the workflow says.
//
// ctx is cancelled when Ops-Core cancels the attempt, at the task's deadline, or when the agent stops and its drain time is nearly
// over; [context.Cause] tells which. A handler should then return soon: until it does, it holds its slot.
type Handler func(ctx context.Context, t *Task) (output any, err error)

// Task is one attempt of one task. A Task made by hand, to test a handler, has no agent: Progress then does nothing.
type Task struct {
	event.Task

	// Traceparent and Tracestate are the W3C trace context of the request, empty if there was none. The SDK sends them back
	// with progress and result.
	Traceparent, Tracestate string

	report func(context.Context, Progress) error

	mu    sync.Mutex
	usage event.Usage
}

// Progress is what a handler says on the way. Zero members are not sent.
type Progress struct {
	Message string
	Percent float64 // 0 to 100
	Data    any     // encoded with encoding/json
}

// Bind decodes the task's input, a JSON object, into v with encoding/json. Its error, returned from the handler, fails the attempt
// with CodeBadInput for good.
func (t *Task) Bind(v any) error {
	input := t.Input
	if len(input) == 0 {
		input = event.Raw("{}")
	}
	if err := json.Unmarshal(input, v); err != nil {
		return Permanent(Fail(CodeBadInput, "decode the input: "+err.Error()))
	}
	return nil
}

// Progress tells Ops-Core that the task is being worked on, and returns when the stream has it. It renews the lease of the attempt: the
// deadline moves on by its original span. Progress may be lost without harm, so an error is seldom a reason to stop:
// it is the cause of the cancellation if the attempt is no longer wanted, and otherwise says that NATS did not answer
// within 5 s or before ctx ended.
func (t *Task) Progress(ctx context.Context, p Progress) error {
	if t.report == nil {
		return nil
	}
	if err := t.report(ctx, p); err != nil {
		return fmt.Errorf("report progress of %s/%s: %w", t.RunID, t.TaskID, err)
	}
	return nil
}

// AddUsage adds to what the attempt has cost; the sum is reported with the result.
func (t *Task) AddUsage(u event.Usage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.usage.Tokens += u.Tokens
	t.usage.CostMicros += u.CostMicros
	t.usage.Ms += u.Ms
	t.usage.Calls += u.Calls
}

// traceHeader carries the trace context of the request, or is nil.
func (t *Task) traceHeader() nats.Header {
	if t.Traceparent == "" {
		return nil
	}
	h := nats.Header{event.HeaderTraceparent: {t.Traceparent}}
	if t.Tracestate != "" {
		h[event.HeaderTracestate] = []string{t.Tracestate}
	}
	return h
}

func (t *Task) totalUsage() *event.Usage {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.usage == (event.Usage{}) {
		return nil
	}
	u := t.usage
	return &u
}
