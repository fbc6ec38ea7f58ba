package workflow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// changeSchedule takes in a command about a schedule. Two groups of levels, each with a fence of its own: what it is, and whether it is paused.
func (e *Engine) changeSchedule(ctx context.Context, m *bus.Msg, id string, ev event.Event) error {
	mark := ScheduleMark{Seq: m.Seq, At: m.Time}
	change := func(s *Schedule) (bool, error) {
		switch ev := ev.(type) {
		case *event.ScheduleApply:
			return s.apply(&ev.ScheduleSpec, mark), nil
		case *event.ScheduleCommand:
			switch {
			case s.Version == 0 || s.Deleted && ev.Kind != event.KindScheduleDelete:
				return false, unknownSchedule(id)
			case ev.Kind == event.KindScheduleDelete:
				return s.apply(nil, mark), nil
			}
			return s.pause(ev.Kind == event.KindSchedulePause, mark), nil
		}
		return false, nil
	}
	if apply, ok := ev.(*event.ScheduleApply); ok {
		if err := e.checkSchedule(ctx, apply, m.Time); err != nil {
			return e.refuseOr(m, err)
		}
	}
	for range maxTries {
		s, rev, err := readSchedule(ctx, e.cfg.Store, id)
		if err != nil {
			return err
		}
		changed, err := change(s)
		if err != nil {
			return e.refuseOr(m, err)
		}
		if changed {
			err = e.storeSchedule(ctx, s, rev)
		}
		switch {
		case errors.Is(err, storage.ErrConflict):
			continue
		case err != nil:
			return err
		}
		m.Done(&event.Outcome{OK: true, Seq: m.Seq, Version: s.Version})
		return nil
	}
	return fmt.Errorf("change schedule %s: %w", id, storage.ErrConflict)
}

// refuseOr refuses a message for a reason of the wire; any other error is returned, and the message stays.
func (e *Engine) refuseOr(m *bus.Msg, err error) error {
	var refusal *event.Error
	if !errors.As(err, &refusal) {
		return err
	}
	e.refuse(m, refusal)
	return nil
}

func (e *Engine) checkSchedule(ctx context.Context, apply *event.ScheduleApply, now time.Time) error {
	if err := CheckSchedule(&apply.ScheduleSpec, now); err != nil {
		return err
	}
	newest, err := e.newest(ctx, apply.WorkflowID)
	if err == nil && newest.Value == nil {
		err = event.Errorf(event.CodeUnknownDefinition, "there is no workflow %q", apply.WorkflowID)
	}
	return err
}

// trigger makes the start of a run out of a command that triggers a schedule now, whatever its ticks are. The run is named after the command, so a repeat
// finds it.
func (e *Engine) trigger(ctx context.Context, m *bus.Msg, id string) (*input, error) {
	s, _, err := readSchedule(ctx, e.cfg.Store, id)
	if err == nil && !s.known() {
		err = unknownSchedule(id)
	}
	if err != nil {
		return nil, e.refuseOr(m, err)
	}
	run := fmt.Sprintf("%s-triggered-%d-%d", id, m.Seq, m.Time.Unix())
	start := s.start()
	start.RunID = run
	return &input{run: run, msg: m, start: start}, nil
}

// readSchedule reads a schedule; one that does not exist has version 0.
func readSchedule(ctx context.Context, store storage.Store, id string) (*Schedule, storage.Rev, error) {
	docs, err := store.Get(ctx, scheduleKey(id))
	if err != nil {
		return nil, "", fmt.Errorf("read schedule: %w", err)
	}
	s := &Schedule{ID: id}
	if docs[0].Rev != "" {
		if err := event.Unmarshal(docs[0].Data, s); err != nil {
			return nil, "", fmt.Errorf("document %s: %w", docs[0].Key, err)
		}
	}
	return s, docs[0].Rev, nil
}

// storeSchedule writes a schedule and its timer in one Txn.
func (e *Engine) storeSchedule(ctx context.Context, s *Schedule, rev storage.Rev) error {
	key := scheduleKey(s.ID)
	txn := storage.Txn{
		Rev: e.revs.Next(), If: []storage.Cond{{Key: key, Rev: rev}}, Put: []storage.Put{{Key: key, Data: event.MustMarshal(s)}},
	}
	ops := &indexOps{txn: &txn}
	if s.Deleted {
		ops.remove(scheduleIndex, s.ID)
	} else {
		ops.addScore(scheduleIndex, s.ID, 0)
	}
	if s.Look.IsZero() {
		ops.remove(dueIndex, timer(timerSchedule, s.ID))
	} else {
		ops.add(dueIndex, timer(timerSchedule, s.ID), s.Look)
	}
	if err := e.cfg.Store.Commit(ctx, txn)[0]; err != nil {
		return fmt.Errorf("store schedule %s: %w", s.ID, err)
	}
	return nil
}

// fireSchedules looks at the schedules among due timers, and returns the others. What a schedule does not get done now stays due.
func (e *Engine) fireSchedules(ctx context.Context, entries []storage.Entry) (rest []storage.Entry, err error) {
	rest = make([]storage.Entry, 0, len(entries))
	for _, entry := range entries {
		kind, ids, ok := parseTimer(entry.Member)
		if !ok || kind != timerSchedule {
			rest = append(rest, entry)
			continue
		}
		if fired := e.fireSchedule(ctx, ids[0], entry); fired != nil {
			err = errors.Join(err, fmt.Errorf("schedule %s: %w", ids[0], fired))
		}
	}
	return rest, err
}

