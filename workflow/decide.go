package workflow

import (
	"cmp"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow/contract"
)

// The clocks of an attempt.
const (
	DefaultTimeout = 5 * time.Minute // of a task without timeoutSeconds
	LegacyTimeout  = time.Hour       // of a run started over the old API, and of its tasks' wait for an agent
	AskAgain       = time.Second     // an attempt that nobody answered for is asked again so often
	PushAskAgain   = 5 * time.Second // the same, of an agent that is reached by HTTP
	CancelGrace    = 10 * time.Second
	LookAgain      = time.Second // when intake is behind the clock
)

// Input is something that happened to a run: *Start, *Begin, *Command, *Said, *Cancel, *Stopped, *Assign, *Misfit, *Refused, *Gone or
// *Tick.
type Input interface{ input() }

// Start is a run-start command, with the definition it resolved to.
type Start struct {
	Event      *event.RunStart
	Workflow   string
	DefVersion string
	Hash       string           // of the command's body
	Limit      time.Duration    // legacy: how long the run may take; 0 means LegacyTimeout
	Problem    *event.TaskError // legacy, and children: it cannot run; the run is created and fails
	Parent     *ParentRef       // of a child
	Queue      string           // where it waits for its turn, empty if it may begin at once
	Slot       string           // limiter that counts the run
}

// Said is an accepted, progress or result event of an agent.
type Said struct {
	Agent string
	Event event.Event
}

// Assign gives a ready task to an agent.
type Assign struct {
	TaskID, Agent, Instance, Token string
	Delivery                       event.Delivery // how it is given, empty for NATS
	Above                          int            // the attempt's number is above this
	Schema                         string         // name of the schema that the agent has said its output fits, empty for none
}

// Refused says that an attempt never reached its agent: it was rejected, or nobody answered on the agent's subject.
type Refused struct {
	Ref    event.AttemptRef
	Silent bool          // no responder
	After  time.Duration // the agent asked to be left alone for so long
}

// Gone says that the process an attempt was given to has been replaced by another one, or that the attempt is taken away from it.
type Gone struct {
	Ref     event.AttemptRef
	Removed bool // the process is there and must be told to stop: its agent was drained, and its time for that is over
}

// Tick is the timer of a task, or with an empty TaskID of the run. A timer says "look", never what to do.
type Tick struct {
	TaskID   string
	Accepted int       // attempt that is known to be accepted, 0 for none
	Intake   time.Time // everything said up to then has been taken in
}

func (*Start) input()   {}
func (*Said) input()    {}
func (*Assign) input()  {}
func (*Misfit) input()  {}
func (*Refused) input() {}
func (*Gone) input()    {}
func (*Tick) input()    {}

// At is where and when an input happened. Decide knows no other clock and no other chance.
type At struct {
	Now    time.Time                 // wall clock
	Seq    uint64                    // of the message, 0 for inputs that are none
	Stream time.Time                 // stream timestamp of the message
	Random float64                   // in [0,1), for jitter
	Data   map[storage.Key]event.Raw // documents that were found to be needed; nil for those that do not exist
	Last   bool                      // no more will be loaded: whatever is still needed is too much
	Adopt  bool                      // the store regressed after the run was created: attempts it does not know of may be real
	Schema *contract.Contract        // of a result: the schema that its agent has said the output fits; nil for none
}

// SlotChange is what a decision means for a slot of an agent.
type SlotChange struct {
	Agent string
	Ref   event.AttemptRef
	Kind  SlotKind
	At    time.Time     // SlotResult: stream timestamp of the result
	After time.Duration // SlotRejected
	// Failed says that the agent has failed the attempt: SlotResult, SlotDrain.
	Failed bool
}

// SlotKind says how a slot changes.
type SlotKind int

// The ways a slot changes.
const (
	SlotTake     SlotKind = iota // an attempt that the store had lost is adopted
	SlotResult                   // freed by its result
	SlotRejected                 // freed, and the agent left alone for a while
	SlotSilent                   // freed, and the agent out of rotation
	SlotGone                     // freed: its process is gone
	SlotDrain                    // the attempt is over, the agent is told to stop, the slot waits for its answer
	SlotStopped                  // a slot that drains is free: the cancel was confirmed, or its grace is over
	SlotLate                     // a result that is refused, but proves that a slot that drains is free
)

