// Package vigil proves what the servers make of heartbeats: that agents which are killed are noticed and their work is moved in time, and that
// an outage of the servers themselves is never taken for the silence of agents.
package vigil

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/loadgen"
)

// What the fleet consists of.
const (
	workflowID = "vigil"
	capability = "hold"
	slots      = 2 // of each agent: the work of the dead finds room
	heartbeat  = time.Second
	startLimit = 2 * time.Minute
	startWidth = 32 // agents started, and runs sent, at the same time
)

// definition is a workflow whose task outlives any outage.
const definition = `{"id":"vigil","tasks":[{"taskId":"hold","agentCapability":"hold","timeoutSeconds":3600}]}`

// fleet is agents that beat each second, and hold a task each until they are told to finish. Each has a connection of its own.
type fleet struct {
	env     *env.Env
	log     *slog.Logger
	conn    *bus.Conn
	journal *loadgen.Journal
	finish  chan struct{} // closed when the tasks are to end
	members []*member
	others  []*member // that do something else, and are never killed
	running sync.WaitGroup

	mu    sync.Mutex
	begun map[string][]begin // by run, in order
}

// begin is the beginning of an attempt.
type begin struct {
	by *member
	at time.Time
}

// member is one agent of the fleet.
type member struct {
	fleet      *fleet
	id         string
	capability string
	slots      int
	work       agent.Handler
	stop       context.CancelFunc

	mu   sync.Mutex
	line net.Conn // to NATS
	dead time.Time
}

// Dial opens the member's connection to NATS, unless it is dead.
func (m *member) Dial(network, address string) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dead.IsZero() {
		return nil, errKilled
	}
	line, err := net.DialTimeout(network, address, 2*time.Second)
	if err == nil {
		m.line = line
	}
	return line, err
}

var errKilled = errors.New("this agent was killed")

// kill ends a member as kill -9 would: its connection is gone at once, without a word, and so is its work.
func (m *member) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = time.Now()
	if m.line != nil {
		_ = m.line.Close()
	}
	m.stop()
}

func (m *member) killed() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// muster starts a fleet of n agents, gives each a task, and returns when all tasks have begun.
func muster(ctx context.Context, e *env.Env, n int, log *slog.Logger) (_ *fleet, err error) {
	f := &fleet{env: e, log: log, journal: loadgen.NewJournal(), finish: make(chan struct{}), begun: make(map[string][]begin)}
	defer func() {
		if err != nil {
			f.dismiss()
		}
	}()
	limited, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if f.conn, err = bus.Connect(limited, bus.Config{URL: e.NATSURL, Name: "loadgen vigil"}); err != nil {
		return nil, err
	}
	if err := f.apply(limited, workflowID, definition); err != nil {
		return nil, err
	}
	if err := f.start(limited, n); err != nil {
		return nil, err
	}
	for range n {
		if err := f.startRun(limited); err != nil {
			return nil, err
		}
	}
	return f, f.await(limited, "all tasks have begun", func() bool { return f.attempts() >= n })
}

// asErr keeps a nil refusal from becoming an error that is not nil.
func asErr(refusal *event.Error) error {
	if refusal == nil {
		return nil
	}
	return refusal
}

// apply stores a workflow.
func (f *fleet) apply(ctx context.Context, id, definition string) error {
	m := nats.NewMsg(event.CommandSubject(event.KindWorkflowApply, id))
	m.Data = []byte(definition)
	if outcome, _, err := f.conn.Call(ctx, m); err != nil || outcome.Error != nil {
		return fmt.Errorf("store the workflow %s: %w", id, errors.Join(err, asErr(outcome.Error)))
	}
	return nil
}

// start starts the agents and returns when all are ready.
func (f *fleet) start(ctx context.Context, n int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(startWidth)
	for i := range n {
		m := &member{fleet: f, id: fmt.Sprintf("vigil-%03d", i), capability: capability, slots: slots}
		m.work = m.hold
		f.members = append(f.members, m)
	}
	for _, m := range f.members {
		g.Go(func() error { return m.enlist(ctx) })
	}
	return g.Wait()
}

// enlist starts a member, which lives on when ctx ends, and returns when it is ready.
func (m *member) enlist(ctx context.Context) error {
	living, stop := context.WithCancel(context.WithoutCancel(ctx))
	m.stop = stop
	a, err := agent.New(agent.Config{
		URL: m.fleet.env.NATSURL, NATSOptions: []nats.Option{nats.SetCustomDialer(m)}, ID: m.id, Version: "1", Capabilities: []string{m.capability},
		Slots: m.slots, Heartbeat: heartbeat, DrainTimeout: 5 * time.Second, Log: slog.New(slog.DiscardHandler),
	}, m.work)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	m.fleet.running.Go(func() { ended <- a.Run(living) })
	select {
	case <-a.Ready():
		return nil
	case err := <-ended:
		return fmt.Errorf("agent %s ended at once: %w", m.id, err)
	case <-ctx.Done():
		return fmt.Errorf("agent %s is not ready: %w", m.id, context.Cause(ctx))
	}
}

// startMessage makes the message that starts a run, which has a number in the journal.
func (f *fleet) startMessage(workflow string) (m *nats.Msg, n uint64) {
	run := uuid.NewString()
	n = f.journal.Send(loadgen.KindStart, run)
	m = nats.NewMsg(event.CommandSubject(event.KindRunStart, run))
	m.Data = event.MustMarshal(&event.RunStart{WorkflowID: workflow, Input: event.Raw(fmt.Sprintf(`{"n":%d}`, n))})
	return m, n
}

// startRun starts a run and notes that in the journal.
func (f *fleet) startRun(ctx context.Context) error {
	m, n := f.startMessage(workflowID)
	ack, err := f.conn.Publish(ctx, m)
	if err != nil {
		return fmt.Errorf("start a run: %w", err)
	}
	f.journal.Ack(n, loadgen.Position{Stream: ack.Stream, Seq: ack.Seq})
	return nil
}

// hold is the work of an agent: it ends when the fleet is told to finish.
func (m *member) hold(ctx context.Context, t *agent.Task) (any, error) {
	f := m.fleet
	now := time.Now()
	f.journal.Begin(m.id, m.slots, t.Ref(), now)
	f.mu.Lock()
	f.begun[t.RunID] = append(f.begun[t.RunID], begin{m, now})
	f.mu.Unlock()
	status, err := event.Status(""), error(nil)
	select {
	case <-f.finish:
		status = event.StatusCompleted
	case <-ctx.Done():
		err = context.Cause(ctx)
		if errors.Is(err, agent.ErrCancelled) {
			f.journal.Cancelled(m.id, t.Ref(), time.Now())
		}
	}
	f.journal.End(m.id, t.Ref(), status, time.Now())
	return nil, err
}

// attempts counts the attempts that have begun.
func (f *fleet) attempts() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, list := range f.begun {
		n += len(list)
	}
	return n
}

// await waits until a condition holds, and fails if ctx ends before.
func (f *fleet) await(ctx context.Context, what string, holds func() bool) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}

// dismiss ends the agents that live.
func (f *fleet) dismiss() {
	for _, m := range append(f.members, f.others...) {
		if m.stop != nil { // it was started
			m.stop()
		}
	}
	f.running.Wait()
	if f.conn != nil {
		f.conn.Close()
	}
}