// fireSchedule starts what is due. The commands go first: they say the same whoever sends them, and how often; then the ticks are called judged. A replica that
// dies in between leaves them due, and the next sends the same.
func (e *Engine) fireSchedule(ctx context.Context, id string, entry storage.Entry) error {
	now := time.Now()
	s, rev, err := readSchedule(ctx, e.cfg.Store, id)
	if err != nil {
		return err
	}
	if s.Look.IsZero() || now.Before(s.Look) { // the entry was left behind by a Txn of another replica, or is gone
		if storage.Score(s.Look.UnixMicro()) == entry.Score {
			return nil
		}
		remove := storage.IndexOp{Index: dueIndex, Member: entry.Member, Score: entry.Score}
		return e.cfg.Store.Commit(ctx, storage.Txn{IndexRemove: []storage.IndexOp{remove}})[0]
	}
	goes, err := e.goesOn(ctx, s, now)
	if err != nil {
		return err
	}
	after, starts, replace := s.fire(now, goes)
	if replace {
		if err := e.send(ctx, event.KindRunCancel, s.LastRun, &event.RunCommand{Reason: "replaced by the next tick of schedule " + s.ID}); err != nil {
			return err
		}
	}
	for _, tick := range starts {
		if err := e.send(ctx, event.KindRunStart, s.runID(tick), s.start()); err != nil {
			return fmt.Errorf("%s: %w", describeTick(s, tick), err)
		}
		e.cfg.Crash("schedule-after-start")
		e.cfg.Log.Info("schedule ticked", "schedule", s.ID, "tick", tick, "run_id", s.runID(tick), "late_ms", now.Sub(tick).Milliseconds())
	}
	err = e.storeSchedule(ctx, after, rev)
	if errors.Is(err, storage.ErrConflict) {
		return nil // another replica was faster, or the schedule has changed: it is looked at again if it is still due
	}
	return err
}

// unseenRun is how long a run that was started counts as going on before it is seen.
const unseenRun = time.Minute

// goesOn reports whether the run that a schedule started last has not ended.
func (e *Engine) goesOn(ctx context.Context, s *Schedule, now time.Time) (bool, error) {
	if s.LastRun == "" {
		return false, nil
	}
	docs, err := e.cfg.Store.Get(ctx, runKey(s.LastRun))
	if err != nil {
		return false, fmt.Errorf("load run: %w", err)
	}
	if docs[0].Rev == "" {
		return now.Sub(s.Last) < unseenRun, nil
	}
	var r Run
	if err := event.Unmarshal(docs[0].Data, &r); err != nil {
		return false, fmt.Errorf("document %s: %w", docs[0].Key, err)
	}
	return !r.State.Final(), nil
}

// send publishes a command about a run and waits until the stream has it. Its bytes are the same each time.
func (e *Engine) send(ctx context.Context, kind event.CommandKind, run string, body any) error {
	token, err := event.Token(run)
	if err != nil {
		return err
	}
	data, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("encode %s: %w", kind, err)
	}
	ctx, cancel := context.WithTimeout(ctx, event.AcceptDeadline)
	defer cancel()
	msg := nats.NewMsg(event.CommandSubject(kind, token))
	msg.Data = data
	if _, err := e.cfg.Bus.Publish(ctx, msg); err != nil {
		return fmt.Errorf("publish %s: %w", kind, err)
	}
	return nil
}

// Schedule returns a schedule with its next ticks. It fails with an *event.Error of CodeUnknownSchedule if there is none, and otherwise with the store's error.
func (q *Queries) Schedule(ctx context.Context, id string) (*event.Schedule, error) {
	s, _, err := readSchedule(ctx, q.store, id)
	if err != nil {
		return nil, err
	}
	if !s.known() {
		return nil, unknownSchedule(id)
	}
	return s.show(true), nil
}

// ScheduleFence returns the highest sequence of StreamWork that a schedule has taken in, 0 if there is none, for callers whose answer was lost.
func (q *Queries) ScheduleFence(ctx context.Context, id string) (uint64, error) {
	s, _, err := readSchedule(ctx, q.store, id)
	if err != nil {
		return 0, err
	}
	return s.seq(), nil
}

// Schedules returns at most limit schedules by id, behind the cursor of an earlier page.
func (q *Queries) Schedules(ctx context.Context, cursor string, limit int) (event.List[event.Schedule], error) {
	page := event.List[event.Schedule]{Items: []event.Schedule{}}
	entries, err := q.store.Range(ctx, scheduleIndex, storage.Cursor{Member: cursor}, 0, limit)
	if err != nil || len(entries) == 0 {
		return page, err
	}
	keys := make([]storage.Key, len(entries))
	for i, entry := range entries {
		keys[i] = scheduleKey(entry.Member)
	}
	docs, err := q.store.Get(ctx, keys...)
	if err != nil {
		return page, fmt.Errorf("read schedules: %w", err)
	}
	for _, d := range docs {
		var s Schedule
		if d.Rev == "" {
			continue
		}
		if err := event.Unmarshal(d.Data, &s); err != nil {
			return page, fmt.Errorf("document %s: %w", d.Key, err)
		}
		if !s.Deleted {
			page.Items = append(page.Items, *s.show(false))
		}
	}
	if len(entries) == limit {
		page.NextCursor = entries[limit-1].Member
	}
	return page, nil
}
