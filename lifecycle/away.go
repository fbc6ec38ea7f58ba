package lifecycle

import (
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Abandon gives up an attempt that a lost agent holds, and reports whether it did. The agent may only be frozen, or cut off: should it return it is still at
// work on it. So the slot stays in use, and what is to be done then is said by [Gate.Returned].
func (g *Gate) Abandon(ref event.AttemptRef, now time.Time) bool {
	i := g.find(ref)
	if i < 0 || g.Live != event.LivenessLost || g.Stale(&g.Held[i]) {
		return false
	}
	g.Held = slices.Clone(g.Held)
	g.Held[i].Away, g.Held[i].Drain = true, now
	return true
}

// Returned reports whether the agent was lost, is not any more, and is to be told to stop what it was at work on.
func (g *Gate) Returned() bool {
	return g.Live != event.LivenessLost && slices.ContainsFunc(g.Held, func(h Held) bool { return h.Away })
}

// Recall lets the slots of an agent that has returned drain, and returns their attempts: it is to be told that they are over.
func (g *Gate) Recall(until time.Time) (refs []event.AttemptRef) {
	if !g.Returned() {
		return nil
	}
	g.Held = slices.Clone(g.Held)
	for i := range g.Held {
		if h := &g.Held[i]; h.Away {
			h.Away, h.Drain = false, until
			refs = append(refs, h.AttemptRef)
		}
	}
	return refs
}

// Stale reports whether a slot was taken for an earlier process of the agent.
func (g *Gate) Stale(h *Held) bool { return h.Instance != "" && h.Instance != g.Instance }
