package event

import "time"

// Transition is one change of the state of a run, or of one of its tasks.
type Transition struct {
	At      time.Time `json:"at,omitzero"`     // server's clock, when it was decided
	Cause   string    `json:"cause"`           // what made it: the kind of the event, the command or the timer
	TaskID  string    `json:"taskId,omitzero"` // empty: the run itself
	From    string    `json:"from,omitzero"`   // empty: it is new
	To      string    `json:"to"`              // a RunState or a TaskState
	Attempt int       `json:"attempt,omitzero"`
	AgentID string    `json:"agentId,omitzero"`
	Code    string    `json:"code,omitzero"`    // of the error that it left behind
	Message string    `json:"message,omitzero"` // of that error, shortened
}

// RunHistory is the timeline of a run, oldest first. Dropped counts the transitions before the first one shown, which are no longer kept.
type RunHistory struct {
	RunID   string       `json:"runId"`
	Items   []Transition `json:"items"`
	Dropped int          `json:"dropped,omitzero"`
}
