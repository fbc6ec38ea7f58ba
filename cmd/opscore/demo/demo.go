// Package demo is the first thing to see of Ops-Core: a server, three agents and a hundred runs of a workflow over a real bus and a real
// store, and a reader that proves afterwards that nothing acknowledged is missing.
package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
)

// Config says which servers to use. The zero values mean a file store and an embedded NATS server in a temporary folder.
type Config struct {
	RedisURL string // keys go under a prefix of their own and stay
	NATSURL  string // a server without Ops-Core streams; those made here are removed
	Runs     int    // 0 means 100
	Log      *slog.Logger
	Progress func(Progress) // called a few times a second; may be nil
}

// Progress is how far a demo has come.
type Progress struct {
	Started, Ended, Total int
	Tasks                 int64
}

// Report is what came of a demo.
type Report struct {
	Store          string      `json:"store"` // "file" or "redis"
	Agents         int         `json:"agents"`
	Runs           Runs        `json:"runs"`
	Events         Events      `json:"events"`
	StartToAgentMs Percentiles `json:"startToAgentMs"` // from the start command's publishing to the first handler
	Tasks          int64       `json:"tasks"`
	Seconds        float64     `json:"seconds"`
	Prefix         string      `json:"prefix,omitzero"`  // of the keys left in Redis
	Missing        []string    `json:"missing,omitzero"` // acknowledged events without an effect
}

// Runs counts runs.
type Runs struct {
	Started   int `json:"started"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
}

// Events counts messages: Acked were acknowledged by the streams, Persisted of them have their effect in the store, as a reader finds that opens
// it after the server has stopped.
type Events struct {
	Acked     int `json:"acked"`
	Persisted int `json:"persisted"`
}

// Percentiles of a duration in milliseconds.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// OK reports whether all runs completed and nothing is missing.
func (r *Report) OK() bool {
	return r.Runs.Completed == r.Runs.Started && r.Runs.Started > 0 && len(r.Missing) == 0 && r.Events.Acked == r.Events.Persisted
}

const (
	defaultRuns = 100
	pace        = 20 * time.Millisecond // between starts, so that the latency shown is not the wait for an agent
	work        = 3 * time.Millisecond  // what a task pretends to take
	slots       = 8
)

var capabilities = []string{"research", "draft", "review"}

// Run runs the demo. The report is complete when the error is nil, even if it is not OK.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	d := &demo{cfg: cfg, id: uuid.NewString()[:8], report: &Report{Store: "file", Agents: len(capabilities)}}
	if d.cfg.Runs == 0 {
		d.cfg.Runs = defaultRuns
	}
	dir, err := os.MkdirTemp("", "opscore-demo-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, bus.RemoveData(dir)) }()
	if err := d.configure(dir); err != nil {
		return nil, err
	}
	if err := d.whileServing(ctx); err != nil {
		return nil, err
	}
	// The server has stopped: what is read now was committed.
	if err := d.verify(ctx); err != nil {
		return nil, err
	}
	return d.report, nil
}

type demo struct {
	cfg      Config
	id       string
	storeURL string
	server   server.Config
	report   *Report
	conn     *bus.Conn

	tasks    atomic.Int64
	messages []message

	mu      sync.Mutex
	started map[string]time.Time // run: when its start was published
	waited  []time.Duration      // start to first handler
	ended   map[string]event.RunState
}

func (d *demo) workflow() string { return "demo-" + d.id }

func (d *demo) configure(dir string) error {
	d.started, d.ended = make(map[string]time.Time), make(map[string]event.RunState)
	d.storeURL = "file:" + filepath.Join(dir, "opscore.db")
	if d.cfg.RedisURL != "" {
		u, err := url.Parse(d.cfg.RedisURL)
		if err != nil {
			return fmt.Errorf("redis URL: %w", err)
		}
		d.report.Store, d.report.Prefix = "redis", "opscore-demo-"+d.id
		q := u.Query()
		q.Set("prefix", d.report.Prefix)
		u.RawQuery = q.Encode()
		d.storeURL = u.String()
	}
	d.server = server.Config{
		StoreURL: d.storeURL, NATSURL: d.cfg.NATSURL, HTTPAddr: "127.0.0.1:0", Log: d.cfg.Log,
		OldKey: "test-api-key", Version: "demo",
	}
	if d.cfg.NATSURL == "" {
		d.server.Embedded = &bus.EmbeddedConfig{Dir: filepath.Join(dir, "nats"), Addr: "127.0.0.1:0", Log: d.cfg.Log, MaxStore: 1 << 30}
	}
	return nil
}

// whileServing runs the server and, while it runs, everything that needs one.
func (d *demo) whileServing(ctx context.Context) (err error) {
	if d.cfg.NATSURL != "" {
		if err := d.checkForeign(ctx); err != nil {
			return err
		}
	}
	serverCtx, stop := context.WithCancel(ctx)
	ready, stopped := make(chan server.Addresses, 1), make(chan error, 1)
	d.server.Ready = func(a server.Addresses) { ready <- a }
	go func() { stopped <- server.Run(serverCtx, d.server) }()
	defer func() {
		stop()
		err = errors.Join(err, <-stopped)
	}()
	var at server.Addresses
	select {
	case at = <-ready:
	case err := <-stopped:
		stopped <- nil
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.conn, err = bus.Connect(ctx, bus.Config{URL: at.NATS, Name: "opscore demo", Log: d.cfg.Log}); err != nil {
		return err
	}
	defer d.conn.Close()
	if err := d.play(ctx, at.NATS); err != nil {
		return err
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	if d.messages, err = d.readStreams(ctx); err != nil {
		return err
	}
	if d.cfg.NATSURL != "" {
		stop()
		return d.removeStreams(ctx)
	}
	return nil
}

// play registers the agents, applies the workflow, starts the runs and waits until they have ended.
func (d *demo) play(ctx context.Context, natsURL string) (err error) {
	agentsCtx, stopAgents := context.WithCancel(ctx)
	var agents sync.WaitGroup
	failed := make(chan error, len(capabilities))
	defer func() {
		stopAgents()
		agents.Wait()
	}()
	for _, c := range capabilities {
		a, err := agent.New(agent.Config{
			URL: natsURL, ID: c + "-" + d.id, Name: "demo " + c + " agent", Version: "1.0",
			Capabilities: []string{c}, Slots: slots, Log: d.cfg.Log,
		}, d.handle)
		if err != nil {
			return err
		}
		agents.Go(func() {
			if err := a.Run(agentsCtx); err != nil {
				failed <- err
			}
		})
		select {
		case <-a.Ready():
		case err := <-failed:
			return fmt.Errorf("start an agent: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := d.call(ctx, event.CommandSubject(event.KindWorkflowApply, d.workflow()), definition(d.workflow())); err != nil {
		return fmt.Errorf("apply the workflow: %w", err)
	}
	begin := time.Now()
	defer func() { d.report.Seconds = time.Since(begin).Seconds() }()
	if err := d.startRuns(ctx); err != nil {
		return err
	}
	return d.awaitRuns(ctx)
}

// handle is what the agents do: next to nothing, and a note of when the first task of a run arrived.
func (d *demo) handle(ctx context.Context, t *agent.Task) (any, error) {
	arrived := time.Now()
	d.tasks.Add(1)
	if t.Capability == capabilities[0] {
		d.mu.Lock()
		d.waited = append(d.waited, arrived.Sub(d.started[t.RunID]))
		d.mu.Unlock()
	}
	select {
	case <-time.After(work):
		return map[string]string{"by": t.Capability}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// definition is a workflow of three tasks with different capabilities.
func definition(id string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"name":"Demo","tasks":[
		{"taskId":"research","agentCapability":"research","parameters":{"topic":"tides"},"nextTaskId":"draft"},
		{"taskId":"draft","agentCapability":"draft","parameters":{"words":300},"nextTaskId":"review"},
		{"taskId":"review","agentCapability":"review","parameters":{"strict":true},"nextTaskId":null}]}`, id)
}

