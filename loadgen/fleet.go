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

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
)

// spanStart is the time from when a run should have been started to when its first task began on an agent.
const spanStart = "start → agent"

// fleet is the agents of a scenario. A nil fleet has none.
type fleet struct {
	load    *load
	plan    *Agents
	conns   []*nats.Conn // shared by agents that stay
	stop    context.CancelFunc
	running sync.WaitGroup
	began   atomic.Int64 // tasks
	ended   atomic.Int64
}

// agentsPerConn is how many agents that stay share a connection.
const agentsPerConn = 16

// startFleet starts the agents and returns when all are ready.
func (l *load) startFleet(ctx context.Context) (*fleet, error) {
	if l.scenario.Agents == nil {
		return nil, nil
	}
	f := &fleet{load: l, plan: l.scenario.Agents}
	ctx, f.stop = context.WithCancel(context.WithoutCancel(ctx))
	ready := make(chan struct{}, f.plan.Count)
	for i := range f.plan.Count {
		var nc *nats.Conn
		if f.plan.Life.IsZero() {
			if i%agentsPerConn == 0 {
				conn, err := dialNATS(l.cfg.Target.NATS)
				if err != nil {
					f.finish(0)
					return nil, err
				}
				f.conns = append(f.conns, conn)
			}
			nc = f.conns[i/agentsPerConn]
		}
		f.running.Go(func() { f.lives(ctx, i, nc, ready) })
	}
	patience := time.NewTimer(checkTimeout + time.Duration(f.plan.Count)*20*time.Millisecond)
	defer patience.Stop()
	for n := range f.plan.Count {
		select {
		case <-ready:
		case <-patience.C:
			f.finish(0)
			return nil, fmt.Errorf("only %d of %d agents got ready", n, f.plan.Count)
		}
	}
	return f, nil
}

// lives keeps one agent going, one life after the other, until ctx ends.
func (f *fleet) lives(ctx context.Context, number int, nc *nats.Conn, ready chan<- struct{}) {
	id := fmt.Sprintf("%s-worker-%d", f.load.scenario.Name, number)
	d := newDice(f.load.cfg.Seed, -1-number)
	for first := true; ctx.Err() == nil; first = false {
		life, cancel := ctx, func() {}
		if !f.plan.Life.IsZero() {
			life, cancel = context.WithTimeout(ctx, d.span(f.plan.Life))
		}
		vanish := d.Float64() < f.plan.Vanish && !f.plan.Life.IsZero()
		begun := func() {
			if first {
				ready <- struct{}{}
			}
		}
		if err := f.live(life, id, nc, vanish, begun); err != nil && ctx.Err() == nil {
			f.load.cfg.Log.Warn("an agent ended", "agent", id, "err", err)
		}
		cancel()
		if !sleepUntil(ctx, time.Now().Add(d.span(f.plan.Away))) {
			return
		}
	}
}

// live is one life of an agent: until ctx ends, and then either a drain or, to vanish, a connection that is cut.
func (f *fleet) live(ctx context.Context, id string, nc *nats.Conn, vanish bool, begun func()) error {
	stays := nc != nil
	if !stays {
		var err error
		if nc, err = dialNATS(f.load.cfg.Target.NATS); err != nil {
			return err
		}
		defer nc.Close()
	}
	slots := max(f.plan.Slots, 1)
	number, _ := strconv.Atoi(id[len(f.load.scenario.Name)+len("-worker-"):])
	drain := f.load.cfg.Grace
	if vanish {
		drain = time.Second // its connection is gone: there is nothing to wait for
	}
	w := &worker{fleet: f, id: id, slots: slots, shard: f.load.stats.shard(number)}
	a, err := agent.New(agent.Config{
		Conn: nc, ID: id, Version: "1", Capabilities: []string{f.plan.Capability}, Slots: slots,
		DeregisterOnStop: !vanish && !stays, DrainTimeout: drain, Log: slog.New(slog.DiscardHandler),
	}, w.work)
	if err != nil {
		return err
	}
	life := ctx
	if vanish {
		// The SDK would say goodbye: cut its connection first, and only then tell it. At the end of the run nobody vanishes.
		var end context.CancelFunc
		life, end = context.WithCancel(context.WithoutCancel(ctx))
		defer end()
		defer context.AfterFunc(ctx, func() {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				nc.Close()
			}
			end()
		})()
	}
	go func() {
		select {
		case <-a.Ready():
			begun()
		case <-life.Done():
		}
	}()
	err = a.Run(life)
	if journal := f.load.cfg.Journal; err == nil && journal != nil {
		journal.Delivered(id)
	}
	if vanish && ctx.Err() != nil {
		return nil
	}
	return err
}

// worker is what an agent does with its tasks.
type worker struct {
	fleet *fleet
	id    string
	slots int
	shard *shard
}

func (w *worker) work(ctx context.Context, t *agent.Task) (any, error) {
	now := time.Now()
	f, journal := w.fleet, w.fleet.load.cfg.Journal
	f.began.Add(1)
	defer f.ended.Add(1)
	if journal != nil {
		journal.Begin(w.id, w.slots, t.Ref(), now)
	}
	var input map[string]event.Raw
	if err := t.Bind(&input); err == nil && t.Attempt == 1 {
		if us, err := strconv.ParseInt(string(input[inputIntended]), 10, 64); err == nil {
			w.shard.span(spanStart, now.Sub(time.UnixMicro(us)))
		}
	}
	status, done := event.StatusCompleted, sleepUntil(ctx, now.Add(f.plan.Work))
	if !done {
		status = event.StatusFailed // which is what the SDK makes of an error
	}
	if journal != nil {
		if errors.Is(context.Cause(ctx), agent.ErrCancelled) {
			journal.Cancelled(w.id, t.Ref(), time.Now())
			status = "" // nothing is reported of a cancelled attempt
		}
		journal.End(w.id, t.Ref(), status, time.Now())
	}
	if !done {
		return nil, context.Cause(ctx)
	}
	return event.Raw(`{"ok":true}`), nil
}

// finish waits until the agents have nothing more to do, at most for a grace, and stops them.
func (f *fleet) finish(grace time.Duration) {
	if f == nil {
		return
	}
	f.settle(grace)
	f.stop()
	f.running.Wait()
	for _, nc := range f.conns {
		nc.Close()
	}
}

// settle waits until no task has begun or run for a while: long enough for agents that are away to come back for what is left.
func (f *fleet) settle(grace time.Duration) {
	quiet := time.Second + f.plan.Away.Max
	if grace > 0 {
		grace = max(grace, 2*quiet)
	}
	begin := time.Now()
	last, since := int64(-1), begin
	for time.Since(begin) < grace {
		began := f.began.Load()
		if began != last || f.ended.Load() != began {
			last, since = began, time.Now()
		}
		if time.Since(since) >= quiet {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
