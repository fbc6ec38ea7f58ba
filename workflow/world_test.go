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
	"github.com/opspawn/opscore/workflow/contract"
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

// active returns the task that things happen to, nil if none is active.
func (w *world) active() *RunTask {
	var first *RunTask
	for i := range w.run.Tasks {
		t := &w.run.Tasks[i]
		switch {
		case t.State.Final() || t.State == event.TaskPending:
		case t.ID == w.focus:
			return t
		case first == nil:
			first = t
		}
	}
	return first
}

// current returns what an agent knows of the last attempt of that task, nil if there is none.
func (w *world) current() *attempt {
	t := w.active()
	if t == nil || t.Attempt == 0 {
		return nil
	}
	return w.last(t.ID)
}

// last returns what an agent knows of the last attempt of a task, nil if there is none.
func (w *world) last(task string) *attempt {
	for _, a := range slices.Backward(w.attempts) {
		if a.ref.TaskID == task {
			return a
		}
	}
	return nil
}

// look turns to any of the active tasks.
func (w *world) look() {
	var ids []string
	for _, t := range w.run.Tasks {
		if !t.State.Final() && t.State != event.TaskPending {
			ids = append(ids, t.ID)
		}
	}
	if len(ids) > 1 {
		w.focus = rapid.SampledFrom(ids).Draw(w.t, "looks at")
	}
}

