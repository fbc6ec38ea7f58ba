package workflow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

const (
	timelineCap     = 1000 // moments kept of a run, which are hundreds of kilobytes at most
	timelineMessage = 256  // bytes of an error's message that a transition keeps; the run has all of it
	// The newest moments stand in the run itself, up to so many bytes: a short run needs no log, which would cost the store more than the run does.
	timelineInline = 1 << 10
)

// timelineLog names the log of a run's moments.
func timelineLog(run string) storage.Log { return storage.Log("run-log/" + run) }

// moment is an entry of a timeline: the transitions that one commit wrote. They have no time of their own in there.
type moment struct {
	N     int                `json:"n"` // transitions of the run before this moment, kept or not
	At    time.Time          `json:"at"`
	Steps []event.Transition `json:"steps"`
}

// transitions appends to a list how the states of a run and its tasks differ between two documents of it, tasks in their order and the run itself last, or
// first when it is new. before is nil for a run that does not exist yet. It knows no state by name, so that it need not learn new ones.
func transitions(list []event.Transition, before, after *Run, cause string) []event.Transition {
	var none Run
	if before == nil {
		before = &none
		list = append(list, event.Transition{Cause: cause, To: string(after.State)})
	}
	for i := range after.Tasks {
		t := &after.Tasks[i]
		old := before.at(i, t.ID)
		if old.State == t.State && old.Attempt == t.Attempt {
			continue
		}
		step := event.Transition{
			Cause: cause, TaskID: t.ID, From: string(old.State), To: string(t.State), Attempt: t.Attempt, AgentID: t.Agent,
		}
		if t.Error != nil && t.Error != old.Error {
			step.Code, step.Message = t.Error.Code, clip(t.Error.Message, timelineMessage)
		}
		list = append(list, step)
	}
	for i := range after.Recent { // a task that has ended may have left the document
		t := &after.Recent[i]
		if old := before.Find(t.ID); old != nil && after.Find(t.ID) == nil {
			list = append(list, event.Transition{
				Cause: cause, TaskID: t.ID, From: string(old.State), To: string(t.State), Attempt: t.Attempt, AgentID: t.Agent,
			})
		}
	}
	if before != &none && before.State != after.State {
		step := event.Transition{Cause: cause, From: string(before.State), To: string(after.State)}
		if after.Error != nil {
			step.Code, step.Message = after.Error.Code, clip(after.Error.Message, timelineMessage)
		}
		list = append(list, step)
	}
	return list
}

// at returns a task of the document, an empty one if it is not there. It is most likely the i-th.
func (r *Run) at(i int, id string) *RunTask {
	if i < len(r.Tasks) && r.Tasks[i].ID == id {
		return &r.Tasks[i]
	}
	if t := r.Find(id); t != nil {
		return t
	}
	return &RunTask{}
}

// causeOf names what an input is, for people; the fact's cause serves for kinds that have no name of their own here.
func causeOf(in Input, fact string) string {
	switch in := in.(type) {
	case *Start:
		return "start"
	case *Said:
		switch in.Event.(type) {
		case *event.Accepted:
			return string(event.VerbAccepted)
		case *event.Progress:
			return string(event.VerbProgress)
		case *event.Result:
			return string(event.VerbResult)
		}
	case *Command:
		return strings.TrimPrefix(string(in.Kind), "run-")
	case *Cancel:
		return "cancel"
	case *Stopped:
		return "cancel settled"
	case *Begin:
		return "begin"
	case *Assign:
		return "dispatch"
	case *Refused:
		if in.Silent {
			return "no responder"
		}
		return "rejected"
	case *Gone:
		return "process replaced"
	case *Tick:
		return "timer"
	}
	if fact == "" {
		return "change"
	}
	return fact
}

// advance takes the run of a decision into a change, and notes what is new about it.
func (c *change) advance(in Input, d *Decision) {
	if c.story == nil {
		c.story = make([]event.Transition, 0, 4)
	}
	c.story = transitions(c.story, c.after, d.Run, causeOf(in, d.Cause))
	c.after = d.Run
}

// tell adds the moment of a change to the run and counts its transitions there; what the run has no more room for moves to the log. It must come before
// the run is encoded.
func (c *change) tell(t *storage.Txn, now time.Time) {
	if len(c.story) == 0 {
		return
	}
	r := c.after
	m := moment{N: r.Story, At: now.UTC(), Steps: c.story}
	r.Story += len(c.story)
	r.Moments = append(slices.Clip(r.Moments), m.encode())
	size := 0
	for _, told := range r.Moments {
		size += len(told)
	}
	if size <= timelineInline {
		return
	}
	for _, told := range r.Moments {
		t.LogAppend = append(t.LogAppend, storage.Append{Log: timelineLog(r.ID), Data: told, Cap: timelineCap})
	}
	r.Moments = nil
}

// encode returns the moment as event.Marshal does, without reflection: one is written with every step that a run takes.
func (m *moment) encode() []byte {
	o := event.NewObject()
	o.Int("n", int64(m.N))
	o.Time("at", m.At)
	o.List("steps", len(m.Steps), func(i int) {
		s := &m.Steps[i]
		o.Begin()
		o.OptTime("at", s.At)
		o.String("cause", s.Cause)
		o.OptString("taskId", s.TaskID)
		o.OptString("from", s.From)
		o.String("to", s.To)
		o.OptInt("attempt", int64(s.Attempt))
		o.OptString("agentId", s.AgentID)
		o.OptString("code", s.Code)
		o.OptString("message", s.Message)
		o.End()
	})
	return o.Bytes()
}

// History returns the timeline of a run, oldest first. It fails with an *event.Error of CodeUnknownRun if there is no such run, and otherwise
// with the store's error. A run that was begun before timelines were kept has only what came since.
func (q *Queries) History(ctx context.Context, id string) (*event.RunHistory, error) {
	docs, err := q.store.Get(ctx, runKey(id)) // before the log: what moves there in between is found twice, not missed
	if err != nil {
		return nil, fmt.Errorf("read run: %w", err)
	}
	if docs[0].Rev == "" {
		return nil, event.Errorf(event.CodeUnknownRun, "there is no run %q", id)
	}
	var run struct {
		State   event.RunState `json:"state"`
		Moments []event.Raw    `json:"moments"`
	}
	if err := event.Unmarshal(docs[0].Data, &run); err != nil {
		return nil, fmt.Errorf("document %s: %w", docs[0].Key, err)
	}
	if run.State == "" { // nobody has started it, commands are kept for it
		return nil, event.Errorf(event.CodeUnknownRun, "there is no run %q", id)
	}
	logged, err := q.store.Tail(ctx, timelineLog(id), timelineCap)
	if err != nil {
		return nil, fmt.Errorf("read timeline: %w", err)
	}
	for _, m := range run.Moments {
		logged = append(logged, m)
	}
	h := &event.RunHistory{RunID: id, Items: []event.Transition{}}
	for i, b := range logged {
		var m moment
		if err := event.Unmarshal(b, &m); err != nil {
			return nil, fmt.Errorf("timeline of run %s: %w", id, err)
		}
		switch {
		case i == 0:
			h.Dropped = m.N
		case m.N < h.Dropped+len(h.Items): // found in both
			continue
		}
		for _, s := range m.Steps {
			s.At = m.At
			h.Items = append(h.Items, s)
		}
	}
	return h, nil
}
