package workflow

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// noon is when every test begins.
var noon = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// fate is what becomes of one attempt.
type fate int

const (
	completes fate = iota
	fails
	failsForGood // not retryable
	isLost       // nothing is heard of it again
	isLate       // its result comes after it was given up, before its successor is assigned
	isRejected
	isUnheard // nobody answers on the agent's subject
	isReplaced
	fates
)

// script says what becomes of the attempts of each task, in order; those beyond complete.
type script map[string][]fate

func (s script) fate(task string, n int) fate {
	if n < len(s[task]) {
		return s[task][n]
	}
	return completes
}

// end is how a run ends: the plain interpreter that knows no attempts, slots, clocks or messages.
func (s script) end(def *Definition) (state event.RunState, completed []string) {
	for t := &def.Tasks[0]; t != nil; t = def.after(t) {
		if !s.succeeds(def, t) {
			return event.RunFailed, completed
		}
		completed = append(completed, t.TaskID)
	}
	return event.RunCompleted, completed
}

func (s script) succeeds(def *Definition, t *Task) bool {
	most := 3
	for _, r := range []*Retry{def.Retry, t.Retry} {
		if r != nil && r.Attempts != nil {
			most = *r.Attempts
		}
	}
	others := 0
	if t.OnFailure != nil {
		others = len(t.OnFailure.Fallback)
	}
	for n, retries := 0, most; ; n++ {
		f := s.fate(t.TaskID, n)
		switch {
		case f == completes || f == isLate && retries > 0:
			return true
		case f == failsForGood || f <= isLate && retries == 0:
			if others == 0 {
				return false
			}
			others, retries = others-1, most
		case f <= isLate:
			retries--
		}
	}
}

// said is a message in the stream.
type said struct {
	seq   uint64
	at    time.Time
	agent string
	event event.Event
}

// attempt is what an agent knows of an attempt it was given.
type attempt struct {
	agent, instance string
	ref             event.AttemptRef
	fate            fate
	output          string
	promised        bool // its agent had said what its output fits
	answered        bool // its agent's answer came through
	over            bool // nothing more is said of it
}

type slotKey struct {
	agent, task string
	attempt     int
}

type slotState int

const (
	slotHeld slotState = iota + 1
	slotDrains
	slotFree
)

// world is a run and everything around it: agents that follow a script, a stream that repeats and reorders, a clock. Every input goes
// through decide, which checks what must always hold.
type world struct {
	t        *rapid.T
	def      *Definition
	script   script
	run      *Run
	now      time.Time
	seq      uint64
	stream   []said // published, not taken in yet
	old      []said // taken in; may come again
	repeats  []Input
	attempts []*attempt
	slots    map[slotKey]slotState
	applied  map[slotKey]bool // attempts whose result changed the run
	ended    []string         // tasks that completed, in order
	moved    map[string]*RunTask
	past     []written      // all documents; Decide must not write to them
	docs     library        // those besides the run
	values   map[string]int // what tasks bring, in a graph
	focus    string         // of several active tasks the one that things happen to

	onDecision func(before *Run, d Decision) // may be nil
}

// written is a document and what it said when it was decided.
type written struct {
	run   *Run
	image []byte
}

const runID = "run-1"

func newWorld(t *rapid.T, def *Definition, s script, start *event.RunStart) *world {
	w := &world{
		t: t, def: def, script: s, now: noon,
		slots: make(map[slotKey]slotState), applied: make(map[slotKey]bool), moved: make(map[string]*RunTask), docs: make(library),
	}
	start.RunID = runID
	w.seq++
	w.decide(&Start{Event: start, Workflow: def.ID, DefVersion: "v1", Hash: "h"}, At{Seq: w.seq, Stream: w.now})
	return w
}

