package main

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

const (
	commandsAtOnce = 8 // agents that are told something at the same time
	slowDrainPoll  = time.Second
)

// chosen says which agents a command is about: named ones, or all that have these labels and a version within this range.
type chosen struct {
	labels  []string
	version string
	reason  string
}

func (o *chosen) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringArrayVarP(&o.labels, "label", "l", nil, "instead of ids: all agents with the label `k=v`; may be repeated")
	flags.StringVar(&o.version, "version", "", "instead of ids: all agents with a version in this `range`, as in \"<2.1\"")
	flags.StringVar(&o.reason, "reason", "", "why, for people")
}

func newAgentCordon(a *app) *cobra.Command {
	var o chosen
	cmd := &cobra.Command{
		Use:   "cordon ID... | -l k=v | --version RANGE",
		Short: "Give agents no more tasks; they finish what they hold",
		Example: `  opscore agent cordon writer-1 writer-2 --reason "new model"
  opscore agent cordon -l pool=a`,
		ValidArgsFunction: a.completeAgents(),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			_, err := a.command(ctx, c, "cordon", args, &o, event.AgentCommand{Reason: o.reason})
			return err
		}),
	}
	o.flags(cmd)
	return cmd
}

func newAgentUncordon(a *app) *cobra.Command {
	var o chosen
	cmd := &cobra.Command{
		Use:               "uncordon ID... | -l k=v | --version RANGE",
		Aliases:           []string{"undrain"},
		Short:             "Give agents tasks again that were cordoned or drained",
		ValidArgsFunction: a.completeAgents(),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			_, err := a.command(ctx, c, "uncordon", args, &o, event.AgentCommand{Reason: o.reason})
			return err
		}),
	}
	o.flags(cmd)
	return cmd
}

func newAgentDrain(a *app) *cobra.Command {
	var o chosen
	var deadline time.Duration
	var wait bool
	cmd := &cobra.Command{
		Use:   "drain ID... | -l k=v | --version RANGE",
		Short: "Give agents no new work, and after a deadline give what they hold to others",
		Long: `Drained agents are given nothing new. Runs that an agent has worked on before, and whose next tasks must go to it, go on there.
After --deadline it is asked to stop what it still holds, and other agents are given it, without spending a retry; without a deadline that never
happens. "agent uncordon" (or undrain) undoes all of it.

With --wait the command ends when the agents hold nothing any more, or with 1 after --timeout.`,
		Example: `  opscore agent drain writer-1 --deadline 10m --wait
  opscore agent drain --version "<2" --deadline 5m`,
		ValidArgsFunction: a.completeAgents(),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			if deadline < 0 || deadline > event.MaxDrain {
				return usagef("--deadline can be 0 to %s", event.MaxDrain)
			}
			ids, err := a.command(ctx, c, "drain", args, &o, event.AgentCommand{Reason: o.reason, DeadlineSeconds: deadline.Seconds()})
			if err != nil || !wait {
				return err
			}
			return a.waitEmpty(ctx, c, ids)
		}),
	}
	o.flags(cmd)
	cmd.Flags().DurationVar(&deadline, "deadline", 0, "when what they still hold is given to others; 0: never")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until they hold nothing")
	return cmd
}

// command sends a command to the chosen agents, prints them as they are then, and returns their ids. It fails when one of them could not be told.
func (a *app) command(ctx context.Context, c *client, verb string, args []string, o *chosen, body event.AgentCommand) ([]string, error) {
	ids, err := o.agents(ctx, c, args)
	if err != nil {
		return nil, err
	}
	told := make([]event.Agent, len(ids))
	refused := make([]error, len(ids))
	var g errgroup.Group
	g.SetLimit(commandsAtOnce)
	for i, id := range ids {
		g.Go(func() error {
			told[i], refused[i] = send[event.Agent](ctx, c, request{method: http.MethodPost, path: apiRoute("agents", id, verb), body: body})
			return nil
		})
	}
	_ = g.Wait() // they say what went wrong in refused
	var first error
	failed := 0
	for i, err := range refused {
		if err != nil {
			failed++
			if first == nil {
				first = about(ids[i], err)
			}
		}
	}
	if failed > 1 {
		first = fmt.Errorf("%d of %d agents were not told; %w", failed, len(ids), first)
	}
	told = slices.DeleteFunc(told, func(g event.Agent) bool { return g.AgentID == "" })
	if len(told) > 0 {
		if err := printList(a, onePage(told), agentHead, agentRow); err != nil {
			return nil, err
		}
	}
	return ids, first
}

