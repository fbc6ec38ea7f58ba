package event

import "time"

// WorkflowApply stores a definition under the id of its subject.
type WorkflowApply struct {
	ID         string `json:"-"`
	Definition Raw    `json:"-"` // the whole body
}

// RunStart starts a run under an id made by the client, so that a repeat finds it. Edge.
type RunStart struct {
	RunID          string            `json:"-"`
	WorkflowID     string            `json:"workflowId,omitzero"`
	Version        string            `json:"version,omitzero"`    // empty: the latest
	Definition     Raw               `json:"definition,omitzero"` // inline, instead of a stored one
	Legacy         bool              `json:"legacy,omitzero"`     // shape errors make the run fail instead of refusing it
	Input          Raw               `json:"input,omitzero"`      // an object
	AgentID        string            `json:"agentId,omitzero"`    // the first task goes to it
	Priority       int               `json:"priority,omitzero"`
	Labels         map[string]string `json:"labels,omitzero"`
	IdempotencyKey string            `json:"idempotencyKey,omitzero"`
	DelaySeconds   float64           `json:"delaySeconds,omitzero"` // the run stays pending for so long
	StartAt        time.Time         `json:"startAt,omitzero"`      // instead: the run stays pending until then
	Deadline       time.Time         `json:"deadline,omitzero"`     // the run fails unless it has ended by then; pauses count

	DeadlineSeconds float64 `json:"deadlineSeconds,omitzero"` // instead: so long after it was started; a repeat says the same
}

// Begins returns when a run that was started at a time shall begin.
func (e *RunStart) Begins(started time.Time) time.Time {
	if !e.StartAt.IsZero() {
		return e.StartAt
	}
	return started.Add(time.Duration(e.DelaySeconds * float64(time.Second)))
}

// Ends returns by when a run that was started at a time must have ended; zero: nothing was said.
func (e *RunStart) Ends(started time.Time) time.Time {
	if e.DeadlineSeconds == 0 {
		return e.Deadline
	}
	return started.Add(time.Duration(e.DeadlineSeconds * float64(time.Second)))
}

// RunCommand is any other command about a run. Pause and resume are level, the others are edges.
type RunCommand struct {
	Kind    CommandKind `json:"-"`
	RunID   string      `json:"-"`
	Reason  string      `json:"reason,omitzero"`
	Name    string      `json:"name,omitzero"`    // of a signal
	Payload Raw         `json:"payload,omitzero"` // of a signal
	TaskID  string      `json:"taskId,omitzero"`  // of an approval, a rejection, a rerun; of a retry, where empty means all that failed
	Comment string      `json:"comment,omitzero"` // of an approval or rejection
	By      string      `json:"by,omitzero"`      // who approves or rejects
	Input   Raw         `json:"input,omitzero"`   // of a rerun: what the task is given instead of its own input, an object
	Set     Raw         `json:"set,omitzero"`     // of a rerun: members that replace those of its input, an object
}

// WorkflowCommand pauses or resumes a stored definition: whether runs that are started of it begin. Level.
type WorkflowCommand struct {
	Kind   CommandKind `json:"-"`
	ID     string      `json:"-"`
	Reason string      `json:"reason,omitzero"`
}

// AgentCommand cordons, drains or uncordons an agent, which undoes both. Level.
type AgentCommand struct {
	Kind            CommandKind `json:"-"`
	AgentID         string      `json:"-"`
	Reason          string      `json:"reason,omitzero"`
	DeadlineSeconds float64     `json:"deadlineSeconds,omitzero"` // of a drain, from the stream timestamp: then what is held is handed back; 0: never
}

// QueueCommand pauses or resumes the queues of all tasks that ask for a capability. Level.
type QueueCommand struct {
	Kind       CommandKind `json:"-"`
	Capability string      `json:"-"`
	Reason     string      `json:"reason,omitzero"`
}

// Wake is a hint between replicas on SubjectWake, core NATS: these agents became free or ended a task, these selector classes have
// ready tasks. It may be lost; a slow scan finds the same.
type Wake struct {
	From    string   `json:"from"` // replica that says it; it ignores its own
	Agents  []string `json:"agents,omitzero"`
	Classes []string `json:"classes,omitzero"`
}
