package workflow

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

const (
	maxPicks   = 1024    // agents looked at for one task
	poolPage   = 64      // agents of a capability looked at in one go
	maxLooks   = 2048    // agents that one turn reads to find those that picky classes ask for; the next goes on behind them
	maxPicky   = 1000    // picky classes of a capability that are told of a free agent; others find it by the slow scan
	spreadOver = 16      // agents of which the one with the fewest tasks is taken
	headPage   = 256     // ready tasks of a class looked at in one go
	maxClasses = 100_000 // selector classes remembered; they are hints
	scanPage   = 64      // listed classes looked at by one slow scan
	scanKnown  = 256     // known classes looked at by one slow scan
)

// class is what this replica knows of a selector class. All of it is a hint: the store decides.
type class struct {
	name    string
	want    lifecycle.Want
	backlog bool            // there are, or may be, ready tasks in the store
	dirty   bool            // something changed that may let a ready task go
	dry     bool            // the store listed no free agent since the last hint
	pool    []string        // agents that are probably free, least recently used first
	pooled  map[string]bool // members of pool
	listed  storage.Cursor  // how far the store's list of free agents was read
	mark    *storage.Score  // its score in the list of classes, when it was read
}

// class returns what is known of a selector class, making it known.
func (e *Engine) class(name string) *class {
	if k := e.classes[name]; k != nil {
		return k
	}
	if len(e.classes) >= maxClasses {
		for _, k := range e.classes { // any that waits for nothing
			if !k.backlog && !k.dirty {
				e.forgetClass(k)
				break
			}
		}
	}
	k := &class{name: name, want: parseClass(name), pooled: make(map[string]bool)}
	e.classes[name] = k
	if c := k.want.Capability; c != "" && name != simpleClass+c && len(e.picky[c]) < maxPicky {
		e.picky[c] = append(e.picky[c], k)
	}
	return k
}

// forgetClass makes room for another class.
func (e *Engine) forgetClass(k *class) {
	delete(e.classes, k.name)
	c := k.want.Capability
	if e.picky[c] = slices.DeleteFunc(e.picky[c], func(other *class) bool { return other == k }); len(e.picky[c]) == 0 {
		delete(e.picky, c)
	}
}

func (k *class) offer(agent string) {
	if k.want.Agent == "" && !k.pooled[agent] && len(k.pool) < 4*poolPage {
		k.pool = append(k.pool, agent)
		k.pooled[agent] = true
	}
	k.dry = false
}

// touch notes that something happened that may let a waiting task of the class go.
func (e *Engine) touch(k *class) {
	if !k.dirty {
		k.dirty = true
		e.dirty = append(e.dirty, k)
	}
}

// next takes an agent out of the pool: the first, or after conflicts with other replicas one of the first few.
func (k *class) next(spread bool) string {
	i := 0
	if spread {
		i = rand.IntN(min(4, len(k.pool)))
	}
	agent := k.pool[i]
	k.pool = append(k.pool[:i], k.pool[i+1:]...)
	delete(k.pooled, agent)
	return agent
}

// freed tells the classes an agent could serve that it has a free slot.
func (e *Engine) freed(g *lifecycle.Gate) {
	for _, name := range [...]string{namedClass + g.Agent, boundClass + g.Agent} {
		if k := e.classes[name]; k != nil {
			e.touch(k)
		}
	}
	for _, c := range g.Caps {
		if k := e.classes[simpleClass+c]; k != nil {
			k.offer(g.Agent)
			e.touch(k)
		}
		for _, k := range e.picky[c] {
			if lifecycle.Fits(g, k.want) {
				k.offer(g.Agent)
				e.touch(k)
			}
		}
	}
}

// assignReady gives the ready tasks of a change to free agents at once, in the same Txn. Where others wait already the task queues up behind them.
func (e *Engine) assignReady(ctx context.Context, v *view, c *change) error {
	for i := range c.after.Tasks {
		if c.after.Tasks[i].State != event.TaskReady {
			continue
		}
		k := e.class(c.after.Tasks[i].Class)
		if k.backlog {
			continue
		}
		gate, err := e.pick(ctx, v, c, k, false)
		if err != nil {
			return err
		}
		if gate == nil {
			k.backlog = true
			continue
		}
		if err := e.assign(ctx, v, c, c.after.Tasks[i].ID, gate); err != nil {
			return err
		}
		if gate.Free(v.now) { // it has more slots, and is the most recently used now
			k.offer(gate.Agent)
		}
	}
	return nil
}

// pick finds a free agent for a class, or nil. An agent with more free slots goes back to the end of the pool when it has been given a task.
func (e *Engine) pick(ctx context.Context, v *view, c *change, k *class, spread bool) (*lifecycle.Gate, error) {
	if k.want.Agent != "" {
		if err := e.loadGates(ctx, v, []string{k.want.Agent}); err != nil {
			return nil, err
		}
		return v.match(c, k.want.Agent, k.want), nil
	}
	for range maxPicks {
		if len(k.pool) == 0 {
			if err := e.fillPool(ctx, v, k); err != nil || len(k.pool) == 0 {
				return nil, err
			}
		}
		if err := e.lightestFirst(ctx, v, c, k); err != nil {
			return nil, err
		}
		agent := k.next(spread)
		if err := e.loadGates(ctx, v, []string{agent}); err != nil {
			return nil, err
		}
		if gate := v.match(c, agent, k.want); gate != nil {
			return gate, nil
		}
	}
	return nil, nil
}

