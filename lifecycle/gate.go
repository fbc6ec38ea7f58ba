package lifecycle

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Gate is the only source of "free": what lifecycle knows of an agent that matters for giving it a task, and what workflow has
// given it. It is a document of its own, small, and part of every Txn that takes or frees a slot, or opens or closes it.
type Gate struct {
	Agent      string            `json:"agent"`
	Registered bool              `json:"registered,omitzero"`
	Instance   string            `json:"instance,omitzero"`
	Slots      int               `json:"slots"`
	Caps       []string          `json:"caps,omitzero"`
	Version    string            `json:"version,omitzero"`
	Labels     map[string]string `json:"labels,omitzero"`
	Delivery   event.Delivery    `json:"delivery,omitzero"`
	Cordoned   bool              `json:"cordoned,omitzero"`
	Drained    bool              `json:"drain,omitzero"`    // it gets only tasks of runs that are bound to it
	DrainBy    time.Time         `json:"drainBy,omitzero"`  // wall clock: then what it holds is handed back; zero for never
	Open       bool              `json:"open,omitzero"`     // what the agent last said lets it take a task
	Word       string            `json:"word,omitzero"`     // what it last said
	Working    time.Time         `json:"working,omitzero"`  // stream timestamp of Word, if it says that the agent works and what we hold on it explains that
	Silent     bool              `json:"silent,omitzero"`   // nobody answered on its subject since its last sign of life
	Until      time.Time         `json:"until,omitzero"`    // wall clock: it refused or did not answer, leave it alone until then
	Misses     int               `json:"misses,omitzero"`   // refusals and silences in a row
	Held       []Held            `json:"held,omitzero"`     // attempts we hold on it
	Released   time.Time         `json:"released,omitzero"` // highest stream timestamp of a result that freed a slot
	Used       int64             `json:"used,omitzero"`     // µs: when a slot was last taken; least recently used goes first
	Listed     bool              `json:"listed,omitzero"`   // it stands in the free indexes
	Beat       int64             `json:"beatMs,omitzero"`   // time between heartbeats, as registered; 0: unwatched until the first one
	Live       event.Liveness    `json:"live,omitzero"`     // what the judge last said of it; empty: nothing since it registered
	LiveSeq    uint64            `json:"liveSeq,omitzero"`  // the agent's last message of StreamAgent that the judge had regarded then
	Able       int64             `json:"able,omitzero"`     // it stands in the able indexes, with this score less one
	Breaker    *Breaker          `json:"breaker,omitzero"`  // nil: its last outcomes are good
	Facts      int64             `json:"facts,omitzero"`    // changes of the gate that others were to be told

	Schemas map[string]SchemaIDs `json:"schemas,omitzero"` // by capability: what the agent says that it takes and gives
}

// Held is one slot in use.
type Held struct {
	event.AttemptRef
	Instance string         `json:"instance,omitzero"` // process the attempt was given to
	Drain    time.Time      `json:"drain,omitzero"`    // the attempt is over for its run; the slot is freed when the cancel is confirmed, or then
	Delivery event.Delivery `json:"delivery,omitzero"` // how the attempt was given, empty for NATS
	Probe    bool           `json:"probe,omitzero"`    // given while the breaker was not closed: it decides whether that closes
	Away     bool           `json:"away,omitzero"`     // it was given up while the agent was lost, which has not been told
	Trace    *Trace         `json:"trace,omitzero"`    // of an agent that knows no result event
}

// Free reports whether the agent may be given one more task now, of any run.
func (g *Gate) Free(now time.Time) bool { return g.refusal(&Want{}, now) == "" }

// Takes reports whether the agent may be given one more task now, if only of a run that is bound to it.
func (g *Gate) Takes(now time.Time) bool { return g.refusal(&Want{Bound: true}, now) == "" }

// refusal names the first rule that keeps the gate from taking a task now, or is empty.
func (g *Gate) refusal(w *Want, now time.Time) string {
	if rule := g.lasting(w, now); rule != "" {
		return rule
	}
	return g.passing(w, now)
}

