package workflow

import "github.com/opspawn/opscore/bus/event"

// inner reports whether the children of a task do the one thing that it says, each in a run that has only that as its task. The child of any other task is a run of
// the workflow that it names. A workflow that is repeated and tried again is both: each item has a run of its own, which tries the workflow.
func (t *Task) inner() bool {
	return t.Workflow == nil || t.Retry != nil && (t.ForEach != nil || t.Loop != nil)
}

// only returns the definition of the children of a task with forEach or loop: what it does each time, and nothing of what repeats it or comes
// before and after.
func (d *Definition) only(taskID string) *Definition {
	one := *d
	one.Tasks, one.index, one.flow, one.Concurrency, one.Output, one.InputSchema, one.RunTimeoutSeconds = nil, nil, nil, nil, nil, nil, 0
	t := d.Find(taskID)
	if t == nil {
		return &one
	}
	body := *t
	body.ForEach, body.Loop = nil, nil
	body.DependsOn, body.Join, body.When, body.Switch, body.NextTaskID, body.Compensate = nil, nil, "", nil, nil, nil
	body.Parameters = nil // the run's input holds them
	if w := t.Wait; w != nil && w.Until != "" {
		body.Wait = &Wait{Until: "input.until"}
	}
	if a := t.Approval; a != nil && mayCompute(event.Raw(a.Message)) {
		asked := *a
		asked.Message, body.Approval = "${{ input.message }}", &asked
	}
	if w := t.Workflow; w != nil {
		body.Workflow = &SubWorkflow{ID: w.ID, Version: w.Version, Input: event.Raw(`"${{ input }}"`)}
	}
	if f := t.OnFailure; f != nil {
		body.OnFailure = nil
		if len(f.Fallback) > 0 {
			body.OnFailure = &OnFailure{Fallback: f.Fallback}
		}
	}
	if body.Select != nil && body.Select.SameAs != "" { // the run is started for that agent
		body.Select = nil
	}
	one.Tasks, one.index = []Task{body}, map[string]int{taskID: 0}
	one.compile()
	return &one
}

// source is the template of what the children of a task are given, nil if that is what they have by default. Of a wait and of an approval it holds what their runs could not
// compute themselves, since they know neither the run that they are a part of nor what is special about them.
func (t *Task) source() event.Raw {
	computed := make(map[string]string, 4)
	switch {
	case t.Workflow != nil:
		return t.Workflow.Input
	case t.Wait != nil && t.Wait.Until != "":
		computed["until"] = "${{ " + t.Wait.Until + " }}"
	case t.Approval != nil && mayCompute(event.Raw(t.Approval.Message)):
		computed["message"] = t.Approval.Message
	case t.Wait != nil || t.Signal != nil || t.Approval != nil:
		return nil
	default:
		return t.Parameters
	}
	computed["index"] = "${{ index }}"
	if t.ForEach != nil {
		computed["item"] = "${{ item }}"
	} else {
		computed["output"] = "${{ output }}"
	}
	return event.MustMarshal(computed)
}

// childFailed ends a round of a loop, or of a workflow inside of this one, that has failed. The workflow is run again, as another run, if the task says how often.
// Inside, retries were spent already, so what a definition says for all its tasks does not count here, and what somebody has cancelled stays so.
func (d *decider) childFailed(t *Task, rt *RunTask, in *ChildEnded) {
	if t.Workflow == nil || t.Loop != nil || t.Retry == nil || in.State == event.RunCancelled || !d.tryAgain(t, rt, in.Error) {
		d.failFor(rt, in.Error)
	}
}

// told tells the first tasks of a workflow inside of another what came of it the last time.
func (d *decider) told(rt *RunTask) {
	if p := d.run.Parent; p != nil && p.Previous != nil && rt.Attempt == 0 && rt.Error == nil && d.def.begins(rt.ID) {
		rt.Error = p.Previous
	}
}
