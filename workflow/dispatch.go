package workflow

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

const (
	maxPicky   = 1000    // picky classes of a capability that are told of a free agent; others find it by the slow scan
	headPage   = 256     // ready tasks of a class looked at in one go
	maxClasses = 100_000 // selector classes remembered; they are hints, and the slow scan finds again what is forgotten
	maxLeast   = 64      // of which so many are looked at for one that is not needed
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
	probe   bool            // the slow scan found it waiting: if nobody else can, an agent whose breaker is open may take one task
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
		e.forgetClass(e.leastClass())
	}
	k := &class{name: name, want: parseClass(name), pooled: make(map[string]bool)}
	e.classes[name] = k
	if c := k.want.Capability; c != "" && name != simpleClass+c && len(e.picky[c]) < maxPicky {
		e.picky[c] = append(e.picky[c], k)
	}
	return k
}

// leastClass returns a class that is needed least: one that waits for nothing if a few looks find it, else any.
func (e *Engine) leastClass() (least *class) {
	looks := 0
	for _, k := range e.classes { // in random order
		if least = k; !k.backlog && !k.dirty {
			break
		}
		if looks++; looks == maxLeast {
			break
		}
	}
	return least
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

// freed tells the classes that an agent could serve, if it has a free slot.
func (e *Engine) freed(g *lifecycle.Gate, now time.Time) {
	if !g.Takes(now) {
		return
	}
	for _, name := range [...]string{namedClass + g.Agent, boundClass + g.Agent} {
		if k := e.classes[name]; k != nil {
			e.touch(k)
		}
	}
	if !g.Free(now) {
		return
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

// assign gives one ready task to an agent whose gate was picked, unless its input is not what the agent takes: then that is decided next.
func (e *Engine) assign(ctx context.Context, v *view, c *change, taskID string, gate *lifecycle.Gate) error {
	ready := c.after.Find(taskID)
	if fits, err := e.fits(ctx, v, c, ready, gate); !fits || err != nil {
		return err
	}
	in := &Assign{
		TaskID: taskID, Agent: gate.Agent, Instance: gate.Instance, Token: string(e.revs.Next()), Delivery: gate.Via(), Schema: c.terms(ready, gate).Output,
	}
	if epoch := e.cfg.Keeper.Epoch(); !c.after.born().After(epoch.At) {
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
			e.freed(g, v.now)
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
		if c.def, err = e.definitionOf(ctx, c.after); err != nil {
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
		given++
		if len(c.assigned) > 0 {
			v.seal(c, e.revs)
		}
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
	probe := k.probe
	gate, err := e.pick(ctx, v, &change{}, k, false)
	k.probe = probe
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
	if err := e.lookAtPauses(ctx); err != nil {
		return err
	}
	n := 0
	for _, k := range e.classes { // in random order
		if n == scanKnown {
			break
		}
		if k.backlog {
			k.dry, k.probe = false, true
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
		k.backlog, k.dry, k.probe = true, false, true
		e.touch(k)
	}
	return nil
}
