package workflow

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow/contract"
)

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
