package event

import (
	"fmt"
	"strings"
	"time"
)

// Code is the machine-readable reason of a refusal; it is also the class of a dead letter.
type Code string

// The codes of refusals.
const (
	CodeMalformed         Code = "malformed"          // not JSON, wrong type, missing member, unknown subject
	CodeInvalid           Code = "invalid"            // well-formed, but it makes no sense
	CodeTooLarge          Code = "too_large"          // over a limit of the wire
	CodeUnknownAgent      Code = "unknown_agent"      // no such agent is registered
	CodeUnknownRun        Code = "unknown_run"        // no such run
	CodeUnknownDefinition Code = "unknown_definition" // no such workflow definition
	CodeUnknownSchedule   Code = "unknown_schedule"   // no such schedule
	CodeConflict          Code = "conflict"           // the same id was used with another body
	CodeStaleAttempt      Code = "stale_attempt"      // the attempt is not the current one, or it has ended
	CodeStaleInstance     Code = "stale_instance"     // another process of the agent has taken over
	CodeForbidden         Code = "forbidden"          // the caller may not do this
	CodeNotAllowedNow     Code = "not_allowed_now"    // the state of the document does not allow it
	CodeExpired           Code = "expired"            // its caller had stopped waiting before it was begun
	CodeUnavailable       Code = "unavailable"        // try again later
	CodePanic             Code = "panic"              // the message made its handler panic
	CodeRetriesSpent      Code = "retries_spent"      // of dead letters only: a task failed in its last attempt
	CodeUndelivered       Code = "undelivered"        // of dead letters only: what had to be sent was given up
	CodeUnknownLetter     Code = "unknown_letter"     // no such dead letter
	CodeInternal          Code = "internal"           // an error of Ops-Core itself
)

// Error is a refusal: a code for machines and a message that says what to do.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Details Raw    `json:"details,omitzero"`
}

// Errorf makes an Error with a formatted message. What it quotes may come from anywhere, so the message is made valid UTF-8 and
// cut to MaxErrorText.
func Errorf(code Code, format string, args ...any) *Error {
	text := fmt.Sprintf(format, args...)
	if len(text) > MaxErrorText {
		const cut = " [cut]"
		text = text[:MaxErrorText-len(cut)] + cut
	}
	return &Error{Code: code, Message: strings.ToValidUTF8(text, "")}
}

// Error returns "code: message".
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Is makes errors.Is match any *Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Outcome is said on the inbox of HeaderReply after the commit. Version is the change count of the document that the message was about;
// the other members say which.
type Outcome struct {
	OK              bool   `json:"ok"`
	Version         uint64 `json:"version,omitzero"`
	Seq             uint64 `json:"seq,omitzero"` // stream sequence of the message that was judged
	Epoch           string `json:"epoch,omitzero"`
	Held            bool   `json:"held,omitzero"` // kept for the registration that may follow (old clients)
	RunID           string `json:"runId,omitzero"`
	WorkflowID      string `json:"workflowId,omitzero"`
	WorkflowVersion string `json:"workflowVersion,omitzero"`
	State           string `json:"state,omitzero"` // of the run
	Error           *Error `json:"error,omitzero"`

	// ConsumedAt and CommittedAt come with the headers of that name; zero if the outcome had none.
	ConsumedAt  time.Time `json:"-"`
	CommittedAt time.Time `json:"-"`
}

// Refused makes the Outcome of a refusal.
func Refused(err *Error) *Outcome { return &Outcome{Error: err} }