// decide puts one input to Decide and takes over the decision.
func (w *world) decide(in Input, at At) Decision {
	at.Now = w.now
	at.Random = rapid.Float64Range(0, 0.999).Draw(w.t, "random")
	before := w.run
	if s, ok := in.(*Said); ok && before != nil {
		ref, _ := refOf(s.Event)
		if t := before.recall(ref.TaskID); t != nil && t.Schema != "" {
			at.Schema = promise(w.t)
		}
	}
	image := event.MustMarshal(before)
	d := w.docs.decide(w.def, before, in, at)
	if again := w.docs.decide(w.def, before, in, at); !reflect.DeepEqual(d, again) {
		w.t.Fatalf("the same input was decided in two ways: %s", cmp.Diff(d, again))
	}
	if !bytes.Equal(image, event.MustMarshal(before)) {
		w.t.Fatalf("%T changed the run it was given", in)
	}
	if d.Refuse != nil && d.Run != nil {
		w.t.Fatalf("%T was refused and changed the run", in)
	}
	w.changeSlots(d.Slots)
	if d.Ask != "" && d.Run.Find(d.Ask).once() {
		w.t.Fatalf("%s, which takes each request for a new one, is asked again for %s", d.Run.Find(d.Ask).Agent, d.Ask)
	}
	if d.Run != nil {
		w.take(in, d)
	}
	w.checkSlots()
	w.checkTimers()
	if w.onDecision != nil {
		w.onDecision(before, d)
	}
	return d
}

func (w *world) take(in Input, d Decision) {
	if w.run != nil {
		if w.run.State.Final() {
			w.t.Fatalf("%T changed a run that has ended", in)
		}
		if d.Run.Version != w.run.Version+1 {
			w.t.Fatalf("version %d follows on %d", d.Run.Version, w.run.Version)
		}
		w.checkAttempts(in, d)
	}
	if s, ok := in.(*Said); ok {
		if r, ok := s.Event.(*event.Result); ok {
			key := slotKey{s.Agent, r.TaskID, r.Attempt}
			if w.applied[key] {
				w.t.Fatalf("the result of attempt %d of %s was applied twice", r.Attempt, r.TaskID)
			}
			w.applied[key] = true
		}
	}
	w.noteCompleted(d)
	for i := range d.Moved {
		t := &d.Moved[i]
		if w.moved[t.ID] != nil {
			w.t.Fatalf("task %s was moved out twice", t.ID)
		}
		w.moved[t.ID] = t
	}
	w.run = d.Run
	image := event.MustMarshal(d.Run)
	w.past = append(w.past, written{d.Run, image})
	if rapid.Bool().Draw(w.t, "read back") { // by another replica
		w.run = new(Run)
		if err := event.Unmarshal(image, w.run); err != nil {
			w.t.Fatal(err)
		}
	}
}

// noteCompleted notes the tasks that completed with a decision.
func (w *world) noteCompleted(d Decision) {
	for _, t := range slices.Concat(d.Moved, d.Run.Tasks) {
		before := &RunTask{}
		if w.run != nil {
			before = w.run.at(0, t.ID)
		}
		if t.State == event.TaskCompleted && before.State != event.TaskCompleted {
			w.ended = append(w.ended, t.ID)
		}
	}
}

func (w *world) checkAttempts(in Input, d Decision) {
	for _, t := range w.run.Tasks {
		after := d.Run.Find(t.ID)
		if after == nil {
			continue
		}
		if after.Attempt < t.Attempt {
			w.t.Fatalf("attempt %d of %s follows on %d", after.Attempt, t.ID, t.Attempt)
		}
		if a, ok := in.(*Assign); ok && a.TaskID == t.ID && after.Attempt == t.Attempt {
			w.t.Fatalf("attempt %d of %s was assigned twice", t.Attempt, t.ID)
		}
	}
}

// changeSlots does what the decision says to the slots of agents. Each slot that is taken is freed, or begins to drain, exactly once.
func (w *world) changeSlots(changes []SlotChange) {
	for _, c := range changes {
		key := slotKey{c.Agent, c.Ref.TaskID, c.Ref.Attempt}
		switch state := w.slots[key]; c.Kind {
		case SlotTake:
			w.t.Fatalf("attempt %d of %s was adopted", c.Ref.Attempt, c.Ref.TaskID)
		case SlotResult:
			if state != 0 {
				w.slots[key] = slotFree
			}
		case SlotLate:
			if state == slotDrains {
				w.slots[key] = slotFree
			}
		case SlotDrain, SlotRejected, SlotSilent, SlotGone:
			if state != slotHeld {
				w.t.Fatalf("the slot of attempt %d of %s was let go although it is not held", c.Ref.Attempt, c.Ref.TaskID)
			}
			w.slots[key] = slotFree
			if c.Kind == SlotDrain {
				w.slots[key] = slotDrains
			}
		}
	}
}

