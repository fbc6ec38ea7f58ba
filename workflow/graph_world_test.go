package workflow

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// plot is a graph as a test makes it up: what its definition says in the language, it says in Go.
type plot struct {
	def    *Definition
	script script
	values map[string]int     // what each task brings
	when   map[string]premise // by task
	cases  map[string][]int   // by task that switches: values that lead to its cases, in order; -1 always
	bodies map[string]bool    // by task that script says nothing of: whether it completes once it has begun
	bound  map[string]string  // by task: the one whose agent is to do it
	alone  map[string]bool    // by task: whether it completes although those who are asked first fail, or there is nobody to ask
}

// brings reports whether a task that completes brings its value.
func (p *plot) brings(t *Task) bool {
	agent := t.AgentCapability != "" || t.Select != nil
	return (agent || t.Workflow != nil) && t.ForEach == nil
}

// succeeds reports whether a task completes once it has begun.
func (p *plot) succeeds(t *Task) bool {
	if completes, known := p.bodies[t.TaskID]; known {
		return completes
	}
	return t.AgentCapability == "" && t.Select == nil || p.script.succeeds(p.def, t)
}

// premise is a condition about another task.
type premise struct {
	task string
	more int  // its value must be more than that
	safe bool // false when the task has not completed; else it has no value then
}

func (p premise) source() string {
	more := fmt.Sprintf("tasks.%s.output.n > %d", p.task, p.more)
	if p.safe {
		return fmt.Sprintf("tasks.%s.state == 'completed' && %s", p.task, more)
	}
	return more
}

// fatesOf are what may become of the tasks of a graph, when nothing is cut short.
type fatesOf map[string]event.TaskState

// play is the plain interpreter: it knows no attempts, agents, clocks or messages, looks at all tasks again and again until nothing is
// new, and lets a failure end nothing but its own branch.
func (p *plot) play() (fatesOf, event.RunState) {
	fates := make(fatesOf)
	state := event.RunCompleted
	for news := true; news; {
		news = false
		for i := range p.def.Tasks {
			t := &p.def.Tasks[i]
			if fates[t.TaskID] != "" {
				continue
			}
			if fate := p.fateOf(t, fates); fate != "" {
				fates[t.TaskID], news = fate, true
				if fate == event.TaskFailed && (t.OnFailure == nil || t.OnFailure.TaskID == "" && !t.OnFailure.Continue) {
					state = event.RunFailed
				}
			}
		}
	}
	return fates, state
}

// fateOf is what becomes of a task when others have ended so, empty while that is not certain.
func (p *plot) fateOf(t *Task, fates fatesOf) event.TaskState {
	edges, taken, open := 0, 0, 0
	for i := range p.def.Tasks {
		from := &p.def.Tasks[i]
		if is, known, goes := p.edge(from, t, fates); is {
			edges++
			if !known {
				open++
			} else if goes {
				taken++
			}
		}
	}
	met := edges == 0
	switch join := string(t.Join); {
	case edges == 0:
	case join == "" || join == `"all"`:
		if open > 0 {
			return ""
		}
		met = taken > 0
	default:
		need := 1
		if join != `"any"` {
			_, _ = fmt.Sscan(join, &need)
		}
		if met = taken >= min(need, edges); !met && open > 0 {
			return ""
		}
	}
	if !met {
		return event.TaskSkipped
	}
	if c, ok := p.when[t.TaskID]; ok {
		brought := p.brings(p.def.Find(c.task)) // points where edges meet bring nothing
		switch done := brought && fates[c.task] == event.TaskCompleted; {
		case !done && !c.safe:
			return event.TaskFailed
		case !done || p.values[c.task] <= c.more:
			return event.TaskSkipped
		}
	}
	done := p.succeeds(t)
	if p.forNobody(t, fates) {
		done = p.alone[t.TaskID]
	}
	if !done {
		return event.TaskFailed
	}
	return event.TaskCompleted
}

// forNobody reports whether a task is for the agent of another that no agent was given.
func (p *plot) forNobody(t *Task, fates fatesOf) bool {
	other := p.bound[t.TaskID]
	return other != "" && !p.given(p.def.Find(other), fates)
}

// given reports whether a task for agents, which has ended, was given to one.
func (p *plot) given(t *Task, fates fatesOf) bool {
	switch fates[t.TaskID] {
	case event.TaskCompleted:
		return true
	case event.TaskFailed:
		if c, ok := p.when[t.TaskID]; ok && !c.safe && !(p.brings(p.def.Find(c.task)) && fates[c.task] == event.TaskCompleted) {
			return false // its condition has no value
		}
		return !p.forNobody(t, fates) || t.OnFailure != nil && len(t.OnFailure.Fallback) > 0
	}
	return false
}

