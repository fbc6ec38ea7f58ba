package event

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Raw is a JSON value that is carried as it was written: members keep their order and numbers their digits. Only white space between
// tokens and needless escapes in strings are lost.
type Raw = jsontext.Value

// Event is one of the intake messages of this package: *Register, *Deregister, *State, *Accepted, *Progress, *Result,
// *WorkflowApply, *WorkflowCommand, *RunStart, *RunCommand, *ScheduleApply, *ScheduleCommand, *AgentCommand.
type Event interface {
	// check returns the first rule beyond JSON types that the event breaks, or nil.
	check(body []byte) *Error
}

// Delivery is how tasks reach an agent.
type Delivery string

// The ways to deliver a task.
const (
	DeliveryNATS     Delivery = "nats"     // a core NATS request on TaskSubject
	DeliveryHTTP     Delivery = "http"     // a signed POST to the agent's endpoint
	DeliveryPoll     Delivery = "poll"     // the agent asks by HTTP
	DeliveryAgentKit Delivery = "agentkit" // a POST in AgentKit's shape
)

// Register makes an agent known, or changes what is known of it. Level.
type Register struct {
	AgentID          string            `json:"agentId,omitzero"`
	AgentName        string            `json:"agentName"`
	Version          string            `json:"version"`
	Capabilities     []string          `json:"capabilities"`
	Slots            int               `json:"slots,omitzero"` // tasks at the same time; absent or 0 means DefaultSlots
	Labels           map[string]string `json:"labels,omitzero"`
	Metadata         Raw               `json:"metadata,omitzero"` // an object
	ContactEndpoint  string            `json:"contactEndpoint,omitzero"`
	Delivery         Delivery          `json:"delivery,omitzero"`         // empty means DeliveryNATS
	HeartbeatSeconds float64           `json:"heartbeatSeconds,omitzero"` // 0: unwatched until the first heartbeat
	Instance         string            `json:"instance,omitzero"`         // one process of the agent; another one opens a new epoch

	CapabilitySchemas map[string]CapabilitySchemas `json:"capabilitySchemas,omitzero"` // by capability
}

// CapabilitySchemas say what an agent takes and gives when it does tasks of a capability, as JSON Schemas that stand for themselves. Each may be absent.
type CapabilitySchemas struct {
	Input  Raw `json:"input,omitzero"`  // a task whose input does not fit is not given to the agent
	Output Raw `json:"output,omitzero"` // an output that does not fit is a failed attempt
}

// Deregister removes an agent. Level: it voids what was said of the agent before it in the stream.
type Deregister struct {
	AgentID  string `json:"agentId,omitzero"`
	Reason   string `json:"reason,omitzero"`
	Instance string `json:"instance,omitzero"`
}

// State is what an agent says of itself, in its own words. Level.
type State struct {
	AgentID   string `json:"agentId,omitzero"`
	State     string `json:"state"`
	Timestamp string `json:"timestamp,omitzero"` // the agent's clock: shown, never used for order
	Details   Raw    `json:"details,omitzero"`   // an object or null, at most MaxDetails bytes
	Instance  string `json:"instance,omitzero"`
}

// AttemptRef names one attempt of one task, the fence of everything that is said about it. A Token that is present must
// match; without one the attempt number alone decides.
type AttemptRef struct {
	RunID   string `json:"runId"`
	TaskID  string `json:"taskId"`
	Attempt int    `json:"attempt"`
	Token   string `json:"token,omitzero"`
}

// Accepted says that an agent has taken a task whose request it could not answer. Edge.
type Accepted struct {
	AgentID string `json:"agentId,omitzero"`
	AttemptRef
	Instance string `json:"instance,omitzero"`
}

// Progress says that a task is being worked on, and renews its lease. Edge, but any one may be lost.
type Progress struct {
	AgentID string `json:"agentId,omitzero"`
	AttemptRef
	Message  string   `json:"message,omitzero"`
	Percent  *float64 `json:"percent,omitzero"`
	Data     Raw      `json:"data,omitzero"`
	Instance string   `json:"instance,omitzero"`
}

