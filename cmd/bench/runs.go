package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

const (
	runAgents   = 64
	runSlots    = 16
	runsOpen    = 512 // runs in flight: as many as there are slots, so that agents are busy and nothing piles up
	runCount    = 60_000
	latencyRate = 1000 // runs per second
	latencyTime = 15 * time.Second
)

// fleet is agents in this process that do nothing but note when they were asked.
type fleet struct {
	mu      sync.Mutex
	arrived map[string]time.Time
	stop    context.CancelFunc
	running sync.WaitGroup
}

func startFleet(ctx context.Context, l *lab) (*fleet, error) {
	f := &fleet{arrived: make(map[string]time.Time, runCount)}
	ctx, f.stop = context.WithCancel(ctx)
	log := slog.New(slog.DiscardHandler)
	var conns []*nats.Conn
	for range 4 {
		nc, err := nats.Connect(l.nats, nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
		if err != nil {
			return nil, err
		}
		conns = append(conns, nc)
	}
	for i := range runAgents {
		a, err := agent.New(agent.Config{
			Conn: conns[i%len(conns)], ID: fmt.Sprintf("bench-%d", i), Version: "1", Capabilities: []string{"bench"}, Slots: runSlots, Log: log,
		}, f.handle)
		if err != nil {
			return nil, err
		}
		f.running.Go(func() { _ = a.Run(ctx) })
		select {
		case <-a.Ready():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return f, nil
}

func (f *fleet) handle(_ context.Context, t *agent.Task) (any, error) {
	now := time.Now()
	f.mu.Lock()
	f.arrived[t.RunID] = now
	f.mu.Unlock()
	return event.Raw(`{"ok":true}`), nil
}

func (f *fleet) close() {
	f.stop()
	f.running.Wait()
}

const benchWorkflow = `{"id":"bench","name":"one task","tasks":[{"taskId":"only","agentCapability":"bench","parameters":{"n":1}}]}`

func applyBench(ctx context.Context, conn *bus.Conn) error {
	m := nats.NewMsg(event.CommandSubject(event.KindWorkflowApply, "bench"))
	m.Data = []byte(benchWorkflow)
	o, _, err := conn.Call(ctx, m)
	if err == nil && o.Error != nil {
		err = o.Error
	}
	return err
}

func startMessage(run string) *nats.Msg {
	m := nats.NewMsg(event.CommandSubject(event.KindRunStart, run))
	m.Data = []byte(`{"workflowId":"bench"}`)
	return m
}

// prepare starts everything a benchmark of runs needs.
func prepare(ctx context.Context, l *lab) (*bus.Conn, *fleet, error) {
	conn, _, err := l.startAll(ctx)
	if err != nil {
		return nil, nil, err
	}
	f, err := startFleet(ctx, l)
	if err != nil {
		return nil, nil, err
	}
	if err := applyBench(ctx, conn); err != nil {
		return nil, nil, fmt.Errorf("apply the workflow: %w", err)
	}
	return conn, f, caughtUp(ctx, conn)
}

func benchRuns(ctx context.Context, l *lab) ([]Figure, error) {
	conn, f, err := prepare(ctx, l)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer f.close()
	raw, err := rawPublish(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("raw publish: %w", err)
	}
	runs := make([]string, runCount)
	for i := range runs {
		runs[i] = uuid.NewString()
	}
	cpu := l.cpu()
	begin := time.Now()
	if err := f.startBounded(ctx, conn, runs); err != nil {
		return nil, err
	}
	if err := caughtUp(ctx, conn); err != nil {
		return nil, err
	}
	took := time.Since(begin)
	busy := l.cpu().since(cpu)
	completed, err := completedRuns(ctx, l, runs)
	if err != nil {
		return nil, err
	}
	rate := float64(completed) / took.Seconds()
	return []Figure{{
		Name: "one-task runs, 64 agents, facts and history on", Value: rate, Unit: "/s", Ratio: rate / raw, Baseline: "the raw publish", Goal: "≥ 6000 /s",
		Note: fmt.Sprintf("%d of %d completed; CPU seconds in %.1f s: %s", completed, runCount, took.Seconds(), busy),
	}}, nil
}

// startBounded starts runs as fast as their tasks reach the agents, with at most runsOpen on their way.
func (f *fleet) startBounded(ctx context.Context, conn *bus.Conn, runs []string) error {
	for i, run := range runs {
		for i-f.count() >= runsOpen {
			if err := sleep(ctx, 200*time.Microsecond); err != nil {
				return err
			}
		}
		if err := conn.PublishAsync(startMessage(run), func(bus.Ack, error) {}); err != nil {
			return fmt.Errorf("start a run: %w", err)
		}
	}
	for f.count() < len(runs) {
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.arrived)
}

// completedRuns counts with a separate reader.
func completedRuns(ctx context.Context, l *lab, runs []string) (int, error) {
	store, err := storage.Open(ctx, l.redis, server.Drivers...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = store.Close() }()
	q := workflow.NewQueries(store)
	n := 0
	for cursor := ""; ; {
		page, err := q.Runs(ctx, cursor, 500)
		if err != nil {
			return 0, err
		}
		for _, r := range page.Items {
			if r.State == event.RunCompleted {
				n++
			}
		}
		if cursor = page.NextCursor; cursor == "" {
			return n, nil
		}
	}
}

// benchLatency starts runs at a fixed rate, whatever becomes of them, and measures from the intended time to the agent's handler.
func benchLatency(ctx context.Context, l *lab) ([]Figure, error) {
	conn, f, err := prepare(ctx, l)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer f.close()
	const total = latencyRate * int(latencyTime/time.Second)
	intended := make(map[string]time.Time, total)
	begin := time.Now()
	for i := range total {
		at := begin.Add(time.Duration(i) * time.Second / latencyRate)
		if d := time.Until(at); d > 0 {
			time.Sleep(d)
		}
		run := uuid.NewString()
		intended[run] = at
		if err := conn.PublishAsync(startMessage(run), func(bus.Ack, error) {}); err != nil {
			return nil, err
		}
	}
	for f.count() < total {
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
	waits := make([]float64, 0, total)
	for run, at := range intended {
		if at.Sub(begin) > time.Second { // the first second warms up
			waits = append(waits, float64(f.arrived[run].Sub(at).Microseconds())/1000)
		}
	}
	slices.Sort(waits)
	q := func(p float64) float64 { return waits[int(p*float64(len(waits)-1))] }
	return []Figure{
		{Name: "start → agent at 1,000 runs/s, p50", Value: q(0.50), Unit: "ms", Goal: "< 1.5 ms"},
		{Name: "start → agent at 1,000 runs/s, p99", Value: q(0.99), Unit: "ms"},
	}, nil
}
