// Package chaos breaks an environment on purpose while it works: it carries out a plan of faults under a load whose every message is in a
// journal, lets the servers recover, and proves with the ledger that nothing was lost, doubled or forgotten.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/opspawn/opscore/cmd/loadgen/audit"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/loadgen"
)

// Recovery is how long the servers may take to finish everything after the last fault.
const Recovery = 15 * time.Second

// grace is how much later a clock of a task may be over for each outage of NATS or Redis: no such time counts, nor do the seconds behind it in which agents may still be
// on their way back. Some examples end by such a clock.
const grace = 5 * time.Second

// recovery is how long the servers may take to finish everything.
func (c *chaos) recovery() time.Duration {
	allowed := Recovery
	if c.cfg.Examples {
		for _, s := range c.plan {
			if s.Target == env.NATS || s.Target == env.Redis {
				allowed += grace
			}
		}
	}
	return allowed
}

// extra is how long it is waited beyond that, to see whether what is missing comes after all.
const extra = time.Minute

// Config says what to do.
type Config struct {
	Time     time.Duration // of the load and the faults
	Replicas int
	Seed     uint64
	Wishes   []loadgen.Wish
	Rate     float64 // runs a second; twice as many reports of state are sent
	Examples bool    // the runs are of the example workflows, and must end as is written beside them
	Dir      string  // for the servers' data and logs; empty: a temporary folder that is removed
	Log      *slog.Logger
	Struck   func(loadgen.Fault) // told of each fault when it was carried out; one call at a time
}

