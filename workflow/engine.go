package workflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow/contract"
)

const (
	runCache  = 16_384 // runs remembered with their revisions
	gateCache = 16_384
	defCache  = 1_024

	schemaCache = 128 // compiled schemas of agents: one of the largest takes some MiB

	toldCache     = 8192                   // a fact that is forgotten is told once more if its due entry was read before it went
	acceptedCache = 100_000                // an agent whose answer is forgotten is asked once more
	maxTries      = 50                     // conflicts in a row before a batch is given back to be tried again later
	scanEvery     = 250 * time.Millisecond // the net under the wake-ups
	duePeriod     = 100 * time.Millisecond // how often due timers are looked for
	sayPeriod     = 200 * time.Millisecond // a run that goes on is said to have changed so long after it did, at least
	duePage       = 256
	turnSize      = 256  // inputs decided together
	batchSize     = 1024 // messages taken at a time: several turns, each decided while the one before is committed
)

// Config is what an Engine needs. All fields but Crash are required.
type Config struct {
	Store  storage.Store
	Bus    *bus.Conn
	Keeper *lifecycle.Keeper
	Log    *slog.Logger
	// Retention is how long a run that has ended is kept, and MaxEnded how many such runs are; 0 means DefaultRetention and DefaultMaxEnded. None is removed
	// before the stream of commands has let go of what was said of it.
	Retention time.Duration
	MaxEnded  int
	// LegacyTimeout is how long a run started over the old API may take; 0 means the constant of that name. Runs keep what they were started with.
	LegacyTimeout time.Duration
	// Crash is called at named points, for fault tests.
	Crash func(point string)
}

// Engine turns what happens to runs into changes of their documents, and gives ready tasks to free agents. Several engines
// may work on one store; none holds anything that another could not find there.
//
// All work is done in turns: take inputs, decide, dispatch, commit in one round trip, act. One is decided at a time, and commits follow one another; but while
// one turn is being committed the next is decided.
type Engine struct {
	cfg  Config
	name string // of this replica
	revs *storage.Revisions

	mu      sync.Mutex // held for a turn, but not while it waits for its commit
	runs    *storage.Cache[*Run]
	gates   *storage.Cache[*lifecycle.Gate]
	defs    *storage.Cache[*Definition]
	latest  *storage.Cache[*latest]
	classes map[string]*class
	picky   map[string][]*class // classes that ask for more than a capability, by that
	dirty   []*class            // classes that something happened to
	scanned storage.Cursor      // of the slow scan over all classes
	paused  map[string]bool     // capabilities whose queues are paused; nil before that was read
	session session

	retiring   sync.Mutex      // held by Retire
	swept      storage.Cursor  // of its sweep over old runs
	flights    map[*view]bool  // being committed while others are decided
	lastFlight <-chan struct{} // closed when the one launched last has landed

	wake     event.Wake                         // what other replicas shall be told of this turn
	hints    hints                              // and of those before
	accepted *storage.Cache[int]                // attempts that their agents have accepted, until that is committed
	schemas  *storage.Cache[*contract.Contract] // of agents, by their names
	inbox    inbox
	intake   intakeClock
	watched  time.Time      // when the watch was kept last; of fireTimers
	kin      storage.Cursor // how far the timers of children were read; of fireTimers
	facts    factSet
	told     *storage.Cache[struct{}] // facts about agents that were published, until they are forgotten
	limits   *storage.Cache[*limiter]
	trees    *storage.Cache[treeCount] // by their indexes
	jobs     jobList
	plans    memo[*plan]       // of tasks that have children
	pages    memo[[]event.Raw] // of items
}

