package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Trace is what an agent that knows no result event has said since it was given an attempt, as far as it shows how the attempt ends. The
// states of one set leave the same Trace in whatever order, and however often, they are delivered.
type Trace struct {
	Base   uint64 `json:"base"`            // last sequence of StreamAgent before the attempt was assigned: only what stands behind it counts
	Again  uint64 `json:"again,omitzero"`  // sequence of the last registration behind the base: the agent may have been started again
	Active uint64 `json:"active,omitzero"` // sequence of the first state behind that which shows the attempt at work
	Rest   Word   `json:"rest,omitzero"`   // last state of rest
	Error  Word   `json:"error,omitzero"`  // first state of error
}

// Word is one state of an agent and its place in the stream; the zero Word is none.
type Word struct {
	Seq   uint64    `json:"seq"`
	At    time.Time `json:"at"` // stream timestamp
	State string    `json:"state"`
}

// End returns the state that ended the attempt, and whether it failed with it; ok is false while it goes on. An error ends it unless it had ended
// before, rest ends it only after work. A nil Trace has no end.
func (t *Trace) End() (end Word, failed, ok bool) {
	if t == nil {
		return Word{}, false, false
	}
	rested := t.Active > 0 && t.Rest.Seq >= t.Active
	switch {
	case t.Error.Seq > 0 && !(rested && t.Rest.Seq < t.Error.Seq):
		return t.Error, true, true
	case rested:
		return t.Rest, false, true
	}
	return Word{}, false, false
}

// hear takes in a state, and reports whether the trace changed. One that names the attempt shows that it was at work before.
func (t *Trace) hear(w Word, named bool) bool {
	before := *t
	rest := isRest(w.State)
	if (isWorking(w.State) && w.Seq > t.Again || rest && named) && (t.Active == 0 || w.Seq < t.Active) {
		t.Active = w.Seq
	}
	if rest && w.Seq > t.Rest.Seq {
		t.Rest = w
	}
	if isError(w.State) && (t.Error.Seq == 0 || w.Seq < t.Error.Seq) {
		t.Error = w
	}
	return !t.same(&before)
}

func (t *Trace) same(o *Trace) bool {
	if t == nil || o == nil {
		return t == o
	}
	return t.Base == o.Base && t.Again == o.Again && t.Active == o.Active && t.Rest.Seq == o.Rest.Seq && t.Error.Seq == o.Error.Seq
}

// startedAgain notes a registration behind the base, and reports whether the trace changed. What was at work before it may have died with the process
// that registered then; that the agent rests afterwards does not show that the attempt has ended.
func (t *Trace) startedAgain(seq uint64) bool {
	if _, _, ended := t.End(); ended || seq <= max(t.Base, t.Again) {
		return false
	}
	t.Again = seq
	if t.Active <= seq {
		t.Active = 0
	}
	return true
}

func isError(word string) bool { return strings.EqualFold(word, "error") }

// Watch begins the trace of an attempt that is held: its end is known only by what the agent says of itself behind base, the last sequence of
// StreamAgent before the attempt was assigned. Doing it again changes nothing.
func (g *Gate) Watch(ref event.AttemptRef, base uint64) {
	if i := g.find(ref); i >= 0 && g.Held[i].Trace == nil {
		g.Held = slices.Clone(g.Held)
		g.Held[i].Trace = &Trace{Base: base}
	}
}

// Witness takes a state of the agent into the trace of the attempt that it is about, and reports whether that changed. It must see every state that is
// delivered while attempts are held, also those that are too old for the record, which keeps only the newest.
//
// A state whose details name an attempt is about that one. One that names none is about the only attempt that is traced; of several, nobody could say.
func (g *Gate) Witness(e *event.State, at Mark) bool {
	if !slices.ContainsFunc(g.Held, func(h Held) bool { return h.Trace != nil }) {
		return false
	}
	id, named := attemptOf(e.Details)
	about := -1
	for i, h := range g.Held {
		switch {
		case h.Trace == nil || at.Seq <= h.Trace.Base:
		case e.Instance != "" && h.Instance != "" && e.Instance != h.Instance: // said by another process
		case named && h.LegacyID() != id:
		case about >= 0:
			return false
		default:
			about = i
		}
	}
	if about < 0 {
		return false
	}
	t := *g.Held[about].Trace
	if !t.hear(Word{Seq: at.Seq, At: at.At, State: e.State}, named) {
		return false
	}
	g.Held = slices.Clone(g.Held)
	g.Held[about].Trace = &t
	return true
}

