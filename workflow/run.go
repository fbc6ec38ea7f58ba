package workflow

import (
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Run is the document of a run. It holds what is active and counts what is not: a task that has ended and whose output
// is small stays inline while the definition has at most inlineTasks tasks; all others have documents of their own.
type Run struct {
	Version    uint64            `json:"v"` // change count
	ID         string            `json:"id"`
	Workflow   string            `json:"wf"`
	DefVersion string            `json:"def"`
	State      event.RunState    `json:"state"`
	Agent      string            `json:"agent,omitzero"` // the run's agent: the one a trigger named, else the first to take a task
	Named      bool              `json:"named,omitzero"` // a trigger named Agent: the first task goes to it
	Legacy     bool              `json:"legacy,omitzero"`
	Labels     map[string]string `json:"labels,omitzero"`
	Priority   int               `json:"prio,omitzero"` // MinPriority to MaxPriority
	Input      event.Raw         `json:"input,omitzero"`
	BigInput   bool              `json:"bigInput,omitzero"` // the input is in a document of its own
	Hash       string            `json:"hash,omitzero"`     // of the start command's body: a repeat must have the same
	Created    time.Time         `json:"created"`           // stream timestamp of the start command
	Ended      time.Time         `json:"ended,omitzero"`
	Error      *event.TaskError  `json:"error,omitzero"`
	Seq        uint64            `json:"seq,omitzero"`       // highest sequence of StreamWork taken in
	Commands   []uint64          `json:"cmds,omitzero"`      // sequences of the last appliedCommands commands
	Look       time.Time         `json:"look,omitzero"`      // the run's own timer
	LimitMs    int64             `json:"limitMs,omitzero"`   // legacy: how long it may take, in milliseconds; 0 means LegacyTimeout
	Total      int               `json:"total"`              // tasks on the path
	Completed  int               `json:"completed"`          // of them, completed
	Tasks      []RunTask         `json:"tasks,omitzero"`     // active tasks, and ended ones that are inline
	Recent     []EndedTask       `json:"recent,omitzero"`    // ended tasks that were moved out last, for repeats
	LastDone   string            `json:"last,omitzero"`      // task that ended last: its output is the run's
	LastBig    int               `json:"lastBig,omitzero"`   // attempt whose output document that is, 0 if inline
	Story      int               `json:"story,omitzero"`     // transitions in its timeline so far
	Moments    []event.Raw       `json:"moments,omitzero"`   // the newest of them, each a moment; the others stand in a log
	Output     event.Raw         `json:"output,omitzero"`    // of a definition that says what it is
	BigOutput  bool              `json:"bigOutput,omitzero"` // it is in a document of its own
	Asks       *Asks             `json:"asks,omitzero"`      // of a run with a time limit: how long it has waited for people
	Undo       []int             `json:"undo,omitzero"`      // places of the tasks that can be undone, in the order in which they completed
	Undoing    *Undoing          `json:"undoing,omitzero"`   // the run has failed or was cancelled, and undoes what it has done
	Marks      []byte            `json:"marks,omitzero"`     // of a large graph: how far each task has come, half a byte each in the order of the definition
	Waits      int               `json:"waits,omitzero"`     // of a large graph: tasks that wait for room
	Parent     *ParentRef        `json:"parent,omitzero"`    // of a child: the run that has started it
	Control    *Control          `json:"ctl,omitzero"`       // what people have said about it
	Early      []Early           `json:"early,omitzero"`     // commands that came before the start, and nothing else: a stub
}

// EndedTask remembers how a task ended that is no longer in the document.
type EndedTask struct {
	ID      string          `json:"id"`
	Attempt int             `json:"attempt"`
	State   event.TaskState `json:"state"`
	Agent   string          `json:"agent,omitzero"`
	Token   string          `json:"token,omitzero"`
	Process string          `json:"process,omitzero"`
	Word    string          `json:"word,omitzero"` // that decided it, of an approval
	Schema  string          `json:"schema,omitzero"`
}

// RunTask is one task of a run.
type RunTask struct {
	ID       string           `json:"id"`
	State    event.TaskState  `json:"state"`
	Attempt  int              `json:"attempt"`           // number of the last assignment
	Tries    int              `json:"tries,omitzero"`    // retries spent
	Agent    string           `json:"agent,omitzero"`    // of the last attempt
	Token    string           `json:"token,omitzero"`    // of the last attempt
	Process  string           `json:"process,omitzero"`  // instance of the agent it was given to
	Delivery event.Delivery   `json:"delivery,omitzero"` // how the last attempt was given, empty for NATS
	Ready    time.Time        `json:"ready,omitzero"`    // since when it waits for an agent
	Assigned time.Time        `json:"assigned,omitzero"`
	Started  time.Time        `json:"started,omitzero"` // of the first attempt
	AcceptBy time.Time        `json:"acceptBy,omitzero"`
	Lease    time.Time        `json:"lease,omitzero"` // the attempt is over unless progress or a result comes by then
	Retry    time.Time        `json:"retry,omitzero"` // when the next attempt is due
	Ended    time.Time        `json:"ended,omitzero"`
	Output   event.Raw        `json:"output,omitzero"`
	Big      bool             `json:"big,omitzero"` // the output is in a document of its own
	Error    *event.TaskError `json:"error,omitzero"`
	Percent  *float64         `json:"percent,omitzero"`
	Message  string           `json:"message,omitzero"`
	Renewed  time.Time        `json:"renewed,omitzero"`  // when progress last moved the lease
	Class    string           `json:"class,omitzero"`    // selector class it waits in while it is ready
	Priority int              `json:"prio,omitzero"`     // in that class
	Look     time.Time        `json:"look,omitzero"`     // its timer: when something about it may be due, zero for never
	QueueBy  time.Time        `json:"queueBy,omitzero"`  // it has failed unless an agent has accepted it by then
	EndBy    time.Time        `json:"endBy,omitzero"`    // the attempt is over by then, whatever progress it makes
	Fallback int              `json:"fallback,omitzero"` // of the fallbacks of its task, the one it has come to; 0 for none
	Settled  int              `json:"settled,omitzero"`  // while it is pending: edges towards it that were taken or never will be
	Taken    int              `json:"taken,omitzero"`    // of them, taken
	Kids     *Children        `json:"kids,omitzero"`     // of a task that starts runs of their own
	Waits    string           `json:"waits,omitzero"`    // what it waits for that no agent does
	Until    time.Time        `json:"until,omitzero"`    // when that wait is over, zero for never
	Word     string           `json:"word,omitzero"`     // that decided it, of an approval: approve or reject
	Reused   bool             `json:"reused,omitzero"`   // it ended before the run was run again
	Cancel   event.CancelWord `json:"cancel,omitzero"`   // what became of the cancel, when it was cancelled while an agent had it
	Schema   string           `json:"schema,omitzero"`   // of the last attempt: name of the schema that its agent has said its output fits
	Unfit    []Unfit          `json:"unfit,omitzero"`    // input schemas of agents that its input does not fit
}

// Unfit is a schema that the input of a task does not fit.
type Unfit struct {
	Schema string `json:"schema"` // its name
	Why    string `json:"why"`
}

const (
	inlineTasks     = 100     // definitions with more tasks keep ended tasks in documents of their own
	inlineOutput    = 1 << 10 // bytes of an output kept in the run document
	inlineInput     = 1 << 10
	appliedCommands = 32
	recentTasks     = 32 // ended tasks remembered when they are moved out
)

// Find returns the task, or nil if it is not in the document: not reached yet, or ended and kept elsewhere.
func (r *Run) Find(taskID string) *RunTask {
	for i := range r.Tasks {
		if r.Tasks[i].ID == taskID {
			return &r.Tasks[i]
		}
	}
	return nil
}

// findFrom returns the place of a task in the document, -1 if it is not there. It is probably at the given place or soon behind it: two versions of
// a run hold their common tasks in the same order.
func (r *Run) findFrom(place int, taskID string) int {
	n := len(r.Tasks)
	for i := range n {
		if at := (place + i) % n; r.Tasks[at].ID == taskID {
			return at
		}
	}
	return -1
}

// apply reports whether a command was applied before, and remembers it if not.
func (r *Run) apply(seq uint64) (before bool) {
	if slices.Contains(r.Commands, seq) {
		return true
	}
	r.Commands = append(slices.Clone(r.Commands), seq)
	if len(r.Commands) > appliedCommands {
		r.Commands = r.Commands[len(r.Commands)-appliedCommands:]
	}
	return false
}

func (t *RunTask) ref(run string) event.AttemptRef {
	return event.AttemptRef{RunID: run, TaskID: t.ID, Attempt: t.Attempt, Token: t.Token}
}

// once reports whether the agent must not be asked twice: it cannot tell that it was asked for the same attempt before.
func (t *RunTask) once() bool { return t.Delivery == event.DeliveryAgentKit }

// bare reports whether nothing is to be remembered of the task but how it ended.
func (t *RunTask) bare() bool { return t.Attempt == 0 && t.Output == nil && !t.Big && t.Error == nil }

// held reports whether an agent has, or is being asked to take, the last attempt.
func (t *RunTask) held() bool { return t.State == event.TaskAssigned || t.State == event.TaskRunning }

// endsBy is when a legacy run must have ended. The limit is the run's own: one that is set later changes nothing for it.
func (r *Run) endsBy() time.Time {
	if r.LimitMs > 0 {
		return r.began().Add(time.Duration(r.LimitMs)*time.Millisecond + r.stood())
	}
	return r.began().Add(LegacyTimeout + r.stood())
}