// Decision is what follows from an input. Run is the document as it shall be, nil if it does not change; the run given to Decide is never
// changed.
type Decision struct {
	Run    *Run
	Refuse *event.Error  // the input is refused; nothing changes
	Need   []storage.Key // nothing is decided: these documents must be loaded into At.Data first
	Held   *event.Error  // there is no such run, but the command is kept for its start
	Stray  bool          // the agent is at work on an attempt that is over, and is to be told
	Slots  []SlotChange
	Ask    string               // task whose agent is to be asked again
	Big    []Output             // outputs that are too large for the run document
	Result event.Raw            // output of the run, when it is too large for its document
	Inputs map[string]event.Raw // what tasks that were reached are given, if that was computed
	Ended  string               // task that ended with this input; of several, the one it was about
	Moved  []RunTask            // tasks that ended, when they go into documents of their own
	Cause  string               // of the fact that tells of the change, empty for none
	Spawn  []Spawn              // children to be made by the same Txn
	Opened string               // forEach whose items are known with this input
	Pages  []event.Raw          // its items, kept beside the run
}

// Output is what an attempt of a task has brought; the attempt is 0 if no agent did it.
type Output struct {
	TaskID  string
	Attempt int
	Data    event.Raw
}

// Decide applies one input to a run. It is a pure function: no I/O, no clock, no randomness but what At holds. A nil run does
// not exist yet. An input that was applied before changes nothing, and is refused only when a later attempt was assigned since.
func Decide(def *Definition, run *Run, in Input, at At) Decision {
	if start, ok := in.(*Start); ok {
		return decideStart(def, run, start, at)
	}
	if run == nil || run.stub() {
		return decideEarly(run, in, at)
	}
	d := &decider{def: def, at: at, old: run, run: clone(run)}
	switch in := in.(type) {
	case *Said:
		d.said(in)
	case *Command:
		d.command(in)
	case *Cancel:
		d.cancel(in)
	case *Stopped:
		d.stopped(in)
	case *Begin:
		d.itsTurn(in)
	case *Assign:
		d.assign(in)
	case *Misfit:
		d.misfit(in)
	case *Refused:
		d.refused(in)
	case *Gone:
		d.gone(in)
	case *Tick:
		d.tick(in)
	default:
		d.children(in)
	}
	return d.finish()
}

// decider carries one decision.
type decider struct {
	def     *Definition
	at      At
	old     *Run
	run     *Run
	started *event.RunStart // the command, while the run is being created
	changed bool
	out     Decision

	ended []ended // of a graph: what ended, and is still to be left
	met   []int   // of a graph: places of tasks that are to begin

	way map[string]int // of a sequence: see steps
}

func clone(r *Run) *Run {
	c := *r
	c.Tasks, c.Marks = slices.Clone(r.Tasks), slices.Clone(r.Marks)
	return &c
}

func refuse(code event.Code, format string, args ...any) Decision {
	return Decision{Refuse: event.Errorf(code, format, args...)}
}

func (d *decider) refuse(code event.Code, format string, args ...any) {
	d.out = refuse(code, format, args...)
	d.changed = false
}

func (d *decider) finish() Decision {
	if d.changed && d.def.graph() {
		d.advance()
	}
	if len(d.out.Need) > 0 {
		return Decision{Need: d.out.Need}
	}
	if d.changed {
		d.askClock()
		d.stand()
		d.run.Seq = max(d.run.Seq, d.at.Seq)
		d.run.Version++
		if d.run.State.Final() {
			d.dropPending()
		}
		d.moveEnded()
		d.out.Run = d.run
	}
	return d.out
}

