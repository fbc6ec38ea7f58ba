package workflow

import (
	"slices"
	"strconv"

	"github.com/opspawn/opscore/bus/event"
)

// flow is the graph of a definition, compiled once when it is decoded; it never changes. Tasks are named by their place in the definition.
type flow struct {
	edges [][]edge         // by task: what follows
	in    []int            // by task: edges towards it
	need  []int            // by task: of them, how many must be taken before it begins
	roots []int            // tasks without an edge towards them
	undo  map[string]*Task // by id: tasks that undo others
}

// edge leads from a task to one that follows. It is taken when its task has completed, unless something chooses among the edges.
type edge struct {
	to      int
	choice  bool // taken if the task's switch names it
	failure bool // taken if the task has failed
}

// compile draws the edges of a definition of graphs; one of the old kind has none. Edges towards tasks that do not exist are left out:
// Check names them.
func (d *Definition) compile() {
	if !d.usesGraph() {
		return
	}
	n := len(d.Tasks)
	f := &flow{edges: make([][]edge, n), in: make([]int, n), need: make([]int, n)}
	drawn := make(map[[2]int]int, n) // between two tasks there is one edge: its place among those of the first
	draw := func(from int, id string, choice, failure bool) {
		to, ok := d.index[id]
		if !ok {
			return
		}
		i, ok := drawn[[2]int{from, to}]
		if !ok {
			i = len(f.edges[from])
			drawn[[2]int{from, to}] = i
			f.edges[from] = append(f.edges[from], edge{to: to})
			f.in[to]++
		}
		e := &f.edges[from][i]
		e.choice, e.failure = e.choice || choice, e.failure || failure
	}
	for i := range d.Tasks {
		t := &d.Tasks[i]
		if t.NextTaskID != nil {
			draw(i, *t.NextTaskID, false, false)
		}
		for _, c := range t.Switch {
			draw(i, c.TaskID, true, false)
		}
		if t.OnFailure != nil {
			draw(i, t.OnFailure.TaskID, false, true)
		}
		for _, id := range t.DependsOn {
			if from, ok := d.index[id]; ok {
				draw(from, t.TaskID, false, false)
			}
		}
	}
	for i := range d.Tasks {
		if d.Tasks[i].Compensate != nil {
			if f.undo == nil {
				f.undo = make(map[string]*Task)
			}
			u := d.Tasks[i].undo()
			f.undo[u.TaskID] = u
		}
		f.need[i] = joinOf(d.Tasks[i].Join, f.in[i])
		if f.in[i] == 0 {
			f.roots = append(f.roots, i)
		}
	}
	d.flow = f
}

// joinOf returns how many of a task's edges must be taken: all that are not skipped (0), any, or a number of them.
func joinOf(join event.Raw, edges int) int {
	if n, err := strconv.Atoi(string(join)); err == nil && n > 0 {
		return min(n, edges)
	}
	if string(join) == `"any"` {
		return 1
	}
	return 0
}

// usesGraph reports whether the definition uses the language of graphs.
func (d *Definition) usesGraph() bool {
	for i := range d.Tasks {
		n := &d.Tasks[i].Node
		if n.Select != nil || n.DependsOn != nil || n.Join != nil || n.When != "" || n.Switch != nil || n.ForEach != nil || n.Loop != nil ||
			n.Workflow != nil || n.Wait != nil || n.Signal != nil || n.Approval != nil || n.OnFailure != nil || n.Compensate != nil {
			return true
		}
	}
	return false
}

// graph reports whether the tasks of the definition are a graph. Those of the old kind are a sequence.
func (d *Definition) graph() bool { return d.flow != nil }

// ended is a task that ended with the input that is being decided, and whose edges are still to be followed.
type ended struct {
	place  int
	state  event.TaskState // as far as edges are concerned: a failure that does not matter is as good as completed
	choice string          // task that its switch chose
}

// takes reports whether the end of a task takes one of its edges.
func (d *decider) takes(end ended, e edge) bool {
	switch {
	case e.choice && end.state == event.TaskCompleted && d.def.Tasks[e.to].TaskID == end.choice:
		return true
	case e.failure:
		return end.state == event.TaskFailed
	}
	return !e.choice && end.state == event.TaskCompleted
}

// leave notes that the edges of a task that ended are to be followed. What it leads to begins when the input is decided otherwise.
func (d *decider) leave(t *RunTask, state event.TaskState, choice string) {
	if place, ok := d.def.index[t.ID]; ok {
		d.ended = append(d.ended, ended{place, state, choice})
	}
}

// advance follows the edges of the tasks that ended, and begins what they lead to. It works off lists, so that a long row of tasks that end at
// once needs no deep stack. A run in which nothing is active and nothing begins has completed. One that is paused advances too, but nobody is given anything.
func (d *decider) advance() {
	for !d.run.State.Final() && !d.run.pending() {
		switch {
		case len(d.ended) > 0:
			end := d.ended[0]
			d.ended = d.ended[1:]
			for _, e := range d.def.flow.edges[end.place] {
				d.arrive(e.to, d.takes(end, e))
			}
		case len(d.met) > 0:
			place := d.met[0]
			d.met = d.met[1:]
			d.begin(place)
		case d.admit():
		case d.busy() || len(d.out.Need) > 0:
			return
		case d.run.Undoing != nil:
			d.undoNext()
		default:
			d.succeed()
		}
	}
}

