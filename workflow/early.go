package workflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Bounds of what is kept for runs that do not exist yet.
const (
	earlyFor      = 5 * time.Minute // then a command becomes a dead letter
	earlyCommands = 16              // for one run
	earlyBytes    = 64 << 10        // for one run
	earlyRuns     = 10_000
)

// Early is a command that came before the start of its run.
type Early struct {
	Kind event.CommandKind `json:"kind"`
	Seq  uint64            `json:"seq"`
	At   time.Time         `json:"at"` // stream timestamp
	Body event.RunCommand  `json:"body"`

	Heard bool `json:"heard,omitzero"` // whoever sent it was told that there is no such run
}

// command is the input that it stands for.
func (e *Early) command(run string) *Command {
	body := e.Body
	body.Kind, body.RunID = e.Kind, run
	return &Command{RunCommand: &body}
}

// letter is the command as a dead letter.
func (e *Early) letter(run string, why *event.Error) *bus.Letter {
	return &bus.Letter{
		Subject: event.CommandSubject(e.Kind, event.MustToken(run)), Data: event.MustMarshal(&e.Body),
		Stream: event.StreamWork, Seq: e.Seq, First: e.At, Count: 1, Err: why,
	}
}

// stub reports whether the document only keeps commands for a run that does not exist yet.
func (r *Run) stub() bool { return r != nil && r.State == "" }

// took reports whether a command was applied to the run, or is kept for it.
func (r *Run) took(seq uint64) bool {
	return r != nil && (slices.Contains(r.Commands, seq) || slices.ContainsFunc(r.Early, func(e Early) bool { return e.Seq == seq }))
}

// exists reports whether there is a run.
func (r *Run) exists() bool { return r != nil && r.State != "" }

// decideEarly decides an input about a run that does not exist: some commands are kept for its start.
func decideEarly(old *Run, in Input, at At) Decision {
	c, ok := in.(*Command)
	if !ok || !commandRules(c.Kind).early {
		return refuse(event.CodeUnknownRun, "there is no such run")
	}
	stub := &Run{ID: c.RunID, Created: at.Stream}
	if old != nil {
		stub = clone(old)
	}
	held := event.Errorf(event.CodeUnknownRun, "there is no run %q; the command is kept for %s in case it is started", c.RunID, earlyFor)
	size := len(c.Payload)
	for _, e := range stub.Early {
		if e.Seq == at.Seq {
			return Decision{Held: held}
		}
		size += len(e.Body.Payload)
	}
	if len(stub.Early) >= earlyCommands || size > earlyBytes {
		return refuse(event.CodeUnknownRun, "there is no run %q, and many commands are kept for it already", c.RunID)
	}
	stub.Early = append(slices.Clone(stub.Early), Early{Kind: c.Kind, Seq: at.Seq, At: at.Stream, Body: *c.RunCommand, Heard: c.Heard})
	slices.SortFunc(stub.Early, func(a, b Early) int { return cmp.Compare(a.Seq, b.Seq) })
	stub.Seq = max(stub.Seq, at.Seq)
	stub.Version++
	return Decision{Run: stub, Held: held}
}

// refuseEarly refuses a command for a run that does not exist when commands for many others are kept already.
func (e *Engine) refuseEarly(ctx context.Context, run *Run, c *Command) (*event.Error, error) {
	if run != nil || !commandRules(c.Kind).early {
		return nil, nil
	}
	n, err := e.cfg.Store.Count(ctx, earlyIndex, 0, storage.MaxScore)
	if err != nil {
		return nil, fmt.Errorf("count what is kept for runs to come: %w", err)
	}
	if n < earlyRuns {
		return nil, nil
	}
	return event.Errorf(event.CodeUnknownRun, "there is no run %q", c.RunID), nil
}

// absorb decides the commands that were kept for a run which has just been started.
func (e *Engine) absorb(ctx context.Context, v *view, c *change, stub *Run) error {
	for i := range stub.Early {
		early := &stub.Early[i]
		in := &input{run: stub.ID, in: early.command(stub.ID), at: early.At, seq: early.Seq}
		if err := e.decide(ctx, v, c, in); err != nil {
			return err
		}
		if why := in.answer.Error; why != nil { // whoever sent it was told that it is kept
			e.cfg.Log.Warn("command that came before its run was refused", "run_id", stub.ID, "kind", early.Kind, "seq", early.Seq,
				"code", why.Code, "err", why.Message)
			if err := e.cfg.Bus.Bury(ctx, early.letter(stub.ID, why)); err != nil {
				return fmt.Errorf("what was kept for run %s: %w", stub.ID, err)
			}
		}
	}
	return nil
}

// earlyDue buries the commands that were kept for a run which nobody has started, and removes the stub. Twice is harmless; one that is
// interrupted is begun again.
func (e *Engine) earlyDue(ctx context.Context, run string, op *storage.IndexOp) error {
	docs, err := e.cfg.Store.Get(ctx, runKey(run), retiredKey)
	if err != nil {
		return fmt.Errorf("read what is kept for run %s: %w", run, err)
	}
	var stub Run
	if docs[0].Rev != "" {
		if err := event.Unmarshal(docs[0].Data, &stub); err != nil {
			return fmt.Errorf("document %s: %w", docs[0].Key, err)
		}
	}
	if docs[0].Rev == "" || stub.exists() {
		return e.cfg.Store.Commit(ctx, storage.Txn{IndexRemove: []storage.IndexOp{*op}})[0]
	}
	for i := range stub.Early {
		early := &stub.Early[i]
		if early.Heard {
			continue
		}
		letter := early.letter(run, event.Errorf(event.CodeUnknownRun, "run %q was not started within %s", run, earlyFor))
		if err := e.cfg.Bus.Bury(ctx, letter); err != nil {
			return fmt.Errorf("what was kept for run %s: %w", run, err)
		}
	}
	e.runs.Forget(runKey(run))
	err = e.cfg.Store.Commit(ctx, storage.Txn{
		Rev:         e.revs.Next(),
		If:          []storage.Cond{{Key: retiredKey, Rev: docs[1].Rev}, {Key: docs[0].Key, Rev: docs[0].Rev}},
		Put:         []storage.Put{{Key: retiredKey, Data: []byte(run)}},
		Delete:      []storage.Key{docs[0].Key},
		IndexRemove: []storage.IndexOp{{Index: earlyIndex, Member: run}, {Index: dueIndex, Member: timer(timerEarly, run)}},
	})[0]
	if errors.Is(err, storage.ErrConflict) {
		return nil // it was started after all, or another command came: looked at again
	}
	return err
}
