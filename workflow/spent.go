package workflow

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// spent reports whether a task failed although it was tried again, and could have been tried once more.
func (t *RunTask) spent() bool {
	return t.State == event.TaskFailed && t.Tries > 0 && t.Error != nil && (t.Error.Retryable == nil || *t.Error.Retryable)
}

// noteSpent remembers the task with which a run failed because its retries were spent: it leaves a dead letter, since somebody may want to do it
// again when what was wrong is mended. A failure that the workflow itself deals with leaves none.
func (c *change) noteSpent(d *Decision) {
	if d.Ended == "" || d.Run.State != event.RunFailed {
		return
	}
	t := d.Run.Find(d.Ended)
	if i := slices.IndexFunc(d.Moved, func(t RunTask) bool { return t.ID == d.Ended }); t == nil && i >= 0 {
		t = &d.Moved[i]
	}
	if t != nil && t.spent() {
		c.spent = append(c.spent, *t)
	}
}

// spentTimer is the due entry that stands for a dead letter until it was stored.
func spentTimer(run string, t *RunTask) storage.IndexOp {
	member := timer(timerSpent, run, t.ID, strconv.Itoa(t.Attempt))
	return storage.IndexOp{Index: dueIndex, Member: member, Score: storage.Score(t.Ended.Add(AskAgain).UnixMicro())}
}

// spentLetter is the letter of such a task. To send it again is to retry the task; the members that the command does not know are for people.
func spentLetter(r *Run, t *RunTask) *bus.Letter {
	body := event.MustMarshal(struct {
		TaskID     string           `json:"taskId"`
		Reason     string           `json:"reason"`
		WorkflowID string           `json:"workflowId"`
		Attempt    int              `json:"attempt"`
		AgentID    string           `json:"agentId,omitzero"`
		Error      *event.TaskError `json:"error"`
	}{t.ID, "sent again as a dead letter", r.Workflow, t.Attempt, t.Agent, t.Error})
	return &bus.Letter{
		Subject: event.CommandSubject(event.KindRunRetry, event.MustToken(r.ID)), Data: body, First: t.Ended, Count: uint64(t.Tries) + 1,
		Err: event.Errorf(event.CodeRetriesSpent, "task %s failed %d times, at last with %s: %s", t.ID, t.Tries+1, t.Error.Code, t.Error.Message),
		ID:  "spent/" + r.ID + "/" + t.ID + "/" + strconv.Itoa(t.Attempt), Agent: t.Agent, Run: r.ID,
	}
}

// burySpent stores the letter. Its due entry goes when that is acknowledged; until then it is stored again, which JetStream knows as a repeat.
func (e *Engine) burySpent(r *Run, t *RunTask, due storage.IndexOp) {
	if !e.facts.begin(due.Member) {
		return
	}
	err := e.cfg.Bus.BuryAsync(spentLetter(r, t), func(err error) {
		if err == nil {
			e.facts.sent(due)
		}
		e.facts.end(due.Member)
	})
	if err != nil {
		e.facts.end(due.Member)
	}
}

// spentDue stores a letter that was not stored in its time.
func (e *Engine) spentDue(ctx context.Context, run, task, attempt string, op *storage.IndexOp) error {
	owes := func(t *RunTask) bool { return t != nil && t.spent() && strconv.Itoa(t.Attempt) == attempt }
	r, err := e.reread(ctx, run, func(r *Run) bool { return owes(r.Find(task)) })
	if err != nil {
		return err
	}
	var t *RunTask
	if r != nil {
		t = r.Find(task)
	}
	if r != nil && t == nil { // it may have left the document
		docs, err := e.cfg.Store.Get(ctx, runTaskKey(run, task))
		if err != nil {
			return fmt.Errorf("read a task: %w", err)
		}
		if docs[0].Rev != "" {
			t = new(RunTask)
			if err := event.Unmarshal(docs[0].Data, t); err != nil {
				return fmt.Errorf("document %s: %w", docs[0].Key, err)
			}
		}
	}
	if !owes(t) {
		e.facts.sent(*op) // it is being tried again
		return nil
	}
	e.burySpent(r, t, *op)
	return nil
}
