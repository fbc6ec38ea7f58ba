package workflow

import (
	"context"
	"errors"
	"fmt"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Bounds of what is loaded for one decision. What needs more has failed.
const (
	maxRounds = 32 // each loads what the one before found to be needed
	maxLoaded = 16 << 20
)

// decideInput decides an input, loading what the decision needs.
func (e *Engine) decideInput(ctx context.Context, v *view, c *change, in Input, at At) (Decision, error) {
	switch in := in.(type) {
	case *Said:
		schema, err := e.promised(ctx, c.after, in)
		if err != nil {
			return Decision{}, err
		}
		at.Schema = schema
	case *Misfit:
		if stands, err := e.stands(ctx, v, c, in); !stands || err != nil {
			return Decision{}, err
		}
	}
	for round, size := 1, 0; ; round++ {
		d := Decide(c.def, c.after, in, at)
		if len(d.Need) == 0 {
			return d, nil
		}
		if at.Last {
			return d, fmt.Errorf("a decision needs more than it was told it can have: %s", d.Need[0])
		}
		if at.Data == nil {
			at.Data = make(map[storage.Key]event.Raw, len(d.Need))
		}
		n, err := e.load(ctx, v, c, d.Need, at.Data)
		if err != nil {
			return d, err
		}
		size += n
		at.Last = round == maxRounds || size > maxLoaded
	}
}

// load reads documents that never change, and returns how large they are together. Some may be on their way to the store.
func (e *Engine) load(ctx context.Context, v *view, c *change, need []storage.Key, into map[storage.Key]event.Raw) (size int, err error) {
	var keys []storage.Key
	for _, k := range need {
		if data := e.underway(v, c, k); data != nil {
			into[k] = data
			size += len(data)
		} else {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return size, nil
	}
	docs, err := e.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return size, fmt.Errorf("load what a run refers to: %w", err)
	}
	for i, d := range docs {
		into[keys[i]] = d.Data
		size += len(d.Data)
	}
	return size, nil
}

// underway returns a document that a change writes which has not been committed yet, nil if there is none.
func (e *Engine) underway(v *view, c *change, key storage.Key) event.Raw {
	if data := c.doc(key); data != nil {
		return data
	}
	if v != nil {
		for _, other := range v.changes {
			if data := other.doc(key); data != nil {
				return data
			}
		}
	}
	for flight := range e.flights {
		for _, other := range flight.changes {
			if data := other.doc(key); data != nil {
				return data
			}
		}
	}
	return nil
}

// doc returns a document that the change writes, nil if it does not.
func (c *change) doc(key storage.Key) event.Raw {
	for _, d := range c.docs {
		if d.key == key {
			return d.data
		}
	}
	return nil
}

// taskInput renders what a task is given: the same again each time, since it depends on nothing but what has ended. The view may be nil.
func (e *Engine) taskInput(ctx context.Context, v *view, c *change, task *Task) (event.Raw, error) {
	if in, ok := c.rendered[task.TaskID]; ok {
		return in, nil
	}
	d := &decider{def: c.def, run: c.after, at: At{Data: make(map[storage.Key]event.Raw)}}
	for range maxRounds {
		in, err := d.taskInput(task)
		if !errors.Is(err, errNeeds) {
			return in, err
		}
		if _, err := e.load(ctx, v, c, d.out.Need, d.at.Data); err != nil {
			return nil, err
		}
		d.out.Need = nil
	}
	return nil, errNeeds
}
