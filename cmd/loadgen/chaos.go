package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/cmd/loadgen/chaos"
	"github.com/opspawn/opscore/loadgen"
)

// chaosFlags are the flags of chaos.
type chaosFlags struct {
	runTime     seconds
	wishes      map[string]*string // by kind
	crashPoints int
	replicas    int
	seed        uint64
	rate        float64
	examples    bool
	html        string
	out         string
	output      string
	planOnly    bool
}

// newChaosCommand builds the command that breaks servers on purpose.
func newChaosCommand(a *app) *cobra.Command {
	f := &chaosFlags{runTime: seconds(time.Minute), wishes: make(map[string]*string)}
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Break the servers on purpose under load and prove that nothing was lost",
		Long: `chaos starts NATS, Redis and replicas of Ops-Core, gives them work, and kills, freezes and cuts them off by a plan that follows from its seed.
Afterwards it waits until everything has recovered and compares what was acknowledged with what a separate reader finds. The exit code is 0 only if nothing
was lost, doubled, out of order, stuck or over its slots, and everything had ended within 15 seconds.`,
		Example: "  loadgen chaos -t 60s --kill engine:20,nats:5,redis:5 --replicas 3\n" +
			"  loadgen chaos -t 60s --freeze engine:4 --cut nats:3,redis:3 --drop-replies redis:3 --crash-points 5 --seed 7\n" +
			"  loadgen chaos -t 60s --examples --kill engine:20,nats:5,redis:5",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				f.seed = rand.Uint64() >> 12 // short enough to be typed, and exact in JSON
			}
			return a.runChaos(cmd.Context(), f)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.VarP(&f.runTime, "run-time", "t", "how long the load and the faults go on")
	for _, k := range []struct{ kind, help string }{
		{loadgen.FaultKill, "kill -9 so many times, as `TARGET:COUNT,…` of engine, nats and redis"},
		{loadgen.FaultFreeze, "stop for up to 4 s, as `TARGET:COUNT,…` of engine, nats and redis"},
		{loadgen.FaultCut, "close connections, or leave them half open for up to 3 s, as `TARGET:COUNT,…` of nats and redis"},
		{loadgen.FaultDropReplies, "lose up to 3 replies, as `TARGET:COUNT,…` of nats and redis"},
		{loadgen.FaultOlderAOF, "bring Redis back as it was up to 3 s before, as `redis:COUNT`"},
	} {
		f.wishes[k.kind] = flags.String(k.kind, "", k.help)
	}
	flags.IntVar(&f.crashPoints, "crash-points", 0, "let replicas end between two steps so many `times`")
	flags.IntVar(&f.replicas, "replicas", 1, "`number` of replicas of Ops-Core")
	flags.Uint64Var(&f.seed, "seed", 0, "the same seed and flags give the same plan (default: a new one, which is printed)")
	flags.Float64Var(&f.rate, "rate", 50, "runs started a second; twice as many reports of state are sent")
	flags.BoolVar(&f.examples, "examples", false, "run the example workflows, each of which must end as the file beside it says")
	flags.StringVar(&f.html, "html", "", "write a report to this `file`")
	flags.StringVar(&f.out, "out", "", "keep report, JSON and all logs in this `folder`, a new one")
	flags.StringVarP(&f.output, "output", "o", "table", "what to print at the end: table or json")
	flags.BoolVar(&f.planOnly, "plan", false, "print the plan and do nothing")
	return cmd
}

// config turns the flags into what is to be done.
func (f *chaosFlags) config() (chaos.Config, error) {
	cfg := chaos.Config{Time: time.Duration(f.runTime), Replicas: f.replicas, Seed: f.seed, Rate: f.rate, Examples: f.examples, Dir: f.out}
	switch {
	case f.output != "table" && f.output != "json":
		return cfg, usagef("--output: %q is not table or json", f.output)
	case cfg.Time < 5*time.Second:
		return cfg, usagef("--run-time: it takes 5 seconds at least")
	case f.replicas < 1 || f.replicas > 20:
		return cfg, usagef("--replicas: %d is not 1 to 20", f.replicas)
	case f.crashPoints < 0:
		return cfg, usagef("--crash-points: %d is negative", f.crashPoints)
	}
	for kind, text := range f.wishes {
		wishes, err := loadgen.ParseWishes(kind, *text)
		if err != nil {
			return cfg, usagef("--%s: %v", kind, err)
		}
		cfg.Wishes = append(cfg.Wishes, wishes...)
	}
	cfg.Wishes = append(cfg.Wishes, loadgen.Wish{Kind: loadgen.FaultCrashPoint, Target: "engine", Count: f.crashPoints})
	return cfg, nil
}

