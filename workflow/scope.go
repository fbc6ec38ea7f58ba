package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow/expr"
)

// plan is what the inputs of a task's children are made from. It does not change while the task goes on.
type plan struct {
	input *expr.Template // nil: there is none
	scope *expr.Scope
	agent string // that they are all for, empty for whoever takes them
}

// memo remembers values that never change: small ones by the hundred, large ones only a few.
type memo[T any] struct{ small, large *storage.Cache[T] }

const smallValue = 64 << 10 // bytes

func newMemo[T any]() memo[T] {
	return memo[T]{small: storage.NewCache[T](256), large: storage.NewCache[T](4)}
}

func (m memo[T]) load(key storage.Key) (T, bool) {
	c, ok := m.small.Load(key)
	if !ok {
		c, ok = m.large.Load(key)
	}
	return c.Value, ok
}

func (m memo[T]) forget(key storage.Key) {
	m.small.Forget(key)
	m.large.Forget(key)
}

func (m memo[T]) store(key storage.Key, value T, size int) {
	if size > smallValue {
		m.large.Store(key, "", value)
	} else {
		m.small.Store(key, "", value)
	}
}

func planKey(run, task string, round int) storage.Key {
	return storage.Key(run + "|" + event.MustToken(task) + "|" + strconv.Itoa(round))
}

// plan returns what the inputs of a task's children are made from. Its error is the store's, or one for evalError.
func (e *Engine) plan(ctx context.Context, v *view, c *change, t *Task, round int) (*plan, error) {
	key := planKey(c.after.ID, t.TaskID, round)
	if p, ok := e.plans.load(key); ok {
		return p, nil
	}
	source, p := t.source(), new(plan)
	var refs expr.Refs
	if len(source) > 0 && source.Kind() != 'n' {
		var err error
		if p.input, err = c.def.template(source); err != nil {
			return nil, err
		}
		refs = p.input.Refs()
	}
	var size int
	var err error
	load := func(need []storage.Key, into map[storage.Key]event.Raw) (int, error) {
		return e.load(ctx, v, c, need, into)
	}
	p.scope, size, err = scopeOf(c.def, c.after, refs, load)
	if err == nil && t.Workflow == nil && t.Select != nil {
		p.agent, err = agentOf(c.def, c.after, t.Select.SameAs, load)
	}
	if err == nil {
		e.plans.store(key, p, size)
	}
	return p, err
}

// loader reads documents, and returns how large they are together.
type loader func(need []storage.Key, into map[storage.Key]event.Raw) (int, error)

// scopeOf gathers what expressions refer to, and says how many bytes were loaded for it.
func scopeOf(def *Definition, r *Run, refs expr.Refs, load loader) (s *expr.Scope, size int, err error) {
	d := &decider{def: def, run: r, at: At{Data: make(map[storage.Key]event.Raw)}}
	for range maxRounds {
		if s, err = d.scope(refs); !errors.Is(err, errNeeds) {
			return s, size, err
		}
		n, err := load(d.out.Need, d.at.Data)
		if err != nil {
			return nil, size, loadError{err}
		}
		size += n
		d.out.Need, d.at.Last = nil, size > maxLoaded
	}
	return nil, size, err
}

// agentOf returns the agent that has done a task, empty if none has. The task may have left the document of its run.
func agentOf(def *Definition, r *Run, taskID string, load loader) (string, error) {
	if taskID == "" {
		return "", nil
	}
	d := &decider{def: def, run: r, at: At{Data: make(map[storage.Key]event.Raw)}}
	t, known := d.whole(taskID)
	if !known {
		if _, err := load(d.out.Need, d.at.Data); err != nil {
			return "", loadError{err}
		}
		t, _ = d.whole(taskID)
	}
	if t == nil {
		return "", nil
	}
	return t.Agent, nil
}

// loadError says that the store did not answer: no fault of an expression.
type loadError struct{ error }

func (e loadError) Unwrap() error { return e.error }

// failure tells the failure of a task by an evaluation from an error of the store.
func failure(err error) (*event.TaskError, error) {
	var store loadError
	switch {
	case err == nil:
		return nil, nil
	case errors.As(err, &store):
		return nil, store.error
	}
	return evalError(err), nil
}

