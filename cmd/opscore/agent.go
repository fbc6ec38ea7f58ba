package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

// newAgentCommand makes "opscore agent".
func newAgentCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "agent",
		Aliases: []string{"agents"},
		Short:   "Show the agents of the fleet, and take them out of work and back",
	})
	cmd.AddCommand(newAgentList(a), newAgentGet(a), newAgentHistory(a))
	cmd.AddCommand(newAgentCordon(a), newAgentUncordon(a), newAgentDrain(a), newAgentExplain(a))
	return cmd
}

func newAgentList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the agents: their state, and whether they can take a task",
		Args:  none,
		RunE: a.call(func(ctx context.Context, c *client, _ []string) error {
			return printList(a, pages[event.Agent](ctx, c, apiRoute("agents")), agentHead, agentRow)
		}),
	}
}

func newAgentGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "get ID",
		Short:             "Show an agent: what it is, what it does, and why it takes no task",
		Args:              one("an agent"),
		ValidArgsFunction: onlyArgument(a.completeAgents()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			agent, err := send[event.Agent](ctx, c, request{method: http.MethodGet, path: apiRoute("agents", args[0])})
			if err != nil {
				return err
			}
			return a.print(agent, func(p *sheet) { showAgent(p, &agent) })
		}),
	}
}

// agentHead is the head of the list of agents.
var agentHead = []string{"AGENT", "STATE", "LIVENESS", "SLOTS", "AVAILABLE", "REPORTED", "CAPABILITIES"}

// agentRow is a row of the list of agents.
func agentRow(s style, g event.Agent) []cell {
	return []cell{
		text(g.AgentID), text(g.State), liveness(g.Liveness), slots(&g), available(&g), s.time(g.StateAt), text(strings.Join(g.Capabilities, ",")),
	}
}

// showAgent shows all there is to say of an agent.
func showAgent(p *sheet, g *event.Agent) {
	p.field("Agent", text(g.AgentID))
	p.optional("Name", g.AgentName)
	p.optional("Version", g.Version)
	p.field("State", text(g.State))
	p.field("Reported", p.time(g.StateAt))
	p.field("Liveness", liveness(g.Liveness))
	p.field("Available", available(g))
	if g.Cordoned {
		p.field(cordonWord(g), text(cordonText(p.style, g)).in(colorWarn))
	}
	p.optional("Breaker", g.Breaker)
	p.field("Slots", text(fmt.Sprintf("%d of %d in use", len(g.Held), g.Slots)))
	for _, h := range g.Held {
		p.field("Works on", text(fmt.Sprintf("task %s of run %s, attempt %d", h.TaskID, h.RunID, h.Attempt)))
	}
	p.optional("Capabilities", strings.Join(g.Capabilities, ", "))
	for _, c := range slices.Sorted(maps.Keys(g.CapabilitySchemas)) {
		if s := g.CapabilitySchemas[c]; s.Input != nil {
			p.field("Takes", text(c+": "+string(s.Input)))
		}
		if s := g.CapabilitySchemas[c]; s.Output != nil {
			p.field("Gives", text(c+": "+string(s.Output)))
		}
	}
	p.optional("Labels", pairs(g.Labels))
	p.optional("Delivery", string(g.Delivery))
	p.optional("Endpoint", g.ContactEndpoint)
	p.optional("Instance", g.Instance)
	p.field("Registered", p.time(g.RegisteredAt))
	p.optional("Metadata", compact(g.Metadata))
	p.optional("Details", compact(g.Details))
}

// slots shows how many slots of an agent are in use.
func slots(g *event.Agent) cell { return text(fmt.Sprintf("%d/%d", len(g.Held), g.Slots)) }

// available says whether an agent can take a task, and if not, why.
func available(g *event.Agent) cell {
	switch {
	case g.Available:
		return text("yes").in(colorGood)
	case g.Unavailable != "":
		return text("no: " + g.Unavailable).in(colorWarn)
	case g.Cordoned:
		return text("no: it is cordoned").in(colorWarn)
	}
	return text("no").in(colorWarn)
}

// liveness shows what is known of an agent's heartbeat.
func liveness(l event.Liveness) cell {
	c := text(string(l))
	switch l {
	case event.LivenessLive:
		return c.in(colorGood)
	case event.LivenessSuspect:
		return c.in(colorWarn)
	case event.LivenessLost:
		return c.in(colorBad)
	case event.LivenessUnwatched:
		return c.in(colorFaint)
	}
	return c
}

// pairs shows labels as k=v in a fixed order.
func pairs(labels map[string]string) string {
	list := make([]string, 0, len(labels))
	for k, v := range labels {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

// compact shows a JSON value in one line, and nothing for null and empty ones.
func compact(raw event.Raw) string {
	raw = raw.Clone()
	if err := raw.Compact(); err != nil {
		return ""
	}
	switch s := string(raw); s {
	case "null", "{}", "[]", `""`:
		return ""
	default:
		return s
	}
}
