package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

const (
	outageGrace = 5 * time.Second
	maxOutages  = 64
	watchPeriod = time.Second
	watchGap    = 3 * time.Second // without a replica's word, which is an outage of all of them
	watchTries  = 5               // against other replicas that write it at the same moment
)

// intakeClock says up to when everything that was said has been taken in. Time in which NATS or the store could not be read, or no replica was there to
// do so, does not count against an attempt, and neither do the seconds that its agent may need to get its word through afterwards.
type intakeClock struct {
	mu      sync.Mutex
	at      time.Time
	down    time.Time // since when it could not be read, zero if it can
	outages []outage  // in order, without overlaps
}

// outage is a time in which nothing could be taken in.
type outage struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// join returns outages with one more among them: those that overlap or touch are one, and only the latest are kept.
func join(all []outage, o outage) []outage {
	joined := make([]outage, 0, len(all)+1)
	for _, other := range all {
		if other.To.Before(o.From) || o.To.Before(other.From) {
			joined = append(joined, other)
			continue
		}
		o = outage{From: earlier(o.From, other.From), To: later(o.To, other.To)}
	}
	at, _ := slices.BinarySearchFunc(joined, o, func(a, b outage) int { return a.From.Compare(b.From) })
	joined = slices.Insert(joined, at, o)
	return joined[max(len(joined)-maxOutages, 0):]
}

func (c *intakeClock) read(now, at time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if c.down.IsZero() && !errors.Is(err, context.Canceled) {
			c.down = now
		}
		return
	}
	c.ended(now)
	c.at = at
}

// back notes that what could not be read can be read again, when nothing is due for which the intake time would be asked.
func (c *intakeClock) back(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended(now)
}

// ended closes the outage that goes on, if there is one.
func (c *intakeClock) ended(now time.Time) {
	if !c.down.IsZero() {
		c.outages, c.down = join(c.outages, outage{c.down, now}), time.Time{}
	}
}

// isDown reports whether it could not be read last time.
func (c *intakeClock) isDown() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.down.IsZero()
}

// learn takes in outages that replicas have noticed together.
func (c *intakeClock) learn(outages []outage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range outages {
		c.outages = join(c.outages, o)
	}
}

// since returns the intake time for a task, or with an empty id for the run: without the outages since it became ready, began to wait, was assigned or last
// heard of.
func (c *intakeClock) since(r *Run, taskID string, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.at
	if at.IsZero() || at.After(now) {
		at = now
	}
	begun := r.began()
	if t := r.Find(taskID); t != nil {
		begun = later(later(t.Renewed, t.Ready), t.Started)
	}
	for _, o := range c.outages {
		if from := later(o.From, begun); o.To.After(from) {
			at = at.Add(-o.To.Sub(from) - outageGrace)
		}
	}
	return at
}

// watch is the document that the replicas write each second while they can take in what is said. A gap in it is an outage of all of them, which a process
// that starts could not know of otherwise.
type watch struct {
	At      time.Time `json:"at"`
	Outages []outage  `json:"outages,omitzero"`
}

// next returns the document as a replica writes it now, and how long an outage it ends. It is not due if another replica has just written it.
func (w watch) next(now time.Time) (_ watch, gap time.Duration, due bool) {
	silence := now.Sub(w.At)
	if silence < watchPeriod && silence > -clockSlack { // the clock of the other one may be ahead, but not for ever
		return w, 0, false
	}
	if !w.At.IsZero() && silence >= watchGap {
		gap = silence
		w.Outages = join(w.Outages, outage{w.At, now.UTC()})
	}
	w.At = now.UTC()
	return w, gap, true
}

// keepWatch writes that this replica is there, once a second, and learns of the times in which none was.
func (e *Engine) keepWatch(ctx context.Context, now time.Time) error {
	if silence := now.Sub(e.watched); silence >= 0 && silence < watchPeriod {
		return nil
	}
	for range watchTries {
		docs, err := e.cfg.Store.Get(ctx, watchKey)
		if err != nil {
			return fmt.Errorf("read when a replica was there: %w", err)
		}
		var w watch
		if docs[0].Rev != "" {
			if err := event.Unmarshal(docs[0].Data, &w); err != nil {
				return fmt.Errorf("document %s: %w", watchKey, err)
			}
		}
		next, gap, due := w.next(now)
		if due && !e.intake.isDown() {
			err := e.cfg.Store.Commit(ctx, storage.Txn{
				Rev: e.revs.Next(), If: []storage.Cond{{Key: watchKey, Rev: docs[0].Rev}},
				Put: []storage.Put{{Key: watchKey, Data: event.MustMarshal(next)}},
			})[0]
			if errors.Is(err, storage.ErrConflict) {
				continue // what the other one has noticed is to be known too
			}
			if err != nil {
				return fmt.Errorf("write that this replica is there: %w", err)
			}
			if gap > 0 {
				e.cfg.Log.Info("no replica was at work for a while: that is not counted as any task's time", "ms", gap.Milliseconds())
			}
			w = next
		}
		e.intake.learn(w.Outages)
		e.watched = now
		return nil
	}
	return fmt.Errorf("write that this replica is there: %w", storage.ErrConflict)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
