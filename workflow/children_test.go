package workflow

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// nursery is a run with one task that has children, and what the store has of both. Nothing is committed half: a decision and the children that it
// makes stand together, or not at all.
type nursery struct {
	t     *rapid.T
	def   *Definition
	run   *Run
	now   time.Time
	fails []bool // by index: what becomes of the child
	alive map[int]bool
	ended []int // children whose due entry is still there
}

var broke = &event.TaskError{Code: "broke", Message: "it broke"}

func newNursery(t *rapid.T, task Task, fails []bool) *nursery {
	task.TaskID = "each"
	def, err := Parse(event.MustMarshal(&Definition{ID: "def", Tasks: []Task{task}}))
	if err != nil {
		t.Fatal(err)
	}
	n := &nursery{t: t, def: def, now: noon, fails: fails, alive: make(map[int]bool)}
	start := &Start{Event: &event.RunStart{RunID: runID}, Workflow: def.ID, DefVersion: "v1"}
	n.commit(Decide(def, nil, start, At{Now: n.now, Stream: n.now, Seq: 1}))
	return n
}

func (n *nursery) task() *RunTask { return n.run.Find("each") }

// commit makes a decision what the store has.
func (n *nursery) commit(d Decision) {
	if d.Refuse != nil || len(d.Need) > 0 {
		n.t.Fatalf("refused: %v, needs %v", d.Refuse, d.Need)
	}
	if d.Run == nil {
		return
	}
	n.run = d.Run
	for _, s := range d.Spawn {
		if _, made := n.alive[s.Index]; made {
			n.t.Fatalf("child %d is made twice", s.Index)
		}
		n.alive[s.Index] = true
	}
	rt := n.task()
	k := rt.Kids
	if len(d.Spawn) > maxSpawn || len(k.Active) > n.def.Tasks[0].window() {
		n.t.Fatalf("%d children are made at once, %d are active", len(d.Spawn), len(k.Active))
	}
	if k.Next != len(n.alive) || k.Done+k.Failed+len(k.Active) != k.Next || k.Total > 0 && k.Next > k.Total {
		n.t.Fatalf("the counts are wrong: %s, %d children", event.MustMarshal(k), len(n.alive))
	}
	if !n.run.State.Final() && rt.Look.IsZero() {
		n.t.Fatalf("nothing would ever look at the task again: %s", event.MustMarshal(n.run))
	}
}

// decide decides an input, and the windows with it as the engine does. The commit may be lost with the replica.
func (n *nursery) decide(in Input) {
	d := Decide(n.def, n.run, in, At{Now: n.now})
	if d.Run != nil && !d.Run.State.Final() {
		more := Decide(n.def, d.Run, &More{TaskID: "each", Limit: rapid.IntRange(0, maxSpawn).Draw(n.t, "room")}, At{Now: n.now})
		if more.Run != nil {
			d.Run, d.Spawn = more.Run, append(d.Spawn, more.Spawn...)
		}
	}
	if !rapid.Bool().Draw(n.t, "the replica dies") {
		n.commit(d)
	}
}

// end lets a child end: its due entry stays until the parent has taken it in.
func (n *nursery) end(index int) {
	n.alive[index] = false
	n.ended = append(n.ended, index)
}

func (n *nursery) tell(index int) {
	k := n.task().Kids
	in := &ChildEnded{TaskID: "each", Round: 1, Index: index, State: event.RunCompleted, Output: event.Raw(fmt.Sprint(index))}
	if n.fails[index] {
		in.State, in.Error = event.RunFailed, broke
	}
	in.Again = n.def.Tasks[0].Loop != nil && index+1 < len(n.fails)
	was := slices.Contains(k.Active, index)
	n.decide(in)
	if after := n.task().Kids; !was && !slices.Equal(after.Active, k.Active) && len(after.Active) < len(k.Active) {
		n.t.Fatalf("the end of child %d counted twice", index)
	}
}

