package workflow

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// fireTimers looks for due entries ten times a second. An entry says "look"; what is due stands in the documents.
func (e *Engine) fireTimers(ctx context.Context) error {
	t := time.NewTicker(duePeriod)
	defer t.Stop()
	down := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if !e.cfg.Bus.Connected() {
			e.intake.read(time.Now(), time.Time{}, errNoBus)
			continue
		}
		err := e.fireDue(ctx)
		if err != nil {
			e.intake.read(time.Now(), time.Time{}, err) // no time passes for others while the store or NATS cannot be read
		}
		if err != nil && ctx.Err() == nil && !down {
			e.cfg.Log.Warn("timers stand still", "err", err)
		}
		if err == nil && down {
			e.cfg.Log.Info("timers go on")
		}
		down = err != nil
	}
}

var errNoBus = errors.New("not connected to NATS")

// fireDue fires what is due now. While NATS cannot be read no time is called over: results may wait there.
func (e *Engine) fireDue(ctx context.Context) error {
	if err := e.cfg.Keeper.Dispatching(); err != nil {
		return nil // the store is behind: its timers are about what was
	}
	if err := e.keepWatch(ctx, time.Now()); err != nil {
		return err
	}
	if err := e.fireOwn(ctx); err != nil {
		return err
	}
	return e.fireKin(ctx)
}

// fireOwn fires the timers of runs and agents.
func (e *Engine) fireOwn(ctx context.Context) error {
	var after storage.Cursor
	for {
		now := time.Now()
		entries, err := e.cfg.Store.Range(ctx, dueIndex, after, storage.Score(now.UnixMicro()), duePage)
		if err != nil {
			return fmt.Errorf("read due timers: %w", err)
		}
		if len(entries) == 0 {
			e.intake.back(now)
			return nil
		}
		at, err := e.cfg.Bus.IntakeTime(ctx, now)
		e.intake.read(now, at, err)
		if err != nil {
			return fmt.Errorf("read intake time: %w", err)
		}
		rest, scheduleErr := e.fireSchedules(ctx, entries)
		rest, factErr := e.tellAgents(ctx, rest)
		if err := errors.Join(e.fire(ctx, rest), scheduleErr, factErr); err != nil {
			return err
		}
		if len(entries) < duePage {
			return nil
		}
		after = storage.Cursor{Score: entries[duePage-1].Score, Member: entries[duePage-1].Member}
	}
}

// fireKin fires the timers between parents and children. A large tree of runs has many thousands of them due at the same time, which must not make those of others late: they
// stand in an index of their own, and are taken in with what comes of itself, a turn at a time, as soon as nothing of that waits. It is read round and round, so that none waits for
// ever behind others that stay.
func (e *Engine) fireKin(ctx context.Context) error {
	if e.inbox.busy() {
		return nil
	}
	entries, err := e.cfg.Store.Range(ctx, kinIndex, e.kin, storage.Score(time.Now().UnixMicro()), batchSize)
	if err != nil {
		return fmt.Errorf("read due timers of children: %w", err)
	}
	e.kin = storage.Cursor{}
	for _, entry := range entries {
		e.inbox.fire(storage.IndexOp{Index: kinIndex, Member: entry.Member, Score: entry.Score})
		if len(entries) == batchSize {
			e.kin = storage.Cursor{Score: entry.Score, Member: entry.Member}
		}
	}
	return nil
}

func (e *Engine) fire(ctx context.Context, entries []storage.Entry) (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer e.caught(&err)
	ops := make([]*storage.IndexOp, len(entries))
	for i, entry := range entries {
		ops[i] = &storage.IndexOp{Index: dueIndex, Member: entry.Member, Score: entry.Score}
	}
	inputs, err := e.lookUp(ctx, ops)
	if err != nil {
		return err
	}
	return e.turn(ctx, inputs)
}

// caught turns a panic of a turn into an error, so that one bad document does not end the process for all others.
func (e *Engine) caught(err *error) {
	if p := recover(); p != nil {
		e.cfg.Log.Error("turn panicked", "err", p, "stack", string(debug.Stack()))
		*err = fmt.Errorf("panic: %v", p)
	}
}

