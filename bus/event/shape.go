package event

import "time"

// RunState is where a run stands.
type RunState string

// The states of a run. The last three are final.
const (
	RunPending   RunState = "pending"
	RunRunning   RunState = "running"
	RunPaused    RunState = "paused"
	RunCompleted RunState = "completed"
	RunFailed    RunState = "failed"
	RunCancelled RunState = "cancelled"
)

// Final reports whether a run in this state has ended.
func (s RunState) Final() bool { return s == RunCompleted || s == RunFailed || s == RunCancelled }

// TaskState is where a task of a run stands.
type TaskState string

// The states of a task. The last four are final.
const (
	TaskPending   TaskState = "pending"  // not reached yet
	TaskReady     TaskState = "ready"    // waits for an agent
	TaskAssigned  TaskState = "assigned" // an agent was chosen and is being asked
	TaskRunning   TaskState = "running"  // the agent accepted
	TaskWaiting   TaskState = "waiting"  // waits for time, a signal or an approval
	TaskRetrying  TaskState = "retrying" // waits for its next attempt
	TaskCompleted TaskState = "completed"
	TaskFailed    TaskState = "failed"
	TaskSkipped   TaskState = "skipped"
	TaskCancelled TaskState = "cancelled"
)

// Final reports whether a task in this state has ended.
func (s TaskState) Final() bool {
	return s == TaskCompleted || s == TaskFailed || s == TaskSkipped || s == TaskCancelled
}

// Run is a run as shown by queries, facts, the CLI and the HTTP API.
type Run struct {
	RunID           string            `json:"runId"`
	WorkflowID      string            `json:"workflowId"`
	WorkflowVersion string            `json:"workflowVersion"`
	State           RunState          `json:"state"`
	Input           Raw               `json:"input,omitzero"`
	Output          Raw               `json:"output,omitzero"`
	Error           *TaskError        `json:"error,omitzero"`
	AgentID         string            `json:"agentId,omitzero"`
	Labels          map[string]string `json:"labels,omitzero"`
	CreatedAt       time.Time         `json:"createdAt"`
	EndedAt         *time.Time        `json:"endedAt,omitzero"`
	Tasks           []RunTask         `json:"tasks"`
	Truncated       bool              `json:"truncated,omitzero"` // outputs were left out
	Version         uint64            `json:"version,omitzero"`
	Seq             uint64            `json:"seq,omitzero"` // last stream sequence of StreamWork taken in
	Parent          *RunParent        `json:"parent,omitzero"`
	PausedAt        *time.Time        `json:"pausedAt,omitzero"`
	StartAt         *time.Time        `json:"startAt,omitzero"`  // of a pending run: when it begins, if it waits for a time
	Deadline        *time.Time        `json:"deadline,omitzero"` // it fails unless it has ended by then
	Reruns          int               `json:"reruns,omitzero"`   // how often it was retried or run again
}

// RunParent says which task of which run has started a run.
type RunParent struct {
	RunID  string `json:"runId"`
	TaskID string `json:"taskId"`
	Index  int    `json:"index"` // from 0: of the item of a forEach, or how often a loop had gone round
}

// RunTask is one task of a Run.
type RunTask struct {
	TaskID    string     `json:"taskId"`
	Name      string     `json:"name,omitzero"`
	State     TaskState  `json:"state"`
	Attempt   int        `json:"attempt"`
	AgentID   string     `json:"agentId,omitzero"`
	Output    Raw        `json:"output,omitzero"`
	Error     *TaskError `json:"error,omitzero"`
	StartedAt *time.Time `json:"startedAt,omitzero"`
	EndedAt   *time.Time `json:"endedAt,omitzero"`
	Percent   *float64   `json:"percent,omitzero"`
	Message   string     `json:"message,omitzero"`
	Reasons   []Refusal  `json:"reasons,omitzero"` // why no agent took it, while it is ready
	Children  *Children  `json:"children,omitzero"`
	Cancel    CancelWord `json:"cancel,omitzero"` // of a task that was cancelled while an agent had it
	Reused    bool       `json:"reused,omitzero"` // its output comes from before the run was run again
	WaitsFor  *WaitsFor  `json:"waitsFor,omitzero"`
}

// CancelWord is what is known of a cancel that was sent to an agent.
type CancelWord string

// The values of CancelWord.
const (
	CancelRequested CancelWord = "requested" // the agent has not answered yet
	CancelConfirmed CancelWord = "confirmed" // it has stopped
	CancelTimedOut  CancelWord = "timed_out" // it did not answer in time
)

