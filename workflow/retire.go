package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

const (
	defaultRetention = 7 * 24 * time.Hour
	retirePeriod     = time.Minute
	retirePage       = 100
	sessionRetention = time.Hour // of a replica that writes no more
)

// retire removes runs that ended longer ago than the retention, a page at a time.
func (e *Engine) retire(ctx context.Context) error {
	t := time.NewTicker(retirePeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			n, err := e.Retire(ctx, now)
			if err == nil {
				err = e.retireSessions(ctx, now)
			}
			if err != nil && ctx.Err() == nil {
				e.cfg.Log.Warn("old runs not removed", "err", err)
			} else if n > 0 {
				e.cfg.Log.Info("old runs removed", "count", n)
			}
		}
	}
}

// Retire removes the runs that had ended a retention before now, and returns how many. Runs that are older and still go on stay.
func (e *Engine) Retire(ctx context.Context, now time.Time) (removed int, err error) {
	keep := e.cfg.Retention
	if keep == 0 {
		keep = defaultRetention
	}
	horizon := now.Add(-keep)
	var after storage.Cursor
	for {
		page, err := e.cfg.Store.Range(ctx, runIndex, after, storage.Score(max(horizon.UnixMicro(), 0)), retirePage)
		if err != nil || len(page) == 0 {
			return removed, err
		}
		n, err := e.retirePage(ctx, page, horizon)
		removed += n
		if err != nil || len(page) < retirePage {
			return removed, err
		}
		after = storage.Cursor{Score: page[len(page)-1].Score, Member: page[len(page)-1].Member}
	}
}

// retireSessions removes the session documents of replicas that are gone.
func (e *Engine) retireSessions(ctx context.Context, now time.Time) error {
	old, err := e.cfg.Store.Range(ctx, sessionIndex, storage.Cursor{}, storage.Score(now.Add(-sessionRetention).UnixMicro()), retirePage)
	if err != nil {
		return fmt.Errorf("list old sessions: %w", err)
	}
	for _, entry := range old {
		key := storage.Key(entry.Member)
		docs, err := e.cfg.Store.Get(ctx, retiredKey, key)
		if err != nil {
			return fmt.Errorf("read an old session: %w", err)
		}
		err = e.cfg.Store.Commit(ctx, storage.Txn{
			Rev:         e.revs.Next(),
			If:          []storage.Cond{{Key: retiredKey, Rev: docs[0].Rev}, {Key: key, Rev: docs[1].Rev}},
			Put:         []storage.Put{{Key: retiredKey, Data: []byte(entry.Member)}},
			Delete:      []storage.Key{key},
			IndexRemove: []storage.IndexOp{{Index: sessionIndex, Member: entry.Member}},
		})[0]
		if err != nil && !errors.Is(err, storage.ErrConflict) {
			return fmt.Errorf("remove an old session: %w", err)
		}
	}
	return nil
}

func (e *Engine) retirePage(ctx context.Context, page []storage.Entry, horizon time.Time) (removed int, err error) {
	keys := make([]storage.Key, len(page))
	for i, entry := range page {
		keys[i] = runKey(entry.Member)
	}
	docs, err := e.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return 0, fmt.Errorf("read old runs: %w", err)
	}
	for _, d := range docs {
		var r Run
		if d.Rev == "" || event.Unmarshal(d.Data, &r) != nil || !r.State.Final() || !r.Ended.Before(horizon) {
			continue
		}
		switch err := e.retireRun(ctx, &r, d); {
		case errors.Is(err, storage.ErrConflict): // somebody still writes it
		case err != nil:
			return removed, fmt.Errorf("remove run %s: %w", r.ID, err)
		default:
			e.runs.Forget(d.Key)
			removed++
		}
	}
	return removed, nil
}

// retireRun deletes a run with all its documents, after those of its children.
func (e *Engine) retireRun(ctx context.Context, r *Run, d storage.Doc) error {
	parts, families, err := e.partsOf(ctx, r)
	if err != nil {
		return err
	}
	for _, f := range families {
		if err := e.retireChildren(ctx, f); err != nil {
			return err
		}
	}
	return e.remove(ctx, []gone{{run: r, doc: d, parts: parts}})
}

