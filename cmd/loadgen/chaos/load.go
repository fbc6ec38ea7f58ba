package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/loadgen"
)

// What the load consists of.
const (
	workers      = 10                    // agents that do tasks
	slots        = 4                     // of each
	work         = 20 * time.Millisecond // on a task, on average
	talkers      = 40                    // agents that only report how they are; every other one by HTTP
	cancelEvery  = 50                    // one run of so many is cancelled
	failEvery    = 40                    // one attempt of so many fails
	defaultRate  = 50                    // runs a second
	sendPatience = 20 * time.Second      // for one message, over all outages
	workflowID   = "chaos"
)

const definition = `{"id":"chaos","tasks":[{"taskId":"t1","agentCapability":"one","nextTaskId":"t2"},{"taskId":"t2","agentCapability":"two"}]}`

// load is what the servers have to do while they are broken.
type load struct {
	c        *chaos
	conn     *bus.Conn
	http     *http.Client
	examples *examples // nil: the runs are of one workflow of two tasks

	agents   sync.WaitGroup
	stopWork context.CancelFunc
	senders  sync.WaitGroup
}

// startLoad stores the workflow and starts the agents, and returns when they are ready. Their connections do not go through the proxies: it is the servers
// that are cut off.
func startLoad(ctx context.Context, c *chaos) (*load, error) {
	conn, err := bus.Connect(ctx, bus.Config{URL: c.env.NATSURL, Name: "loadgen chaos"})
	if err != nil {
		return nil, err
	}
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &load{c: c, conn: conn, stopWork: stop, http: &http.Client{Timeout: 10 * time.Second}}
	if c.cfg.Examples {
		l.examples, err = newExamples(ctx, working, l)
	} else {
		err = l.startWorkers(ctx, working)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// startWorkers stores the workflow of two tasks and starts agents that do both.
func (l *load) startWorkers(ctx, working context.Context) error {
	if err := l.apply(ctx, workflowID, []byte(definition)); err != nil {
		return err
	}
	for i := range workers {
		w := &worker{journal: l.c.journal, id: fmt.Sprintf("worker-%02d", i), slots: slots, does: labour}
		cfg := agent.Config{ID: w.id, Version: "1", Capabilities: []string{"one", "two"}, Slots: slots}
		if err := l.startAgent(ctx, working, w, cfg); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) apply(ctx context.Context, id string, definition []byte) error {
	m := nats.NewMsg(event.CommandSubject(event.KindWorkflowApply, id))
	m.Data = definition
	ctx, cancel := context.WithTimeout(ctx, sendPatience)
	defer cancel()
	outcome, _, err := l.conn.Call(ctx, m)
	if err == nil && outcome.Error != nil {
		err = outcome.Error
	}
	if err != nil {
		return fmt.Errorf("store workflow %s: %w", id, err)
	}
	return nil
}

// startAgent starts an agent whose every attempt is in the journal, and waits until it is ready.
func (l *load) startAgent(ctx, working context.Context, w *worker, cfg agent.Config) error {
	cfg.URL, cfg.DrainTimeout, cfg.Log = l.c.env.NATSURL, 3*time.Second, slog.New(slog.DiscardHandler)
	a, err := agent.New(cfg, w.do)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	l.agents.Go(func() {
		err := a.Run(working)
		if err == nil {
			l.c.journal.Delivered(w.id)
		} else {
			l.c.cfg.Log.Warn("agent ended", "agent", w.id, "err", err)
		}
		ended <- err
	})
	select {
	case <-a.Ready():
		return nil
	case err := <-ended:
		return fmt.Errorf("agent %s ended at once: %w", w.id, err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// worker is one agent's side of the ledger.
type worker struct {
	journal *loadgen.Journal
	id      string
	slots   int
	does    agent.Handler
	fits    func(t *agent.Task, out any) bool // whether what it brings is what the workflow asks for; nil: anything is
}

func (w *worker) do(ctx context.Context, t *agent.Task) (any, error) {
	w.journal.Begin(w.id, w.slots, t.Ref(), time.Now())
	out, err := w.does(ctx, t)
	status := event.StatusCompleted
	switch {
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), agent.ErrCancelled):
		w.journal.Cancelled(w.id, t.Ref(), time.Now())
		status = ""
	case err != nil, w.fits != nil && !w.fits(t, out): // what does not fit is a failed attempt
		status = event.StatusFailed
	}
	w.journal.End(w.id, t.Ref(), status, time.Now())
	return out, err
}

// labour takes its time, and fails now and then.
func labour(ctx context.Context, _ *agent.Task) (any, error) {
	fails := rand.IntN(failEvery) == 0
	switch done := pause(ctx, time.Duration(rand.Int64N(int64(2*work)))); {
	case !done:
		return nil, context.Cause(ctx)
	case fails:
		return nil, errors.New("as planned")
	}
	return nil, nil
}

// run sends until ctx ends, and returns when every message was answered or given up.
func (l *load) run(ctx context.Context) {
	rate := l.c.cfg.Rate
	if rate <= 0 {
		rate = defaultRate
	}
	l.senders.Go(func() { l.startRuns(ctx, rate) })
	for i := range talkers {
		l.senders.Go(func() { l.talk(ctx, i, 2*rate/talkers) })
	}
	l.senders.Wait()
}

// startRuns starts runs at a rate and cancels some of them.
func (l *load) startRuns(ctx context.Context, rate float64) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	var under sync.WaitGroup
	defer under.Wait()
	for i := 1; ; i++ {
		var due time.Time
		select {
		case <-ctx.Done():
			return
		case due = <-tick.C:
		}
		under.Go(func() {
			if l.examples != nil {
				l.startExample(ctx, due, i)
				return
			}
			run := uuid.NewString()
			if l.startRun(ctx, due, run) && i%cancelEvery == 0 {
				l.cancelRun(ctx, run)
			}
		})
	}
}

func (l *load) startRun(ctx context.Context, due time.Time, run string) bool {
	n := l.c.journal.Send(loadgen.KindStart, run)
	body := &event.RunStart{WorkflowID: workflowID, Input: event.Raw(fmt.Sprintf(`{"n":%d}`, n))}
	return l.publish(ctx, n, message{opStart, event.CommandSubject(event.KindRunStart, run), event.MustMarshal(body), due, 0})
}

func (l *load) cancelRun(ctx context.Context, run string) {
	n := l.c.journal.Send(loadgen.KindCancel, run)
	body := &event.RunCommand{Reason: "chaos"}
	l.publish(ctx, n, message{opTell, event.CommandSubject(event.KindRunCancel, run), event.MustMarshal(body), time.Now(), 0})
}

// The operations, by what is sent how.
const (
	opStart    = "PUB run"
	opTell     = "PUB command"
	opRegister = "PUB register"
	opState    = "PUB state"
	opPost     = "POST state"
)

// message is what is sent over NATS.
type message struct {
	operation string
	subject   string
	body      []byte
	due       time.Time
	interval  time.Duration // until its sender sends the next one; 0 when that does not wait for this one
}

// publish sends a message until a stream has it. It may take longer than the load: what is under way is brought to its end.
func (l *load) publish(ctx context.Context, n uint64, m message) bool {
	ack, err := l.send(ctx, m)
	if err != nil {
		return false
	}
	l.c.journal.Ack(n, loadgen.Position{Stream: ack.Stream, Seq: ack.Seq})
	return true
}

func (l *load) send(ctx context.Context, m message) (bus.Ack, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendPatience)
	defer cancel()
	sent := time.Now()
	ack, err := l.conn.Publish(ctx, &nats.Msg{Subject: m.subject, Data: m.body})
	l.c.meter.Done(loadgen.Request{Operation: m.operation, Intended: m.due, Sent: sent, Interval: m.interval, Err: err})
	return ack, err
}

// talk registers an agent and reports its state again and again, one report after the other.
func (l *load) talk(ctx context.Context, i int, rate float64) {
	id := fmt.Sprintf("talker-%02d", i)
	byHTTP := i%2 == 0
	dice := rand.New(rand.NewPCG(l.c.cfg.Seed, uint64(i)))
	every := time.Duration(float64(time.Second) / rate)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for registered := false; ; {
		var due time.Time
		select {
		case <-ctx.Done():
			return
		case due = <-tick.C:
		}
		switch {
		case !registered:
			registered = l.register(ctx, due, id)
		case byHTTP:
			sent := time.Now()
			err := l.reportHTTP(ctx, id, dice)
			l.c.meter.Done(loadgen.Request{Operation: opPost, Intended: due, Sent: sent, Interval: every, Err: err})
		default:
			n := l.c.journal.Send(loadgen.KindState, id)
			body := &event.State{State: words[dice.IntN(len(words))], Details: event.Raw(fmt.Sprintf(`{"n":%d}`, n))}
			l.publish(ctx, n, message{opState, event.AgentSubject(event.VerbState, id), event.MustMarshal(body), due, every})
		}
	}
}

var words = []string{"idle", "active", "error", "finished"}

func (l *load) register(ctx context.Context, due time.Time, id string) bool {
	n := l.c.journal.Send(loadgen.KindRegister, id)
	body := &event.Register{AgentName: id, Version: "1", Capabilities: []string{"talking"}, Metadata: event.Raw(fmt.Sprintf(`{"n":%d}`, n))}
	return l.publish(ctx, n, message{opRegister, event.AgentSubject(event.VerbRegister, id), event.MustMarshal(body), due, 0})
}

// reportHTTP sends a report to any replica. What is not answered may be stored or not.
func (l *load) reportHTTP(ctx context.Context, id string, dice *rand.Rand) error {
	n := l.c.journal.Send(loadgen.KindState, id)
	body := fmt.Sprintf(`{"agentId":%q,"timestamp":%q,"state":%q,"details":{"n":%d}}`,
		id, time.Now().UTC().Format(time.RFC3339Nano), words[dice.IntN(len(words))], n)
	url := l.c.env.URLs[dice.IntN(len(l.c.env.URLs))] + "/v1/opscore/agent/" + id + "/state"
	req, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+l.c.env.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.http.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		if resp.StatusCode < http.StatusInternalServerError {
			l.c.journal.Refuse(n, resp.Status)
		}
		return loadgen.StatusError(resp.StatusCode)
	}
	stream, seq, _ := strings.Cut(resp.Header.Get("Opscore-Sequence"), "/")
	number, _ := strconv.ParseUint(seq, 10, 64)
	l.c.journal.Ack(n, loadgen.Position{Stream: stream, Seq: number})
	return nil
}

// stop ends the agents; what they still have to report is stored when it returns, unless NATS does not answer.
func (l *load) stop() {
	l.stopWork()
	l.agents.Wait()
}

// close ends everything. It may follow stop.
func (l *load) close() {
	l.stop()
	l.senders.Wait()
	l.http.CloseIdleConnections()
	l.conn.Close()
}
