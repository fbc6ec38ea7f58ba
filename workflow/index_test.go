package workflow

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// Whatever happens to a run and to the gates of its agents, in changes of one input or of many: the indexes say what the documents say.
func TestIndexesFollowDocuments(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		x := newShelf(t)
		def := definitions(t, 1, 4)
		start := starts(t)
		start.Legacy = rapid.Bool().Draw(t, "legacy")
		start.RunID = runID
		w := &world{
			t: t, def: def, script: scripts(t, def), now: noon, slots: make(map[slotKey]slotState),
			applied: make(map[slotKey]bool), moved: make(map[string]*RunTask),
		}
		w.onDecision = func(_ *Run, d Decision) {
			x.take(w.now, d)
			if rapid.Bool().Draw(t, "commit") {
				x.commit()
			}
		}
		w.decide(&Start{Event: start, Workflow: def.ID, DefVersion: "v1", Hash: "h"}, At{Stream: w.now})
		for range rapid.IntRange(0, 50).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "whose turn") == 0 {
				x.commit()
				x.changeGate(w.now)
				continue
			}
			if w.seq++; rapid.IntRange(0, 40).Draw(t, "cancel") == 0 {
				w.decide(&Cancel{}, At{Seq: w.seq, Stream: w.now})
			}
			w.step()
		}
		x.commit()
		w.finish()
		x.commit()
		x.land()
	})
}

// A large run leaves nothing in an index when its tasks leave its document.
func TestIndexesFollowTheDocumentOfALargeRun(t *testing.T) {
	t.Parallel()
	def := chain(inlineTasks + 1)
	rapid.Check(t, func(t *rapid.T) {
		x := newShelf(t)
		w := newWorld(t, def, make(script), &event.RunStart{})
		x.take(w.now, Decision{Run: w.run})
		w.onDecision = func(_ *Run, d Decision) {
			x.take(w.now, d)
			if rapid.Bool().Draw(t, "commit") {
				x.commit()
			}
		}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			w.step()
		}
		x.commit()
		x.land()
	})
}

// shelf is a store of indexes, filled by the changes that an engine would commit.
type shelf struct {
	t       *rapid.T
	view    *view
	change  *change // not committed yet
	revs    *storage.Revisions
	indexes map[storage.Index]map[string]storage.Score
	docs    map[storage.Key]storage.Rev // as committed
	free    map[string]bool             // agents that were free when their gate was written
	ended   *Run                        // the run as it was committed when it had ended
	seq     uint64                      // of the last state that an agent reported
}

func newShelf(t *rapid.T) *shelf {
	x := &shelf{
		t: t, revs: storage.NewRevisions(), indexes: make(map[storage.Index]map[string]storage.Score), free: make(map[string]bool),
		docs: make(map[storage.Key]storage.Rev),
		view: &view{
			runs: map[string]*slot[*Run]{runID: {}}, gates: make(map[string]*slot[*lifecycle.Gate]), touched: make(map[storage.Key]*group),
		},
	}
	for _, agent := range []string{"ann", "bob", "cid", "dan", "eve"} {
		x.view.gates[agent] = &slot[*lifecycle.Gate]{val: &lifecycle.Gate{Agent: agent}}
	}
	return x
}

// at lets time pass: what goes out together was made at one time.
func (x *shelf) at(now time.Time) {
	if !now.Equal(x.view.now) {
		x.commit()
		x.land()
		x.view.now = now
	}
}

// take adds a decision to the change that is being made.
func (x *shelf) take(now time.Time, d Decision) {
	x.at(now)
	run := x.view.runs[runID]
	if x.change == nil {
		x.change = &change{run: run, before: run.val, after: run.val}
	}
	c := x.change
	if d.Run != nil {
		for _, t := range d.Run.Tasks {
			if before := find(c.after, t.ID); t.State == event.TaskAssigned && (before == nil || before.Attempt != t.Attempt) {
				x.view.gate(c, t.Agent).Take(t.ref(runID), t.Process, now)
			}
		}
		c.after = d.Run
	}
	for _, s := range d.Slots {
		g := x.view.gate(c, s.Agent)
		if !g.Holds(s.Ref) {
			continue
		}
		switch s.Kind {
		case SlotTake:
		case SlotDrain:
			g.Drain(s.Ref, now.Add(CancelGrace))
			c.drains = append(c.drains, s)
		case SlotResult, SlotGone, SlotLate, SlotRejected, SlotSilent:
			g.Release(s.Ref, s.At)
			if s.Kind == SlotRejected {
				g.Rejected(now, s.After)
			}
			if s.Kind == SlotSilent {
				g.Unheard(now)
			}
		}
	}
}

func find(r *Run, taskID string) *RunTask {
	if r == nil {
		return nil
	}
	return r.Find(taskID)
}