// timerInputs turns a due entry into inputs.
func (e *Engine) timerInputs(ctx context.Context, op *storage.IndexOp) ([]*input, error) {
	kind, ids, ok := parseTimer(op.Member)
	if !ok {
		return e.unknownTimer(ctx, op)
	}
	switch kind {
	case timerTask:
		return []*input{{run: ids[0], in: &Tick{TaskID: ids[1]}, timer: op}}, nil
	case timerRun:
		return []*input{{run: ids[0], in: &Tick{}, timer: op}}, nil
	case timerFact:
		return nil, e.factDue(ctx, ids[0], op)
	case timerBackoff:
		return []*input{{gate: &gateInput{agent: ids[0], kind: gateBackoffOver}, timer: op}}, nil
	case timerDrain:
		return e.drainDue(ctx, ids[0], timerRef(ids), op)
	case timerEarly:
		return nil, e.earlyDue(ctx, ids[0], op)
	case timerLimit:
		return e.limitDue(ctx, ids[0], op)
	case timerQueue:
		return e.queueDue(ctx, ids[0], op)
	case timerEmpty:
		return e.empty(ctx, ids[0], op)
	case timerEnd:
		return e.endDue(ctx, ids[0], timerRef(ids), op)
	case timerSpent:
		return nil, e.spentDue(ctx, ids[0], ids[1], ids[2], op)
	case timerChild:
		return e.childDue(ctx, ids[0], op)
	case timerAsks:
		return e.asksDue(ctx, ids[0], op)
	case timerKin:
		return e.kinDue(ctx, ids[0], ids[1], op)
	}
	return e.handBack(ctx, ids[0], op)
}

// factDue publishes a final fact that was not published in its time.
func (e *Engine) factDue(ctx context.Context, run string, op *storage.IndexOp) error {
	owes := func(r *Run) bool { return r.State.Final() && factTimer(r) == op.Member }
	r, err := e.reread(ctx, run, owes)
	if err != nil {
		return err
	}
	if r == nil || !owes(r) {
		e.facts.sent(*op) // a later fact replaces it
		return nil
	}
	e.publishFact(ctx, r, string(r.State))
	return nil
}

// handBack takes back what the earlier processes of an agent hold, and of one that is lost everything. One that has returned is told to stop it.
func (e *Engine) handBack(ctx context.Context, agent string, op *storage.IndexOp) ([]*input, error) {
	g, err := e.freshGate(ctx, agent)
	if err != nil {
		return nil, err
	}
	var inputs []*input
	lost := g.Liveness() == event.LivenessLost
	for i := range g.Held {
		h := &g.Held[i]
		switch stale := g.Stale(h); {
		case !lost && !stale, h.Away && !stale:
		case h.Drain.IsZero():
			inputs = append(inputs, &input{run: h.RunID, in: &Gone{Ref: h.AttemptRef}, holder: agent})
		default:
			inputs = append(inputs, &input{run: h.RunID, in: &Stopped{Ref: h.AttemptRef, Agent: agent}})
		}
	}
	switch {
	case len(inputs) > 0:
	case g.Returned():
		inputs = append(inputs, &input{gate: &gateInput{agent: agent, kind: gateReturned}, timer: op})
	default:
		inputs = append(inputs, &input{gate: &gateInput{agent: agent, kind: gateNothing}, timer: op})
	}
	return inputs, nil
}

// empty takes back what an agent holds whose time to drain is over.
func (e *Engine) empty(ctx context.Context, agent string, op *storage.IndexOp) ([]*input, error) {
	g, err := e.freshGate(ctx, agent)
	if err != nil {
		return nil, err
	}
	var inputs []*input
	for _, h := range g.Held {
		if h.Drain.IsZero() && g.DrainOver(time.Now()) {
			inputs = append(inputs, &input{run: h.RunID, in: &Gone{Ref: h.AttemptRef, Removed: true}, holder: agent})
		}
	}
	if len(inputs) == 0 {
		inputs = append(inputs, &input{gate: &gateInput{agent: agent, kind: gateNothing}, timer: op})
	}
	return inputs, nil
}

// freshGate reads a gate that may only be remembered.
func (e *Engine) freshGate(ctx context.Context, agent string) (*lifecycle.Gate, error) {
	e.gates.Forget(lifecycle.GateKey(agent))
	v := &view{gates: make(map[string]*slot[*lifecycle.Gate])}
	if err := e.loadGates(ctx, v, []string{agent}); err != nil {
		return nil, err
	}
	return v.gates[agent].val, nil
}

// timerRef is the attempt of a timer about a slot, whose first part is the agent.
func timerRef(ids []string) event.AttemptRef {
	attempt, _ := strconv.Atoi(ids[3])
	return event.AttemptRef{RunID: ids[1], TaskID: ids[2], Attempt: attempt}
}

// gateInput is something that happened to an agent's gate alone.
type gateInput struct {
	agent string
	ref   event.AttemptRef
	kind  gateKind
}

