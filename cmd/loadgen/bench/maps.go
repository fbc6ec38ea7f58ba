package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

const (
	mapItems    = 10_000 // of all maps of one size together
	mapParallel = 100
)

// benchMaps does the same number of items in maps of three sizes, one map after the other: what an item costs must not depend on how many there are.
func benchMaps(ctx context.Context, l *lab) ([]Figure, error) {
	fleet, err := prepare(ctx, l, "bench", 1)
	if err != nil {
		return nil, err
	}
	defer fleet.close()
	def := fmt.Sprintf(`{"id":"map","tasks":[{"taskId":"each","agentCapability":"bench","parameters":{"n":"${{ item }}"},
		"forEach":{"items":"input.items","maxParallel":%d}}]}`, mapParallel)
	if err := command(ctx, l, event.KindWorkflowApply, "map", []byte(def)); err != nil {
		return nil, fmt.Errorf("apply the workflow: %w", err)
	}
	store, err := storage.Open(ctx, l.env.StoreURL, server.Drivers...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	q := workflow.NewQueries(store)
	if _, _, err := timeMaps(ctx, l, q, 1000); err != nil { // what is started first pays for what is done once
		return nil, err
	}
	var figures []Figure
	var least time.Duration
	var last string
	for _, size := range []int{100, 1000, 10_000} {
		before := l.cpu()
		took, run, err := timeMaps(ctx, l, q, size)
		if err != nil {
			return figures, err
		}
		last = run
		item := took / mapItems
		if least == 0 {
			least = item
		}
		f := Figure{
			Name: fmt.Sprintf("an item of a map over %d, %d at a time", size, mapParallel), Value: float64(item.Microseconds()), Unit: "µs",
			Note: fmt.Sprintf("CPU seconds for %d items: %s", mapItems, l.cpu().since(before)),
		}
		if size > 100 {
			f.Ratio, f.Baseline = float64(item)/float64(least), "one of a map over 100"
		}
		if size == 10_000 {
			f.Goal = "≤ 130 %"
		}
		figures = append(figures, f)
	}
	join, err := joinTime(ctx, q, last)
	figures = append(figures, Figure{
		Name: fmt.Sprintf("end of the last of %d items → their outputs are one", mapItems), Value: float64(join.Microseconds()) / 1000, Unit: "ms",
	})
	return figures, err
}

// joinTime is how long after its last item a map was completed.
func joinTime(ctx context.Context, q *workflow.Queries, run string) (time.Duration, error) {
	r, err := q.Run(ctx, run)
	if err != nil {
		return 0, err
	}
	var last time.Time
	for cursor := ""; ; {
		page, err := q.Children(ctx, run, cursor, 500)
		if err != nil {
			return 0, err
		}
		for i := range page.Items {
			if at := page.Items[i].EndedAt; at != nil && at.After(last) {
				last = *at
			}
		}
		if cursor = page.NextCursor; cursor == "" {
			return r.EndedAt.Sub(last), nil
		}
	}
}

// timeMaps runs maps of one size, one after the other, until mapItems items are done, and returns the last of them.
func timeMaps(ctx context.Context, l *lab, q *workflow.Queries, size int) (took time.Duration, run string, err error) {
	items := make([]int, size)
	for i := range items {
		items[i] = i
	}
	body := event.MustMarshal(&event.RunStart{WorkflowID: "map", Input: event.MustMarshal(map[string]any{"items": items})})
	for range mapItems / size {
		run = uuid.NewString()
		if err := command(ctx, l, event.KindRunStart, run, body); err != nil {
			return 0, run, fmt.Errorf("start a run: %w", err)
		}
		r, err := awaitRun(ctx, q, run)
		if err != nil {
			return 0, run, err
		}
		took += r.EndedAt.Sub(r.CreatedAt)
	}
	return took, run, nil
}

func command(ctx context.Context, l *lab, kind event.CommandKind, id string, body []byte) error {
	m := nats.NewMsg(event.CommandSubject(kind, id))
	m.Data = body
	o, _, err := l.conn.Call(ctx, m)
	if err == nil && o.Error != nil {
		err = o.Error
	}
	return err
}

// awaitRun waits until a run has completed. It looks seldom: each look reads the run with its input.
func awaitRun(ctx context.Context, q *workflow.Queries, run string) (*event.Run, error) {
	for {
		r, err := q.Run(ctx, run)
		switch {
		case err != nil:
			return nil, err
		case r.State == event.RunCompleted:
			return r, nil
		case r.State.Final():
			return nil, fmt.Errorf("run %s is %s: %s", run, r.State, event.MustMarshal(r.Error))
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
}
