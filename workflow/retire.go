package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// The defaults of how long runs that have ended are kept.
const (
	DefaultRetention = 7 * 24 * time.Hour
	DefaultMaxEnded  = 1_000_000 // runs
)

const (
	retirePeriod = 10 * time.Second
	retireBite   = 8   // runs removed at a time: what a commit waits behind
	retireGulp   = 64  // the same when there are far too many
	retireOps    = 256 // documents deleted by one Txn
	retireTxns   = 4   // Txns sent at a time, of a run with many children
	retirePage   = 100 // runs looked at in one step of the sweep
	// After a bite there is rest for so many times as long as it took: removing takes a tenth of one connection's time, and less of it the busier the
	// store is.
	retireRest  = 9
	retireHaste = 1 // rest when there are far too many: memory is bounded, whatever it costs
	retireFar   = 10
	retireYield = 3 * retirePeriod // a replica that has removed something so lately goes on, and the others leave it to it
	// clockSlack is how far the clocks of NATS and of a replica may differ.
	clockSlack       = time.Minute
	sessionRetention = time.Hour // of a replica that writes no more
)

// retirement is the document that each removal writes: which replica does it.
type retirement struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// retire removes runs that have ended, in small bites.
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

// Retire removes the runs that had ended a retention before now, and of the others the oldest above the number that is kept; it returns how many. A run
// stays while its start may still be replayed from the stream: it would run again.
func (e *Engine) Retire(ctx context.Context, now time.Time) (removed int, err error) {
	e.retiring.Lock()
	defer e.retiring.Unlock()
	docs, err := e.cfg.Store.Get(ctx, retiredKey)
	if err != nil {
		return 0, fmt.Errorf("read who removes runs: %w", err)
	}
	if e.yields(docs[0], now) {
		return 0, nil
	}
	floor, err := e.replayFloor(ctx, now)
	if err != nil {
		return 0, err
	}
	ended, err := e.cfg.Store.Count(ctx, endedIndex, 0, storage.MaxScore)
	if err != nil {
		return 0, fmt.Errorf("count the runs that have ended: %w", err)
	}
	plan := retirePlan{excess: ended - e.cfg.MaxEnded, far: e.cfg.MaxEnded / retireFar, old: earlier(now.Add(-e.cfg.Retention), floor), floor: floor}
	begun := time.Now()
	clock := func() time.Time { return now.Add(time.Since(begun)) } // it may take many minutes
	removed, err = e.retireEnded(ctx, &plan, clock)
	if err != nil {
		return removed, err
	}
	swept, err := e.sweepOld(ctx, plan.old, clock)
	return removed + swept, err
}

// yields reports whether another replica removes runs.
func (e *Engine) yields(retired storage.Doc, now time.Time) bool {
	var last retirement
	return event.Unmarshal(retired.Data, &last) == nil && last.By != e.name && now.Sub(last.At).Abs() < retireYield
}

// retirePlan says what may go.
type retirePlan struct {
	excess int       // runs above the number that is kept
	far    int       // how many of those are far too many
	old    time.Time // what ended before has been kept for long enough
	floor  time.Time // what ended later may come again from the stream
}

// horizon is before when a run must have ended to be the next to go, when some were removed already.
func (p *retirePlan) horizon(removed int) storage.Score {
	to := p.old
	if removed < p.excess {
		to = p.floor
	}
	return storage.Score(max(to.UnixMicro(), 0))
}

// bite is how many runs may go at once, and after how many times as long as that took the next ones may.
func (p *retirePlan) bite(removed int) (limit int, times time.Duration) {
	switch excess := p.excess - removed; {
	case excess > p.far:
		return min(retireGulp, excess), retireHaste
	case excess > 0:
		return min(retireBite, excess), retireRest
	}
	return retireBite, retireRest
}

// replayFloor is the time before which everything in the stream of commands was stored that could ever be replayed.
func (e *Engine) replayFloor(ctx context.Context, now time.Time) (time.Time, error) {
	s, err := e.cfg.Bus.StreamState(ctx, event.StreamWork)
	if err != nil {
		return time.Time{}, fmt.Errorf("read where %s begins: %w", event.StreamWork, err)
	}
	if s.LastSeq > 0 && s.FirstSeq <= s.LastSeq && s.FirstTime.Before(now) {
		now = s.FirstTime
	}
	return now.Add(-clockSlack), nil
}

