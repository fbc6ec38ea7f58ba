package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

const (
	retentionRate   = 200 // runs started a second while it is measured
	retentionTime   = 8 * time.Second
	retentionRounds = 9 // each without removal, and with it
	retentionAge    = 2 * workflow.DefaultRetention
	seedWidth       = 4   // goroutines that store old runs
	seedBite        = 256 // runs stored by each at a time
	removalStarts   = 30 * time.Second
	removalHeld     = 30 * time.Second // by one word of the replica that removes runs
	// What package workflow writes, see its doc.go: this benchmark stores runs as if they had ended long ago, and takes the place of the replica that
	// removes them.
	endedIndex storage.Index = "ended"
	retiredKey storage.Key   = "retired"
)

// benchRetention stores runs that ended long ago and measures how soon tasks reach their agents, in turns while nothing is removed and while they are.
func benchRetention(ctx context.Context, l *lab) ([]Figure, error) {
	f, err := prepare(ctx, l, "bench", 1)
	if err != nil {
		return nil, err
	}
	defer f.close()
	store, err := storage.Open(ctx, l.env.StoreURL, server.Drivers...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	old := &oldRuns{store: store, revs: storage.NewRevisions()}
	stop, err := old.hold(ctx)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	err = old.seed(ctx, l, f)
	stop()
	if err != nil {
		return nil, fmt.Errorf("store runs that have ended: %w", err)
	}
	took := time.Since(begin)
	var kept, removing spell
	for range retentionRounds {
		if err := old.measure(ctx, l, f, &kept, false); err != nil {
			return nil, err
		}
		if err := old.measure(ctx, l, f, &removing, true); err != nil {
			return nil, err
		}
	}
	if kept.removed > 0 {
		return nil, fmt.Errorf("%d runs were removed that should not be yet", kept.removed)
	}
	figures := []Figure{{
		Name: "runs removed, beside that load", Value: float64(removing.removed) / removing.took.Seconds(), Unit: "/s",
		Note: fmt.Sprintf("%d runs that ended %.0f days ago, stored in %.0f s as copies of a real one; %d runs/s are started, for %d times %s each way; "+
			"CPU seconds without: %s; with: %s", l.ended, retentionAge.Hours()/24, took.Seconds(), retentionRate, retentionRounds, retentionTime,
			kept.busy, removing.busy),
	}}
	for _, q := range []struct {
		name string
		at   int
		goal string
	}{{"p50", 50, ""}, {"p99", 99, "≤ 120 %"}} {
		without, with := kept.quantiles(q.at), removing.quantiles(q.at)
		ratios := make([]float64, len(with))
		for i := range ratios {
			ratios[i] = with[i] / without[i]
		}
		figures = append(figures,
			Figure{Name: "start → agent while no runs are removed, " + q.name, Value: median(without), Unit: "ms"},
			Figure{
				Name: "start → agent while they are, " + q.name, Value: median(with), Unit: "ms", Ratio: median(ratios), Baseline: "that", Goal: q.goal,
				Note: fmt.Sprintf("medians of the rounds, whose ratios are %.2f", ratios),
			})
	}
	return figures, nil
}

// spell is what was measured in one way of the two.
type spell struct {
	waits   [][]float64 // ms, sorted, of each round
	removed int
	took    time.Duration
	busy    string // CPU seconds of the last time
}

// quantiles returns a quantile of each round.
func (s *spell) quantiles(percent int) []float64 {
	all := make([]float64, len(s.waits))
	for i, waits := range s.waits {
		all[i] = quantile(waits, percent)
	}
	return all
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// oldRuns is runs that have ended so long ago that they are removed.
type oldRuns struct {
	store storage.Store
	revs  *storage.Revisions
}

// seed has one run done, and stores copies of it that ended long ago, with what the engine keeps of each: the document, its timeline and its places in
// the lists.
func (o *oldRuns) seed(ctx context.Context, l *lab, f *fleet) error {
	first, err := f.startBounded(ctx, l.conn, 1, 1)
	if err != nil {
		return err
	}
	id := runID(first)
	if err := CaughtUp(ctx, l.conn); err != nil {
		return err
	}
	if _, err := awaitRun(ctx, workflow.NewQueries(o.store), id); err != nil {
		return err
	}
	docs, err := o.store.Get(ctx, storage.Key("run/"+id))
	if err != nil {
		return err
	}
	var run workflow.Run
	if err := event.Unmarshal(docs[0].Data, &run); err != nil {
		return err
	}
	lines, err := o.store.Tail(ctx, storage.Log("run-log/"+id), 100)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(seedWidth)
	for first := 0; first < l.ended && ctx.Err() == nil; first += seedBite {
		txns := make([]storage.Txn, 0, seedBite)
		for i := first; i < min(first+seedBite, l.ended); i++ {
			r := run
			r.ID = uuid.NewString()
			r.Ended = time.Now().Add(-retentionAge).Add(time.Duration(i) * time.Millisecond).UTC()
			r.Created = r.Ended.Add(run.Created.Sub(run.Ended))
			txns = append(txns, o.storing(&r, lines))
		}
		g.Go(func() error { return errors.Join(o.store.Commit(ctx, txns...)...) })
	}
	return g.Wait()
}

// storing is the Txn that stores a run.
func (o *oldRuns) storing(r *workflow.Run, timeline [][]byte) storage.Txn {
	key := storage.Key("run/" + r.ID)
	t := storage.Txn{
		Rev: o.revs.Next(), If: []storage.Cond{{Key: key}}, Put: []storage.Put{{Key: key, Data: event.MustMarshal(r)}},
		IndexAdd: []storage.IndexOp{
			{Index: workflow.RunIndex, Member: r.ID, Score: storage.Score(r.Created.UnixMicro())},
			{Index: endedIndex, Member: r.ID, Score: storage.Score(r.Ended.UnixMicro())},
		},
	}
	for _, line := range timeline {
		t.LogAppend = append(t.LogAppend, storage.Append{Log: storage.Log("run-log/" + r.ID), Data: line, Cap: 100})
	}
	return t
}

// say writes who has removed runs last, and when: for removalHeld from then the others leave it to that one. A replica that removes runs writes the
// same document several times a second.
func (o *oldRuns) say(ctx context.Context, at time.Time) error {
	for {
		docs, err := o.store.Get(ctx, retiredKey)
		if err != nil {
			return err
		}
		err = o.store.Commit(ctx, storage.Txn{
			Rev: o.revs.Next(), If: []storage.Cond{{Key: retiredKey, Rev: docs[0].Rev}},
			Put: []storage.Put{{Key: retiredKey, Data: event.MustMarshal(map[string]any{"by": "bench", "at": at.UTC()})}},
		})[0]
		if !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
}

// measure measures for a while how soon tasks reach their agents when runs are removed, or not.
func (o *oldRuns) measure(ctx context.Context, l *lab, f *fleet, s *spell, remove bool) error {
	before, err := o.count(ctx)
	if err != nil {
		return err
	}
	if remove {
		if err := o.say(ctx, time.Time{}); err != nil {
			return err
		}
		if before, err = o.await(ctx, before); err != nil {
			return err
		}
	} else {
		stop, err := o.hold(ctx)
		if err != nil {
			return err
		}
		defer stop()
		if before, err = o.count(ctx); err != nil {
			return err
		}
	}
	cpu, begin := l.cpu(), time.Now()
	t, err := f.latency(ctx, l.conn, retentionRate, retentionTime)
	if err != nil {
		return err
	}
	s.busy = l.cpu().since(cpu)
	after, err := o.count(ctx)
	if err == nil && after == 0 {
		err = errors.New("all runs were removed before the end: take more")
	}
	s.waits, s.removed, s.took = append(s.waits, t.waits), s.removed+before-after, s.took+time.Since(begin)
	return err
}

// hold keeps the replicas from removing runs until stop is called.
func (o *oldRuns) hold(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	if err := o.say(ctx, time.Now()); err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for sleep(ctx, removalHeld/3) == nil {
			_ = o.say(ctx, time.Now()) // what is removed although it should not be is counted
		}
	}()
	return func() {
		cancel()
		<-ended
	}, nil
}

// await waits until runs are being removed, and returns how many are left.
func (o *oldRuns) await(ctx context.Context, before int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, removalStarts)
	defer cancel()
	for {
		n, err := o.count(ctx)
		if err != nil || n < before {
			return n, err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return n, fmt.Errorf("nothing is removed of %d runs: %w", n, err)
		}
	}
}

// count counts the old runs that are left.
func (o *oldRuns) count(ctx context.Context) (int, error) {
	return o.store.Count(ctx, endedIndex, 0, storage.Score(time.Now().Add(-workflow.DefaultRetention).UnixMicro()))
}
