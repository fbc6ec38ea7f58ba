package event

import (
	"time"

	"github.com/go-json-experiment/json"
)

// MaxDeadHops is how often a message may come back as a dead letter and be sent again unchanged or edited; after that somebody has to look.
const MaxDeadHops = 5

// DeadLetter is a message that could not be handled, as shown by queries, the CLI and the HTTP API.
type DeadLetter struct {
	Seq       uint64              `json:"seq"` // its name: its place in StreamDead
	Class     Code                `json:"class"`
	Reason    string              `json:"reason"`
	Subject   string              `json:"subject"`            // where it was sent to
	Stream    string              `json:"stream,omitzero"`    // that carried it, empty if none did
	StreamSeq uint64              `json:"streamSeq,omitzero"` // its place there
	AgentID   string              `json:"agentId,omitzero"`   // it is about, as far as it tells
	RunID     string              `json:"runId,omitzero"`     // it is about, as far as it tells
	FirstAt   time.Time           `json:"firstAt"`            // when it was said
	LastAt    time.Time           `json:"lastAt"`             // when it was given up
	Count     uint64              `json:"count"`              // how often it was tried
	Hops      int                 `json:"hops,omitzero"`      // how often it was sent again before
	Header    map[string][]string `json:"header,omitzero"`    // its own headers
	Size      int                 `json:"size"`               // bytes of its body
	Truncated bool                `json:"truncated,omitzero"` // only the beginning of the body was kept
	Body      Raw                 `json:"body,omitzero"`      // if it is JSON; lists leave it out, and the two below
	Text      string              `json:"text,omitzero"`      // if it is text
	Base64    []byte              `json:"base64,omitzero"`    // if it is neither
}

// DeadList is one page of dead letters, oldest first, and what is known of all of them.
type DeadList struct {
	Items      []DeadLetter `json:"items"`
	NextCursor string       `json:"nextCursor,omitzero"`
	Letters    uint64       `json:"letters"`          // stored, whatever the filter
	LastSeq    uint64       `json:"lastSeq"`          // of the youngest letter there ever was
	Bytes      int64        `json:"bytes"`            // they take
	MaxBytes   int64        `json:"maxBytes"`         // they may take; then the oldest are dropped
	Evicted    uint64       `json:"evicted,omitzero"` // dropped for that since the server began to count
}

// DeadFilter says which dead letters are meant. An empty member means any.
type DeadFilter struct {
	Class   Code
	Subject string // with the wildcards of NATS
	AgentID string
	RunID   string
	Since   time.Time // given up at that time or later
}

// Matches reports whether a letter is meant.
func (f *DeadFilter) Matches(l *DeadLetter) bool {
	return (f.Class == "" || f.Class == l.Class) && (f.AgentID == "" || f.AgentID == l.AgentID) && (f.RunID == "" || f.RunID == l.RunID) &&
		!l.LastAt.Before(f.Since) && (f.Subject == "" || MatchSubject(f.Subject, l.Subject))
}

// Replayed is what became of sending a dead letter again.
type Replayed struct {
	Seq       uint64 `json:"seq"` // of the letter
	Subject   string `json:"subject"`
	Stream    string `json:"stream"`
	StreamSeq uint64 `json:"streamSeq"`      // where the message stands now
	Again     bool   `json:"again,omitzero"` // it had been sent already: it was not sent a second time
}

// About names the agent and the run that an intake message is about, as far as its subject and body tell.
func About(subject string, body []byte) (agent, run string) {
	a, err := ParseSubject(subject)
	if err != nil {
		return "", ""
	}
	switch newEvent(a).(type) {
	case *Register, *Deregister, *State, *AgentCommand:
		return a.ID, ""
	case *RunStart, *RunCommand:
		return "", a.ID
	case *Accepted, *Progress, *Result:
		var ref struct {
			RunID string `json:"runId"`
		}
		if json.Unmarshal(body, &ref) != nil {
			ref.RunID = ""
		}
		return a.ID, ref.RunID
	}
	return "", ""
}
