package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/cmd/loadgen/poison"
)

// newPoisonCommand builds the command that proves that bad messages harm no good ones.
func newPoisonCommand(a *app) *cobra.Command {
	cfg := poison.Config{Log: a.log}
	var output string
	cmd := &cobra.Command{
		Use:   "poison",
		Short: "Mix messages that can never be handled among good ones, and prove that each leaves one dead letter and harms nothing",
		Long: `poison starts NATS, Redis and replicas of Ops-Core, and sends messages that are malformed, forged, stale, too large or about nothing among good ones, at
random places. Then the dead letters are compared with what was sent, and the ledger of the good messages is audited. The exit code is 0 only if every bad
message has one dead letter with the right reason, no good one has, and nothing was lost or doubled.`,
		Example: "  loadgen poison\n  loadgen poison --good 1000000 --poison 5000 --replicas 3 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				cfg.Seed = rand.Uint64() >> 12
			}
			switch {
			case output != "table" && output != "json":
				return usagef("--output: %q is not table or json", output)
			case cfg.Good < 1000 || cfg.Poison < 1:
				return usagef("--good and --poison: at least 1000 and 1")
			case cfg.Replicas < 1 || cfg.Replicas > 20:
				return usagef("--replicas: %d is not 1 to 20", cfg.Replicas)
			}
			return a.runPoison(cmd.Context(), cfg, output)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&cfg.Good, "good", 100_000, "`number` of messages that are in order")
	flags.IntVar(&cfg.Poison, "poison", 500, "`number` of messages that can never be handled")
	flags.IntVar(&cfg.Replicas, "replicas", 2, "`number` of replicas of Ops-Core")
	flags.Uint64Var(&cfg.Seed, "seed", 0, "the same seed gives the same messages (default: a new one, which is printed)")
	flags.StringVarP(&output, "output", "o", "table", "what to print at the end: table or json")
	return cmd
}

func (a *app) runPoison(ctx context.Context, cfg poison.Config, output string) error {
	fmt.Fprintf(a.stderr, "seed %d: %d poisonous among %d good messages, %d replicas\n", cfg.Seed, cfg.Poison, cfg.Good, cfg.Replicas)
	cfg.Progress = func(sent, of int) { fmt.Fprintf(a.stderr, "%d of %d sent\n", sent, of) }
	r, err := poison.Run(ctx, cfg)
	if err != nil {
		return err
	}
	if output == "json" {
		err = json.MarshalWrite(a.stdout, r, json.Deterministic(true), jsontext.WithIndent("  "))
	} else {
		err = printPoison(a.stdout, r)
	}
	if err != nil {
		return err
	}
	if !r.OK() {
		return &codeError{code: exitBad}
	}
	return nil
}

// printPoison prints a result for people.
func printPoison(w io.Writer, r *poison.Result) error {
	_, err := fmt.Fprintf(w, "%d good and %d poisonous messages sent in %.1f s, settled after %.1f s more\n"+
		"%d dead letters: %d missing, %d doubled, %d with a wrong reason, %d of good messages\n"+
		"good: %d acknowledged, %d stored, %d lost, %d doubled, %d out of order, %d stuck\n",
		r.Good, r.Poison, r.Seconds, r.Settled, r.Letters, len(r.Missing), len(r.Doubled), len(r.Wrong), len(r.Foreign),
		r.Ledger.Acked, r.Ledger.Stored, r.Ledger.Lost, r.Ledger.Doubled, r.Ledger.OutOfOrder, r.Ledger.Stuck)
	for _, list := range [][]string{r.Missing, r.Doubled, r.Wrong, r.Foreign} {
		for _, text := range list {
			if err == nil {
				_, err = fmt.Fprintln(w, "  "+text)
			}
		}
	}
	for _, f := range r.Ledger.Findings {
		if err == nil {
			_, err = fmt.Fprintln(w, "  "+f.Kind+": "+f.Text)
		}
	}
	return err
}