// retireEnded removes runs in the order in which they ended, a bite at a time, with rest in between.
func (e *Engine) retireEnded(ctx context.Context, plan *retirePlan, clock func() time.Time) (removed int, err error) {
	var after storage.Cursor
	for {
		began := time.Now()
		limit, times := plan.bite(removed)
		entries, err := e.cfg.Store.Range(ctx, endedIndex, after, plan.horizon(removed), limit)
		if err != nil || len(entries) == 0 {
			return removed, err
		}
		n, err := e.retireRuns(ctx, entries, clock())
		removed += n
		if err != nil {
			return removed, err
		}
		if n == 0 && len(entries) == limit { // another replica does it
			return removed, nil
		}
		after = storage.Cursor{Score: entries[len(entries)-1].Score, Member: entries[len(entries)-1].Member}
		if err := rest(ctx, times*time.Since(began)); err != nil {
			return removed, err
		}
	}
}

// rest waits for so long, or until ctx ends.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// sweepOld looks at a page of the runs that were created before a time, the oldest first and every page in turn, and removes those that had ended before it:
// they were stored by a version that did not list them as ended. What is left are runs that still go on.
func (e *Engine) sweepOld(ctx context.Context, before time.Time, clock func() time.Time) (removed int, err error) {
	page, err := e.cfg.Store.Range(ctx, runIndex, e.swept, storage.Score(max(before.UnixMicro(), 0)), retirePage)
	if err != nil || len(page) == 0 {
		e.swept = storage.Cursor{}
		return 0, err
	}
	e.swept = storage.Cursor{Score: page[len(page)-1].Score, Member: page[len(page)-1].Member}
	keys := make([]storage.Key, len(page))
	for i, entry := range page {
		keys[i] = runKey(entry.Member)
	}
	docs, err := e.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return 0, fmt.Errorf("read old runs: %w", err)
	}
	var ended []storage.Entry
	for i, d := range docs {
		var r Run
		if d.Rev != "" && event.Unmarshal(d.Data, &r) == nil && r.State.Final() && r.Ended.Before(before) {
			ended = append(ended, page[i])
		}
	}
	for len(ended) > 0 {
		began, n := time.Now(), min(len(ended), retireBite)
		more, err := e.retireRuns(ctx, ended[:n], clock())
		removed += more
		if err != nil {
			return removed, err
		}
		ended = ended[n:]
		if err := rest(ctx, retireRest*time.Since(began)); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// retireRuns deletes runs with all their documents, and returns how many: none while another replica does so. One that has not ended, or is gone, is only struck off the list of those that have.
// A Txn must put a document, which keeps a late repeat of it from being taken for a new one; it says who removes runs.
func (e *Engine) retireRuns(ctx context.Context, entries []storage.Entry, now time.Time) (removed int, err error) {
	keys := []storage.Key{retiredKey}
	for _, entry := range entries {
		keys = append(keys, runKey(entry.Member))
	}
	docs, err := e.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return 0, fmt.Errorf("read runs that have ended: %w", err)
	}
	if e.yields(docs[0], now) {
		return 0, nil
	}
	b := removal{e: e, rev: docs[0].Rev, mark: event.MustMarshal(retirement{By: e.name, At: now.UTC()})}
	var stray []storage.IndexOp
	for i, d := range docs[1:] {
		var r Run
		if d.Rev == "" || event.Unmarshal(d.Data, &r) != nil || !r.State.Final() {
			stray = append(stray, storage.IndexOp{Index: endedIndex, Member: entries[i].Member, Score: entries[i].Score})
			continue
		}
		if err := b.add(ctx, &r, d); err != nil {
			return 0, fmt.Errorf("remove run %s: %w", r.ID, err)
		}
	}
	b.flush()
	if len(stray) > 0 {
		b.txns = append(b.txns, storage.Txn{IndexRemove: stray})
	}
	return b.commit(ctx)
}

// removal collects the Txns that remove some runs, each of a bounded size and each on top of the one before: after a conflict those behind it fail too.
type removal struct {
	e    *Engine
	rev  storage.Rev // of the retirement document, before the Txn that is being collected
	mark []byte
	txn  storage.Txn
	gone []storage.Key // runs that the Txn removes
	txns []storage.Txn
	runs [][]storage.Key // by Txn
}

