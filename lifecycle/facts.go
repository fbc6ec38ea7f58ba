package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// The causes of facts about an agent, besides what it is called when its liveness changes.
const (
	causeRegistered    = "registered" // also anew, as something else
	causeDeregistered  = "deregistered"
	causeCordoned      = "cordoned"
	causeDrained       = "drained"
	causeUncordoned    = "uncordoned"
	causeBreakerOpened = "breaker_opened"
	causeBreakerClosed = "breaker_closed"
)

// factCause names what has become of an agent between two gates that others are to be told, or is empty. What an agent says of itself, and what it is given,
// is in other streams.
func factCause(before, after *Gate) string {
	switch {
	case !after.Registered && !before.Registered:
		return ""
	case !after.Registered:
		return causeDeregistered
	case !before.Registered || !after.sameRegistration(before):
		return causeRegistered
	case after.Drained && !(before.Drained && after.DrainBy.Equal(before.DrainBy)):
		return causeDrained
	case after.Cordoned && !before.Cordoned:
		return causeCordoned
	case (before.Drained || before.Cordoned) && !after.Drained && !after.Cordoned:
		return causeUncordoned
	case after.Liveness() != before.Liveness():
		return string(after.Liveness())
	}
	switch was, is := before.Breaker.opens(), after.Breaker.opens(); {
	case is > was:
		return causeBreakerOpened
	case is == 0 && was > 0:
		return causeBreakerClosed
	}
	return ""
}

// sameRegistration reports whether two gates are of the same process, and offer the same.
func (g *Gate) sameRegistration(o *Gate) bool {
	return g.Instance == o.Instance && g.Slots == o.Slots && g.Version == o.Version && g.Delivery == o.Delivery && g.Beat == o.Beat &&
		slices.Equal(g.Caps, o.Caps) && maps.Equal(g.Labels, o.Labels) && maps.Equal(g.Schemas, o.Schemas)
}

// FactOps returns the due entry that stands, in the Txn that turns one gate into another, for the fact that tells of it, and counts it in after. It must be
// called before the gate is encoded.
func FactOps(before, after *Gate, now time.Time) []storage.IndexOp {
	after.Facts = before.Facts
	cause := factCause(before, after)
	if cause == "" {
		return nil
	}
	after.Facts++
	member := FactTimer + "|" + event.MustToken(after.Agent) + "|" + cause + "|" + strconv.FormatInt(after.Facts, 10)
	return []storage.IndexOp{{Index: HandBack, Member: member, Score: storage.Score(now.UnixMicro())}}
}

// Snapshot is what a fact tells of an agent.
type Snapshot struct {
	Agent   *event.Agent // nil if it is not registered
	Version uint64       // grows with each change of its documents that is told
}

// Snapshots reads what facts tell of agents, in the order of ids.
func Snapshots(ctx context.Context, store storage.Store, ids ...string) ([]Snapshot, error) {
	keys := make([]storage.Key, 0, 2*len(ids))
	for _, id := range ids {
		keys = append(keys, RecordKey(id), GateKey(id))
	}
	docs, err := store.Get(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read agents: %w", err)
	}
	now := time.Now()
	all := make([]Snapshot, len(ids))
	for i, id := range ids {
		var r Record
		g := Gate{Agent: id}
		if err := decodeDoc(docs[2*i], &r); err != nil {
			return nil, err
		}
		if err := decodeDoc(docs[2*i+1], &g); err != nil {
			return nil, err
		}
		all[i].Version = r.Version + uint64(g.Facts)
		if r.Registered() {
			agent := show(id, &r, &g, now)
			all[i].Agent = &agent
		}
	}
	return all, nil
}
