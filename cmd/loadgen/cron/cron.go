// Package cron proves that schedules keep every tick once: it lets one tick while the replicas of Ops-Core are killed, and compares the runs that there are
// afterwards with the clock.
package cron

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/workflow"
)

// Config says what is done.
type Config struct {
	Every    time.Duration
	Time     time.Duration
	Replicas int
	Seed     uint64
	Wishes   []loadgen.Wish // kills
	Log      *slog.Logger
	Struck   func(text string) // told of each kill
}

// Result is what became of the ticks.
type Result struct {
	Seed     uint64   `json:"seed"`
	Kills    int      `json:"kills"`
	Ticks    int      `json:"ticks"`  // by the clock, from the first to the last
	Runs     int      `json:"runs"`   // that there are
	Missed   []string `json:"missed"` // ticks without a run
	Extra    []string `json:"extra"`  // runs without a tick
	LateP50  float64  `json:"lateP50Ms"`
	LateP99  float64  `json:"lateP99Ms"` // from the tick to when the start was in the stream
	LateMax  float64  `json:"lateMaxMs"`
	Recorded uint64   `json:"recorded"` // ticks that the schedule says it has started
}

// OK reports whether every tick was kept once.
func (r *Result) OK() bool {
	return len(r.Missed)+len(r.Extra) == 0 && r.Runs == r.Ticks && r.Recorded == uint64(r.Ticks)
}

const (
	schedule = "ticker"
	timeForm = "20060102T150405Z"
)

// Run starts the servers, lets the schedule tick, kills, and counts.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	e, err := env.Start(ctx, env.Config{Replicas: cfg.Replicas})
	if err != nil {
		return nil, err
	}
	defer func() { _ = e.Close() }()
	conn, err := bus.Connect(ctx, bus.Config{URL: e.NATSURL, Name: "loadgen cron", Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	store, err := storage.Open(ctx, e.StoreURL, redisstore.Driver)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	queries := workflow.NewQueries(store)

	definition := event.Raw(`{"id":"tick","tasks":[]}`)
	if err := call(ctx, conn, event.KindWorkflowApply, "tick", definition); err != nil {
		return nil, err
	}
	spec := &event.ScheduleSpec{WorkflowID: "tick", EverySeconds: cfg.Every.Seconds(), Overlap: event.OverlapAllow}
	if err := call(ctx, conn, event.KindScheduleApply, schedule, event.MustMarshal(spec)); err != nil {
		return nil, err
	}
	first, err := queries.Schedule(ctx, schedule)
	if err != nil {
		return nil, err
	}
	r := &Result{Seed: cfg.Seed}
	if err := r.strike(ctx, cfg, e); err != nil {
		return nil, err
	}
	if err := call(ctx, conn, event.KindSchedulePause, schedule, event.Raw(`{}`)); err != nil {
		return nil, err
	}
	return r, r.count(ctx, queries, *first.NextAt, cfg.Every)
}

// strike kills by the plan until the time is over and every server is ready again.
func (r *Result) strike(ctx context.Context, cfg Config, e *env.Env) error {
	guarded, stop := context.WithCancel(ctx)
	supervised := make(chan struct{})
	go func() {
		defer close(supervised)
		e.Supervise(guarded, func(name string, err error) { cfg.Log.Warn("not started, trying again", "server", name, "err", err) })
	}()
	defer func() { stop(); <-supervised }()
	begin := time.Now()
	end := time.NewTimer(cfg.Time)
	defer end.Stop()
	for _, s := range loadgen.PlanFaults(cfg.Seed, cfg.Time, cfg.Replicas, cfg.Wishes) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Until(begin.Add(s.At))):
		}
		if err := e.Kill(s.Target); err == nil { // it may not be up again since the last one
			r.Kills++
			cfg.Struck(fmt.Sprintf("%7.2f s  kill %s", time.Since(begin).Seconds(), s.Target))
		}
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-end.C:
	}
	ready, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return e.AwaitReady(ready)
}

// count compares the runs with the clock.
func (r *Result) count(ctx context.Context, q *workflow.Queries, first time.Time, every time.Duration) error {
	s, err := q.Schedule(ctx, schedule)
	if err != nil {
		return err
	}
	r.Recorded = s.Started
	created, err := awaitRuns(ctx, q, int(s.Started))
	if err != nil {
		return err
	}
	r.Runs = len(created)
	var late []float64
	for tick := first; s.LastAt != nil && !tick.After(*s.LastAt); tick = tick.Add(every) {
		r.Ticks++
		id := schedule + "-" + tick.UTC().Format(timeForm)
		at, ok := created[id]
		if !ok {
			r.Missed = append(r.Missed, id)
			continue
		}
		late = append(late, float64(at.Sub(tick).Microseconds())/1000)
		delete(created, id)
	}
	for id := range created {
		r.Extra = append(r.Extra, id)
	}
	slices.Sort(late)
	if n := len(late); n > 0 {
		r.LateP50, r.LateP99, r.LateMax = late[n/2], late[n*99/100], late[n-1]
	}
	return nil
}

// awaitRuns lists the runs with when their start was stored; the last ones may still be on their way.
func awaitRuns(ctx context.Context, q *workflow.Queries, want int) (map[string]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		created := make(map[string]time.Time)
		for cursor := ""; ; {
			page, err := q.Runs(ctx, cursor, 500)
			if err != nil {
				return nil, err
			}
			for _, run := range page.Items {
				created[run.RunID] = run.CreatedAt
			}
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		if len(created) >= want {
			return created, nil
		}
		select {
		case <-ctx.Done():
			return created, nil // fewer is a finding
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func call(ctx context.Context, conn *bus.Conn, kind event.CommandKind, key string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	m := nats.NewMsg(event.CommandSubject(kind, key))
	m.Data = body
	o, _, err := conn.Call(ctx, m)
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	if o.Error != nil {
		return fmt.Errorf("%s: %w", kind, o.Error)
	}
	return nil
}