func (d *demo) startRuns(ctx context.Context) error {
	facts, err := d.conn.NC().Subscribe(event.FactSubject("run", "*"), d.hearFact)
	if err != nil {
		return fmt.Errorf("subscribe to facts: %w", err)
	}
	if err := facts.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("subscribe to facts: %w", err)
	}
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for range d.cfg.Runs {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		run := uuid.NewString()
		d.mu.Lock()
		d.started[run] = time.Now()
		d.mu.Unlock()
		body := event.MustMarshal(&event.RunStart{WorkflowID: d.workflow(), Input: event.Raw(`{"topic":"tides"}`)})
		msg := nats.NewMsg(event.CommandSubject(event.KindRunStart, run))
		msg.Data = body
		if _, err := d.conn.Publish(ctx, msg); err != nil {
			return fmt.Errorf("start a run: %w", err)
		}
		d.report.Runs.Started++
		d.progress()
	}
	return nil
}

// hearFact notes the end of a run.
func (d *demo) hearFact(m *nats.Msg) {
	var f event.Fact
	if event.Unmarshal(m.Data, &f) != nil || f.Run == nil || !f.Run.State.Final() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ours := d.started[f.ID]; ours {
		d.ended[f.ID] = f.Run.State
	}
}

// runsMayTake bounds the wait for the last run; the demo as a whole is over in a few seconds.
const runsMayTake = 25 * time.Second

func (d *demo) awaitRuns(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(runsMayTake)
	for {
		d.progress()
		if d.endedRuns() == d.report.Runs.Started {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline:
			return nil // the report says how many are missing
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// settle waits until everything that was acknowledged has been taken in: the agents' last words too.
func (d *demo) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		now := time.Now()
		if at, err := d.conn.IntakeTime(ctx, now); err == nil && at.Equal(now) {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil // what is missing then is reported
		}
	}
}

func (d *demo) endedRuns() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.ended)
}

func (d *demo) progress() {
	if d.cfg.Progress != nil {
		d.cfg.Progress(Progress{Started: d.report.Runs.Started, Ended: d.endedRuns(), Total: d.cfg.Runs, Tasks: d.tasks.Load()})
	}
}

func (d *demo) call(ctx context.Context, subject string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	msg := nats.NewMsg(subject)
	msg.Data = body
	outcome, _, err := d.conn.Call(ctx, msg)
	if err != nil {
		return err
	}
	if outcome.Error != nil {
		return outcome.Error
	}
	return nil
}

// percentiles of the waits of first tasks.
func (d *demo) percentiles() (p Percentiles) {
	slices.Sort(d.waited)
	if n := len(d.waited); n > 0 {
		ms := func(q float64) float64 { return float64(d.waited[int(q*float64(n-1))].Microseconds()) / 1000 }
		p.P50, p.P99 = ms(0.50), ms(0.99)
	}
	return p
}