// lightestFirst moves the agent with the fewest tasks to the front of the pool of a class that wants its tasks spread.
func (e *Engine) lightestFirst(ctx context.Context, v *view, c *change, k *class) error {
	if !k.want.Spread {
		return nil
	}
	if len(k.pool) < spreadOver {
		if err := e.fillPool(ctx, v, k); err != nil {
			return err
		}
	}
	first := k.pool[:min(len(k.pool), spreadOver)]
	if err := e.loadGates(ctx, v, first); err != nil {
		return err
	}
	best := slices.MinFunc(first, func(a, b string) int { return cmp.Compare(len(v.seen(c, a).Held), len(v.seen(c, b).Held)) })
	i := slices.Index(first, best)
	copy(first[1:i+1], first[:i])
	first[0] = best
	return nil
}

// seen returns an agent's gate as it is after what was changed so far.
func (v *view) seen(c *change, agent string) *lifecycle.Gate {
	if g := c.gates[agent]; g != nil {
		return g
	}
	return v.gates[agent].val
}

// match returns the agent's gate, for changing, if it may take a task of this kind now.
func (v *view) match(c *change, agent string, want lifecycle.Want) *lifecycle.Gate {
	if lifecycle.Match(v.seen(c, agent), want, v.now) != nil {
		return nil
	}
	return v.gate(c, agent)
}

// fillPool reads agents that the store lists as free and that are what the class asks for. A picky class may have to look far for one: it looks at a
// few pages in each turn, and remembers how far it came.
func (e *Engine) fillPool(ctx context.Context, v *view, k *class) error {
	for found := false; !k.dry && !found && v.looks < maxLooks; {
		entries, err := e.cfg.Store.Range(ctx, lifecycle.FreeIndex(k.want.Capability), k.listed, storage.MaxScore, poolPage)
		if err != nil {
			return fmt.Errorf("look for free agents: %w", err)
		}
		k.listed, k.dry = storage.Cursor{}, true // until a hint says otherwise: what is listed now is in the pool
		if len(entries) == poolPage {            // the next page may have others
			last := entries[poolPage-1]
			k.listed, k.dry = storage.Cursor{Score: last.Score, Member: last.Member}, false
		}
		if found, err = e.poolPage(ctx, v, k, entries); err != nil {
			return err
		}
	}
	return nil
}

// poolPage puts the agents of a page that the class does not have yet into its pool, and reports whether there was one.
func (e *Engine) poolPage(ctx context.Context, v *view, k *class, entries []storage.Entry) (found bool, err error) {
	ids := make([]string, 0, len(entries))
	for _, entry := range entries {
		if k.pooled[entry.Member] {
			continue
		}
		ids = append(ids, entry.Member)
		if g, ok := e.gates.Load(lifecycle.GateKey(entry.Member)); ok && lifecycle.Match(g.Value, k.want, v.now) != nil {
			v.distrustGate(e, entry.Member) // the store lists it as free and able
		}
	}
	if err := e.loadGates(ctx, v, ids); err != nil {
		return false, err
	}
	if k.want.Picky() {
		v.looks += len(ids)
		ids = slices.DeleteFunc(ids, func(id string) bool { return !lifecycle.Fits(v.gates[id].val, k.want) })
	}
	for _, id := range ids {
		k.pool = append(k.pool, id)
		k.pooled[id] = true
	}
	return len(ids) > 0, nil
}

// assign gives one ready task to an agent whose gate was picked.
func (e *Engine) assign(ctx context.Context, v *view, c *change, taskID string, gate *lifecycle.Gate) error {
	in := &Assign{TaskID: taskID, Agent: gate.Agent, Instance: gate.Instance, Token: string(e.revs.Next()), Delivery: gate.Via()}
	if epoch := e.cfg.Keeper.Epoch(); !c.after.Created.After(epoch.At) {
		in.Above = int(epoch.N) * attemptSkip // attempts that the store has lost may have had the numbers below
	}
	d := Decide(c.def, c.after, in, At{Now: v.now})
	if d.Run == nil {
		return nil
	}
	t := d.Run.Find(taskID)
	gate.Take(t.ref(d.Run.ID), gate.Instance, v.now)
	if t.once() {
		base, err := e.agentBase(ctx, v)
		if err != nil {
			return err
		}
		gate.Watch(t.ref(d.Run.ID), base)
	}
	c.advance(in, &d)
	c.assigned = append(c.assigned, taskID)
	return nil
}

// attemptSkip is how far attempt numbers skip ahead with each regression of the store.
const attemptSkip = 1000

