package vigil

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/loadgen/audit"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/storage"
)

const (
	lookEvery = 20 * time.Millisecond // at the agents
	calm      = 12 * time.Second      // after the start, and after an outage: agents are judged only after a while without a gap
	endLimit  = 30 * time.Second      // for the runs to end
)

// Config says what to do. Zero values of the numbers are not allowed.
type Config struct {
	Agents   int // each holds a task
	Replicas int // of Ops-Core
	Dir      string
	Log      *slog.Logger

	Kill int // agents that are killed

	Target string        // engine, nats or redis
	For    time.Duration // how long it is stopped
	How    string        // HowFreeze or HowKill
}

// How a server is stopped.
const (
	HowFreeze = "freeze" // stopped in its tracks, and let go on
	HowKill   = "kill"   // killed, and started again
)

// The bounds that [Kill] judges by, for heartbeats each second, and [Outage].
const (
	MaxOut    = 3 * time.Second
	MaxMoved  = 5 * time.Second
	MaxResume = 5 * time.Second
)

// Resumed is how long after the end of an outage work went on, in seconds.
type Resumed struct {
	Ready    float64 `json:"ready"`    // until all servers said they were
	Commit   float64 `json:"commit"`   // until the first start of a run was committed
	Dispatch float64 `json:"dispatch"` // until the first task began
}

// Times are quantiles of how long something took, in seconds, by nearest rank.
type Times struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func timesOf(all []time.Duration) Times {
	if len(all) == 0 {
		return Times{}
	}
	slices.Sort(all)
	at := func(q float64) float64 { return all[max(int(math.Ceil(q*float64(len(all))))-1, 0)].Seconds() }
	return Times{Count: len(all), P50: at(0.5), P99: at(0.99), Max: at(1)}
}

// Result is what was seen.
type Result struct {
	Command string          `json:"command"`
	Agents  int             `json:"agents"`
	Killed  int             `json:"killed,omitzero"`
	Target  string          `json:"target,omitzero"`
	How     string          `json:"how,omitzero"`
	Seconds float64         `json:"seconds,omitzero"` // of the outage
	Out     Times           `json:"outOfRotation,omitzero"`
	Moved   Times           `json:"moved,omitzero"`
	Resumed *Resumed        `json:"resumed,omitzero"`
	Lost    int             `json:"falselyLost"`
	Suspect int             `json:"falselySuspect"` // out of rotation for a while, but nothing worse
	Astray  int             `json:"falselyMoved"`   // tasks of agents that lived
	Ledger  *loadgen.Ledger `json:"ledger"`
	Verdict loadgen.Verdict `json:"verdict"`
}

func (r *Result) say(format string, args ...any) {
	r.Verdict.Lines = append(r.Verdict.Lines, fmt.Sprintf(format, args...))
}

func (r *Result) bad(format string, args ...any) {
	r.Verdict.OK = false
	r.say(format, args...)
}

// vigil is an environment, a fleet and a reader of the store.
type vigil struct {
	cfg   Config
	env   *env.Env
	fleet *fleet
	store storage.Store

	probes int // runs that were started besides those that are held
}

// watch starts servers and a fleet, does what is to be done to them and judges the end.
func watch(ctx context.Context, cfg Config, r *Result, do func(context.Context, *vigil) error) (_ *Result, err error) {
	v := &vigil{cfg: cfg}
	if v.env, err = env.Start(ctx, env.Config{Dir: cfg.Dir, Replicas: cfg.Replicas}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.env.Close()) }()
	if v.store, err = storage.Open(ctx, v.env.StoreURL, server.Drivers...); err != nil {
		return nil, err
	}
	defer func() { _ = v.store.Close() }() // it was only read
	if v.fleet, err = muster(ctx, v.env, cfg.Agents, cfg.Log); err != nil {
		return nil, err
	}
	defer v.fleet.dismiss()
	if !pause(ctx, calm) {
		return nil, context.Cause(ctx)
	}
	r.Agents, r.Verdict.OK = cfg.Agents, true
	if err := do(ctx, v); err != nil {
		return nil, err
	}
	if err := v.wrongly(ctx, r); err != nil {
		return nil, err
	}
	return r, v.end(ctx, r)
}

// wrongly counts what happened to agents that lived.
func (v *vigil) wrongly(ctx context.Context, r *Result) error {
	queries := lifecycle.NewQueries(v.store)
	for _, m := range v.fleet.members {
		if !m.killed().IsZero() {
			continue
		}
		history, err := queries.History(ctx, m.id)
		if err != nil {
			return err
		}
		said := make(map[event.Liveness]bool)
		for _, h := range history {
			said[h.Liveness] = true
		}
		switch {
		case said[event.LivenessLost]:
			r.Lost++
		case said[event.LivenessSuspect]:
			r.Suspect++
		}
	}
	v.fleet.mu.Lock()
	defer v.fleet.mu.Unlock()
	for _, list := range v.fleet.begun {
		for _, b := range list[:len(list)-1] {
			if b.by.killed().IsZero() {
				r.Astray++
			}
		}
	}
	if r.Lost+r.Astray > 0 {
		r.bad("%d agents that lived were called lost, and %d tasks of such were moved", r.Lost, r.Astray)
	} else {
		r.say("no agent that lived was called lost, none of their tasks was moved")
	}
	if r.Suspect > 0 {
		r.say("%d agents that lived were out of rotation for a while", r.Suspect)
	}
	return nil
}

// end lets the tasks end and audits the ledger.
func (v *vigil) end(ctx context.Context, r *Result) error {
	close(v.fleet.finish)
	target := audit.Target{NATSURL: v.env.NATSURL, StoreURL: v.env.StoreURL, Patience: endLimit}
	if v.cfg.Target != "" {
		target.Broken = loadgen.Broken{Engine: v.cfg.Target == "engine", NATS: v.cfg.Target == env.NATS, Store: v.cfg.Target == env.Redis}
	}
	found, err := audit.Read(ctx, target, v.fleet.journal)
	if err != nil {
		return err
	}
	r.Ledger = loadgen.Audit(v.fleet.journal, found)
	ended := 0
	for _, run := range found.Runs {
		if run.State == event.RunCompleted {
			ended++
		}
	}
	if all := v.cfg.Agents + v.probes; ended < all { // of some starts the acknowledgement may have been lost
		r.bad("%d of %d runs were completed", ended, all)
	}
	if !r.Ledger.Clean() {
		r.bad("the ledger is not clean")
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
