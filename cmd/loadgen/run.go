package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/opspawn/opscore/loadgen"
)

// defaultHost is where a server on the same machine listens.
const defaultHost = "http://127.0.0.1:8000"

// The environment variables about the target.
const (
	envURL    = "OPSCORE_URL"
	envKey    = "OPSCORE_API_KEY"
	envNATS   = "NATS_URL"
	envLocust = "LOCUST_HOST"
)

// runFlags are the flags of run, and of the commands that run a scenario as well.
type runFlags struct {
	host, natsURL, apiKey string
	fresh                 bool
	transport             string

	users     int
	spawnRate float64
	runTime   seconds
	rate      float64
	timeScale float64
	seed      uint64
	seedSet   bool

	thresholds []string
	headless   bool
	csv, html  string
	out        string
	output     string
}

// seconds is a time on the command line: as Go writes it, or a number of seconds, as Locust allows.
type seconds time.Duration

// Set reads the time.
func (s *seconds) Set(text string) error {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		*s = seconds(time.Duration(n) * time.Second)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return fmt.Errorf("it is a time like 90s, 15m or 1h30m, or a number of seconds")
	}
	*s = seconds(d)
	return nil
}

// String writes the time.
func (s *seconds) String() string { return time.Duration(*s).String() }

// Type is how help texts call the value.
func (s *seconds) Type() string { return "time" }

func (f *runFlags) register(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.StringVarP(&f.host, "host", "H", "", "`URL` of the server (default: OPSCORE_URL, LOCUST_HOST, or "+defaultHost+")")
	flags.StringVar(&f.natsURL, "nats-url", "", "`URL` of NATS, for --transport nats and for agents that work (default: NATS_URL)")
	flags.StringVar(&f.apiKey, "api-key", "", "`key` to show to the server; others can see it here, OPSCORE_API_KEY they cannot")
	flags.BoolVar(&f.fresh, "fresh", false, "start NATS, Redis and Ops-Core for this run, and stop them after it")
	flags.StringVar(&f.transport, "transport", loadgen.TransportHTTP, "what carries the requests of the users: http or nats")
	flags.IntVarP(&f.users, "users", "u", 0, "peak `number` of users (default: the scenario's)")
	flags.Float64VarP(&f.spawnRate, "spawn-rate", "r", 0, "users started a second; with --users (default: all at once)")
	flags.VarP(&f.runTime, "run-time", "t", "stop after this time, as 300, 90s or 1h30m (default: the scenario's)")
	flags.Float64Var(&f.rate, "rate", 0, "tasks a second, whatever becomes of them, instead of pauses (an open model)")
	flags.Float64Var(&f.timeScale, "time-scale", 1, "make ramps so many `times` shorter; pauses and the time at the peak stay")
	flags.Uint64Var(&f.seed, "seed", 0, "the same seed gives the same users (default: a new one, which is printed)")
	flags.StringArrayVar(&f.thresholds, "threshold", nil, "`limit` that must hold, else exit code 99: 'p(99)<20', 'POST state:p(95)<10', 'rate<0.01'")
	flags.BoolVar(&f.headless, "headless", false, "plain lines instead of a live table, also on a terminal")
	flags.StringVar(&f.csv, "csv", "", "write Locust's four CSV files, with this `prefix`")
	flags.StringVar(&f.html, "html", "", "write a report to this `file`")
	flags.StringVar(&f.out, "out", "", "keep report, JSON, CSV and all logs in this `folder`")
	flags.StringVarP(&f.output, "output", "o", "table", "what to print at the end: table or json")
}

// newRunCommand builds the command that runs a scenario.
func newRunCommand(a *app) *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run NAME|FILE",
		Short: "Run a scenario and say what became of it",
		Long: `run puts the load of a scenario on a server and says what became of it. Before any load it sends one registration, read, task and
result through; if that fails, nothing else is sent.

The scenario is one of "loadgen scenarios", or a YAML file of the same form. Latencies count from the time at which a request should
have been sent; "raw" ones from the time at which it was.`,
		Example: "  loadgen run scenario-1 --fresh --time-scale 10\n" +
			"  loadgen run scenario-3 -u 300 -r 20 -t 3m -H http://127.0.0.1:8000 --threshold 'p(99)<25' --html report.html\n" +
			"  loadgen run dispatch --fresh --rate 2000 -t 30s -o json",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return fmt.Errorf("%q needs one scenario: a name from \"loadgen scenarios\", or a file", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f.seedSet = cmd.Flags().Changed("seed")
			return a.runScenario(cmd.Context(), f, args[0])
		},
	}
	f.register(cmd.Flags())
	return cmd
}

// runScenario does what the run command says.
func (a *app) runScenario(ctx context.Context, f *runFlags, name string) error {
	_, err := a.runAndWrite(ctx, f, name)
	return err
}

