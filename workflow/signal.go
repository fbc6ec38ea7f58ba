package workflow

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Bounds of the signals that a run keeps for tasks that will wait for them.
const (
	maxSignals     = 100
	maxSignalBytes = 64 << 10 // of their payloads together: they stand in the run's document
)

// HeldSignal is a signal that no task has waited for yet.
type HeldSignal struct {
	Name    string    `json:"name"`
	Seq     uint64    `json:"seq"`
	At      time.Time `json:"at"` // stream timestamp
	Payload event.Raw `json:"payload,omitzero"`
}

// enterSignal begins a task that waits for a signal, or ends it at once with the first one that came before.
func (d *decider) enterSignal(t *Task, rt *RunTask) {
	d.await(rt, waitsSignal, d.patience(t.Signal.TimeoutSeconds))
	ctl := d.run.Control
	if ctl == nil {
		return
	}
	i := slices.IndexFunc(ctl.Signals, func(s HeldSignal) bool { return s.Name == t.Signal.Name && d.def.fits(t.Signal, s.Payload) == nil })
	if i < 0 {
		return
	}
	payload := ctl.Signals[i].Payload
	ctl = d.control()
	ctl.Signals = slices.Delete(ctl.Signals, i, i+1)
	d.complete(rt, payload)
}

// signal gives a signal to the first task that waits for it, or keeps it for one that will. One that no task of the workflow could ever take is
// refused, so that a slip of the pen does not wait for ever.
func (d *decider) signal(c *event.RunCommand) {
	if d.run.State.Final() {
		d.refuse(event.CodeNotAllowedNow, "the run has ended: %s", d.run.State)
		return
	}
	if why := d.def.takes(c.Name, c.Payload); why != nil {
		d.refuse(why.Code, "%s", why.Message)
		return
	}
	d.changed = true // the command is noted
	for i := range d.run.Tasks {
		rt := &d.run.Tasks[i]
		if rt.State != event.TaskWaiting || rt.Waits != waitsSignal {
			continue
		}
		if s := d.task(rt.ID).Signal; s != nil && s.Name == c.Name && d.def.fits(s, c.Payload) == nil {
			d.complete(rt, c.Payload)
			return
		}
	}
	d.keep(c)
}

// keep holds a signal for a task that will wait for it.
func (d *decider) keep(c *event.RunCommand) {
	ctl := d.control()
	size := len(c.Payload)
	for _, s := range ctl.Signals {
		size += len(s.Payload)
	}
	if len(ctl.Signals) >= maxSignals || size > maxSignalBytes {
		d.refuse(event.CodeTooLarge, "the run keeps at most %d signals of %d bytes together that no task waits for", maxSignals, maxSignalBytes)
		return
	}
	ctl.Signals = append(ctl.Signals, HeldSignal{Name: c.Name, Seq: d.at.Seq, At: d.at.Stream, Payload: c.Payload})
	// In stream order, however they were taken in.
	slices.SortFunc(ctl.Signals, func(a, b HeldSignal) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Seq, b.Seq)) })
}

// takes reports why no task of the definition could ever take a signal; nil if one could.
func (d *Definition) takes(name string, payload event.Raw) *event.Error {
	var names []string
	var why *event.Error
	for i := range d.Tasks {
		s := d.Tasks[i].Signal
		switch {
		case s == nil:
			continue
		case s.Name != name:
			if !slices.Contains(names, s.Name) {
				names = append(names, s.Name)
			}
			continue
		case d.kind(&d.Tasks[i]) == nodeChildren:
			why = event.Errorf(event.CodeInvalid, "task %q waits for signal %q each time for itself, in runs of its own; send it to one of those that the run has started",
				d.Tasks[i].TaskID, name)
			continue
		}
		if why = d.fits(s, payload); why == nil {
			return nil
		}
	}
	switch {
	case why != nil:
		return why
	case len(names) == 0:
		return event.Errorf(event.CodeInvalid, "workflow %q waits for no signals", d.ID)
	}
	return event.Errorf(event.CodeInvalid, "workflow %q waits for no signal %q, only for %s", d.ID, name, strings.Join(names, ", "))
}

// fits reports why a payload does not fit the schema of a signal; nil if it does.
func (d *Definition) fits(s *Signal, payload event.Raw) *event.Error {
	if why := d.fit(s.Schema, payload, string(event.CodeInvalid), fmt.Sprintf("the payload does not fit the schema of signal %q", s.Name)); why != nil {
		return event.Errorf(event.CodeInvalid, "%s", why.Message)
	}
	return nil
}