// retireChildren deletes the children of a task, a page at a time.
func (e *Engine) retireChildren(ctx context.Context, f family) error {
	for first := 0; first < f.count; first += retirePage {
		keys := make([]storage.Key, 0, retirePage)
		for i := first; i < min(first+retirePage, f.count); i++ {
			keys = append(keys, runKey(childID(f.run, f.task, f.round, i)))
		}
		docs, err := e.cfg.Store.Get(ctx, keys...)
		if err != nil {
			return fmt.Errorf("read old children: %w", err)
		}
		var list []gone
		for _, d := range docs {
			child := new(Run)
			if d.Rev == "" || event.Unmarshal(d.Data, child) != nil || child.Parent == nil || child.Parent.Run != f.run {
				continue
			}
			parts, families, err := e.partsOf(ctx, child)
			if err != nil {
				return err
			}
			for _, f := range families {
				if err := e.retireChildren(ctx, f); err != nil {
					return err
				}
			}
			list = append(list, gone{run: child, doc: d, parts: parts})
		}
		if err := e.remove(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

// gone is a run that is deleted, and its parts.
type gone struct {
	run   *Run
	doc   storage.Doc
	parts []storage.Key
}

// remove deletes runs in one Txn. A Txn must put a document, which keeps a late repeat of it from being taken for a new one: the retirement counter serves.
func (e *Engine) remove(ctx context.Context, runs []gone) error {
	if len(runs) == 0 {
		return nil
	}
	keys := []storage.Key{retiredKey}
	for _, g := range runs {
		keys = append(keys, g.parts...)
	}
	found, err := e.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return fmt.Errorf("read the parts of old runs: %w", err)
	}
	t := storage.Txn{
		Rev: e.revs.Next(),
		If:  []storage.Cond{{Key: retiredKey, Rev: found[0].Rev}},
		Put: []storage.Put{{Key: retiredKey, Data: []byte(runs[0].run.ID)}},
	}
	for _, g := range runs {
		t.If = append(t.If, storage.Cond{Key: g.doc.Key, Rev: g.doc.Rev})
		t.Delete = append(t.Delete, g.doc.Key)
		t.LogDelete = append(t.LogDelete, timelineLog(g.run.ID))
		if g.run.Parent == nil {
			t.IndexRemove = append(t.IndexRemove, storage.IndexOp{Index: runIndex, Member: g.run.ID})
		}
	}
	for _, part := range found[1:] {
		if part.Rev != "" {
			t.If = append(t.If, storage.Cond{Key: part.Key, Rev: part.Rev})
			t.Delete = append(t.Delete, part.Key)
		}
	}
	if err := e.cfg.Store.Commit(ctx, t)[0]; err != nil {
		return err
	}
	e.runs.Forget(t.Delete...)
	return nil
}

// partsOf lists the documents that a run may have besides its own, and the children it may have.
func (e *Engine) partsOf(ctx context.Context, r *Run) (keys []storage.Key, families []family, err error) {
	if r.BigInput {
		keys = append(keys, runInputKey(r.ID))
	}
	if r.BigOutput {
		keys = append(keys, runResultKey(r.ID))
	}
	for i := range r.Tasks {
		t := &r.Tasks[i]
		if t.Big {
			keys = append(keys, outputKey(r.ID, t.ID, t.Attempt))
		}
		families = append(families, familiesOf(r.ID, t)...)
	}
	if r.Total <= inlineTasks {
		return append(keys, itemPages(families)...), families, nil
	}
	def, err := e.definitionOf(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	moved := make([]storage.Key, len(def.Tasks))
	for i := range def.Tasks {
		moved[i] = runTaskKey(r.ID, def.Tasks[i].TaskID)
	}
	docs, err := e.cfg.Store.Get(ctx, moved...)
	if err != nil {
		return nil, nil, fmt.Errorf("read tasks: %w", err)
	}
	for _, d := range docs {
		var t RunTask
		if d.Rev == "" || event.Unmarshal(d.Data, &t) != nil {
			continue
		}
		keys = append(keys, d.Key)
		if t.Big {
			keys = append(keys, outputKey(r.ID, t.ID, t.Attempt))
		}
		families = append(families, familiesOf(r.ID, &t)...)
	}
	return append(keys, itemPages(families)...), families, nil
}
