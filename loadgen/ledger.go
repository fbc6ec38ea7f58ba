package loadgen

import (
	"fmt"
	"slices"

	"github.com/opspawn/opscore/bus/event"
)

// Found is what a separate reader has found in the store and the streams when everything had settled: the other side of the ledger. It is
// plain data, and holds at least the agents and runs that the journal names.
type Found struct {
	Agents map[string]*FoundAgent
	Runs   map[string]*FoundRun
	Dead   map[Position]string // reasons of dead letters, by the place of the original message
	Broken Broken              // what was broken on purpose while the load ran

	MustEnd bool // every run should have ended when this was found

	Pending uint64            // messages that the consumers had not taken in when the reader had no more patience
	Floors  map[string]uint64 // stream: up to where its consumer had acknowledged everything
}

// Broken says what was broken on purpose. Some things are a loss only on servers that were left alone:
//
//   - An event that a newer one has superseded before it was taken in is not in the history, if the replica that had it was killed.
//   - The log behind a history holds an event twice if it was delivered again as if for the first time: a replica that starts sets the consumers
//     back a little, and NATS may have forgotten what it delivered. The history leaves one out.
//   - A task may be given to another agent while the first one has it and cannot say so.
type Broken struct {
	Engine, NATS, Store bool
}

// any reports whether anything was broken.
func (b Broken) any() bool { return b.Engine || b.NATS || b.Store }

// FoundAgent is what was found of an agent.
type FoundAgent struct {
	Registered bool
	Register   FoundLevel   // the registration
	State      FoundLevel   // the newest report of any process
	Deregister uint64       // sequence of the newest deregistration: it voids what stands before it
	History    []FoundEntry // oldest first, as queries show it
	Full       bool         // the history has lost older entries
	Repeats    []uint64     // sequences that the log behind the history holds more than once
}

// FoundLevel is the newest event of a group: its fence, and the number that travelled in it, 0 if there was none.
type FoundLevel struct{ Seq, N uint64 }

// FoundEntry is one entry of an agent's history.
type FoundEntry struct{ Seq, N uint64 }

// FoundRun is what was found of a run.
type FoundRun struct {
	N     uint64 // number that travelled in its input, 0 if there was none
	State event.RunState
	Due   bool   // a timer is set for it, or one of its tasks waits in a queue
	Waits string // what it waits for, in words, unless it has ended
	Tasks []FoundTask
	Child bool // a run that was started by a task of another: nobody else has asked for it, so it is not counted
}

// FoundTask is one task of a run.
type FoundTask struct {
	TaskID  string
	State   event.TaskState
	Attempt int // number of the last one
	AgentID string
}

// maxFindings is how many findings of a kind a ledger puts into words.
const maxFindings = 20

// The kinds of findings.
const (
	findingLost       = "lost"
	findingDoubled    = "doubled"
	findingOutOfOrder = "outOfOrder"
	findingStuck      = "stuck"
	findingOverSlot   = "overSlot"
	findingUnended    = "unended"
)

// Audit compares what was sent and done with what was found. It is pure: the same journal and the same findings give the same ledger.
//
//   - A registration, deregistration or report is stored if the fence of its group has passed it, or it is a dead letter. One that the
//     fence has not passed is lost, or out of order if the history holds it: then an older word has overwritten it.
//   - A start is stored if its run exists, a cancel if its run has ended, a result if its attempt has ended or another one has
//     followed.
//   - What was refused after it was acknowledged has had its effect with the refusal. What was never acknowledged may be there or not.
func Audit(j *Journal, found Found) *Ledger {
	a := &auditor{journal: j, found: found, ledger: new(Ledger), told: make(map[string]int)}
	agents := make(map[string][]numbered)
	j.each(func(n uint64, e sent) {
		switch kind := kinds[e.kind-1]; kind {
		case KindRegister, KindDeregister, KindState:
			agents[e.key] = append(agents[e.key], numbered{n: n, sent: e})
		default:
			if e.state&bitAcked != 0 {
				a.edge(n, e, kind)
			}
		}
	})
	for _, id := range sortedKeys(agents) {
		a.agent(id, agents[id])
	}
	for _, id := range sortedKeys(found.Agents) {
		a.history(id, found.Agents[id])
	}
	a.attempts()
	for _, id := range sortedKeys(found.Runs) {
		a.ends(id, found.Runs[id])
	}
	return a.ledger
}

// auditor is one audit.
type auditor struct {
	journal *Journal
	found   Found
	ledger  *Ledger
	told    map[string]int // findings in words, by kind
	byN     map[uint64]*FoundRun
}

