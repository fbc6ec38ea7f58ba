package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/loadgen"
)

// warmUp is how long it takes at the beginning of a step until all users are there.
const warmUp = 5 * time.Second

// limitSearch is the flags of find-limit.
type limitSearch struct {
	run      runFlags
	scenario string
	p99      float64 // ms
	failures float64 // share
	step     seconds
	most     float64
}

// newFindLimitCommand builds the command that finds out how much a server can take.
func newFindLimitCommand(a *app) *cobra.Command {
	l := &limitSearch{run: runFlags{transport: loadgen.TransportHTTP, timeScale: 1, headless: true}, step: seconds(10 * time.Second)}
	cmd := &cobra.Command{
		Use:   "find-limit [SCENARIO]",
		Short: "Raise the rate step by step until the server cannot follow, and say where that was",
		Long: `find-limit sends the requests of a scenario (scenario-3 unless it is told otherwise) at a fixed rate, whatever becomes of them, and raises it by a
half from step to step until the 99th percentile or the share of failures crosses its limit, or the server does not keep up. Then it
halves the gap to the last good rate a few times. The highest good rate is the limit. Users come in the 5 s before each step, which do not count.

Latencies count from the time at which a request should have been sent.`,
		Example: "  loadgen find-limit\n  loadgen find-limit scenario-1 --p99 20 --step 20s -H http://127.0.0.1:8000",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l.scenario = "scenario-3"
			if len(args) == 1 {
				l.scenario = args[0]
			}
			l.run.fresh = l.run.host == "" && l.run.natsURL == "" && first(a.getenv(envURL), a.getenv(envLocust)) == ""
			return a.findLimit(cmd.Context(), l)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&l.run.host, "host", "H", "", "`URL` of the server (default: OPSCORE_URL, LOCUST_HOST, or servers of its own)")
	flags.StringVar(&l.run.natsURL, "nats-url", "", "`URL` of NATS, for --transport nats and for agents that work (default: NATS_URL)")
	flags.StringVar(&l.run.apiKey, "api-key", "", "`key` to show to the server; others can see it here, OPSCORE_API_KEY they cannot")
	flags.StringVar(&l.run.transport, "transport", l.run.transport, "what carries the requests of the users: http or nats")
	flags.IntVarP(&l.run.users, "users", "u", 200, "the `number` of users, and of connections, that share the rate")
	flags.Float64Var(&l.run.rate, "rate", 500, "tasks a second to begin with")
	flags.Float64Var(&l.most, "max-rate", 100_000, "tasks a second to stop at")
	flags.Float64Var(&l.p99, "p99", 250, "milliseconds that the 99th percentile must stay below")
	flags.Float64Var(&l.failures, "failures", 0.01, "share of requests that may fail")
	flags.Var(&l.step, "step", "time of each step")
	flags.StringVarP(&l.run.output, "output", "o", "table", "what to print: table or json")
	return cmd
}

// Limit is what `loadgen find-limit -o json` prints.
type Limit struct {
	Scenario string  `json:"scenario"`
	Rate     float64 `json:"rate"` // the highest good one, 0 if there was none
	Steps    []Step  `json:"steps"`
}

// Step is one rate that was tried.
type Step struct {
	Rate     float64 `json:"rate"` // tasks a second, as offered
	RPS      float64 `json:"rps"`  // requests a second, as answered
	P50Ms    float64 `json:"p50Ms"`
	P99Ms    float64 `json:"p99Ms"`
	Failures float64 `json:"failures"` // share
	Good     bool    `json:"good"`
	Why      string  `json:"why,omitzero"` // it is not good
}

// nextRate returns the rate to try after some steps, or false when the limit is known well enough: within a tenth, or at the most that shall be tried.
func nextRate(steps []Step, start, most float64) (rate float64, ok bool) {
	if len(steps) == 0 {
		return min(start, most), true
	}
	good, bad := 0.0, 0.0
	for _, s := range steps {
		switch {
		case s.Good:
			good = max(good, s.Rate)
		case bad == 0 || s.Rate < bad:
			bad = s.Rate
		}
	}
	switch {
	case bad == 0 && good >= most:
		return 0, false
	case bad == 0:
		return min(good*1.5, most), true
	case good == 0:
		return bad / 2, bad > start/64
	}
	return (good + bad) / 2, bad-good > good/10
}