// lasting names the first rule that keeps tasks away until somebody says something, or is empty.
func (g *Gate) lasting(w *Want, now time.Time) string {
	switch {
	case !g.Registered:
		return RuleUnregistered
	case g.Cordoned:
		return RuleCordoned
	case g.Live == event.LivenessSuspect:
		return RuleSuspect
	case g.Live == event.LivenessLost:
		return RuleLost
	case g.Drained && (!w.Bound || g.DrainOver(now)):
		return RuleDraining
	case g.Silent && now.Before(g.Until):
		return RuleSilent
	case !g.Open:
		return RuleState
	}
	return ""
}

// passing names the first rule that keeps a task away for a time, or is empty.
func (g *Gate) passing(w *Want, now time.Time) string {
	switch {
	case now.Before(g.Until):
		return RuleBackoff
	case len(g.Held) >= g.Slots:
		return RuleSlots
	case g.breaks(now) && !w.Probe, w.Probe && g.probed():
		return RuleBreaker
	}
	return ""
}

// DrainOver reports whether the time to drain is over: what the agent still holds is taken away.
func (g *Gate) DrainOver(now time.Time) bool {
	return g.Drained && !g.DrainBy.IsZero() && !now.Before(g.DrainBy)
}

// Rest, working and all other words an agent can say of itself.
func isRest(word string) bool {
	switch strings.ToLower(word) {
	case "idle", "finished", "completed":
		return true
	}
	return false
}

func isWorking(word string) bool {
	switch strings.ToLower(word) {
	case "active", "busy":
		return true
	}
	return false
}

// Follow brings the gate in line with the record after an event was applied to it, and reports whether the gate changed and whether what it holds is to be
// looked at: a new epoch began while slots were held, or the agent has returned. Sign says that the event proves that the agent lives.
func (g *Gate) Follow(r *Record, sign bool) (changed, handBack bool) {
	before := *g
	g.Registered = r.Registered()
	g.Cordoned, g.Drained, g.DrainBy = r.Cordon.On && !r.Cordon.Drain, r.Cordon.Drain, r.Cordon.By
	if r.Reg != nil {
		e := &r.Reg.Event
		g.Slots = max(e.Slots, event.DefaultSlots)
		g.Caps, g.Version, g.Labels, g.Delivery, g.Schemas = e.Capabilities, e.Version, e.Labels, e.Delivery, r.Reg.Schemas
	} else {
		g.Slots, g.Caps, g.Version, g.Labels, g.Delivery, g.Schemas = 0, nil, "", nil, "", nil
	}
	if g.Instance = r.Instance.ID; g.Instance != before.Instance {
		g.renew()
	}
	g.followBeat(r, &before)
	g.hear(r.Current())
	if sign && g.Silent {
		g.Silent, g.Until, g.Misses = false, time.Time{}, 0
	}
	if before.Instance != g.Instance {
		handBack = slices.ContainsFunc(g.Held, func(h Held) bool { return g.Stale(&h) })
	}
	return !g.same(&before), handBack || g.Returned() && !before.Returned()
}

// renew forgets what was held against an earlier process of the agent. An open breaker is half open then: the new one is tried with one task at once.
func (g *Gate) renew() {
	g.Until, g.Misses = time.Time{}, 0
	if b := g.Breaker; b != nil && b.Opens > 0 {
		g.Breaker = &Breaker{Last: b.Last, Opens: b.Opens}
	} else {
		g.Breaker = nil
	}
}

// hear opens or closes the gate by what the agent last said, and by nothing it said before. A working word does not close it
// while we hold an attempt on it, nor when it is from before the last result was taken in: it is about work that is known, or over.
func (g *Gate) hear(p *Report) {
	g.Working = time.Time{}
	if p == nil {
		g.Word, g.Open = "", false
		return
	}
	g.Word = p.State
	switch {
	case isRest(p.State):
		g.Open = true
	case isWorking(p.State):
		if len(g.Held) > 0 {
			g.Working = p.Mark.At
		}
		g.Open = len(g.Held) > 0 || !p.Mark.At.After(g.Released)
	default:
		g.Open = false
	}
}

