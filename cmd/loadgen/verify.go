package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/loadgen/report"
)

// What verify runs: everything that a server does, for a short while.
const (
	verifyScenario = "soak"
	verifyUsers    = 100
	verifyTime     = 15 * time.Second
	verifySeed     = 1 // the same users each time, so that two runs can be compared
	verifyWorse    = 25.0
)

// newVerifyCommand builds the command that says whether this build is good.
func newVerifyCommand(a *app) *cobra.Command {
	f := &runFlags{
		fresh: true, transport: loadgen.TransportHTTP, users: verifyUsers, spawnRate: verifyUsers, timeScale: 1, runTime: seconds(verifyTime),
		seed: verifySeed, seedSet: true, headless: true,
	}
	var baseline string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Reset, a short run, a verdict: is everything in order?",
		Long: `verify starts NATS, Redis and Ops-Core empty, lets agents report, read, start runs and work on them for 15 s, and says whether anything failed, was
lost, doubled or got stuck. With --baseline it also compares the run with an earlier one, which --out has kept as result.json.

It exits with 1 if the verdict is bad, the ledger is not clean, or something became worse than the baseline by more than ` + fmt.Sprint(verifyWorse) + ` % beyond noise.`,
		Example: "  loadgen verify --out before\n  loadgen verify --baseline before/result.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.verify(cmd.Context(), f, baseline)
		},
	}
	cmd.Flags().StringVar(&baseline, "baseline", "", "the `file` of an earlier result to compare with")
	cmd.Flags().StringVar(&f.out, "out", "", "keep report, JSON, CSV and all logs in this `folder`")
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "what to print: table or json")
	return cmd
}

func (a *app) verify(ctx context.Context, f *runFlags, baseline string) error {
	var before *loadgen.Result
	if baseline != "" {
		var err error
		if before, err = readResult(baseline); err != nil {
			return err
		}
	}
	r, err := a.runAndWrite(ctx, f, verifyScenario)
	if r == nil || before == nil {
		return err
	}
	c := report.Compare(before, r)
	if perr := c.Text(a.stderr, isTerminal(a.stderr) && a.getenv("NO_COLOR") == ""); perr != nil {
		return errors.Join(err, perr)
	}
	if worse := c.Worse(verifyWorse); err == nil && len(worse) > 0 {
		return &codeError{code: exitBad, text: regression(worse)}
	}
	return err
}
