package vigil

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/opspawn/opscore/lifecycle"
)

// killLimit is how long it is waited for what the bounds allow seconds for.
const killLimit = 30 * time.Second

// Kill kills some of the agents at one moment and measures how long it takes until each is out of rotation, and until each of its tasks has begun
// elsewhere. Its error says that it could not be done; what was too slow is in the result.
func Kill(ctx context.Context, cfg Config) (*Result, error) {
	r := &Result{Command: "kill-agents", Killed: cfg.Kill}
	return watch(ctx, cfg, r, func(ctx context.Context, v *vigil) error { return v.kill(ctx, r) })
}

func (v *vigil) kill(ctx context.Context, r *Result) error {
	victims := make([]*member, 0, v.cfg.Kill)
	for _, i := range rand.Perm(len(v.fleet.members))[:v.cfg.Kill] {
		victims = append(victims, v.fleet.members[i])
	}
	held := v.fleet.heldBy(victims)
	for _, m := range victims {
		m.kill()
	}
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	out, err := v.awaitOut(ctx, victims)
	if err != nil {
		return err
	}
	_ = v.fleet.await(ctx, "the work was moved", func() bool { return len(v.fleet.moved(held)) == len(held) }) // what was not is counted
	moved := v.fleet.moved(held)
	r.Out, r.Moved = timesOf(out), timesOf(moved)
	r.say("%d of %d killed agents were out of rotation, p50 %.2f s, p99 %.2f s", r.Out.Count, len(victims), r.Out.P50, r.Out.P99)
	r.say("%d of %d tasks of theirs were moved, p50 %.2f s, p99 %.2f s", r.Moved.Count, len(held), r.Moved.P50, r.Moved.P99)
	if len(out) < len(victims) || r.Out.P99 > MaxOut.Seconds() {
		r.bad("out of rotation: all within %v are wanted", MaxOut)
	}
	if len(moved) < len(held) || r.Moved.P99 > MaxMoved.Seconds() {
		r.bad("moved: all within %v are wanted", MaxMoved)
	}
	return nil
}

// heldBy lists the runs whose tasks these agents hold.
func (f *fleet) heldBy(members []*member) (runs []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := make(map[*member]bool, len(members))
	for _, m := range members {
		wanted[m] = true
	}
	for run, list := range f.begun {
		if wanted[list[len(list)-1].by] {
			runs = append(runs, run)
		}
	}
	return runs
}

// moved returns, of the runs that have begun on a living agent since theirs was killed, how long that took.
func (f *fleet) moved(runs []string) (took []time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, run := range runs {
		list := f.begun[run]
		for i, b := range list[1:] {
			if dead := list[i].by.killed(); !dead.IsZero() && b.by.killed().IsZero() {
				took = append(took, b.at.Sub(dead))
				break
			}
		}
	}
	return took
}

// awaitOut looks at the gates of killed agents until none would be given a task, and returns how long each took.
func (v *vigil) awaitOut(ctx context.Context, victims []*member) (took []time.Duration, err error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for len(victims) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return took, nil
		}
		ids := make([]string, len(victims))
		for i, m := range victims {
			ids[i] = m.id
		}
		gates, err := lifecycle.Gates(ctx, v.store, ids...)
		if err != nil {
			return nil, err
		}
		now := time.Now()
		left := victims[:0:0]
		for i, g := range gates {
			why := lifecycle.Match(g, lifecycle.Want{Agent: g.Agent}, now)
			if why == nil || why.Rule == lifecycle.RuleSlots { // with all slots in use it would be given nothing anyhow
				left = append(left, victims[i])
			} else {
				took = append(took, now.Sub(victims[i].killed()))
			}
		}
		victims = left
	}
	return took, nil
}