// Run breaks an environment of its own and returns what became of it. Its error says that it could not be done at all; that
// something was lost is in the result.
func Run(ctx context.Context, cfg Config) (_ *loadgen.Result, err error) {
	plan := loadgen.PlanFaults(cfg.Seed, cfg.Time, cfg.Replicas, cfg.Wishes)
	e, err := env.Start(ctx, env.Config{Dir: cfg.Dir, Replicas: cfg.Replicas, Proxied: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	c := &chaos{cfg: cfg, env: e, plan: plan, journal: loadgen.NewJournal(), meter: loadgen.NewMeter(), began: time.Now()}
	return c.run(ctx)
}

type chaos struct {
	cfg     Config
	env     *env.Env
	plan    []loadgen.Strike
	journal *loadgen.Journal
	meter   *loadgen.Meter
	began   time.Time
	machine func() loadgen.Machine // as it was since began

	mu     sync.Mutex
	faults []loadgen.Fault
	series []loadgen.Point
}

func (c *chaos) run(ctx context.Context) (*loadgen.Result, error) {
	ctx, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	background.Go(func() {
		c.env.Supervise(ctx, func(name string, err error) { c.cfg.Log.Warn("server not started again", "server", name, "err", err) })
	})
	background.Go(func() { c.sample(ctx) })
	load, err := startLoad(ctx, c)
	if err != nil {
		return nil, err
	}
	defer load.close()

	c.mu.Lock() // sample reads it
	c.began, c.machine = time.Now(), loadgen.WatchMachine()
	c.mu.Unlock()
	striking, calm := context.WithTimeout(ctx, c.cfg.Time)
	defer calm()
	var busy sync.WaitGroup
	busy.Go(func() { c.strikeAll(ctx) })
	busy.Go(func() { load.run(striking) })
	busy.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	end, err := c.judge(ctx, load)
	if err != nil {
		return nil, err
	}
	return c.result(end), nil
}

// outcome is what the end of the load has shown.
type outcome struct {
	found     loadgen.Found
	ledger    *loadgen.Ledger
	ready     error         // why a server was not ready in time
	late      string        // what was not done in time; empty if everything was
	recovered time.Duration // after the end of the load: when everything had come to rest
	done      time.Duration // after the end of the load: when the ledger was done
	allowed   time.Duration // for that
	endings   *endings      // of the runs of examples, nil without them
}

// judge lets the servers recover, stops the agents, reads everything and audits it.
func (c *chaos) judge(ctx context.Context, load *load) (o outcome, err error) {
	end := time.Now()
	o.allowed = c.recovery()
	limit, cancel := context.WithTimeout(ctx, Recovery)
	o.ready = c.env.AwaitReady(limit)
	cancel()
	target := audit.Target{NATSURL: c.env.NATSURL, StoreURL: c.env.StoreURL, Patience: o.allowed - time.Since(end), Broken: c.broken()}
	if o.found, err = audit.Read(ctx, target, c.journal); err != nil {
		return o, errors.Join(o.ready, err)
	}
	if open := unfinished(o.found); o.found.Pending > 0 || len(open) > 0 {
		o.late = fmt.Sprintf("%d messages had not been taken in and %d of %d runs had not ended", o.found.Pending, len(open), len(o.found.Runs))
		target.Patience = extra // late and lost are different things
		if o.found, err = audit.Read(ctx, target, c.journal); err != nil {
			return o, err
		}
	}
	o.recovered = time.Since(end)
	load.stop() // what the agents still have to report is stored when it returns
	target.Patience = time.Second
	if o.found, err = audit.Read(ctx, target, c.journal); err != nil {
		return o, err
	}
	o.ledger = loadgen.Audit(c.journal, o.found)
	o.done = time.Since(end)
	if load.examples != nil {
		o.endings, err = load.examples.compare(ctx, c.env.StoreURL)
	}
	return o, err
}

// unfinished lists the runs that have not ended.
func unfinished(found loadgen.Found) (ids []string) {
	for id, run := range found.Runs {
		if !run.State.Final() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// result puts together what there is to say.
func (c *chaos) result(o outcome) *loadgen.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &loadgen.Result{
		Scenario: "chaos", Seed: c.cfg.Seed, StartedAt: c.began, Seconds: c.cfg.Time.Seconds(), Transport: "nats",
		Machine: c.machine(), Versions: map[string]string{"go": runtime.Version()},
		Ledger: o.ledger, Processes: c.env.Processes(), Series: c.series, Faults: c.faults,
	}
	c.meter.Sum(r, c.cfg.Time)
	r.Verdict = o.verdict(c.faults)
	if stall, ok := c.journal.Stalls(c.faults, c.began, c.cfg.Time); ok {
		r.Spans = map[string]loadgen.Quantiles{loadgen.StallSpan: stall}
		c.judgeStall(stall, &r.Verdict)
	}
	if w := r.Machine.StealWarning(); w != "" {
		r.Verdict.Lines = append(r.Verdict.Lines, w)
	}
	return r
}

// verdict says in words how it went.
func (o outcome) verdict(faults []loadgen.Fault) (v loadgen.Verdict) {
	v.OK = o.ledger.Clean()
	say := func(format string, args ...any) { v.Lines = append(v.Lines, fmt.Sprintf(format, args...)) }
	bad := func(format string, args ...any) { v.OK = false; say(format, args...) }
	missed := 0
	for _, f := range faults {
		if f.Error != "" {
			missed++
		}
	}
	say("%d faults, of which %d could not be carried out", len(faults), missed)
	if o.ready != nil {
		bad("after %v: %v", Recovery, o.ready)
	}
	if o.late != "" {
		bad("after %v %s", o.allowed, o.late)
	}
	open := unfinished(o.found)
	for _, id := range open[:min(5, len(open))] {
		bad("run %s is %s even now: it waits for %s", id, o.found.Runs[id].State, o.found.Runs[id].Waits)
	}
	if o.done > o.allowed && o.late == "" {
		bad("the ledger was done after %.1f s, and %v are allowed", o.done.Seconds(), o.allowed)
	}
	if o.endings != nil {
		lines, ok := o.endings.lines()
		v.OK, v.Lines = v.OK && ok, append(v.Lines, lines...)
	}
	say("everything had come to rest %.1f s after the load, the ledger was done after %.1f s", o.recovered.Seconds(), o.done.Seconds())
	return v
}

// judgeStall says for how long the work stood still after kills of replicas. Where others were left, and nothing else was broken, it is held to the limit.
func (c *chaos) judgeStall(stall loadgen.Quantiles, v *loadgen.Verdict) {
	line := fmt.Sprintf("after kills of replicas no task was begun for: p50 %.0f ms, p99 %.0f ms, at most %.0f ms", stall.P50, stall.P99, stall.Max)
	only := c.cfg.Replicas > 1
	for _, s := range c.plan {
		only = only && s.Kind == loadgen.FaultKill && s.Target != env.NATS && s.Target != env.Redis
	}
	if only && stall.P99 > float64(loadgen.StallLimit.Milliseconds()) {
		v.OK = false
		line += fmt.Sprintf("; %v are allowed", loadgen.StallLimit)
	}
	v.Lines = append(v.Lines, line)
}

// broken says what the plan breaks.
func (c *chaos) broken() (b loadgen.Broken) {
	for _, s := range c.plan {
		switch s.Target {
		case env.NATS:
			b.NATS = true
		case env.Redis:
			b.Store = b.Store || s.Kind == loadgen.FaultOlderAOF
		default:
			b.Engine = true
		}
	}
	return b
}

// sample looks at the processes each second until ctx ends.
func (c *chaos) sample(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var p loadgen.Point
		c.meter.Point(&p)
		c.env.Sample(&p)
		c.mu.Lock()
		p.Second = time.Since(c.began).Seconds()
		c.series = append(c.series, p)
		c.mu.Unlock()
	}
}
