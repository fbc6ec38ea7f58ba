package workflow

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

// The words that decide an approval.
const (
	wordApprove = "approve"
	wordReject  = "reject"
)

// verdict is the output of an approval.
type verdict struct {
	Approved bool      `json:"approved"`
	By       string    `json:"by"` // empty: nobody spoke in time
	Comment  string    `json:"comment"`
	At       time.Time `json:"at"`
}

// asks reports whether a task waits for a person's word.
func (t *RunTask) asks() bool { return t.State == event.TaskWaiting && t.Waits == waitsApproval }

// enterApproval begins a task that waits for a person's word.
func (d *decider) enterApproval(t *Task, rt *RunTask) {
	message, err := d.wording(t.Approval.Message)
	if err != nil {
		d.blame(rt, err)
		return
	}
	rt.Message, rt.Word = message, ""
	d.await(rt, waitsApproval, d.patience(t.Approval.TimeoutSeconds))
}

// wording renders what a person is told. Its error is errNeeds or one for blame.
func (d *decider) wording(message string) (string, error) {
	if !strings.Contains(message, "{{") {
		return message, nil
	}
	raw, err := d.render(event.MustMarshal(message))
	if err != nil {
		return "", err
	}
	text, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		text = raw // a number, a list: as JSON
	}
	return clip(string(text), event.MaxErrorText), nil
}

// approval takes a person's word. It is decided once: the same word again changes nothing, the other one is a conflict.
func (d *decider) approval(c *event.RunCommand) {
	word := wordApprove
	if c.Kind == event.KindRunReject {
		word = wordReject
	}
	t := d.def.Find(c.TaskID)
	rt := d.run.recall(c.TaskID)
	switch {
	case t == nil:
		d.refuse(event.CodeInvalid, "workflow %q has no task %q", d.def.ID, c.TaskID)
	case t.Approval == nil:
		d.refuse(event.CodeInvalid, "task %q is not an approval", c.TaskID)
	case d.def.kind(t) == nodeChildren:
		d.refuse(event.CodeInvalid, "task %q is decided each time for itself, in runs of its own; name one of those that run %q has started", c.TaskID, d.run.ID)
	case rt != nil && rt.Word != "" && rt.State.Final():
		if rt.Word != word {
			d.refuse(event.CodeConflict, "task %q was decided before: %s", c.TaskID, rt.Word)
		}
	case rt == nil || rt.State == event.TaskPending:
		d.refuse(event.CodeNotAllowedNow, "the run has not come to task %q", c.TaskID)
	case rt.State != event.TaskWaiting:
		d.refuse(event.CodeNotAllowedNow, "task %q waits for nobody: %s", c.TaskID, rt.State)
	default:
		why := "rejected"
		if c.By != "" {
			why += " by " + c.By
		}
		if c.Comment != "" {
			why += ": " + c.Comment
		}
		d.decided(t, rt, word, verdict{By: c.By, Comment: c.Comment, At: d.at.Stream.UTC()}, why)
	}
}

// approvalDue decides an approval for which nobody spoke in time.
func (d *decider) approvalDue(t *Task, rt *RunTask) {
	silence := verdict{At: d.at.Now.UTC()}
	switch t.Approval.OnTimeout {
	case wordApprove, wordReject:
		d.decided(t, rt, t.Approval.OnTimeout, silence, "nobody spoke in time")
	default:
		d.failFor(rt, &event.TaskError{
			Code: "approval_timeout", Message: fmt.Sprintf("nobody decided within %s", span(t.Approval.TimeoutSeconds)),
		})
	}
}

// decided ends an approval. A rejection fails with the reason, unless the workflow goes on.
func (d *decider) decided(t *Task, rt *RunTask, word string, v verdict, why string) {
	v.Approved, rt.Word = word == wordApprove, word
	if v.Approved || t.Approval.OnReject == "continue" {
		d.complete(rt, event.MustMarshal(v))
		return
	}
	d.failFor(rt, &event.TaskError{Code: "rejected", Message: clip(why, event.MaxErrorText)})
}