// WaitsFor says what a task waits for that no agent does. Until is when the wait is over one way or the other, absent for never.
type WaitsFor struct {
	Signal   string     `json:"signal,omitzero"`   // name of a signal
	Approval bool       `json:"approval,omitzero"` // a person's word
	Until    *time.Time `json:"until,omitzero"`
}

// Approval is one place where a run waits for a person's word.
type Approval struct {
	RunID      string     `json:"runId"`
	TaskID     string     `json:"taskId"`
	WorkflowID string     `json:"workflowId"`
	Message    string     `json:"message,omitzero"`
	Since      time.Time  `json:"since"`
	Until      *time.Time `json:"until,omitzero"` // when it is decided without a person
	Paused     bool       `json:"paused,omitzero"`
	Parent     *RunParent `json:"parent,omitzero"` // of a run that another one has started: where it stands there
}

// Children counts the runs that a task of a run has started: one for each item of a forEach, each time of a loop, or a workflow.
type Children struct {
	Total  int `json:"total"` // 0 while that is not known
	Active int `json:"active"`
	Done   int `json:"done"`
	Failed int `json:"failed"`
}

// Refusal says why one agent was not given a task.
type Refusal struct {
	AgentID string `json:"agentId"`
	Rule    string `json:"rule"`
	Text    string `json:"text"`
}

// Liveness is what is known of an agent's heartbeat.
type Liveness string

// The values of Liveness.
const (
	LivenessLive      Liveness = "live"
	LivenessSuspect   Liveness = "suspect"
	LivenessLost      Liveness = "lost"
	LivenessUnwatched Liveness = "unwatched"
)

// Agent is an agent as shown by queries, facts, the CLI and the HTTP API.
type Agent struct {
	AgentID         string            `json:"agentId"`
	AgentName       string            `json:"agentName"`
	Version         string            `json:"version"`
	Capabilities    []string          `json:"capabilities"`
	Slots           int               `json:"slots"`
	Held            []AttemptRef      `json:"held"`
	State           string            `json:"state"`
	StateAt         time.Time         `json:"stateAt"`            // stream time of the report
	StateTimestamp  string            `json:"timestamp,omitzero"` // as the agent gave it
	Details         Raw               `json:"details"`
	Liveness        Liveness          `json:"liveness"`
	Available       bool              `json:"available"`
	Unavailable     string            `json:"unavailable,omitzero"`  // why, when it is not
	Cordoned        bool              `json:"cordoned"`              // it is given nothing new; true while it drains too
	Draining        bool              `json:"draining,omitzero"`     // cordoned, but runs that are bound to it go on there
	DrainBy         time.Time         `json:"drainBy,omitzero"`      // when what it holds is handed back, absent for never
	CordonReason    string            `json:"cordonReason,omitzero"` // as given with the last cordon, drain or uncordon
	Breaker         string            `json:"breaker,omitzero"`      // "open" or "half_open" after failures in a row, else absent
	RegisteredAt    time.Time         `json:"registeredAt"`
	Labels          map[string]string `json:"labels"`
	Metadata        Raw               `json:"metadata"`
	ContactEndpoint string            `json:"contactEndpoint,omitzero"`
	Delivery        Delivery          `json:"delivery,omitzero"`
	Instance        string            `json:"instance,omitzero"`
	Seq             uint64            `json:"seq,omitzero"` // last stream sequence of StreamAgent taken in
	DocVersion      uint64            `json:"docVersion,omitzero"`

	CapabilitySchemas map[string]CapabilitySchemas `json:"capabilitySchemas,omitzero"` // left out of lists
}

// Definition is a stored definition as shown by queries, the CLI and the HTTP API.
type Definition struct {
	WorkflowID      string    `json:"workflowId"`
	WorkflowVersion string    `json:"workflowVersion"`
	Name            string    `json:"name"`
	Tasks           int       `json:"tasks"`
	AppliedAt       time.Time `json:"appliedAt"`
	Paused          bool      `json:"paused,omitzero"`     // runs that are started of it wait as pending
	Definition      Raw       `json:"definition,omitzero"` // left out of lists
}

// Fact is what became of an agent or a run. Epoch and Version order the facts about one id; a receiver drops lower ones.
type Fact struct {
	ID      string    `json:"id"`
	Epoch   uint64    `json:"epoch"`
	Version uint64    `json:"version"`
	At      time.Time `json:"at"`
	Cause   string    `json:"cause"`
	Agent   *Agent    `json:"agent,omitzero"`
	Run     *Run      `json:"run,omitzero"`
}

// List is one page of a query's answer.
type List[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"nextCursor,omitzero"`
}
