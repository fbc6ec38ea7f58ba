// Command bench measures Ops-Core on this machine and prints each figure beside a raw baseline of the same run. The server and NATS run in
// processes of their own (this program started again), Redis with AOF everysec comes from PATH, the agents and the clients are in this
// process. Run it with: go tool -modfile=tools/go.mod task bench
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
)

// Figure is one measured value and what it is to be compared with.
type Figure struct {
	Name     string  `json:"name"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Ratio    float64 `json:"ratio,omitzero"`    // of the raw baseline of the same run
	Baseline string  `json:"baseline,omitzero"` // what the baseline is
	Goal     string  `json:"goal,omitzero"`
	Note     string  `json:"note,omitzero"`
}

// benchmarks in the order they run.
var benchmarks = []struct {
	name string
	run  func(context.Context, *lab) ([]Figure, error)
}{
	{"dev", benchDev},
	{"state", benchState},
	{"runs", benchRuns},
	{"latency", benchLatency},
	{"memory", benchMemory},
	{"http", benchHTTP},
}

func main() {
	if child() {
		return
	}
	server.TuneMemory() // as the servers do
	only := flag.String("only", "", "run these, separated by commas: dev, state, runs, latency, memory, http")
	asJSON := flag.Bool("json", false, "print one JSON object")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	figures, err := runAll(ctx, *only)
	if *asJSON {
		fmt.Printf("%s\n", event.MustMarshal(map[string]any{"figures": figures}))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if !*asJSON {
		printFigures(figures)
	}
}

func runAll(ctx context.Context, only string) ([]Figure, error) {
	var figures []Figure
	for _, b := range benchmarks {
		if only != "" && !slices.Contains(strings.Split(only, ","), b.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", b.name)
		begin := time.Now()
		l, err := newLab(ctx)
		if err != nil {
			return figures, err
		}
		got, err := b.run(ctx, l)
		l.close()
		if err != nil {
			return figures, fmt.Errorf("%s: %w", b.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %.1f s\n", b.name, time.Since(begin).Seconds())
		figures = append(figures, got...)
	}
	return figures, nil
}

func printFigures(figures []Figure) {
	for _, f := range figures {
		line := fmt.Sprintf("%-46s %12.2f %-6s", f.Name, f.Value, f.Unit)
		if f.Ratio > 0 {
			line += fmt.Sprintf("  %5.1f %% of %s", 100*f.Ratio, f.Baseline)
		}
		if f.Goal != "" {
			line += "  goal: " + f.Goal
		}
		if f.Note != "" {
			line += "  (" + f.Note + ")"
		}
		fmt.Println(line)
	}
}
