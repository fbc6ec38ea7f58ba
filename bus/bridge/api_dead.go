package bridge

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/opspawn/opscore/bus/event"
)

// deadListInput says which dead letters are meant, and which page of them.
type deadListInput struct {
	Limit   int       `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"Items per page"`
	Cursor  string    `query:"cursor" maxLength:"2048" doc:"nextCursor of the page before"`
	Class   string    `query:"class" doc:"Only those given up for this reason, a code like unknown_run"`
	Subject string    `query:"subject" maxLength:"1024" doc:"Only those sent to this subject; * and > as in NATS"`
	Agent   string    `query:"agent" doc:"Only those about this agent"`
	Run     string    `query:"run" doc:"Only those about this run"`
	Since   time.Time `query:"since" doc:"Only those given up at this time or later"`
}

func (in *deadListInput) filter() event.DeadFilter {
	return event.DeadFilter{Class: event.Code(in.Class), Subject: in.Subject, AgentID: in.Agent, RunID: in.Run, Since: in.Since}
}

// deadInput names a dead letter in the path.
type deadInput struct {
	Seq uint64 `path:"seq" minimum:"1" doc:"Sequence of the dead letter"`
}

// replayInput is a request to send a dead letter again.
type replayInput struct {
	Seq  uint64 `path:"seq" minimum:"1" doc:"Sequence of the dead letter"`
	Body *replayBody
}

type replayBody struct {
	Body event.Raw `json:"body,omitzero" doc:"What to send in place of the letter's own body"`
}

// deadDeleted is the answer to a deletion.
type deadDeleted struct {
	Seq     uint64 `json:"seq"`
	Deleted bool   `json:"deleted"`
}

// deadPage is a list of dead letters with the link to what follows it.
type deadPage struct {
	Link string `header:"Link"`
	Body *event.DeadList
}

func (b *Bridge) deadRoutes(api huma.API) {
	tags := []string{"dead letters"}
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/dead", OperationID: "list-dead", Summary: "List dead letters, oldest first, without their bodies", Tags: tags,
	}, b.listDead)
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/dead/{seq}", OperationID: "get-dead", Summary: "Get a dead letter", Tags: tags,
	}, b.getDead)
	handle(api, huma.Operation{
		Method: http.MethodDelete, Path: "/dead/{seq}", OperationID: "delete-dead", Summary: "Delete a dead letter for good", Tags: tags,
	}, b.deleteDead)
	handle(api, huma.Operation{
		Method: http.MethodPost, Path: "/dead/{seq}/replay", OperationID: "replay-dead", Tags: tags,
		Summary: "Send a dead letter again, with another body if one is given, and delete it",
	}, b.replayDead)
}

func (b *Bridge) listDead(ctx context.Context, in *deadListInput) (*deadPage, error) {
	list, err := fromBus(ctx, b, func(ctx context.Context) (*event.DeadList, error) {
		return b.cfg.Bus.DeadLetters(ctx, in.filter(), in.Cursor, in.Limit)
	})
	if err != nil {
		return nil, err
	}
	p := &deadPage{Body: list}
	if list.NextCursor != "" {
		next := url.Values{"cursor": {list.NextCursor}, "limit": {strconv.Itoa(in.Limit)}}
		for name, value := range map[string]string{"class": in.Class, "subject": in.Subject, "agent": in.Agent, "run": in.Run} {
			if value != "" {
				next.Set(name, value)
			}
		}
		if !in.Since.IsZero() {
			next.Set("since", in.Since.Format(time.RFC3339Nano))
		}
		p.Link = "<" + apiRoot + "/dead?" + next.Encode() + `>; rel="next"`
	}
	return p, nil
}

func (b *Bridge) getDead(ctx context.Context, in *deadInput) (*answer[*event.DeadLetter], error) {
	letter, err := fromBus(ctx, b, func(ctx context.Context) (*event.DeadLetter, error) { return b.cfg.Bus.DeadLetter(ctx, in.Seq) })
	return answerWith(letter), err
}

func (b *Bridge) deleteDead(ctx context.Context, in *deadInput) (*answer[deadDeleted], error) {
	return fromBus(ctx, b, func(ctx context.Context) (*answer[deadDeleted], error) {
		return answerWith(deadDeleted{Seq: in.Seq, Deleted: true}), b.cfg.Bus.DeleteDead(ctx, in.Seq)
	})
}

func (b *Bridge) replayDead(ctx context.Context, in *replayInput) (*answer[*event.Replayed], error) {
	var body []byte
	if in.Body != nil {
		body = in.Body.Body
	}
	done, err := fromBus(ctx, b, func(ctx context.Context) (*event.Replayed, error) { return b.cfg.Bus.ReplayDead(ctx, in.Seq, body) })
	return answerWith(done), err
}

// fromBus asks NATS within the time of a call. An error that is no refusal means that it does not answer.
func fromBus[T any](ctx context.Context, b *Bridge, ask func(ctx context.Context) (T, error)) (T, error) {
	var none T
	if !b.cfg.Bus.Connected() {
		return none, errBusDown
	}
	limited, cancel := context.WithTimeout(ctx, b.cfg.CallTimeout)
	defer cancel()
	v, err := ask(limited)
	var refusal *event.Error
	if err != nil && ctx.Err() == nil && !errors.As(err, &refusal) {
		return v, errors.Join(errBusDown, err)
	}
	return v, err
}
