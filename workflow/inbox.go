package workflow

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// inbox gathers what comes from other goroutines between turns, and what one turn finds for the next. Inputs are bounded by the requests in flight, due entries,
// tasks that start children and misfits by maxFired each, what jobs find by maxFound, hints by maxHints.
type inbox struct {
	mu      sync.Mutex
	inputs  []*input
	fired   map[storage.IndexOp]bool // the due entries among the inputs
	misfits map[string]bool          // the tasks that the misfits among them are about
	mores   map[string]bool          // the tasks that may start children
	found   int                      // how many of them jobs have found
	agents  map[string]bool
	classes map[string]bool
	signal  chan struct{}
}

const (
	maxHints = 100_000 // hints beyond this are left to the slow scan
	maxFired = 10_000  // due entries beyond this are left to the timers, which find them in the store
	maxFound = 128     // jobs wait while there are more
)

func (b *inbox) init() {
	b.fired, b.misfits, b.mores = make(map[storage.IndexOp]bool), make(map[string]bool), make(map[string]bool)
	b.agents, b.classes = make(map[string]bool), make(map[string]bool)
	b.signal = make(chan struct{}, 1)
}

func (b *inbox) add(in ...*input) {
	b.mu.Lock()
	for _, one := range in {
		if one.found {
			b.found++
		}
	}
	b.inputs = append(b.inputs, in...)
	b.mu.Unlock()
	b.wakeSoon()
}

// full reports whether no more jobs should be done: each may find a MiB.
func (b *inbox) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.found >= maxFound
}

// fire looks at a due entry at once. One that waits already is not put beside itself: a parent that has not taken in the end of a child is told of it again
// and again, and a tree of runs that is told of faster than it is decided would fill the memory with nothing new.
func (b *inbox) fire(op storage.IndexOp) {
	b.mu.Lock()
	if !b.fired[op] && len(b.fired) < maxFired {
		b.fired[op] = true
		b.inputs = append(b.inputs, &input{fired: true, timer: &op})
	}
	b.mu.Unlock()
	b.wakeSoon()
}

// more lets a task start children, unless it is about to. One that finds no room is found again by its timer.
func (b *inbox) more(run, task string) {
	b.once(b.mores, run, task, &More{TaskID: task, Limit: maxSpawn})
}

// once puts an input about a task into the inbox, unless one of its kind waits there.
func (b *inbox) once(waiting map[string]bool, run, task string, in Input) {
	key := readyMember(run, task)
	b.mu.Lock()
	if !waiting[key] && len(waiting) < maxFired {
		waiting[key] = true
		b.inputs = append(b.inputs, &input{run: run, in: in})
	}
	b.mu.Unlock()
	b.wakeSoon()
}

// busy reports whether more waits than one turn takes.
func (b *inbox) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.inputs) >= batchSize
}

// turnAway puts a misfit into the inbox, unless one about its task waits there.
func (b *inbox) turnAway(run string, in *Misfit) { b.once(b.misfits, run, in.TaskID, in) }

// turnedAway reports whether a misfit about a task waits to be decided.
func (b *inbox) turnedAway(run, task string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.misfits) > 0 && b.misfits[readyMember(run, task)]
}

func (b *inbox) hint(agents, classes []string) {
	b.mu.Lock()
	addUpTo(maxHints, b.agents, agents)
	addUpTo(maxHints, b.classes, classes)
	b.mu.Unlock()
	b.wakeSoon()
}

// addUpTo puts names into a set that holds at most so many.
func addUpTo(limit int, set map[string]bool, names []string) {
	for _, name := range names {
		if len(set) < limit {
			set[name] = true
		}
	}
}

// wakeSoon makes the engine take another turn.
func (b *inbox) wakeSoon() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

// take returns all hints, and the inputs for a turn. Those that are left make another turn follow: in between, others have theirs.
func (b *inbox) take() (inputs []*input, agents, classes []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.inputs), batchSize)
	inputs = slices.Clone(b.inputs[:n])
	b.inputs = slices.Delete(b.inputs, 0, n)
	for _, in := range inputs {
		if in.fired {
			delete(b.fired, *in.timer)
		}
		if in.found {
			b.found--
		}
		switch about := in.in.(type) {
		case *Misfit:
			delete(b.misfits, readyMember(in.run, about.TaskID))
		case *More:
			delete(b.mores, readyMember(in.run, about.TaskID))
		}
	}
	if len(b.inputs) > 0 {
		b.wakeSoon()
	}
	agents, classes = slices.Collect(maps.Keys(b.agents)), slices.Collect(maps.Keys(b.classes))
	clear(b.agents)
	clear(b.classes)
	return inputs, agents, classes
}

// Wake tells the engine, and those of other replicas, that these agents became free or have ended an attempt. It does not block.
func (e *Engine) Wake(agents []string) {
	e.inbox.hint(agents, nil)
	publishWake(e.cfg.Bus.NC(), event.Wake{From: e.name, Agents: agents})
}

// Announce tells all engines what Wake does, from a process that has none. A hint may be lost; the slow scan finds the same.
func Announce(nc *nats.Conn, agents []string) { publishWake(nc, event.Wake{Agents: agents}) }

func publishWake(nc *nats.Conn, w event.Wake) {
	_ = nc.Publish(event.SubjectWake, event.MustMarshal(w)) // nobody to tell when the connection is down
}

// hints gathers what other replicas shall be told together, each once.
type hints struct {
	mu              sync.Mutex
	agents, classes map[string]bool
}

