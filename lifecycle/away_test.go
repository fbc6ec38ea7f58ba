package lifecycle_test

import (
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

func TestALostAgentKeepsItsSlotsUntilItWasTold(t *testing.T) {
	until := epoch.Add(10 * time.Second)
	held := func(change func(*lifecycle.Gate)) *lifecycle.Gate {
		g := freeGate(1)
		g.Take(attempt(1), "A", epoch)
		g.Judged(event.LivenessLost, 30)
		change(g)
		return g
	}
	if g := freeGate(1); g.Abandon(attempt(1), epoch) {
		t.Error("an attempt is given up that it does not hold")
	}
	g := freeGate(1)
	if g.Take(attempt(1), "A", epoch); g.Abandon(attempt(1), epoch) {
		t.Error("an attempt of an agent is given up that is not lost")
	}
	for name, c := range map[string]struct {
		then  func(*lifecycle.Gate)
		told  int // attempts that it is told to stop
		rule  string
		drain bool
	}{
		"it stays lost":      {func(*lifecycle.Gate) {}, 0, lifecycle.RuleLost, true},
		"its result comes":   {func(g *lifecycle.Gate) { g.Release(attempt(1), epoch) }, 0, lifecycle.RuleLost, false},
		"it beats again":     {func(g *lifecycle.Gate) { g.Judged(event.LivenessLive, 31) }, 1, lifecycle.RuleSlots, true},
		"it is heard of":     {func(g *lifecycle.Gate) { g.Refreshed(31) }, 1, lifecycle.RuleSlots, true},
		"it confirms":        {func(g *lifecycle.Gate) { g.Judged(event.LivenessLive, 31); g.Release(attempt(1), time.Time{}) }, 0, "", false},
		"a new process came": {func(g *lifecycle.Gate) { follow(t, g, "B") }, 1, lifecycle.RuleSlots, true},
	} {
		g := held(func(g *lifecycle.Gate) {
			if !g.Abandon(attempt(1), epoch) {
				t.Fatal("nothing is given up")
			}
		})
		c.then(g)
		if got := len(g.Recall(until)); got != c.told {
			t.Errorf("when %s it is told to stop %d attempts, want %d", name, got, c.told)
		}
		rule := ""
		if refusal := lifecycle.Match(g, lifecycle.Want{Agent: "a"}, epoch); refusal != nil {
			rule = refusal.Rule
		}
		end, drains := g.Draining(attempt(1))
		if rule != c.rule || drains != c.drain || c.told > 0 && !end.Equal(until) {
			t.Errorf("when %s: refused by %q, drains %t until %s", name, rule, drains, end)
		}
		if again := g.Recall(until); again != nil {
			t.Errorf("when %s it is told twice: %v", name, again)
		}
	}
}

// follow lets a gate follow the registration of a process.
func follow(t *testing.T, g *lifecycle.Gate, instance string) {
	t.Helper()
	if _, handBack := g.Follow(fold(at{50, registered(instance)}, at{51, said(instance, "idle")}), true); !handBack {
		t.Error("nobody looks at what it held")
	}
}
