package workflow

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// act does what follows from a change that was committed. Every step may be repeated or lost: the timers find what is left undone.
func (e *Engine) act(c *change) {
	ctx := context.Background() // what is committed is said, even while the engine stops
	e.cfg.Crash("workflow-before-request")
	for _, id := range c.assigned {
		e.request(ctx, c, id, true)
	}
	for _, id := range c.ask {
		e.request(ctx, c, id, false)
	}
	for _, s := range c.drains {
		if held := c.gates[s.Agent].Find(s.Ref); held != nil { // it may have been freed by the same change
			e.cancel(s, held.Delivery, c.shows(s.Ref))
		}
	}
	if len(c.assigned)+len(c.ask) > 0 {
		e.cfg.Crash("workflow-after-request")
	}
	if c.after != nil && c.after != c.before {
		e.queueUp(c)
		e.lookAfter(c)
		for i := range c.spent {
			e.burySpent(c.after, &c.spent[i], spentTimer(c.after.ID, &c.spent[i]))
		}
		switch {
		case c.after.Parent != nil: // its parent tells
		case c.after.State.Final():
			e.facts.drop(c.after.ID)
			e.publishFact(ctx, c.after, c.cause)
			e.logEnd(c.after)
			e.runs.ForgetAt(runKey(c.after.ID), c.group.txn.Rev) // hardly anything is said of it any more, and collecting garbage costs what lives
		case c.cause != "":
			e.facts.later(c.after, c.cause)
		}
	}
	for _, in := range c.inputs {
		e.answer(in)
	}
}

// queueUp notes the classes in which this change left ready tasks, here and in other replicas.
func (e *Engine) queueUp(c *change) {
	for i := range c.after.Tasks {
		t := &c.after.Tasks[i]
		if t.State.Final() {
			e.accepted.Forget(acceptedKey(c.after.ID, t.ID))
		}
		class := c.after.class(t)
		if class == "" {
			continue
		}
		if c.before != nil {
			if old := c.before.Find(t.ID); old != nil && c.before.class(old) == class {
				continue
			}
		}
		k := e.class(class)
		k.backlog = true
		e.wake.Classes = append(e.wake.Classes, class)
		if len(k.pool) > 0 || k.want.Agent != "" {
			e.touch(k)
			e.inbox.wakeSoon()
		}
	}
}

// sendWake tells other replicas what happened in this turn. It is a hint: a lost one costs a quarter of a second.
func (e *Engine) sendWake() {
	if len(e.wake.Agents)+len(e.wake.Classes) > 0 && e.hints.gather(e.wake) {
		e.cfg.Bus.Soon(func() { publishWake(e.cfg.Bus.NC(), e.hints.take(e.name)) })
	}
	e.wake = event.Wake{Agents: e.wake.Agents[:0], Classes: e.wake.Classes[:0]}
}

// request asks an agent to take the attempt that was committed. The answer comes to heard; no answer needs none, the task's timer asks again.
//
// Only the first time no responder means that the attempt never reached the agent: later it may be at work, and reconnecting. An agent that must be
// asked only once is asked by the replica that committed the attempt, right here, and never again.
func (e *Engine) request(ctx context.Context, c *change, taskID string, first bool) {
	t := c.after.Find(taskID)
	if t == nil || t.State != event.TaskAssigned {
		return
	}
	def := c.def.Find(taskID)
	in, err := e.taskInput(ctx, nil, c, def)
	if err != nil {
		e.cfg.Log.Warn("task not sent", "run_id", c.after.ID, "task_id", taskID, "err", err)
		if t.once() { // the others are asked again
			e.inbox.add(&input{run: c.after.ID, in: &Refused{Ref: t.ref(c.after.ID)}})
		}
		return
	}
	task := event.Task{
		RunID: c.after.ID, WorkflowID: c.after.Workflow, WorkflowVersion: c.after.DefVersion,
		TaskID: taskID, Attempt: t.Attempt, Name: def.Name, Capability: def.capability(t.Fallback),
		Input: in, Token: t.Token, Instance: t.Process, Deadline: t.Lease.UTC(), PreviousError: t.Error,
	}
	if p := c.after.Parent; p != nil {
		task.ParentRunID = p.Run
		if p.Items {
			task.ItemIndex = &p.Index
		}
	}
	ref, agent, once := t.ref(c.after.ID), t.Agent, t.once()
	subject, timeout := event.TaskSubject, event.AcceptDeadline
	if t.Delivery != "" {
		subject, timeout = event.PushSubject, event.PushDeadline
	}
	e.cfg.Bus.Request(subject(event.MustToken(agent)), task.Encode(), timeout, func(data []byte, err error) {
		switch {
		case once && neverSent(err):
			e.inbox.add(&input{run: ref.RunID, in: &Refused{Ref: ref}})
		case first || !errors.Is(err, nats.ErrNoResponders):
			e.heard(agent, ref, data, err)
		}
	})
}

