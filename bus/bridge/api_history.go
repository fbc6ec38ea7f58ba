package bridge

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/opspawn/opscore/bus/event"
)

// HistoryQuery returns what is kept of an agent, oldest first; see [History].
type HistoryQuery func(ctx context.Context, agent string) ([]event.Raw, error)

// History makes a HistoryQuery of a query that returns entries of any type; they are shown as their JSON.
func History[T any](read func(ctx context.Context, agent string) ([]T, error)) HistoryQuery {
	return func(ctx context.Context, agent string) ([]event.Raw, error) {
		entries, err := read(ctx, agent)
		if err != nil {
			return nil, err
		}
		shown := make([]event.Raw, len(entries))
		for i, e := range entries {
			if shown[i], err = event.Marshal(e); err != nil {
				return nil, err
			}
		}
		return shown, nil
	}
}

// historyInput says of which agent, and how much.
type historyInput struct {
	ID    string    `path:"id" doc:"Id of the agent"`
	Limit int       `query:"limit" minimum:"1" maximum:"500" default:"500" doc:"Only the newest so many"`
	Since time.Time `query:"since" doc:"Only those of this time or later"`
}

func (b *Bridge) historyRoutes(api huma.API) {
	if b.cfg.History != nil {
		handle(api, huma.Operation{
			Method: http.MethodGet, Path: "/agents/{id}/history", OperationID: "get-agent-history", Tags: []string{"agents"},
			Summary: "Show what an agent has said, and when its liveness changed, oldest first",
		}, b.agentHistory)
	}
	if b.cfg.RunHistory != nil {
		handle(api, huma.Operation{
			Method: http.MethodGet, Path: "/runs/{id}/history", OperationID: "get-run-history", Tags: []string{"runs"},
			Summary: "Show every change of the state of a run and its tasks, oldest first",
		}, b.runHistory)
	}
}

func (b *Bridge) agentHistory(ctx context.Context, in *historyInput) (*answer[event.List[event.Raw]], error) {
	entries, err := query(ctx, b, func(ctx context.Context) ([]event.Raw, error) { return b.cfg.History(ctx, in.ID) })
	if err == nil && len(entries) == 0 {
		_, err = b.agent(ctx, in.ID)
	}
	return answerWith(event.List[event.Raw]{Items: newest(entries, in.Since, in.Limit)}), err
}

// newest returns the entries of a history at or after a time, the newest limit of them.
func newest(entries []event.Raw, since time.Time, limit int) []event.Raw {
	if !since.IsZero() {
		entries = slices.DeleteFunc(entries, func(raw event.Raw) bool {
			var e struct {
				At time.Time `json:"at"`
			}
			return event.Unmarshal(raw, &e) == nil && e.At.Before(since)
		})
	}
	return entries[max(0, len(entries)-limit):]
}

func (b *Bridge) runHistory(ctx context.Context, in *runInput) (*answer[*event.RunHistory], error) {
	h, err := query(ctx, b, func(ctx context.Context) (*event.RunHistory, error) { return b.cfg.RunHistory(ctx, in.ID) })
	return answerWith(h), err
}
