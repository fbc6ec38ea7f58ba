package workflow

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Bounds of what a task repeats.
const (
	MaxItems       = 10_000 // of a forEach
	MaxLoop        = 1000   // times of a loop
	MaxParallel    = 1000   // children of a task that go on at the same time
	MaxDepth       = 16     // runs inside one another
	defaultWindow  = 16     // maxParallel of a forEach that names none
	maxSpawn       = 32     // children started by one Txn
	itemsPage      = 100    // items of a forEach kept in one document
	lookAtChildren = time.Minute
)

// Codes of failures of a task that has children, and of a child that could not be made.
const (
	codeTooManyItems  = "too_many_items"
	codeLoopLimit     = "loop_limit"
	codeTooDeep       = "too_deep"
	codeTreeTooLarge  = "tree_too_large"
	codeChildConflict = "child_conflict"
	codeLost          = "lost"
)

// ParentRef names the run that a run is a child of, and its place there. Together they make the id of the child, so that it cannot be made twice.
type ParentRef struct {
	Run   string    `json:"run"`
	Task  string    `json:"task"`
	Round int       `json:"round"`          // how often the task had been entered, from 1
	Index int       `json:"index"`          // of the item, or how often the loop had gone round
	Items bool      `json:"items,omitzero"` // the index means something to an agent: forEach and loop
	Born  time.Time `json:"born"`           // when the first of its ancestors was created
	Only  string    `json:"only,omitzero"`  // the one task of the definition that it runs: what the task with forEach or loop does each time
	Depth int       `json:"depth,omitzero"` // how many runs it is inside of
	Tree  string    `json:"tree,omitzero"`  // what it is counted in, with all that the first of its ancestors and theirs have started
	Clock bool      `json:"clock,omitzero"` // a run that it is inside of has a time limit, whose clock stands while this one waits for people

	Previous *event.TaskError `json:"previous,omitzero"` // of the workflow inside of another: how it ended the last time that the task was tried
}

// ID returns the id of the child.
func (p *ParentRef) ID() string { return childID(p.Run, p.Task, p.Round, p.Index) }

// childID derives the id of a child from its place: plain characters, and the same in every replica and after every crash.
func childID(run, task string, round, index int) string {
	sum := sha256.Sum256([]byte(event.MustToken(run) + "|" + event.MustToken(task) + "|" + strconv.Itoa(round)))
	return hex.EncodeToString(sum[:12]) + "-" + strconv.Itoa(index)
}

// Children is what a run keeps of the children of one task. An index below Next that is not active has ended; how, its own document says.
type Children struct {
	Round  int              `json:"round,omitzero"`  // how often the task was entered, this time included
	Opened bool             `json:"opened,omitzero"` // Total is known
	Total  int              `json:"total,omitzero"`  // 0 for a loop: nobody knows
	Next   int              `json:"next,omitzero"`   // index of the one that is started next
	Active []int            `json:"active,omitzero"` // started and, as far as this run knows, not ended
	Done   int              `json:"done,omitzero"`
	Failed int              `json:"failed,omitzero"`
	Error  *event.TaskError `json:"error,omitzero"` // of the first that failed
	Again  bool             `json:"again,omitzero"` // of a loop: its condition holds
	Asks   []int            `json:"asks,omitzero"`  // those that wait for people, of a run with a time limit
	Past   []round          `json:"past,omitzero"`  // the rounds before, for those who list and remove their children
}

// round is how many children a task had when it was entered once.
type round struct {
	N      int   `json:"n"` // number of the round
	Count  int   `json:"count"`
	Active []int `json:"active,omitzero"` // children that had not ended, as far as the run knew: they are not wanted any more
}

// family is all children that a task has had in one round.
type family struct {
	run, task    string
	round, count int
}

// familiesOf returns the children that a task has had, round by round.
func familiesOf(run string, t *RunTask) []family {
	if t.Kids == nil {
		return nil
	}
	list := make([]family, 0, len(t.Kids.Past)+1)
	for _, r := range append(slices.Clone(t.Kids.Past), round{N: t.Kids.Round, Count: t.Kids.count()}) {
		list = append(list, family{run: run, task: t.ID, round: r.N, count: r.Count})
	}
	return list
}

// ChildIDs returns the ids of the runs that the tasks in the document have started; those of tasks that have left it are not among them.
func (r *Run) ChildIDs() []string {
	var ids []string
	for i := range r.Tasks {
		for _, f := range familiesOf(r.ID, &r.Tasks[i]) {
			for index := range f.count {
				ids = append(ids, childID(f.run, f.task, f.round, index))
			}
		}
	}
	return ids
}

// WaitsFor returns the limiter that the run waits for a place of, empty if it waits for none.
func (r *Run) WaitsFor() string {
	if q := r.slot(); r.waitsFor(q) {
		return q
	}
	return ""
}

// Holds returns the limiter of which the run has a place, empty if it has none.
func (r *Run) Holds() string {
	if q := r.slot(); r.holds(q) {
		return q
	}
	return ""
}

