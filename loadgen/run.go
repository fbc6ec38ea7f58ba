package loadgen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nuid"
)

// ErrConfig is the kind of all errors about a [Config]; nothing was sent.
var ErrConfig = errors.New("loadgen: wrong configuration")

// The names of transports.
const (
	TransportHTTP = "http"
	TransportNATS = "nats"
)

// Target is the installation that gets the load.
type Target struct {
	HTTP string // base URL, as http://127.0.0.1:8000
	NATS string // URL; agents of the load generator need it, whatever the transport
	Key  string // bearer key for HTTP, empty: none is shown
}

// Config says what to run, against what.
type Config struct {
	Scenario  *Scenario
	Target    Target
	Transport string // empty: TransportHTTP
	Seed      uint64 // of the users' chance

	Limits  []Limit  // become the result's thresholds
	Journal *Journal // nil: nothing is numbered
	Log     *slog.Logger

	// Grace is how long requests that are on their way at the end may still take; they count as timeouts after it. Then it is, once
	// more, how long the agents may take to end what was started. 0 means 10 s.
	Grace time.Duration

	// Sample, if set, adds what the caller knows to the point of each second. Progress, if set, shows how far the run is, also once a
	// second. Both are called by one goroutine.
	Sample   func(*Point)
	Progress func(*Snapshot)
}

// defaultGrace is the grace of a Config without one.
const defaultGrace = 10 * time.Second

// Snapshot is how far a run is.
type Snapshot struct {
	At         time.Time
	Elapsed    time.Duration
	Duration   time.Duration // of the whole run
	Users      int
	Peak       int // users that there will be
	Point      Point
	Operations map[string]Operation // so far
	Total      Operation            // of all operations, so far
	Errors     []ErrorClass         // so far
}

// load is a run that goes on.
type load struct {
	cfg       Config
	scenario  *Scenario
	transport transport
	stats     *statistics
	name      string // prefix of request ids

	begun     time.Time
	machine   func() Machine // as it was since begun
	storms    []time.Time
	users     atomic.Int64
	started   int // users; none ends before the run does
	requests  atomic.Uint64
	due       chan time.Time // tasks of an open model
	unsent    int64          // of these, those that no user was free for
	series    []Point
	stopCause string // why the run ended before its time
}

// Run puts the load of a scenario on an installation and returns what it measured, also when ctx ends it early. Before any load it sends
// one registration, read, task and result through; if that fails it ends with a [*CheckError]. A wrong Config is an [ErrConfig].
func Run(ctx context.Context, cfg Config) (*Result, error) {
	l, err := newLoad(cfg)
	if err != nil {
		return nil, err
	}
	defer l.transport.close()
	fleet, err := l.open(ctx)
	switch {
	case ctx.Err() != nil:
		fleet.finish(0)
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	}
	l.run(ctx)
	fleet.finish(l.cfg.Grace)
	return l.result(), nil
}

// open does what comes before the load.
func (l *load) open(ctx context.Context) (*fleet, error) {
	if err := l.check(ctx); err != nil {
		return nil, err
	}
	if err := l.prepare(ctx); err != nil {
		return nil, &CheckError{Step: "definition", Err: err}
	}
	fleet, err := l.startFleet(ctx)
	if err != nil {
		return nil, &CheckError{Step: "agents", Err: err}
	}
	return fleet, nil
}

func newLoad(cfg Config) (*load, error) {
	if cfg.Scenario == nil {
		return nil, fmt.Errorf("%w: no scenario", ErrConfig)
	}
	if err := cfg.Scenario.Check(); err != nil {
		return nil, fmt.Errorf("%w: scenario %s: %w", ErrConfig, cfg.Scenario.Name, err)
	}
	if cfg.Grace <= 0 {
		cfg.Grace = defaultGrace
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Scenario.Agents != nil && cfg.Target.NATS == "" {
		return nil, fmt.Errorf("%w: scenario %s has agents that work, which need a NATS URL", ErrConfig, cfg.Scenario.Name)
	}
	l := &load{cfg: cfg, scenario: cfg.Scenario, stats: newStatistics(), name: "lg-" + nuid.Next()[14:]}
	if err := l.connect(); err != nil {
		return nil, err
	}
	for _, limit := range cfg.Limits {
		if err := limit.check(l); err != nil {
			l.transport.close()
			return nil, err
		}
	}
	return l, nil
}

// connect makes the transport.
func (l *load) connect() (err error) {
	switch l.cfg.Transport {
	case "", TransportHTTP:
		l.cfg.Transport = TransportHTTP
		l.transport, err = newHTTPTransport(l.cfg.Target.HTTP, l.cfg.Target.Key)
	case TransportNATS:
		if l.cfg.Target.NATS == "" {
			return fmt.Errorf("%w: transport nats needs a NATS URL", ErrConfig)
		}
		l.transport, err = newNATSTransport(l.cfg.Target.NATS, l.scenario.Peak(), func(user int, name string, d time.Duration) {
			l.stats.shard(user).span(name, d)
		})
		if err != nil {
			err = &CheckError{Step: "connect", Err: err}
		}
	default:
		return fmt.Errorf("%w: there is no transport %q; use %s or %s", ErrConfig, l.cfg.Transport, TransportHTTP, TransportNATS)
	}
	return err
}

// run starts the users along the ramp and returns when all have ended.
func (l *load) run(ctx context.Context) {
	l.begun, l.machine = time.Now(), WatchMachine()
	end := l.begun.Add(l.scenario.Duration())
	if r := l.scenario.Reconnect; r != nil {
		for i := range r.Times {
			l.storms = append(l.storms, l.begun.Add(time.Duration(i+1)*r.Every))
		}
	}
	// Live ends with the run's time. Hard ends a grace later, so that what is on its way can still be answered.
	live, stop := context.WithDeadline(ctx, end)
	defer stop()
	hard, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(live, func() { time.AfterFunc(l.cfg.Grace, cut) })()

	watched, unwatch := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { l.watch(watched, stop) })
	if l.scenario.Rate > 0 {
		l.due = make(chan time.Time)
		m := &metronome{rate: l.scenario.Rate, begin: l.begun, due: l.due}
		watching.Go(func() { l.unsent = m.run(live) })
	}
	var users sync.WaitGroup
	for i, at := range l.scenario.starts() {
		if !sleepUntil(live, l.begun.Add(at)) {
			break
		}
		l.users.Add(1)
		l.started++
		users.Go(func() {
			defer l.users.Add(-1)
			newUser(l, i).run(live, hard)
		})
	}
	users.Wait()
	stop()
	unwatch()
	watching.Wait()
}

