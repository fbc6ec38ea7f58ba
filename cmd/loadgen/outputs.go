package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/loadgen/report"
)

// plainEvery is the time between two lines of progress where there is no terminal.
const plainEvery = 5 * time.Second

// outputs is everything that a run is written to.
type outputs struct {
	app   *app
	flags *runFlags
	csv   *loadgen.CSV // nil: none
	live  bool         // a table that is drawn again in place, not lines
	drawn int          // lines of the table that is there now
	next  time.Duration
	fault error // the first of the CSV files
}

// newOutputs creates the files that are written during a run, so that a wrong name is said before it.
func newOutputs(a *app, f *runFlags) (*outputs, error) {
	o := &outputs{app: a, flags: f, live: !f.headless && isTerminal(a.stderr) && a.getenv("TERM") != "dumb"}
	prefix := f.csv
	if f.out != "" {
		if err := os.MkdirAll(f.out, 0o755); err != nil {
			return nil, usagef("--out: %v", err)
		}
		if prefix == "" {
			prefix = filepath.Join(f.out, "load")
		}
	}
	if prefix != "" {
		var err error
		if o.csv, err = loadgen.NewCSV(prefix); err != nil {
			return nil, usagef("%v", err)
		}
	}
	return o, nil
}

// progress shows one second of a run.
func (o *outputs) progress(s *loadgen.Snapshot) {
	if o.csv != nil && o.fault == nil {
		o.fault = o.csv.Add(s)
	}
	switch {
	case o.live:
		o.draw(s)
	case s.Elapsed >= o.next:
		o.next += plainEvery
		fmt.Fprintln(o.app.stderr, s.Line())
	}
}

// draw writes the table over the one before.
func (o *outputs) draw(s *loadgen.Snapshot) {
	var b strings.Builder
	if o.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", o.drawn) // up, and clear what is below
	}
	o.drawn, _ = s.WriteTable(&b) // a builder does not fail
	fmt.Fprint(o.app.stderr, b.String())
}

// finish writes what there is to write of a run that gave a result or an error, or both, and returns the error that says how the program
// ends.
func (o *outputs) finish(ctx context.Context, r *loadgen.Result, err error) error {
	if o.drawn > 0 {
		fmt.Fprintf(o.app.stderr, "\x1b[%dA\x1b[J", o.drawn) // the table of the result takes its place
	}
	errs := []error{o.fault}
	if o.csv != nil {
		errs = append(errs, o.csv.Close(r))
	}
	if r != nil {
		errs = append(errs, o.files(r), o.print(r))
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	return outcome(ctx, r)
}

// outcome returns how the program ends after a run that was written in full.
func outcome(ctx context.Context, r *loadgen.Result) error {
	for _, t := range r.Thresholds {
		if !t.Held {
			return &codeError{code: exitThreshold, text: "threshold crossed: " + t.Text}
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Canceled
	case r.Ledger != nil && !r.Ledger.Clean(), !r.Verdict.OK:
		return &codeError{code: exitBad}
	}
	return nil
}

// print writes the result to stdout.
func (o *outputs) print(r *loadgen.Result) error {
	if o.flags.output == "json" {
		return json.MarshalWrite(o.app.stdout, r, json.Deterministic(true), jsontext.WithIndent("  "))
	}
	return report.Text(o.app.stdout, r, isTerminal(o.app.stdout) && o.app.getenv("NO_COLOR") == "")
}

// writeVerdict writes a verdict for people.
func writeVerdict(w io.Writer, v loadgen.Verdict) error {
	var b strings.Builder
	for _, line := range v.Lines {
		b.WriteString(line + "\n")
	}
	if v.Cause != "" {
		b.WriteString("\nLikely cause: " + v.Cause + "\n")
	}
	for _, line := range v.Logs {
		b.WriteString("  " + line + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// files writes the report and what else belongs into the folder of --out.
func (o *outputs) files(r *loadgen.Result) error {
	var errs []error
	if o.flags.html != "" {
		errs = append(errs, writeReport(o.flags.html, r))
	}
	if o.flags.out != "" {
		errs = append(errs, writeReport(filepath.Join(o.flags.out, "report.html"), r), writeJSON(filepath.Join(o.flags.out, "result.json"), r))
	}
	return errors.Join(errs...)
}

func writeReport(name string, r *loadgen.Result) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return errors.Join(report.HTML(f, r), f.Close())
}

func writeJSON(name string, r *loadgen.Result) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return errors.Join(json.MarshalWrite(f, r, json.Deterministic(true), jsontext.WithIndent("  ")), f.Close())
}
