package lifecycle

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// fold is the change that one batch makes to one agent.
type fold struct {
	b       *agentBatch
	before  Gate // the gate as it was loaded
	history [][]byte
	answers []*event.Outcome // one per item

	recordChanged, gateChanged bool
	handBack                   bool
	woken                      bool // the gate became free, or what it holds has ended
	heard                      bool // it has registered, or was thought lost and is not
	revived                    bool // it was thought lost, and is not
	wasRegistered, wasEarly    bool
	early                      bool            // there is room for one more agent that reports before it registers
	crowded                    bool            // there was none, and this one was turned away
	registered                 *event.Register // the last registration that was applied
	lost                       []*bus.Letter   // reports that were held for a registration, which turned out to be of another process
	txn                        storage.Txn
}

// fold applies the events of one agent to copies of its documents.
func (s *Service) fold(ctx context.Context, b *agentBatch, now time.Time, room bool) (*fold, error) {
	sortItems(b.items)
	f := &fold{b: b, before: *b.gate, answers: make([]*event.Outcome, len(b.items)), early: room}
	record, gate := *b.record, *b.gate // slices inside are replaced, or changed only here: a failed commit forgets both
	b.record, b.gate = &record, &gate
	f.wasRegistered = record.Registered()
	f.wasEarly = record.holds()
	for i, it := range b.items {
		unregistered := !record.Registered()
		verdict, err := s.apply(ctx, f, it)
		if err != nil {
			return nil, err
		}
		if verdict == Applied {
			f.recordChanged = true
		}
		heard := false
		switch e := it.event.(type) {
		case *event.State:
			heard = gate.Witness(e, it.mark)
		case *event.Register:
			gate.Restarted(it.mark)
			if record.Reg != nil && record.Reg.Mark == record.place(it.mark) {
				f.registered = e
			}
			if unregistered {
				f.lost = append(f.lost, lostReports(b.id, &record)...)
			}
		}
		// A message that comes again was recorded the first time, unless it was never applied: a late one is, once. The state that ends an
		// attempt is looked up there.
		if !f.crowded && (verdict == Applied || heard || it.msg.Delivered <= 1) {
			f.record(it)
		}
		f.answers[i] = f.outcome(it, verdict)
	}
	if f.recordChanged || f.gateStale() {
		_, f.handBack = b.gate.Follow(b.record, true)
	}
	f.revive()
	f.handBack = f.handBack || f.revived && f.b.gate.Returned()
	f.gateChanged = !b.gate.same(&f.before)
	ended, _ := EndOps(&f.before, b.gate, now)
	f.woken = len(ended) > 0 || f.gateChanged && widened(&f.before, b.gate, now)
	return f, s.bury(ctx, f.lost)
}

// widened reports whether an agent may be given tasks that it could not be given before.
func widened(before, after *Gate, now time.Time) bool {
	return after.Takes(now) && (!before.Takes(now) || after.Free(now) && (!before.Free(now) || !slices.Equal(before.Caps, after.Caps) ||
		before.Version != after.Version || !maps.Equal(before.Labels, after.Labels) || !maps.Equal(before.Schemas, after.Schemas)))
}

// gateStale reports whether a sign of life must be noted although the record did not change.
func (f *fold) gateStale() bool {
	return f.b.gate.Silent || f.b.gate.Registered != f.b.record.Registered()
}

func (s *Service) apply(ctx context.Context, f *fold, it item) (Verdict, error) {
	r := f.b.record
	if _, isState := it.event.(*event.State); isState && f.b.recordRev == "" && !f.recordChanged && !f.early {
		f.crowded = true // until there is room for one more
		return Old, nil
	}
	if e, leaves := it.event.(*event.Deregister); leaves && r.Stale(e.Instance, it.mark) {
		return Old, nil // refused: it speaks for itself, not for the process that has replaced it
	}
	if _, isCommand := it.event.(*event.AgentCommand); isCommand && !r.Registered() {
		return Old, nil // refused: what is refused has no effect
	}
	verdict := r.Apply(it.event, it.mark)
	if verdict != Suspect {
		return verdict, nil
	}
	yes, err := s.rolledBack(ctx, r)
	if err != nil {
		return Old, err
	}
	if !yes {
		return r.ApplyLate(it.event, it.mark), nil
	}
	s.cfg.Log.Error("stream rolled back: sequences are used again", "stream", event.StreamAgent, "agent", f.b.id,
		"seq", it.mark.Seq, "fence", r.Top.Seq)
	r.Rollback()
	return r.Apply(it.event, it.mark), nil
}

// record adds an event to the history.
func (f *fold) record(it item) {
	h := HistoryEntry{Seq: it.mark.Seq, At: it.mark.At}
	switch e := it.event.(type) {
	case *event.Register:
		h.Event, h.Instance = string(event.VerbRegister), e.Instance
	case *event.Deregister:
		h.Event, h.Instance, h.Reason = string(event.VerbDeregister), e.Instance, e.Reason
	case *event.State:
		h.Event, h.Instance = string(event.VerbState), e.Instance
		h.State, h.Timestamp, h.Details = e.State, e.Timestamp, e.Details
	case *event.AgentCommand:
		h.Event, h.Reason = string(e.Kind), e.Reason
	}
	f.history = append(f.history, h.encode())
}

