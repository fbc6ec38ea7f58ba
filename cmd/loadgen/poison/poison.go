// Package poison proves that messages which can never be handled harm no others: it mixes them among good ones, and compares the dead letters and what became
// of the good ones with what was sent.
package poison

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/loadgen/audit"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/loadgen"
)

// Config says what is done.
type Config struct {
	Good     int // messages that are in order
	Poison   int // messages that can never be handled
	Replicas int
	Seed     uint64
	Log      *slog.Logger
	Progress func(sent, of int) // told now and then
}

// Result is what became of the messages.
type Result struct {
	Seed    uint64         `json:"seed"`
	Good    int            `json:"good"`           // sent and acknowledged
	Poison  int            `json:"poison"`         // sent and acknowledged
	Kinds   map[string]int `json:"kinds"`          // of poison
	Letters int            `json:"letters"`        // dead letters that there are
	Missing []string       `json:"missing"`        // poison without a letter, the first of them in words
	Doubled []string       `json:"doubled"`        // poison with several
	Wrong   []string       `json:"wrong"`          // letters that give another reason than they should
	Foreign []string       `json:"foreign"`        // letters of good messages
	Ledger  loadgen.Ledger `json:"ledger"`         // of the good ones
	Seconds float64        `json:"seconds"`        // from the first message until all were sent
	Settled float64        `json:"settledSeconds"` // from then until all were handled
}

// OK reports whether every poisonous message has one letter, with the right reason, and every good one its effect.
func (r *Result) OK() bool {
	bad := len(r.Missing) + len(r.Doubled) + len(r.Wrong) + len(r.Foreign)
	return bad == 0 && r.Letters == r.Poison && r.Ledger.Clean() && r.Ledger.Acked > 0 && r.Ledger.Stored == r.Ledger.Acked
}

// What the good messages consist of.
const (
	perTalker  = 40 // reports of an agent: fewer than the stream keeps of one, so that a consumer that lags misses none for the history
	runShare   = 20 // one good message of so many starts a run of one task
	workers    = 8  // agents that do those tasks
	slots      = 16 // of each
	workflowID = "poison"
	definition = `{"id":"poison","tasks":[{"taskId":"t","agentCapability":"work"}]}`
	patience   = 2 * time.Minute // until everything is handled
)

// load is one run of the command.
type load struct {
	cfg     Config
	conn    *bus.Conn
	journal *loadgen.Journal
	dice    *rand.Rand
	talkers int // agents that report how they are
	result  *Result

	wait     sync.WaitGroup // for acknowledgements
	mu       sync.Mutex
	expected map[loadgen.Position]kind // of poison
	failed   error                     // the first publish that was not acknowledged
}