// itemPages names the documents that may hold the items of these children.
func itemPages(families []family) []storage.Key {
	var keys []storage.Key
	for _, f := range families {
		for page := range (f.count + itemsPage - 1) / itemsPage {
			keys = append(keys, itemsKey(f.run, f.task, f.round, page))
		}
	}
	return keys
}

// count is how many children there are, or have been so far if nobody knows.
func (k *Children) count() int { return max(k.Total, k.Next) }

// Opened says how many items a forEach has, and holds them by pages.
type Opened struct {
	TaskID string
	Round  int
	Total  int
	Pages  []event.Raw
	Tree   int              // how many runs its tree has
	Error  *event.TaskError // instead: why it cannot be known
}

// ChildEnded says that a child has ended.
type ChildEnded struct {
	TaskID string
	Round  int
	Index  int
	State  event.RunState
	Output event.Raw        // of a sub-workflow or a loop
	Again  bool             // of a loop: its condition still holds
	Error  *event.TaskError // why it did not complete, or why the condition cannot be known
}

// Joined holds the outputs of all items of a forEach, in their order.
type Joined struct {
	TaskID string
	Round  int
	Output event.Raw
	Error  *event.TaskError // instead: why there is none
}

// More lets a task start the children that it may start now, at most Limit of them.
type More struct {
	TaskID string
	Limit  int
	Tree   int // how many runs its tree has
}

// Missing says that a child which should be active has no document: it is made again, under the same id.
type Missing struct {
	TaskID string
	Round  int
	Index  int
}

// Orphaned says that the task that started this run has ended.
type Orphaned struct{ Parent ParentRef }

// Held says that the run that started this one is paused, or goes on again. It is a level: one that comes late, by a replica that has slept, changes nothing.
type Held struct {
	On   bool
	Turn int // how often that run has been paused and let go on
}

func (*Held) input()       {}
func (*Opened) input()     {}
func (*ChildEnded) input() {}
func (*Joined) input()     {}
func (*More) input()       {}
func (*Missing) input()    {}
func (*Orphaned) input()   {}

// Spawn names a child to be made by the Txn that writes its parent.
type Spawn struct {
	TaskID string
	Round  int
	Index  int
}

// window is how many children of a task may go on at the same time.
func (t *Task) window() int {
	switch {
	case t.ForEach == nil:
		return 1
	case t.ForEach.MaxParallel <= 0:
		return defaultWindow
	}
	return min(t.ForEach.MaxParallel, MaxParallel)
}

// wants is how many more children the task may start now.
func (k *Children) wants(t *Task) int {
	switch {
	case !k.Opened:
		return 0
	case t.Loop != nil:
		if len(k.Active) > 0 || k.Next > 0 && !k.Again {
			return 0
		}
		return 1
	}
	return max(0, min(t.window()-len(k.Active), k.Total-k.Next))
}

// joins reports whether all items have ended and their outputs are to be put together.
func (k *Children) joins(t *Task) bool {
	return t.ForEach != nil && k.Opened && k.Next == k.Total && len(k.Active) == 0
}

// enterChildren begins a task that has children.
func (d *decider) enterChildren(t *Task, rt *RunTask) {
	k := &Children{Opened: t.ForEach == nil}
	if t.ForEach == nil && t.Loop == nil {
		k.Total = 1
	}
	if old := rt.Kids; old != nil {
		k.Past = append(slices.Clone(old.Past), round{N: old.Round, Count: old.count(), Active: old.Active})
	}
	rt.Attempt++
	k.Round = rt.Attempt
	rt.State, rt.Kids, rt.Class, rt.Retry = event.TaskWaiting, k, "", time.Time{}
	if rt.Started.IsZero() {
		rt.Started = d.at.Now
	}
	rt.Look = d.at.Now.Add(AskAgain)
	d.changed = true
}

// parent returns a task that has children and has not ended. One that is to begin once more has no use for those it had.
func (d *decider) parent(taskID string, round int) (*Task, *RunTask) {
	rt := d.run.Find(taskID)
	t := d.def.Find(taskID)
	if t == nil || rt == nil || rt.Kids == nil || rt.State.Final() || rt.State == event.TaskPending || rt.Attempt != round || d.run.State.Final() {
		return nil, nil
	}
	return t, rt
}

// change returns the task's children for changing: the document that was decided on is never changed.
func (d *decider) changeKids(rt *RunTask) *Children {
	k := *rt.Kids
	k.Active, k.Asks = slices.Clone(k.Active), slices.Clone(k.Asks)
	rt.Kids = &k
	d.changed = true
	return &k
}

// opened takes the items of a forEach.
func (d *decider) opened(in *Opened) {
	_, rt := d.parent(in.TaskID, in.Round)
	if rt == nil || rt.Kids.Opened {
		return
	}
	k := d.changeKids(rt)
	if in.Error != nil {
		d.failFor(rt, in.Error)
		return
	}
	if in.Tree+in.Total > MaxTree { // rather than when most of it is done
		d.failFor(rt, overgrown(in.Tree, in.Total))
		return
	}
	k.Opened, k.Total = true, in.Total
	d.out.Opened, d.out.Pages = rt.ID, in.Pages
	if k.Total == 0 {
		d.complete(rt, event.Raw(`[]`))
		return
	}
	d.out.Cause = "children"
}

