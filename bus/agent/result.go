package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// payloadReserve is what the wire keeps free of the server's max_payload, for headers and for what Ops-Core adds.
const payloadReserve = 64 << 10

// maxBody is the limit of a message with the server the agent is connected to.
func (s *session) maxBody() int {
	server := int(s.nc.MaxPayload())
	return min(event.MaxBody, max(server-payloadReserve, server/2))
}

// conclude turns what a handler returned into the result of its attempt.
func (s *session) conclude(ctx context.Context, t *Task, output any, err error) *event.Result {
	r := &event.Result{AttemptRef: t.Ref(), Status: event.StatusCompleted, Usage: t.totalUsage(), Instance: s.instance}
	if err == nil {
		if r.Output, err = encode(output); err != nil {
			err = Permanent(Fail(CodeBadOutput, "encode the output: "+err.Error()))
		}
	}
	if err != nil {
		fail(r, taskError(ctx, err))
	}
	return r
}

// report hands the result of an attempt to the outbox.
func (s *session) report(a *attempt, header nats.Header, r *event.Result) {
	body, err := event.Marshal(r)
	if err != nil { // a json.RawMessage of the handler with duplicate members or broken UTF-8
		fail(r, taskError(context.Background(), Permanent(Fail(CodeBadOutput, "encode the output: "+err.Error()))))
		body = event.MustMarshal(r)
	}
	if limit := s.maxBody(); len(body) > limit {
		fail(r, tooLarge(len(body), limit))
		body = event.MustMarshal(r)
	}
	m := &message{
		subject: event.AgentSubject(event.VerbResult, s.token),
		header:  header,
		body:    body,
		ref:     &a.ref,
	}
	m.settled = func(err error) { s.reported(a, header, r, err) }
	s.attempts.remember(a, m)
	s.out.post(m)
}

// reported writes the one line about an attempt, when its result is stored or can never be.
func (s *session) reported(a *attempt, header nats.Header, r *event.Result, err error) {
	log := s.cfg.Log
	switch {
	case errors.Is(err, nats.ErrMaxPayload) && r.Output != nil:
		fail(r, tooLarge(len(r.Output), s.maxBody())) // the server's limit shrank since the result was made
		s.report(a, header, r)
	case err != nil:
		log.Error("result cannot be stored", refAttrs(a.ref), keyErr, err)
	case r.Error != nil:
		log.Warn("task failed", refAttrs(a.ref), "code", r.Error.Code, keyErr, r.Error.Message)
	default:
		log.Info("task completed", refAttrs(a.ref))
	}
}

// again reports a remembered result once more; one that the server does not take any more, since its limit has shrunk, as too large.
func (s *session) again(a *attempt, m *message) {
	if int64(len(m.body)) < s.nc.MaxPayload() {
		s.out.repeat(m)
		return
	}
	r := &event.Result{AttemptRef: a.ref, Instance: s.instance}
	fail(r, tooLarge(len(m.body), s.maxBody()))
	s.report(a, m.header, r)
}

// fail makes a failed result of r.
func fail(r *event.Result, e *event.TaskError) {
	r.Status, r.Output, r.Error = event.StatusFailed, nil, e
}

func tooLarge(size, limit int) *event.TaskError {
	return &event.TaskError{
		Code:      CodeTooLarge,
		Message:   fmt.Sprintf("the result has %d bytes, at most %d are allowed", size, limit),
		Retryable: new(false),
	}
}

// progress publishes progress and, once a stream has it, moves the deadline on.
func (s *session) progress(ctx, handler context.Context, t *Task, p Progress, l *lease) error {
	if handler.Err() != nil {
		return context.Cause(handler)
	}
	data, err := encode(p.Data)
	if err != nil {
		return fmt.Errorf("encode Data: %w", err)
	}
	e := &event.Progress{
		AttemptRef: t.Ref(),
		Message:    clip(p.Message, event.MaxErrorText),
		Data:       data,
		Instance:   s.instance,
	}
	if p.Percent != 0 {
		e.Percent = &p.Percent
	}
	body, err := event.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if limit := s.maxBody(); len(body) > limit {
		return event.Errorf(event.CodeTooLarge, "the message has %d bytes, at most %d are allowed", len(body), limit)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, progressWait, errNoAnswer)
	defer cancel()
	m := &message{subject: event.AgentSubject(event.VerbProgress, s.token), header: t.traceHeader(), body: body}
	if err := s.out.send(ctx, m); err != nil {
		return err
	}
	l.renew()
	return nil
}

var errNoAnswer = fmt.Errorf("NATS did not answer within %v", progressWait)

// lease cancels a handler at its task's deadline. Nil is a lease that never ends.
type lease struct {
	span  time.Duration
	timer *time.Timer
}

// newLease starts the deadline of a task. The deadline is on the clock of Ops-Core; only what is left of it counts here, and
// if nothing is left, the clocks disagree and the agent relies on being told to cancel.
func newLease(deadline time.Time, cancel context.CancelCauseFunc) *lease {
	span := time.Until(deadline)
	if span <= 0 {
		return nil
	}
	return &lease{span: span, timer: time.AfterFunc(span, func() { cancel(context.DeadlineExceeded) })}
}

// renew moves the deadline to its original span from now, as Ops-Core does when it sees progress.
func (l *lease) renew() {
	if l != nil {
		l.timer.Reset(l.span)
	}
}

func (l *lease) stop() {
	if l != nil {
		l.timer.Stop()
	}
}