// add adds a run, behind those that its tasks have started. Its own document goes with its last part: until then it can be found again.
func (b *removal) add(ctx context.Context, r *Run, d storage.Doc) error {
	keys, families, err := b.e.holdings(ctx, r)
	if err != nil {
		return err
	}
	for _, f := range families {
		if err := b.children(ctx, f); err != nil {
			return err
		}
	}
	if len(keys) > 0 {
		parts, err := b.e.cfg.Store.Get(ctx, keys...)
		if err != nil {
			return fmt.Errorf("read its parts: %w", err)
		}
		for _, part := range parts {
			if part.Rev != "" {
				b.remove(part)
			}
		}
	}
	b.remove(d)
	b.txn.LogDelete = append(b.txn.LogDelete, timelineLog(r.ID))
	switch {
	case r.Parent == nil: // others are not listed
		b.gone = append(b.gone, d.Key)
		b.txn.IndexRemove = append(b.txn.IndexRemove, storage.IndexOp{Index: runIndex, Member: r.ID}, storage.IndexOp{Index: endedIndex, Member: r.ID})
	case r.Parent.Tree != "":
		b.txn.IndexRemove = append(b.txn.IndexRemove, storage.IndexOp{Index: treeIndex(r.Parent.Tree), Member: r.ID})
	}
	return nil
}

// children adds the runs that a task has started, a page at a time.
func (b *removal) children(ctx context.Context, f family) error {
	for first := 0; first < f.count; first += retirePage {
		keys := make([]storage.Key, 0, retirePage)
		for i := first; i < min(first+retirePage, f.count); i++ {
			keys = append(keys, runKey(childID(f.run, f.task, f.round, i)))
		}
		docs, err := b.e.cfg.Store.Get(ctx, keys...)
		if err != nil {
			return fmt.Errorf("read its children: %w", err)
		}
		for _, d := range docs {
			var child Run
			if d.Rev == "" || event.Unmarshal(d.Data, &child) != nil || child.Parent == nil || child.Parent.Run != f.run {
				continue
			}
			if err := b.add(ctx, &child, d); err != nil {
				return err
			}
		}
		if len(b.txns) < retireTxns {
			continue
		}
		if _, err := b.commit(ctx); err != nil {
			return err
		}
	}
	return nil
}

// commit sends what was collected, and returns how many listed runs it has removed. After a conflict, what follows fails for the same reason.
func (b *removal) commit(ctx context.Context) (removed int, err error) {
	txns, runs := b.txns, b.runs
	b.txns, b.runs = nil, nil
	for i, err := range b.e.cfg.Store.Commit(ctx, txns...) {
		if errors.Is(err, storage.ErrConflict) { // somebody still writes it, or another replica removes runs too
			continue
		}
		if err != nil {
			return removed, fmt.Errorf("remove runs: %w", err)
		}
		b.e.runs.Forget(txns[i].Delete...)
		if i < len(runs) {
			removed += len(runs[i])
		}
	}
	return removed, nil
}

func (b *removal) remove(d storage.Doc) {
	if len(b.txn.Delete) == retireOps {
		b.flush()
	}
	b.txn.If = append(b.txn.If, storage.Cond{Key: d.Key, Rev: d.Rev})
	b.txn.Delete = append(b.txn.Delete, d.Key)
}

// flush ends the Txn that is being collected.
func (b *removal) flush() {
	if len(b.txn.Delete) == 0 {
		return
	}
	b.txn.Rev = b.e.revs.Next()
	b.txn.If = append(b.txn.If, storage.Cond{Key: retiredKey, Rev: b.rev})
	b.txn.Put = []storage.Put{{Key: retiredKey, Data: b.mark}}
	b.txns, b.runs = append(b.txns, b.txn), append(b.runs, b.gone)
	b.rev, b.txn, b.gone = b.txn.Rev, storage.Txn{}, nil
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
			Put:         []storage.Put{{Key: retiredKey, Data: docs[0].Data}},
			Delete:      []storage.Key{key},
			IndexRemove: []storage.IndexOp{{Index: sessionIndex, Member: entry.Member}},
		})[0]
		if err != nil && !errors.Is(err, storage.ErrConflict) {
			return fmt.Errorf("remove an old session: %w", err)
		}
	}
	return nil
}

// holdings lists the documents that a run may have besides its own, and the children it may have. Whatever gives a run another document is entered here, or it
// stays for ever.
func (e *Engine) holdings(ctx context.Context, r *Run) (keys []storage.Key, families []family, err error) {
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
	moved := make([]storage.Key, 0, len(def.Tasks))
	for i := range def.Tasks {
		moved = append(moved, runTaskKey(r.ID, def.Tasks[i].TaskID))
	}
	for _, t := range r.undoes(def) {
		moved = append(moved, runTaskKey(r.ID, t.TaskID))
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
