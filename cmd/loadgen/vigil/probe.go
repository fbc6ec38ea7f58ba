package vigil

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/loadgen"
)

const (
	probeID    = "vigil-probe" // of the workflow and of the agent that does its task
	probeEvery = 100 * time.Millisecond
	probeSlots = 64
	probesOpen = 2048 // starts whose outcome is awaited; no more are sent
)

const probeDefinition = `{"id":"vigil-probe","tasks":[{"taskId":"now","agentCapability":"probe"}]}`

// prober starts runs of one short task all the time, also during an outage, and notes when each start was committed and when each task began: the first
// ones behind an outage say how soon work goes on.
type prober struct {
	fleet *fleet
	stop  func() // sends no more, and returns when nothing is awaited
	acked atomic.Int64

	mu        sync.Mutex
	committed []time.Time
	begun     []time.Time
}

// startProber adds a prober to a fleet.
func startProber(ctx context.Context, f *fleet) (*prober, error) {
	p := &prober{fleet: f}
	if err := f.apply(ctx, probeID, probeDefinition); err != nil {
		return nil, err
	}
	m := &member{fleet: f, id: probeID, capability: "probe", slots: probeSlots, work: p.work}
	f.others = append(f.others, m)
	if err := m.enlist(ctx); err != nil {
		return nil, err
	}
	sending, stop := context.WithCancel(ctx)
	var sender sync.WaitGroup
	sender.Go(func() { p.send(sending) })
	p.stop = func() {
		stop()
		sender.Wait()
	}
	return p, nil
}

// send starts runs until ctx ends.
func (p *prober) send(ctx context.Context) {
	var open errgroup.Group
	open.SetLimit(probesOpen)
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		open.TryGo(func() error {
			p.start(ctx)
			return nil
		})
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	_ = open.Wait() // it has no errors
}

// start starts a run and waits until that was committed, or cannot be heard of any more.
func (p *prober) start(ctx context.Context) {
	m, n := p.fleet.startMessage(probeID)
	outcome, ack, err := p.fleet.conn.Call(ctx, m)
	now := time.Now()
	if ack.Seq > 0 {
		p.fleet.journal.Ack(n, loadgen.Position{Stream: ack.Stream, Seq: ack.Seq})
		p.acked.Add(1)
	}
	if err == nil && outcome.OK {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.committed = append(p.committed, now)
	}
}

// work is the task of a probe.
func (p *prober) work(_ context.Context, t *agent.Task) (any, error) {
	now := time.Now()
	p.fleet.journal.Begin(probeID, probeSlots, t.Ref(), now)
	p.mu.Lock()
	p.begun = append(p.begun, now)
	p.mu.Unlock()
	p.fleet.journal.End(probeID, t.Ref(), event.StatusCompleted, time.Now())
	return nil, nil
}

// resumed returns how long after a moment the first start was committed and the first task begun.
func (p *prober) resumed(since time.Time) (commit, dispatch time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := func(all []time.Time) (took time.Duration, ok bool) {
		for _, at := range all {
			if d := at.Sub(since); d > 0 && (!ok || d < took) {
				took, ok = d, true
			}
		}
		return took, ok
	}
	commit, ok := first(p.committed)
	if !ok {
		return 0, 0, errors.New("no start was committed after the outage")
	}
	if dispatch, ok = first(p.begun); !ok {
		return 0, 0, errors.New("no task was begun after the outage")
	}
	return commit, dispatch, nil
}