// dispatch gives waiting tasks of the classes that something happened to, to agents that are free.
func (e *Engine) dispatch(ctx context.Context, v *view, try int) error {
	for _, c := range v.changes {
		for _, g := range c.gates {
			if g.Free(v.now) {
				e.freed(g)
			}
		}
	}
	dirty := e.dirty
	e.dirty = nil
	for i, k := range dirty {
		k.dirty = false
		if !k.backlog {
			continue
		}
		if err := e.dispatchClass(ctx, v, k, try); err != nil {
			for _, k := range dirty[i:] { // a hint that could not be acted on is put back
				k.dirty = false
				e.touch(k)
			}
			return err
		}
	}
	return nil
}

// dispatchClass gives the tasks at the head of one class to free agents, until either runs out.
func (e *Engine) dispatchClass(ctx context.Context, v *view, k *class, try int) error {
	if free, err := e.anyFree(ctx, v, k); err != nil || !free {
		return err // parked until an agent that could serve it is free
	}
	heads, err := e.heads(ctx, v, k)
	if err != nil {
		return err
	}
	given := 0
	for _, h := range heads {
		if !waits(v.runs[h.run].val, h.task, k) {
			v.distrustRun(e, h.run)
			if err := e.loadRuns(ctx, v, []string{h.run}); err != nil {
				return err
			}
		}
		c := &change{run: v.runs[h.run], before: v.runs[h.run].val, after: v.runs[h.run].val, class: k}
		if !waits(c.after, h.task, k) {
			continue // taken by an earlier change of this turn, or by another replica
		}
		if c.def, err = e.definition(ctx, c.after.Workflow, c.after.DefVersion); err != nil {
			return err
		}
		gate, err := e.pick(ctx, v, c, k, try > 0)
		if err != nil {
			return err
		}
		if gate == nil {
			if given > 0 { // what is being committed may have hidden who else is free
				e.touch(k)
				e.inbox.wakeSoon()
			}
			return nil // parked
		}
		if err := e.assign(ctx, v, c, h.task, gate); err != nil {
			return err
		}
		if gate.Free(v.now) {
			k.offer(gate.Agent)
		}
		v.seal(c, e.revs)
		given++
	}
	k.backlog = len(heads) > 0
	if given > 0 {
		e.touch(k)
		e.inbox.wakeSoon()
	}
	return nil
}

// anyFree reports whether the class has an agent to offer; it stays in the pool.
func (e *Engine) anyFree(ctx context.Context, v *view, k *class) (bool, error) {
	gate, err := e.pick(ctx, v, &change{}, k, false)
	if gate != nil && k.want.Agent == "" {
		k.pool = append([]string{gate.Agent}, k.pool...)
		k.pooled[gate.Agent] = true
	}
	return gate != nil, err
}

// waits reports whether a task is ready in this class.
func waits(run *Run, task string, k *class) bool {
	if run == nil || run.State != event.RunRunning {
		return false
	}
	t := run.Find(task)
	return t != nil && t.State == event.TaskReady && t.Class == k.name
}

// head is a ready task in its queue.
type head struct{ run, task string }

// heads reads the ready tasks at the head of a class, with their runs. A class that is found empty is struck off the list.
func (e *Engine) heads(ctx context.Context, v *view, k *class) ([]head, error) {
	entries, err := e.cfg.Store.Range(ctx, readyIndex(k.name), storage.Cursor{}, storage.MaxScore, headPage)
	if err != nil {
		return nil, fmt.Errorf("read ready tasks: %w", err)
	}
	if len(entries) == 0 && k.mark != nil {
		v.removes = append(v.removes, storage.IndexOp{Index: classIndex, Member: k.name, Score: *k.mark})
		k.mark = nil
	}
	heads := make([]head, 0, len(entries))
	runs := make([]string, 0, len(entries))
	for _, entry := range entries {
		run, task, ok := parseReady(entry.Member)
		if !ok {
			continue
		}
		heads, runs = append(heads, head{run, task}), append(runs, run)
	}
	return heads, e.loadRuns(ctx, v, runs)
}

// scan is the net under the wake-ups: it looks at some classes that are known to wait, and at some of those that the store lists.
func (e *Engine) scan(ctx context.Context) error {
	n := 0
	for _, k := range e.classes { // in random order
		if n == scanKnown {
			break
		}
		if k.backlog {
			k.dry = false
			if k.want.Agent != "" {
				e.gates.Forget(lifecycle.GateKey(k.want.Agent)) // a hint about it may have been lost
			}
			e.touch(k)
			n++
		}
	}
	entries, err := e.cfg.Store.Range(ctx, classIndex, e.scanned, storage.MaxScore, scanPage)
	if err != nil {
		return fmt.Errorf("scan classes: %w", err)
	}
	e.scanned = storage.Cursor{}
	if len(entries) == scanPage {
		last := entries[scanPage-1]
		e.scanned = storage.Cursor{Score: last.Score, Member: last.Member}
	}
	for _, entry := range entries {
		k := e.class(entry.Member)
		k.mark = &entry.Score
		k.backlog, k.dry = true, false
		e.touch(k)
	}
	return nil
}
