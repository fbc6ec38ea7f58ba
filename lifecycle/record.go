package lifecycle

import (
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// EarlyReportTTL is how long a state report waits for a registration that may follow it.
const EarlyReportTTL = 5 * time.Minute

// Bounds of a record. Within them any permutation of a set of events gives the same record.
const (
	maxReports = 4 // newest report of each of so many instances
	maxFirsts  = 8 // oldest registrations since the last deregistration
)

// Mark is a place in a stream: the fence of a field group. Era counts the confirmed rollbacks of the stream that this
// record has lived through; within one era the sequence orders alone.
type Mark struct {
	Era uint64    `json:"era,omitzero"`
	Seq uint64    `json:"seq"`
	At  time.Time `json:"at"` // stream timestamp
}

// Before reports whether m stands before n in the stream.
func (m Mark) Before(n Mark) bool {
	if m.Era != n.Era {
		return m.Era < n.Era
	}
	return m.Seq < n.Seq
}

// Record is what the level events of one agent amount to: of each field group the newest event, and no more.
//
// Its slices are never changed, only replaced: a copy of a Record may be kept, and read, while the Record goes on.
type Record struct {
	Version  uint64        `json:"v"` // change count
	Era      uint64        `json:"era,omitzero"`
	EraAt    time.Time     `json:"eraAt,omitzero"` // highest stream timestamp of the eras before
	Top      Mark          `json:"top"`            // highest event taken in; At is the highest stream timestamp seen
	Reg      *Registration `json:"reg,omitzero"`
	Firsts   []Mark        `json:"firsts,omitzero"` // oldest registrations behind Dereg, in order
	Instance InstanceMark  `json:"inst,omitzero"`
	Dereg    Mark          `json:"dereg,omitzero"`
	Reports  []Report      `json:"reports,omitzero"` // newest first
	Cordon   CordonMark    `json:"cordon,omitzero"`
}

// Registration is the newest register event.
type Registration struct {
	Mark  Mark           `json:"mark"`
	Event event.Register `json:"event"` // without its schemas, which have a document of their own

	Schemas map[string]SchemaIDs `json:"schemas,omitzero"` // by capability

	raw event.Raw // Event encoded, once it was
}

// InstanceMark is the newest register event that named an instance: it opened the present epoch, or confirmed it.
type InstanceMark struct {
	ID   string `json:"id,omitzero"`
	Mark Mark   `json:"mark,omitzero"`
}

// Report is the newest state event of one instance.
type Report struct {
	Mark      Mark      `json:"mark"`
	Instance  string    `json:"instance,omitzero"`
	State     string    `json:"state"`
	Timestamp string    `json:"timestamp,omitzero"`
	Details   event.Raw `json:"details,omitzero"`
}

// CordonMark is the newest cordon, drain or uncordon command.
type CordonMark struct {
	On     bool      `json:"on,omitzero"`
	Drain  bool      `json:"drain,omitzero"` // On, but runs that are bound to the agent go on
	By     time.Time `json:"by,omitzero"`    // of a drain: when what is held is handed back, by the stream's clock; zero for never
	Reason string    `json:"reason,omitzero"`
	Mark   Mark      `json:"mark,omitzero"`
}

// Verdict is what became of one event.
type Verdict int

// The verdicts of [Record.Apply].
const (
	Applied Verdict = iota // the record has changed
	Old                    // a newer event of the same group was there already
	Suspect                // behind the fence but newer by the stream's clock: has the stream been rolled back?
)

// Registered reports whether the agent is known.
func (r *Record) Registered() bool { return r.Reg != nil }

// Apply takes in one level event at its place in the stream. It never looks at a clock or at the order of calls: any
// permutation of the same events gives the same record. The verdict Suspect leaves the record unchanged; the caller asks
// the stream. If it confirms that it was rolled back, the caller calls [Record.Rollback] and then Apply again, and
// otherwise [Record.ApplyLate].
func (r *Record) Apply(e event.Event, at Mark) Verdict {
	at = r.place(at)
	if !r.Top.Before(at) && at.At.After(r.Top.At) {
		return Suspect
	}
	return r.apply(e, at)
}

// ApplyLate takes in an event that was Suspect when the stream was not rolled back: the stream's clock was set back, and the event
// is late.
func (r *Record) ApplyLate(e event.Event, at Mark) Verdict { return r.apply(e, r.place(at)) }

func (r *Record) apply(e event.Event, at Mark) Verdict {
	var changed bool
	switch e := e.(type) {
	case *event.Register:
		changed = r.register(e, at)
	case *event.Deregister:
		changed = r.deregister(at)
	case *event.State:
		changed = r.report(e, at)
	case *event.AgentCommand:
		changed = r.cordon(e, at)
	}
	if !changed {
		return Old
	}
	r.rise(at)
	r.Version++
	return Applied
}

// cordon takes in a cordon, drain or uncordon command, which stays in force until a newer one, whatever the agent says.
func (r *Record) cordon(e *event.AgentCommand, at Mark) bool {
	if r.Cordon.Mark.Seq != 0 && !r.Cordon.Mark.Before(at) {
		return false
	}
	r.Cordon = CordonMark{On: e.Kind != event.KindAgentUncordon, Drain: e.Kind == event.KindAgentDrain, Reason: e.Reason, Mark: at}
	if r.Cordon.Drain && e.DeadlineSeconds > 0 {
		r.Cordon.By = at.At.Add(time.Duration(e.DeadlineSeconds * float64(time.Second)))
	}
	return true
}

// Rollback opens a new era: the stream has lost its tail, and its sequences are used again. What is left of the time before keeps its place
// when it is delivered again.
func (r *Record) Rollback() {
	r.Era++
	r.EraAt = r.Top.At
	r.Top = Mark{Era: r.Era, At: r.Top.At}
}

// place gives a mark its era: a message that is not newer than the end of the era before belongs to that.
func (r *Record) place(at Mark) Mark {
	at.Era = r.Era
	if r.Era > 0 && !at.At.After(r.EraAt) {
		at.Era--
	}
	return at
}

func (r *Record) rise(at Mark) {
	high := r.Top.At
	if r.Top.Before(at) {
		r.Top = at
	}
	if high.After(r.Top.At) {
		r.Top.At = high
	}
}

func (r *Record) voided(at Mark) bool { return r.Dereg.Seq != 0 && !r.Dereg.Before(at) }

func (r *Record) register(e *event.Register, at Mark) bool {
	if r.voided(at) {
		return false
	}
	changed := r.addFirst(at)
	if e.Instance != "" && (r.Instance.ID == "" || r.Instance.Mark.Before(at)) {
		r.Instance = InstanceMark{ID: e.Instance, Mark: at}
		changed = true
	}
	if r.Reg == nil || r.Reg.Mark.Before(at) {
		r.Reg = &Registration{Mark: at, Event: *e}
		r.Reg.Schemas, _ = namesOf(e)
		r.Reg.Event.CapabilitySchemas = nil
		changed = true
	}
	return changed
}

// addFirst remembers the oldest registrations in order, so that a deregistration that arrives late can void some of them and the
// next one is known: an early report is judged by the first registration behind it.
func (r *Record) addFirst(at Mark) bool {
	i, found := slices.BinarySearchFunc(r.Firsts, at, compareMarks)
	if found || i >= maxFirsts {
		return false
	}
	firsts := slices.Insert(slices.Clone(r.Firsts), i, at)
	r.Firsts = firsts[:min(len(firsts), maxFirsts)]
	return true
}

func compareMarks(a, b Mark) int {
	switch {
	case a.Before(b):
		return -1
	case b.Before(a):
		return 1
	}
	return 0
}

func (r *Record) deregister(at Mark) bool {
	if r.voided(at) {
		return false
	}
	r.Dereg = at
	if r.Reg != nil && r.voided(r.Reg.Mark) {
		r.Reg = nil
	}
	if r.Instance.ID != "" && r.voided(r.Instance.Mark) {
		r.Instance = InstanceMark{}
	}
	r.Firsts = slices.DeleteFunc(slices.Clone(r.Firsts), r.voided)
	if len(r.Firsts) == 0 && r.Reg != nil {
		r.Firsts = []Mark{r.Reg.Mark} // more registrations than are remembered stood before at
	}
	r.Reports = slices.DeleteFunc(slices.Clone(r.Reports), func(p Report) bool { return r.voided(p.Mark) })
	return true
}

func (r *Record) report(e *event.State, at Mark) bool {
	if r.voided(at) {
		return false
	}
	p := Report{Mark: at, Instance: e.Instance, State: e.State, Timestamp: e.Timestamp, Details: e.Details}
	reports := slices.Clone(r.Reports)
	for i, known := range reports {
		if known.Instance == p.Instance {
			if !known.Mark.Before(at) {
				return false
			}
			reports = slices.Delete(reports, i, i+1)
			break
		}
	}
	i, _ := slices.BinarySearchFunc(reports, p, func(a, b Report) int { return compareMarks(b.Mark, a.Mark) })
	if i >= maxReports {
		return false
	}
	reports = slices.Insert(reports, i, p)
	r.Reports = reports[:min(len(reports), maxReports)]
	return true
}

// Stale reports whether an event of this instance at this place was said by a process that another one had replaced.
func (r *Record) Stale(instance string, at Mark) bool {
	at = r.place(at)
	return instance != "" && r.Instance.ID != "" && instance != r.Instance.ID && r.Instance.Mark.Before(at)
}

// Current returns the report that counts: the newest one that is not of another process than the one that registered last, and
// did not wait for its registration for more than EarlyReportTTL. It returns nil when there is none: the agent's state is
// UNKNOWN.
func (r *Record) Current() *Report {
	if !r.Registered() {
		return nil
	}
	for i := range r.Reports {
		p := &r.Reports[i]
		if !r.foreign(p) && !r.expired(p) {
			return p
		}
	}
	return nil
}

// holds reports whether there are reports that wait for a registration.
func (r *Record) holds() bool { return !r.Registered() && len(r.Reports) > 0 }

// foreign reports whether a report is of another process than the one that registered last.
func (r *Record) foreign(p *Report) bool {
	return p.Instance != "" && r.Instance.ID != "" && p.Instance != r.Instance.ID
}

// expired reports whether a report had waited for too long when the first registration behind it came.
func (r *Record) expired(p *Report) bool {
	return len(r.Firsts) > 0 && p.Mark.Before(r.Firsts[0]) && r.Firsts[0].At.Sub(p.Mark.At) > EarlyReportTTL
}