// step lets one of the things happen that may happen next.
func (n *nursery) step() {
	k := n.task().Kids
	var moves []func()
	for index := range k.Next {
		if n.alive[index] {
			moves = append(moves, func() { n.end(index) })
		}
	}
	for _, index := range n.ended {
		moves = append(moves, func() { n.tell(index) })
	}
	switch t := &n.def.Tasks[0]; {
	case !k.Opened:
		moves = append(moves, func() {
			n.decide(&Opened{TaskID: "each", Round: 1, Total: len(n.fails), Pages: []event.Raw{event.Raw("[]")}})
		})
	case k.joins(t):
		moves = append(moves, func() { n.decide(&Joined{TaskID: "each", Round: 1, Output: event.Raw(`["all"]`)}) })
	}
	moves = append(moves,
		func() { n.decide(&Opened{TaskID: "each", Round: 2, Total: 99}) },
		func() {
			if !k.joins(&n.def.Tasks[0]) {
				n.decide(&Joined{TaskID: "each", Round: 1, Output: event.Raw(`["early"]`)})
			}
		},
		func() {
			n.now = later(n.now, n.task().Look)
			n.decide(&Tick{TaskID: "each"})
		},
		func() {
			n.now = n.now.Add(time.Duration(rapid.IntRange(1, 90_000).Draw(n.t, "ms")) * time.Millisecond)
		})
	moves[rapid.IntRange(0, len(moves)-1).Draw(n.t, "move")]()
}

// finish lets things happen until the run has ended.
func (n *nursery) finish() {
	for range 20_000 {
		if n.run.State.Final() {
			return
		}
		n.step()
	}
	n.t.Fatalf("the run does not end: %s", event.MustMarshal(n.run))
}

// However many items there are, in whatever order their ends come, how often they are told and whoever dies: a forEach ends as a plain count of failures says.
func TestForEachEndsAsItsItemsDo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		fails := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) bool { return rapid.IntRange(0, 3).Draw(t, "fate") == 0 }), 0, 60).Draw(t, "fails")
		f := &ForEach{
			Items: "[]", MaxParallel: rapid.IntRange(0, 50).Draw(t, "parallel"),
			OnFailure: rapid.SampledFrom([]string{"", "fail", "collect"}).Draw(t, "policy"),
		}
		if f.OnFailure != "collect" {
			f.Tolerate = rapid.IntRange(0, 3).Draw(t, "tolerate")
		}
		n := newNursery(t, Task{AgentCapability: "c", Node: Node{ForEach: f}}, fails)
		n.finish()
		failed := 0
		for _, f := range fails {
			if f {
				failed++
			}
		}
		want, output := event.RunCompleted, `["all"]`
		if len(fails) == 0 {
			output = `[]`
		}
		if f.OnFailure != "collect" && failed > f.Tolerate {
			want, output = event.RunFailed, ""
		}
		if rt := n.task(); n.run.State != want || string(rt.Output) != output {
			t.Fatalf("%d of %d failed, and the run is %s: %s", failed, len(fails), n.run.State, event.MustMarshal(rt))
		}
	})
}

// A loop goes round until its condition is false, a time fails, or the limit is reached; a workflow inside of another is a loop of one.
func TestLoopEndsAsItsTimesDo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.IntRange(1, 8).Draw(t, "times") // until the condition is false
		most := rapid.IntRange(1, 8).Draw(t, "max")
		fails := make([]bool, times)
		if i := rapid.IntRange(0, 12).Draw(t, "failing"); i < times {
			fails[i] = true
		}
		task := Task{AgentCapability: "c", Node: Node{Loop: &Loop{While: "true", Max: most}}}
		if times == 1 && rapid.Bool().Draw(t, "workflow") {
			task = Task{Node: Node{Workflow: &SubWorkflow{ID: "w"}}}
			most = 1
		}
		n := newNursery(t, task, fails)
		n.finish()
		want, output, code := event.RunCompleted, fmt.Sprint(times-1), ""
		switch first := slices.Index(fails, true); {
		case first >= 0 && first < most:
			want, output, code = event.RunFailed, "", broke.Code
		case times > most:
			want, output, code = event.RunFailed, "", codeLoopLimit
		}
		rt := n.task()
		if n.run.State != want || string(rt.Output) != output || code != "" && n.run.Error.Code != code {
			t.Fatalf("%d times of %d: the run is %s", times, most, event.MustMarshal(n.run))
		}
	})
}