func (a *app) runChaos(ctx context.Context, f *chaosFlags) error {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	plan := loadgen.PlanFaults(cfg.Seed, cfg.Time, cfg.Replicas, cfg.Wishes)
	if f.planOnly {
		return writePlan(a.stdout, plan)
	}
	fmt.Fprintf(a.stderr, "seed %d: %d faults in %v on %d replicas\n", cfg.Seed, len(plan), cfg.Time, cfg.Replicas)
	cfg.Log = a.log
	cfg.Struck = func(s loadgen.Fault) {
		fmt.Fprintln(a.stderr, strings.TrimRight(fmt.Sprintf("%7.2f s  %-12s %-10s %s %s", s.Second, s.Kind, s.Target, s.Text, s.Error), " "))
	}
	r, err := chaos.Run(ctx, cfg)
	if err != nil {
		return err
	}
	r.Args, r.Commit = a.shownArgs(), commit()
	r.Versions["opscore"], r.Versions["nats-server"] = version(), moduleVersion("github.com/nats-io/nats-server/v2")
	r.Versions["redis-server"] = redisVersion(ctx)
	if err := a.writeChaos(f, r); err != nil {
		return err
	}
	if !r.Verdict.OK {
		fmt.Fprintf(a.stderr, "again with: loadgen %s", strings.Join(a.shownArgs(), " "))
		if !strings.Contains(strings.Join(a.shownArgs(), " "), "--seed") {
			fmt.Fprintf(a.stderr, " --seed %d", cfg.Seed)
		}
		fmt.Fprintln(a.stderr, "\nplan:")
		if err := writePlan(a.stderr, plan); err != nil {
			return err
		}
		return &codeError{code: exitBad}
	}
	return nil
}

func (a *app) writeChaos(f *chaosFlags, r *loadgen.Result) error {
	if f.html != "" {
		if err := writeReport(f.html, r); err != nil {
			return err
		}
	}
	if f.out != "" {
		err := errors.Join(writeReport(filepath.Join(f.out, "report.html"), r), writeJSON(filepath.Join(f.out, "result.json"), r))
		if err != nil {
			return err
		}
	}
	if f.output == "json" {
		return json.MarshalWrite(a.stdout, r, json.Deterministic(true), jsontext.WithIndent("  "))
	}
	return writeChaosTable(a.stdout, r)
}

// writePlan writes one line per fault.
func writePlan(w io.Writer, plan []loadgen.Strike) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range plan {
		fmt.Fprintf(t, "%.2f s\t%s\t%s\t%s\n", s.At.Seconds(), s.Kind, s.Target, s)
	}
	return t.Flush()
}

// writeChaosTable writes how many faults there were, how long requests took meanwhile, the ledger and the verdict.
func writeChaosTable(w io.Writer, r *loadgen.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	count := make(map[[2]string]int)
	var order [][2]string
	for _, f := range r.Faults {
		key := [2]string{f.Kind, f.Target}
		if count[key]++; count[key] == 1 {
			order = append(order, key)
		}
	}
	fmt.Fprintln(t, "FAULT\tTARGET\tTIMES")
	for _, key := range order {
		fmt.Fprintf(t, "%s\t%s\t%d\n", key[0], key[1], count[key])
	}
	fmt.Fprintln(t, "\nREQUEST\tCOUNT\tFAILED\tP50 ms\tP99 ms\tMAX ms")
	for _, name := range slices.Sorted(maps.Keys(r.Operations)) {
		o := r.Operations[name]
		fmt.Fprintf(t, "%s\t%d\t%d\t%.1f\t%.1f\t%.1f\n", name, o.Requests, o.Failures, o.Latency.P50, o.Latency.P99, o.Latency.Max)
	}
	l := r.Ledger
	fmt.Fprintf(t, "\nACKED\tSTORED\tLOST\tDOUBLED\tOUT OF ORDER\tSTUCK\tOVER SLOT\tUNCONFIRMED\n%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n\n",
		l.Acked, l.Stored, l.Lost, l.Doubled, l.OutOfOrder, l.Stuck, l.OverSlot, len(l.Unconfirmed))
	if err := t.Flush(); err != nil {
		return err
	}
	for _, found := range l.Findings {
		fmt.Fprintf(w, "%s: %s\n", found.Kind, found.Text)
	}
	for _, line := range r.Verdict.Lines {
		fmt.Fprintln(w, line)
	}
	return nil
}