// NewEngine makes an Engine.
func NewEngine(cfg Config) *Engine {
	if cfg.Crash == nil {
		cfg.Crash = func(string) {}
	}
	cfg.Retention, cfg.MaxEnded = cmp.Or(cfg.Retention, DefaultRetention), cmp.Or(cfg.MaxEnded, DefaultMaxEnded)
	revs := storage.NewRevisions()
	e := &Engine{
		cfg: cfg, revs: revs, name: string(revs.Next()),
		runs:    storage.NewCache[*Run](runCache),
		gates:   storage.NewCache[*lifecycle.Gate](gateCache),
		defs:    storage.NewCache[*Definition](defCache),
		latest:  storage.NewCache[*latest](defCache),
		limits:  storage.NewCache[*limiter](defCache),
		trees:   storage.NewCache[treeCount](defCache),
		classes: make(map[string]*class),
		picky:   make(map[string][]*class),
		flights: make(map[*view]bool),

		accepted: storage.NewCache[int](acceptedCache),
		told:     storage.NewCache[struct{}](toldCache),
		schemas:  storage.NewCache[*contract.Contract](schemaCache),
	}
	e.session.key = sessionKey(e.name)
	e.plans, e.pages = newMemo[*plan](), newMemo[[]event.Raw]()
	e.inbox.init()
	e.hints.init()
	e.facts.init()
	e.jobs.init()
	return e
}

// Run consumes events and commands, fires timers and dispatches, until ctx ends and all its goroutines are gone.
func (e *Engine) Run(ctx context.Context) error {
	consumer, err := e.cfg.Bus.NewConsumer(bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Workers: 2, // one decides while the other waits for the store
		MaxBatch: batchSize, MaxHeld: 2 * batchSize,
		Handler: e.Handle, Newer: e.cfg.Keeper.Newer, Log: e.cfg.Log, Crash: e.cfg.Crash,
	})
	if err != nil {
		return fmt.Errorf("consume %s: %w", event.StreamWork, err)
	}
	hints, err := e.subscribeHints()
	if err != nil {
		return err
	}
	defer func() { _ = hints.Unsubscribe() }()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return consumer.Run(ctx) })
	g.Go(func() error { return e.fireTimers(ctx) })
	g.Go(func() error { return e.drainInbox(ctx) })
	g.Go(func() error { return e.sayChanges(ctx) })
	g.Go(func() error { return e.retire(ctx) })
	for range jobWorkers {
		g.Go(func() error { return e.work(ctx) })
	}
	return g.Wait()
}

// Forget drops all remembered documents: the store came back older than it was.
func (e *Engine) Forget() {
	// A turn may be waiting for the store; what it remembers afterwards meets a conflict.
	e.runs.Clear()
	e.gates.Clear()
	e.latest.Clear()
	e.limits.Clear()
	e.told.Clear()
}

// Handle folds one batch of messages. It gives each its verdict, or returns an error when the store does not answer.
func (e *Engine) Handle(ctx context.Context, batch []*bus.Msg) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	inputs := make([]*input, 0, len(batch))
	for _, m := range batch {
		d, err := event.Decode(m.Subject, m.Data)
		if err != nil {
			e.refuse(m, asError(err))
			continue
		}
		switch ev := d.Event.(type) {
		case *event.WorkflowApply:
			// What stands before it in the stream is decided by the definitions as they were.
			if err := e.turn(ctx, inputs); err != nil {
				return err
			}
			inputs = inputs[:0]
			if err := e.apply(ctx, m, ev); err != nil {
				return err
			}
		case *event.WorkflowCommand:
			if err := e.turn(ctx, inputs); err != nil {
				return err
			}
			inputs = inputs[:0]
			if err := e.holdWorkflow(ctx, m, ev); err != nil {
				return err
			}
		case *event.ScheduleApply, *event.ScheduleCommand:
			if err := e.turn(ctx, inputs); err != nil {
				return err
			}
			inputs = inputs[:0]
			if cmd, ok := ev.(*event.ScheduleCommand); ok && cmd.Kind == event.KindScheduleTrigger {
				in, err := e.trigger(ctx, m, d.ID)
				if err != nil {
					return err
				}
				if in != nil {
					inputs = append(inputs, in)
				}
			} else if err := e.changeSchedule(ctx, m, d.ID, ev); err != nil {
				return err
			}
		case *event.QueueCommand:
			if err := e.changeQueue(ctx, m, ev); err != nil {
				return err
			}
		case *event.RunStart:
			inputs = append(inputs, &input{run: d.ID, msg: m, start: ev})
		case *event.RunCommand:
			heard := m.Header.Get(event.HeaderReply) != ""
			inputs = append(inputs, &input{run: d.ID, msg: m, in: &Command{RunCommand: ev, Heard: heard}})
		default:
			ref, _ := refOf(ev)
			inputs = append(inputs, &input{run: ref.RunID, msg: m, in: &Said{Agent: d.ID, Event: ev}})
		}
	}
	return e.turn(ctx, inputs)
}

