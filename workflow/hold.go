package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// pausedWord is the part of a definition's word that says whether runs which are started of it begin.
type pausedWord struct {
	Paused  bool      `json:"paused,omitzero"`
	PauseAt time.Time `json:"pauseAt,omitzero"` // stream timestamp of the pause or resume that counts
	Pauses  uint64    `json:"pauses,omitzero"`  // its sequence
}

// holdWorkflow pauses or resumes a definition. Level: of several the last in the stream counts.
func (e *Engine) holdWorkflow(ctx context.Context, m *bus.Msg, c *event.WorkflowCommand) error {
	for range maxTries {
		outcome, err := e.holdOnce(ctx, m, c)
		var refusal *event.Error
		switch {
		case errors.Is(err, storage.ErrConflict):
			e.latest.Forget(definitionKey(c.ID))
			continue
		case errors.As(err, &refusal) && m.Delivered < maxAhead: // another replica may be storing the definition
			m.Later(waitForOthers)
		case refusal != nil:
			e.refuse(m, refusal)
		case err != nil:
			return err
		default:
			m.Done(outcome)
			e.cfg.Log.Info("workflow held or let go", "workflow", c.ID, "kind", c.Kind, "seq", m.Seq)
		}
		return nil
	}
	return fmt.Errorf("pause or resume workflow %s: %w", c.ID, storage.ErrConflict)
}

func (e *Engine) holdOnce(ctx context.Context, m *bus.Msg, c *event.WorkflowCommand) (*event.Outcome, error) {
	docs, err := e.cfg.Store.Get(ctx, definitionKey(c.ID))
	if err != nil {
		return nil, fmt.Errorf("load definition: %w", err)
	}
	if docs[0].Rev == "" {
		return nil, event.Errorf(event.CodeUnknownDefinition, "there is no workflow %q", c.ID)
	}
	var word latest
	if err := event.Unmarshal(docs[0].Data, &word); err != nil {
		return nil, fmt.Errorf("document %s: %w", docs[0].Key, err)
	}
	outcome := &event.Outcome{OK: true, Seq: m.Seq, WorkflowID: c.ID, WorkflowVersion: word.Version, Version: word.Count}
	if m.Seq <= word.Pauses && !m.Time.After(word.PauseAt) {
		return outcome, nil
	}
	was := word.Paused
	word.pausedWord = pausedWord{Paused: c.Kind == event.KindWorkflowPause, PauseAt: m.Time, Pauses: m.Seq}
	word.Count++
	outcome.Version = word.Count
	txn := storage.Txn{
		Rev: e.revs.Next(),
		If:  []storage.Cond{{Key: docs[0].Key, Rev: docs[0].Rev}},
		Put: []storage.Put{{Key: docs[0].Key, Data: event.MustMarshal(word)}},
	}
	if was && !word.Paused {
		txn.IndexAdd = []storage.IndexOp{{Index: dueIndex, Member: timer(timerQueue, c.ID), Score: storage.Score(time.Now().UnixMicro())}}
	}
	if err := e.cfg.Store.Commit(ctx, txn)[0]; err != nil {
		return nil, fmt.Errorf("store workflow %s: %w", c.ID, err)
	}
	e.latest.Forget(docs[0].Key)
	return outcome, nil
}

// queueOf returns the queue in which a run of a workflow must wait for its turn before it begins, empty if it may begin at once. The change will be
// committed only if that still holds.
func (e *Engine) queueOf(ctx context.Context, c *change, workflow string) (string, error) {
	newest, err := e.newest(ctx, workflow)
	if err != nil {
		return "", err
	}
	c.conds = append(c.conds, storage.Cond{Key: definitionKey(workflow), Rev: newest.Rev})
	if newest.Value != nil && newest.Value.Paused {
		return workflow, nil
	}
	return "", nil
}

// queueDue lets runs that wait in a queue begin, a page at a time. The entry stays until nobody waits there.
func (e *Engine) queueDue(ctx context.Context, queue string, op *storage.IndexOp) ([]*input, error) {
	e.latest.Forget(definitionKey(queue))
	newest, err := e.newest(ctx, queue)
	if err != nil {
		return nil, err
	}
	var entries []storage.Entry
	if newest.Value == nil || !newest.Value.Paused {
		if entries, err = e.cfg.Store.Range(ctx, pendingIndex(queue), storage.Cursor{}, storage.MaxScore, duePage); err != nil {
			return nil, fmt.Errorf("read the runs that wait to begin: %w", err)
		}
	}
	if len(entries) == 0 {
		return []*input{{gate: &gateInput{kind: gateNothing}, timer: op}}, nil
	}
	inputs := make([]*input, len(entries))
	for i, entry := range entries {
		inputs[i] = &input{run: entry.Member, in: &Begin{}}
	}
	return inputs, nil
}

// inform completes an input by what other documents say when it is decided.
func (e *Engine) inform(ctx context.Context, v *view, c *change, in Input) (what Input, err error) {
	switch i := in.(type) {
	case *Tick, *Begin:
		return e.beginning(ctx, v, c, in)
	case *ChildAsks:
		return e.lookAtChild(ctx, v, c, i)
	case *Opened:
		i.Tree, err = e.treeSize(ctx, v, c.after, i.Total)
	case *More:
		i.Tree, err = e.treeSize(ctx, v, c.after, maxSpawn)
	}
	return in, err
}

// beginning turns the timer of a pending run whose time has come, or its turn, into what is to be decided.
func (e *Engine) beginning(ctx context.Context, v *view, c *change, in Input) (Input, error) {
	run := c.after
	if !run.exists() || !run.pending() {
		return in, nil
	}
	if tick, ok := in.(*Tick); ok {
		begin := run.Control.Begin
		if tick.TaskID != "" || run.State != event.RunPending || begin.IsZero() || v.now.Before(begin) {
			return in, nil
		}
	}
	queue, err := e.queueOf(ctx, c, run.Workflow)
	if err == nil && queue == "" {
		queue, err = e.readmit(ctx, v, c)
	}
	return &Begin{Queue: queue}, err
}