func (a *app) findLimit(ctx context.Context, l *limitSearch) error {
	if l.step < seconds(time.Second) || l.p99 <= 0 || l.failures < 0 || l.run.rate <= 0 || l.most < l.run.rate {
		return usagef("--step is 1s at least, --p99 and --rate are above 0, --failures is not below 0, and --max-rate is not below --rate")
	}
	cfg, err := a.runConfig(&l.run, l.scenario)
	if err != nil {
		return err
	}
	if l.run.fresh {
		e, err := a.startEnv(ctx, &l.run, &cfg)
		if err != nil {
			return err
		}
		defer func() { _ = e.Close() }() // what is left is in a temporary folder
	}
	found := Limit{Scenario: cfg.Scenario.Name}
	base := *cfg.Scenario
	for {
		rate, ok := nextRate(found.Steps, l.run.rate, l.most)
		if !ok {
			break
		}
		s := base
		s.Rate, s.RunTime, s.Stages, s.Stop = rate, warmUp+time.Duration(l.step), nil, nil
		s.SpawnRate = float64(s.Users) / warmUp.Seconds() // all at once would be a burst of registrations
		cfg.Scenario = &s
		r, err := loadgen.Run(ctx, cfg)
		if err != nil {
			return err
		}
		step := l.judge(rate, r)
		found.Steps = append(found.Steps, step)
		if step.Good {
			found.Rate = max(found.Rate, rate)
		}
		fmt.Fprintln(a.stderr, step.line())
	}
	return a.printLimit(l, &found)
}

// judge says whether a step was good, by its seconds after the warm-up. One second in ten may be slower than the limit: on a machine that does
// other things too, some always are.
func (l *limitSearch) judge(rate float64, r *loadgen.Result) Step {
	s := Step{Rate: rate}
	var p50, p99, rps []float64
	var answered, failed float64
	for _, p := range r.Series {
		if p.Second > warmUp.Seconds()+2 && p.RPS+p.Failures > 0 {
			p50, p99, rps = append(p50, p.P50Ms), append(p99, p.P99Ms), append(rps, p.RPS)
			answered += p.RPS
			failed += p.Failures
		}
	}
	if len(p99) == 0 {
		s.Why = "nothing was answered"
		return s
	}
	slices.Sort(p50)
	slices.Sort(p99)
	slices.Sort(rps)
	s.P50Ms, s.P99Ms = p50[len(p50)/2], p99[(len(p99)-1)*9/10]
	s.RPS, s.Failures = rps[len(rps)/2], failed/max(answered, 1)
	switch {
	case s.Failures > l.failures:
		s.Why = "failures"
	case s.P99Ms > l.p99:
		s.Why = "p99"
	case s.RPS < 0.9*rate:
		s.Why = "did not keep up"
	}
	s.Good = s.Why == ""
	return s
}

func (s *Step) line() string {
	line := fmt.Sprintf("%8.0f /s offered  %8.0f /s answered  p50 %7.1f ms  p99 %8.1f ms  failures %5.2f %%  %s", s.Rate, s.RPS, s.P50Ms, s.P99Ms, 100*s.Failures, s.Why)
	return strings.TrimRight(line, " ")
}

func (a *app) printLimit(l *limitSearch, found *Limit) error {
	if l.run.output == "json" {
		return json.MarshalWrite(a.stdout, found, json.Deterministic(true), jsontext.WithIndent("  "))
	}
	if found.Rate == 0 {
		_, err := fmt.Fprintf(a.stdout, "%s: no rate was good, not even %.0f a second\n", found.Scenario, found.Steps[len(found.Steps)-1].Rate)
		return errors.Join(err, &codeError{code: exitBad})
	}
	_, err := fmt.Fprintf(a.stdout, "%s: up to %.0f tasks a second with a p99 below %.0f ms and at most %.1f %% failures\n", found.Scenario, found.Rate, l.p99, 100*l.failures)
	return err
}
