package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

const (
	timersFar  = 100_000
	timersNear = 2_000
	nearRate   = 500             // started a second
	nearWait   = 3 * time.Second // until they are due
	quietTime  = 10 * time.Second
)

// benchTimers lets runs wait for an hour, looks what that costs while nothing else happens, and how late others are called that wait for seconds among them.
func benchTimers(ctx context.Context, l *lab) ([]Figure, error) {
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	for id, wait := range map[string]time.Duration{"far": time.Hour, "near": nearWait} {
		def := fmt.Sprintf(`{"id":%q,"tasks":[{"taskId":"w","wait":{"seconds":%g}}]}`, id, wait.Seconds())
		if err := command(ctx, l, event.KindWorkflowApply, id, []byte(def)); err != nil {
			return nil, fmt.Errorf("apply the workflow: %w", err)
		}
	}
	idle, busy, err := l.idleCPU(ctx)
	if err != nil {
		return nil, err
	}
	figures := []Figure{{Name: "CPU of NATS, Redis and the server when nothing waits", Value: idle, Unit: "%", Note: busy}}
	for i := range timersFar {
		if err := l.conn.PublishAsync(startMessage(uuid.NewString(), "far"), func(bus.Ack, error) {}); err != nil {
			return figures, fmt.Errorf("start a run: %w", err)
		}
		if i%2000 == 1999 {
			if err := CaughtUp(ctx, l.conn); err != nil {
				return figures, err
			}
		}
	}
	if err := CaughtUp(ctx, l.conn); err != nil {
		return figures, err
	}
	if err := sleep(ctx, 2*time.Second); err != nil { // the facts that they wait are said a moment later
		return figures, err
	}
	if idle, busy, err = l.idleCPU(ctx); err != nil {
		return figures, err
	}
	figures = append(figures, Figure{Name: fmt.Sprintf("the same with %d runs that wait", timersFar), Value: idle, Unit: "%", Note: busy})
	late, err := lateness(ctx, l)
	if err != nil {
		return figures, err
	}
	name := fmt.Sprintf("due → done, of %d waits at %d/s among them, ", timersNear, nearRate)
	return append(figures,
		Figure{Name: name + "p50", Value: late[len(late)/2], Unit: "ms"},
		Figure{Name: name + "p99", Value: late[len(late)*99/100], Unit: "ms", Goal: "< 300 ms"},
	), nil
}

// idleCPU measures what the servers use while nobody asks anything of them, in percent of one core.
func (l *lab) idleCPU(ctx context.Context) (percent float64, parts string, err error) {
	before := l.cpu()
	if err := sleep(ctx, quietTime); err != nil {
		return 0, "", err
	}
	after := l.cpu()
	for name := range after {
		if name != env.Self {
			percent += 100 * (after[name] - before[name]) / quietTime.Seconds()
		}
	}
	return percent, fmt.Sprintf("CPU seconds in %s: %s", quietTime, after.since(before)), nil
}

// lateness starts runs that wait for seconds, and returns how many milliseconds after its time each was over, sorted.
func lateness(ctx context.Context, l *lab) ([]float64, error) {
	store, err := storage.Open(ctx, l.env.StoreURL, server.Drivers...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	q := workflow.NewQueries(store)
	runs := make([]string, timersNear)
	tick := time.NewTicker(time.Second / nearRate)
	defer tick.Stop()
	for i := range runs {
		runs[i] = uuid.NewString()
		if err := l.conn.PublishAsync(startMessage(runs[i], "near"), func(bus.Ack, error) {}); err != nil {
			return nil, fmt.Errorf("start a run: %w", err)
		}
		<-tick.C
	}
	if err := CaughtUp(ctx, l.conn); err != nil {
		return nil, err
	}
	if err := sleep(ctx, nearWait+time.Second); err != nil {
		return nil, err
	}
	var late []float64
	for _, run := range runs {
		r, err := awaitRun(ctx, q, run)
		if err != nil {
			return nil, err
		}
		t := r.Tasks[0]
		late = append(late, float64(t.EndedAt.Sub(t.StartedAt.Add(nearWait)).Microseconds())/1000)
	}
	slices.Sort(late)
	return late, nil
}