// The truth table of the policies: three items, each way they can end, in each order.
func TestPoliciesOfForEach(t *testing.T) {
	t.Parallel()
	orders := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	for _, policy := range []struct {
		forEach   ForEach
		tolerated int
	}{
		{ForEach{}, 0},
		{ForEach{OnFailure: "fail"}, 0},
		{ForEach{Tolerate: 1}, 1},
		{ForEach{OnFailure: "fail", Tolerate: 2}, 2},
		{ForEach{OnFailure: "collect"}, 3},
	} {
		for ends := range 8 {
			for _, order := range orders {
				f := policy.forEach
				f.Items = "[1,2,3]"
				def, err := Parse(event.MustMarshal(&Definition{ID: "def", Tasks: []Task{{TaskID: "each", AgentCapability: "c", Node: Node{ForEach: &f}}}}))
				if err != nil {
					t.Fatal(err)
				}
				run := Decide(def, nil, &Start{Event: &event.RunStart{RunID: runID}, Workflow: "def"}, At{Now: noon, Stream: noon}).Run
				take := func(in Input) Decision {
					d := Decide(def, run, in, At{Now: noon})
					if d.Run != nil {
						run = d.Run
					}
					return d
				}
				take(&Opened{TaskID: "each", Round: 1, Total: 3})
				if d := take(&More{TaskID: "each", Limit: maxSpawn}); len(d.Spawn) != 3 {
					t.Fatalf("%d children are made", len(d.Spawn))
				}
				failed, over := 0, false
				for _, i := range order {
					in := &ChildEnded{TaskID: "each", Round: 1, Index: i, State: event.RunCompleted}
					if ends>>i&1 == 1 {
						in.State, in.Error = event.RunCancelled, broke
						failed++
					}
					changed := take(in).Run != nil
					if changed == over {
						t.Errorf("%+v %03b %v: child %d changes the run: %v, although it was over: %v", f, ends, order, i, changed, over)
					}
					over = over || failed > policy.tolerated
					if over != (run.State == event.RunFailed) {
						t.Errorf("%+v %03b %v: after %d failures the run is %s", f, ends, order, failed, run.State)
					}
				}
				if k := run.Find("each").Kids; !over && !k.joins(&def.Tasks[0]) {
					t.Errorf("%+v %03b %v: the outputs are not put together: %s", f, ends, order, event.MustMarshal(k))
				}
			}
		}
	}
}

// Ids of children are plain, short, and different for different places, whatever the ids they are made from.
func TestChildIDs(t *testing.T) {
	t.Parallel()
	seen := make(map[string]string)
	for _, run := range []string{"r", "r|t", "r=7Ct", "ü", "0123456789012345678901234567890123456789"} {
		for _, task := range []string{"t", "t|1", "1", "|"} {
			for round := range 3 {
				for _, index := range []int{0, 1, 11, MaxItems} {
					id := childID(run, task, round, index)
					place := fmt.Sprintf("%q %q %d %d", run, task, round, index)
					if other, dup := seen[id]; dup || event.MustToken(id) != id || len(id) > event.MaxPlainID {
						t.Errorf("the child at %s is %s, so is %s", place, id, other)
					}
					seen[id] = place
				}
			}
		}
	}
}

// A replica that has slept may bring its parent's word to a child when a later one has been heard, or when it had long been let go on.
func TestAChildHeedsTheLastWordOfItsParent(t *testing.T) {
	t.Parallel()
	s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"}]}`, &event.RunStart{})
	s.run.Parent = &ParentRef{Run: "parent", Task: "each", Round: 1}
	for _, word := range []struct {
		on   bool
		turn int
		is   event.RunState
	}{
		{false, 2, event.RunRunning},
		{true, 1, event.RunRunning},
		{true, 3, event.RunPaused},
		{false, 2, event.RunPaused},
		{false, 4, event.RunRunning},
		{true, 3, event.RunRunning},
		{false, lastTurn, event.RunRunning},
		{true, 5, event.RunRunning},
	} {
		s.put(&Held{On: word.on, Turn: word.turn})
		if s.run.State != word.is {
			t.Errorf("after turn %d the child is %s, want %s: %s", word.turn, s.run.State, word.is, event.MustMarshal(s.run.Control))
		}
		if d := s.put(&Held{On: word.on, Turn: word.turn}); d.Run != nil {
			t.Errorf("turn %d was heard twice", word.turn)
		}
	}
	parent := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"}]}`, &event.RunStart{})
	for i, kind := range []event.CommandKind{event.KindRunPause, event.KindRunPause, event.KindRunResume} {
		parent.put(&Command{RunCommand: &event.RunCommand{Kind: kind, RunID: runID}})
		if want := []int{1, 1, 2}[i]; parent.run.turns() != want {
			t.Errorf("after %s it has %d turns, want %d", kind, parent.run.turns(), want)
		}
	}
}
