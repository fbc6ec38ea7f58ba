package event

// SubjectPollAll is where bridges hear that an agent asks for a task by HTTP, on core NATS.
const SubjectPollAll = Root + ".poll.*"

// PollSubject is where a bridge says that an agent has begun to ask for a task by HTTP: a Poll.
func PollSubject(agentToken string) string { return Root + ".poll." + agentToken }

// Poll is a hint between replicas: a process of an agent now waits for a task at the replica From, and nowhere else. It may be lost.
type Poll struct {
	From     string `json:"from"`
	Instance string `json:"instance,omitzero"`
	Gone     bool   `json:"gone,omitzero"` // it waits nowhere: it has begun anew, or goes
}
