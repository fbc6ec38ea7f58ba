package workflow

import (
	"context"
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// text says what a task waits for that has children.
func (k *Children) text() string {
	if !k.Opened {
		return "is about to find out which items there are"
	}
	of := ""
	if k.Total > 0 {
		of = fmt.Sprintf(" of %d", k.Total)
	}
	return fmt.Sprintf("has started %d%s runs: %d go on, %d have completed, %d have failed", k.Next, of, len(k.Active), k.Done, k.Failed)
}

// pendingText says why a run has not begun.
func (q *Queries) pendingText(ctx context.Context, r *Run) (string, error) {
	ctl := r.Control
	switch {
	case ctl == nil:
		return "The run is about to begin.", nil
	case ctl.Queue == "":
		return fmt.Sprintf("The run is to begin at %s.", ctl.Begin.UTC().Format(time.RFC3339)), nil
	case ctl.Queue != ctl.Slot:
		return fmt.Sprintf("Workflow %q is paused: its runs begin when it is resumed.", r.Workflow), nil
	}
	docs, err := q.store.Get(ctx, limitKey(ctl.Slot))
	if err != nil {
		return "", fmt.Errorf("read how many runs go on: %w", err)
	}
	var l limiter
	if docs[0].Rev != "" {
		if err := event.Unmarshal(docs[0].Data, &l); err != nil {
			return "", fmt.Errorf("document %s: %w", docs[0].Key, err)
		}
	}
	// Those that were started in the same microsecond stand in the order of their ids.
	before, err := q.store.Count(ctx, pendingIndex(ctl.Queue), 0, storage.Score(max(r.Created.UnixMicro()-1, 0)))
	if err != nil {
		return "", fmt.Errorf("count the runs that wait: %w", err)
	}
	with := ""
	if l.Key != "" {
		with = fmt.Sprintf(" with key %q", l.Key)
	}
	return fmt.Sprintf("The run waits for a place: %d runs of workflow %q%s go on, at most %d may, and %d wait before it.", l.Active, r.Workflow, with, l.Max, before), nil
}
