package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
	"weak"

	"github.com/opspawn/opscore/bus/event"
)

func ref(run string, number int) event.AttemptRef {
	return event.AttemptRef{RunID: run, TaskID: "t", Attempt: number, Token: fmt.Sprintf("%s#%d", run, number)}
}

func (t *attempts) try(r event.AttemptRef) (verdict, *attempt) {
	_, cancel := context.WithCancelCause(context.Background())
	return t.begin(r, cancel, false)
}

// TestAttempts_Begin is the whole table: what is known of a task, what is asked, what follows.
func TestAttempts_Begin(t *testing.T) {
	t.Parallel()
	anotherToken := ref("r", 2)
	anotherToken.Token = "another"
	for _, phase := range []phase{running, finished, cancelled} {
		for _, test := range []struct {
			name string
			ask  event.AttemptRef
			want map[int]verdict // by the free slots
		}{
			{"Same", ref("r", 2), map[int]verdict{0: repeated, 1: repeated}},
			{"Older", ref("r", 1), map[int]verdict{0: outdated, 1: outdated}},
			{"Newer", ref("r", 3), map[int]verdict{0: full, 1: start}},
			{"SameNumberOtherToken", anotherToken, map[int]verdict{0: full, 1: start}},
			{"OtherRun", ref("q", 1), map[int]verdict{0: full, 1: start}},
		} {
			for free, want := range test.want {
				if test.name == "Same" && phase == cancelled {
					want = outdated
				}
				t.Run(fmt.Sprintf("%d/%s/%d", phase, test.name, free), func(t *testing.T) {
					a := inPhase(phase, free)
					if got, _ := a.try(test.ask); got != want {
						t.Errorf("got %d, want %d", got, want)
					}
				})
			}
		}
	}
}

// inPhase makes a table that knows attempt 2 of a task in a phase and has a number of free slots.
func inPhase(p phase, free int) *attempts {
	t := newAttempts(1)
	_, a := t.try(ref("r", 2))
	switch p {
	case running:
		t.slots = 1 + free
	case cancelled:
		t.stop("r", "t", 2, ErrCancelled)
		t.slots = 1 + free
	case finished:
		t.end(a, time.Now())
		t.slots = free
	}
	return t
}

func TestAttempts_BacklogAndClosing(t *testing.T) {
	t.Parallel()
	a := newAttempts(2)
	_, first := a.try(ref("r", 1))
	if v, _ := a.begin(ref("s", 1), nil, true); v != crowded {
		t.Errorf("with a backlog: %d", v)
	}
	idle := a.close()
	if v, _ := a.try(ref("s", 1)); v != closed {
		t.Errorf("closed: %d", v)
	}
	if v, _ := a.try(ref("r", 1)); v != repeated {
		t.Errorf("closed, an attempt it has: %d", v)
	}
	a.end(first, time.Now())
	a.done()
	select {
	case <-idle:
	case <-time.After(time.Minute):
		t.Error("not idle after the last handler")
	}
}

func TestAttempts_MemoryIsBounded(t *testing.T) {
	t.Parallel()
	a := newAttempts(1)
	now := time.Now()
	const n = maxEnded + 1000
	for i := range n {
		v, at := a.try(ref(fmt.Sprint(i), 1))
		if v != start || !a.end(at, now) {
			t.Fatal("not started or not wanted")
		}
		a.remember(at, &message{body: make([]byte, 100)})
	}
	if len(a.latest) != maxEnded || len(a.ended) != maxEnded || len(a.bodies) != maxBodies {
		t.Errorf("%d tasks, %d ended, %d bodies", len(a.latest), len(a.ended), len(a.bodies))
	}
	v, last := a.try(ref(fmt.Sprint(n-1), 1))
	if v != repeated || a.resultOf(last) == nil {
		t.Error("the last one is forgotten")
	}

	_, big := a.try(ref("big", 1))
	a.end(big, now)
	a.remember(big, &message{body: make([]byte, maxBodyMem)})
	if len(a.bodies) != 1 || a.bodyMem != maxBodyMem || a.resultOf(big) == nil || a.resultOf(last) != nil {
		t.Errorf("%d bodies of %d bytes after a big one", len(a.bodies), a.bodyMem)
	}
	a.remember(big, &message{body: []byte("small")})
	if len(a.bodies) != 1 || a.bodyMem != 5 {
		t.Errorf("%d bodies of %d bytes after it was replaced", len(a.bodies), a.bodyMem)
	}

	_, late := a.try(ref("late", 1))
	a.end(late, now.Add(keepEnded+time.Second))
	if len(a.latest) != 1 {
		t.Errorf("%d tasks after %v", len(a.latest), keepEnded)
	}
}

