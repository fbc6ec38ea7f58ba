package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/cmd/loadgen/vigil"
)

// vigilFlags are the flags that kill-agents and outage share.
type vigilFlags struct {
	cfg    vigil.Config
	length seconds
	output string
}

func (f *vigilFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&f.cfg.Agents, "agents", 500, "`number` of agents, which beat each second and hold a task each")
	flags.IntVar(&f.cfg.Replicas, "replicas", 1, "`number` of replicas of Ops-Core")
	flags.StringVar(&f.cfg.Dir, "out", "", "keep data and logs in this `folder`, a new one")
	flags.StringVarP(&f.output, "output", "o", "table", "what to print at the end: table or json")
}

func (f *vigilFlags) check() error {
	switch {
	case f.output != "table" && f.output != "json":
		return usagef("--output: %q is not table or json", f.output)
	case f.cfg.Agents < 2 || f.cfg.Agents > 1000:
		return usagef("--agents: %d is not 2 to 1000", f.cfg.Agents)
	case f.cfg.Replicas < 1 || f.cfg.Replicas > 20:
		return usagef("--replicas: %d is not 1 to 20", f.cfg.Replicas)
	}
	return nil
}

// newKillAgentsCommand builds the command that measures how soon the death of agents is noticed.
func newKillAgentsCommand(a *app) *cobra.Command {
	f := &vigilFlags{}
	cmd := &cobra.Command{
		Use:   "kill-agents",
		Short: "Kill agents without a word and measure how soon their work is elsewhere",
		Long: fmt.Sprintf(`kill-agents starts NATS, Redis and Ops-Core and a fleet of agents that beat each second and hold a task each. It cuts the connections of some at one
moment and measures when each is out of rotation and when its task has begun on another agent. The exit code is 0 only if the 99th percentiles are at most %v
and %v, no other agent was called lost, every run ended and the ledger is clean.`, vigil.MaxOut, vigil.MaxMoved),
		Example: "  loadgen kill-agents --agents 500 --kill 50 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.cfg.Kill < 1 || f.cfg.Kill > f.cfg.Agents/2 {
				return usagef("--kill: %d is not 1 to half of the agents", f.cfg.Kill)
			}
			return a.vigil(cmd.Context(), f, vigil.Kill)
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&f.cfg.Kill, "kill", 50, "`number` of agents to kill")
	return cmd
}

// newOutageCommand builds the command that proves that an outage of the servers is not taken for the silence of agents.
func newOutageCommand(a *app) *cobra.Command {
	f := &vigilFlags{length: seconds(time.Minute)}
	targets := []string{"engine", "nats", "redis"}
	cmd := &cobra.Command{
		Use:   "outage",
		Short: "Stop a server for a while under beating agents: none may be called lost",
		Long: fmt.Sprintf(`outage starts NATS, Redis and Ops-Core and a fleet of agents that beat each second and hold a task each, and starts ten short runs a second beside them. It
stops one of the servers for a while and lets it go on, and says how soon all were ready again, the first start was committed and the first task began. The exit
code is 0 only if that took %v at most, no agent was called lost and no task moved, before or after, every run ended and the ledger is clean.`, vigil.MaxResume),
		Example: "  loadgen outage --target nats --for 60s\n  loadgen outage --target redis --how kill --for 60s -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.cfg.For = time.Duration(f.length)
			switch {
			case !slices.Contains(targets, f.cfg.Target):
				return usagef("--target: %q is not engine, nats or redis", f.cfg.Target)
			case f.cfg.How != vigil.HowFreeze && f.cfg.How != vigil.HowKill:
				return usagef("--how: %q is not freeze or kill", f.cfg.How)
			case f.cfg.For < time.Second:
				return usagef("--for: it takes a second at least")
			}
			return a.vigil(cmd.Context(), f, vigil.Outage)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.cfg.Target, "target", "", "which `server` is stopped: engine, nats or redis")
	cmd.Flags().Var(&f.length, "for", "how long")
	cmd.Flags().StringVar(&f.cfg.How, "how", vigil.HowFreeze, "freeze: SIGSTOP and SIGCONT; kill: SIGKILL and a new start")
	return cmd
}

// vigil does one of the two and writes what was seen.
func (a *app) vigil(ctx context.Context, f *vigilFlags, do func(context.Context, vigil.Config) (*vigil.Result, error)) error {
	if err := f.check(); err != nil {
		return err
	}
	f.cfg.Log = a.log
	fmt.Fprintf(a.stderr, "starting NATS, Redis, Ops-Core and %d agents\n", f.cfg.Agents)
	r, err := do(ctx, f.cfg)
	if err != nil {
		return err
	}
	if f.output == "json" {
		err = json.MarshalWrite(a.stdout, r, json.Deterministic(true), jsontext.WithIndent("  "))
	} else {
		err = writeVigil(a.stdout, r)
	}
	if err == nil && !r.Verdict.OK {
		err = &codeError{code: exitBad}
	}
	return err
}

func writeVigil(w io.Writer, r *vigil.Result) error {
	for _, line := range r.Verdict.Lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	for _, found := range r.Ledger.Findings {
		fmt.Fprintf(w, "%s: %s\n", found.Kind, found.Text)
	}
	l := r.Ledger
	_, err := fmt.Fprintf(w, "ledger: %d acknowledged, %d stored, %d lost, %d doubled, %d stuck, %d over slot\n", l.Acked, l.Stored, l.Lost, l.Doubled, l.Stuck, l.OverSlot)
	return err
}
