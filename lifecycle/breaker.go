package lifecycle

import (
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Bounds of a breaker.
const (
	breakerRow    = 5  // failures in a row that open it
	breakerWindow = 20 // outcomes that are remembered; half of them failures open it too
	minOpen       = 10 * time.Second
	maxOpen       = 5 * time.Minute
)

// Breaker keeps tasks away from an agent that fails them. It is nil while the last outcomes are all good.
//
// Closed, it counts. Open, the agent is given nothing until Until. Then it is half open: one task is given, the probe. If that succeeds the breaker is
// closed, and has forgotten everything; if it fails, or time runs out on it, the breaker opens for twice as long.
type Breaker struct {
	Last  string    `json:"last,omitzero"`  // outcomes, the newest last: 'o' good, 'x' failed
	Opens int       `json:"opens,omitzero"` // times it opened since it was closed; 0: it is closed
	Until time.Time `json:"until,omitzero"` // wall clock: while it is open
}

// The states of a breaker.
const (
	BreakerClosed   = "closed"
	BreakerOpen     = "open"
	BreakerHalfOpen = "half_open"
)

// State names what the breaker does now.
func (b *Breaker) State(now time.Time) string {
	switch {
	case b == nil || b.Opens == 0:
		return BreakerClosed
	case now.Before(b.Until):
		return BreakerOpen
	}
	return BreakerHalfOpen
}

// String returns the outcomes that are remembered.
func (b *Breaker) String() string {
	if b == nil {
		return ""
	}
	return b.Last
}

// opens counts how often it opened since it was closed.
func (b *Breaker) opens() int {
	if b == nil {
		return 0
	}
	return b.Opens
}

func (b *Breaker) failures() int { return strings.Count(b.Last, "x") }

// bad reports whether a breaker that counts must open.
func (b *Breaker) bad() bool {
	return strings.HasSuffix(b.Last, strings.Repeat("x", breakerRow)) || len(b.Last) == breakerWindow && 2*b.failures() >= breakerWindow
}

// with returns a copy that remembers one more outcome.
func (b *Breaker) with(outcome string) *Breaker {
	c := Breaker{}
	if b != nil {
		c = *b
	}
	c.Last += outcome
	c.Last = c.Last[max(len(c.Last)-breakerWindow, 0):]
	return &c
}

// Worked notes that the agent has brought an attempt to a good end.
func (g *Gate) Worked(ref event.AttemptRef) {
	if g.Breaker == nil {
		return
	}
	h := g.Find(ref)
	if g.Breaker.Opens > 0 && h != nil && h.Probe {
		g.Breaker = nil
		return
	}
	g.Breaker = g.Breaker.with("o")
	if g.Breaker.Opens == 0 && g.Breaker.failures() == 0 {
		g.Breaker = nil
	}
}

// Failed notes that the agent has failed an attempt: it said so, refused it, did not accept it or let its time run out.
func (g *Gate) Failed(ref event.AttemptRef, now time.Time) {
	b := g.Breaker.with("x")
	h := g.Find(ref)
	if b.Opens == 0 && b.bad() || b.Opens > 0 && h != nil && h.Probe {
		b.Until = now.Add(min(minOpen<<min(b.Opens, 6), maxOpen))
		b.Opens++
	}
	g.Breaker = b
}

// breaks reports whether the breaker keeps a task away. A half open one lets one through.
func (g *Gate) breaks(now time.Time) bool {
	switch g.Breaker.State(now) {
	case BreakerOpen:
		return true
	case BreakerHalfOpen:
		return g.probed()
	}
	return false
}

// probed reports whether the agent holds a probe.
func (g *Gate) probed() bool {
	for i := range g.Held {
		if g.Held[i].Probe && g.Held[i].Drain.IsZero() {
			return true
		}
	}
	return false
}