func TestAttempts_HoldNoContextOfWhatHasEnded(t *testing.T) {
	t.Parallel()
	a := newAttempts(1)
	last, held := a.tryWithContext(ref("r", 1))
	if a.end(last, time.Now()); a.latest[taskKey{"r", "t"}] != last {
		t.Fatal("it is forgotten")
	}
	for end := time.Now().Add(time.Minute); held.Value() != nil; runtime.GC() {
		if time.Now().After(end) {
			t.Fatal("the table still holds the context")
		}
	}
	runtime.KeepAlive(a)
}

// tryWithContext is try with something that only the context of the attempt holds.
func (t *attempts) tryWithContext(r event.AttemptRef) (*attempt, weak.Pointer[[64]byte]) {
	only := new([64]byte)
	_, a := t.begin(r, func(error) { only[0]++ }, false)
	return a, weak.Make(only)
}

func TestTaskError(t *testing.T) {
	t.Parallel()
	interrupted, interrupt := context.WithCancelCause(context.Background())
	interrupt(ErrInterrupted)
	late, expire := context.WithCancelCause(context.Background())
	expire(context.DeadlineExceeded)
	for name, test := range map[string]struct {
		ctx  context.Context
		err  error
		code string
	}{
		"Plain":              {t.Context(), errors.New("x"), CodeFailed},
		"Wrapped":            {t.Context(), fmt.Errorf("load: %w", Fail("quota", "x")), "quota"},
		"EmptyCode":          {t.Context(), Fail("", "x"), CodeFailed},
		"OwnCancel":          {t.Context(), context.Canceled, CodeFailed},
		"Interrupted":        {interrupted, fmt.Errorf("call: %w", context.Canceled), CodeInterrupted},
		"InterruptedByCause": {interrupted, ErrInterrupted, CodeInterrupted},
		"Timeout":            {late, context.Canceled, CodeTimeout},
		"ErrorAtTheDeadline": {late, errors.New("x"), CodeFailed},
		"CodeAtTheDeadline":  {late, Fail("quota", "x"), "quota"},
	} {
		if got := taskError(test.ctx, test.err); got.Code != test.code {
			t.Errorf("%s: %q, want %q", name, got.Code, test.code)
		}
	}
	if Permanent(nil) != nil || RetryAfter(nil, time.Second) != nil {
		t.Error("no error became one")
	}
	both := Permanent(RetryAfter(Fail("quota", "x"), time.Second))
	if e := taskError(t.Context(), both); e.Retryable == nil || *e.Retryable || e.RetryAfterMs != 1000 || e.Code != "quota" {
		t.Errorf("wrapped twice: %+v", e)
	}
}

func FuzzClip(f *testing.F) {
	f.Add("plain", 5)
	f.Add(strings.Repeat("é", 20), 10)
	f.Add("\xff\xfe broken", 12)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = 3 + limit&1023
		got := clip(text, limit)
		if len(got) > limit || !utf8.ValidString(got) {
			t.Errorf("%q: %d bytes, valid: %t", got, len(got), utf8.ValidString(got))
		}
		if utf8.ValidString(text) && len(text) <= limit && got != text {
			t.Errorf("changed %q to %q", text, got)
		}
		if cut, ok := bytes.CutSuffix([]byte(got), []byte("…")); ok && utf8.ValidString(text) && !strings.HasPrefix(text, string(cut)) {
			t.Errorf("%q is not the beginning of %q", got, text)
		}
	})
}
