package event

import "time"

// RequestTrace is what a process with an HTTP API remembers of a request that it has answered.
type RequestTrace struct {
	RequestID string        `json:"requestId"` // the X-Request-Id of the answer
	Method    string        `json:"method"`
	Route     string        `json:"route"`             // the pattern of the path
	Key       string        `json:"key,omitzero"`      // name of the key that was shown
	Subject   string        `json:"subject,omitzero"`  // of the message it became
	Sequence  string        `json:"sequence,omitzero"` // of the stored message: stream/sequence
	Status    int           `json:"status"`            // of the answer
	Steps     []RequestStep `json:"steps"`             // in their order, those that were reached and the one that was not
}

// RequestStep is one step of a request: when it was done, why not, or both.
type RequestStep struct {
	Step  Step      `json:"step"`
	At    time.Time `json:"at,omitzero"` // by the clock of the replica that did it
	Error string    `json:"error,omitzero"`
	Note  string    `json:"note,omitzero"`
}

// Step names a step of a request.
type Step string

// The steps of a request.
const (
	StepReceived      Step = "received"      // its header was read
	StepAuthenticated Step = "authenticated" // it may
	StepPublished     Step = "published"     // it makes sense, and its message is stored in a stream
	StepConsumed      Step = "consumed"      // a consumer has got the message
	StepCommitted     Step = "committed"     // its effect is stored, or the reason of its refusal is known
	StepAnswered      Step = "answered"      // the answer was begun
)