// committed loads documents that the store has.
func (e *Engine) committed(ctx context.Context) loader {
	return func(need []storage.Key, into map[storage.Key]event.Raw) (size int, err error) {
		docs, err := e.cfg.Store.Get(ctx, need...)
		if err != nil {
			return 0, fmt.Errorf("load what a run refers to: %w", err)
		}
		for _, d := range docs {
			into[d.Key] = d.Data
			size += len(d.Data)
		}
		return size, nil
	}
}

// item returns one item of a forEach. The page it stands on may be written by the same change.
func (e *Engine) item(ctx context.Context, c *change, s Spawn) (event.Raw, *event.TaskError, error) {
	key := itemsKey(c.after.ID, s.TaskID, s.Round, s.Index/itemsPage)
	page, ok := e.pages.load(key)
	if i := slices.IndexFunc(c.docs, func(d document) bool { return d.key == key }); !ok && i >= 0 {
		_ = event.Unmarshal(c.docs[i].data, &page) // it was marshalled with this turn
	} else if !ok {
		docs, err := e.cfg.Store.Get(ctx, key)
		if err != nil {
			return nil, nil, fmt.Errorf("read items: %w", err)
		}
		if event.Unmarshal(docs[0].Data, &page) == nil {
			e.pages.store(key, page, len(docs[0].Data))
		}
	}
	if i := s.Index % itemsPage; i < len(page) {
		return page[i], nil, nil
	}
	return nil, &event.TaskError{Code: codeLost, Message: fmt.Sprintf("item %d is no longer there", s.Index)}, nil
}

// readRuns reads runs as the store has them, nil for those that do not exist.
func (e *Engine) readRuns(ctx context.Context, ids []string) ([]*Run, error) {
	runs := make([]*Run, len(ids))
	if len(ids) == 0 {
		return runs, nil
	}
	keys := make([]storage.Key, len(ids))
	for i, id := range ids {
		keys[i] = runKey(id)
	}
	docs, err := e.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read runs: %w", err)
	}
	for i, d := range docs {
		if d.Rev == "" {
			continue
		}
		runs[i] = new(Run)
		if err := event.Unmarshal(d.Data, runs[i]); err != nil {
			return nil, fmt.Errorf("document %s: %w", d.Key, err)
		}
	}
	return runs, nil
}

// outputs returns what runs have brought, null for those that did not complete.
func (e *Engine) outputs(ctx context.Context, runs []*Run) ([]event.Raw, error) {
	out := make([]event.Raw, len(runs))
	var keys []storage.Key
	var fill []func(data []byte) error
	for i, r := range runs {
		out[i] = event.Raw("null")
		if r == nil || r.State != event.RunCompleted || r.LastDone == "" && r.Output == nil && !r.BigOutput {
			continue
		}
		last := r.Find(r.LastDone)
		switch {
		case r.BigOutput:
			keys = append(keys, runResultKey(r.ID))
			fill = append(fill, func(data []byte) error { out[i] = data; return nil })
		case r.Output != nil:
			out[i] = r.Output
		case r.LastBig > 0:
			keys = append(keys, outputKey(r.ID, r.LastDone, r.LastBig))
			fill = append(fill, func(data []byte) error { out[i] = data; return nil })
		case last == nil && r.LastDone == "":
		case last == nil:
			keys = append(keys, runTaskKey(r.ID, r.LastDone))
			fill = append(fill, func(data []byte) error {
				var t RunTask
				err := event.Unmarshal(data, &t)
				out[i] = orNull(t.Output)
				return err
			})
		default:
			out[i] = orNull(last.Output)
		}
	}
	if len(keys) == 0 {
		return out, nil
	}
	docs, err := e.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read outputs: %w", err)
	}
	for i, d := range docs {
		if d.Rev == "" {
			continue
		}
		if err := fill[i](d.Data); err != nil {
			return nil, fmt.Errorf("document %s: %w", d.Key, err)
		}
	}
	return out, nil
}

func orNull(v event.Raw) event.Raw {
	if len(v) == 0 {
		return event.Raw("null")
	}
	return v
}
