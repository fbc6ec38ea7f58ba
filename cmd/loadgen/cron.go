package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/cmd/loadgen/cron"
	"github.com/opspawn/opscore/loadgen"
)

// newCronCommand builds the command that proves the ticks of schedules.
func newCronCommand(a *app) *cobra.Command {
	cfg := cron.Config{Log: a.log}
	runTime, every := seconds(time.Minute), seconds(time.Second)
	var kills, output string
	cmd := &cobra.Command{
		Use:   "cron",
		Short: "Kill replicas while a schedule ticks, and prove that every tick was kept once",
		Long: `cron starts NATS, Redis and replicas of Ops-Core, lets a schedule tick, and kills replicas by a plan that follows from its seed. Then the runs are compared
with the clock. The exit code is 0 only if every tick has one run.`,
		Example: "  loadgen cron -t 60s --kill engine:20 --replicas 2",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				cfg.Seed = rand.Uint64() >> 12
			}
			cfg.Time, cfg.Every = time.Duration(runTime), time.Duration(every)
			switch {
			case output != "table" && output != "json":
				return usagef("--output: %q is not table or json", output)
			case cfg.Every < time.Second || cfg.Every%time.Second != 0:
				return usagef("--every: a whole number of seconds")
			case cfg.Time < 5*cfg.Every:
				return usagef("--run-time: five ticks at least")
			case cfg.Replicas < 1 || cfg.Replicas > 20:
				return usagef("--replicas: %d is not 1 to 20", cfg.Replicas)
			}
			var err error
			if cfg.Wishes, err = loadgen.ParseWishes(loadgen.FaultKill, kills); err != nil {
				return usagef("--kill: %v", err)
			}
			return a.runCron(cmd.Context(), cfg, output)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.VarP(&runTime, "run-time", "t", "how long the schedule ticks")
	flags.Var(&every, "every", "time between two ticks")
	flags.StringVar(&kills, "kill", "", "kill -9 so many times, as `TARGET:COUNT,…` of engine, nats and redis")
	flags.IntVar(&cfg.Replicas, "replicas", 2, "`number` of replicas of Ops-Core")
	flags.Uint64Var(&cfg.Seed, "seed", 0, "the same seed and flags give the same plan (default: a new one, which is printed)")
	flags.StringVarP(&output, "output", "o", "table", "what to print at the end: table or json")
	return cmd
}

func (a *app) runCron(ctx context.Context, cfg cron.Config, output string) error {
	fmt.Fprintf(a.stderr, "seed %d: a tick each %v for %v on %d replicas\n", cfg.Seed, cfg.Every, cfg.Time, cfg.Replicas)
	cfg.Struck = func(text string) { fmt.Fprintln(a.stderr, text) }
	r, err := cron.Run(ctx, cfg)
	if err != nil {
		return err
	}
	if output == "json" {
		err = json.MarshalWrite(a.stdout, r, json.Deterministic(true), jsontext.WithIndent("  "))
	} else {
		_, err = fmt.Fprintf(a.stdout, "%d kills, %d ticks, %d runs, %d missed, %d extra; late %.0f ms p50, %.0f ms p99, %.0f ms at most\n",
			r.Kills, r.Ticks, r.Runs, len(r.Missed), len(r.Extra), r.LateP50, r.LateP99, r.LateMax)
	}
	if err != nil {
		return err
	}
	if !r.OK() {
		return &codeError{code: exitBad}
	}
	return nil
}