type gateKind int

const (
	gateNothing     gateKind = iota // only the timer goes
	gateConfirmed                   // the agent confirmed that it stopped an attempt that was given up
	gateAskAgain                    // an attempt whose cancel was not confirmed is cancelled once more
	gateReturned                    // an agent that was lost is told to stop what it was at work on
	gateBackoffOver                 // look at an agent that was left alone for a while
)

// foldGates decides the inputs that are about gates alone, and returns the others.
func (e *Engine) foldGates(ctx context.Context, v *view, inputs []*input) ([]*input, error) {
	rest := make([]*input, 0, len(inputs))
	var agents []string
	for _, in := range inputs {
		if in.gate == nil {
			rest = append(rest, in)
		} else if in.gate.agent != "" {
			agents = append(agents, in.gate.agent)
		}
	}
	for _, a := range agents { // a remembered gate is not good enough to let a timer go
		v.distrustGate(e, a)
	}
	if err := e.loadGates(ctx, v, agents); err != nil {
		return nil, err
	}
	for _, in := range inputs {
		if in.gate == nil {
			continue
		}
		c := &change{inputs: []*input{in}}
		if !e.foldGate(v, c, in.gate) {
			if in.timer != nil {
				v.removes = append(v.removes, *in.timer)
			}
			continue
		}
		v.seal(c, e.revs)
	}
	return rest, nil
}

// foldGate reports whether the gate changes.
func (e *Engine) foldGate(v *view, c *change, in *gateInput) bool {
	switch in.kind {
	case gateConfirmed:
		if _, draining := v.gates[in.agent].val.Draining(in.ref); !draining {
			return false
		}
		v.gate(c, in.agent).Release(in.ref, time.Time{})
		c.remove = append(c.remove, storage.IndexOp{Index: dueIndex, Member: drainTimer(in.agent, in.ref)})
		return true
	case gateAskAgain:
		if _, draining := v.gates[in.agent].val.Draining(in.ref); !draining {
			return false
		}
		v.gate(c, in.agent) // written as it is, so that the timer can go along
		c.drains = append(c.drains, SlotChange{Agent: in.agent, Ref: in.ref})
		return true
	case gateReturned:
		if !v.gates[in.agent].val.Returned() {
			return false
		}
		for _, ref := range v.gate(c, in.agent).Recall(v.now.Add(CancelGrace)) {
			c.drains = append(c.drains, SlotChange{Agent: in.agent, Ref: ref})
		}
		return true
	case gateBackoffOver:
		return v.backoffOver(c, in.agent)
	}
	return false
}

// backoffOver lists an agent as free again that was left alone for a while.
func (v *view) backoffOver(c *change, agent string) bool {
	g := v.gates[agent].val
	over := !g.Until.IsZero() && !v.now.Before(g.Until)
	lists := *g
	add, remove := lifecycle.FreeOps(g, &lists, v.now)
	if !over && len(add)+len(remove) == 0 && g.Wakes(v.now).IsZero() {
		return false
	}
	g = v.gate(c, agent) // also when there is more to wait for: the timer is armed again
	if over {
		g.Until, g.Silent = time.Time{}, false
	}
	if g.Wakes(v.now).IsZero() {
		c.remove = append(c.remove, storage.IndexOp{Index: dueIndex, Member: timer(timerBackoff, agent)})
	}
	return true
}

// drainDue looks at a slot whose attempt was told to stop: the agent is asked again until the grace is over, and the run learns what came of it.
func (e *Engine) drainDue(ctx context.Context, agent string, ref event.AttemptRef, op *storage.IndexOp) ([]*input, error) {
	g, err := e.freshGate(ctx, agent)
	if err != nil {
		return nil, err
	}
	until, draining := g.Draining(ref)
	if draining && time.Now().Before(until) {
		return []*input{{gate: &gateInput{agent: agent, ref: ref, kind: gateAskAgain}, timer: op}}, nil
	}
	if draining {
		e.cfg.Log.Warn("slot freed although the agent did not confirm the cancel", "agent", agent,
			"run_id", ref.RunID, "task_id", ref.TaskID, "attempt", ref.Attempt)
	}
	return []*input{{run: ref.RunID, in: &Stopped{Ref: ref, Agent: agent, Silent: draining}, timer: op}}, nil
}

func drainTimer(agent string, ref event.AttemptRef) string {
	return timer(timerDrain, agent, ref.RunID, ref.TaskID, strconv.Itoa(ref.Attempt))
}
