package bridge

import (
	"net/http"
	"strconv"
	"testing"
	"time"
)

func TestLastRequestsAreRemembered(t *testing.T) {
	var l requestLog
	add := func(id string, status int) { l.add(&trace{id: id, status: status}) }
	add("twice", 1)
	for i := range maxRemembered - 1 {
		add(strconv.Itoa(i), 200)
	}
	if got := l.get("twice"); got == nil || got.Status != 1 {
		t.Errorf("the oldest of %d is %+v", maxRemembered, got)
	}
	add("twice", 2) // in place of its own first one
	if got := l.get("twice"); got == nil || got.Status != 2 {
		t.Errorf("the younger of two is %+v", got)
	}
	add("last", 200)
	if l.get("0") != nil || l.get("1") == nil || l.get("last") == nil {
		t.Error("not the oldest one was forgotten")
	}
	if len(l.ring) != maxRemembered || len(l.byID) != maxRemembered {
		t.Errorf("%d requests and %d ids are remembered", len(l.ring), len(l.byID))
	}
}

// An id that comes again keeps its youngest request when the older one is forgotten.
func TestForgettingTheOlderOfTwoKeepsTheYounger(t *testing.T) {
	var l requestLog
	l.add(&trace{id: "twice", status: 1})
	l.add(&trace{id: "twice", status: 2})
	for i := range maxRemembered - 1 {
		l.add(&trace{id: strconv.Itoa(i)})
	}
	if got := l.get("twice"); got == nil || got.Status != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestRefusalBelongsToTheStepThatWasNotPassed(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		method string
		passed []stage
		status int
		failed stage
	}{
		{"POST", []stage{received}, http.StatusBadRequest, received},
		{"POST", []stage{received}, http.StatusUnauthorized, authenticated},
		{"POST", []stage{received}, http.StatusForbidden, authenticated},
		{"POST", []stage{received, authenticated}, http.StatusUnprocessableEntity, published},
		{"GET", []stage{received, authenticated}, http.StatusNotFound, answered},
		{"POST", []stage{received, authenticated, published}, http.StatusServiceUnavailable, committed},
		{"POST", []stage{received, authenticated, published, consumed, committed}, http.StatusNotFound, committed},
	} {
		tr := trace{method: c.method}
		for _, s := range c.passed {
			tr.reach(s, now)
		}
		if tr.refuse(c.status, "because"); tr.failed != c.failed {
			t.Errorf("%v, %d: failed at %s, want %s", c.passed, c.status, steps[tr.failed], steps[c.failed])
		}
	}
}

func TestRefusalLinesAreBoundPerRoute(t *testing.T) {
	var r refusalLines
	now := time.Now()
	written, suppressed := 0, 0
	for i := range 1000 {
		if n, ok := r.allow("a", now.Add(time.Duration(i)*time.Millisecond/2)); ok {
			written++
			suppressed += n
		}
	}
	if written != maxRefusalLines || suppressed != 0 {
		t.Errorf("%d lines in half a second, %d suppressed", written, suppressed)
	}
	if n, ok := r.allow("b", now); !ok || n != 0 {
		t.Errorf("another route: %d, %v", n, ok)
	}
	if n, ok := r.allow("a", now.Add(time.Second)); !ok || n != 1000-maxRefusalLines {
		t.Errorf("a second later: %d suppressed, %v", n, ok)
	}
	if n, ok := r.allow("a", now.Add(time.Second)); !ok || n != 0 {
		t.Errorf("then: %d suppressed, %v", n, ok)
	}
}
