package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/loadgen/report"
)

// share is a percentage on the command line, with or without the sign.
type share float64

// Set reads the percentage.
func (s *share) Set(text string) error {
	v, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(text, "%")), 64)
	if err != nil || !(v >= 0) {
		return errors.New("it is a percentage of 0 or more, as 10%")
	}
	*s = share(v)
	return nil
}

// String writes the percentage.
func (s *share) String() string { return strconv.FormatFloat(float64(*s), 'g', -1, 64) + "%" }

// Type is how help texts call the value.
func (s *share) Type() string { return "percent" }

// newCompareCommand builds the command that compares two runs.
func newCompareCommand(a *app) *cobra.Command {
	var limit share
	var output string
	cmd := &cobra.Command{
		Use:   "compare A.json B.json",
		Short: "Say what changed from one run to another",
		Long: `compare reads two results (of --out, or of -o json) and says what became better or worse: throughput, failures, latencies, CPU and
memory, the ledger. Changes within what two runs of the same differ by are marked as noise. What is different about the runs themselves
(machine, versions, flags) is listed first.`,
		Example: "  loadgen compare before/result.json after/result.json\n  loadgen compare baseline.json now.json --fail-on-regression 10%",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("%q needs two results", cmd.CommandPath())
			}
			if output != "table" && output != "json" {
				return fmt.Errorf("--output can be table or json, not %q", output)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err := readResult(args[0])
			if err != nil {
				return err
			}
			after, err := readResult(args[1])
			if err != nil {
				return err
			}
			c := report.Compare(before, after)
			if err := a.printComparison(c, output); err != nil {
				return err
			}
			if worse := c.Worse(float64(limit)); cmd.Flags().Changed("fail-on-regression") && len(worse) > 0 {
				return &codeError{code: exitBad, text: regression(worse)}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "what to print: table or json")
	cmd.Flags().Var(&limit, "fail-on-regression", "exit with 1 if anything became worse by more than this, beyond noise")
	return cmd
}

func (a *app) printComparison(c *report.Comparison, output string) error {
	if output == "json" {
		return json.MarshalWrite(a.stdout, c, json.Deterministic(true), jsontext.WithIndent("  "))
	}
	return c.Text(a.stdout, isTerminal(a.stdout) && a.getenv("NO_COLOR") == "")
}

// regression says what became worse, in one line.
func regression(worse []report.Change) string {
	var parts []string
	for _, ch := range worse {
		parts = append(parts, ch.Of+" "+ch.What)
	}
	return "worse than before: " + strings.Join(parts, ", ")
}

// readResult reads the JSON of a run.
func readResult(name string) (*loadgen.Result, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, usagef("there is no file %s", name)
		}
		return nil, fmt.Errorf("read a result: %w", err)
	}
	var r loadgen.Result
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s is no result of loadgen: %w", name, err)
	}
	if r.Scenario == "" || len(r.Operations) == 0 {
		return nil, fmt.Errorf("%s is no result of loadgen: it names no scenario or no operations", name)
	}
	return &r, nil
}
