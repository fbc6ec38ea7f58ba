package lifecycle

import (
	"fmt"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// gateOf is the gate of an agent that beats each second.
func gateOf(agent, instance string, l event.Liveness) *Gate {
	g := &Gate{Agent: agent, Registered: true, Instance: instance, Beat: 1000}
	if l != event.LivenessLive {
		g.Live = l
	}
	return g
}

// judged is what a roster says of its only agent, with a window that is long open.
func (r *roster) judgedAt(now tick) event.Liveness {
	for _, s := range r.judge(now, 0, 10) {
		return s.pulse.Verdict()
	}
	return r.beaters[0].said
}

func TestWhatARosterLearns(t *testing.T) {
	t.Parallel()
	const hour = tick(time.Hour)
	soon, later := hour+tick(time.Second), hour+tick(10*time.Second)
	for _, c := range []struct {
		name        string
		do          func(r *roster)
		soon, later event.Liveness
	}{
		{"registered a moment ago", func(r *roster) {
			r.learn("a", gateOf("a", "p", event.LivenessLive), hour)
		}, event.LivenessLive, event.LivenessLost},
		{"was lost before it was known", func(r *roster) {
			r.learn("a", gateOf("a", "p", event.LivenessLost), hour)
		}, event.LivenessLost, event.LivenessLost},
		{"was lost, and beats", func(r *roster) {
			r.learn("a", gateOf("a", "p", event.LivenessLost), hour)
			r.hear("a", "p", "", hour)
		}, event.LivenessLive, event.LivenessLost},
		{"was lost, and another process beats", func(r *roster) {
			r.learn("a", gateOf("a", "p", event.LivenessLost), hour)
			r.hear("a", "q", "", hour)
		}, event.LivenessLost, event.LivenessLost},
		{"was lost, and beats without a name", func(r *roster) {
			r.learn("a", gateOf("a", "p", event.LivenessLost), hour)
			r.hear("a", "", "", hour)
		}, event.LivenessLive, event.LivenessLost},
		{"was lost, and was revived by an event", func(r *roster) {
			r.learn("a", gateOf("a", "p", event.LivenessLost), 0)
			r.learn("a", gateOf("a", "p", event.LivenessLive), hour)
		}, event.LivenessLive, event.LivenessLost},
		{"was heard before it was known, as another process", func(r *roster) {
			r.hear("a", "q", "", hour)
			r.learn("a", gateOf("a", "p", event.LivenessLost), hour)
		}, event.LivenessLost, event.LivenessLost},
		{"was silent as another process", func(r *roster) {
			r.learn("a", gateOf("a", "q", event.LivenessLive), 0)
			r.learn("a", gateOf("a", "p", event.LivenessLive), hour)
		}, event.LivenessLive, event.LivenessLost},
	} {
		r := newRoster()
		r.begin(true)
		c.do(r)
		if got := r.judgedAt(soon); got != c.soon {
			t.Errorf("%s: after a second it is %s, want %s", c.name, got, c.soon)
		}
		if got := r.judgedAt(later); got != c.later {
			t.Errorf("%s: after ten seconds it is %s, want %s", c.name, got, c.later)
		}
	}
}

// Who beats without having registered is looked up, refused, and forgotten; registered agents stay, wherever they stand among them.
func TestStrangersAreForgotten(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.begin(true)
	const strangers = 3 * sweepEach
	for i := range strangers {
		r.hear(fmt.Sprint("stranger-", i), "p", "_INBOX.x", tick(time.Second))
		if i%1000 == 0 {
			r.learn(fmt.Sprint("agent-", i), gateOf(fmt.Sprint("agent-", i), "p", event.LivenessLive), tick(time.Second))
		}
	}
	tokens, asks := r.take(strangers)
	if len(tokens) != strangers || len(asks) != maxAsks {
		t.Errorf("%d are looked up and %d refused, want %d and %d", len(tokens), len(asks), strangers, maxAsks)
	}
	for range strangers/sweepEach + 1 {
		r.sweep(tick(time.Second) + keepUnknown)
	}
	if want := (strangers + 999) / 1000; len(r.beaters) != want || len(r.places) != want {
		t.Errorf("%d are remembered, at %d places, want %d", len(r.beaters), len(r.places), want)
	}
	for token, i := range r.places {
		if r.beaters[i].token != token {
			t.Errorf("%s stands at the place of %s", r.beaters[i].token, token)
		}
	}
}

// An agent is told at most every few seconds that its beats are refused.
func TestRefusalsAreRare(t *testing.T) {
	t.Parallel()
	r := newRoster()
	r.begin(true)
	told := 0
	for now := tick(time.Second); now <= tick(21*time.Second); now += tick(100 * time.Millisecond) {
		r.hear("stranger", "p", "_INBOX.x", now)
		_, asks := r.take(1)
		told += len(asks)
	}
	if told != 4 {
		t.Errorf("told %d times in 20 s, want 4", told)
	}
}
