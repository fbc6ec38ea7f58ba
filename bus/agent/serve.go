package agent

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// What a rejected request is told about trying again.
const (
	retryFull     = 500 * time.Millisecond // a slot becomes free without a word when a cancelled handler returns
	retryCrowded  = 5 * time.Second
	retryDraining = time.Minute
	progressWait  = 5 * time.Second
)

// serve answers requests until ctx ends, and then those that have arrived. Handlers run under work.
func (s *session) serve(ctx, work context.Context) {
	for {
		select {
		case m := <-s.requests:
			s.handle(work, m)
		case <-ctx.Done():
			for len(s.requests) > 0 { // nobody adds to them any more
				s.handle(work, <-s.requests)
			}
			return
		}
	}
}

func (s *session) handle(work context.Context, m *nats.Msg) {
	if m.Subject == event.CancelSubject(s.token) {
		s.cancelTask(m)
	} else {
		s.takeTask(work, m)
	}
}

// takeTask answers a task request and starts its handler.
func (s *session) takeTask(work context.Context, m *nats.Msg) {
	t := &Task{Traceparent: m.Header.Get(event.HeaderTraceparent), Tracestate: m.Header.Get(event.HeaderTracestate)}
	if err := event.Unmarshal(m.Data, &t.Task); err != nil || t.RunID == "" || t.TaskID == "" || t.Attempt < 1 {
		s.cfg.Log.Error("unreadable task request", keyErr, err)
		s.answer(m, event.TaskAnswer{Status: event.AnswerRejected, Reason: "malformed request"})
		return
	}
	if t.Instance != "" && t.Instance != s.instance {
		s.presence.suspect() // meant for another process of this agent; it answers
		return
	}
	ctx, cancel := context.WithCancelCause(work)
	verdict, a := s.attempts.begin(t.Ref(), cancel, s.out.crowded())
	if verdict != start {
		cancel(nil)
	}
	switch verdict {
	case start:
		s.answer(m, event.TaskAnswer{Status: event.AnswerAccepted})
		go s.work(ctx, cancel, t, a)
	case repeated:
		s.answer(m, event.TaskAnswer{Status: event.AnswerAccepted})
		if result := s.attempts.resultOf(a); result != nil {
			s.again(a, result)
		}
	case outdated:
		s.reject(m, "the attempt was cancelled or a newer one is known", 0)
	case full:
		s.reject(m, "no free slot", retryFull)
	case crowded:
		s.reject(m, "too many results wait to be stored", retryCrowded)
	case closed:
		s.reject(m, "draining", retryDraining)
	}
}

func (s *session) reject(m *nats.Msg, reason string, retryAfter time.Duration) {
	s.answer(m, event.TaskAnswer{Status: event.AnswerRejected, Reason: reason, RetryAfterMs: retryAfter.Milliseconds()})
}

// cancelTask answers a cancel request when the handler has been told.
func (s *session) cancelTask(m *nats.Msg) {
	var c event.Cancel
	if err := event.Unmarshal(m.Data, &c); err != nil {
		s.cfg.Log.Error("unreadable cancel request", keyErr, err)
		return
	}
	cause := ErrCancelled
	if c.Reason != "" {
		cause = fmt.Errorf("%w: %s", ErrCancelled, c.Reason)
	}
	s.answer(m, event.CancelAnswer{Status: s.attempts.stop(c.RunID, c.TaskID, c.Attempt, cause)})
}

// answer responds to a request. A lost answer is asked for again.
func (s *session) answer(m *nats.Msg, body any) {
	if m.Reply == "" {
		return
	}
	if err := m.Respond(event.MustMarshal(body)); err != nil {
		s.cfg.Log.Warn("answer not sent", "subject", m.Subject, keyErr, err)
	}
}

// work runs a handler and reports how it ended, also when it panics or ends its goroutine.
func (s *session) work(ctx context.Context, cancel context.CancelCauseFunc, t *Task, a *attempt) {
	defer s.attempts.done()
	defer cancel(nil)
	lease := newLease(t.Deadline, cancel)
	defer lease.stop()
	if lease == nil && !t.Deadline.IsZero() {
		s.cfg.Log.Warn("the deadline has passed by this clock; is it right?", refAttrs(a.ref), "deadline", t.Deadline)
	}
	t.report = func(progressCtx context.Context, p Progress) error {
		return s.progress(progressCtx, ctx, t, p, lease)
	}
	output, err := any(nil), errGoexit
	defer func() { s.finish(ctx, t, a, output, err) }()
	output, err = s.call(ctx, t)
}

var errGoexit = Fail(CodePanic, "the handler ended its goroutine")

// call runs the handler and turns a panic into an error.
func (s *session) call(ctx context.Context, t *Task) (output any, err error) {
	defer func() {
		if value := recover(); value != nil {
			output, err = nil, Fail(CodePanic, fmt.Sprintf("panic: %v", value))
			s.cfg.Log.Error("handler panicked", refAttrs(t.Ref()), keyErr, err, "stack", string(debug.Stack()))
		}
	}()
	return s.handler(ctx, t)
}

// finish frees the slot and reports the result, if it still counts.
func (s *session) finish(ctx context.Context, t *Task, a *attempt, output any, err error) {
	if !s.attempts.end(a, time.Now()) {
		s.cfg.Log.Info("task cancelled, its result is dropped", refAttrs(a.ref), keyErr, context.Cause(ctx))
		return
	}
	s.report(a, t.traceHeader(), s.conclude(ctx, t, output, err))
}
