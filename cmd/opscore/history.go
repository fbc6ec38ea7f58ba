package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

// agentEntry is one entry of an agent's history.
type agentEntry struct {
	Seq       uint64         `json:"seq"`
	At        time.Time      `json:"at"`
	Event     string         `json:"event"`
	State     string         `json:"state,omitzero"`
	Timestamp string         `json:"timestamp,omitzero"`
	Details   event.Raw      `json:"details,omitzero"`
	Instance  string         `json:"instance,omitzero"`
	Reason    string         `json:"reason,omitzero"`
	Liveness  event.Liveness `json:"liveness,omitzero"`
}

func newAgentHistory(a *app) *cobra.Command {
	var since time.Duration
	var limit int
	cmd := &cobra.Command{
		Use:               "history ID",
		Short:             "Show what an agent has said, and when it was thought lost, oldest first",
		Args:              one("an agent"),
		ValidArgsFunction: onlyArgument(a.completeAgents()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			if since < 0 || limit < 0 {
				return usagef("--since and --limit must not be negative")
			}
			query := url.Values{}
			if since > 0 {
				query.Set("since", time.Now().Add(-since).UTC().Format(time.RFC3339))
			}
			if limit > 0 {
				query.Set("limit", strconv.Itoa(min(limit, 500)))
			}
			get := request{method: http.MethodGet, path: apiRoute("agents", args[0], "history"), query: query}
			list, err := send[event.List[agentEntry]](ctx, c, get)
			if err != nil {
				return err
			}
			return a.print(list, func(p *sheet) {
				rows := make([][]cell, len(list.Items))
				for i := range list.Items {
					rows[i] = list.Items[i].row(p.style)
				}
				p.rows(newTable("WHEN", "EVENT", "STATE", "INSTANCE", "DETAILS"), rows, true)
			})
		}),
	}
	cmd.Flags().DurationVar(&since, "since", 0, "only the last `time`, for example 1h")
	cmd.Flags().IntVar(&limit, "limit", 0, "only the newest so many (default: all that are kept)")
	return cmd
}

func (e *agentEntry) row(s style) []cell {
	state := text(e.State)
	if e.Liveness != "" {
		state = liveness(e.Liveness)
	}
	details := e.Reason
	if details == "" {
		details = compact(e.Details)
	}
	return []cell{s.time(e.At), text(e.Event), state, text(e.Instance), text(details)}
}

func newRunHistory(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "history RUN",
		Short: "Show every change of the state of a run and its tasks, with its cause, oldest first",
		Args:  one("a run"),

		ValidArgsFunction: onlyArgument(a.completeRuns()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			h, err := send[event.RunHistory](ctx, c, request{method: http.MethodGet, path: apiRoute("runs", args[0], "history")})
			if err != nil {
				return err
			}
			return a.print(h, func(p *sheet) { showRunHistory(p, &h) })
		}),
	}
}

func showRunHistory(p *sheet, h *event.RunHistory) {
	if h.Dropped > 0 {
		p.line(text(fmt.Sprintf("%d changes before these are no longer kept", h.Dropped)).in(colorWarn))
	}
	rows := make([][]cell, len(h.Items))
	for i := range h.Items {
		t := &h.Items[i]
		task, attempt := t.TaskID, ""
		if task == "" {
			task = "(run)"
		}
		if t.Attempt > 0 {
			attempt = strconv.Itoa(t.Attempt)
		}
		why := t.Code
		if t.Message != "" {
			why += ": " + t.Message
		}
		rows[i] = []cell{text(t.At.UTC().Format("2006-01-02T15:04:05.000Z")), text(task), state(t.To), text(t.Cause), text(attempt), text(t.AgentID), text(why)}
	}
	p.rows(newTable("WHEN", "TASK", "STATE", "CAUSE", "ATTEMPT", "AGENT", "ERROR"), rows, true)
}