// moveEnded takes the tasks that ended by themselves out of the run document when the definition is large, so that advancing costs what
// changed and not what the run holds.
func (d *decider) moveEnded() {
	if d.run.Total <= inlineTasks {
		return
	}
	d.run.Tasks = slices.DeleteFunc(d.run.Tasks, func(t RunTask) bool {
		if !t.State.Final() || t.State == event.TaskCancelled {
			return false
		}
		if place, ok := d.def.index[t.ID]; ok && d.run.Marks != nil {
			d.run.setMark(place, markOf(t.State))
		}
		if t.bare() {
			return true
		}
		d.out.Moved = append(d.out.Moved, t)
		d.run.Recent = append(slices.Clone(d.run.Recent), EndedTask{
			ID: t.ID, Attempt: t.Attempt, State: t.State, Agent: t.Agent, Token: t.Token, Process: t.Process, Word: t.Word, Schema: t.Schema,
		})
		if len(d.run.Recent) > recentTasks {
			d.run.Recent = d.run.Recent[1:]
		}
		return true
	})
}

func decideStart(def *Definition, old *Run, in *Start, at At) Decision {
	if old != nil && !old.stub() {
		if old.Hash != in.Hash {
			return refuse(event.CodeConflict, "run %q was started with another body", old.ID)
		}
		return Decision{}
	}
	e, problem := in.Event, in.Problem
	if problem == nil {
		problem = def.checkInput(e.Input)
	}
	if problem != nil && !e.Legacy && in.Parent == nil {
		return refuse(event.CodeInvalid, "%s", problem.Message)
	}
	run := &Run{
		ID: e.RunID, Workflow: in.Workflow, DefVersion: in.DefVersion, State: event.RunRunning,
		Agent: e.AgentID, Named: e.AgentID != "", Legacy: e.Legacy, Labels: e.Labels, Hash: in.Hash,
		Priority: min(max(cmp.Or(e.Priority, def.Priority), MinPriority), MaxPriority),
		BigInput: len(e.Input) > inlineInput, Created: at.Stream, Parent: in.Parent,
	}
	if old != nil {
		run.Version = old.Version
	}
	if !run.BigInput {
		run.Input = e.Input
	}
	if e.Legacy {
		run.LimitMs = in.Limit.Milliseconds()
	}
	d := &decider{def: def, at: at, run: run, started: e, changed: true}
	if in.Parent == nil { // children have no command
		d.run.apply(at.Seq)
	}
	d.out.Cause = "created"
	if problem != nil {
		d.end(event.RunFailed, problem)
	} else {
		d.beginOrWait(in)
	}
	return d.finish()
}

// first reaches the tasks that a run begins with.
func (d *decider) first() {
	if len(d.def.Tasks) == 0 {
		d.end(event.RunCompleted, nil)
		return
	}
	if !d.def.graph() {
		d.run.Total = d.def.pathLength()
		d.reach(&d.def.Tasks[0])
		return
	}
	d.run.Total = len(d.def.Tasks)
	if d.run.Total > inlineTasks {
		d.run.Marks = make([]byte, (d.run.Total+1)/2)
	}
	d.met = slices.Clone(d.def.flow.roots) // the definition is shared by all its runs
}

// pathLength counts the tasks that follow from the first one.
func (d *Definition) pathLength() int {
	n := 0
	for t := &d.Tasks[0]; t != nil && n < len(d.Tasks); t = d.after(t) {
		n++
	}
	return n
}

// after returns the task that follows, or nil.
func (d *Definition) after(t *Task) *Task {
	if t.NextTaskID == nil || *t.NextTaskID == "" {
		return nil
	}
	return d.Find(*t.NextTaskID)
}

// reach brings a task of the definition into the run, if it is not there yet, and begins it.
func (d *decider) reach(t *Task) {
	rt := d.present(t)
	rt.Settled, rt.Taken = 0, 0
	if ctl := d.run.Control; ctl != nil {
		rt.Attempt = max(rt.Attempt, ctl.Above)
	}
	d.changed = true
	d.enter(t, rt)
}

// present returns a task of the run, putting it there if it was not.
func (d *decider) present(t *Task) *RunTask {
	if rt := d.run.Find(t.TaskID); rt != nil {
		return rt
	}
	d.run.Tasks = append(d.run.Tasks, RunTask{ID: t.TaskID, State: event.TaskPending})
	return &d.run.Tasks[len(d.run.Tasks)-1]
}

// enterAgent makes a task ready that an agent does.
func (d *decider) enterAgent(t *Task, rt *RunTask) {
	if !d.checkInput(t, rt) {
		return
	}
	d.told(rt)
	d.offer(rt)
}

