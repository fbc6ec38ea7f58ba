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
	var only []string
	var output string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure Ops-Core on this machine, beside raw baselines of the same run",
		Long: `bench starts NATS, Redis and Ops-Core anew for each benchmark and measures how much they do. What depends on the machine stands beside a raw
baseline that was measured with the same servers a moment before: compare ratios, not figures, with those of other machines.`,
		Example: "  loadgen bench\n  loadgen bench --only runs,latency -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usagef("--output is table or json, not %q", output)
			}
			started := time.Now()
			figures, err := bench.Run(cmd.Context(), only, a.stderr)
			if output == "json" {
				r := bench.Report{StartedAt: started.UTC(), Machine: loadgen.ThisMachine(), Commit: commit(), Figures: figures}
				_, printed := fmt.Fprintf(a.stdout, "%s\n", event.MustMarshal(&r))
				return errors.Join(err, printed)
			}
			return errors.Join(err, bench.Print(a.stdout, figures))
		},
	}
	cmd.Flags().StringSliceVar(&only, "only", nil, "run `these`: "+strings.Join(bench.Names(), ", "))
	cmd.Flags().StringVarP(&output, "output", "o", "table", "what to print: table or json")
	return cmd
}
