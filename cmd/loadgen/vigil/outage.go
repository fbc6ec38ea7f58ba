package vigil

import (
	"context"
	"fmt"
	"time"

	"github.com/opspawn/opscore/cmd/loadgen/env"
)

// recoverLimit is how long the servers may take to be ready again after an outage.
const recoverLimit = time.Minute

// Outage stops a server for a while under a fleet that goes on beating, and counts the agents that are taken for lost and the tasks that are taken away from
// them. Its error says that it could not be done; what went wrong is in the result.
func Outage(ctx context.Context, cfg Config) (*Result, error) {
	r := &Result{Command: "outage", Target: cfg.Target, How: cfg.How, Seconds: cfg.For.Seconds()}
	return watch(ctx, cfg, r, func(ctx context.Context, v *vigil) error { return v.outage(ctx, r) })
}

// names lists the servers that a target stands for.
func (v *vigil) names() (names []string) {
	if v.cfg.Target != "engine" {
		return []string{v.cfg.Target}
	}
	for n := range v.cfg.Replicas {
		names = append(names, env.Replica(n+1))
	}
	return names
}

func (v *vigil) outage(ctx context.Context, r *Result) error {
	probe, err := startProber(ctx, v.fleet)
	if err != nil {
		return err
	}
	defer probe.stop()
	stop, start := v.env.Freeze, v.env.Thaw
	if v.cfg.How == HowKill {
		stop, start = v.env.Kill, func(name string) error { return v.env.Restart(ctx, name) }
	}
	for _, name := range v.names() {
		if err := stop(name); err != nil {
			return err
		}
	}
	pause(ctx, v.cfg.For) // also when it is interrupted: nothing stays stopped
	back := time.Now()
	for _, name := range v.names() {
		if err := start(name); err != nil {
			return fmt.Errorf("start %s again: %w", name, err)
		}
	}
	if v.cfg.Target != "engine" { // how long NATS and Redis take to start is their own affair
		back = time.Now()
	}
	limit, cancel := context.WithTimeout(ctx, recoverLimit)
	defer cancel()
	if err := v.env.AwaitReady(limit); err != nil {
		return err
	}
	ready := time.Since(back)
	if !pause(ctx, calm) { // in which who would be lost wrongly is
		return context.Cause(ctx)
	}
	probe.stop()
	v.probes = int(probe.acked.Load())
	commit, dispatch, err := probe.resumed(back)
	if err != nil {
		return err
	}
	r.Resumed = &Resumed{Ready: ready.Seconds(), Commit: commit.Seconds(), Dispatch: dispatch.Seconds()}
	r.say("%s was stopped for %v (%s); from when it was back until all servers were ready: %.2f s, until the first start of a run was committed: %.2f s, "+
		"until the first task began: %.2f s", v.cfg.Target, v.cfg.For, v.cfg.How, r.Resumed.Ready, r.Resumed.Commit, r.Resumed.Dispatch)
	if max(ready, commit, dispatch) > MaxResume {
		r.bad("to go on: all within %v are wanted", MaxResume)
	}
	return nil
}
