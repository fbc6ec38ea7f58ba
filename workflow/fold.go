package workflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// loadInputs reads what the inputs are about: the runs, then their definitions and the gates of the agents that hold their attempts.
func (e *Engine) loadInputs(ctx context.Context, v *view, inputs []*input) error {
	runs := make([]string, 0, len(inputs))
	for _, in := range inputs {
		switch {
		case in.start != nil && in.msg.Delivered <= 1 && !in.again && v.runs[in.run] == nil && !e.runs.Has(runKey(in.run)):
			v.runs[in.run] = &slot[*Run]{} // a new run, most likely; if not, the commit will say so
		default:
			runs = append(runs, in.run)
		}
	}
	if err := e.loadRuns(ctx, v, runs); err != nil {
		return err
	}
	var agents []string
	for _, in := range inputs {
		if said, ok := in.in.(*Said); ok {
			agents = append(agents, said.Agent)
		}
		run := v.runs[in.run].val
		if !run.exists() {
			continue
		}
		if _, err := e.definitionOf(ctx, run); err != nil {
			return err
		}
		for i := range run.Tasks {
			if t := &run.Tasks[i]; t.Agent != "" && !t.State.Final() {
				agents = append(agents, t.Agent)
			}
		}
	}
	return e.loadGates(ctx, v, agents)
}

// loadRuns puts runs into the view, from memory where they are remembered.
func (e *Engine) loadRuns(ctx context.Context, v *view, ids []string) error {
	var keys []storage.Key
	var missing []string
	for _, id := range ids {
		if _, ok := v.runs[id]; ok {
			continue
		}
		if c, ok := e.runs.Load(runKey(id)); ok {
			v.runs[id] = &slot[*Run]{rev: c.Rev, val: c.Value}
			continue
		}
		v.runs[id] = &slot[*Run]{fresh: true}
		keys, missing = append(keys, runKey(id)), append(missing, id)
	}
	if len(keys) == 0 {
		return nil
	}
	docs, err := e.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return fmt.Errorf("load runs: %w", err)
	}
	for i, d := range docs {
		s := v.runs[missing[i]]
		s.rev = d.Rev
		if d.Rev == "" {
			continue
		}
		s.val = new(Run)
		if err := event.Unmarshal(d.Data, s.val); err != nil {
			return fmt.Errorf("document %s: %w", d.Key, err)
		}
		e.runs.Store(d.Key, d.Rev, s.val)
	}
	return nil
}

// loadGates puts gates into the view, from memory where they are remembered. An agent that does not exist has an empty gate.
func (e *Engine) loadGates(ctx context.Context, v *view, agents []string) error {
	var keys []storage.Key
	var missing []string
	for _, id := range agents {
		if _, ok := v.gates[id]; ok {
			continue
		}
		if c, ok := e.gates.Load(lifecycle.GateKey(id)); ok {
			v.gates[id] = &slot[*lifecycle.Gate]{rev: c.Rev, val: c.Value}
			continue
		}
		v.gates[id] = &slot[*lifecycle.Gate]{val: &lifecycle.Gate{Agent: id}, fresh: true}
		keys, missing = append(keys, lifecycle.GateKey(id)), append(missing, id)
	}
	if len(keys) == 0 {
		return nil
	}
	docs, err := e.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return fmt.Errorf("load gates: %w", err)
	}
	for i, d := range docs {
		s := v.gates[missing[i]]
		if s.rev = d.Rev; d.Rev == "" {
			continue
		}
		if err := event.Unmarshal(d.Data, s.val); err != nil {
			return fmt.Errorf("document %s: %w", d.Key, err)
		}
		e.gates.Store(d.Key, d.Rev, s.val)
	}
	return nil
}

