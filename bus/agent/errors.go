package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/opspawn/opscore/bus/event"
)

// Why an agent stopped, and why the context of a handler was cancelled (see [context.Cause]). A handler whose deadline has
// passed has the cause [context.DeadlineExceeded].
var (
	// ErrReplaced means that another process has registered under the agent's id.
	ErrReplaced = errors.New("agent: another process has taken over this agent id")
	// ErrCancelled means that Ops-Core no longer wants the attempt. Its result will be dropped.
	ErrCancelled = errors.New("agent: the attempt was cancelled")
	// ErrInterrupted means that the agent is stopping and its drain time is nearly over. An error returned now fails the attempt
	// with CodeInterrupted, so that another agent can take it at once.
	ErrInterrupted = errors.New("agent: the agent is stopping")
	// ErrNotRunning is returned by methods that need a running agent.
	ErrNotRunning = errors.New("agent: not running")
)

// The codes of failed attempts that the SDK itself gives; [Fail] gives others.
const (
	CodeFailed      = "failed"      // the handler returned an error without a code
	CodePanic       = "panic"       // the handler panicked
	CodeTimeout     = "timeout"     // the handler gave up at the task's deadline
	CodeInterrupted = "interrupted" // the handler gave up because the agent is stopping
	CodeBadInput    = "bad_input"   // Bind could not decode the input; not retryable
	CodeBadOutput   = "bad_output"  // the output cannot be encoded as JSON; not retryable
	CodeTooLarge    = "too_large"   // the output is over the limit of the wire; not retryable
)

// Fail returns an error that fails the attempt with a code that workflows can match; an empty one means CodeFailed. The attempt may be retried, unless the
// error is also wrapped by [Permanent]. The message is cut to 4 KiB.
func Fail(code, message string) error { return &codeError{code, message} }

// Permanent wraps an error so that the attempt fails for good: no retry can help. It returns nil if err is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// RetryAfter wraps an error so that the next attempt begins no sooner than after d. It returns nil if err is nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{err, d}
}

type codeError struct{ code, message string }

func (e *codeError) Error() string { return e.message }

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

type retryAfterError struct {
	err   error
	after time.Duration
}

func (e *retryAfterError) Error() string { return e.err.Error() }
func (e *retryAfterError) Unwrap() error { return e.err }

// UnreportedError is returned by [Run] when the drain time was over before everything was said: the streams may not have the
// results of these attempts, and Ops-Core will give the tasks to others when their leases end.
type UnreportedError struct {
	// Results are the attempts that ended but whose results no stream has acknowledged.
	Results []event.AttemptRef
	// Running are the attempts whose handlers did not return after their contexts were cancelled. Their goroutines still run.
	Running []event.AttemptRef
}

// Error lists the attempts.
func (e *UnreportedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "agent: drain time is over: %d results not stored, %d handlers still running:", len(e.Results), len(e.Running))
	const shown = 10
	for i, ref := range append(append([]event.AttemptRef(nil), e.Results...), e.Running...) {
		if i == shown {
			b.WriteString(" …")
			break
		}
		fmt.Fprintf(&b, " %s/%s/%d", ref.RunID, ref.TaskID, ref.Attempt)
	}
	return b.String()
}

// taskError turns what a handler returned into what is reported. The handler's context tells an error of its own from
// giving up because it was told to.
func taskError(ctx context.Context, err error) *event.TaskError {
	e := &event.TaskError{Code: CodeFailed, Message: clip(err.Error(), event.MaxErrorText)}
	var (
		code      *codeError
		permanent *permanentError
		after     *retryAfterError
	)
	if errors.As(err, &code) {
		e.Code = cmp.Or(code.code, CodeFailed) // the wire wants a code
	} else if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrInterrupted) {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, ErrInterrupted):
			e.Code = CodeInterrupted
		case errors.Is(cause, context.DeadlineExceeded):
			e.Code = CodeTimeout
		}
	}
	if errors.As(err, &permanent) {
		e.Retryable = new(false)
	}
	if errors.As(err, &after) {
		e.RetryAfterMs = max(0, after.after.Milliseconds())
	}
	return e
}

// clip makes text valid UTF-8 of at most limit bytes, cut between characters.
func clip(text string, limit int) string {
	text = strings.ToValidUTF8(text, string(utf8.RuneError))
	if len(text) <= limit {
		return text
	}
	const more = "…"
	cut := limit - len(more)
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + more
}