// more starts children until the window is full. What is more than a Txn should hold is left to the next turn, or should there be none, to the timer.
func (d *decider) more(in *More) {
	rt := d.run.Find(in.TaskID)
	if rt == nil {
		return
	}
	t, rt := d.parent(in.TaskID, rt.Attempt)
	if rt == nil || d.run.State != event.RunRunning {
		return
	}
	wants := rt.Kids.wants(t)
	if wants == 0 {
		return
	}
	k := d.changeKids(rt)
	n := min(wants, in.Limit)
	if n > 0 && in.Tree+n > MaxTree {
		d.failFor(rt, overgrown(in.Tree, n))
		return
	}
	k.Again = k.Again && in.Limit == 0
	for range n {
		d.out.Spawn = append(d.out.Spawn, Spawn{TaskID: rt.ID, Round: rt.Attempt, Index: k.Next})
		k.Active = append(k.Active, k.Next)
		k.Next++
	}
	d.lookLater(t, rt)
}

// lookLater arms the timer of a task that has children: soon when something is left to do that a crash could leave undone, else to
// see whether the children are still there.
func (d *decider) lookLater(t *Task, rt *RunTask) {
	soon := d.at.Now.Add(AskAgain)
	switch {
	case !rt.Kids.Opened || rt.Kids.wants(t) > 0 || rt.Kids.joins(t):
		if rt.Look.After(soon) || !rt.Look.After(d.at.Now) {
			rt.Look = soon
		}
	case !rt.Look.After(soon):
		rt.Look = d.at.Now.Add(lookAtChildren)
	}
}

// missing makes a child again that has no document. While the run is paused it would be given to agents, so that waits.
func (d *decider) missing(in *Missing) {
	if _, rt := d.parent(in.TaskID, in.Round); rt != nil && d.run.State == event.RunRunning && slices.Contains(rt.Kids.Active, in.Index) {
		d.out.Spawn = append(d.out.Spawn, Spawn{TaskID: rt.ID, Round: rt.Attempt, Index: in.Index})
		d.changed = true
	}
}

// childEnded takes the end of a child. A repeat finds the index no longer active.
func (d *decider) childEnded(in *ChildEnded) {
	t, rt := d.parent(in.TaskID, in.Round)
	if rt == nil {
		return
	}
	i := slices.Index(rt.Kids.Active, in.Index)
	if i < 0 {
		return
	}
	k := d.changeKids(rt)
	k.Active = slices.Delete(k.Active, i, i+1)
	k.Asks = slices.DeleteFunc(k.Asks, func(index int) bool { return index == in.Index })
	d.out.Cause = "children"
	if in.Error == nil {
		k.Done++
	} else {
		k.Failed++
		if k.Error == nil {
			k.Error = in.Error
		}
	}
	switch {
	case t.ForEach != nil:
		if f := t.ForEach; f.OnFailure != "collect" && k.Failed > f.Tolerate {
			d.failFor(rt, k.Error)
			return
		}
	case in.Error != nil:
		d.childFailed(t, rt, in)
		return
	case t.Loop == nil || !in.Again:
		d.complete(rt, in.Output)
		return
	case k.Next >= min(t.Loop.Max, MaxLoop):
		d.failFor(rt, &event.TaskError{Code: codeLoopLimit, Message: "the condition still holds after " + strconv.Itoa(k.Next) + " times"})
		return
	default:
		k.Again = true
	}
	if k.wants(t) == 0 { // else More comes with the same turn
		d.lookLater(t, rt)
	}
}

// joined ends a forEach with the outputs of its items.
func (d *decider) joined(in *Joined) {
	t, rt := d.parent(in.TaskID, in.Round)
	switch {
	case rt == nil || !rt.Kids.joins(t):
	case in.Error != nil:
		d.failFor(rt, in.Error)
	default:
		d.complete(rt, in.Output)
	}
}

// tickChildren looks at a task that has children. The engine does what its document shows to be left undone whenever its timer was moved.
func (d *decider) tickChildren(rt *RunTask) {
	t, rt := d.parent(rt.ID, rt.Attempt)
	if rt == nil {
		return
	}
	d.lookLater(t, rt)
	d.changed = true
}

// orphaned ends a run whose parent has no use for it any more.
func (d *decider) orphaned(in *Orphaned) {
	if p := d.run.Parent; d.run.State.Final() || p == nil || p.ID() != in.Parent.ID() {
		return
	}
	d.undoAlthoughPaused()
	d.end(event.RunCancelled, &event.TaskError{Code: "cancelled", Message: "task " + in.Parent.Task + " of the run that started it has ended"})
}

// children applies the inputs that are about a parent and its children.
func (d *decider) children(in Input) {
	switch in := in.(type) {
	case *Opened:
		d.opened(in)
	case *More:
		d.more(in)
	case *Missing:
		d.missing(in)
	case *ChildEnded:
		d.childEnded(in)
	case *Joined:
		d.joined(in)
	case *Held:
		d.held(in)
	case *ChildAsks:
		d.childAsks(in)
	case *Orphaned:
		d.orphaned(in)
	}
}
