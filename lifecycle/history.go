package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// HistoryDepth is how many events of an agent its history shows, and how many changes of its liveness; the stream keeps as many per subject.
const HistoryDepth = 64

// historyCap leaves room for events that were delivered twice: readers drop the repeats.
const historyCap = HistoryDepth + 32

// HistoryLog names the log of an agent's events.
func HistoryLog(agent string) storage.Log { return storage.Log("agent/" + agent) }

// livenessLog names the log of the changes of an agent's liveness. It is one of its own, so that a flapping agent cannot push its events out,
// where the states that end attempts are looked up.
func livenessLog(agent string) storage.Log { return storage.Log("agent-liveness/" + agent) }

// EventLiveness is the Event of a HistoryEntry that is a change of liveness.
const EventLiveness = "liveness"

// HistoryEntry is one event of an agent, or one change of its liveness, as its history keeps it.
type HistoryEntry struct {
	Seq       uint64         `json:"seq"` // in StreamAgent; 0 for a change of liveness
	At        time.Time      `json:"at"`  // stream timestamp; of a change of liveness the server's clock
	Event     string         `json:"event"`
	State     string         `json:"state,omitzero"`
	Timestamp string         `json:"timestamp,omitzero"`
	Details   event.Raw      `json:"details,omitzero"`
	Instance  string         `json:"instance,omitzero"`
	Reason    string         `json:"reason,omitzero"`
	Liveness  event.Liveness `json:"liveness,omitzero"` // what it is from then on
}

// LogLiveness adds a change of an agent's liveness to a Txn, which should be the one that makes the change; reason says why, for people.
func LogLiveness(t *storage.Txn, agent string, to event.Liveness, reason string, now time.Time) {
	h := HistoryEntry{At: now.UTC(), Event: EventLiveness, Liveness: to, Reason: reason}
	t.LogAppend = append(t.LogAppend, storage.Append{Log: livenessLog(agent), Data: h.encode(), Cap: HistoryDepth})
}

// History returns what is kept of an agent, oldest first: its newest events and the newest changes of its liveness, HistoryDepth of each at
// most. It fails with the store's error.
func (q *Queries) History(ctx context.Context, id string) ([]HistoryEntry, error) {
	events, err := q.readLog(ctx, HistoryLog(id), historyCap)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(events, inTime)
	events = slices.CompactFunc(events, func(a, b HistoryEntry) bool { return a.Seq == b.Seq && a.Event == b.Event })
	events = events[max(0, len(events)-HistoryDepth):]
	changes, err := q.readLog(ctx, livenessLog(id), HistoryDepth)
	if err != nil || len(changes) == 0 {
		return events, err
	}
	all := append(events, changes...)
	slices.SortStableFunc(all, inTime)
	return all, nil
}

func inTime(a, b HistoryEntry) int { return a.At.Compare(b.At) }

func (q *Queries) readLog(ctx context.Context, log storage.Log, n int) ([]HistoryEntry, error) {
	raw, err := q.store.Tail(ctx, log, n)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	entries := make([]HistoryEntry, 0, len(raw))
	for _, b := range raw {
		var h HistoryEntry
		if err := event.Unmarshal(b, &h); err != nil {
			return nil, fmt.Errorf("history %s: %w", log, err)
		}
		entries = append(entries, h)
	}
	return entries, nil
}