// Status is how an attempt ended.
type Status string

// The two ends of an attempt.
const (
	StatusCompleted Status = "completed"
	StatusFailed    Status = "failed"
)

// Result ends an attempt. Edge. It also counts as the acceptance.
type Result struct {
	AgentID string `json:"agentId,omitzero"`
	AttemptRef
	Status   Status     `json:"status"`
	Output   Raw        `json:"output,omitzero"`
	Error    *TaskError `json:"error,omitzero"`
	Usage    *Usage     `json:"usage,omitzero"`
	Instance string     `json:"instance,omitzero"`
}

// TaskError says why an attempt failed. Without Retryable it is retryable.
type TaskError struct {
	Code         string `json:"code"`
	Message      string `json:"message"`
	Retryable    *bool  `json:"retryable,omitzero"`
	RetryAfterMs int64  `json:"retryAfterMs,omitzero"`
	Details      Raw    `json:"details,omitzero"` // of a run's error; what agents send here is dropped
}

// Usage is what an attempt cost.
type Usage struct {
	Tokens     int64 `json:"tokens,omitzero"`
	CostMicros int64 `json:"costMicros,omitzero"` // millionths of the account's currency
	Ms         int64 `json:"ms,omitzero"`
	Calls      int64 `json:"calls,omitzero"`
}

// Heartbeat is the body of a beat on core NATS; an empty body is one too.
type Heartbeat struct {
	Instance string   `json:"instance,omitzero"`
	Load     *float64 `json:"load,omitzero"`
}

// Task is the request that hands a task to an agent. The same attempt may be asked twice when an answer was lost: an agent
// that has it answers accepted again and does not start it twice.
type Task struct {
	RunID           string     `json:"runId"`
	WorkflowID      string     `json:"workflowId"`
	WorkflowVersion string     `json:"workflowVersion"`
	TaskID          string     `json:"taskId"`
	Attempt         int        `json:"attempt"`
	Name            string     `json:"name,omitzero"`
	Capability      string     `json:"capability,omitzero"`
	Input           Raw        `json:"input"`             // an object
	Token           string     `json:"token"`             // to be echoed in progress and result
	Instance        string     `json:"instance,omitzero"` // the process it is meant for; others ignore it
	Deadline        time.Time  `json:"deadline"`          // on the clock of Ops-Core
	PreviousError   *TaskError `json:"previousError,omitzero"`
	ParentRunID     string     `json:"parentRunId,omitzero"` // the run that started this one
	ItemIndex       *int       `json:"itemIndex,omitzero"`   // from 0: which item of a forEach this is, or how often a loop had gone round
}

// Ref returns what the agent must echo.
func (t *Task) Ref() AttemptRef {
	return AttemptRef{RunID: t.RunID, TaskID: t.TaskID, Attempt: t.Attempt, Token: t.Token}
}

// The answers to a task request and to a cancel request.
const (
	AnswerAccepted  = "accepted"
	AnswerRejected  = "rejected"
	AnswerCancelled = "cancelled"
	AnswerUnknown   = "unknown"
	AnswerFinished  = "finished"
)

// TaskAnswer is an agent's answer to a task request: AnswerAccepted or AnswerRejected.
type TaskAnswer struct {
	Status       string `json:"status"`
	Reason       string `json:"reason,omitzero"`
	RetryAfterMs int64  `json:"retryAfterMs,omitzero"`
}

// Cancel asks an agent to stop an attempt.
type Cancel struct {
	RunID   string `json:"runId"`
	TaskID  string `json:"taskId"`
	Attempt int    `json:"attempt"`
	Reason  string `json:"reason"`
}

// CancelAnswer is an agent's answer to a cancel request: AnswerCancelled, AnswerUnknown or AnswerFinished.
type CancelAnswer struct {
	Status string `json:"status"`
}
