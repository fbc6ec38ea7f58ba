package workflow

import (
	"slices"
	"time"

	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// Bounds of a group: what goes together also fails together.
const (
	maxGroup      = 16        // changes
	maxGroupBytes = 128 << 10 // of documents
	maxRide       = 64        // removals that go along
)

// group is one Txn in the making: changes that touch the same gates, one after the other. A gate is written once for all of them, which saves
// most of what a busy gate costs.
type group struct {
	place   int // among the groups of the view, in the order they are committed
	changes []*change
	txn     storage.Txn
	bytes   int
	gates   map[string]*gateSpan
	limits  map[string]*limiter
	known   map[storage.Key]bool // documents that have a condition
}

// gateSpan is what a group makes of a gate.
type gateSpan struct{ before, after *lifecycle.Gate }

// seal puts a change into a Txn and lets the changes after it see what it will have written.
func (v *view) seal(c *change, revs *storage.Revisions) {
	g := v.join(c)
	if g == nil {
		g = v.open(revs)
	}
	v.sealInto(g, c)
}

// open begins a group behind all others.
func (v *view) open(revs *storage.Revisions) *group {
	g := &group{place: len(v.groups), gates: make(map[string]*gateSpan, 1), known: make(map[storage.Key]bool, 4)}
	g.txn.Rev = revs.Next()
	v.groups = append(v.groups, g)
	return g
}

// sealInto is seal for a group that is the last one, or stands where the change can go.
func (v *view) sealInto(g *group, c *change) {
	c.group = g
	g.changes = append(g.changes, c)
	for _, cond := range c.conditions() {
		g.condition(cond.Key, cond.Rev)
		v.touched[cond.Key] = g
	}
	ops := &indexOps{txn: &g.txn}
	if c.after != c.before {
		c.tell(&g.txn, v.now)
		v.put(g, runKey(c.after.ID), c.run.rev, c.after.encode())
		c.run.rev, c.run.val, c.run.written = g.txn.Rev, c.after, true
		ops.run(c.before, c.after)
		for i := range c.spent {
			op := spentTimer(c.after.ID, &c.spent[i])
			ops.addScore(op.Index, op.Member, op.Score)
		}
	}
	for _, d := range c.docs {
		v.put(g, d.key, d.rev, d.data)
	}
	for agent, gate := range c.gates {
		s := v.gates[agent]
		if span := g.gates[agent]; span != nil {
			span.after = gate
		} else {
			g.gates[agent] = &gateSpan{before: c.gatesBefore[agent], after: gate}
			g.condition(lifecycle.GateKey(agent), s.rev)
			v.touched[lifecycle.GateKey(agent)] = g
		}
		s.rev, s.val, s.written = g.txn.Rev, gate, true
	}
	v.limit(g, c, ops)
	for _, s := range c.drains {
		ops.add(dueIndex, drainTimer(s.Agent, s.Ref), v.now.Add(AskAgain))
	}
	for _, id := range c.listed {
		ops.addScore(workflowIndex, id, 0)
	}
	for _, op := range c.remove {
		ops.remove(op.Index, op.Member)
	}
	v.changes = append(v.changes, c)
}

// join returns the group that a change can go into, or nil. It stands where nothing that the change reads or writes is touched by a group behind it;
// a run, or any other document but a gate, is touched by one change of a group only.
func (v *view) join(c *change) *group {
	var g *group
	for agent := range c.gates {
		if last := v.touched[lifecycle.GateKey(agent)]; last != nil && (g == nil || last.place > g.place) {
			g = last
		}
	}
	if g == nil || v.apart || len(g.changes) >= maxGroup || g.bytes >= maxGroupBytes {
		return nil
	}
	if c.after != c.before && v.touched[runKey(c.after.ID)] != nil {
		return nil
	}
	for _, d := range c.docs {
		if v.touched[d.key] != nil {
			return nil
		}
	}
	for _, cond := range c.conds {
		if last := v.touched[cond.Key]; last != nil && last.place > g.place {
			return nil
		}
	}
	for q := range c.limits {
		if last := v.touched[limitKey(q)]; last != nil && last.place > g.place {
			return nil
		}
	}
	return g
}

// condition adds a condition on a document, once.
func (g *group) condition(k storage.Key, rev storage.Rev) {
	if !g.known[k] {
		g.known[k] = true
		g.txn.If = append(g.txn.If, storage.Cond{Key: k, Rev: rev})
	}
}

func (v *view) put(g *group, k storage.Key, old storage.Rev, data []byte) {
	g.condition(k, old)
	g.txn.Put = append(g.txn.Put, storage.Put{Key: k, Data: data})
	g.bytes += len(data)
	v.touched[k] = g
}

// close writes the gates and limiters of a group, as its last change left them.
func (g *group) close(now time.Time) {
	g.closeLimits()
	ops := &indexOps{txn: &g.txn}
	for agent, span := range g.gates {
		ops.gate(span.before, span.after, now) // before it is encoded: it notes what it lists
		g.txn.Put = append(g.txn.Put, storage.Put{Key: lifecycle.GateKey(agent), Data: span.after.Encode()})
	}
}

// ride lets removals go with the Txns of the view, where they cost nothing but themselves, and returns those that find no room. Their members are never
// added again.
func (v *view) ride(removes []storage.IndexOp) (left []storage.IndexOp) {
	for _, g := range v.groups {
		n := min(len(removes), maxRide)
		g.txn.IndexRemove = append(g.txn.IndexRemove, removes[:n]...)
		removes = removes[n:]
	}
	return removes
}

// assigns reports whether a change of the group hands out a task.
func (g *group) assigns() bool {
	return slices.ContainsFunc(g.changes, func(c *change) bool { return len(c.assigned) > 0 })
}

// indexOps collects what happens to the indexes. Of two operations on one member the later one counts: a Txn removes after it has added.
type indexOps struct{ txn *storage.Txn }

func (o *indexOps) add(index storage.Index, member string, at time.Time) {
	o.addScore(index, member, storage.Score(max(at.UnixMicro(), 0)))
}

func (o *indexOps) addScore(index storage.Index, member string, score storage.Score) {
	o.txn.IndexAdd = append(without(o.txn.IndexAdd, index, member), storage.IndexOp{Index: index, Member: member, Score: score})
	o.txn.IndexRemove = without(o.txn.IndexRemove, index, member)
}

func (o *indexOps) remove(index storage.Index, member string) {
	o.txn.IndexRemove = append(without(o.txn.IndexRemove, index, member), storage.IndexOp{Index: index, Member: member})
}

// distinct leaves each entry in a list of removals once, since a Txn must not name it twice: several inputs of a turn may have come from the same. Of two scores the
// higher one is that of the entry as it is now.
func distinct(removes []storage.IndexOp) []storage.IndexOp {
	type name struct {
		index  storage.Index
		member string
	}
	if len(removes) < 2 {
		return removes
	}
	place := make(map[name]int, len(removes))
	list := make([]storage.IndexOp, 0, len(removes))
	for _, op := range removes {
		n := name{op.Index, op.Member}
		if i, there := place[n]; there {
			list[i].Score = max(list[i].Score, op.Score)
			continue
		}
		place[n] = len(list)
		list = append(list, op)
	}
	return list
}

func without(ops []storage.IndexOp, index storage.Index, member string) []storage.IndexOp {
	for i := range ops {
		if ops[i].Member == member && ops[i].Index == index {
			return slices.Delete(ops, i, i+1)
		}
	}
	return ops
}
