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

// cordon returns the handler of one of the two commands that open and close an agent.
func (b *Bridge) cordon(kind event.CommandKind) func(context.Context, *agentCommandInput) (*answer[*event.Agent], error) {
	return func(ctx context.Context, in *agentCommandInput) (*answer[*event.Agent], error) {
		token, err := event.Token(in.ID)
		if err != nil {
			return nil, err
		}
		if _, err := b.agent(ctx, in.ID); err != nil {
			return nil, err
		}
		body := &event.AgentCommand{}
		if in.Body != nil {
			body.Reason = in.Body.Reason
		}
		_, err = b.call(ctx, command{
			subject: event.CommandSubject(kind, token),
			body:    body,
			passed: func(ctx context.Context, _ uint64) (bool, error) {
				// The agent's fence is one of another stream; but this is a level, so what stands there tells.
				agent, err := b.cfg.Agents.Get(ctx, in.ID)
				return err == nil && agent.Cordoned == (kind == event.KindAgentCordon), err
			},
		})
		if err != nil {
			return nil, err
		}
		agent, err := b.agent(ctx, in.ID)
		return answerWith(agent), err
	}
}