// changeGate lets something happen to the gate of an agent alone.
func (x *shelf) changeGate(now time.Time) {
	x.at(now)
	x.change = &change{}
	g := x.view.gate(x.change, rapid.SampledFrom([]string{"ann", "bob", "dan"}).Draw(x.t, "gate"))
	switch rapid.IntRange(0, 12).Draw(x.t, "what") {
	case 0:
		g.Registered = !g.Registered
	case 1:
		g.Open = !g.Open
	case 2:
		g.Cordoned = !g.Cordoned
	case 3:
		g.Slots = rapid.IntRange(0, 3).Draw(x.t, "slots")
	case 4:
		g.Caps = rapid.SliceOfN(rapid.SampledFrom([]string{"", "ct1", "ct2", "c3"}), 0, 4).Draw(x.t, "caps")
	case 5:
		g.Rejected(now, time.Duration(rapid.IntRange(0, 5).Draw(x.t, "seconds"))*time.Second)
	case 6:
		g.Unheard(now)
	case 7, 8, 9:
		x.seq++
		for _, h := range g.Held {
			g.Watch(h.AttemptRef, x.seq-1)
		}
		word := rapid.SampledFrom([]string{"active", "idle", "error"}).Draw(x.t, "word")
		g.Witness(&event.State{State: word}, lifecycle.Mark{Seq: x.seq, At: now})
	case 10, 11:
		for range 5 {
			g.Failed(event.AttemptRef{RunID: "other"}, now)
		}
	case 12:
		g.Registered, g.Open, g.Cordoned, g.Slots, g.Caps = true, true, false, 3, []string{"ct1", "ct2"}
		g.Answered()
	}
	x.commit()
}

// commit seals the change; it goes out at once, or with those that follow it.
func (x *shelf) commit() {
	c := x.change
	x.change = nil
	if c != nil && !c.empty() {
		x.view.seal(c, x.revs)
		for agent, g := range c.gates {
			x.free[agent] = g.Free(x.view.now)
		}
		if c.after != nil && c.after.State.Final() && x.ended == nil {
			x.ended = c.after
		}
	}
	if rapid.Bool().Draw(x.t, "goes out") {
		x.land()
	}
}

// land applies the Txns of all sealed changes in their order, and compares.
func (x *shelf) land() {
	for _, g := range x.view.groups {
		g.close(x.view.now)
		if err := g.txn.Check(); err != nil {
			x.t.Fatal(err)
		}
		for _, cond := range g.txn.If {
			if have := x.docs[cond.Key]; have != cond.Rev {
				x.t.Fatalf("Txn %d of %d wants %s at revision %q, it is %q", g.place, len(x.view.groups), cond.Key, cond.Rev, have)
			}
		}
		for _, put := range g.txn.Put {
			x.docs[put.Key] = g.txn.Rev
		}
		for _, op := range g.txn.IndexAdd {
			if x.indexes[op.Index] == nil {
				x.indexes[op.Index] = make(map[string]storage.Score)
			}
			x.indexes[op.Index][op.Member] = op.Score
		}
		for _, op := range g.txn.IndexRemove {
			delete(x.indexes[op.Index], op.Member)
		}
	}
	x.view.groups = nil
	clear(x.view.touched)
	x.compareRun()
	x.compareGates()
}

func (x *shelf) compareRun() {
	r := x.view.runs[runID].val
	if r == nil {
		return
	}
	due := make(map[string]storage.Score)
	ready := make(map[storage.Index]string)
	if !r.Look.IsZero() {
		due["r|"+runID] = micros(r.Look)
	}
	if x.ended != nil {
		due[factTimer(x.ended)] = micros(x.ended.Ended.Add(AskAgain))
	}
	for _, t := range r.Tasks {
		if !t.Look.IsZero() {
			due["t|"+runID+"|"+t.ID] = micros(t.Look)
		}
		if t.Class == "" {
			continue
		}
		member := runID + "|" + t.ID
		ready[readyIndex(t.Class)] = member
		// A task that was ready before, with the same class, may keep its place.
		if since, ok := x.indexes[readyIndex(t.Class)][member]; !ok || since > micros(t.Ready) {
			x.t.Fatalf("task %s is ready since %d, its queue says %d", t.ID, micros(t.Ready), since)
		}
		if _, ok := x.indexes[classIndex][t.Class]; !ok {
			x.t.Fatalf("class %s has a ready task and is not listed", t.Class)
		}
	}
	if diff := cmp.Diff(due, x.timers("t", "r", "f")); diff != "" {
		x.t.Fatalf("timers: %s", diff)
	}
	for index, members := range x.indexes {
		for member := range members {
			if strings.HasPrefix(string(index), "ready/") && ready[index] != member {
				x.t.Fatalf("%s holds %s, which does not wait in it", index, member)
			}
		}
	}
	if diff := cmp.Diff(map[string]storage.Score{runID: micros(r.Created)}, x.indexes[runIndex]); diff != "" {
		x.t.Fatalf("runs: %s", diff)
	}
	var ended map[string]storage.Score
	if x.ended != nil {
		ended = map[string]storage.Score{runID: micros(x.ended.Ended)}
	}
	if diff := cmp.Diff(ended, x.indexes[endedIndex]); diff != "" {
		x.t.Fatalf("ended runs: %s", diff)
	}
}

