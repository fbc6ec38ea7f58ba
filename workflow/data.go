package workflow

import (
	"bytes"
	"errors"
	"slices"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow/expr"
)

// mayCompute reports whether a template may hold an expression.
func mayCompute(raw event.Raw) bool { return bytes.Contains(raw, []byte("{{")) }

// errNeeds says that an evaluation must wait until the engine has loaded what it refers to. Whoever gets it changes nothing more.
var errNeeds = errors.New("documents are needed that were not loaded")

// blame fails a task for good by the error of an evaluation, unless that must only wait for documents.
func (d *decider) blame(t *RunTask, err error) {
	if !errors.Is(err, errNeeds) {
		d.failFor(t, evalError(err))
	}
}

// evalError is the error of an evaluation as the failure of a task.
func evalError(err error) *event.TaskError {
	if why := taskError(err); why != nil {
		return why
	}
	no := false
	return &event.TaskError{Code: expr.CodeExpression, Message: clip(err.Error(), event.MaxErrorText), Retryable: &no}
}

// condition evaluates a condition of the definition. Its error is errNeeds or one for blame.
func (d *decider) condition(source string) (bool, error) {
	x, err := d.def.expression(source, expr.Bool)
	if err != nil {
		return false, err
	}
	s, err := d.scope(x.Refs())
	if err != nil {
		return false, err
	}
	return x.Bool(s)
}

// choose returns the task that a switch leads to, empty if no case holds. Its error is errNeeds or one for blame.
func (d *decider) choose(cases []Case) (string, error) {
	for _, c := range cases {
		holds := c.When == ""
		if !holds {
			var err error
			if holds, err = d.condition(c.When); err != nil {
				return "", err
			}
		}
		if holds {
			return c.TaskID, nil
		}
	}
	return "", nil
}

// render renders a template of the definition to JSON that fits into a message. Its error is errNeeds or one for blame.
func (d *decider) render(raw event.Raw) (event.Raw, error) {
	if !mayCompute(raw) {
		return raw, nil
	}
	t, err := d.def.template(raw)
	if err != nil {
		return nil, err
	}
	s, err := d.scope(t.Refs())
	if err != nil {
		return nil, err
	}
	return t.Render(s, event.MaxBody)
}

// scope gathers what expressions refer to. Its error is errNeeds, or that they refer to more than can be loaded.
func (d *decider) scope(refs expr.Refs) (*expr.Scope, error) {
	r := d.run
	s := &expr.Scope{Run: expr.RunView{
		ID: r.ID, WorkflowID: r.Workflow, WorkflowVersion: r.DefVersion, Labels: r.Labels, Priority: r.Priority, CreatedAt: r.Created,
	}}
	known := true
	if refs.Input {
		s.Input, known = d.input()
	}
	if tasks := refs.Tasks(); len(tasks) > 0 {
		s.Tasks = make(map[string]expr.TaskView, len(tasks))
		for _, id := range tasks {
			view, ok := d.view(id, slices.Contains(refs.Outputs, id))
			s.Tasks[id] = view
			known = known && ok
		}
	}
	switch {
	case known:
		return s, nil
	case d.at.Last:
		return nil, &expr.Error{Code: expr.CodeTooLarge, Text: "it refers to more than can be read at once"}
	}
	return nil, errNeeds
}

// doc returns a document of the run that never changes, nil if there is none. If it was not loaded for this decision, ok is false and it is noted
// as needed.
func (d *decider) doc(key storage.Key) (raw event.Raw, ok bool) {
	if raw, ok = d.at.Data[key]; !ok && !slices.Contains(d.out.Need, key) {
		d.out.Need = append(d.out.Need, key)
	}
	return raw, ok
}

// input returns the input of the run, if it is known.
func (d *decider) input() (event.Raw, bool) {
	switch {
	case d.started != nil:
		return d.started.Input, true
	case d.run.BigInput:
		return d.doc(runInputKey(d.run.ID))
	}
	return d.run.Input, true
}