// turn takes inputs until all are decided and committed. It returns an error when the store does not answer; inputs are then tried again
// by whoever gave them.
//
// Many inputs are taken in chunks: one is decided while the one before it is being committed. What a chunk will have written is
// remembered at once, since its revisions are known; should it not be written after all, whatever was decided on it meets a conflict too.
func (e *Engine) turn(ctx context.Context, inputs []*input) error {
	again, err := e.pipeline(ctx, inputs)
	if err != nil {
		return err
	}
	for try := 1; len(again) > 0; try++ {
		if try == maxTries {
			return fmt.Errorf("%d inputs: %w", len(again), storage.ErrConflict)
		}
		for _, in := range again {
			in.again = true
		}
		v, err := e.prepare(ctx, again, try)
		if err != nil {
			return err
		}
		e.launch(v)
		if again, err = e.finish(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// pipeline takes inputs in chunks and returns those that must be decided again.
func (e *Engine) pipeline(ctx context.Context, inputs []*input) (again []*input, err error) {
	var ahead *view // launched, and not finished
	defer func() { e.abandon(ctx, ahead) }()
	late := make(map[string]bool) // runs with an input that is decided again: their later ones wait behind it
	for first := true; first || len(inputs) > 0; first = false {
		n := min(len(inputs), turnSize)
		chunk := make([]*input, 0, n)
		for _, in := range inputs[:n] {
			if in.gate == nil && late[in.run] {
				again = append(again, in)
			} else {
				chunk = append(chunk, in)
			}
		}
		inputs = inputs[n:]
		v, err := e.prepare(ctx, chunk, 0)
		before := ahead
		if ahead = v; err == nil {
			e.launch(v)
			if before != nil || len(inputs) > 0 { // there is something else to do meanwhile
				v.flight.begin(ctx, e.cfg.Store)
			}
		}
		more, ferr := e.finish(ctx, before)
		if err := errors.Join(err, ferr); err != nil {
			_, _ = e.finish(ctx, ahead) // what it wrote is acted on; the rest is decided again with all others
			return nil, err
		}
		for _, in := range more {
			late[in.run] = true
		}
		again = append(again, more...)
	}
	more, err := e.finish(ctx, ahead)
	return append(again, more...), err
}

// prepare decides inputs, gives ready tasks to free agents, and seals the changes.
func (e *Engine) prepare(ctx context.Context, inputs []*input, try int) (*view, error) {
	v := &view{now: time.Now(), runs: make(map[string]*slot[*Run], len(inputs)), gates: make(map[string]*slot[*lifecycle.Gate])}
	v.touched, v.apart = make(map[storage.Key]*group, 3*len(inputs)), try > 0 // what met a conflict shall not drag others along again
	dispatching := e.cfg.Keeper.Dispatching() == nil
	runInputs, err := e.foldGates(ctx, v, inputs) // first, while the view holds no gate that was only remembered
	if err != nil {
		return nil, err
	}
	if e.paused == nil {
		if err := e.lookAtPauses(ctx); err != nil {
			return nil, err
		}
	}
	if err := e.loadInputs(ctx, v, runInputs); err != nil {
		return nil, err
	}
	for _, group := range byRun(runInputs) {
		if err := e.fold(ctx, v, group, dispatching); err != nil {
			return nil, err
		}
	}
	if dispatching {
		if err := e.dispatch(ctx, v, try); err != nil {
			return nil, err
		}
	}
	for _, g := range v.groups {
		g.close(v.now)
	}
	for _, c := range v.changes {
		e.remember(c)
	}
	return v, nil
}

// byRun groups inputs by run, in the order of each run's first input.
func byRun(inputs []*input) [][]*input {
	place := make(map[string]int, len(inputs))
	groups := make([][]*input, 0, len(inputs))
	for _, in := range inputs {
		i, ok := place[in.run]
		if !ok {
			i = len(groups)
			place[in.run] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], in)
	}
	return groups
}

// finish waits for the outcomes of a view's changes, acts on those that were written, and returns the inputs that must be decided again. While it waits
// others may take their turn. A nil view has none.
func (e *Engine) finish(ctx context.Context, v *view) (again []*input, err error) {
	if v == nil {
		return nil, nil
	}
	var errs []error
	if v.flight != nil {
		errs = e.land(ctx, v)
		delete(e.flights, v)
		e.cfg.Crash("workflow-after-commit")
	}
	regressed := false
	if len(v.head) > 0 {
		regressed = e.session.confirm(errs[0], e.revs)
		errs = errs[1:]
	}
	var unknown error
	for i, g := range v.groups {
		more, err := e.settle(g, errs[i])
		again = append(again, more...)
		if err != nil {
			unknown = err
		}
	}
	e.sendWake()
	for _, err := range errs[len(v.groups):] {
		if err != nil {
			unknown = err
		}
	}
	if unknown != nil || len(again) > 0 {
		e.facts.sent(v.published...) // some may stand in a Txn that was not written
	}
	if unknown != nil {
		return nil, fmt.Errorf("commit runs: %w", unknown)
	}
	if regressed {
		e.cfg.Keeper.Alarm("the store lost this replica's last writes: checking")
	}
	return append(v.unsure, again...), nil
}

// settle acts on what a group has written, or returns the inputs that met a conflict and the error of a group that may be written or not.
func (e *Engine) settle(g *group, err error) (again []*input, unknown error) {
	if errors.Is(err, storage.ErrInvalid) {
		panic(err)
	}
	for _, c := range g.changes {
		if err == nil {
			e.act(c)
			continue
		}
		e.forget(c)
		e.putBack(c)
		again = append(again, c.inputs...)
	}
	switch {
	case err == nil:
		for agent, span := range g.gates {
			if span.after.Takes(time.Now()) {
				e.wake.Agents = append(e.wake.Agents, agent)
			}
		}
		return nil, nil
	case !errors.Is(err, storage.ErrConflict):
		return nil, err
	case g.assigns():
		e.session.doubted = true // was it the session that did not hold? its own Txn will tell
	}
	return again, nil
}

func (e *Engine) remember(c *change) {
	if c.after != c.before {
		e.runs.Store(runKey(c.after.ID), c.group.txn.Rev, c.after)
	}
	e.rememberLimits(c)
	for agent, g := range c.gates {
		e.gates.Store(lifecycle.GateKey(agent), c.group.txn.Rev, g)
	}
}

func (e *Engine) forget(c *change) {
	if c.run != nil && c.after != nil {
		e.runs.Forget(runKey(c.after.ID))
	} else if len(c.inputs) > 0 {
		e.runs.Forget(runKey(c.inputs[0].run))
	}
	e.forgetLimits(c)
	for agent := range c.gates {
		e.gates.Forget(lifecycle.GateKey(agent))
	}
	for _, cond := range c.conds {
		e.latest.Forget(cond.Key)
		e.gates.Forget(cond.Key)
	}
	for _, d := range c.docs {
		e.latest.Forget(d.key)
	}
	for _, s := range c.spawn { // it may have been made from what was not written either
		e.plans.forget(planKey(c.after.ID, s.TaskID, s.Round))
	}
}

// putBack returns the hints of a change that met a conflict: its agents may be free still, its class still waits.
func (e *Engine) putBack(c *change) {
	for _, g := range c.gatesBefore {
		e.freed(g, time.Now())
	}
	if c.class != nil {
		c.class.backlog = true
		e.touch(c.class)
		e.inbox.wakeSoon()
	}
}