// timers returns the timers of some kinds.
func (x *shelf) timers(kinds ...string) map[string]storage.Score {
	timers := make(map[string]storage.Score)
	for member, score := range x.indexes[dueIndex] {
		for _, kind := range kinds {
			if strings.HasPrefix(member, kind+"|") {
				timers[member] = score
			}
		}
	}
	return timers
}

func (x *shelf) compareGates() {
	ends := make(map[string]bool)
	for agent, s := range x.view.gates {
		g := s.val
		offered := make(map[string]bool)
		for _, c := range g.Caps {
			offered[c] = c != ""
		}
		for _, c := range []string{"", "ct1", "ct2", "c3"} {
			score, listed := x.indexes[lifecycle.FreeIndex(c)][agent]
			if want := x.free[agent] && offered[c]; listed != want {
				x.t.Fatalf("agent %s listed as free for %q: %v, want %v", agent, c, listed, want)
			}
			if _, able := x.indexes[lifecycle.AbleIndex(c)][agent]; able != (g.Able > 0 && offered[c]) {
				x.t.Fatalf("agent %s listed as able for %q: %v", agent, c, able)
			}
			if listed && score != storage.Score(g.Used) {
				x.t.Fatalf("agent %s was used at %d, the list says %d", agent, g.Used, score)
			}
		}
		// Time frees what a back-off or a drain holds back: somebody must look then.
		if at, ok := x.timers("b")["b|"+agent]; !g.Wakes(x.view.now).IsZero() && (!ok || at > micros(g.Wakes(x.view.now))) {
			x.t.Fatalf("agent %s is left alone until %d, its timer is %d", agent, micros(g.Wakes(x.view.now)), at)
		}
		for _, h := range g.Held {
			at, ok := x.timers("d")[drainTimer(agent, h.AttemptRef)]
			if !h.Drain.IsZero() && (!ok || at > micros(h.Drain)) {
				x.t.Fatalf("a slot of agent %s drains until %d, its timer is %d", agent, micros(h.Drain), at)
			}
			if end, _, ended := h.Trace.End(); ended {
				ends[lifecycle.EndMember(agent, h.AttemptRef, end.Seq)] = true
			}
		}
	}
	timers := make(map[string]bool)
	for member := range x.timers("e") {
		timers[member] = true
	}
	if diff := cmp.Diff(ends, timers); diff != "" {
		x.t.Fatalf("attempts that states have ended, and their timers: %s", diff)
	}
}

func micros(t time.Time) storage.Score { return storage.Score(t.UnixMicro()) }

func TestTimersAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringN(1, 40, 60)
		kind := rapid.SampledFrom([]string{
			timerTask, timerRun, timerFact, timerDrain, timerBackoff, timerHandBack, timerEmpty, timerEnd, timerSchedule,
			timerEarly, timerQueue,
		}).Draw(t, "kind")
		parts := map[string]int{timerTask: 2, timerRun: 1, timerFact: 2, timerDrain: 4, timerBackoff: 1, timerHandBack: 1, timerEmpty: 1, timerEnd: 5, timerSchedule: 1, timerEarly: 1, timerQueue: 1}
		want := rapid.SliceOfN(id, parts[kind], parts[kind]).Draw(t, "ids")
		gotKind, got, ok := parseTimer(timer(kind, want...))
		if !ok || gotKind != kind || !cmp.Equal(want, got) {
			t.Fatalf("%s %q was read as %s %q", kind, want, gotKind, got)
		}
		run, task := id.Draw(t, "run"), id.Draw(t, "task")
		if r, k, ok := parseReady(readyMember(run, task)); !ok || r != run || k != task {
			t.Fatalf("%q %q was read as %q %q", run, task, r, k)
		}
	})
	ref := event.AttemptRef{RunID: "r 1", TaskID: "t.1", Attempt: 7}
	if kind, ids, ok := parseTimer(lifecycle.EndMember("a|b", ref, 12)); !ok || kind != timerEnd || ids[0] != "a|b" || timerRef(ids) != ref {
		t.Errorf("the end of %+v was read as %s %q", ref, kind, ids)
	}
	for _, bad := range []string{"", "t", "t|a", "t|a|b|c", "?|a", "t|a|", "t|a|=zz", "t|a b|c"} {
		if kind, ids, ok := parseTimer(bad); ok {
			t.Errorf("%q was read as %s %q", bad, kind, ids)
		}
	}
}