// outcome is the answer to one message once everything before it in the batch has been applied. A message that comes again, or behind a newer one, is
// no mistake of its sender: whatever it said has been taken in, or does not count any more.
func (f *fold) outcome(it item, verdict Verdict) *event.Outcome {
	r := f.b.record
	if verdict == Old && !f.crowded && !r.Top.Before(r.place(it.mark)) && it.msg.Delivered > 1 {
		return &event.Outcome{OK: true, Version: r.Version, Seq: it.mark.Seq, Epoch: r.Instance.ID}
	}
	switch e := it.event.(type) {
	case *event.State:
		if r.Stale(e.Instance, it.mark) {
			return event.Refused(staleInstance(f.b.id))
		}
		if !r.Registered() {
			o := event.Refused(event.Errorf(event.CodeUnknownAgent, "agent %q is not registered", f.b.id))
			o.Held, o.Seq = len(r.Reports) > 0, it.mark.Seq
			return o
		}
	case *event.Register:
		if r.Stale(e.Instance, it.mark) {
			return event.Refused(staleInstance(f.b.id))
		}
	case *event.Deregister:
		if r.Stale(e.Instance, it.mark) {
			return event.Refused(staleInstance(f.b.id))
		}
	case *event.AgentCommand:
		if !r.Registered() {
			return event.Refused(event.Errorf(event.CodeUnknownAgent, "agent %q is not registered", f.b.id))
		}
	}
	return &event.Outcome{OK: true, Version: r.Version, Seq: it.mark.Seq, Epoch: r.Instance.ID}
}

func staleInstance(agent string) *event.Error {
	return event.Errorf(event.CodeStaleInstance, "another process of agent %q has taken over", agent)
}

func (f *fold) dirty() bool { return f.recordChanged || f.gateChanged || len(f.history) > 0 }

// build makes the Txn: the record always, since a Txn must put a document; the gate when it changed, with the free indexes that follow it.
func (f *fold) build(rev storage.Rev, now time.Time) storage.Txn {
	b := f.b
	t := storage.Txn{
		Rev: rev,
		If:  []storage.Cond{{Key: RecordKey(b.id), Rev: b.recordRev}},
		Put: []storage.Put{{Key: RecordKey(b.id), Data: b.record.encode()}},
	}
	// The gate may only have been remembered. That it need not change holds of the one that was looked at, and of no other.
	t.If = append(t.If, storage.Cond{Key: GateKey(b.id), Rev: b.gateRev})
	if f.gateChanged {
		t.IndexAdd, t.IndexRemove = FreeOps(&f.before, b.gate, now)
		add, remove := EndOps(&f.before, b.gate, now)
		t.IndexAdd, t.IndexRemove = append(t.IndexAdd, add...), append(t.IndexRemove, remove...)
		t.IndexAdd = append(t.IndexAdd, FactOps(&f.before, b.gate, now)...)
		t.Put = append(t.Put, storage.Put{Key: GateKey(b.id), Data: b.gate.Encode()})
	}
	f.keepSchemas(&t)
	switch by := b.gate.DrainBy; {
	case by.Equal(f.before.DrainBy):
	case by.IsZero():
		t.IndexRemove = append(t.IndexRemove, storage.IndexOp{Index: HandBack, Member: DrainMember(b.id)})
	default:
		t.IndexAdd = append(t.IndexAdd, storage.IndexOp{Index: HandBack, Member: DrainMember(b.id), Score: storage.Score(by.UnixMicro())})
	}
	if f.handBack {
		t.IndexAdd = append(t.IndexAdd, handBackOp(b.id, now))
	}
	f.listings(&t)
	if f.revived {
		LogLiveness(&t, b.id, b.gate.Liveness(), "it was heard of again", now)
	}
	for _, h := range f.history {
		t.LogAppend = append(t.LogAppend, storage.Append{Log: HistoryLog(b.id), Data: h, Cap: historyCap})
	}
	return t
}

// listings keeps the index of registered agents and the one of early reports in line with the record.
func (f *fold) listings(t *storage.Txn) {
	r, id := f.b.record, f.b.id
	switch {
	case r.Registered() && !f.wasRegistered:
		t.IndexAdd = append(t.IndexAdd, storage.IndexOp{Index: AgentIndex, Member: id})
	case !r.Registered() && f.wasRegistered:
		t.IndexRemove = append(t.IndexRemove, storage.IndexOp{Index: AgentIndex, Member: id})
	}
	switch {
	case r.holds():
		expires := storage.Score(r.Reports[0].Mark.At.Add(EarlyReportTTL).UnixMicro())
		t.IndexAdd = append(t.IndexAdd, storage.IndexOp{Index: earlyIndex, Member: id, Score: expires})
	case f.wasEarly:
		t.IndexRemove = append(t.IndexRemove, storage.IndexOp{Index: earlyIndex, Member: id})
	}
}

// answer gives the verdicts after the commit. A refusal nobody waits for is a dead letter; a report that is kept for its registration is not.
func (f *fold) answer() {
	for i, it := range f.b.items {
		o := f.answers[i]
		if _, isCommand := it.event.(*event.AgentCommand); isCommand && o.Error != nil && o.Error.Code == event.CodeUnknownAgent && it.msg.Delivered < maxTold {
			it.msg.Later(toldAgain) // another replica may just be taking in the registration before it
			continue
		}
		if o.Error != nil && !o.Held && it.msg.Header.Get(event.HeaderReply) == "" {
			it.msg.Dead(o.Error)
			continue
		}
		it.msg.Done(o)
	}
}
