package workflow

import (
	"context"
	"fmt"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Approvals returns at most limit places where runs wait for a person's word, oldest first, behind the cursor of an earlier page.
func (q *Queries) Approvals(ctx context.Context, cursor string, limit int) (event.List[event.Approval], error) {
	page := event.List[event.Approval]{Items: []event.Approval{}}
	after, err := parseCursor(cursor)
	if err != nil {
		return page, err
	}
	entries, err := q.store.Range(ctx, approvalIndex, after, storage.MaxScore, limit)
	if err != nil {
		return page, fmt.Errorf("list approvals: %w", err)
	}
	keys, tasks := make([]storage.Key, 0, len(entries)), make([]string, 0, len(entries))
	for _, e := range entries {
		if run, task, ok := parseReady(e.Member); ok {
			keys, tasks = append(keys, runKey(run)), append(tasks, task)
		}
	}
	if len(keys) == 0 {
		return page, nil
	}
	docs, err := q.store.Get(ctx, keys...)
	if err != nil {
		return page, fmt.Errorf("read runs: %w", err)
	}
	for i, d := range docs {
		var r Run
		if d.Rev == "" {
			continue
		}
		if err := event.Unmarshal(d.Data, &r); err != nil {
			return page, fmt.Errorf("document %s: %w", d.Key, err)
		}
		t := r.Find(tasks[i])
		if t == nil || !t.asks() {
			continue // decided since
		}
		page.Items = append(page.Items, event.Approval{
			RunID: r.ID, TaskID: t.ID, WorkflowID: r.Workflow, Message: t.Message, Since: t.Started.UTC(), Until: shownTime(t.Until),
			Paused: r.State == event.RunPaused, Parent: shownParent(r.Parent),
		})
	}
	if len(entries) == limit {
		last := entries[limit-1]
		page.NextCursor = fmt.Sprintf("%d~%s", last.Score, last.Member)
	}
	return page, nil
}