// about makes an error name the agent it is about, unless it does already.
func about(id string, err error) error {
	if strings.Contains(err.Error(), strconv.Quote(id)) {
		return err
	}
	return fmt.Errorf("agent %s: %w", id, err)
}

// onePage makes a list of what is there already.
func onePage[T any](items []T) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) { yield(items, nil) }
}

// agents returns the ids of the chosen agents, each once: those given, or those of the whole fleet that fit. It fails when there is none.
func (o *chosen) agents(ctx context.Context, c *client, args []string) ([]string, error) {
	labels, err := parseLabels(o.labels)
	if err != nil {
		return nil, err
	}
	within, err := lifecycle.ParseVersionRange(o.version)
	if err != nil {
		return nil, usagef("--version %q is no range of versions; write it like \">=1.2 <3\" or \"^2.1\"", o.version)
	}
	bySelector := len(labels) > 0 || o.version != ""
	switch {
	case len(args) > 0 && bySelector:
		return nil, usagef("give ids, or --label and --version, but not both")
	case slices.Contains(args, ""), len(args) == 0 && !bySelector:
		return nil, usagef("needs ids of agents, or --label or --version to choose them by")
	case len(args) > 0:
		slices.Sort(args)
		return slices.Compact(args), nil
	}
	var ids []string
	for page, err := range pages[event.Agent](ctx, c, apiRoute("agents")) {
		if err != nil {
			return nil, err
		}
		for _, g := range page {
			if hasLabels(&g, labels) && within.Holds(g.Version) {
				ids = append(ids, g.AgentID)
			}
		}
	}
	if len(ids) == 0 {
		return nil, &noneError{"no agent is chosen by this --label and --version"}
	}
	return ids, nil
}

func hasLabels(g *event.Agent, labels map[string]string) bool {
	for k, v := range labels {
		if have, ok := g.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// waitEmpty waits until agents hold nothing. An agent that is gone holds nothing.
func (a *app) waitEmpty(ctx context.Context, c *client, ids []string) error {
	for pause := firstPoll; ; pause = min(2*pause, slowDrainPoll) {
		held, busy := 0, 0
		for _, id := range ids {
			agent, err := send[event.Agent](ctx, c, request{method: http.MethodGet, path: apiRoute("agents", id)})
			if err != nil && ctx.Err() == nil && exitCode(ctx, err) != exitNotFound {
				return err
			}
			if n := len(agent.Held); n > 0 {
				held, busy = held+n, busy+1
			}
		}
		if held == 0 && ctx.Err() == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("still drained, but %d of %d agents hold %d tasks: %w", busy, len(ids), held, ctx.Err())
		}
	}
}

// cordonWord names what keeps new work from an agent.
func cordonWord(g *event.Agent) string {
	if g.Draining {
		return "Drained"
	}
	return "Cordoned"
}

// cordonText says until when and why.
func cordonText(s style, g *event.Agent) string {
	said := "yes"
	if g.Draining && !g.DrainBy.IsZero() {
		said = "what it holds is given to others at " + g.DrainBy.UTC().Format(time.RFC3339)
		if s.terminal {
			said = "what it holds is given to others in " + short(g.DrainBy.Sub(s.now))
		}
	}
	if g.CordonReason != "" {
		said += ": " + g.CordonReason
	}
	return said
}