// promise is the schema that agents of the world say their outputs fit, when they say so.
func promise(t *rapid.T) *contract.Contract {
	c, err := contract.Compile(event.Raw(`{"type":"object"}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// turnAway lets the ready task be found not to fit what an agent takes.
func (w *world) turnAway() {
	t := w.active()
	want := parseClass(t.Class)
	if want.Agent != "" {
		return
	}
	schema := rapid.SampledFrom([]string{"s1", "s2", "s3"}).Draw(w.t, "schema")
	w.tell(&Misfit{TaskID: t.ID, Agent: "ann", Ready: t.Ready, Unfit: Unfit{Schema: schema, Why: "no"}})
	if after := w.active(); after.State != event.TaskReady || !slices.Contains(parseClass(after.Class).Unfit, schema) || !after.Ready.Equal(t.Ready) {
		w.t.Fatalf("task %s, which does not fit %s, is %s since %s in %q", after.ID, schema, after.State, after.Ready, after.Class)
	}
}

// assign gives the ready task to an agent.
func (w *world) assign() {
	if rapid.IntRange(0, 3).Draw(w.t, "fits") == 0 {
		w.turnAway()
	}
	t := w.active()
	agent := parseClass(t.Class).Agent
	if agent == "" {
		agent = rapid.SampledFrom([]string{"ann", "bob", "cid"}).Draw(w.t, "agent")
	}
	in := &Assign{TaskID: t.ID, Agent: agent, Instance: "p1", Token: fmt.Sprintf("token-%d", len(w.attempts))}
	in.Delivery = rapid.SampledFrom([]event.Delivery{"", "", event.DeliveryHTTP, event.DeliveryPoll, event.DeliveryAgentKit}).Draw(w.t, "delivery")
	if rapid.Bool().Draw(w.t, "promises") {
		in.Schema = "promised"
	}
	w.slots[slotKey{agent, t.ID, t.Attempt + 1}] = slotHeld
	if d := w.decide(in, At{}); d.Run == nil {
		w.t.Fatalf("task %s was ready and not assigned: %v", t.ID, d.Refuse)
	}
	n := 0
	for _, a := range w.attempts {
		if a.ref.TaskID == t.ID {
			n++
		}
	}
	ref := w.run.Find(t.ID).ref(runID)
	if rapid.Bool().Draw(w.t, "forgets its token") {
		ref.Token = ""
	}
	w.attempts = append(w.attempts, &attempt{
		agent: agent, instance: "p1", ref: ref, fate: w.script.fate(t.ID, n), answered: rapid.Bool().Draw(w.t, "answered"),
		output: w.output(t.ID, agent), promised: in.Schema != "",
	})
}

// output is what an agent brings.
func (w *world) output(task, agent string) string {
	n, ok := w.values[task]
	if !ok {
		return `{"by":"` + agent + `"}`
	}
	return fmt.Sprintf(`{"n":%d,"pad":%s}`, n, big(rapid.SampledFrom([]int{0, 2 * inlineOutput}).Draw(w.t, "pad")))
}

// publish puts an event into the stream.
func (w *world) publish(a *attempt, e event.Event) {
	w.seq++
	w.stream = append(w.stream, said{seq: w.seq, at: w.now, agent: a.agent, event: e})
}

func (a *attempt) accepted() event.Event {
	return &event.Accepted{AttemptRef: a.ref, Instance: a.instance}
}

func (a *attempt) progress() event.Event {
	return &event.Progress{AttemptRef: a.ref, Instance: a.instance, Message: "on it"}
}

// broken is an output that does not fit what was promised.
var broken = event.Raw(`"broken"`)

func (a *attempt) result(f fate) event.Event {
	r := &event.Result{AttemptRef: a.ref, Instance: a.instance, Status: event.StatusCompleted, Output: event.Raw(a.output)}
	switch {
	case f == fails && a.promised:
		r.Output = broken
	case f == fails || f == failsForGood:
		retryable := f == fails
		r.Status, r.Output, r.Error = event.StatusFailed, nil, &event.TaskError{Code: "broke", Message: "it broke", Retryable: &retryable}
	}
	return r
}

// mayspeak reports whether something is still to be heard of the attempt before it is given up.
func (a *attempt) mayspeak() bool { return a != nil && !a.over && a.fate != isLost && a.fate != isLate }

// speak lets the fate of an attempt happen.
func (w *world) speak(a *attempt) {
	a.over = true
	switch a.fate {
	case completes, fails, failsForGood:
		w.publish(a, a.result(a.fate))
	case isRejected, isUnheard:
		if w.run.Find(a.ref.TaskID).State == event.TaskRunning {
			a.fate = isReplaced // whoever accepted cannot reject
			w.tell(&Gone{Ref: a.ref})
			return
		}
		w.tell(&Refused{Ref: a.ref, Silent: a.fate == isUnheard})
	case isReplaced:
		w.tell(&Gone{Ref: a.ref})
	}
}

func (w *world) tell(in Input) {
	w.repeats = append(w.repeats, in)
	w.decide(in, At{})
}

// deliver takes in the message at a place of the stream.
func (w *world) deliver(i int) {
	m := w.stream[i]
	w.stream = slices.Delete(w.stream, i, i+1)
	w.old = append(w.old, m)
	w.hear(m)
}

// hear takes in a message: an attempt is outdated only when its successor is assigned.
func (w *world) hear(m said) Decision {
	ref, _ := refOf(m.event)
	var before RunTask
	if t := w.run.Find(ref.TaskID); t != nil {
		before = *t
	}
	d := w.decide(&Said{Agent: m.agent, Event: m.event}, At{Seq: m.seq, Stream: m.at})
	if before.State.Final() || before.Attempt != ref.Attempt {
		return d
	}
	if d.Refuse != nil {
		w.t.Fatalf("what the agent of the last attempt of %s said was refused: %v", ref.TaskID, d.Refuse)
	}
	if r, ok := m.event.(*event.Result); ok && r.Status == event.StatusCompleted && !bytes.Equal(r.Output, broken) && !slices.Contains(w.ended, ref.TaskID) {
		w.t.Fatalf("the result of the last attempt of %s was not taken while it was %s", ref.TaskID, before.State)
	}
	return d
}

// forge says of an attempt what only a stranger, or an agent that is wrong, would say.
func (w *world) forge(a *attempt) {
	ref, agent, instance := a.ref, a.agent, a.instance
	switch rapid.IntRange(0, 3).Draw(w.t, "forgery") {
	case 0:
		agent = "eve"
	case 1:
		ref.Token = "guessed"
	case 2:
		instance = "p0"
	case 3:
		ref.Attempt += 1000
	}
	w.seq++
	result := &event.Result{AttemptRef: ref, Instance: instance, Status: event.StatusCompleted}
	d := w.decide(&Said{Agent: agent, Event: result}, At{Seq: w.seq, Stream: w.now})
	if d.Refuse == nil {
		w.t.Fatalf("%s was not refused: attempt %d with token %q of process %q", agent, ref.Attempt, ref.Token, instance)
	}
}

// intake is up to when everything that was said has been taken in.
func (w *world) intake() time.Time {
	at := w.now
	for _, m := range w.stream {
		if m.at.Before(at) {
			at = m.at
		}
	}
	return at
}

// advance moves the clock. Whoever still has something to say of an attempt says it before its time is over.
func (w *world) advance(to time.Time) {
	for _, t := range w.run.Tasks {
		a := w.last(t.ID)
		if t := w.run.Find(t.ID); t == nil || !t.held() || !a.mayspeak() {
			continue
		}
		deadline := t.Lease
		if t.State == event.TaskAssigned && t.AcceptBy.Before(deadline) {
			deadline = t.AcceptBy
		}
		if !to.Before(deadline) {
			w.speak(a)
		}
	}
	if to.After(w.now) {
		w.now = to
	}
}

// tick fires the timer of the active task.
func (w *world) tick() {
	t := w.active()
	if t == nil {
		return
	}
	in := &Tick{TaskID: t.ID, Intake: w.intake()}
	a := w.current()
	if a != nil && a.answered && !a.over {
		in.Accepted = a.ref.Attempt
	}
	w.decide(in, At{})
	if t = w.run.Find(t.ID); t != nil && t.State == event.TaskRetrying && a.fate == isLate && !a.over {
		a.over = true
		w.publish(a, a.result(completes))
		w.deliver(len(w.stream) - 1)
	}
}

// step lets one thing happen, by chance.
func (w *world) step() {
	w.look()
	t, a := w.active(), w.current()
	type move struct {
		name string
		can  bool
		do   func()
	}
	held := t != nil && t.held() && a.mayspeak()
	moves := []move{
		{"assign", t != nil && t.State == event.TaskReady, w.assign},
		{"accept", held && a.fate < isRejected, func() { w.publish(a, a.accepted()) }},
		{"progress", held && a.fate < isRejected, func() { w.publish(a, a.progress()) }},
		{"speak", held, func() { w.speak(a) }},
		{"deliver", len(w.stream) > 0, func() { w.deliver(rapid.IntRange(0, len(w.stream)-1).Draw(w.t, "which")) }},
		{"repeat", len(w.old) > 0, func() { w.hear(rapid.SampledFrom(w.old).Draw(w.t, "which")) }},
		{"repeat answer", len(w.repeats) > 0, func() { w.decide(rapid.SampledFrom(w.repeats).Draw(w.t, "which"), At{}) }},
		{"forge", len(w.attempts) > 0, func() { w.forge(rapid.SampledFrom(w.attempts).Draw(w.t, "which")) }},
		{"wait", true, func() {
			w.advance(w.now.Add(time.Duration(rapid.IntRange(1, 20_000).Draw(w.t, "ms")) * time.Millisecond))
		}},
		{"tick", true, w.tick},
	}
	moves = slices.DeleteFunc(moves, func(m move) bool { return !m.can })
	names := make([]string, len(moves))
	for i, m := range moves {
		names[i] = m.name
	}
	moves[slices.Index(names, rapid.SampledFrom(names).Draw(w.t, "move"))].do()
}

// finish lets the rest happen in order, until the run has ended. It fails if the run is stuck: neither ended nor anything due.
func (w *world) finish() {
	for range 2000 {
		t, a := w.active(), w.current()
		switch {
		case w.run.State.Final():
			for len(w.stream) > 0 {
				w.deliver(0)
			}
			w.checkPast()
			return
		case len(w.stream) > 0:
			w.deliver(0)
		case t.State == event.TaskReady:
			w.assign()
		case t.held() && a.mayspeak():
			w.speak(a)
		default:
			w.advance(t.Look)
			w.tick()
		}
	}
	w.t.Fatalf("the run does not end: %s", event.MustMarshal(w.run))
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