// checkSlots compares the slots that are held with what the run says: one for each task that an agent has, and no other.
func (w *world) checkSlots() {
	if w.run == nil {
		return
	}
	held := 0
	for _, state := range w.slots {
		if state == slotHeld {
			held++
		}
	}
	for _, t := range w.run.Tasks {
		if !t.held() {
			continue
		}
		held--
		if w.slots[slotKey{t.Agent, t.ID, t.Attempt}] != slotHeld {
			w.t.Fatalf("task %s is %s without a slot", t.ID, t.State)
		}
	}
	if held != 0 {
		w.t.Fatalf("%d slots are held for nothing", held)
	}
}

// checkTimers compares timers and queues with states: whatever has not ended waits for an agent or for a time.
func (w *world) checkTimers() {
	if w.run == nil {
		return
	}
	waits := false
	for _, t := range w.run.Tasks {
		if t.State == event.TaskPending {
			continue
		}
		waits = waits || !t.State.Final()
		if ready := t.State == event.TaskReady; ready != (t.Class != "") {
			w.t.Fatalf("task %s is %s in class %q", t.ID, t.State, t.Class)
		}
		right := t.Look.IsZero()
		switch t.State {
		case event.TaskAssigned:
			again := AskAgain
			if t.Delivery != "" {
				again = PushAskAgain
			}
			right = !t.Look.IsZero() && !t.Look.After(w.now.Add(again))
		case event.TaskRunning:
			right = !t.Look.IsZero() && !t.Look.Before(t.Lease)
		case event.TaskRetrying:
			right = !t.Look.IsZero() && t.Look.Equal(t.Retry)
		}
		if !right {
			w.t.Fatalf("task %s is %s with timer %s, lease %s, retry %s", t.ID, t.State, t.Look, t.Lease, t.Retry)
		}
	}
	if ended := w.run.State.Final(); ended == waits || ended && !w.run.Look.IsZero() {
		w.t.Fatalf("the run is %s, its tasks wait: %v, its timer is %s", w.run.State, waits, w.run.Look)
	}
}

// checkPast reads all documents again: what replicas remember must not change under them.
func (w *world) checkPast() {
	for _, p := range w.past {
		if now := event.MustMarshal(p.run); !bytes.Equal(p.image, now) {
			w.t.Fatalf("version %d was changed after it was decided: from %s to %s", p.run.Version, p.image, now)
		}
	}
}

// definitions draws a definition that runs as a sequence, in any order of its tasks and with some that no task leads to.
func definitions(t *rapid.T, least, most int) *Definition {
	n := rapid.IntRange(least, most).Draw(t, "tasks")
	def := &Definition{ID: "def", Retry: retries(t)}
	path := rapid.Permutation(ids(n)).Draw(t, "path")
	for i, id := range path {
		task := Task{TaskID: id, AgentCapability: "c" + id, Retry: retries(t)}
		task.TimeoutSeconds = rapid.SampledFrom([]float64{0, 2, 30}).Draw(t, "timeout")
		switch kind := rapid.IntRange(0, 5).Draw(t, "selector"); {
		case kind == 0:
			task.AgentID = "dan"
		case kind == 1 && i > 0:
			task.AgentCapability = "" // the run's agent
		}
		if i+1 < len(path) {
			task.NextTaskID = &path[i+1]
		}
		def.Tasks = append(def.Tasks, task)
	}
	def.Tasks = append(def.Tasks[:1:1], rapid.Permutation(def.Tasks[1:]).Draw(t, "places")...)
	def.Tasks = append(def.Tasks, Task{TaskID: "aside", AgentCapability: "never"})
	parsed, err := Parse(event.MustMarshal(def))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func ids(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("t%d", i+1)
	}
	return ids
}

func retries(t *rapid.T) *Retry {
	n := rapid.IntRange(-1, 3).Draw(t, "retries")
	if n < 0 {
		return nil
	}
	return &Retry{Attempts: &n}
}

func scripts(t *rapid.T, def *Definition) script {
	s := make(script)
	for _, task := range def.Tasks {
		for _, f := range rapid.SliceOfN(rapid.IntRange(0, int(fates)-1), 0, 5).Draw(t, "fates") {
			s[task.TaskID] = append(s[task.TaskID], fate(f))
		}
	}
	return s
}
