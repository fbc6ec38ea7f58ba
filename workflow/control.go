package workflow

import (
	"math"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Control is what people have said about a run, and what follows from it. A run that nobody steers has none.
type Control struct {
	Paused   time.Time    `json:"paused,omitzero"`   // since when it is paused, zero when it is not
	Own      bool         `json:"own,omitzero"`      // people have paused it
	Kin      bool         `json:"kin,omitzero"`      // it is paused with its parent
	Turns    int          `json:"turns,omitzero"`    // how often it was paused and let go on
	Heard    int          `json:"heard,omitzero"`    // of a child: the turns of its parent that it knows of
	Seq      uint64       `json:"seq,omitzero"`      // of the pause or resume that counts: the last one in the stream
	SeqAt    time.Time    `json:"seqAt,omitzero"`    // its stream timestamp
	StoodMs  int64        `json:"stoodMs,omitzero"`  // how long it has been paused before, in milliseconds
	Begin    time.Time    `json:"begin,omitzero"`    // not before that, of a run that is pending
	Begun    time.Time    `json:"begun,omitzero"`    // when it began after it was pending, or was last retried or run again
	Queue    string       `json:"queue,omitzero"`    // where a pending run waits for its turn
	Slot     string       `json:"slot,omitzero"`     // limiter that counts it; it waits for a place there when that is its queue
	Deadline time.Time    `json:"deadline,omitzero"` // of the whole run
	Signals  []HeldSignal `json:"signals,omitzero"`  // that no task has waited for yet, in stream order
	Reruns   int          `json:"reruns,omitzero"`   // how often it was retried or run again
	Above    int          `json:"above,omitzero"`    // attempts of tasks whose documents were let go had numbers up to this
	Edits    []Edit       `json:"edits,omitzero"`    // inputs of tasks that were run again
}

// Command is a command about a run.
type Command struct {
	*event.RunCommand
	Heard bool // somebody waits for its outcome
}

func (*Command) input() {}

// commandRule says what a kind of command does.
type commandRule struct {
	give func(*decider, *event.RunCommand)
	// early: one that comes before the start of its run is kept for it. The others are about what somebody has seen of the run.
	early bool
	// level: the last word in the stream counts. The others are edges: each is applied once.
	level bool
}

func commandRules(kind event.CommandKind) commandRule {
	switch kind {
	case event.KindRunCancel:
		return commandRule{give: func(d *decider, c *event.RunCommand) { d.cancelled(c.Reason) }, early: true}
	case event.KindRunPause:
		return commandRule{give: (*decider).pause, early: true, level: true}
	case event.KindRunResume:
		return commandRule{give: (*decider).resume, early: true, level: true}
	case event.KindRunSignal:
		return commandRule{give: (*decider).signal, early: true}
	case event.KindRunApprove, event.KindRunReject:
		return commandRule{give: (*decider).approval}
	case event.KindRunRetry:
		return commandRule{give: (*decider).retry}
	case event.KindRunRerun:
		return commandRule{give: (*decider).rerun}
	}
	return commandRule{give: func(d *decider, c *event.RunCommand) {
		d.refuse(event.CodeNotAllowedNow, "%s is not available in this version", c.Kind)
	}}
}

// command applies a command about a run. An edge that was applied before changes nothing; one that is refused is not noted, since a repeat of it
// is judged again.
func (d *decider) command(c *Command) {
	rule := commandRules(c.Kind)
	if rule.level {
		if !d.newer() {
			return
		}
		rule.give(d, c.RunCommand)
		return
	}
	if d.run.apply(d.at.Seq) {
		return
	}
	rule.give(d, c.RunCommand)
}

// newer reports whether the input stands behind the pause or resume that counts so far. The sequence orders, except in a stream that was rolled back
// or made anew: there a lower one has a later stream timestamp.
func (d *decider) newer() bool {
	ctl := d.run.Control
	return ctl == nil || d.at.Seq > ctl.Seq || d.at.Stream.After(ctl.SeqAt)
}

// control returns the run's control, for changing.
func (d *decider) control() *Control {
	switch {
	case d.run.Control == nil:
		d.run.Control = new(Control)
	case d.old != nil && d.old.Control == d.run.Control:
		c := *d.run.Control
		c.Signals, c.Edits = slices.Clone(c.Signals), slices.Clone(c.Edits)
		d.run.Control = &c
	}
	d.changed = true
	return d.run.Control
}

// say notes that a pause or resume counts, and reports whether there is anything to pause or to resume.
func (d *decider) say() bool {
	if d.run.State.Final() {
		d.refuse(event.CodeNotAllowedNow, "the run has ended: %s", d.run.State)
		return false
	}
	ctl := d.control()
	ctl.Seq, ctl.SeqAt = d.at.Seq, d.at.Stream
	return true
}

// pause makes the run stand still: nothing is given to an agent, no clock runs. What agents are at work on goes on, and is taken in.
func (d *decider) pause(*event.RunCommand) {
	if d.say() {
		d.control().Own = true
		d.halt()
	}
}

// resume lets the run go on, unless it is paused with its parent.
func (d *decider) resume(*event.RunCommand) {
	if d.say() {
		if ctl := d.control(); !ctl.Kin {
			d.proceed()
		} else {
			ctl.Own = false
		}
	}
}

// # What pauses and ends mean for a child
//
// It has a task for an agent. A child stands still while its parent does, or people want it to.
//
//	EVENT                    CHILD IS                RESULT
//	parent is paused         running                 paused with its parent
//	                         paused by people        paused for both
//	                         others                  -
//	parent is resumed        paused with its parent  running
//	                         paused for both         paused by people
//	                         others                  -
//	parent's task has ended  cancelled               -
//	                         others                  cancelled
//	pause                    running                 paused by people
//	                         paused with its parent  paused for both
//	                         cancelled               refused: not_allowed_now
//	                         others                  -
//	resume                   paused by people        running
//	                         paused for both         paused with its parent
//	                         cancelled               refused: not_allowed_now
//	                         others                  -
//	retry                    any                     refused: not_allowed_now

// held pauses a child with its parent, and lets it go on with it unless people have paused it too.
func (d *decider) held(in *Held) {
	if d.run.State.Final() || d.run.Parent == nil || in.Turn < d.run.heard() {
		return
	}
	same := in.On == d.run.pausedWithParent()
	if same && in.Turn == d.run.heard() {
		return
	}
	ctl := d.control()
	ctl.Heard = in.Turn
	switch ctl.Kin = in.On; {
	case same:
	case in.On:
		d.halt()
	case !ctl.Own:
		d.proceed()
	}
}

// pausedWithParent reports whether a child is paused because its parent is. A document that does not say why it is paused comes from a version in
// which every pause ended with that of the parent.
func (r *Run) pausedWithParent() bool {
	return r.Parent != nil && r.State == event.RunPaused && (r.Control.Kin || !r.Control.Own)
}

// lastTurn is the turn of a word behind which no other comes: that a child is not held any more, since nothing waits for it.
const lastTurn = math.MaxInt32

// turns is how often a run has been paused and let go on.
func (r *Run) turns() int {
	if r.Control == nil {
		return 0
	}
	return r.Control.Turns
}

// heard is how many turns of its parent a child knows of.
func (r *Run) heard() int {
	if r.Control == nil {
		return 0
	}
	return r.Control.Heard
}

func (d *decider) halt() {
	if d.run.State != event.RunPaused {
		ctl := d.control()
		ctl.Paused = d.at.Now
		ctl.Turns++
		d.run.State = event.RunPaused
		d.out.Cause = "paused"
	}
}

// proceed ends a pause for whatever reason it was. Every clock goes on where it stood.
func (d *decider) proceed() {
	if d.run.State != event.RunPaused {
		return
	}
	ctl := d.control()
	stood := d.at.Now.Sub(ctl.Paused)
	ctl.Paused, ctl.StoodMs = time.Time{}, ctl.StoodMs+stood.Milliseconds()
	ctl.Own, ctl.Kin = false, false
	ctl.Turns++
	d.run.State = event.RunRunning
	if d.run.pending() {
		d.run.State = event.RunPending
	}
	for i := range d.run.Tasks {
		t := &d.run.Tasks[i]
		if t.State.Final() {
			continue
		}
		for _, clock := range t.clocks() {
			if !clock.IsZero() {
				*clock = clock.Add(stood)
			}
		}
		if t.held() {
			t.Renewed = d.at.Now // outages before are none of its time
		}
	}
	d.armRun()
	d.out.Cause = "resumed"
}

// clocks are the times of a task that stand still while its run is paused. How an assigned attempt is accepted is not among them: it was handed
// out before, and its agent may have it.
func (t *RunTask) clocks() []*time.Time {
	if t.State == event.TaskAssigned {
		return []*time.Time{&t.Lease, &t.EndBy}
	}
	return []*time.Time{&t.Ready, &t.Retry, &t.QueueBy, &t.Lease, &t.EndBy, &t.Until, &t.Look}
}

// stand sets the clocks that were set while the run is paused back to what they would have been when it was: a resume moves all alike.
func (d *decider) stand() {
	if d.run.State != event.RunPaused {
		return
	}
	back := d.at.Now.Sub(d.run.Control.Paused)
	for i := range d.run.Tasks {
		t := &d.run.Tasks[i]
		if t.State.Final() {
			continue
		}
		var before RunTask
		if d.old != nil {
			before = *d.old.at(i, t.ID)
			before.State = t.State
		}
		old := before.clocks()
		for i, clock := range t.clocks() {
			if !clock.IsZero() && !clock.Equal(*old[i]) {
				*clock = clock.Add(-back)
			}
		}
	}
	d.armRun()
}

// stood is how long a run has been paused, up to the pause that it is in.
func (r *Run) stood() time.Duration {
	if r.Control == nil {
		return 0
	}
	return time.Duration(r.Control.StoodMs) * time.Millisecond
}

// look is when something about a task may be due. While the run is paused that is never, except for an attempt that is being handed out.
func (r *Run) look(t *RunTask) time.Time {
	if r.State == event.RunPaused && t.State != event.TaskAssigned {
		return time.Time{}
	}
	return t.Look
}

// class is the queue in which a task waits for an agent: none while the run is paused.
func (r *Run) class(t *RunTask) string {
	if r.State == event.RunPaused {
		return ""
	}
	return t.Class
}

// Cancel ends a run that is part of another one which has ended. What people want is a *Command.
type Cancel struct{ Reason string }

func (*Cancel) input() {}

func (d *decider) cancel(in *Cancel) {
	if !d.run.apply(d.at.Seq) {
		d.cancelled(in.Reason)
	}
}

// cancelled ends the run because somebody wants it to.
func (d *decider) cancelled(reason string) {
	if d.run.State.Final() {
		if d.run.State != event.RunCancelled {
			d.refuse(event.CodeNotAllowedNow, "the run has ended: %s", d.run.State)
		}
		return
	}
	if u := d.run.Undoing; u != nil {
		if u.State != event.RunCancelled {
			d.refuse(event.CodeNotAllowedNow, "the run has %s and undoes what it has done", u.State)
		}
		return
	}
	if reason == "" {
		reason = "cancelled"
	}
	d.undoAlthoughPaused()
	d.end(event.RunCancelled, &event.TaskError{Code: "cancelled", Message: reason})
}

// Stopped says what became of a cancel: the agent has confirmed that it stopped the attempt, or was silent for too long.
type Stopped struct {
	Ref    event.AttemptRef
	Agent  string
	Silent bool
}

func (*Stopped) input() {}

// stopped frees the slot of an attempt whose cancel is settled, and shows how it was.
func (d *decider) stopped(in *Stopped) {
	d.out.Slots = []SlotChange{{Agent: in.Agent, Ref: in.Ref, Kind: SlotStopped}}
	t := d.current(in.Ref)
	if t == nil || t.Cancel != event.CancelRequested {
		return
	}
	t.Cancel = event.CancelConfirmed
	if in.Silent {
		t.Cancel = event.CancelTimedOut
	}
	d.out.Cause = "cancel " + string(t.Cancel)
	d.changed = true
}
