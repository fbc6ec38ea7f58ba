package bridge

import (
	"context"
	"net/http"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// oldState is the answer to a question for an agent's state.
type oldState struct {
	AgentID   string    `json:"agentId"`
	State     string    `json:"state"`
	Details   event.Raw `json:"details"`
	Timestamp string    `json:"timestamp"`
}

// oldPostState takes what an agent says of itself.
func (b *Bridge) oldPostState(ctx context.Context, r *oldRequest) (int, any, error) {
	var c checker
	var agent string
	var said event.State
	if o := c.body(r.body); o != nil {
		agent = o.text("agentId")
		said = event.State{Timestamp: o.text("timestamp"), State: o.text("state"), Details: o.optionalDict("details")}
	}
	if err := c.err(); err != nil {
		return 0, nil, err
	}
	if agent != r.agent {
		return 0, nil, &oldError{http.StatusBadRequest, "Agent ID in path does not match agent ID in payload"}
	}
	said.Timestamp = normaliseTimestamp(said.Timestamp, time.Now())
	err := b.report(ctx, event.VerbState, agent, &said)
	if b.cfg.AdoptAgents && refusedWith(err, event.CodeUnknownAgent) {
		b.adopt(ctx, agent)
		err = b.report(ctx, event.VerbState, agent, &said)
	}
	if refusedWith(err, event.CodeUnknownAgent) {
		return 0, nil, agentNotFound(agent)
	}
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, success("State update accepted"), nil
}

// oldGetState shows what an agent said last.
func (b *Bridge) oldGetState(ctx context.Context, r *oldRequest) (int, any, error) {
	agent, err := b.agent(ctx, r.agent)
	if refusedWith(err, event.CodeUnknownAgent) {
		return 0, nil, &oldError{http.StatusNotFound, "No state found for agent " + r.agent}
	}
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, oldState{
		AgentID: agent.AgentID, State: agent.State, Details: agent.Details,
		Timestamp: normaliseTimestamp(agent.StateTimestamp, agent.StateAt),
	}, nil
}

func agentNotFound(id string) error {
	return &oldError{http.StatusNotFound, "Agent not found: " + id}
}

// normaliseTimestamp shows a timestamp the way the old server did, and the given time in place of one that it could not read.
func normaliseTimestamp(s string, otherwise time.Time) string {
	if t, ok := parsePythonTime(s); ok {
		return t.String()
	}
	return pythonTime{wall: otherwise.UTC().Truncate(time.Microsecond), aware: true}.String()
}