func (g *Gate) same(o *Gate) bool {
	return g.Registered == o.Registered && g.Instance == o.Instance && g.Slots == o.Slots && g.Version == o.Version &&
		g.Beat == o.Beat && g.Live == o.Live && g.Delivery == o.Delivery && g.Open == o.Open && g.Silent == o.Silent &&
		g.Cordoned == o.Cordoned && g.Drained == o.Drained && g.DrainBy.Equal(o.DrainBy) &&
		(g.Open || g.Word == o.Word) && g.Working.Equal(o.Working) && g.Until.Equal(o.Until) && slices.Equal(g.Caps, o.Caps) && maps.Equal(g.Labels, o.Labels) &&
		maps.Equal(g.Schemas, o.Schemas) &&
		slices.EqualFunc(g.Held, o.Held, func(a, b Held) bool { return a.Trace.same(b.Trace) })
}

// Via is how the agent is given tasks: empty for NATS.
func (g *Gate) Via() event.Delivery {
	if g.Delivery == event.DeliveryNATS {
		return ""
	}
	return g.Delivery
}

// Take holds a slot for an attempt. Taking it again changes nothing.
func (g *Gate) Take(ref event.AttemptRef, instance string, now time.Time) {
	if g.find(ref) < 0 {
		ref.Token = "" // the number is enough to know the attempt by
		g.Held = append(slices.Clone(g.Held), Held{
			AttemptRef: ref, Instance: instance, Delivery: g.Via(), Probe: g.Breaker.State(now) != BreakerClosed,
		})
		g.Used = now.UnixMicro()
	}
}

// Release frees the slot of an attempt. A result's stream timestamp is remembered; other releases give the zero time. It reports whether
// the slot was held.
func (g *Gate) Release(ref event.AttemptRef, resultAt time.Time) bool {
	if resultAt.After(g.Released) {
		g.Released = resultAt
	}
	i := g.find(ref)
	if i < 0 {
		return false
	}
	g.Held = slices.Delete(slices.Clone(g.Held), i, i+1)
	if len(g.Held) == 0 && g.Working.After(g.Released) {
		g.Open = false // it says that it works, and not because of what we know of
	}
	return true
}

// Drain marks the slot of an attempt that is over for its run while the agent has not confirmed that it stopped; it is freed at the end of a
// grace in any case.
func (g *Gate) Drain(ref event.AttemptRef, until time.Time) bool {
	i := g.find(ref)
	if i < 0 {
		return false
	}
	g.Held = slices.Clone(g.Held)
	g.Held[i].Drain = until
	return true
}

// Draining returns until when the slot of an attempt drains at most; ok is false if it is not held or does not drain.
func (g *Gate) Draining(ref event.AttemptRef) (until time.Time, ok bool) {
	i := g.find(ref)
	if i < 0 || g.Held[i].Drain.IsZero() {
		return time.Time{}, false
	}
	return g.Held[i].Drain, true
}

// Find returns the slot that is held for the attempt, to be read, or nil.
func (g *Gate) Find(ref event.AttemptRef) *Held {
	if i := g.find(ref); i >= 0 {
		return &g.Held[i]
	}
	return nil
}

// Holds reports whether a slot is held for the attempt.
func (g *Gate) Holds(ref event.AttemptRef) bool { return g.find(ref) >= 0 }

func (g *Gate) find(ref event.AttemptRef) int {
	return slices.IndexFunc(g.Held, func(h Held) bool {
		return h.RunID == ref.RunID && h.TaskID == ref.TaskID && h.Attempt == ref.Attempt
	})
}

// Back-off of an agent that refuses or does not answer: 1 s, doubled each time, at most 30 s.
const (
	minBackoff = time.Second
	maxBackoff = 30 * time.Second
)