// add counts a finding and puts it into words if there are not enough of its kind yet.
func (a *auditor) add(count *int64, kind, format string, args ...any) {
	*count++
	if a.told[kind]++; a.told[kind] <= maxFindings {
		a.ledger.Findings = append(a.ledger.Findings, Finding{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
}

// numbered is a message and its number.
type numbered struct {
	sent

	n uint64
}

func (m numbered) kindName() Kind { return kinds[m.kind-1] }

func (m numbered) acked() bool { return m.state&bitAcked != 0 }

// before reports whether m stands before o in the stream: by their sequences or, where one is not known, because o was sent after m had been
// acknowledged. Neither of two messages that were under way at the same time is known to stand before the other.
func (m numbered) before(o numbered) bool {
	if m.seq != 0 && o.seq != 0 {
		return m.seq < o.seq
	}
	return m.acked() && m.settled < o.n
}

// place is where a message stands, for people.
func (a *auditor) place(e sent) string {
	if e.seq == 0 {
		return "sequence unknown"
	}
	return fmt.Sprintf("%s/%d", a.journal.names.name(uint32(e.stream)), e.seq)
}

// late explains the loss of a message that may still come: nobody has acknowledged it to the stream. Empty for others.
func (a *auditor) late(e sent) string {
	stream := a.journal.names.name(uint32(e.stream))
	if floor, ok := a.found.Floors[stream]; ok && a.found.Pending > 0 && e.seq > floor {
		return fmt.Sprintf("; it may still be taken in: the consumer of %s stands at %d", stream, floor)
	}
	return ""
}

func (a *auditor) dead(e sent) bool {
	_, ok := a.found.Dead[Position{Stream: a.journal.names.name(uint32(e.stream)), Seq: e.seq}]
	return ok && e.seq != 0
}

// agent judges the level events that were sent about one agent, in the order of their numbers.
func (a *auditor) agent(id string, messages []numbered) {
	f := a.found.Agents[id]
	if f == nil {
		f = new(FoundAgent)
	}
	known := make(map[uint64]numbered, len(messages)) // by number
	for _, m := range messages {
		known[m.n] = m
	}
	history := make(map[uint64]bool, len(f.History))
	for _, h := range f.History {
		history[h.Seq] = true
	}
	a.registration(messages, f)
	for _, m := range messages {
		if !m.acked() {
			continue
		}
		a.ledger.Acked++
		if m.state&bitRefused != 0 || a.dead(m.sent) || a.level(id, f, m, known, history) {
			a.ledger.Stored++
		}
	}
}

// registration counts an agent that should be registered: its last confirmed word about that was not a farewell.
func (a *auditor) registration(messages []numbered, f *FoundAgent) {
	stays := false
	for _, m := range messages {
		if kind := m.kindName(); m.acked() && kind != KindState {
			stays = kind == KindRegister && m.state&bitRefused == 0
		}
	}
	if stays {
		a.ledger.Registered++
		if f.Registered {
			a.ledger.AgentsFound++
		}
	}
}

// level judges one acknowledged level event, and reports whether it is stored.
func (a *auditor) level(id string, f *FoundAgent, m numbered, known map[uint64]numbered, history map[uint64]bool) bool {
	what := fmt.Sprintf("%s of agent %s, number %d (%s)", m.kindName(), id, m.n, a.place(m.sent))
	group, fence := f.group(m.kindName())
	stored, isKnown := known[group.N]
	older := isKnown && stored.kind == m.kind && stored.before(m) // what is stored stands before m
	switch {
	case m.seq == 0 && m.kindName() == KindDeregister:
		return !f.Registered || fence > 0
	case m.seq == 0 && fence == 0:
		a.add(&a.ledger.Lost, findingLost, "%s was acknowledged, and nothing is stored of it", what)
	case m.seq == 0 && older:
		a.add(&a.ledger.Lost, findingLost, "%s was acknowledged, and number %d, which was acknowledged before it was sent, is stored", what, stored.n)
	case m.seq == 0:
		return true
	case m.seq > fence && history[m.seq]:
		a.add(&a.ledger.OutOfOrder, findingOutOfOrder, "%s is in the history, and the older sequence %d is stored: it was overwritten", what, fence)
	case m.seq > fence:
		a.add(&a.ledger.Lost, findingLost, "%s was acknowledged, and what is stored ends at sequence %d%s", what, fence, a.late(m.sent))
	case older && m.seq <= group.Seq:
		a.add(&a.ledger.OutOfOrder, findingOutOfOrder, "%s was acknowledged, and the older number %d is stored under sequence %d", what, stored.n, group.Seq)
	case !history[m.seq] && f.covers(m.seq) && !a.found.Broken.any():
		a.add(&a.ledger.Lost, findingLost, "%s was acknowledged, and the history has what stands around it, but not it", what)
	default:
		return true
	}
	return false
}

// group returns the newest event of a kind's group, and the fence of the group: what a deregistration voids counts as passed.
func (f *FoundAgent) group(kind Kind) (newest FoundLevel, fence uint64) {
	switch kind {
	case KindRegister:
		newest = f.Register
	case KindState:
		newest = f.State
	}
	return newest, max(newest.Seq, f.Deregister)
}

// covers reports whether the history would have to hold an event that was taken in.
func (f *FoundAgent) covers(seq uint64) bool {
	return !f.Full || len(f.History) > 0 && seq > f.History[0].Seq
}

// history judges the order of what an agent's history shows, and what the log behind it holds twice.
func (a *auditor) history(id string, f *FoundAgent) {
	for i, h := range f.History[min(1, len(f.History)):] {
		switch before := f.History[i]; {
		case h.Seq == before.Seq:
			a.add(&a.ledger.Doubled, findingDoubled, "the history of agent %s shows sequence %d twice", id, h.Seq)
		case h.Seq < before.Seq:
			a.add(&a.ledger.OutOfOrder, findingOutOfOrder, "the history of agent %s shows sequence %d behind %d", id, h.Seq, before.Seq)
		}
	}
	if a.found.Broken.any() {
		return
	}
	for _, seq := range f.Repeats {
		a.add(&a.ledger.Doubled, findingDoubled, "sequence %d was written into the history of agent %s more than once", seq, id)
	}
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