// Run starts the servers, sends, and compares.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	e, err := env.Start(ctx, env.Config{Replicas: cfg.Replicas})
	if err != nil {
		return nil, err
	}
	defer func() { _ = e.Close() }()
	conn, err := bus.Connect(ctx, bus.Config{URL: e.NATSURL, Name: "loadgen poison", Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	l := &load{
		cfg: cfg, conn: conn, journal: loadgen.NewJournal(), dice: rand.New(rand.NewPCG(cfg.Seed, 0)),
		talkers: max(cfg.Good/perTalker, 1),
		result:  &Result{Seed: cfg.Seed, Kinds: make(map[string]int)}, expected: make(map[loadgen.Position]kind),
	}
	stop, err := l.startWorkers(ctx, e.NATSURL)
	if err != nil {
		return nil, err
	}
	defer stop()
	begin := time.Now()
	if err := l.send(ctx); err != nil {
		return nil, err
	}
	sent := time.Now()
	l.result.Seconds = sent.Sub(begin).Seconds()
	ledger, err := audit.Run(ctx, audit.Target{NATSURL: e.NATSURL, StoreURL: e.StoreURL, Patience: patience}, l.journal)
	if err != nil {
		return nil, err
	}
	l.result.Ledger = *ledger
	l.result.Settled = time.Since(sent).Seconds()
	return l.result, l.compare(ctx)
}

// startWorkers stores the workflow and starts the agents that do its tasks. What stop returns after is acknowledged.
func (l *load) startWorkers(ctx context.Context, natsURL string) (stop func(), err error) {
	m := nats.NewMsg(event.CommandSubject(event.KindWorkflowApply, workflowID))
	m.Data = []byte(definition)
	limited, cancelCall := context.WithTimeout(ctx, 20*time.Second)
	defer cancelCall()
	outcome, _, err := l.conn.Call(limited, m)
	if err == nil && outcome.Error != nil {
		err = outcome.Error
	}
	if err != nil {
		return nil, fmt.Errorf("store the workflow: %w", err)
	}
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	stop = func() { cancel(); running.Wait() }
	for i := range workers {
		id := fmt.Sprintf("worker-%d", i)
		a, err := agent.New(agent.Config{
			URL: natsURL, ID: id, Version: "1", Capabilities: []string{"work"}, Slots: slots, Log: slog.New(slog.DiscardHandler),
		}, func(_ context.Context, t *agent.Task) (any, error) {
			l.journal.Begin(id, slots, t.Ref(), time.Now())
			l.journal.End(id, t.Ref(), event.StatusCompleted, time.Now())
			return nil, nil
		})
		if err != nil {
			stop()
			return nil, err
		}
		running.Go(func() { _ = a.Run(working) })
		select {
		case <-a.Ready():
		case <-ctx.Done():
			stop()
			return nil, context.Cause(ctx)
		}
	}
	return stop, nil
}

// send sends everything, poison at random places, and returns when all of it is acknowledged.
func (l *load) send(ctx context.Context) error {
	for i := range l.talkers { // with a process each, so that another one can be called stale
		id := talker(i)
		n := l.journal.Send(loadgen.KindRegister, id)
		body := event.Register{AgentName: id, Version: "1", Instance: "now", Metadata: event.Raw(fmt.Sprintf(`{"n":%d}`, n))}
		l.publish(event.AgentSubject(event.VerbRegister, id), event.MustMarshal(&body), l.acked(n))
	}
	conflicting := uuid.NewString() // a run that is there before it is started with another body
	if err := l.begin(ctx, conflicting); err != nil {
		return fmt.Errorf("start a run: %w", err)
	}
	l.wait.Wait()

	good, poison := max(l.cfg.Good-l.talkers-1, 0), l.cfg.Poison
	told := time.Now()
	for good+poison > 0 && ctx.Err() == nil {
		if l.dice.IntN(good+poison) < poison {
			poison--
			l.poison(conflicting)
		} else {
			good--
			l.good(good)
		}
		if time.Since(told) > time.Second {
			told = time.Now()
			l.cfg.Progress(l.cfg.Good+l.cfg.Poison-good-poison, l.cfg.Good+l.cfg.Poison)
		}
	}
	l.wait.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return l.failed
}

func talker(i int) string { return fmt.Sprintf("talker-%04d", i) }

// good sends the nth good message.
func (l *load) good(n int) {
	if n%runShare == 0 {
		l.start(uuid.NewString())
		return
	}
	id := talker(n % l.talkers)
	number := l.journal.Send(loadgen.KindState, id)
	body := event.State{State: "idle", Instance: "now", Details: event.Raw(fmt.Sprintf(`{"n":%d}`, number))}
	switch n % 10 { // clocks of agents order nothing
	case 1:
		body.Timestamp = "2999-12-31T23:59:59Z"
	case 2:
		body.Timestamp = "1970-01-01T00:00:00Z"
	}
	l.publish(event.AgentSubject(event.VerbState, id), event.MustMarshal(&body), l.acked(number))
}

func (l *load) start(run string) {
	n, subject, body := l.startOf(run)
	l.publish(subject, body, l.acked(n))
}

// begin starts a run and returns when it is there: what stands behind the start in the stream may come to another replica, which decides it first.
func (l *load) begin(ctx context.Context, run string) error {
	ctx, cancel := context.WithTimeout(ctx, beginWait)
	defer cancel()
	n, subject, body := l.startOf(run)
	o, ack, err := l.conn.Call(ctx, &nats.Msg{Subject: subject, Data: body})
	if err == nil && o.Error != nil {
		err = o.Error
	}
	if err != nil {
		return err
	}
	l.acked(n)(loadgen.Position{Stream: ack.Stream, Seq: ack.Seq})
	return nil
}

// beginWait bounds how long a run is waited for.
const beginWait = 30 * time.Second

func (l *load) startOf(run string) (n uint64, subject string, body []byte) {
	n = l.journal.Send(loadgen.KindStart, run)
	start := event.RunStart{WorkflowID: workflowID, Input: event.Raw(fmt.Sprintf(`{"n":%d}`, n))}
	return n, event.CommandSubject(event.KindRunStart, run), event.MustMarshal(&start)
}

// acked notes that a good message is stored.
func (l *load) acked(n uint64) func(at loadgen.Position) {
	return func(at loadgen.Position) {
		l.journal.Ack(n, at)
		l.mu.Lock()
		l.result.Good++
		l.mu.Unlock()
	}
}

// poison sends a message that can never be handled, of a kind that the dice choose.
func (l *load) poison(conflicting string) {
	k := kinds[l.dice.IntN(len(kinds))]
	if k.large && l.result.Kinds[k.name] >= maxLarge {
		k = kinds[0]
	}
	l.result.Kinds[k.name]++
	subject, body := k.make(talker(l.dice.IntN(l.talkers)), conflicting, l.dice.Uint64())
	l.publish(subject, body, func(at loadgen.Position) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.expected[at] = k
		l.result.Poison++
	})
}