// Rejected leaves the agent alone for as long as it asked, or for a back-off that grows.
func (g *Gate) Rejected(now time.Time, after time.Duration) {
	if after <= 0 {
		after = g.backoff()
	}
	g.Misses++
	g.Until = now.Add(min(after, maxRetryAfter))
}

// maxRetryAfter bounds what an agent may ask for, so that a bad number cannot park it for ever.
const maxRetryAfter = 15 * time.Minute

// Unheard takes the agent out of rotation because nobody answered on its subject: until its next sign of life or a back-off that grows.
func (g *Gate) Unheard(now time.Time) {
	g.Until = now.Add(g.backoff())
	g.Misses++
	g.Silent = true
}

func (g *Gate) backoff() time.Duration {
	return min(minBackoff<<min(g.Misses, 6), maxBackoff)
}

// Answered forgets refusals and silences: the agent has taken a task.
func (g *Gate) Answered() {
	g.Silent, g.Misses, g.Until = false, 0, time.Time{}
}

// Wakes returns when time alone may let the agent take a task next, zero if time does nothing for it.
func (g *Gate) Wakes(now time.Time) time.Time {
	at := g.Until
	if b := g.Breaker; b != nil && b.Until.After(now) && (!at.After(now) || b.Until.Before(at)) {
		at = b.Until
	}
	if !at.After(now) {
		return time.Time{}
	}
	return at
}

// FreeIndex names the index of agents with a capability that are free, least recently used first.
func FreeIndex(capability string) storage.Index { return storage.Index("free/" + capability) }

// AbleIndex names the index of agents with a capability that take tasks at other times if not now: nothing but a back-off, their slots or their
// breaker is in the way. The score is 0, or when an open breaker lets a task through again: it is not 0 in front only if all candidates have failed.
func AbleIndex(capability string) storage.Index { return storage.Index("able/" + capability) }

// able is the value of Able that the rest of the gate gives.
func (g *Gate) able(now time.Time) int64 {
	switch {
	case g.lasting(&Want{}, now) != "":
		return 0
	case g.Breaker.State(now) == BreakerOpen:
		return g.Breaker.Until.UnixMicro() + 1
	}
	return 1
}

// FreeOps returns what must happen to the indexes of free and able agents in the Txn that turns one gate into another, and notes in after where it is
// listed. It must be called before the gate is encoded.
func FreeOps(before, after *Gate, now time.Time) (add, remove []storage.IndexOp) {
	after.Listed, after.Able = after.Free(now), after.able(now)
	recaps := !slices.Equal(before.Caps, after.Caps)
	if before.Listed != after.Listed || after.Listed && (recaps || before.Used != after.Used) {
		add, remove = listOps(add, remove, FreeIndex, listing{before, before.Listed}, listing{after, after.Listed}, storage.Score(after.Used))
	}
	if before.Able != after.Able || after.Able > 0 && recaps {
		add, remove = listOps(add, remove, AbleIndex, listing{before, before.Able > 0}, listing{after, after.Able > 0}, storage.Score(after.Able-1))
	}
	return add, remove
}

// listing says whether a gate stands in the indexes of its capabilities.
type listing struct {
	gate   *Gate
	listed bool
}

// listOps moves an agent from the indexes of its capabilities before to those after.
func listOps(add, remove []storage.IndexOp, index func(string) storage.Index, before, after listing, score storage.Score) (_, _ []storage.IndexOp) {
	done := make(map[string]bool, len(after.gate.Caps))
	if after.listed {
		for _, c := range after.gate.Caps {
			if c != "" && !done[c] {
				done[c] = true
				add = append(add, storage.IndexOp{Index: index(c), Member: after.gate.Agent, Score: score})
			}
		}
	}
	if before.listed {
		for _, c := range before.gate.Caps {
			if c != "" && !done[c] {
				done[c] = true
				remove = append(remove, storage.IndexOp{Index: index(c), Member: after.gate.Agent})
			}
		}
	}
	return add, remove
}
