package event

import "time"

// RunExplanation says what a run waits for, and why.
type RunExplanation struct {
	RunID string            `json:"runId"`
	State RunState          `json:"state"`
	Text  string            `json:"text"`           // for people
	Tasks []TaskExplanation `json:"tasks"`          // active ones; at most 50
	More  int               `json:"more,omitzero"`  // active tasks that are not listed
	Error *TaskError        `json:"error,omitzero"` // why it failed
	Since *time.Time        `json:"since,omitzero"` // when it ended, or was created
}

// TaskExplanation says what one task waits for.
type TaskExplanation struct {
	TaskID  string      `json:"taskId"`
	State   TaskState   `json:"state"`
	Text    string      `json:"text"`             // for people, one sentence
	Unblock string      `json:"unblock,omitzero"` // what would let it go on, one sentence
	Since   *time.Time  `json:"since,omitzero"`   // when it came into this state
	Until   *time.Time  `json:"until,omitzero"`   // when something happens to it without anybody doing anything
	Queue   *Queue      `json:"queue,omitzero"`   // where it waits for an agent
	Place   int         `json:"place,omitzero"`   // its place in that queue: 1 is next
	Agents  int         `json:"agents,omitzero"`  // registered agents that were asked why they do not take it
	Rules   []RuleCount `json:"rules,omitzero"`   // why not, the rule that is least in the way first
	Refused []Refusal   `json:"refused,omitzero"` // the same for single agents, at most 20, in that order
}

// RuleCount is how many agents a rule refuses.
type RuleCount struct {
	Rule   string `json:"rule"`
	Agents int    `json:"agents"`
}

// AgentExplanation says why an agent is given nothing, and what it could be given.
type AgentExplanation struct {
	AgentID   string   `json:"agentId"`
	Available bool     `json:"available"`
	Text      string   `json:"text"`             // for people
	Unblock   string   `json:"unblock,omitzero"` // what would let it be given a task, one sentence
	Refusal   *Refusal `json:"refusal,omitzero"` // absent when it would be given a task
	Held      int      `json:"held"`             // tasks it has
	Slots     int      `json:"slots"`            // tasks it can have
	Queues    []Queue  `json:"queues"`           // in which tasks wait that it could do
	Others    int      `json:"others,omitzero"`  // queues in which tasks wait that it is not asked for
}

// Queue is the tasks that ask for the same kind of agent.
type Queue struct {
	AgentID    string            `json:"agentId,omitzero"`    // the one agent they can go to
	Bound      bool              `json:"bound,omitzero"`      // because it has worked on their runs before
	Capability string            `json:"capability,omitzero"` // what the agent must offer
	Version    string            `json:"version,omitzero"`    // the range its version must be in
	Labels     map[string]string `json:"labels,omitzero"`     // what it must have
	Spread     bool              `json:"spread,omitzero"`     // the agent with the fewest tasks is preferred
	Waiting    int               `json:"waiting"`             // tasks that are ready
	Paused     bool              `json:"paused,omitzero"`     // nothing is given out
	Reason     string            `json:"reason,omitzero"`     // given when it was paused
	PausedAt   *time.Time        `json:"pausedAt,omitzero"`
	Unfit      []string          `json:"unfit,omitzero"` // names of input schemas of agents that what waits here does not fit
}
