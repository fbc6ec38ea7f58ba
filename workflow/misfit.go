package workflow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow/contract"
)

// CodeInvalidInput is the code of a failure: the input of a task does not fit what the agents take that it could go to.
const CodeInvalidInput = "invalid_input"

const (
	maxUnfit    = 8   // schemas that are remembered of one task not to be fit
	maxUnfitWhy = 300 // bytes of what is remembered of each
)

// Misfit says that the input of a ready task does not fit what an agent takes.
type Misfit struct {
	TaskID string
	Agent  string
	Unfit  Unfit
	Ready  time.Time // since when the task was ready: it may have been given another input since
}

// misfit moves a task to the queue of those that are for agents with other schemas. One that nobody else could take has failed.
func (d *decider) misfit(in *Misfit) {
	t := d.run.Find(in.TaskID)
	if t == nil || t.State != event.TaskReady || !t.Ready.Equal(in.Ready) || slices.Contains(t.unfit(), in.Unfit.Schema) {
		return
	}
	if t.lastHope() {
		no := false
		d.giveOn(t, &event.TaskError{Code: CodeInvalidInput, Retryable: &no, Message: fmt.Sprintf(
			"the input does not fit the schema that agent %q has registered for capability %q: %s", in.Agent, d.task(t.ID).capability(t.Fallback), in.Unfit.Why)})
		return
	}
	t.Unfit = append(slices.Clone(t.Unfit), in.Unfit)
	t.Class = d.class(t)
	d.changed = true
}

// lastHope reports whether the task has failed if the agent that it is to be given to does not take its input.
func (t *RunTask) lastHope() bool {
	return strings.HasPrefix(t.Class, namedClass) || strings.HasPrefix(t.Class, boundClass) || len(t.Unfit) == maxUnfit
}

// unfit names the schemas that the input of the task does not fit.
func (t *RunTask) unfit() []string {
	if t.Unfit == nil {
		return nil
	}
	names := make([]string, len(t.Unfit))
	for i, u := range t.Unfit {
		names[i] = u.Schema
	}
	return names
}

// misfits says why the input of the task does not fit a schema, if that is known.
func (t *RunTask) misfits(schema string) string {
	for _, u := range t.Unfit {
		if u.Schema == schema {
			return ": " + u.Why
		}
	}
	return ""
}

// terms are the schemas that an agent has registered for what a task of the change's run asks for.
func (c *change) terms(t *RunTask, gate *lifecycle.Gate) (ids lifecycle.SchemaIDs) {
	if len(gate.Schemas) == 0 {
		return ids
	}
	if task := c.def.Find(t.ID); task != nil {
		ids = gate.Schemas[task.capability(t.Fallback)]
	}
	return ids
}

// fits reports whether the input of a task is one that the agent takes. If it is not, that becomes an input of the run, to be decided next.
func (e *Engine) fits(ctx context.Context, v *view, c *change, t *RunTask, gate *lifecycle.Gate) (bool, error) {
	id := c.terms(t, gate).Input
	if id == "" {
		return true, nil
	}
	if e.inbox.turnedAway(c.after.ID, t.ID) {
		return false, nil // that is decided first
	}
	schema, err := e.schema(ctx, gate.Agent, id)
	if schema == nil || err != nil {
		return true, err
	}
	in, err := e.taskInput(ctx, v, c, c.def.Find(t.ID))
	switch {
	case taskError(err) != nil:
		return true, nil // it is told when it is sent
	case err != nil:
		return false, err
	}
	if c.rendered == nil {
		c.rendered = make(map[string]event.Raw, 1)
	}
	c.rendered[t.ID] = in // it will be sent
	if err = schema.Check(in); err == nil {
		return true, nil
	}
	e.inbox.turnAway(c.after.ID, &Misfit{
		TaskID: t.ID, Agent: gate.Agent, Ready: t.Ready, Unfit: Unfit{Schema: id, Why: clip(err.Error(), maxUnfitWhy)},
	})
	return false, nil
}

// stands reports whether the agent of a misfit still takes nothing but what fits the schema, if that is about to fail its task. That was found with a gate that may
// only have been remembered; now it is the present one, and a condition of the change.
func (e *Engine) stands(ctx context.Context, v *view, c *change, in *Misfit) (bool, error) {
	if !c.after.exists() {
		return false, nil
	}
	t := c.after.Find(in.TaskID)
	if t == nil || t.State != event.TaskReady || !t.lastHope() {
		return true, nil
	}
	v.distrustGate(e, in.Agent)
	if err := e.loadGates(ctx, v, []string{in.Agent}); err != nil {
		return false, err
	}
	c.conds = append(c.conds, storage.Cond{Key: lifecycle.GateKey(in.Agent), Rev: v.gates[in.Agent].rev})
	return c.terms(t, v.seen(c, in.Agent)).Input == in.Unfit.Schema, nil
}

// promised returns the schema that the output of a result must fit, because its agent had said so when it was given the attempt; nil if there is none.
func (e *Engine) promised(ctx context.Context, run *Run, said *Said) (*contract.Contract, error) {
	result, ok := said.Event.(*event.Result)
	if !ok || result.Status != event.StatusCompleted || !run.exists() {
		return nil, nil
	}
	t := run.recall(result.TaskID)
	if t == nil || t.Schema == "" {
		return nil, nil
	}
	return e.schema(ctx, t.Agent, t.Schema)
}

// schema returns a schema that an agent has registered, compiled; nil if it is kept no more: then nothing is asked.
func (e *Engine) schema(ctx context.Context, agent, id string) (*contract.Contract, error) {
	if c, ok := e.schemas.Load(storage.Key(id)); ok {
		return c.Value, nil
	}
	raw, err := lifecycle.CapabilitySchema(ctx, e.cfg.Store, agent, id)
	if err != nil {
		return nil, err
	}
	schema, err := contract.Compile(raw)
	if raw == nil || err != nil { // it was one when it was registered
		e.cfg.Log.Warn("schema of an agent not found: what it says is not checked", "agent", agent, "schema", id, "err", err)
		return nil, nil
	}
	e.schemas.Store(storage.Key(id), "", schema)
	return schema, nil
}
