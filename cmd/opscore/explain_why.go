package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

func newRunExplain(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "explain RUN",
		Short: "Say what a run waits for, why each agent was refused, and what would let it go on",
		Example: `  opscore run explain 0199c7a0-1111-7000-8000-000000000001
  opscore run explain 0199c7a0-1111-7000-8000-000000000001 -o json`,
		Args:              one("a run"),
		ValidArgsFunction: onlyArgument(a.completeRuns()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			x, err := send[event.RunExplanation](ctx, c, request{method: http.MethodGet, path: apiRoute("runs", args[0], "explain")})
			if err != nil {
				return err
			}
			return a.print(x, func(p *sheet) { showRunExplanation(p, &x) })
		}),
	}
}

func newAgentExplain(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "explain ID",
		Short:             "Say why an agent is given nothing, and which waiting tasks it could do",
		Args:              one("an agent"),
		ValidArgsFunction: onlyArgument(a.completeAgents()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			x, err := send[event.AgentExplanation](ctx, c, request{method: http.MethodGet, path: apiRoute("agents", args[0], "explain")})
			if err != nil {
				return err
			}
			return a.print(x, func(p *sheet) { showAgentExplanation(p, &x) })
		}),
	}
}

// showRunExplanation shows what a run waits for, task by task.
func showRunExplanation(p *sheet, x *event.RunExplanation) {
	p.line(text(x.Text))
	for i := range x.Tasks {
		t := &x.Tasks[i]
		p.section("")
		p.field("Task", text(t.TaskID))
		p.field("State", state(t.State))
		if len(x.Tasks)+x.More > 1 {
			p.field("Waits", text(t.Text))
		}
		if t.Unblock != "" {
			p.field("To go on", text(t.Unblock).in(colorWarn))
		}
		switch {
		case len(t.Refused) == 0:
		case t.Agents <= len(t.Refused):
			for _, r := range t.Refused {
				p.field("Refused", text(r.AgentID+": "+r.Text))
			}
		default:
			for _, n := range t.Rules {
				p.field("Refused", text(fmt.Sprintf("%d agents: %s", n.Agents, n.Rule)))
			}
			for _, r := range t.Refused[:min(len(t.Refused), shownAgents)] {
				p.field("As in", text(r.AgentID+": "+r.Text))
			}
		}
	}
	if x.More > 0 {
		p.section("")
		p.line(text(fmt.Sprintf("%d more tasks are active.", x.More)))
	}
}

// showAgentExplanation shows why an agent is given nothing, and the queues it could serve.
func showAgentExplanation(p *sheet, x *event.AgentExplanation) {
	p.line(text(x.Text))
	if x.Unblock != "" {
		p.field("To go on", text(x.Unblock).in(colorWarn))
	}
	if len(x.Queues) > 0 {
		showQueues(p, x.Queues)
	}
	if x.Others > 0 {
		p.section("")
		p.line(text(count(x.Others, "other queue") + " for other agents."))
	}
}

func showQueues(p *sheet, queues []event.Queue) {
	rows := make([][]cell, len(queues))
	for i, q := range queues {
		rows[i] = queueRow(p.style, q)
	}
	p.section("")
	p.rows(newTable(queueHead...), rows, true)
}