// arrive notes that an edge towards a task was taken, or never will be. The task begins as soon as enough were taken, and is skipped when all are
// settled and too few were taken. Edges into a task that has begun change nothing.
func (d *decider) arrive(place int, taken bool) {
	f, id := d.def.flow, d.def.Tasks[place].TaskID
	t := d.run.Find(id)
	if t == nil {
		if d.run.mark(place) != markNone {
			return
		}
		d.run.Tasks = append(d.run.Tasks, RunTask{ID: id, State: event.TaskPending})
		t = &d.run.Tasks[len(d.run.Tasks)-1]
	}
	if t.State != event.TaskPending {
		return
	}
	d.changed = true
	t.Settled++
	if taken {
		t.Taken++
	}
	last := t.Settled == f.in[place]
	switch need := f.need[place]; {
	case need == 0:
		if last && t.Taken > 0 {
			d.met = append(d.met, place)
		} else if last {
			d.skip(t)
		}
	case t.Taken == need:
		if taken {
			d.met = append(d.met, place)
		}
	case last && t.Taken < need:
		d.skip(t)
	}
}

// skip ends a task that will not be done.
func (d *decider) skip(t *RunTask) {
	d.endTask(t, event.TaskSkipped)
	d.leave(t, event.TaskSkipped, "")
}

// begin begins a task whose edges have met, unless its condition does not hold. In a large graph one for an agent waits until there is room.
func (d *decider) begin(place int) {
	task := &d.def.Tasks[place]
	if task.When != "" {
		holds, err := d.condition(task.When)
		if err != nil {
			d.blame(d.present(task), err)
			return
		}
		if !holds {
			d.skip(d.present(task))
			return
		}
	}
	if d.run.Marks != nil && d.def.kind(task) == nodeAgent {
		d.run.Tasks = slices.DeleteFunc(d.run.Tasks, func(t RunTask) bool { return t.ID == task.TaskID })
		d.run.setMark(place, markWaits)
		d.run.Waits++
		d.changed = true
		return
	}
	d.reach(task)
}

// maxActive bounds how many tasks of a large graph are with agents, or in the queue for one, so that the document of a run stays small. The others
// wait in the order of the definition.
const maxActive = 100

// admit begins a task that waits for room, and reports whether there was one.
func (d *decider) admit() bool {
	if d.run.Waits == 0 {
		return false
	}
	active := 0
	for i := range d.run.Tasks {
		t := &d.run.Tasks[i]
		if t.Class != "" || t.held() || t.State == event.TaskRetrying {
			active++
		}
	}
	if active >= maxActive {
		return false
	}
	place := d.run.firstWaiting()
	d.run.setMark(place, markNone)
	d.run.Waits--
	d.reach(&d.def.Tasks[place])
	return true
}

// busy reports whether a task is active or waits for room.
func (d *decider) busy() bool {
	return d.run.Waits > 0 || slices.ContainsFunc(d.run.Tasks, func(t RunTask) bool { return !t.State.Final() && t.State != event.TaskPending })
}

// mark is how far a task of a large graph has come that is not in the document.
type mark byte

const (
	markNone mark = iota // not reached, or in the document
	markWaits
	markCompleted
	markFailed
	markCancelled
	markSkipped
)

// markOf is the mark of a task that ended.
func markOf(s event.TaskState) mark {
	switch s {
	case event.TaskCompleted:
		return markCompleted
	case event.TaskFailed:
		return markFailed
	case event.TaskSkipped:
		return markSkipped
	}
	return markCancelled
}

// state is what a task with the mark is.
func (m mark) state() event.TaskState {
	return [...]event.TaskState{
		event.TaskPending, event.TaskPending, event.TaskCompleted, event.TaskFailed, event.TaskCancelled, event.TaskSkipped,
	}[m]
}

func (r *Run) mark(place int) mark {
	if place < 0 || place/2 >= len(r.Marks) {
		return markNone
	}
	return mark(r.Marks[place/2] >> (4 * (place % 2)) & 0xF)
}

func (r *Run) setMark(place int, m mark) {
	shift := 4 * (place % 2)
	r.Marks[place/2] = r.Marks[place/2]&^(0xF<<shift) | byte(m)<<shift
}

// firstWaiting returns the place of the first task that waits for room; there must be one.
func (r *Run) firstWaiting() int {
	for i, b := range r.Marks {
		switch {
		case mark(b&0xF) == markWaits:
			return 2 * i
		case mark(b>>4) == markWaits:
			return 2*i + 1
		}
	}
	panic("workflow: no task waits")
}