// edge reports whether there is an edge between two tasks, whether it is certain that it is taken or not, and which.
func (p *plot) edge(from, to *Task, fates fatesOf) (is, known, taken bool) {
	isCase := slices.ContainsFunc(from.Switch, func(c Case) bool { return c.TaskID == to.TaskID })
	isPlain := from.NextTaskID != nil && *from.NextTaskID == to.TaskID || slices.Contains(to.DependsOn, from.TaskID)
	isFailure := from.OnFailure != nil && from.OnFailure.TaskID == to.TaskID
	fate := fates[from.TaskID]
	lost := fate == event.TaskFailed && (from.OnFailure == nil || from.OnFailure.TaskID == "" && !from.OnFailure.Continue)
	is, known = isCase || isPlain || isFailure, fate != "" && !lost
	done := fate == event.TaskCompleted
	on := done || fate == event.TaskFailed && from.OnFailure != nil && from.OnFailure.TaskID == "" && from.OnFailure.Continue
	switch {
	case isCase:
		taken = done && p.chosen(from) == to.TaskID
	case isFailure:
		taken = fate == event.TaskFailed
	default:
		taken = on
	}
	return is, known, taken
}

func (p *plot) chosen(t *Task) string {
	for i, v := range p.cases[t.TaskID] {
		if v < 0 || v == p.values[t.TaskID] && p.brings(t) {
			return t.Switch[i].TaskID
		}
	}
	return ""
}

// plots draws a graph: edges lead from earlier to later tasks of an order that the definition hides.
func plots(t *rapid.T) *plot {
	n := rapid.IntRange(1, 7).Draw(t, "tasks")
	p := &plot{values: make(map[string]int), when: make(map[string]premise), cases: make(map[string][]int), script: make(script)}
	def := &Definition{ID: "def", Retry: retries(t)}
	order := ids(n)
	for i, id := range order {
		task := Task{TaskID: id, AgentCapability: "c", Retry: retries(t)}
		p.values[id] = rapid.IntRange(0, 3).Draw(t, "value")
		p.ways(t, &task, order[:i], order[i+1:])
		if rapid.IntRange(0, 4).Draw(t, "pass") == 0 && p.cases[id] == nil && task.OnFailure == nil {
			task.AgentCapability, task.Retry = "", nil
		} else if rapid.IntRange(0, 3).Draw(t, "compensate") == 0 {
			task.Compensate = &Compensate{Select: Select{Capability: "undo"}, Parameters: event.Raw(`{"was":"${{ tasks.` + id + `.output.n }}"}`)}
		}
		def.Tasks = append(def.Tasks, task)
	}
	if rapid.Bool().Draw(t, "large") { // the others are points where nothing meets
		for i := range inlineTasks {
			def.Tasks = append(def.Tasks, Task{TaskID: fmt.Sprint("f", i)})
		}
	}
	def.Tasks = rapid.Permutation(def.Tasks).Draw(t, "places")
	def.Tasks[0].DependsOn = append([]string{}, def.Tasks[0].DependsOn...) // whatever else it has, it is a graph
	p.finish(t, def)
	return p
}

// ways draws what leads to a task, and from it to later ones.
func (p *plot) ways(t *rapid.T, task *Task, before, after []string) {
	if len(before) > 0 {
		task.DependsOn = rapid.SliceOfNDistinct(rapid.SampledFrom(before), 0, min(3, len(before)), rapid.ID).Draw(t, "depends on")
		switch rapid.IntRange(0, 5).Draw(t, "join") {
		case 0:
			task.Join = event.Raw(`"any"`)
		case 1:
			task.Join = event.Raw(fmt.Sprint(rapid.IntRange(1, 2).Draw(t, "join of")))
		}
	}
	if len(after) == 0 {
		return
	}
	switch rapid.IntRange(0, 5).Draw(t, "goes on") {
	case 0:
		next := rapid.SampledFrom(after).Draw(t, "next")
		task.NextTaskID = &next
	case 1:
		cases := rapid.SliceOfNDistinct(rapid.SampledFrom(after), 1, min(3, len(after)), rapid.ID).Draw(t, "cases")
		for i, to := range cases {
			v := rapid.IntRange(0, 3).Draw(t, "of value")
			if i == len(cases)-1 && rapid.Bool().Draw(t, "else") {
				v = -1
			}
			p.cases[task.TaskID] = append(p.cases[task.TaskID], v)
			one := Case{TaskID: to}
			if v >= 0 {
				one.When = fmt.Sprintf("tasks.%s.output.n == %d", task.TaskID, v)
			}
			task.Switch = append(task.Switch, one)
		}
	case 2:
		task.OnFailure = &OnFailure{TaskID: rapid.SampledFrom(after).Draw(t, "on failure")}
	case 3:
		task.OnFailure = &OnFailure{Continue: true}
	}
	if rapid.IntRange(0, 3).Draw(t, "fallback") == 0 {
		if task.OnFailure == nil {
			task.OnFailure = &OnFailure{}
		}
		task.OnFailure.Fallback = []Select{{Capability: "spare"}}
	}
}

