package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// regressed says why the store is older than it was, or may be, or is empty. A database that was started again, or that another one has taken
// over from, may have lost its last writes even if its positions look right.
func (k *Keeper) regressed(ctx context.Context, views []*streamView, stored Epoch, incarnation string) (string, error) {
	k.mu.Lock()
	known, alarmed, seen := k.epoch, k.alarmed, maps.Clone(k.seen)
	k.mu.Unlock()
	switch {
	case alarmed != "":
		return alarmed, nil
	case stored.N < known.N:
		return "the store came back older: healing", nil
	case stored.Incarnation != "" && stored.Incarnation != incarnation:
		return "the database was started again and may have lost its last writes: healing", nil
	}
	for _, v := range views {
		switch {
		case seen[v.name] > 0 && v.pos.N < seen[v.name]:
			return "the store came back older: healing", nil
		case seen[v.name] == 0 && v.doc.Rev == "" && v.floor > 0:
			return "the store is empty but the streams were read before: healing", nil
		case seen[v.name] == 0 && v.doc.Rev != "":
			// A process that starts takes back what is behind the position: what a killed one held comes again at once.
			gap, err := k.gap(ctx, v)
			if err != nil {
				return "", err
			}
			if gap > quietGap {
				return "the store is behind the streams: healing", nil
			}
			if err := k.setBack(ctx, v); err != nil {
				return "", err
			}
		}
	}
	return "", nil
}

// gap is how long, by stream time, the acknowledged messages behind the store's position were coming in.
func (k *Keeper) gap(ctx context.Context, v *streamView) (time.Duration, error) {
	if v.floor <= v.pos.Seq {
		return 0, nil // there are none, or none at all were acknowledged yet
	}
	first, ok, err := k.bus.MessageTime(ctx, v.name, max(v.pos.Seq+1, v.state.FirstSeq))
	if err != nil || !ok {
		return 0, err // evicted or purged: it cannot be replayed either way
	}
	last, ok, err := k.bus.MessageTime(ctx, v.name, v.floor)
	if err != nil || !ok {
		return 0, err
	}
	return last.Sub(first), nil
}

// checkStream raises the alarm when a stream lost messages that the store has taken in. Its consumers start again at what is left; documents
// notice by the stream's time that sequences are used again. The new position is not written yet: the database may be another one too.
func (k *Keeper) checkStream(ctx context.Context, v *streamView) (rolled bool, err error) {
	if v.doc.Rev == "" || (v.state.LastSeq >= v.pos.Seq && v.state.Created.Equal(v.pos.Created)) {
		return false, nil
	}
	k.mu.Lock()
	delete(k.passed, v.name)
	k.mu.Unlock()
	k.log.Error("stream rolled back or recreated: it ends before what the store has taken in",
		"stream", v.name, "last", v.state.LastSeq, "position", v.pos.Seq)
	v.pos = Position{N: v.pos.N, Created: v.state.Created}
	v.floor = 0
	return true, k.setBack(ctx, v)
}

// setBack makes the consumers of a stream deliver again what is behind the store's position.
func (k *Keeper) setBack(ctx context.Context, v *streamView) error {
	next := max(v.pos.Seq+1, v.state.FirstSeq, 1)
	if err := k.bus.ResetConsumer(ctx, v.name, durables[v.name], next); err != nil {
		return fmt.Errorf("set back consumer %s: %w", durables[v.name], err)
	}
	v.floor = min(v.floor, next-1)
	return nil
}

// heal sets the consumers back and raises the epoch, once for all replicas: whoever finds it raised already only waits. Without a reason, in a store
// that is new, it only notes which database it is.
func (k *Keeper) heal(ctx context.Context, views []*streamView, epochDoc storage.Doc, stored Epoch, incarnation, why string) error {
	k.mu.Lock()
	known := k.epoch.N
	if why != "" {
		k.healing = why
	}
	k.mu.Unlock()

	if why != "" {
		k.forget()
	}
	k.accept(incarnation)
	raised := stored // by another replica that noticed first
	if stored.N <= known || stored.Incarnation != incarnation {
		raised = Epoch{N: max(known, stored.N), Incarnation: incarnation}
		if why != "" {
			raised.N++
			raised.At = time.Now().UTC()
			raised.Targets = make(map[string]uint64, len(views))
			for _, v := range views {
				raised.Targets[v.name] = v.state.LastSeq
			}
			k.log.Error(why, "epoch", raised.N)
			raised.Missing = k.missing(views)
		}
		err := k.store.Commit(ctx, storage.Txn{
			Rev: k.revs.Next(),
			If:  []storage.Cond{{Key: epochKey, Rev: epochDoc.Rev}},
			Put: []storage.Put{{Key: epochKey, Data: event.MustMarshal(raised)}},
		})[0]
		if err != nil {
			return fmt.Errorf("raise epoch: %w", err)
		}
	}
	if why == "" {
		k.adopt(raised, views)
		return k.write(ctx, views)
	}
	for _, v := range views {
		if err := k.setBack(ctx, v); err != nil {
			return err
		}
	}
	k.forget() // once more: an answer may have been remembered that was read before
	k.mu.Lock()
	k.epoch = raised
	k.checked = true
	k.alarmed = ""
	k.targets = make(map[string]uint64, len(views))
	for _, v := range views {
		k.targets[v.name] = v.state.LastSeq
		k.seen[v.name] = v.pos.N
		v.pos.Created = v.state.Created
	}
	k.mu.Unlock()
	for _, v := range views { // so that the next look finds a position, and one that has grown
		if err := k.writeOne(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// missing counts the messages of OPSCORE_WORK that stand behind the store's position and are not in the stream any more. Of OPSCORE_AGENT, the last word of every
// agent is kept, and what is missing was followed by a newer one.
func (k *Keeper) missing(views []*streamView) map[string]uint64 {
	missing := make(map[string]uint64)
	for _, v := range views {
		first := max(v.state.FirstSeq, 1)
		if v.name != event.StreamWork || first <= v.pos.Seq+1 {
			continue
		}
		missing[v.name] = first - v.pos.Seq - 1
		k.log.Error("what was said before the stream begins cannot be read again: runs and definitions of that time are lost, unless the store has them",
			"stream", v.name, "messages", missing[v.name], "begins", v.state.FirstTime)
	}
	return missing
}

// Lost says what could not come back when the store was healed last, empty if nothing is missing.
func (k *Keeper) Lost() string {
	e := k.Epoch()
	n := e.Missing[event.StreamWork]
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("healed %s, without %d messages that %s had no longer", e.At.Format(time.RFC3339), n, event.StreamWork)
}
