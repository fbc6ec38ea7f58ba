package bench

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

const (
	runAgents  = 64
	runSlots   = 16
	runsOpen   = 512 // runs in flight: as many as there are slots, so that agents are busy and nothing piles up
	runCount   = 60_000
	chainCount = 6_000
)

// fleet is agents in this process that do nothing but note when they were asked.
type fleet struct {
	named   int                      // runs that have got an id
	begun   atomic.Int64             // tasks
	watched atomic.Pointer[arrivals] // of the runs that are timed, if any are
	stop    context.CancelFunc
	running sync.WaitGroup
}

func startFleet(ctx context.Context, l *lab) (*fleet, error) {
	f := &fleet{}
	ctx, f.stop = context.WithCancel(ctx)
	log := slog.New(slog.DiscardHandler)
	var conns []*nats.Conn
	for range 4 {
		nc, err := nats.Connect(l.env.NATSURL, nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
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
	if a := f.watched.Load(); a != nil {
		a.note(t.RunID)
	}
	f.begun.Add(1)
	return event.Raw(`{"ok":true}`), nil
}

// expect names runs that will be started, and takes down when they arrive.
func (f *fleet) expect(n int) *arrivals { return newArrivals(f.name(n), n) }

// name gives out the numbers of n runs, each of which has an id (see runID), and returns the first.
func (f *fleet) name(n int) (first int) {
	first = f.named
	f.named += n
	return first
}

func (f *fleet) close() {
	f.stop()
	f.running.Wait()
}

// chainTasks is how many tasks the longer workflow has.
const chainTasks = 10

// workflowOf returns a workflow of tasks that follow one another.
func workflowOf(id string, tasks int) []byte {
	type task struct {
		ID         string         `json:"taskId"`
		Capability string         `json:"agentCapability"`
		Parameters map[string]int `json:"parameters"`
		Next       string         `json:"nextTaskId,omitzero"`
	}
	list := make([]task, tasks)
	for i := range list {
		list[i] = task{ID: fmt.Sprint("task-", i), Capability: "bench", Parameters: map[string]int{"n": i}}
		if i+1 < tasks {
			list[i].Next = fmt.Sprint("task-", i+1)
		}
	}
	return event.MustMarshal(map[string]any{"id": id, "name": id, "tasks": list})
}

func apply(ctx context.Context, conn *bus.Conn, id string, tasks int) error {
	m := nats.NewMsg(event.CommandSubject(event.KindWorkflowApply, id))
	m.Data = workflowOf(id, tasks)
	o, _, err := conn.Call(ctx, m)
	if err == nil && o.Error != nil {
		err = o.Error
	}
	return err
}

func startMessage(run, workflow string) *nats.Msg {
	m := nats.NewMsg(event.CommandSubject(event.KindRunStart, run))
	m.Data = event.MustMarshal(&event.RunStart{WorkflowID: workflow})
	return m
}

// prepare starts everything a benchmark of runs needs.
func prepare(ctx context.Context, l *lab, workflow string, tasks int) (*fleet, error) {
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	f, err := startFleet(ctx, l)
	if err != nil {
		return nil, err
	}
	if err := apply(ctx, l.conn, workflow, tasks); err != nil {
		f.close()
		return nil, fmt.Errorf("apply the workflow: %w", err)
	}
	return f, CaughtUp(ctx, l.conn)
}

func benchRuns(ctx context.Context, l *lab) ([]Figure, error) {
	f, err := throughput(ctx, l, 1, runCount)
	if err == nil {
		f.Name, f.Goal = "one-task runs, 64 agents, facts and history on", "≥ 6000 /s"
	}
	return []Figure{f}, err
}

func benchChain(ctx context.Context, l *lab) ([]Figure, error) {
	f, err := throughput(ctx, l, chainTasks, chainCount)
	if err == nil {
		f.Name = "ten-task runs, 64 agents, facts and history on"
		f.Note = fmt.Sprintf("%.0f tasks a second; %s", f.Value*chainTasks, f.Note)
	}
	return []Figure{f}, err
}

// throughput starts runs as fast as they are worked off and counts with a separate reader those that are completed at the end.
func throughput(ctx context.Context, l *lab, tasks, count int) (Figure, error) {
	f, err := prepare(ctx, l, "bench", tasks)
	if err != nil {
		return Figure{}, err
	}
	defer f.close()
	raw, err := rawPublish(ctx, l.conn)
	if err != nil {
		return Figure{}, fmt.Errorf("raw publish: %w", err)
	}
	cpu := l.cpu()
	begin := time.Now()
	if _, err := f.startBounded(ctx, l.conn, count, tasks); err != nil {
		return Figure{}, err
	}
	if err := CaughtUp(ctx, l.conn); err != nil {
		return Figure{}, err
	}
	took := time.Since(begin)
	busy := l.cpu().since(cpu)
	completed, err := completedRuns(ctx, l)
	if err != nil {
		return Figure{}, err
	}
	rate := float64(completed) / took.Seconds()
	return Figure{
		Value: rate, Unit: "/s", Ratio: rate / raw, Baseline: "the raw publish",
		Note: fmt.Sprintf("%d of %d completed; CPU seconds in %.1f s: %s", completed, count, took.Seconds(), busy),
	}, nil
}

// startBounded starts runs as fast as their tasks reach the agents, with at most runsOpen on their way, and returns when all tasks have reached one, with
// the number of the first run.
func (f *fleet) startBounded(ctx context.Context, conn *bus.Conn, count, tasks int) (first int, err error) {
	first = f.name(count)
	before := f.count()
	for i := range count {
		for i-(f.count()-before)/tasks >= runsOpen {
			if err := sleep(ctx, 200*time.Microsecond); err != nil {
				return first, err
			}
		}
		if err := conn.PublishAsync(startMessage(runID(first+i), "bench"), func(bus.Ack, error) {}); err != nil {
			return first, fmt.Errorf("start a run: %w", err)
		}
	}
	for f.count()-before < count*tasks {
		if err := sleep(ctx, time.Millisecond); err != nil {
			return first, err
		}
	}
	return first, nil
}

// count returns how many tasks have reached an agent.
func (f *fleet) count() int { return int(f.begun.Load()) }

// completedRuns counts with a separate reader.
func completedRuns(ctx context.Context, l *lab) (int, error) {
	store, err := storage.Open(ctx, l.env.StoreURL, server.Drivers...)
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
