package bus

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// Msg is a message of a stream in the hands of a handler.
type Msg struct {
	Subject   string
	Header    nats.Header // nil without headers
	Data      []byte
	Stream    string
	Seq       uint64    // in Stream
	Time      time.Time // stream timestamp, UTC
	Delivered uint64    // how often it was delivered, this time included
	Verdict   Verdict

	reply   string    // subject of the acknowledgement
	size    int       // bytes it counts for
	arrived time.Time // when it was received
	renewed time.Time // when it was received, or its ownership last renewed
	caught  *caughtPanic
}

// Verdict is what a handler decided about a message.
type Verdict struct {
	Kind    VerdictKind
	After   time.Duration  // of VerdictLater
	Err     *event.Error   // of VerdictDead
	Outcome *event.Outcome // of VerdictDone; nil: nobody is answered
}

// VerdictKind says what becomes of a message.
type VerdictKind uint8

// The kinds of verdicts.
const (
	VerdictNone  VerdictKind = iota // none yet: the message is kept
	VerdictDone                     // its effect is committed, or it has none: acknowledged
	VerdictLater                    // delivered again after a while
	VerdictDead                     // stored as a dead letter, then acknowledged
)

// Done says that the message was handled. The outcome, unless nil, is sent to whoever waits for it.
func (m *Msg) Done(o *event.Outcome) { m.Verdict = Verdict{Kind: VerdictDone, Outcome: o} }

// Later asks for another delivery after the given time, 10 ms at least. Until then the message counts against the
// consumer's MaxAckPending, so it is for a few messages and short times.
func (m *Msg) Later(after time.Duration) { m.Verdict = Verdict{Kind: VerdictLater, After: after} }

// Dead says that the message can never be handled, and why. It becomes a dead letter, and err is the answer to whoever waits.
func (m *Msg) Dead(err *event.Error) { m.Verdict = Verdict{Kind: VerdictDead, Err: err} }

// Key returns the last token of the subject, which names what the message is about.
func (m *Msg) Key() string { return event.Key(m.Subject) }

// Expired reports whether the message carries a deadline that has passed. The deadline counts from the stream timestamp; a message
// without one, or with one that is not a number, never expires.
func (m *Msg) Expired(now time.Time) bool {
	v := m.Header.Get(event.HeaderDeadline)
	if v == "" {
		return false
	}
	ms, err := strconv.ParseInt(v, 10, 64)
	if err != nil || ms < 0 || ms > int64(24*time.Hour/time.Millisecond)*365 {
		return false
	}
	return now.After(m.Time.Add(time.Duration(ms) * time.Millisecond))
}

// outcome returns what to say to whoever waits for the message, nil if nothing.
func (m *Msg) outcome() *event.Outcome {
	switch m.Verdict.Kind {
	case VerdictDone:
		return m.Verdict.Outcome
	case VerdictDead:
		return event.Refused(m.Verdict.Err)
	default:
		return nil
	}
}