// neverSent reports whether a request failed before any of it left: the connection was down, or too many wait for an answer.
func neverSent(err error) bool {
	return errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, bus.ErrTooManyRequests)
}

// heard takes an agent's answer to a task request. It runs on the connection's goroutine and must not block.
func (e *Engine) heard(agent string, ref event.AttemptRef, data []byte, err error) {
	var answer event.TaskAnswer
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		e.inbox.add(&input{run: ref.RunID, in: &Refused{Ref: ref, Silent: true}})
	case err != nil:
		// The task's timer asks again, or takes it for accepted.
	case event.Unmarshal(data, &answer) != nil:
		e.cfg.Log.Warn("agent answered a task with something else than an answer", "agent", agent, "run_id", ref.RunID, "task_id", ref.TaskID)
	case answer.Status == event.AnswerAccepted:
		e.accepted.Store(acceptedKey(ref.RunID, ref.TaskID), "", ref.Attempt)
	case answer.Status == event.AnswerRejected:
		after := time.Duration(answer.RetryAfterMs) * time.Millisecond
		e.inbox.add(&input{run: ref.RunID, in: &Refused{Ref: ref, After: after}})
	}
}

// shows reports whether the run of a change may show what becomes of the cancel of an attempt.
func (c *change) shows(ref event.AttemptRef) bool {
	if c.after == nil {
		return true // a gate alone
	}
	t := c.after.Find(ref.TaskID)
	return t != nil && t.Attempt == ref.Attempt && t.Cancel == event.CancelRequested
}

// cancel tells an agent to stop an attempt. Its answer, whatever it is, frees the slot. Old agents know no cancel: their slots are freed when
// they are at rest again, or when the grace is over.
func (e *Engine) cancel(s SlotChange, via event.Delivery, shown bool) {
	subject := event.CancelSubject
	switch via {
	case event.DeliveryAgentKit:
		return
	case event.DeliveryHTTP, event.DeliveryPoll:
		subject = event.PushCancelSubject
	}
	agent, ref := s.Agent, s.Ref
	body := event.MustMarshal(&event.Cancel{RunID: ref.RunID, TaskID: ref.TaskID, Attempt: ref.Attempt, Reason: "the attempt is over"})
	e.cfg.Bus.Request(subject(event.MustToken(agent)), body, AskAgain, func(data []byte, err error) {
		var answer event.CancelAnswer
		switch {
		case err != nil || event.Unmarshal(data, &answer) != nil || answer.Status == "":
		case shown:
			e.inbox.add(&input{run: ref.RunID, in: &Stopped{Ref: ref, Agent: agent}})
		default:
			e.inbox.add(&input{gate: &gateInput{agent: agent, ref: ref, kind: gateConfirmed}})
		}
	})
}

// answer gives a message its verdict. A refusal that nobody waits for becomes a dead letter.
func (e *Engine) answer(in *input) {
	if in.msg == nil {
		return
	}
	if err := in.answer.Error; err != nil && !in.answer.Held {
		if e.mayBeEarly(in, err) {
			in.msg.Later(waitForOthers)
			return
		}
		if said, ok := in.in.(*Said); ok && in.stray {
			ref, _ := refOf(said.Event)
			e.cancel(SlotChange{Agent: said.Agent, Ref: ref}, "", false)
		}
		e.refuse(in.msg, err)
		return
	}
	in.msg.Done(in.answer)
}

