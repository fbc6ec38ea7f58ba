package lifecycle_test

import (
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/lifecycle"
)

// outcomes lets an agent end attempts, one by one: 'o' well, 'x' badly.
func outcomes(g *lifecycle.Gate, list string) {
	for _, c := range list {
		if c == 'x' {
			g.Failed(attempt(1), epoch)
		} else {
			g.Worked(attempt(1))
		}
	}
}

func TestWhatOpensABreaker(t *testing.T) {
	for _, c := range []struct{ outcomes, want string }{
		{"", lifecycle.BreakerClosed},
		{"xxxx", lifecycle.BreakerClosed},
		{"xxxxx", lifecycle.BreakerOpen},
		{"xxxxoxxxx", lifecycle.BreakerClosed},
		{"oxxxxx", lifecycle.BreakerOpen},
		{strings.Repeat("xo", 9), lifecycle.BreakerClosed}, // half of them, but of too few
		{strings.Repeat("xo", 10) + "x", lifecycle.BreakerOpen},
		{strings.Repeat("xoo", 20), lifecycle.BreakerClosed},
		{strings.Repeat("x", 4) + strings.Repeat("o", 16) + strings.Repeat("xo", 8), lifecycle.BreakerClosed}, // the first ones are forgotten
	} {
		g := freeGate(2)
		outcomes(g, c.outcomes)
		if got := g.Breaker.State(epoch); got != c.want {
			t.Errorf("after %q it is %s, want %s", c.outcomes, got, c.want)
		}
		if len(g.Breaker.String()) > 20 {
			t.Errorf("after %q it remembers %q", c.outcomes, g.Breaker.String())
		}
	}
}

func TestAGoodAgentHasNoBreaker(t *testing.T) {
	g := freeGate(1)
	outcomes(g, "o")
	if g.Breaker != nil {
		t.Error("good outcomes are written down")
	}
	outcomes(g, "x"+strings.Repeat("o", 20))
	if g.Breaker != nil {
		t.Errorf("a failure long ago is still written down: %+v", g.Breaker)
	}
}

// probe gives the agent the one task that a half open breaker lets through.
func probe(t *testing.T, g *lifecycle.Gate, n int, now time.Time) {
	t.Helper()
	if refusal := lifecycle.Match(g, lifecycle.Want{Agent: "a"}, now); refusal != nil {
		t.Fatalf("no probe at %v: %v", now.Sub(epoch), refusal)
	}
	g.Take(attempt(n), "A", now)
	if refusal := lifecycle.Match(g, lifecycle.Want{Agent: "a"}, now); refusal == nil || refusal.Rule != lifecycle.RuleBreaker {
		t.Fatalf("a second task beside the probe: %v", refusal)
	}
}

func TestABreakerOpensForLongerEachTimeItsProbeFails(t *testing.T) {
	g := freeGate(3)
	outcomes(g, "xxxxx")
	now := epoch
	for n, seconds := range []int{10, 20, 40, 80, 160, 300, 300} {
		open := time.Duration(seconds) * time.Second
		if at := g.Wakes(now); !at.Equal(now.Add(open)) {
			t.Fatalf("probe %d: somebody looks at %v, want %v", n, at.Sub(now), open)
		}
		if refusal := lifecycle.Match(g, lifecycle.Want{Agent: "a"}, now.Add(open-time.Millisecond)); refusal == nil || refusal.Rule != lifecycle.RuleBreaker {
			t.Fatalf("probe %d: %v too early", n, refusal)
		}
		now = now.Add(open)
		probe(t, g, n, now)
		g.Failed(attempt(n), now)
		g.Release(attempt(n), now)
	}
	now = now.Add(5 * time.Minute)
	probe(t, g, 99, now)
	g.Worked(attempt(99))
	g.Release(attempt(99), now)
	if g.Breaker != nil || !g.Free(now) {
		t.Errorf("after a good probe: %+v", g)
	}
}

// What was given before the breaker opened says nothing about the agent as it is now.
func TestOnlyTheProbeDecides(t *testing.T) {
	g := freeGate(5)
	g.Take(attempt(1), "A", epoch)
	g.Take(attempt(2), "A", epoch)
	for range 5 {
		g.Failed(attempt(7), epoch)
	}
	later := epoch.Add(10 * time.Second)
	probe(t, g, 3, later)
	g.Worked(attempt(1))
	if got := g.Breaker.State(epoch); got != lifecycle.BreakerOpen {
		t.Errorf("an old task that ended well left it %s", got)
	}
	g.Failed(attempt(2), later)
	if got := g.Breaker.State(later); got != lifecycle.BreakerHalfOpen {
		t.Errorf("an old task that failed left it %s", got)
	}
	g.Drain(attempt(3), later.Add(time.Minute)) // the probe was cancelled: another one may go
	probe(t, g, 4, later)
}

// When nobody else could take a task, an open breaker lets one through before its time, and no second beside it.
func TestAProbeBeforeItsTime(t *testing.T) {
	g := freeGate(2)
	outcomes(g, "xxxxx")
	want := lifecycle.Want{Capability: g.Caps[0], Probe: true}
	if refusal := lifecycle.Match(g, want, epoch); refusal != nil {
		t.Fatal(refusal)
	}
	g.Take(attempt(1), "A", epoch)
	if refusal := lifecycle.Match(g, want, epoch); refusal == nil || refusal.Rule != lifecycle.RuleBreaker {
		t.Fatalf("a second probe: %v", refusal)
	}
	g.Worked(attempt(1))
	g.Release(attempt(1), epoch)
	if !g.Free(epoch) {
		t.Errorf("after a good probe: %+v", g)
	}
}

// What an earlier process has failed is not held against the new one, which is tried with one task at once.
func TestANewProcessIsTriedAtOnce(t *testing.T) {
	process := func(g *lifecycle.Gate, instance string) {
		e := registered(instance)
		e.Slots = 2
		g.Follow(fold(at{20, registered("A")}, at{30, said("A", "idle")}, at{50, e}, at{51, said(instance, "idle")}), true)
	}
	g := freeGate(2)
	outcomes(g, "xxxxx")
	process(g, "A")
	if got := g.Breaker.State(epoch); got != lifecycle.BreakerOpen {
		t.Fatalf("when the same process registers again the breaker is %s", got)
	}
	process(g, "B")
	if got := g.Breaker.State(epoch); got != lifecycle.BreakerHalfOpen {
		t.Fatalf("of a new process the breaker is %s", got)
	}
	probe(t, g, 1, epoch)
	if g.Failed(attempt(1), epoch); !g.Breaker.Until.Equal(epoch.Add(20 * time.Second)) {
		t.Errorf("it fails too, and is left alone until %s, twice as long as the one before was", g.Breaker.Until.Sub(epoch))
	}
	g = freeGate(2)
	outcomes(g, "xxxx")
	if process(g, "B"); g.Breaker != nil {
		t.Errorf("failures of the process before are counted: %+v", g.Breaker)
	}
}
