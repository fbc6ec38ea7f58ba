package bridge

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// reply is what the workflow engine is told about a request.
type reply struct {
	nobody bool // it never reached the agent
	silent bool // nothing: the engine asks again
	body   any  // an event.TaskAnswer or event.CancelAnswer
}

// LogValue shows what was answered.
func (r reply) LogValue() slog.Value {
	switch {
	case r.nobody:
		return slog.StringValue("nobody")
	case r.silent:
		return slog.StringValue("none")
	}
	return slog.AnyValue(r.body)
}

func accepted() reply { return reply{body: event.TaskAnswer{Status: event.AnswerAccepted}} }

// rejected says that the agent did not take the task, and when to offer it one again; 0 leaves that to the engine.
func rejected(reason string, after time.Duration) reply {
	return reply{body: event.TaskAnswer{Status: event.AnswerRejected, Reason: reason, RetryAfterMs: after.Milliseconds()}}
}

// posted is what came back.
type posted struct {
	status int
	header http.Header
	body   []byte
}

func (p *posted) ok() bool { return p.status/100 == 2 }

// errNotSent says that a request certainly has not reached anybody.
var errNotSent = errors.New("not sent")

// busyError says that a request was not begun, because of a bound or because its target is known to be down.
type busyError struct {
	reason string
	after  time.Duration
}

// Error returns the reason.
func (e *busyError) Error() string { return e.reason }

// judgeTask turns what came back for a task into the answer of the agent. Once a request was sent the agent may be at work, so whatever
// is not known counts as accepted: the task's lease finds out.
func judgeTask(p *posted, err error) reply {
	var busy *busyError
	switch {
	case errors.As(err, &busy):
		return rejected(busy.reason, busy.after)
	case errors.Is(err, errNotSent):
		return reply{nobody: true}
	case err != nil, p.status == http.StatusGatewayTimeout: // which says of another server what the error says of this one
		return accepted()
	case p.status == http.StatusTooManyRequests || p.status == http.StatusServiceUnavailable:
		return rejected(statusReason(p.status), retryAfterOf(p.header, time.Now()))
	case !p.ok():
		return rejected(statusReason(p.status), 0)
	}
	var answer event.TaskAnswer
	if event.Unmarshal(p.body, &answer) == nil && answer.Status == event.AnswerRejected {
		answer.RetryAfterMs = min(max(answer.RetryAfterMs, 0), maxRetryAfter.Milliseconds())
		return reply{body: answer}
	}
	return accepted()
}

// judgeCancel turns what came back for a cancel into the answer of the agent.
func judgeCancel(p *posted, err error) reply {
	switch {
	case errors.Is(err, errNotSent):
		return reply{nobody: true}
	case err != nil:
		return reply{silent: true}
	case p.status == http.StatusNotFound || p.status == http.StatusGone:
		return reply{body: event.CancelAnswer{Status: event.AnswerUnknown}}
	case !p.ok():
		return reply{silent: true}
	}
	var answer event.CancelAnswer
	if event.Unmarshal(p.body, &answer) == nil {
		switch answer.Status {
		case event.AnswerCancelled, event.AnswerUnknown, event.AnswerFinished:
			return reply{body: answer}
		}
	}
	return reply{body: event.CancelAnswer{Status: event.AnswerCancelled}}
}

func statusReason(status int) string { return "http_status_" + strconv.Itoa(status) }

// maxRetryAfter bounds how long an agent can ask to be left alone.
const maxRetryAfter = 15 * time.Minute

// retryAfterOf reads the header Retry-After, seconds or a date; 0 if there is none that can be read.
func retryAfterOf(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(min(max(seconds, 0), int(maxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}
