package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// askTimeout is how long the other replicas are given to say that they have served a request.
const askTimeout = time.Second

// requestInput names a request in the path.
type requestInput struct {
	ID string `path:"id" maxLength:"128" doc:"The X-Request-Id of its answer"`
}

// requestQuery is how a replica asks the others for a request.
type requestQuery struct {
	ID string `json:"id"`
}

func (b *Bridge) requestRoutes(api huma.API) {
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/requests/{id}", OperationID: "get-request",
		Summary: "Show how far a request came, and why not farther", Tags: []string{"system"},
	}, b.getRequest)
}

func (b *Bridge) getRequest(ctx context.Context, in *requestInput) (*answer[*event.RequestTrace], error) {
	if t := b.requests.get(in.ID); t != nil {
		return answerWith(t), nil
	}
	t, err := b.askReplicas(ctx, in.ID)
	return answerWith(t), err
}

// askReplicas asks all replicas for a request. Only one that remembers it answers.
func (b *Bridge) askReplicas(ctx context.Context, id string) (*event.RequestTrace, error) {
	type reply struct {
		data []byte
		err  error
	}
	replied := make(chan reply, 1)
	b.cfg.Bus.Request(event.SubjectRequestGet, event.MustMarshal(requestQuery{id}), askTimeout, func(data []byte, err error) {
		replied <- reply{data, err}
	})
	var r reply
	select {
	case r = <-replied:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case errors.Is(r.err, nats.ErrNoResponders), errors.Is(r.err, context.DeadlineExceeded):
		return nil, &Problem{
			Status: http.StatusNotFound, Code: codeUnknownRequest,
			Detail: fmt.Sprintf("no replica remembers a request %q; each keeps its last %d writes and refusals", id, maxRemembered),
		}
	case r.err != nil:
		return nil, errors.Join(errBusDown, r.err)
	}
	var t event.RequestTrace
	if err := event.Unmarshal(r.data, &t); err != nil {
		return nil, fmt.Errorf("answer of a replica: %w", errors.New(err.Error()))
	}
	return &t, nil
}

// answerReplicas tells the other replicas about the requests of this one, until the subscription ends.
func (b *Bridge) answerReplicas() (*nats.Subscription, error) {
	sub, err := b.cfg.Bus.NC().Subscribe(event.SubjectRequestGet, func(m *nats.Msg) {
		var q requestQuery
		if event.Unmarshal(m.Data, &q) != nil || m.Reply == "" {
			return
		}
		if t := b.requests.get(q.ID); t != nil {
			_ = m.Respond(event.MustMarshal(t)) // who asks stops waiting by itself
		}
	})
	if err != nil {
		return nil, fmt.Errorf("bridge: listen for questions of other replicas: %w", err)
	}
	return sub, nil
}
