package lifecycle

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// What is told of an agent, and that each fact has a due entry of its own.
func TestWhatIsToldOfAnAgent(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	here := func(change func(*Gate)) *Gate {
		g := &Gate{Agent: "a b", Registered: true, Instance: "i", Slots: 1, Caps: []string{"c"}, Open: true, Beat: 1000, Facts: 7}
		change(g)
		return g
	}
	same := func(*Gate) {}
	live := func(l event.Liveness) func(*Gate) { return func(g *Gate) { g.Live = l } }
	opened := func(times int) func(*Gate) {
		return func(g *Gate) { g.Breaker = &Breaker{Opens: times, Until: now.Add(time.Minute)} }
	}
	for _, c := range []struct {
		name          string
		before, after func(*Gate)
		cause         string
	}{
		{"nothing", same, same, ""},
		{"a task", same, func(g *Gate) { g.Held, g.Used = []Held{{}}, 9 }, ""},
		{"a state", same, func(g *Gate) { g.Word, g.Open = "busy", false }, ""},
		{"a back-off", same, func(g *Gate) { g.Until, g.Misses, g.Silent = now, 3, true }, ""},
		{"never registered", func(g *Gate) { g.Registered = false }, func(g *Gate) { g.Registered, g.Cordoned = false, true }, ""},
		{"registered", func(g *Gate) { g.Registered = false }, same, "registered"},
		{"another process", same, func(g *Gate) { g.Instance = "j" }, "registered"},
		{"another version", same, func(g *Gate) { g.Version = "2" }, "registered"},
		{"more capabilities", same, func(g *Gate) { g.Caps = []string{"c", "d"} }, "registered"},
		{"deregistered", same, func(g *Gate) { g.Registered = false }, "deregistered"},
		{"cordoned", same, func(g *Gate) { g.Cordoned = true }, "cordoned"},
		{"drained", func(g *Gate) { g.Cordoned = true }, func(g *Gate) { g.Drained = true }, "drained"},
		{"another deadline", func(g *Gate) { g.Drained = true }, func(g *Gate) { g.Drained, g.DrainBy = true, now }, "drained"},
		{"uncordoned", func(g *Gate) { g.Drained = true }, same, "uncordoned"},
		{"suspect", same, live(event.LivenessSuspect), "suspect"},
		{"lost", live(event.LivenessSuspect), live(event.LivenessLost), "lost"},
		{"live", live(event.LivenessLost), same, "live"},
		{"failures", same, opened(0), ""},
		{"breaker opens", same, opened(1), "breaker_opened"},
		{"again", opened(1), opened(2), "breaker_opened"},
		{"breaker closes", opened(2), same, "breaker_closed"},
	} {
		before, after := here(c.before), here(c.after)
		after.Facts = 1 // whatever it was made from
		ops := FactOps(before, after, now)
		if c.cause == "" {
			if len(ops) > 0 || after.Facts != 7 {
				t.Errorf("%s: %v is told, fact %d", c.name, ops, after.Facts)
			}
			continue
		}
		want := strings.Join([]string{"a", event.MustToken("a b"), c.cause, strconv.Itoa(8)}, "|")
		if len(ops) != 1 || ops[0].Member != want || ops[0].Index != HandBack || after.Facts != 8 {
			t.Errorf("%s: %v is told, fact %d, want %s", c.name, ops, after.Facts, want)
		}
	}
}
