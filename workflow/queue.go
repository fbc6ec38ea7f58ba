package workflow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// pausesKey names the document of paused queues.
const pausesKey storage.Key = "paused-queues"

const (
	maxPauses = 1000   // queues that a command was ever about
	maxQueues = 500    // queues shown in one list
	maxListed = 10_000 // classes looked at for it
)

// pauses says which queues are paused. Level: of two commands about one queue the later in the stream counts.
type pauses struct {
	Version uint64           `json:"v"`
	Queues  map[string]pause `json:"queues,omitzero"` // by capability
}

// pause is the last command about a queue.
type pause struct {
	On     bool      `json:"on,omitzero"`
	Reason string    `json:"reason,omitzero"`
	Seq    uint64    `json:"seq"`
	At     time.Time `json:"at"` // stream timestamp
}

// with returns the document after one more command; ok is false if there is no room for it. Of queues that are not paused the oldest are forgotten.
func (p pauses) with(capability string, last pause) (after pauses, ok bool) {
	// The sequence orders, except in a stream that was rolled back or made anew: there a lower one has a later stream timestamp.
	if old, known := p.Queues[capability]; known && last.Seq <= old.Seq && !last.At.After(old.At) {
		return p, true
	}
	queues := maps.Clone(p.Queues)
	if queues == nil {
		queues = make(map[string]pause, 1)
	}
	queues[capability] = last
	for len(queues) > maxPauses {
		oldest := ""
		for c, q := range queues {
			if !q.On && c != capability && (oldest == "" || q.At.Before(queues[oldest].At)) {
				oldest = c
			}
		}
		if oldest == "" {
			return p, false
		}
		delete(queues, oldest)
	}
	return pauses{Version: p.Version + 1, Queues: queues}, true
}

func readPauses(ctx context.Context, store storage.Store) (p pauses, rev storage.Rev, err error) {
	docs, err := store.Get(ctx, pausesKey)
	if err != nil {
		return p, "", fmt.Errorf("read paused queues: %w", err)
	}
	if docs[0].Rev != "" {
		if err := event.Unmarshal(docs[0].Data, &p); err != nil {
			return p, "", fmt.Errorf("document %s: %w", pausesKey, err)
		}
	}
	return p, docs[0].Rev, nil
}

// changeQueue takes in a command that pauses or resumes the queues of a capability.
func (e *Engine) changeQueue(ctx context.Context, m *bus.Msg, ev *event.QueueCommand) error {
	for range maxTries {
		before, rev, err := readPauses(ctx, e.cfg.Store)
		if err != nil {
			return err
		}
		after, ok := before.with(ev.Capability, pause{On: ev.Kind == event.KindQueuePause, Reason: ev.Reason, Seq: m.Seq, At: m.Time})
		if !ok {
			e.refuse(m, event.Errorf(event.CodeNotAllowedNow, "%d queues are paused already; resume one first", maxPauses))
			return nil
		}
		if after.Version != before.Version {
			txn := storage.Txn{Rev: e.revs.Next(), If: []storage.Cond{{Key: pausesKey, Rev: rev}}}
			txn.Put = []storage.Put{{Key: pausesKey, Data: event.MustMarshal(after)}}
			err = e.cfg.Store.Commit(ctx, txn)[0]
		}
		switch {
		case errors.Is(err, storage.ErrConflict):
			continue
		case err != nil:
			return fmt.Errorf("store paused queues: %w", err)
		}
		e.cfg.Log.Info("queue command", "kind", ev.Kind, "capability", ev.Capability, "seq", m.Seq)
		e.setPauses(after)
		m.Done(&event.Outcome{OK: true, Seq: m.Seq, Version: after.Version})
		return nil
	}
	return fmt.Errorf("change queue %s: %w", ev.Capability, storage.ErrConflict)
}

// lookAtPauses reads which queues are paused: before the first task is given to anybody, and with each slow scan, since another replica may have changed it.
func (e *Engine) lookAtPauses(ctx context.Context) error {
	p, _, err := readPauses(ctx, e.cfg.Store)
	if err == nil {
		e.setPauses(p)
	}
	return err
}