// finish adds what needs the whole graph: conditions, inputs, and what becomes of attempts.
func (p *plot) finish(t *rapid.T, def *Definition) {
	p.premises(t, def)
	for i := range def.Tasks {
		task := &def.Tasks[i]
		if len(task.DependsOn) > 0 && task.AgentCapability != "" {
			task.Parameters = event.Raw(`{"was":"${{ tasks.` + task.DependsOn[0] + `.output }}"}`)
		}
		if task.AgentCapability == "" {
			continue
		}
		for _, id := range []string{task.TaskID, task.TaskID + undoSuffix} {
			for _, f := range rapid.SliceOfN(rapid.IntRange(0, int(fates)-1), 0, 4).Draw(t, "fates") {
				p.script[id] = append(p.script[id], fate(f))
			}
		}
	}
	var err error
	if p.def, err = Parse(event.MustMarshal(def)); err != nil {
		t.Fatal(err)
	}
}

func TestAGraphEndsAsThePlainInterpreterSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := plots(t)
		if !p.def.graph() {
			return
		}
		w := newGraphWorld(t, p)
		cancel := rapid.IntRange(0, 9).Draw(t, "cancel") == 0
		for range rapid.IntRange(0, 80).Draw(t, "steps") {
			if w.run.State.Final() {
				break
			}
			w.step()
		}
		fates, state := p.play()
		if cancel && !w.run.State.Final() && w.run.Undoing == nil {
			w.seq++
			w.decide(&Cancel{}, At{Seq: w.seq, Stream: w.now})
			state = event.RunCancelled
		}
		w.finish()
		if w.run.State != state {
			t.Fatalf("the run %s, the interpreter says %s: %s", w.run.State, state, event.MustMarshal(w.run))
		}
		w.checkFates(fates)
		w.checkUndone(p)
	})
}

func newGraphWorld(t *rapid.T, p *plot) *world {
	w := &world{
		t: t, def: p.def, script: p.script, values: p.values, now: noon,
		slots: make(map[slotKey]slotState), applied: make(map[slotKey]bool), moved: make(map[string]*RunTask), docs: make(library),
	}
	w.seq++
	w.decide(&Start{Event: &event.RunStart{RunID: runID}, Workflow: p.def.ID, DefVersion: "v1", Hash: "h"}, At{Seq: w.seq, Stream: w.now})
	return w
}

// checkFates compares how the tasks ended with what the interpreter says: all of them when the run completed, else those that ended before it did.
func (w *world) checkFates(want fatesOf) {
	completed := 0
	defer func() {
		if w.run.Completed != completed {
			w.t.Fatalf("%d tasks have completed, the run counts %d", completed, w.run.Completed)
		}
	}()
	for _, t := range w.def.Tasks {
		got := w.run.mark(w.def.placeOf(t.TaskID)).state()
		if rt := w.run.Find(t.TaskID); rt != nil {
			got = rt.State
		}
		if got == event.TaskCompleted {
			completed++
		}
		cut := w.run.State != event.RunCompleted && (got == event.TaskCancelled || got == event.TaskPending)
		if !cut && got != want[t.TaskID] {
			w.t.Fatalf("task %s is %s, the interpreter says %q: %s", t.TaskID, got, want[t.TaskID], event.MustMarshal(w.def))
		}
	}
}

// checkUndone compares what was undone with what had completed before: the latest first, each once, and what could not be is named.
func (w *world) checkUndone(p *plot) {
	var done, undone, want []string
	for _, id := range w.ended {
		if of, is := strings.CutSuffix(id, undoSuffix); is {
			undone = append(undone, of)
		} else if w.def.Find(id).Compensate != nil {
			done = append(done, id)
		}
	}
	missed := 0
	for _, id := range slices.Backward(done) {
		if p.succeeds(p.def.Find(id + undoSuffix)) {
			want = append(want, id)
		} else {
			missed++
		}
	}
	if w.run.State == event.RunCompleted {
		want, missed = nil, 0
	}
	if diff := cmp.Diff(want, undone); diff != "" {
		w.t.Fatalf("undone: %s", diff)
	}
	named := 0
	if w.run.Undoing != nil {
		named = w.run.Undoing.Missed
	}
	if named != missed || (w.run.Error != nil && w.run.Error.Details != nil) != (missed > 0) {
		w.t.Fatalf("%d could not be undone, %d are named: %s", missed, named, event.MustMarshal(w.run.Error))
	}
}