// fold decides the inputs of one run, gives its ready tasks to free agents, and seals the change.
func (e *Engine) fold(ctx context.Context, v *view, inputs []*input, dispatching bool) error {
	sortInputs(inputs)
	s := v.runs[inputs[0].run]
	c := &change{run: s, before: s.val, after: s.val, inputs: inputs}
	if s.val.exists() {
		def, err := e.definitionOf(ctx, s.val)
		if err != nil {
			return err
		}
		c.def = def
	}
	for _, in := range inputs {
		before := c.after
		if err := e.decide(ctx, v, c, in); err != nil {
			return err
		}
		if before.stub() && c.after.exists() {
			if err := e.absorb(ctx, v, c, before); err != nil {
				return err
			}
			in.answer = e.outcome(c, in, Decision{}) // what was kept for it is part of what it came to
		}
	}
	if err := e.fillWindows(ctx, v, c); err != nil {
		return err
	}
	children, err := e.spawn(ctx, v, c)
	if err != nil {
		return err
	}
	if err := e.countSlots(ctx, v, c); err != nil {
		return err
	}
	if c.after != nil && c.after.State == event.RunRunning && dispatching {
		if err := e.assignReady(ctx, v, c); err != nil {
			return err
		}
	}
	if c.after == c.before && !s.fresh {
		// No commit would show that the remembered document is out of date: look at the real one before anything is refused.
		e.runs.Forget(runKey(inputs[0].run))
		v.unsure = append(v.unsure, inputs...)
		return nil
	}
	if c.empty() {
		for _, in := range inputs {
			e.answer(in)
			if in.timer != nil && !armed(c.after, in) {
				v.removes = append(v.removes, *in.timer) // the entry was left behind
			}
		}
		return nil
	}
	for _, in := range inputs {
		if in.timer == nil {
			continue
		}
		switch in.in.(type) {
		case *ChildEnded, *ChildAsks: // taken in with this change, or before it
			c.remove = append(c.remove, *in.timer)
		}
	}
	if len(children) > 0 {
		return e.sealFamily(ctx, v, c, children, dispatching)
	}
	v.seal(c, e.revs)
	return nil
}

// armed reports whether the document still has the timer that an input came from: then it was too early, by the clock's grain or a step of it.
func armed(r *Run, in *input) bool {
	tick, ok := in.in.(*Tick)
	if r == nil || !ok {
		return false
	}
	look := r.Look
	if tick.TaskID != "" {
		t := r.Find(tick.TaskID)
		if t == nil {
			return false
		}
		look = r.look(t)
	}
	return !look.IsZero() && storage.Score(look.UnixMicro()) == in.timer.Score
}

// distrustGate drops a gate that was only remembered, so that the next load reads it. One that this turn, or the one being committed, has
// written is newer than what the store would show.
func (v *view) distrustGate(e *Engine, agent string) {
	if s := v.gates[agent]; s != nil && (s.fresh || s.written) {
		return
	}
	for other := range e.flights {
		if s := other.gates[agent]; s != nil && s.written {
			return
		}
	}
	delete(v.gates, agent)
	e.gates.Forget(lifecycle.GateKey(agent))
}

// distrustRun is distrustGate for runs.
func (v *view) distrustRun(e *Engine, run string) {
	if s := v.runs[run]; s != nil && (s.fresh || s.written) {
		return
	}
	for other := range e.flights {
		if s := other.runs[run]; s != nil && s.written {
			return
		}
	}
	delete(v.runs, run)
	e.runs.Forget(runKey(run))
}

// sortInputs puts the messages of one run in stream order; inputs that are none come first, in their order.
func sortInputs(inputs []*input) {
	seq := func(in *input) uint64 {
		if in.msg == nil {
			return 0
		}
		return in.msg.Seq
	}
	slices.SortStableFunc(inputs, func(a, b *input) int { return cmp.Compare(seq(a), seq(b)) })
}