// runAndWrite runs a scenario and writes its result to where the flags say. There is a result with an error too, if the run could begin.
func (a *app) runAndWrite(ctx context.Context, f *runFlags, name string) (*loadgen.Result, error) {
	cfg, err := a.runConfig(f, name)
	if err != nil {
		return nil, err
	}
	out, err := newOutputs(a, f)
	if err != nil {
		return nil, err
	}
	r, err := a.runOn(ctx, f, cfg, out)
	return r, out.finish(ctx, r, err)
}

// runOn runs a scenario on the servers that the flags name, or on fresh ones.
func (a *app) runOn(ctx context.Context, f *runFlags, cfg loadgen.Config, out *outputs) (*loadgen.Result, error) {
	cfg.Progress = out.progress
	if !f.fresh {
		return a.measure(ctx, cfg, func(*loadgen.Result, *loadgen.Evidence, error) error { return nil })
	}
	e, err := a.startEnv(ctx, f, &cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := e.Close(); err != nil {
			a.log.Warn("the servers did not stop as they should", "err", err)
		}
	}()
	return a.runFresh(ctx, e, cfg)
}

// adding adds to the result of a run, which is nil if it could not begin for the given error, and to the evidence.
type adding func(*loadgen.Result, *loadgen.Evidence, error) error

// measure runs a scenario and judges it with what add has added.
func (a *app) measure(ctx context.Context, cfg loadgen.Config, add adding) (*loadgen.Result, error) {
	r, evidence, err := runWatched(ctx, cfg)
	if r != nil {
		r.Args, r.Commit = a.shownArgs(), commit()
		r.Versions["opscore"], r.Versions["go"] = version(), runtime.Version()
	}
	if ctx.Err() == nil || r != nil {
		err = errors.Join(err, add(r, &evidence, err))
	}
	verdict, judged := judge(r, evidence, err)
	switch {
	case r != nil:
		r.Verdict = verdict
	case judged:
		writeVerdict(a.stderr, verdict)
	}
	return r, err
}

// runConfig makes the configuration of a run from flags and environment.
func (a *app) runConfig(f *runFlags, name string) (loadgen.Config, error) {
	s, err := loadScenario(name)
	if err != nil {
		return loadgen.Config{}, err
	}
	if s, err = f.apply(s); err != nil {
		return loadgen.Config{}, err
	}
	cfg := loadgen.Config{Scenario: s, Transport: f.transport, Seed: f.seed, Log: a.log}
	if !f.seedSet {
		cfg.Seed = uint64(rand.Uint32()) // short enough to be typed
	}
	for _, text := range f.thresholds {
		limit, err := loadgen.ParseLimit(text)
		if err != nil {
			return cfg, usagef("%v", err)
		}
		cfg.Limits = append(cfg.Limits, limit)
	}
	if f.output != "table" && f.output != "json" {
		return cfg, usagef("--output can be table or json, not %q", f.output)
	}
	if f.fresh && (f.host != "" || f.natsURL != "") {
		return cfg, usagef("--fresh starts its own servers; leave out --host and --nats-url")
	}
	cfg.Target = loadgen.Target{
		HTTP: strings.TrimRight(first(f.host, a.getenv(envURL), a.getenv(envLocust), defaultHost), "/"),
		NATS: first(f.natsURL, a.getenv(envNATS)),
		Key:  first(f.apiKey, a.getenv(envKey)),
	}
	return cfg, nil
}

// shownArgs returns the arguments of the program without the key.
func (a *app) shownArgs() []string {
	shown := slices.Clone(a.args)
	for i, arg := range shown {
		switch flag, _, inline := strings.Cut(arg, "="); {
		case flag != "--api-key":
		case inline:
			shown[i] = flag + "=…"
		case i+1 < len(shown):
			shown[i+1] = "…"
		}
	}
	return shown
}

// first returns the first text that is not empty.
func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// apply changes a scenario as the flags say.
func (f *runFlags) apply(s *loadgen.Scenario) (*loadgen.Scenario, error) {
	switch {
	case f.timeScale <= 0:
		return nil, usagef("--time-scale must be above 0")
	case f.spawnRate < 0 || f.users < 0 || f.rate < 0:
		return nil, usagef("--users, --spawn-rate and --rate must not be negative")
	case f.spawnRate > 0 && f.users == 0 && len(s.Stages) > 0:
		return nil, usagef("--spawn-rate needs --users: scenario %s has stages", s.Name)
	}
	c := *s
	if f.users > 0 {
		if len(c.Stages) > 0 && c.RunTime == 0 {
			c.RunTime = c.Duration()
		}
		c.Users, c.SpawnRate, c.Stages = f.users, f.spawnRate, nil
	} else if f.spawnRate > 0 {
		c.SpawnRate = f.spawnRate
	}
	if f.rate > 0 {
		c.Rate, c.Pause = f.rate, loadgen.Span{}
	}
	scaled := c.Compressed(f.timeScale)
	if f.runTime > 0 {
		scaled.RunTime = time.Duration(f.runTime)
	}
	return scaled, nil
}
