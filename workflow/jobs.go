package workflow

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow/expr"
)

// job is what is done for a task with children besides the turns, because it reads much: which items there are, whether a loop goes round once more, the
// outputs of all children. What it finds becomes an input. It may be done twice, and by several replicas: all it reads never changes again.
type job struct {
	run, task string
	child     string          // of a loop: the one that has ended
	due       storage.IndexOp // the entry that says so
}

const (
	jobWorkers = 2
	maxJobs    = 10_000 // waiting; what finds no room is found again by its timer
	jobPause   = 10 * time.Millisecond
	joinPage   = 256 // children read in one go
)

// jobList holds the jobs that wait and are being done, each once.
type jobList struct {
	mu    sync.Mutex
	queue []job
	known map[job]bool
	more  chan struct{}
}

func (l *jobList) init() {
	l.known, l.more = make(map[job]bool), make(chan struct{}, jobWorkers)
}

func (l *jobList) add(j job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[j] || len(l.queue) >= maxJobs {
		return
	}
	l.known[j] = true
	l.queue = append(l.queue, j)
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// take returns the job that waits longest.
func (l *jobList) take() (j job, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return j, false
	}
	j, l.queue = l.queue[0], l.queue[1:]
	return j, true
}

func (l *jobList) done(j job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.known, j)
}

// work does jobs until ctx ends.
func (e *Engine) work(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.jobs.more:
		}
		for j, ok := e.jobs.take(); ok && ctx.Err() == nil; j, ok = e.jobs.take() {
			for e.inbox.full() && rest(ctx, jobPause) == nil { // what was found before is taken in first
			}
			e.cfg.Crash("workflow-before-job")
			if err := e.do(ctx, j); err != nil && ctx.Err() == nil {
				e.cfg.Log.Warn("task with children not looked at, trying again", "run_id", j.run, "task_id", j.task, "err", err)
			}
			e.jobs.done(j)
		}
	}
}

// do does what the document of the parent shows to be left undone.
func (e *Engine) do(ctx context.Context, j job) (err error) {
	defer e.caught(&err)
	runs, err := e.readRuns(ctx, []string{j.run})
	if err != nil {
		return err
	}
	r := runs[0]
	if r == nil {
		e.letGo(j)
		return nil
	}
	def, err := e.definitionOf(ctx, r)
	if err != nil {
		return err
	}
	rt, t := r.Find(j.task), def.Find(j.task)
	if rt == nil || t == nil || rt.Kids == nil || rt.State.Final() || r.State.Final() {
		e.letGo(j)
		return nil
	}
	switch {
	case j.child != "":
		return e.goRound(ctx, r, def, t, j)
	case !rt.Kids.Opened:
		return e.open(ctx, r, def, t, rt)
	case rt.Kids.joins(t):
		return e.join(ctx, r, rt)
	}
	return e.checkChildren(ctx, r, rt)
}

// letGo lets the due entry of a child go that nobody waits for any more.
func (e *Engine) letGo(j job) {
	if j.child != "" {
		for _, in := range nothing(&j.due) {
			in.found = true
			e.inbox.add(in)
		}
	}
}

// open finds out which items a forEach has.
func (e *Engine) open(ctx context.Context, r *Run, def *Definition, t *Task, rt *RunTask) error {
	in := &Opened{TaskID: rt.ID, Round: rt.Attempt}
	items, err := e.items(ctx, r, def, t)
	if in.Error, err = failure(err); err != nil {
		return err
	}
	in.Total = len(items)
	for page := range slices.Chunk(items, itemsPage) {
		in.Pages = append(in.Pages, event.MustMarshal(page))
	}
	e.inbox.add(&input{run: r.ID, in: in, found: true})
	return nil
}

// items evaluates the list of a forEach.
func (e *Engine) items(ctx context.Context, r *Run, def *Definition, t *Task) ([]event.Raw, error) {
	x, err := def.expression(t.ForEach.Items, expr.List)
	if err != nil {
		return nil, err
	}
	scope, _, err := scopeOf(def, r, x.Refs(), e.committed(ctx))
	if err != nil {
		return nil, err
	}
	return x.List(scope, MaxItems, event.MaxBody)
}