// setPauses notes which queues are paused, and looks at those that are not any more.
func (e *Engine) setPauses(p pauses) {
	before := e.paused
	e.paused = make(map[string]bool, len(p.Queues))
	for c, q := range p.Queues {
		if q.On {
			e.paused[c] = true
		}
	}
	for c := range before {
		if e.paused[c] {
			continue
		}
		for _, k := range append(slices.Clone(e.picky[c]), e.classes[simpleClass+c]) {
			if k != nil {
				k.backlog, k.dry = true, false
				e.touch(k)
				e.inbox.wakeSoon()
			}
		}
	}
}

// Queues lists the queues in which tasks wait, and those that are paused: at most 500, by what they ask for. It fails with the store's error.
func (q *Queries) Queues(ctx context.Context) (event.List[event.Queue], error) {
	list := event.List[event.Queue]{Items: []event.Queue{}}
	paused, _, err := readPauses(ctx, q.store)
	if err != nil {
		return list, err
	}
	names, err := q.classes(ctx)
	if err != nil {
		return list, err
	}
	for c, p := range paused.Queues {
		if name := simpleClass + c; p.On && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names[:min(len(names), maxQueues)] {
		queue, err := q.queue(ctx, name, paused)
		if err != nil {
			return list, err
		}
		if queue.Waiting > 0 || queue.Paused {
			list.Items = append(list.Items, queue)
		}
	}
	return list, nil
}

// classes names the classes that may have ready tasks, in no order.
func (q *Queries) classes(ctx context.Context) ([]string, error) {
	var names []string
	for after := (storage.Cursor{}); len(names) < maxListed; {
		entries, err := q.store.Range(ctx, classIndex, after, storage.MaxScore, maxQueues)
		if err != nil {
			return nil, fmt.Errorf("list queues: %w", err)
		}
		for _, entry := range entries {
			names = append(names, entry.Member)
		}
		if len(entries) < maxQueues {
			break
		}
		last := entries[len(entries)-1]
		after = storage.Cursor{Score: last.Score, Member: last.Member}
	}
	return names, nil
}

// queue describes the queue of a class.
func (q *Queries) queue(ctx context.Context, class string, paused pauses) (event.Queue, error) {
	shown := queueOf(class, paused)
	var err error
	if shown.Waiting, err = q.store.Count(ctx, readyIndex(class), 0, storage.MaxScore); err != nil {
		return shown, fmt.Errorf("count ready tasks: %w", err)
	}
	return shown, nil
}

// queueOf is what a class asks for, and whether it is paused.
func queueOf(class string, paused pauses) event.Queue {
	want := parseClass(class)
	shown := event.Queue{
		AgentID: want.Agent, Bound: want.Bound, Capability: want.Capability, Version: want.Version.String(), Labels: want.Labels, Spread: want.Spread, Unfit: want.Unfit,
	}
	if p := paused.Queues[want.Capability]; want.Agent == "" && p.On {
		at := p.At.UTC()
		shown.Paused, shown.Reason, shown.PausedAt = true, p.Reason, &at
	}
	return shown
}

// QueueFence returns the sequence of the last command about the queues of a capability, 0 if there was none, for callers whose answer was lost.
func (q *Queries) QueueFence(ctx context.Context, capability string) (uint64, error) {
	paused, _, err := readPauses(ctx, q.store)
	return paused.Queues[capability].Seq, err
}

// asks says in words what agent is asked for.
func asks(w *lifecycle.Want) string {
	if w.Agent != "" {
		return fmt.Sprintf("agent %q", w.Agent)
	}
	text := fmt.Sprintf("an agent that offers %q", w.Capability)
	if v := w.Version.String(); v != "" {
		text += fmt.Sprintf(" in a version %q", v)
	}
	if len(w.Labels) > 0 {
		labels := make([]string, 0, len(w.Labels))
		for k, v := range w.Labels {
			labels = append(labels, k+"="+v)
		}
		slices.Sort(labels)
		text += " with " + strings.Join(labels, ", ")
	}
	if len(w.Unfit) > 0 {
		text += " and takes the input"
	}
	return text
}