// publish stores a message without waiting; acked is called with its place.
func (l *load) publish(subject string, body []byte, acked func(loadgen.Position)) {
	l.wait.Add(1)
	done := func(ack bus.Ack, err error) {
		defer l.wait.Done()
		if err == nil {
			acked(loadgen.Position{Stream: ack.Stream, Seq: ack.Seq})
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.failed == nil {
			l.failed = fmt.Errorf("publish %s: %w", subject, err)
		}
	}
	if err := l.conn.PublishAsync(&nats.Msg{Subject: subject, Data: body}, done); err != nil {
		done(bus.Ack{}, err)
	}
}

// maxWords is how many findings of a kind are put into words.
const maxWords = 20

// compare compares the dead letters that there are with the poison that was sent.
func (l *load) compare(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.result
	note := func(list *[]string, format string, args ...any) {
		if len(*list) < maxWords {
			*list = append(*list, fmt.Sprintf(format, args...))
		}
	}
	found := make(map[loadgen.Position]int, len(l.expected))
	for cursor := ""; ; {
		page, err := l.conn.DeadLetters(ctx, event.DeadFilter{}, cursor, 500)
		if err != nil {
			return fmt.Errorf("read the dead letters: %w", err)
		}
		for _, letter := range page.Items {
			at := loadgen.Position{Stream: letter.Stream, Seq: letter.StreamSeq}
			r.Letters++
			found[at]++
			k, sent := l.expected[at]
			switch {
			case !sent:
				note(&r.Foreign, "letter %d, of %s/%d: %s: %s", letter.Seq, at.Stream, at.Seq, letter.Class, letter.Reason)
			case found[at] > 1:
				note(&r.Doubled, "letter %d is another one of %s/%d", letter.Seq, at.Stream, at.Seq)
			case letter.Class != k.class:
				note(&r.Wrong, "letter %d, %s, is %s: %s; want %s", letter.Seq, k.name, letter.Class, letter.Reason, k.class)
			}
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	for at, k := range l.expected {
		if found[at] == 0 {
			note(&r.Missing, "%s/%d, %s", at.Stream, at.Seq, k.name)
		}
	}
	return nil
}