// maxTold bounds what is gathered, and the size of a message. What is beyond is left to the slow scans.
const maxTold = 1000

func (h *hints) init() { h.agents, h.classes = make(map[string]bool), make(map[string]bool) }

// gather keeps what a turn has to tell, and reports whether it is the first to wait.
func (h *hints) gather(w event.Wake) (first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first = len(h.agents)+len(h.classes) == 0
	addUpTo(maxTold, h.agents, w.Agents)
	addUpTo(maxTold, h.classes, w.Classes)
	return first
}

// take returns what was gathered.
func (h *hints) take(from string) event.Wake {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := event.Wake{From: from, Agents: slices.Collect(maps.Keys(h.agents)), Classes: slices.Collect(maps.Keys(h.classes))}
	clear(h.agents)
	clear(h.classes)
	return w
}

func (e *Engine) subscribeHints() (*nats.Subscription, error) {
	return e.cfg.Bus.NC().Subscribe(event.SubjectWake, func(m *nats.Msg) {
		var w event.Wake
		if event.Unmarshal(m.Data, &w) == nil && w.From != e.name {
			e.inbox.hint(w.Agents, w.Classes)
		}
	})
}

// drainInbox takes a turn whenever something came, and a slow scan four times a second.
func (e *Engine) drainInbox(ctx context.Context) error {
	t := time.NewTicker(scanEvery)
	defer t.Stop()
	for {
		scan := false
		select {
		case <-ctx.Done():
			return nil
		case <-e.inbox.signal:
		case <-t.C:
			scan = true
		}
		inputs, agents, classes := e.inbox.take()
		if err := e.hintTurn(ctx, inputs, agents, classes, scan); err != nil && ctx.Err() == nil {
			e.cfg.Log.Warn("turn not taken, trying again", "err", err)
			e.inbox.add(inputs...)
			e.inbox.hint(agents, classes)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(scanEvery):
			}
		}
	}
}

func (e *Engine) hintTurn(ctx context.Context, inputs []*input, agents, classes []string, scan bool) (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.caught(&err)
	for _, name := range classes {
		k := e.class(name)
		k.backlog, k.dry = true, false
		e.touch(k)
	}
	for start := 0; start < len(agents); start += duePage {
		ends, err := e.hearAgents(ctx, agents[start:min(start+duePage, len(agents))])
		if err != nil {
			return err
		}
		inputs = append(inputs, ends...)
	}
	if inputs, err = e.expand(ctx, inputs); err != nil {
		return err
	}
	if scan {
		if err := e.scan(ctx); err != nil {
			return err
		}
	}
	return e.turn(ctx, inputs)
}

// hearAgents reads the gates of agents that are said to be free, or to have ended what they hold, and returns the ends.
func (e *Engine) hearAgents(ctx context.Context, agents []string) (ends []*input, err error) {
	keys := make([]storage.Key, len(agents))
	for i, a := range agents {
		keys[i] = lifecycle.GateKey(a)
	}
	e.gates.Forget(keys...)
	v := &view{now: time.Now(), gates: make(map[string]*slot[*lifecycle.Gate])}
	if err := e.loadGates(ctx, v, agents); err != nil {
		return nil, err
	}
	for _, s := range v.gates {
		e.freed(s.val, v.now)
		if ends, err = e.appendEnds(ctx, ends, s.val); err != nil {
			return nil, err
		}
	}
	return ends, nil
}

// factSet knows which final facts are on their way, and which due entries can go.
type factSet struct {
	mu       sync.Mutex
	inflight map[string]bool
	done     map[string]storage.IndexOp // by member: a fact may have been published twice
	changed  map[string]unsaid          // by run: what is said at the next moment unless the run ends before
	aged     map[string]unsaid          // those of the moment before
}

// unsaid is a change of a run that goes on.
type unsaid struct {
	run   *Run
	cause string
}

func (f *factSet) init() {
	f.inflight, f.done, f.changed = make(map[string]bool), make(map[string]storage.IndexOp), make(map[string]unsaid)
}

func (f *factSet) later(r *Run, cause string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed[r.ID] = unsaid{r, cause}
}

func (f *factSet) drop(run string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.changed, run)
	delete(f.aged, run)
}

// moment takes the changes that are a moment old and were not followed by the end of their run.
func (f *factSet) moment() map[string]unsaid {
	f.mu.Lock()
	defer f.mu.Unlock()
	said := f.aged
	f.aged, f.changed = f.changed, make(map[string]unsaid)
	for run := range f.aged {
		delete(said, run) // a later change replaces it, at the next moment
	}
	return said
}

// begin reports whether a fact is to be published: it is not being published already, nor was it while its due entry waits to be removed.
func (f *factSet) begin(member string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, done := f.done[member]; done || f.inflight[member] {
		return false
	}
	f.inflight[member] = true
	return true
}

func (f *factSet) end(member string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.inflight, member)
}

func (f *factSet) sent(ops ...storage.IndexOp) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, op := range ops {
		f.done[op.Member] = op
	}
}

// published takes the due entries of facts that were published since.
func (f *factSet) published() []storage.IndexOp {
	f.mu.Lock()
	defer f.mu.Unlock()
	ops := make([]storage.IndexOp, 0, min(len(f.done), maxRemoves))
	for member, op := range f.done {
		if len(ops) == maxRemoves {
			break
		}
		ops = append(ops, op)
		delete(f.done, member)
	}
	return ops
}

const maxRemoves = 512 // due entries removed by one Txn

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
