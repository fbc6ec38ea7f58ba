package workflow

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Children returns at most limit of the runs that the tasks of a run have started, in the order of the tasks and of the items, behind the cursor of
// an earlier page. Inputs, outputs and tasks are left out. It fails with an *event.Error of CodeUnknownRun if there is no such run, and otherwise with the store's error.
func (q *Queries) Children(ctx context.Context, run, cursor string, limit int) (event.List[event.Run], error) {
	page := event.List[event.Run]{Items: []event.Run{}}
	families, err := q.families(ctx, run)
	if err != nil {
		return page, err
	}
	from, err := parseChildCursor(cursor, families)
	if err != nil {
		return page, err
	}
	var keys []storage.Key
	for i := from.family; i < len(families); i++ {
		f := families[i]
		for n := from.index; n < f.count; n++ {
			if len(keys) == limit {
				page.NextCursor = fmt.Sprintf("%s~%d~%d", event.MustToken(f.task), f.round, n)
				break
			}
			keys = append(keys, runKey(childID(run, f.task, f.round, n)))
		}
		if page.NextCursor != "" {
			break
		}
		from.index = 0
	}
	page.Items, err = q.headers(ctx, keys)
	return page, err
}

// families returns the children that the tasks of a run have, those of earlier rounds first.
func (q *Queries) families(ctx context.Context, run string) ([]family, error) {
	r, err := q.readRun(ctx, run)
	if err != nil {
		return nil, err
	}
	def, err := q.definition(ctx, r)
	if err != nil {
		return nil, err
	}
	var families []family
	for i := range def.Tasks {
		t := &def.Tasks[i]
		if def.kind(t) != nodeChildren {
			continue
		}
		rt := r.Find(t.TaskID)
		if rt == nil && r.Total > inlineTasks { // it may have left the document
			docs, err := q.store.Get(ctx, runTaskKey(run, t.TaskID))
			if err != nil {
				return nil, fmt.Errorf("read task: %w", err)
			}
			if docs[0].Rev == "" {
				continue
			}
			rt = new(RunTask)
			if err := event.Unmarshal(docs[0].Data, rt); err != nil {
				return nil, fmt.Errorf("document %s: %w", docs[0].Key, err)
			}
		}
		if rt != nil {
			families = append(families, familiesOf(run, rt)...)
		}
	}
	return families, nil
}

// childPlace is where a page of children begins.
type childPlace struct{ family, index int }

func parseChildCursor(cursor string, families []family) (childPlace, error) {
	if cursor == "" {
		return childPlace{}, nil
	}
	parts := strings.Split(cursor, "~")
	if len(parts) == 3 {
		round, err1 := strconv.Atoi(parts[1])
		index, err2 := strconv.Atoi(parts[2])
		for i, f := range families {
			if err1 == nil && err2 == nil && index >= 0 && event.MustToken(f.task) == parts[0] && f.round == round {
				return childPlace{family: i, index: index}, nil
			}
		}
	}
	return childPlace{}, event.Errorf(event.CodeInvalid, "the cursor is not one that a list gave")
}