// storm returns when the users reconnect for the i-th time, if they do.
func (l *load) storm(i int) (at time.Time, more bool) {
	if i >= len(l.storms) {
		return time.Time{}, false
	}
	return l.storms[i], true
}

// watch takes a point each second until ctx ends, and a last one then. It ends the run with stop when the scenario says so.
func (l *load) watch(ctx context.Context, stop func()) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	judge := &judge{limits: l.scenario.Stop}
	last := l.begun
	for ended := false; !ended; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			ended = true
		}
		now := time.Now()
		g := l.stats.gather()
		if ended && g.requests == 0 && now.Sub(last) < time.Second/2 {
			return
		}
		l.note(now, now.Sub(last), g)
		last = now
		if cause := judge.add(&g); cause != "" && l.stopCause == "" {
			l.stopCause = cause
			l.cfg.Log.Info("the scenario ends here", "cause", cause, "users", l.users.Load())
			stop()
		}
	}
}

// note keeps the point of the time that has just passed and shows it.
func (l *load) note(now time.Time, took time.Duration, g gathered) {
	p := Point{Second: now.Sub(l.begun).Seconds(), Users: int(l.users.Load())}
	g.point(&p, took)
	if l.cfg.Sample != nil {
		l.cfg.Sample(&p)
	}
	l.series = append(l.series, p)
	if l.cfg.Progress == nil {
		return
	}
	elapsed := now.Sub(l.begun)
	l.cfg.Progress(&Snapshot{
		At: now, Elapsed: elapsed, Duration: l.scenario.Duration(), Users: p.Users, Peak: l.scenario.Peak(), Point: p,
		Operations: l.stats.operations(elapsed), Total: l.stats.totals().operation(elapsed), Errors: l.stats.errorClasses(),
	})
}

// result sums the run up.
func (l *load) result() *Result {
	l.stats.gather()
	took := time.Since(l.begun)
	if n := len(l.series); n > 0 {
		took = time.Duration(l.series[n-1].Second * float64(time.Second))
	}
	r := &Result{
		Scenario: l.scenario.Name, Seed: l.cfg.Seed, StartedAt: l.begun.UTC(), Seconds: took.Seconds(), Transport: l.cfg.Transport,
		PeakUsers: l.started, Machine: l.machine(), Versions: map[string]string{}, Processes: map[string]Process{},
		Spans: l.stats.spanQuantiles(), Unsent: l.unsent, Series: l.series, StopCause: l.stopCause,
	}
	l.stats.sum(r, took)
	for _, limit := range l.cfg.Limits {
		r.Thresholds = append(r.Thresholds, limit.judge(l.stats, took))
	}
	return r
}

// judge says when a scenario has to stop. It looks at half a minute at a time.
type judge struct {
	limits             *Stop
	seconds            int
	requests, failures int64
	operations         map[string]histogram
}

// judgeSeconds is how many seconds a judge looks at together.
const judgeSeconds = 30

// add takes one second in and returns why the run should end, empty if it should not.
func (j *judge) add(g *gathered) string {
	if j.limits == nil {
		return ""
	}
	if j.seconds++; j.operations == nil {
		j.operations = make(map[string]histogram)
	}
	j.requests += g.requests
	j.failures += g.failures
	for name, h := range g.operations {
		entry(j.operations, name, newHistogram).merge(h)
	}
	if j.seconds < judgeSeconds {
		return ""
	}
	cause := j.cause()
	*j = judge{limits: j.limits}
	return cause
}

func (j *judge) cause() string {
	if share := float64(j.failures) / float64(max(j.requests, 1)); j.limits.Failures > 0 && share > j.limits.Failures {
		return fmt.Sprintf("%s %% of all requests failed", strconv.FormatFloat(share*100, 'f', 1, 64))
	}
	for name, h := range j.operations {
		switch {
		case h.count() == 0:
		case j.limits.MeanMs > 0 && h.mean() > j.limits.MeanMs:
			return fmt.Sprintf("%s took %.0f ms on average", name, h.mean())
		case j.limits.P99Ms > 0 && h.percentile(99) > j.limits.P99Ms:
			return fmt.Sprintf("the p99 of %s was %.0f ms", name, h.percentile(99))
		}
	}
	return ""
}