// goRound finds out whether a loop goes round once more.
func (e *Engine) goRound(ctx context.Context, r *Run, def *Definition, t *Task, j job) error {
	children, err := e.readRuns(ctx, []string{j.child})
	if err != nil || children[0] == nil {
		return err
	}
	end := endOfChild(children[0])
	outputs, err := e.outputs(ctx, children)
	if err != nil {
		return err
	}
	end.Output = outputs[0]
	again, err := e.loopsOn(ctx, r, def, t, end)
	if end.Error, err = failure(err); err != nil {
		return err
	}
	end.Again = again
	e.inbox.add(&input{run: r.ID, in: end, timer: &j.due, found: true})
	return nil
}

// loopsOn evaluates the condition of a loop.
func (e *Engine) loopsOn(ctx context.Context, r *Run, def *Definition, t *Task, end *ChildEnded) (bool, error) {
	x, err := def.expression(t.Loop.While, expr.Bool)
	if err != nil {
		return false, err
	}
	scope, _, err := scopeOf(def, r, x.Refs(), e.committed(ctx))
	if err != nil {
		return false, err
	}
	scope.Index, scope.Output = end.Index, end.Output
	return x.Bool(scope)
}

// join puts the outputs of all items together, in their order. What failed, and was tolerated, is told by its error.
func (e *Engine) join(ctx context.Context, r *Run, rt *RunTask) error {
	in := &Joined{TaskID: rt.ID, Round: rt.Attempt}
	list := make([]byte, 0, 16*rt.Kids.Total)
	list = append(list, '[')
	for first := 0; first < rt.Kids.Total && in.Error == nil; first += joinPage {
		ids := make([]string, 0, joinPage)
		for i := first; i < min(first+joinPage, rt.Kids.Total); i++ {
			ids = append(ids, childID(r.ID, rt.ID, rt.Attempt, i))
		}
		children, err := e.readRuns(ctx, ids)
		if err != nil {
			return err
		}
		outputs, err := e.outputs(ctx, children)
		if err != nil {
			return err
		}
		for i, out := range outputs {
			if first+i > 0 {
				list = append(list, ',')
			}
			list = append(list, itemOutput(children[i], out)...)
		}
		if len(list) >= event.MaxBody {
			in.Error = &event.TaskError{
				Code: string(event.CodeTooLarge), Message: fmt.Sprintf("the outputs of all items have more than %d bytes", event.MaxBody),
			}
		}
	}
	in.Output = append(list, ']')
	e.inbox.add(&input{run: r.ID, in: in, found: true})
	return nil
}

func itemOutput(child *Run, out event.Raw) event.Raw {
	if child != nil && child.State == event.RunCompleted {
		return out
	}
	failure := event.TaskError{Code: codeLost, Message: "the child is no longer there"}
	if child != nil {
		failure = *endOfChild(child).Error
	}
	return event.MustMarshal(struct {
		Error event.TaskError `json:"error"`
	}{failure})
}

// checkChildren looks whether the active children of a task are there: one that is not is made again, and one that has ended is told of.
func (e *Engine) checkChildren(ctx context.Context, r *Run, rt *RunTask) error {
	ids := make([]string, len(rt.Kids.Active))
	for i, index := range rt.Kids.Active {
		ids[i] = childID(r.ID, rt.ID, rt.Attempt, index)
	}
	children, err := e.readRuns(ctx, ids)
	if err != nil {
		return err
	}
	for i, child := range children {
		switch {
		case child == nil:
			e.cfg.Log.Warn("a child is missing, it is made again", "run_id", r.ID, "task_id", rt.ID, "child", ids[i])
			e.inbox.add(&input{run: r.ID, in: &Missing{TaskID: rt.ID, Round: rt.Attempt, Index: rt.Kids.Active[i]}})
		case child.State.Final():
			e.inbox.fire(endDue(child))
		}
	}
	return nil
}
