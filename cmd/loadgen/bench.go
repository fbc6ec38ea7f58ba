package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/loadgen/bench"
	"github.com/opspawn/opscore/loadgen"
)

// newBenchCommand builds the command that measures.
func newBenchCommand(a *app) *cobra.Command {
	var cfg bench.Config
	var output string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure Ops-Core on this machine, beside raw baselines of the same run",
		Long: `bench starts NATS, Redis and Ops-Core anew for each benchmark and measures how much they do. What depends on the machine stands beside a raw
baseline that was measured with the same servers a moment before: compare ratios, not figures, with those of other machines.`,
		Example: "  loadgen bench\n  loadgen bench --only runs,latency -o json\n  loadgen bench --only retention --ended 1000000",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usagef("--output is table or json, not %q", output)
			}
			if cfg.Ended < 10_000 {
				return usagef("--ended: %d runs are removed before anything is measured; take 10000 or more", cfg.Ended)
			}
			started, machine := time.Now(), loadgen.WatchMachine()
			figures, err := bench.Run(cmd.Context(), cfg, a.stderr)
			if output == "json" {
				r := bench.Report{StartedAt: started.UTC(), Machine: machine(), Commit: commit(), Figures: figures}
				_, printed := fmt.Fprintf(a.stdout, "%s\n", event.MustMarshal(&r))
				return errors.Join(err, printed)
			}
			return errors.Join(err, bench.Print(a.stdout, figures))
		},
	}
	cmd.Flags().StringSliceVar(&cfg.Only, "only", nil, "run `these`: "+strings.Join(bench.Names(), ", "))
	cmd.Flags().IntVar(&cfg.Ended, "ended", 100_000, "`number` of runs that have ended long ago, for the benchmark retention")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "what to print: table or json")
	return cmd
}