// decide takes one input into a change.
func (e *Engine) decide(ctx context.Context, v *view, c *change, in *input) error {
	at := At{Now: v.now, Seq: in.seq, Stream: in.at, Random: rand.Float64()}
	if in.msg != nil {
		at.Seq, at.Stream = in.msg.Seq, in.msg.Time
	}
	if epoch := e.cfg.Keeper.Epoch(); epoch.N > 0 && c.after != nil && !c.after.born().After(epoch.At) {
		at.Adopt = true
	}
	if refusal := e.expired(v, c, in); refusal != nil {
		in.answer = event.Refused(refusal)
		return nil
	}
	what := in.in
	switch i := what.(type) {
	case *Command:
		refusal, err := e.refuseEarly(ctx, c.after, i)
		if refusal == nil && err == nil {
			refusal, err = e.refuseAgain(ctx, v, c, i, at.Seq)
		}
		if refusal != nil || err != nil {
			in.answer = event.Refused(refusal)
			return err
		}
	case nil:
		start, refusal, err := e.resolve(ctx, c, in)
		if err != nil {
			return err
		}
		if refusal != nil {
			in.answer = event.Refused(refusal)
			return nil
		}
		if err := e.admit(ctx, v, c, start); err != nil {
			return err
		}
		what = start
	case *Tick:
		if c.after != nil {
			accepted, _ := e.accepted.Load(acceptedKey(c.after.ID, i.TaskID))
			i.Accepted = accepted.Value
			i.Intake = e.intake.since(c.after, i.TaskID, v.now)
			end, err := e.endBehind(ctx, v, c, i)
			if err != nil {
				return err
			}
			if end != nil {
				what, at.Stream = end.in, end.at
			}
		}
	}
	what, err := e.inform(ctx, v, c, what)
	if err != nil {
		return err
	}
	d, err := e.decideInput(ctx, v, c, what, at)
	if err != nil {
		return err
	}
	if len(d.Slots) == 0 { // the run may know nothing of the attempt, so nobody else will ever free its slot
		switch i := what.(type) {
		case *Gone:
			d.Slots = []SlotChange{{Agent: in.holder, Ref: i.Ref, Kind: SlotGone}}
		case *Stopped:
			d.Slots = []SlotChange{{Agent: i.Agent, Ref: i.Ref, Kind: SlotStopped}}
		}
	}
	if err := e.take(ctx, v, c, in, what, d); err != nil {
		return err
	}
	in.answer, in.stray = e.outcome(c, in, d), d.Stray
	return nil
}

// expired refuses a command whose caller has stopped waiting, unless it was applied before: that is judged first. What is replayed after a
// regression is not judged at all.
func (e *Engine) expired(v *view, c *change, in *input) *event.Error {
	if in.msg == nil || !in.msg.Expired(v.now) || e.cfg.Keeper.Replayed(event.StreamWork, in.msg.Seq) {
		return nil
	}
	if in.start != nil && c.after.exists() || in.start == nil && c.after.took(in.msg.Seq) {
		return nil
	}
	return event.Errorf(event.CodeExpired, "its caller had stopped waiting before it was begun")
}

// take adds the decision on what an input has become to a change: the run, the slots of agents, the documents that go along.
func (e *Engine) take(ctx context.Context, v *view, c *change, in *input, what Input, d Decision) error {
	for _, s := range d.Slots {
		if (s.Kind == SlotLate || s.Kind == SlotStopped) && c.gates[s.Agent] == nil {
			v.distrustGate(e, s.Agent) // nothing else may be committed that would show it to be out of date
		}
		if err := e.loadGates(ctx, v, []string{s.Agent}); err != nil {
			return err
		}
		e.changeSlot(v, c, s)
	}
	if d.Run == nil {
		return nil
	}
	created := !c.after.exists()
	if d.Run.stub() {
		c.after = d.Run
		return nil
	}
	c.advance(what, &d)
	c.noteSpent(&d)
	if d.Cause != "" {
		c.cause = d.Cause
	}
	if d.Ask != "" {
		c.ask = append(c.ask, d.Ask)
	}
	c.spawn = append(c.spawn, d.Spawn...)
	if d.Inputs != nil {
		if c.rendered == nil {
			c.rendered = make(map[string]event.Raw, len(d.Inputs))
		}
		maps.Copy(c.rendered, d.Inputs)
	}
	var docs []document
	for i, page := range d.Pages {
		docs = append(docs, document{key: itemsKey(d.Run.ID, d.Opened, d.Run.Find(d.Opened).Attempt, i), data: page})
	}
	if created && d.Run.BigInput {
		docs = append(docs, document{key: runInputKey(d.Run.ID), data: in.start.Input})
	}
	for _, o := range d.Big {
		docs = append(docs, document{key: outputKey(d.Run.ID, o.TaskID, o.Attempt), data: o.Data})
	}
	if d.Result != nil {
		docs = append(docs, document{key: runResultKey(d.Run.ID), data: d.Result})
	}
	for i := range d.Moved {
		docs = append(docs, document{key: runTaskKey(d.Run.ID, d.Moved[i].ID), data: event.MustMarshal(&d.Moved[i])})
	}
	return e.addDocs(ctx, c, docs)
}