// view is what expressions can see of a task, if it is known.
func (d *decider) view(id string, output bool) (expr.TaskView, bool) {
	t, known := d.whole(id)
	if t == nil || !known {
		return expr.TaskView{State: d.run.mark(d.def.placeOf(id)).state()}, known
	}
	v := expr.TaskView{State: t.State, Output: t.Output, Error: t.Error, AgentID: t.Agent}
	if !t.Big || !output {
		return v, true
	}
	if i := slices.IndexFunc(d.out.Big, func(o Output) bool { return o.TaskID == id }); i >= 0 {
		v.Output = d.out.Big[i].Data
		return v, true
	}
	v.Output, known = d.doc(outputKey(d.run.ID, id, t.Attempt))
	return v, known
}

// whole returns a task with all that is kept of it, nil if it was not reached or nothing is kept, and whether that is known.
func (d *decider) whole(id string) (t *RunTask, known bool) {
	if t := d.run.Find(id); t != nil {
		return t, true
	}
	if i := slices.IndexFunc(d.out.Moved, func(t RunTask) bool { return t.ID == id }); i >= 0 {
		return &d.out.Moved[i], true
	}
	if !d.run.mayBeApart(d.def, id) {
		return nil, true
	}
	raw, ok := d.doc(runTaskKey(d.run.ID, id))
	if !ok || raw == nil {
		return nil, ok
	}
	t = new(RunTask)
	if event.Unmarshal(raw, t) != nil {
		return nil, true
	}
	return t, true
}

// mayBeApart reports whether a task that is not in the document may have one of its own.
func (r *Run) mayBeApart(def *Definition, id string) bool {
	if r.Total <= inlineTasks || r.Marks == nil {
		return r.Total > inlineTasks
	}
	place := def.placeOf(id)
	m := r.mark(place)
	return place < 0 || m == markCompleted || m == markFailed
}

// ownInput is what a task is given that nobody has edited: its parameters or, if it has none and the run begins with it, the input of the run. In a definition of the old
// kind the input of the run comes first, unless the parameters say by expressions what becomes of it. Its error is errNeeds or one for blame.
func (d *decider) ownInput(t *Task) (event.Raw, error) {
	in := t.Parameters
	if d.def.begins(t.TaskID) && (len(in) == 0 || !d.def.graph() && !d.computes(in)) {
		runInput, known := d.input()
		switch {
		case !known:
			return nil, errNeeds
		case !emptyObject(runInput):
			return runInput, nil
		}
	}
	if len(in) == 0 || in.Kind() == 'n' {
		return event.Raw(`{}`), nil
	}
	if d.run.Legacy { // it comes from those who know no templates
		return in, nil
	}
	return d.render(in)
}

// computes reports whether a template holds an expression. What comes from those who know no templates holds none.
func (d *decider) computes(raw event.Raw) bool {
	if d.run.Legacy || !mayCompute(raw) {
		return false
	}
	t, err := d.def.template(raw)
	return err != nil || t.Expressions() > 0
}

func emptyObject(v event.Raw) bool {
	if len(v) == 0 || v.Kind() == 'n' {
		return true
	}
	compact := v.Clone()
	return compact.Compact() == nil && string(compact) == "{}"
}

// checkInput renders the parameters of a task that is reached, so that it fails before an agent is looked for. It reports whether it has what it needs.
func (d *decider) checkInput(t *Task, rt *RunTask) bool {
	if !mayCompute(t.Parameters) {
		return true
	}
	in, err := d.taskInput(t)
	if err != nil {
		d.blame(rt, err)
		return false
	}
	if d.out.Inputs == nil {
		d.out.Inputs = make(map[string]event.Raw, 1)
	}
	d.out.Inputs[rt.ID] = in
	return true
}

// succeed ends a run whose tasks have ended well, with its output.
func (d *decider) succeed() {
	if d.def.Output != nil {
		output, err := d.render(d.def.Output)
		switch {
		case errors.Is(err, errNeeds):
			return
		case err != nil:
			d.end(event.RunFailed, evalError(err))
			return
		case len(output) > inlineOutput:
			d.run.BigOutput, d.out.Result = true, output
		default:
			d.run.Output = output
		}
	}
	d.end(event.RunCompleted, nil)
}
