package workflow

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// MaxTree is how many runs a run starts, with those that these start: enough for 10,000 items that are workflows of nine runs each, and what a store of some hundred
// megabytes holds.
const MaxTree = 100_000

// treeCounted is for how long a count of a tree is good enough; what other replicas add meanwhile may go beyond the bound.
const treeCounted = time.Second

// treeCount is how many runs a tree has.
type treeCount struct {
	n     int
	added int // of them, by this replica since the index was counted
	at    time.Time
}

// tree names the tree that the children of a run are counted in: that of the first of its ancestors. When somebody runs that again, it begins another. A child that an older version
// has started knows of no tree, and is the first of its own.
func (r *Run) tree() string {
	switch {
	case r.Parent != nil && r.Parent.Tree != "":
		return r.Parent.Tree
	case r.Control != nil && r.Control.Reruns > 0:
		return event.MustToken(r.ID) + "|" + strconv.Itoa(r.Control.Reruns)
	}
	return event.MustToken(r.ID)
}

// treeSize is how many runs have been started in the tree of a run, as far as this replica knows. The members of an index are counted, which every Txn that makes a child adds to
// without a condition: a document with the number would be written by all of them, and be in the way of each.
func (e *Engine) treeSize(ctx context.Context, v *view, r *Run, more int) (int, error) {
	if !r.exists() {
		return 0, nil
	}
	tree := r.tree()
	key := storage.Key(treeIndex(tree))
	c, known := e.trees.Load(key)
	switch {
	case known && v.now.Sub(c.Value.at) < treeCounted && (c.Value.n+more <= MaxTree || c.Value.added == 0):
		return c.Value.n, nil
	case !known && r.Parent == nil && r.Total <= inlineTasks && len(r.ChildIDs()) == 0:
		e.trees.Store(key, "", treeCount{at: v.now})
		return 0, nil
	}
	n, err := e.cfg.Store.Count(ctx, treeIndex(tree), 0, storage.MaxScore)
	if err != nil {
		return 0, fmt.Errorf("count the runs of a tree: %w", err)
	}
	e.trees.Store(key, "", treeCount{n: n, at: v.now})
	return n, nil
}

// grow counts a child that is made.
func (e *Engine) grow(parent *Run) {
	key := storage.Key(treeIndex(parent.tree()))
	if c, known := e.trees.Load(key); known {
		c.Value.n, c.Value.added = c.Value.n+1, c.Value.added+1
		e.trees.Store(key, "", c.Value)
	}
}

// overgrown is the failure of a task that would start more runs than its tree may have.
func overgrown(size, more int) *event.TaskError {
	no := false
	return &event.TaskError{
		Code: codeTreeTooLarge, Retryable: &no,
		Message: fmt.Sprintf("%d runs have been started below the first one, %d more would be above %d: give several items to an agent at once, or start several runs",
			size, more, MaxTree),
	}
}