// addDocs adds documents to a change, conditional on what stands there now: normally nothing, but a store that regressed may be
// written again.
func (e *Engine) addDocs(ctx context.Context, c *change, docs []document) error {
	if len(docs) == 0 {
		return nil
	}
	keys := make([]storage.Key, len(docs))
	for i, d := range docs {
		keys[i] = d.key
	}
	found, err := e.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return fmt.Errorf("load documents: %w", err)
	}
	for i := range docs {
		docs[i].rev = found[i].Rev
	}
	c.docs = append(c.docs, docs...)
	return nil
}

// changeSlot changes the gate of an agent the way a decision says.
func (e *Engine) changeSlot(v *view, c *change, s SlotChange) {
	held := v.gates[s.Agent].val
	if g := c.gates[s.Agent]; g != nil {
		held = g
	}
	_, draining := held.Draining(s.Ref)
	late := s.Kind == SlotLate || s.Kind == SlotStopped
	if (s.Kind != SlotTake && !held.Holds(s.Ref)) || (late && !draining) {
		// The gate was perhaps only remembered, and does hold it: then the commit must fail, or the slot would be lost.
		c.conds = append(c.conds, storage.Cond{Key: lifecycle.GateKey(s.Agent), Rev: v.gates[s.Agent].rev})
		return
	}
	g := v.gate(c, s.Agent)
	switch s.Kind {
	case SlotTake:
		g.Take(s.Ref, g.Instance, v.now)
	case SlotResult, SlotLate:
		judge(g, s, v.now)
		g.Release(s.Ref, s.At)
		g.Answered()
	case SlotRejected:
		judge(g, s, v.now)
		g.Release(s.Ref, s.At)
		g.Rejected(v.now, s.After)
	case SlotSilent:
		g.Release(s.Ref, s.At)
		g.Unheard(v.now)
	case SlotGone:
		v.free(g, s)
	case SlotStopped:
		v.free(g, s)
		c.remove = append(c.remove, storage.IndexOp{Index: dueIndex, Member: drainTimer(s.Agent, s.Ref)})
	case SlotDrain:
		judge(g, s, v.now)
		g.Drain(s.Ref, v.now.Add(CancelGrace))
		c.drains = append(c.drains, s)
	}
}

// free frees a slot on the word of others than its agent. One that is lost may come back with it.
func (v *view) free(g *lifecycle.Gate, s SlotChange) {
	if !g.Abandon(s.Ref, v.now) {
		g.Release(s.Ref, s.At)
	}
}

// judge tells the breaker of an agent how an attempt ended, if that says anything of the agent. A refusal that says when to come back is good manners.
func judge(g *lifecycle.Gate, s SlotChange, now time.Time) {
	switch {
	case s.Failed, s.Kind == SlotRejected && s.After <= 0:
		g.Failed(s.Ref, now)
	case s.Kind == SlotResult:
		g.Worked(s.Ref)
	}
}

// outcome is what the caller of a message hears after the commit.
func (e *Engine) outcome(c *change, in *input, d Decision) *event.Outcome {
	if d.Refuse != nil {
		return event.Refused(d.Refuse)
	}
	if d.Held != nil {
		return &event.Outcome{Held: true, Error: d.Held}
	}
	o := &event.Outcome{OK: true}
	if r := c.after; r != nil {
		o.Version, o.RunID, o.WorkflowID, o.WorkflowVersion, o.State = r.Version, r.ID, r.Workflow, r.DefVersion, string(r.State)
	}
	if in.msg != nil {
		o.Seq = in.msg.Seq
	}
	return o
}

func asError(err error) *event.Error {
	var e *event.Error
	if errors.As(err, &e) {
		return e
	}
	return event.Errorf(event.CodeInternal, "%v", err)
}
