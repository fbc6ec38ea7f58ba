package bridge

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/opspawn/opscore/bus/event"
)

// queueInput is a command about the queues of a capability.
type queueInput struct {
	Capability string `path:"capability" doc:"What the tasks ask for"`
	Body       *reasonBody
}

// pausedQueue is the answer to a command about a queue.
type pausedQueue struct {
	Capability string `json:"capability"`
	Paused     bool   `json:"paused"`
}

// explainRoutes are the routes that say why nothing happens.
func (b *Bridge) explainRoutes(api huma.API) {
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/runs/{id}/explain", OperationID: "explain-run", Summary: "Say what a run waits for, and what would let it go on",
		Tags: []string{"runs"},
	}, func(ctx context.Context, in *runInput) (*answer[*event.RunExplanation], error) {
		x, err := query(ctx, b, func(ctx context.Context) (*event.RunExplanation, error) { return b.cfg.Explain.ExplainRun(ctx, in.ID) })
		return answerWith(x), err
	})
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/agents/{id}/explain", OperationID: "explain-agent", Summary: "Say why an agent is given nothing",
		Tags: []string{"agents"},
	}, func(ctx context.Context, in *agentInput) (*answer[*event.AgentExplanation], error) {
		x, err := query(ctx, b, func(ctx context.Context) (*event.AgentExplanation, error) {
			return b.cfg.Explain.ExplainAgent(ctx, in.ID)
		})
		return answerWith(x), err
	})
}

func (b *Bridge) queueRoutes(api huma.API) {
	tags := []string{"queues"}
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/queues", OperationID: "list-queues", Summary: "List the queues in which tasks wait, and those that are paused", Tags: tags,
	}, func(ctx context.Context, _ *struct{}) (*answer[event.List[event.Queue]], error) {
		list, err := query(ctx, b, b.cfg.Queues.Queues)
		return answerWith(list), err
	})
	handle(api, huma.Operation{
		Method: http.MethodPost, Path: "/queues/{capability}/pause", OperationID: "pause-queue",
		Summary: "Give tasks that ask for a capability to nobody", Tags: tags,
	}, b.switchQueue(event.KindQueuePause))
	handle(api, huma.Operation{
		Method: http.MethodPost, Path: "/queues/{capability}/resume", OperationID: "resume-queue",
		Summary: "Give tasks that ask for a capability to agents again", Tags: tags,
	}, b.switchQueue(event.KindQueueResume))
}

// switchQueue returns the handler of one of the two commands about a queue.
func (b *Bridge) switchQueue(kind event.CommandKind) func(context.Context, *queueInput) (*answer[pausedQueue], error) {
	return func(ctx context.Context, in *queueInput) (*answer[pausedQueue], error) {
		token, err := event.Token(in.Capability)
		if err != nil {
			return nil, err
		}
		body := &event.QueueCommand{}
		if in.Body != nil {
			body.Reason = in.Body.Reason
		}
		_, err = b.call(ctx, command{
			subject: event.CommandSubject(kind, token),
			body:    body,
			passed: func(ctx context.Context, seq uint64) (bool, error) {
				fence, err := b.cfg.Queues.QueueFence(ctx, in.Capability)
				return fence >= seq, err
			},
		})
		return answerWith(pausedQueue{Capability: in.Capability, Paused: kind == event.KindQueuePause}), err
	}
}
