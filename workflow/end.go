package workflow

import (
	"context"
	"fmt"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// agentBase returns the last sequence of StreamAgent, read once in a turn: before any attempt of this turn is assigned.
func (e *Engine) agentBase(ctx context.Context, v *view) (uint64, error) {
	if v.base == nil {
		s, err := e.cfg.Bus.StreamState(ctx, event.StreamAgent)
		if err != nil {
			return 0, fmt.Errorf("read how far %s goes: %w", event.StreamAgent, err)
		}
		v.base = &s.LastSeq
	}
	return *v.base, nil
}

// endDue looks at an attempt that a state of its agent is said to have ended.
func (e *Engine) endDue(ctx context.Context, agent string, ref event.AttemptRef, op *storage.IndexOp) ([]*input, error) {
	g, err := e.freshGate(ctx, agent)
	if err != nil {
		return nil, err
	}
	end, err := e.end(ctx, agent, g.Find(ref))
	if err != nil {
		return nil, err
	}
	if end == nil {
		end = &input{gate: &gateInput{agent: agent, kind: gateNothing}}
	}
	end.timer = op
	return []*input{end}, nil
}

// appendEnds appends the ends of all attempts that the states of an agent have ended.
func (e *Engine) appendEnds(ctx context.Context, ends []*input, g *lifecycle.Gate) ([]*input, error) {
	for i := range g.Held {
		end, err := e.end(ctx, g.Agent, &g.Held[i])
		if err != nil {
			return nil, err
		}
		if end != nil {
			ends = append(ends, end)
		}
	}
	return ends, nil
}

// endBehind returns the end of an attempt whose lease would be called over: what its agent said was taken in before that, but perhaps
// nobody has looked yet at what it means. It is nil when there is none.
func (e *Engine) endBehind(ctx context.Context, v *view, c *change, tick *Tick) (*input, error) {
	t := c.after.Find(tick.TaskID)
	if t == nil || !t.once() || !t.held() || tick.Intake.Before(t.Lease) || c.gates[t.Agent] != nil {
		return nil, nil
	}
	v.distrustGate(e, t.Agent)
	if err := e.loadGates(ctx, v, []string{t.Agent}); err != nil {
		return nil, err
	}
	return e.end(ctx, t.Agent, v.gates[t.Agent].val.Find(t.ref(c.after.ID)))
}

// end turns what the states of an agent say of the end of an attempt into the result that the agent cannot say itself. It is nil while
// the attempt goes on.
func (e *Engine) end(ctx context.Context, agent string, held *lifecycle.Held) (*input, error) {
	if held == nil {
		return nil, nil
	}
	word, failed, ok := held.Trace.End()
	if !ok {
		return nil, nil
	}
	said, err := lifecycle.Recall(ctx, e.cfg.Store, agent, word.Seq)
	if err != nil {
		return nil, err
	}
	if said == nil { // too much was said since: what it brought is lost, what it means is not
		e.cfg.Log.Warn("the state that ended an attempt is no longer in the history", "agent", agent, "run_id", held.RunID,
			"task_id", held.TaskID, "attempt", held.Attempt, "seq", word.Seq)
		said = &lifecycle.HistoryEntry{Seq: word.Seq, At: word.At, State: word.State}
	}
	return &input{run: held.RunID, at: word.At, in: &Said{Agent: agent, Event: endResult(held.AttemptRef, said, failed)}}, nil
}

// endResult is the result that the state of an old agent amounts to.
func endResult(ref event.AttemptRef, said *lifecycle.HistoryEntry, failed bool) *event.Result {
	if !failed {
		return &event.Result{AttemptRef: ref, Status: event.StatusCompleted, Output: said.Result()}
	}
	message := "the agent reported state " + said.State
	if why := said.Complaint(); why != "" {
		message += ": " + why
	}
	return &event.Result{
		AttemptRef: ref, Status: event.StatusFailed,
		Error: &event.TaskError{Code: "agent_error", Message: clip(message, event.MaxErrorText)},
	}
}