// Restarted takes a registration of the agent into the traces of what it holds, and reports whether one changed.
func (g *Gate) Restarted(at Mark) bool {
	changed := false
	for i := range g.Held {
		if g.Held[i].Trace == nil {
			continue
		}
		t := *g.Held[i].Trace
		if !t.startedAgain(at.Seq) {
			continue
		}
		if !changed {
			g.Held, changed = slices.Clone(g.Held), true
		}
		g.Held[i].Trace = &t
	}
	return changed
}

// attemptOf returns the attempt that the details of a state name, by the id that an old agent was told. What is there and no such id names another one.
func attemptOf(details event.Raw) (id string, named bool) {
	var d struct {
		TaskID event.Raw `json:"opscore_task_id"`
	}
	if !holds(details, &d) || len(d.TaskID) == 0 || d.TaskID.Kind() == 'n' {
		return "", false
	}
	if event.Unmarshal(d.TaskID, &id) != nil {
		return "", true
	}
	return id, id != ""
}

// holds reads members of details into v, and reports whether there are details. They were decoded strictly when they came.
func holds(details event.Raw, v any) bool {
	return len(details) > 0 && details.Kind() == '{' && event.Unmarshal(details, v) == nil
}

// EndMember is the timer member, in the index HandBack, that tells workflow that a state ended an attempt. It is unique for that state.
func EndMember(agent string, ref event.AttemptRef, seq uint64) string {
	return strings.Join([]string{
		"e", event.MustToken(agent), event.MustToken(ref.RunID), event.MustToken(ref.TaskID),
		strconv.Itoa(ref.Attempt), strconv.FormatUint(seq, 10),
	}, "|")
}

// EndOps returns what must happen to workflow's timers in the Txn that turns one gate into another: there is one for each attempt that is held
// and was ended by a state of its agent, due at once.
func EndOps(before, after *Gate, now time.Time) (add, remove []storage.IndexOp) {
	for _, h := range after.Held {
		if member := h.endMember(after.Agent); member != "" && before.Find(h.AttemptRef).endMember(after.Agent) != member {
			add = append(add, storage.IndexOp{Index: HandBack, Member: member, Score: storage.Score(now.UnixMicro())})
		}
	}
	for _, h := range before.Held {
		if member := h.endMember(after.Agent); member != "" && after.Find(h.AttemptRef).endMember(after.Agent) != member {
			remove = append(remove, storage.IndexOp{Index: HandBack, Member: member})
		}
	}
	return add, remove
}

// endMember is the timer that stands for the end of the attempt, empty while it goes on.
func (h *Held) endMember(agent string) string {
	if h == nil {
		return ""
	}
	end, _, ok := h.Trace.End()
	if !ok {
		return ""
	}
	return EndMember(agent, h.AttemptRef, end.Seq)
}

// recentWords is how many events of a history are read first by who looks for one of the last.
const recentWords = 8

// Recall returns the event of an agent at a place of the stream, or nil if its history does not hold it any more. It fails with the store's error.
func Recall(ctx context.Context, store storage.Store, agent string, seq uint64) (*HistoryEntry, error) {
	for _, n := range []int{recentWords, historyCap} {
		raw, err := store.Tail(ctx, HistoryLog(agent), n)
		if err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		for _, b := range slices.Backward(raw) {
			var h HistoryEntry
			if err := event.Unmarshal(b, &h); err != nil {
				return nil, fmt.Errorf("history of %s: %w", agent, err)
			}
			if h.Seq == seq {
				return &h, nil
			}
		}
	}
	return nil, nil
}

// Result is what an old agent has made of its task, by the state that ended it: the last_task_result of its details, or else the state and the details.
func (h *HistoryEntry) Result() event.Raw {
	var d struct {
		Result event.Raw `json:"last_task_result"`
	}
	if holds(h.Details, &d) && len(d.Result) > 0 && d.Result.Kind() != 'n' {
		return d.Result
	}
	details := h.Details
	if len(details) == 0 {
		details = event.Raw("null")
	}
	return event.MustMarshal(struct {
		State   string    `json:"state"`
		Details event.Raw `json:"details"`
	}{h.State, details})
}

// Complaint is what an old agent says of its error, for people, if its details have a text where one is usual.
func (h *HistoryEntry) Complaint() string {
	var d struct {
		Error   event.Raw `json:"error"`
		Message event.Raw `json:"message"`
		Reason  event.Raw `json:"reason"`
	}
	if holds(h.Details, &d) {
		for _, raw := range []event.Raw{d.Error, d.Message, d.Reason} {
			var text string
			if len(raw) > 0 && event.Unmarshal(raw, &text) == nil && text != "" {
				return text
			}
		}
	}
	return ""
}
