package bridge

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
)

const (
	maxRemembered = 10_000 // requests that are remembered
	maxReason     = 512    // bytes of a reason that are kept of each
)

// steps are the steps of a request in their order; a stage is an index of it.
var steps = [...]event.Step{
	event.StepReceived, event.StepAuthenticated, event.StepPublished, event.StepConsumed, event.StepCommitted, event.StepAnswered,
}

type stage uint8

const (
	received stage = iota
	authenticated
	published
	consumed
	committed
	answered
)

// trace is how far a request came, and why not farther.
type trace struct {
	id, method, route, subject string
	key                        string // name of the key that was shown, empty if it has none

	status int
	ack    bus.Ack
	at     [len(steps)]time.Time
	failed stage
	reason string // of failed; empty: nothing did
	note   string // on committed
}

// isRead reports whether the request could change nothing.
func (t *trace) isRead() bool { return t.method == http.MethodGet || t.method == http.MethodHead }

// reach notes that a stage was passed.
func (t *trace) reach(s stage, at time.Time) { t.at[s] = at }

// stored notes which message the request became.
func (t *trace) stored(subject string, ack bus.Ack) {
	t.subject, t.ack = subject, ack
	t.at[published] = ack.At
}

// judged notes what came with the outcome.
func (t *trace) judged(o *event.Outcome) {
	t.at[consumed], t.at[committed] = o.ConsumedAt, o.CommittedAt
}

// refuse notes why the request is refused, at the stage that it did not pass.
func (t *trace) refuse(status int, reason string) {
	t.reason = clip(reason, maxReason)
	switch {
	case !t.at[published].IsZero():
		t.failed = committed
	case !t.at[authenticated].IsZero() && t.isRead():
		t.failed = answered
	case !t.at[authenticated].IsZero():
		t.failed = published
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		t.failed = authenticated
	default: // its form is wrong, or there is no such route
		t.failed = received
	}
}

// sequence names the message that the request became, empty if it became none.
func (t *trace) sequence() string {
	if t.ack.Seq == 0 {
		return ""
	}
	return t.ack.Stream + "/" + strconv.FormatUint(t.ack.Seq, 10)
}

// shown is the trace as others see it.
func (t *trace) shown() *event.RequestTrace {
	r := &event.RequestTrace{
		RequestID: t.id, Method: t.method, Route: t.route, Key: t.key, Subject: t.subject, Sequence: t.sequence(), Status: t.status,
		Steps: make([]event.RequestStep, 0, len(steps)),
	}
	for s, name := range steps {
		step := event.RequestStep{Step: name, At: t.at[s].UTC()}
		if t.reason != "" && t.failed == stage(s) {
			step.Error = t.reason
		}
		if stage(s) == committed {
			step.Note = t.note
		}
		if !t.at[s].IsZero() || step.Error != "" || step.Note != "" {
			r.Steps = append(r.Steps, step)
		}
	}
	return r
}

// clip cuts a text to n bytes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

// requestLog remembers the last requests: writes, and reads that were refused.
type requestLog struct {
	mu   sync.Mutex
	ring []trace        // grows to maxRemembered; then the oldest gives way
	next int            // where the next one goes
	byID map[string]int // the youngest of each id
}

func (l *requestLog) add(t *trace) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID == nil {
		l.byID = make(map[string]int)
	}
	if len(l.ring) < maxRemembered {
		l.ring = append(l.ring, *t)
	} else {
		if old := l.ring[l.next].id; l.byID[old] == l.next {
			delete(l.byID, old)
		}
		l.ring[l.next] = *t
	}
	l.byID[t.id] = l.next
	l.next = (l.next + 1) % maxRemembered
}

// get returns what is remembered of a request, nil if nothing is.
func (l *requestLog) get(id string) *event.RequestTrace {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, ok := l.byID[id]
	if !ok {
		return nil
	}
	return l.ring[i].shown()
}
