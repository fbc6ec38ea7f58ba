package bridge

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/opspawn/opscore/bus/event"
)

// agentInput names an agent in the path.
type agentInput struct {
	ID string `path:"id" doc:"Id of the agent"`
}

// reasonBody says why something is done.
type reasonBody struct {
	Reason string `json:"reason,omitzero" maxLength:"4096" doc:"Why, for people"`
}

// agentCommandInput is a command about an agent.
type agentCommandInput struct {
	ID   string `path:"id" doc:"Id of the agent"`
	Body *reasonBody
}

// deregistered is the answer to a deregistration.
type deregistered struct {
	AgentID      string `json:"agentId"`
	Deregistered bool   `json:"deregistered"`
}

func (b *Bridge) agentRoutes(api huma.API) {
	tags := []string{"agents"}
	handle(api, huma.Operation{Method: http.MethodGet, Path: "/agents", OperationID: "list-agents", Summary: "List agents, by id", Tags: tags}, b.listAgents)
	handle(api, huma.Operation{Method: http.MethodGet, Path: "/agents/{id}", OperationID: "get-agent", Summary: "Get an agent", Tags: tags}, b.getAgent)
	handle(api, huma.Operation{
		Method: http.MethodDelete, Path: "/agents/{id}", OperationID: "deregister-agent", Summary: "Deregister an agent", Tags: tags,
	}, b.deregisterAgent)
	handle(api, huma.Operation{
		Method: http.MethodPost, Path: "/agents/{id}/cordon", OperationID: "cordon-agent", Summary: "Give an agent no more tasks", Tags: tags,
	}, b.cordon(event.KindAgentCordon))
	handle(api, huma.Operation{
		Method: http.MethodPost, Path: "/agents/{id}/uncordon", OperationID: "uncordon-agent", Summary: "Give an agent tasks again", Tags: tags,
	}, b.cordon(event.KindAgentUncordon))
	handle(api, huma.Operation{
		Method: http.MethodPost, Path: "/agents/{id}/drain", OperationID: "drain-agent",
		Summary: "Give an agent no new work, and after a deadline take away what it holds", Tags: tags,
	}, b.drainAgent)
}

func (b *Bridge) listAgents(ctx context.Context, in *pageInput) (*page[event.Agent], error) {
	list, err := query(ctx, b, func(ctx context.Context) (event.List[event.Agent], error) {
		return b.cfg.Agents.List(ctx, in.Cursor, in.Limit)
	})
	return pageOf("/agents", in, list), err
}

// pageOf makes the answer of a list.
func pageOf[T any](path string, in *pageInput, list event.List[T]) *page[T] {
	p := &page[T]{Body: list}
	if list.NextCursor != "" {
		next := url.Values{"cursor": {list.NextCursor}, "limit": {strconv.Itoa(in.Limit)}}
		p.Link = "<" + apiRoot + path + "?" + next.Encode() + `>; rel="next"`
	}
	return p
}

func (b *Bridge) getAgent(ctx context.Context, in *agentInput) (*answer[*event.Agent], error) {
	agent, err := b.agent(ctx, in.ID)
	return answerWith(agent), err
}

func (b *Bridge) deregisterAgent(ctx context.Context, in *agentInput) (*answer[deregistered], error) {
	if _, err := b.agent(ctx, in.ID); err != nil {
		return nil, err
	}
	err := b.report(ctx, event.VerbDeregister, in.ID, &event.Deregister{Reason: "asked for by API"})
	return answerWith(deregistered{AgentID: in.ID, Deregistered: true}), err
}

// drainBody says why an agent is drained and until when it may finish what it holds.
type drainBody struct {
	Reason          string  `json:"reason,omitzero" maxLength:"4096" doc:"Why, for people"`
	DeadlineSeconds float64 `json:"deadlineSeconds,omitzero" minimum:"0" maximum:"2592000" doc:"What it holds then is given to others; 0: never"`
}

// drainInput is a request to drain an agent.
type drainInput struct {
	ID   string `path:"id" doc:"Id of the agent"`
	Body *drainBody
}

func (b *Bridge) drainAgent(ctx context.Context, in *drainInput) (*answer[*event.Agent], error) {
	body := &event.AgentCommand{}
	if in.Body != nil {
		body.Reason, body.DeadlineSeconds = in.Body.Reason, in.Body.DeadlineSeconds
	}
	return b.commandAgent(ctx, event.KindAgentDrain, in.ID, body)
}

// cordon returns the handler of one of the two commands that close and open an agent.
func (b *Bridge) cordon(kind event.CommandKind) func(context.Context, *agentCommandInput) (*answer[*event.Agent], error) {
	return func(ctx context.Context, in *agentCommandInput) (*answer[*event.Agent], error) {
		body := &event.AgentCommand{}
		if in.Body != nil {
			body.Reason = in.Body.Reason
		}
		return b.commandAgent(ctx, kind, in.ID, body)
	}
}

// commandAgent sends a command about an agent, and answers with the agent as it is then.
func (b *Bridge) commandAgent(ctx context.Context, kind event.CommandKind, id string, body *event.AgentCommand) (*answer[*event.Agent], error) {
	token, err := event.Token(id)
	if err != nil {
		return nil, err
	}
	if _, err := b.agent(ctx, id); err != nil {
		return nil, err
	}
	_, err = b.call(ctx, command{
		subject: event.CommandSubject(kind, token),
		body:    body,
		passed: func(ctx context.Context, _ uint64) (bool, error) {
			// The agent's fence is one of another stream; but this is a level, so what stands there tells.
			agent, err := b.cfg.Agents.Get(ctx, id)
			if err != nil {
				return false, err
			}
			return agent.Cordoned == (kind != event.KindAgentUncordon) && agent.Draining == (kind == event.KindAgentDrain), nil
		},
	})
	if err != nil {
		return nil, err
	}
	agent, err := b.agent(ctx, id)
	return answerWith(agent), err
}
