package bridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// command is one write on its way to the aggregate that judges it.
type command struct {
	subject string
	body    any // encoded as JSON, or an event.Raw as it is
	// passed reports whether the aggregate has taken in the message with this sequence; it is asked when the outcome did not come.
	passed func(ctx context.Context, seq uint64) (bool, error)
	// result is the outcome of a message that has passed, as far as it can be known.
	result func(ctx context.Context) (event.Outcome, error)
	// unsure is the answer when nobody can tell what became of the message; nil: errUnconfirmed.
	unsure error
}

// call publishes a command and waits for its outcome; a refusal is an error. A message that its consumer would refuse unseen is not
// published at all, and nothing is while the bus or the store is known to be down.
func (b *Bridge) call(ctx context.Context, c command) (event.Outcome, error) {
	msg, said, err := c.message(ctx)
	if err != nil {
		return event.Outcome{}, err
	}
	if !b.cfg.Bus.Connected() {
		return event.Outcome{}, errBusDown
	}
	if err := b.store.check(ctx); err != nil {
		return event.Outcome{}, err
	}
	b.endPolls(said)
	limited, cancel := context.WithTimeout(ctx, b.cfg.CallTimeout)
	defer cancel()
	outcome, ack, err := b.cfg.Bus.Call(limited, msg)
	x := exchangeOf(ctx)
	if ack.Seq != 0 {
		x.stored(c.subject, ack)
	}
	if err == nil {
		x.judged(&outcome)
	}
	switch {
	case err == nil && outcome.Error != nil:
		if outcome.Held {
			x.note = "the report is kept for the registration that may follow"
		}
		return outcome, outcome.Error
	case err == nil:
		return outcome, nil
	case refusedWith(err, event.CodeUnavailable), refusedWith(err, event.CodeTooLarge): // by the stream
		return event.Outcome{}, err
	case ack.Seq == 0 || ctx.Err() != nil:
		return event.Outcome{}, c.unconfirmed(err)
	}
	return b.confirm(ctx, c, ack.Seq, err)
}

var (
	errBusDown     = event.Errorf(event.CodeUnavailable, "NATS is not connected")
	errUnconfirmed = event.Errorf(event.CodeUnavailable, "not confirmed in time; it may still take effect, and repeating it is safe")
)

// mayRun says that a run may have been started whose id the client could not have chosen.
func mayRun(id string) error {
	return event.Errorf(event.CodeUnavailable, "not confirmed in time; run %s may have been started, and repeating the request would start another one", id)
}

func (c *command) unconfirmed(why error) error {
	if c.unsure != nil {
		return errors.Join(c.unsure, why)
	}
	return errors.Join(errUnconfirmed, why)
}

// confirm asks the aggregate about a message that was stored but whose outcome did not come.
func (b *Bridge) confirm(ctx context.Context, c command, seq uint64, why error) (event.Outcome, error) {
	x := exchangeOf(ctx)
	lost := fmt.Sprintf("no outcome within %v; ", b.cfg.CallTimeout)
	passed, err := query(ctx, b, func(ctx context.Context) (bool, error) { return c.passed(ctx, seq) })
	if err != nil {
		x.note = lost + "the store cannot be asked"
		return event.Outcome{}, err
	}
	if !passed {
		x.note = lost + "the message is stored, and has not been taken in yet"
		return event.Outcome{}, c.unconfirmed(why)
	}
	x.note = lost + "asked then, the message has been taken in"
	if c.result == nil {
		return event.Outcome{OK: true, Seq: seq}, nil
	}
	return query(ctx, b, c.result)
}

// message makes the message of a command, and what it says.
func (c *command) message(ctx context.Context) (*nats.Msg, *event.Message, error) {
	msg := nats.NewMsg(c.subject)
	exchangeOf(ctx).mark(msg.Header)
	if raw, ok := c.body.(event.Raw); ok {
		msg.Data = raw
	} else {
		// Deterministic, because a start that is repeated is recognised by its bytes.
		data, err := json.Marshal(c.body, json.Deterministic(true))
		if err != nil {
			return nil, nil, fmt.Errorf("encode %T: %w", c.body, err)
		}
		msg.Data = data
	}
	said, err := event.Decode(msg.Subject, msg.Data)
	if err != nil {
		return nil, nil, err
	}
	return msg, &said, nil
}

// toAgent is an event of an agent, unless the agent has had too many already.
func (b *Bridge) toAgent(v event.Verb, id string, body any) (command, error) {
	token, err := event.Token(id)
	if err == nil {
		err = b.paces.admit(id, time.Now())
	}
	if err != nil {
		return command{}, err
	}
	c := command{
		subject: event.AgentSubject(v, token),
		body:    body,
		passed: func(ctx context.Context, seq uint64) (bool, error) {
			fence, err := b.cfg.Agents.Fence(ctx, id)
			return fence >= seq, err
		},
	}
	if v == event.VerbState { // which is taken in before the registration too, and refused all the same
		c.result = func(ctx context.Context) (event.Outcome, error) {
			_, err := b.cfg.Agents.Get(ctx, id)
			return event.Outcome{OK: err == nil}, err
		}
	}
	return c, nil
}

// toRun is a command about a run; when its outcome got lost, the run itself tells.
func (b *Bridge) toRun(k event.CommandKind, id string, body any) (command, error) {
	token, err := event.Token(id)
	if err != nil {
		return command{}, err
	}
	return command{
		subject: event.CommandSubject(k, token),
		body:    body,
		passed: func(ctx context.Context, seq uint64) (bool, error) {
			fence, err := b.cfg.Runs.Fence(ctx, id)
			return fence >= seq, err
		},
		result: func(ctx context.Context) (event.Outcome, error) {
			run, err := b.cfg.Runs.Run(ctx, id)
			if err != nil {
				return event.Outcome{}, err
			}
			return event.Outcome{
				OK: true, RunID: id, WorkflowID: run.WorkflowID, WorkflowVersion: run.WorkflowVersion, State: string(run.State), Version: run.Version,
			}, nil
		},
	}, nil
}

// report sends an event of an agent.
func (b *Bridge) report(ctx context.Context, v event.Verb, id string, body any) error {
	c, err := b.toAgent(v, id, body)
	if err == nil {
		_, err = b.call(ctx, c)
	}
	return err
}
