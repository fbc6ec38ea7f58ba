package workflow

import (
	"math/rand/v2"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// input is one thing that happened, on its way into a run.
type input struct {
	run    string
	in     Input
	msg    *bus.Msg         // nil for timers and answers to requests
	start  *event.RunStart  // a start whose definition is not resolved yet
	at     time.Time        // stream timestamp of what is no message itself, but follows from one
	seq    uint64           // of that message, where it counts
	answer *event.Outcome   // what its caller hears after the commit
	timer  *storage.IndexOp // the due entry it came from
	gate   *gateInput       // about an agent's gate alone
	holder string           // of a Gone: the agent whose gate holds the attempt
	again  bool             // decided before, in vain
	fired  bool             // nothing but a due entry, to be looked at
	found  bool             // by a job
	stray  bool             // its agent is at work on an attempt that is over
}

// slot is a document in a view: its present value and the revision the next Txn must condition on.
type slot[T any] struct {
	rev     storage.Rev
	val     T
	fresh   bool // read from the store in this attempt, not remembered
	written bool // a change of this view writes it
}

// view is what one attempt at a turn sees: documents as they were read or remembered, with the changes of the turn so far. Each change
// conditions on the revisions that the ones before it will write, so all go out in one round trip.
type view struct {
	now     time.Time
	runs    map[string]*slot[*Run]
	gates   map[string]*slot[*lifecycle.Gate]
	limits  map[string]*slot[*limiter]
	changes []*change
	groups  []*group               // what the changes go out with, in that order
	touched map[storage.Key]*group // by document: the last group that reads or writes it
	apart   bool                   // each change goes out alone
	unsure  []*input               // decided to do nothing, on the word of a document that was only remembered
	removes []storage.IndexOp      // entries to remove on their own, conditional on their score
	base    *uint64                // last sequence of StreamAgent, once it was needed
	looks   int                    // agents that picky classes have looked at

	flight    *flight           // once it was launched, if it writes anything
	head      []storage.Txn     // the session's own Txn, when it is due
	published []storage.IndexOp // due entries of facts that the stream has
}

// change is what happens to one run and the gates it touches.
type change struct {
	run           *slot[*Run] // nil when only gates change
	def           *Definition
	before, after *Run
	inputs        []*input
	class         *class                     // dispatched from this class's queue
	gates         map[string]*lifecycle.Gate // as they shall be
	gatesBefore   map[string]*lifecycle.Gate // as they were when the change began
	docs          []document
	conds         []storage.Cond
	listed        []string // definitions that become known
	assigned      []string // tasks that were given to an agent by this change
	ask           []string // tasks whose agent is asked again
	drains        []SlotChange
	cause         string // of the fact
	spawn         []Spawn
	limits        map[string]*limiter  // as they shall be
	at            time.Time            // when limiters were changed
	rendered      map[string]event.Raw // inputs of tasks that were reached by this change
	story         []event.Transition
	spent         []RunTask // with which the run failed, their retries spent
	remove        []storage.IndexOp
	group         *group // the Txn it goes out with
}

// document is a document that is written along: an input, an output, a definition.
type document struct {
	key  storage.Key
	rev  storage.Rev
	data []byte
}

func (c *change) empty() bool {
	return c.after == c.before && len(c.gates) == 0 && len(c.docs) == 0 && len(c.remove) == 0
}

// gate returns a gate for changing: a copy that belongs to this change.
func (v *view) gate(c *change, agent string) *lifecycle.Gate {
	if g := c.gates[agent]; g != nil {
		return g
	}
	old := v.gates[agent].val
	g := *old
	if c.gates == nil {
		c.gates, c.gatesBefore = make(map[string]*lifecycle.Gate, 1), make(map[string]*lifecycle.Gate, 1)
	}
	c.gates[agent], c.gatesBefore[agent] = &g, old
	return &g
}

// conditions returns the conditions on documents that the change does not write, each once.
func (c *change) conditions() []storage.Cond {
	written := make(map[storage.Key]bool, len(c.gates)+len(c.docs)+len(c.conds))
	for agent := range c.gates {
		written[lifecycle.GateKey(agent)] = true
	}
	for _, d := range c.docs {
		written[d.key] = true
	}
	conds := c.conds[:0]
	for _, cond := range c.conds {
		if !written[cond.Key] {
			written[cond.Key] = true
			conds = append(conds, cond)
		}
	}
	return conds
}

// timer moves a timer from one time to another; the zero time means that there is none.
func (o *indexOps) timer(index storage.Index, member func() string, before, after time.Time) {
	switch {
	case before.Equal(after):
	case after.IsZero():
		o.remove(index, member())
	default:
		o.add(index, member(), after)
	}
}

// timers is the index in which the timer of a task stands.
func (t *RunTask) timers() storage.Index {
	if t.Kids != nil && t.State == event.TaskWaiting {
		return kinIndex
	}
	return dueIndex
}

// moveTimer is timer for a task, whose timer may go from one index to another.
func (o *indexOps) moveTimer(runBefore, run *Run, before, after *RunTask) {
	member := func() string { return timer(timerTask, run.ID, after.ID) }
	from, to, is := before.timers(), after.timers(), run.look(after)
	was := runBefore.look(before)
	if from != to {
		o.timer(from, member, was, time.Time{})
		was = time.Time{}
	}
	o.timer(to, member, was, is)
}

func (o *indexOps) run(before, after *Run) {
	var none Run
	if after.stub() {
		o.add(earlyIndex, after.ID, after.Created)
		o.add(dueIndex, timer(timerEarly, after.ID), after.Created.Add(earlyFor))
		return
	}
	if !before.exists() {
		if before != nil {
			o.remove(earlyIndex, after.ID)
			o.remove(dueIndex, timer(timerEarly, after.ID))
		}
		before = &none
		switch {
		case after.Parent == nil: // children are found by their parent
			o.add(runIndex, after.ID, after.Created)
		case after.Parent.Tree != "":
			o.add(treeIndex(after.Parent.Tree), after.ID, after.Created)
		}
	}
	o.queue(before, after)
	o.timer(dueIndex, func() string { return timer(timerRun, after.ID) }, before.Look, after.Look)
	if at := pauseTurned(before, after); !at.IsZero() {
		for i := range after.Tasks {
			if k := after.Tasks[i].Kids; k != nil && len(k.Active) > 0 {
				o.add(kinIndex, timer(timerKin, after.ID, after.Tasks[i].ID), at)
			}
		}
	}
	if at := asksTurned(before, after); !at.IsZero() {
		o.add(kinIndex, timer(timerAsks, after.ID), at)
	}
	if after.State.Final() && (!before.State.Final() || after.Parent == nil) { // each that changes it has a version of its own
		op := endDue(after)
		o.addScore(op.Index, op.Member, op.Score)
		if after.Parent == nil {
			o.add(endedIndex, after.ID, after.Ended)
		}
	}
	if before.State.Final() && !after.State.Final() { // it was retried or run again
		o.remove(endedIndex, after.ID)
	}
	at := 0
	for i := range after.Tasks {
		t := &after.Tasks[i]
		old := &RunTask{}
		if j := before.findFrom(at, t.ID); j >= 0 {
			old, at = &before.Tasks[j], j+1
		}
		o.task(before, after, old, t)
	}
	at = 0
	for i := range before.Tasks {
		old := &before.Tasks[i]
		if j := after.findFrom(at, old.ID); j >= 0 {
			at = j + 1
		} else {
			o.task(before, after, old, &RunTask{ID: old.ID})
		}
	}
}

// queue moves a run that is pending from one queue to another.
func (o *indexOps) queue(before, after *Run) {
	was, is := before.queue(), after.queue()
	if was == is {
		return
	}
	if was != "" {
		o.remove(pendingIndex(was), after.ID)
	}
	if is != "" {
		o.add(pendingIndex(is), after.ID, after.Created)
	}
}

func (o *indexOps) task(runBefore, run *Run, before, after *RunTask) {
	o.moveTimer(runBefore, run, before, after)
	if before.leaves(after) {
		o.add(kinIndex, timer(timerKin, run.ID, after.ID), after.Ended)
	}
	if was, is := before.asks(), after.asks(); was != is {
		if is {
			o.add(approvalIndex, readyMember(run.ID, after.ID), after.Started)
		} else {
			o.remove(approvalIndex, readyMember(run.ID, after.ID))
		}
	}
	was, is := runBefore.class(before), run.class(after)
	if was == is {
		return
	}
	if was != "" {
		o.remove(readyIndex(was), readyMember(run.ID, after.ID))
	}
	if is != "" {
		o.add(readyIndex(is), readyMember(run.ID, after.ID), place(after.Ready, after.Priority))
		// A class is struck off the list only if its mark is still the one read before it was found empty.
		o.addScore(classIndex, is, storage.Score(rand.Int64N(int64(storage.MaxScore))))
	}
}

func (o *indexOps) take(add, remove []storage.IndexOp) {
	for _, op := range add {
		o.addScore(op.Index, op.Member, op.Score)
	}
	for _, op := range remove {
		o.remove(op.Index, op.Member)
	}
}

func (o *indexOps) gate(before, after *lifecycle.Gate, now time.Time) {
	o.take(lifecycle.FreeOps(before, after, now))
	o.take(lifecycle.FactOps(before, after, now), nil)
	o.take(lifecycle.EndOps(before, after, now))
	if at := after.Wakes(now); !at.IsZero() {
		o.add(dueIndex, timer(timerBackoff, after.Agent), at)
	}
}
