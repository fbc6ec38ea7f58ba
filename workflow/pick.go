package workflow

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

const (
	maxPicks   = 1024 // agents looked at for one task
	poolPage   = 64   // agents of a capability looked at in one go
	maxLooks   = 2048 // agents that one turn reads to find those that picky classes ask for; the next goes on behind them
	spreadOver = 16   // agents of which the one with the fewest tasks is taken
)

// pick finds an agent for a class, or nil.
func (e *Engine) pick(ctx context.Context, v *view, c *change, k *class, spread bool) (*lifecycle.Gate, error) {
	if e.paused[k.want.Capability] {
		return nil, nil
	}
	gate, err := e.pickFree(ctx, v, c, k, spread)
	if gate != nil || err != nil || !k.probe {
		return gate, err
	}
	k.probe = false
	return e.pickProbe(ctx, v, c, k)
}

// pickFree finds a free agent for a class, or nil. An agent with more free slots goes back to the end of the pool when it has been given a task.
func (e *Engine) pickFree(ctx context.Context, v *view, c *change, k *class, spread bool) (*lifecycle.Gate, error) {
	if k.want.Agent != "" {
		if err := e.loadGates(ctx, v, []string{k.want.Agent}); err != nil {
			return nil, err
		}
		return v.match(c, k.want.Agent, k.want), nil
	}
	for range maxPicks {
		if len(k.pool) == 0 {
			if err := e.fillPool(ctx, v, k); err != nil || len(k.pool) == 0 {
				return nil, err
			}
		}
		if err := e.lightestFirst(ctx, v, c, k); err != nil {
			return nil, err
		}
		agent := k.next(spread)
		if err := e.loadGates(ctx, v, []string{agent}); err != nil {
			return nil, err
		}
		if gate := v.match(c, agent, k.want); gate != nil {
			return gate, nil
		}
	}
	return nil, nil
}

// pickProbe finds the agent with the least bad breaker for a class, but only if the breakers of all are open that could ever take its tasks: an exclusion must
// not leave nobody.
func (e *Engine) pickProbe(ctx context.Context, v *view, c *change, k *class) (*lifecycle.Gate, error) {
	want := k.want
	want.Probe = true
	if want.Agent != "" {
		return v.match(c, want.Agent, want), nil
	}
	index := lifecycle.AbleIndex(want.Capability)
	broken, err := e.cfg.Store.Range(ctx, index, storage.Cursor{Score: 1}, storage.MaxScore, poolPage)
	if err != nil {
		return nil, fmt.Errorf("look for agents whose breaker is open: %w", err)
	}
	best := ""
	for _, entry := range broken {
		v.distrustGate(e, entry.Member)
		if err := e.loadGates(ctx, v, []string{entry.Member}); err != nil {
			return nil, err
		}
		if lifecycle.Match(v.seen(c, entry.Member), want, v.now) == nil {
			best = entry.Member
			break
		}
	}
	if best == "" {
		return nil, nil
	}
	if others, err := e.anyAble(ctx, v, k); others || err != nil {
		return nil, err
	}
	return v.match(c, best, want), nil
}

// anyAble reports whether there is, or may be, an agent for the class whose breaker is not open: it is only busy.
func (e *Engine) anyAble(ctx context.Context, v *view, k *class) (bool, error) {
	var after storage.Cursor
	for v.looks < maxLooks {
		entries, err := e.cfg.Store.Range(ctx, lifecycle.AbleIndex(k.want.Capability), after, 0, poolPage)
		if err != nil || !k.want.Picky() {
			return len(entries) > 0, err
		}
		ids := make([]string, len(entries))
		for i, entry := range entries {
			ids[i] = entry.Member
		}
		if err := e.loadGates(ctx, v, ids); err != nil {
			return false, err
		}
		if v.looks += len(ids); slices.ContainsFunc(ids, func(id string) bool { return lifecycle.Fits(v.gates[id].val, k.want) }) {
			return true, nil
		}
		if len(entries) < poolPage {
			return false, nil
		}
		after = storage.Cursor{Member: ids[poolPage-1]}
	}
	return true, nil
}

// lightestFirst moves the agent with the fewest tasks to the front of the pool of a class that wants its tasks spread.
func (e *Engine) lightestFirst(ctx context.Context, v *view, c *change, k *class) error {
	if !k.want.Spread {
		return nil
	}
	if len(k.pool) < spreadOver {
		if err := e.fillPool(ctx, v, k); err != nil {
			return err
		}
	}
	first := k.pool[:min(len(k.pool), spreadOver)]
	if err := e.loadGates(ctx, v, first); err != nil {
		return err
	}
	best := slices.MinFunc(first, func(a, b string) int { return cmp.Compare(len(v.seen(c, a).Held), len(v.seen(c, b).Held)) })
	i := slices.Index(first, best)
	copy(first[1:i+1], first[:i])
	first[0] = best
	return nil
}

// seen returns an agent's gate as it is after what was changed so far.
func (v *view) seen(c *change, agent string) *lifecycle.Gate {
	if g := c.gates[agent]; g != nil {
		return g
	}
	return v.gates[agent].val
}

// match returns the agent's gate, for changing, if it may take a task of this kind now.
func (v *view) match(c *change, agent string, want lifecycle.Want) *lifecycle.Gate {
	if lifecycle.Match(v.seen(c, agent), want, v.now) != nil {
		return nil
	}
	return v.gate(c, agent)
}

// fillPool reads agents that the store lists as free and that are what the class asks for. A picky class may have to look far for one: it looks at a
// few pages in each turn, and remembers how far it came.
func (e *Engine) fillPool(ctx context.Context, v *view, k *class) error {
	for found := false; !k.dry && !found && (v.looks < maxLooks || !k.want.Picky()); {
		entries, err := e.cfg.Store.Range(ctx, lifecycle.FreeIndex(k.want.Capability), k.listed, storage.MaxScore, poolPage)
		if err != nil {
			return fmt.Errorf("look for free agents: %w", err)
		}
		k.listed, k.dry = storage.Cursor{}, true // until a hint says otherwise: what is listed now is in the pool
		if len(entries) == poolPage {            // the next page may have others
			last := entries[poolPage-1]
			k.listed, k.dry = storage.Cursor{Score: last.Score, Member: last.Member}, false
		}
		if found, err = e.poolPage(ctx, v, k, entries); err != nil {
			return err
		}
	}
	return nil
}

// poolPage puts the agents of a page that the class does not have yet into its pool, and reports whether there was one.
func (e *Engine) poolPage(ctx context.Context, v *view, k *class, entries []storage.Entry) (found bool, err error) {
	ids := make([]string, 0, len(entries))
	for _, entry := range entries {
		if k.pooled[entry.Member] {
			continue
		}
		ids = append(ids, entry.Member)
		if g, ok := e.gates.Load(lifecycle.GateKey(entry.Member)); ok && lifecycle.Match(g.Value, k.want, v.now) != nil {
			v.distrustGate(e, entry.Member) // the store lists it as free and able
		}
	}
	if err := e.loadGates(ctx, v, ids); err != nil {
		return false, err
	}
	if k.want.Picky() {
		v.looks += len(ids)
		ids = slices.DeleteFunc(ids, func(id string) bool { return !lifecycle.Fits(v.gates[id].val, k.want) })
	}
	for _, id := range ids {
		k.pool = append(k.pool, id)
		k.pooled[id] = true
	}
	return len(ids) > 0, nil
}