const (
	waitForOthers = 300 * time.Millisecond
	maxEarly      = 10 // deliveries of a replayed message before its refusal is believed
	maxAhead      = 3  // deliveries of a start before its workflow is called unknown
)

// mayBeEarly reports whether a refusal may be due to another worker or replica that has not committed what stands before the message in the stream: the
// definition of a run that is started at once, or, while a replay goes on, anything that was taken in once and is being taken in again.
func (e *Engine) mayBeEarly(in *input, err *event.Error) bool {
	ahead := in.start != nil && err.Code == event.CodeUnknownDefinition
	if ahead && in.msg.Delivered < maxAhead {
		return true
	}
	switch err.Code {
	case event.CodeUnknownRun, event.CodeStaleAttempt, event.CodeUnknownDefinition:
		return in.msg.Delivered < maxEarly && e.cfg.Keeper.Replayed(event.StreamWork, in.msg.Seq)
	}
	return false
}

func (e *Engine) refuse(m *bus.Msg, err *event.Error) {
	waited := m.Header.Get(event.HeaderReply) != "" && err.Code != event.CodeExpired // which says that nobody waits any more
	if waited && err.Code != event.CodeMalformed {
		m.Done(event.Refused(err))
	} else {
		m.Dead(err)
	}
	e.cfg.Log.Warn("message refused", "subject", m.Subject, "seq", m.Seq, "code", err.Code, "err", err.Message)
}

func (e *Engine) logEnd(r *Run) {
	if r.State == event.RunFailed {
		e.cfg.Log.Warn("run failed", "run_id", r.ID, "workflow", r.Workflow, "code", r.Error.Code, "err", r.Error.Message)
		return
	}
	e.cfg.Log.Debug("run ended", "run_id", r.ID, "workflow", r.Workflow, "state", r.State)
}

// endDue is the due entry that stands for what follows from the end of a run until it was done: for a child that its parent knows, for others that
// all do.
func endDue(r *Run) storage.IndexOp {
	at := r.Ended.Add(AskAgain)
	if r.Parent != nil {
		return dueOp(kinIndex, timer(timerChild, r.ID), at)
	}
	return dueOp(dueIndex, factTimer(r), at)
}

// factTimer is the due entry that stands for a final fact until it was published.
func factTimer(r *Run) string { return timerFact + "|" + event.MustToken(r.ID) + "|" + itoa(r.Version) }

// sayChanges publishes the facts of runs that go on, a few times a second.
func (e *Engine) sayChanges(ctx context.Context) error {
	t := time.NewTicker(sayPeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for _, u := range e.facts.moment() {
			e.publishFact(ctx, u.run, u.cause)
		}
	}
}

// publishFact tells what became of a run. The final fact is sure: its due entry is removed only when the stream has it. Those before may be
// lost in a crash; each replaces the ones before it, so several within a moment are said once, without what must be read first.
func (e *Engine) publishFact(ctx context.Context, r *Run, cause string) {
	final := r.State.Final()
	var done storage.IndexOp
	if final {
		done = dueOp(dueIndex, factTimer(r), r.Ended.Add(AskAgain))
		if !e.facts.begin(done.Member) {
			return
		}
	}
	shown, err := e.show(ctx, r)
	if err != nil {
		e.facts.end(done.Member)
		return // the due entry stays
	}
	shown.Fit()
	fact := event.Fact{ID: r.ID, Epoch: e.cfg.Keeper.Epoch().N, Version: r.Version, At: time.Now().UTC(), Cause: cause, Run: shown}
	msg := nats.NewMsg(event.FactSubject("run", event.MustToken(r.ID)))
	if msg.Data = fact.Encode(); len(msg.Data) > event.MaxBody { // what is left has bounds of its own
		shown.Tasks, shown.Input, shown.Output, shown.Truncated = nil, nil, nil, true
		msg.Data = fact.Encode()
	}
	e.cfg.Bus.PublishSoon(msg, func(_ bus.Ack, err error) {
		if !final {
			return
		}
		if err == nil {
			e.facts.sent(done)
		}
		e.facts.end(done.Member)
	})
}