// task returns a task of the definition; an empty one if it has none of that id, because the definition is missing from the store.
func (d *decider) task(id string) *Task {
	if t := d.def.Find(id); t != nil {
		return t
	}
	return &Task{TaskID: id}
}

// makeReady puts a task into the queue of its selector class.
func (d *decider) makeReady(t *RunTask) {
	t.State, t.Ready, t.Retry = event.TaskReady, d.at.Now, time.Time{}
	t.Class, t.Priority = d.class(t), d.priority(t.ID)
	d.queue(t)
	d.changed = true
}

// priority is the one of a task, or else of its run, or else of the definition.
func (d *decider) priority(taskID string) int {
	p := cmp.Or(d.run.Priority, d.def.Priority)
	if own := d.task(taskID).Priority; own != nil {
		p = *own
	}
	return min(max(p, MinPriority), MaxPriority)
}

func (d *decider) assign(in *Assign) {
	t := d.run.Find(in.TaskID)
	if t == nil || t.State != event.TaskReady {
		d.refuse(event.CodeNotAllowedNow, "task %q is not ready", in.TaskID)
		return
	}
	t.Attempt = max(t.Attempt, in.Above) + 1
	t.State, t.Agent, t.Token, t.Process = event.TaskAssigned, in.Agent, in.Token, in.Instance
	t.Delivery, t.Schema = in.Delivery, in.Schema
	d.startClocks(t)
	t.Class, t.Percent, t.Message = "", nil, ""
	if t.Started.IsZero() {
		t.Started = d.at.Now
	}
	if d.run.Agent == "" {
		d.run.Agent = in.Agent
	}
	d.changed = true
}

// end ends the run: whatever is active is cancelled, and what it has done is undone before. A run that undoes ends when that is over, and in no
// other way.
func (d *decider) end(state event.RunState, why *event.TaskError) {
	if d.run.Undoing != nil {
		return
	}
	for i := range d.run.Tasks {
		t := &d.run.Tasks[i]
		if t.State.Final() || t.State == event.TaskPending {
			continue
		}
		if t.held() {
			d.slot(t, SlotDrain)
			t.Cancel = event.CancelRequested
		}
		d.endTask(t, event.TaskCancelled)
	}
	if !d.undoFirst(state, why) {
		d.close(state, why)
	}
}

// close ends the run, in which nothing is active.
func (d *decider) close(state event.RunState, why *event.TaskError) {
	d.run.State, d.run.Error, d.run.Ended, d.run.Look = state, why, d.at.Now, time.Time{}
	d.out.Cause = string(state)
	d.changed = true
}

func (d *decider) endTask(t *RunTask, state event.TaskState) {
	t.State, t.Ended = state, d.at.Now
	t.Class, t.Look, t.Retry, t.QueueBy, t.EndBy = "", time.Time{}, time.Time{}, time.Time{}, time.Time{}
	d.changed = true
}

func (d *decider) slot(t *RunTask, kind SlotKind) *SlotChange {
	d.out.Slots = append(d.out.Slots, SlotChange{Agent: t.Agent, Ref: t.ref(d.run.ID), Kind: kind})
	return &d.out.Slots[len(d.out.Slots)-1]
}

// complete ends a task with its output, and reaches what follows.
func (d *decider) complete(t *RunTask, output event.Raw) {
	if len(output) > inlineOutput {
		t.Big, d.out.Big = true, append(d.out.Big, Output{TaskID: t.ID, Attempt: t.Attempt, Data: output})
	} else {
		t.Output = output
	}
	t.Error = nil
	d.endTask(t, event.TaskCompleted)
	if d.out.Ended = t.ID; d.run.Undoing != nil {
		d.out.Cause = "task undone"
		return
	}
	d.compensates(t)
	choice, err := d.choose(d.task(t.ID).Switch)
	if err != nil {
		d.blame(t, err)
		return
	}
	d.run.Completed++
	d.run.LastDone, d.run.LastBig = t.ID, 0
	if t.Big {
		d.run.LastBig = t.Attempt
	}
	d.out.Cause = "task completed"
	if d.def.graph() {
		d.leave(t, event.TaskCompleted, choice)
		return
	}
	if next := d.def.after(d.task(t.ID)); next != nil {
		d.reach(next)
		return
	}
	d.succeed()
}
