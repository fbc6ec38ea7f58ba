package lifecycle_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// freeGate is the gate of an agent that has registered and is idle.
func freeGate(slots int) *lifecycle.Gate {
	e := registered("A")
	e.Slots = slots
	g := &lifecycle.Gate{Agent: "a"}
	g.Follow(fold(at{20, e}, at{30, said("A", "idle")}), true)
	return g
}

// When an agent is free, word for word.
func TestWordsOpenAndShutTheGate(t *testing.T) {
	type held int
	const (
		nothing           held = iota
		nothingButSettled      // the word was said before the result of the last attempt was taken in
		anAttempt
	)
	open := map[string][3]bool{ // nothing, nothingButSettled, anAttempt
		"idle":         {true, true, true},
		"finished":     {true, true, true},
		"completed":    {true, true, true},
		"active":       {false, true, true},
		"busy":         {false, true, true},
		"error":        {false, false, false},
		"offline":      {false, false, false},
		"draining":     {false, false, false},
		"initializing": {false, false, false},
		"UNKNOWN":      {false, false, false},
		"pondering":    {false, false, false},
		"":             {false, false, false},
		"IDLE":         {true, true, true},
		"Busy":         {false, true, true},
		" idle":        {false, false, false},
	}
	for word, wants := range open {
		for holds, want := range wants {
			for _, wasOpen := range []bool{true, false} {
				got := openAfter(word, held(holds) == anAttempt, held(holds) == nothingButSettled, wasOpen)
				if got != want {
					t.Errorf("%q, holding %d, open before %t: open %t, want %t", word, holds, wasOpen, got, want)
				}
			}
		}
	}
}

func TestAWordFromAfterTheLastResultShutsTheGate(t *testing.T) {
	g := freeGate(1)
	g.Take(attempt(1), "A", epoch)
	g.Release(attempt(1), mark(40).At)
	r := fold(at{20, registered("A")}, at{39, said("A", "busy")})
	if g.Follow(r, true); !g.Open {
		t.Error("shut by a word from before the result")
	}
	r.Apply(said("A", "busy"), mark(41))
	if g.Follow(r, true); g.Open {
		t.Error("open after a word from after the result")
	}
	g.Release(attempt(1), mark(39).At)
	if g.Follow(r, true); g.Open {
		t.Error("opened by an older result that came late")
	}
}

// An agent that says it works, and nothing of what we know of, gets no more tasks until it says that it rests.
func TestASlotThatDrainedLeavesAWorkingAgentShut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		word     string
		resultAt time.Time // zero: the slot is freed without one
		open     bool
	}{
		{"working, no result", "active", time.Time{}, false},
		{"working, said before the result", "active", mark(40).At, true},
		{"resting, no result", "idle", time.Time{}, true},
	} {
		r := fold(at{1, registered("")}, at{2, said("", "idle")})
		g := &lifecycle.Gate{Agent: "a"}
		g.Follow(r, true)
		g.Take(attempt(1), "", epoch)
		r.Apply(said("", c.word), mark(30))
		g.Follow(r, true)
		g.Release(attempt(1), c.resultAt)
		if g.Free(epoch) != c.open {
			t.Errorf("%s: free is %v, want %v", c.name, g.Free(epoch), c.open)
		}
	}
}

func TestTakingAndReleasingTwiceIsOnce(t *testing.T) {
	g := freeGate(2)
	withToken := attempt(1)
	withToken.Token = "x"
	g.Take(withToken, "A", epoch)
	once := *g
	g.Take(attempt(1), "B", epoch.Add(time.Hour))
	if diff := cmp.Diff(&once, g); diff != "" {
		t.Errorf("taken twice (-once +twice):\n%s", diff)
	}
	if !g.Holds(attempt(1)) || g.Holds(attempt(2)) {
		t.Error("holds another attempt than the one taken")
	}
	if g.Held[0].Token != "" {
		t.Error("the gate, which is shown, knows the token of the attempt")
	}
	if g.Used != epoch.UnixMicro() {
		t.Errorf("used at %d", g.Used)
	}

	until := epoch.Add(time.Minute)
	if g.Drain(attempt(2), until) || !g.Drain(attempt(1), until) || !g.Drain(attempt(1), until) {
		t.Error("draining does not say whether the slot is held")
	}
	if got, ok := g.Draining(attempt(1)); !ok || !got.Equal(until) {
		t.Errorf("drains until %v, %t", got, ok)
	}
	if _, ok := g.Draining(attempt(2)); ok {
		t.Error("an attempt that is not held drains")
	}

	if !g.Release(attempt(1), mark(50).At) || g.Release(attempt(1), mark(50).At) || len(g.Held) != 0 {
		t.Errorf("released twice: %+v", g.Held)
	}
	if g.Release(attempt(1), mark(40).At); !g.Released.Equal(mark(50).At) {
		t.Errorf("released at %v, want the highest time of a result", g.Released)
	}
}

// A cached gate is shared by goroutines: what was copied out of it must not change.
func TestActsLeaveCopiesOfTheGateAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory()
		for range rapid.IntRange(1, 30).Draw(t, "acts") {
			copied := *h.gate
			want := string(event.MustMarshal(&copied))
			h.act(t)
			if got := string(event.MustMarshal(&copied)); got != want {
				t.Fatalf("a copy changed:\n%s\n%s", want, got)
			}
		}
	})
}

func TestBackoffsGrowFromOneSecondToThirty(t *testing.T) {
	for name, act := range map[string]func(*lifecycle.Gate){
		"refused": func(g *lifecycle.Gate) { g.Rejected(epoch, 0) },
		"unheard": func(g *lifecycle.Gate) { g.Unheard(epoch) },
	} {
		t.Run(name, func(t *testing.T) {
			g := freeGate(1)
			for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
				act(g)
				if got := g.Until.Sub(epoch); got != want*time.Second {
					t.Errorf("back-off %d lasts %v, want %v", i+1, got, want*time.Second)
				}
			}
			for range 100 {
				act(g)
			}
			if got := g.Until.Sub(epoch); got != 30*time.Second {
				t.Errorf("back-off 108 lasts %v", got)
			}
			if g.Free(epoch.Add(30*time.Second - 1)) {
				t.Error("free before the end of the back-off")
			}
			if !g.Free(epoch.Add(30 * time.Second)) {
				t.Error("not free at the end of the back-off")
			}
			g.Answered()
			if act(g); g.Until.Sub(epoch) != time.Second {
				t.Errorf("after an answer the back-off lasts %v, want a second", g.Until.Sub(epoch))
			}
		})
	}
}

func TestAnAgentMaySayHowLongToLeaveItAloneWithinReason(t *testing.T) {
	for _, c := range []struct{ asked, want time.Duration }{
		{1500 * time.Millisecond, 1500 * time.Millisecond},
		{10 * time.Minute, 10 * time.Minute},
		{24 * time.Hour, 15 * time.Minute},
		{-time.Hour, time.Second},
	} {
		g := freeGate(1)
		if g.Rejected(epoch, c.asked); g.Until.Sub(epoch) != c.want {
			t.Errorf("asked for %v: left alone for %v, want %v", c.asked, g.Until.Sub(epoch), c.want)
		}
	}
}

func TestASignOfLifeEndsSilenceButNotARefusal(t *testing.T) {
	r := fold(at{20, registered("A")}, at{30, said("A", "idle")})
	silent, refused := freeGate(1), freeGate(1)
	silent.Unheard(epoch)
	refused.Rejected(epoch, time.Minute)
	if changed, _ := silent.Follow(r, true); !changed || !silent.Free(epoch) || silent.Misses != 0 {
		t.Errorf("silent, after a sign of life: %+v", silent)
	}
	if changed, _ := refused.Follow(r, true); changed || refused.Free(epoch) {
		t.Errorf("refused, after a sign of life: %+v", refused)
	}
	silent.Unheard(epoch)
	if changed, _ := silent.Follow(r, false); changed || silent.Free(epoch) {
		t.Errorf("silent, without a sign of life: %+v", silent)
	}
}

func TestANewProcessHandsBackWhatTheOldOneHeld(t *testing.T) {
	for _, c := range []struct {
		name string
		held string // process the attempt was given to
		next event.Event
		want bool
	}{
		{"another process", "A", registered("B"), true},
		{"the same process", "A", registered("A"), false},
		{"no process named", "A", registered(""), false},
		{"given to nobody in particular", "", registered("B"), false},
		{"deregistered", "A", deregistered(), true},
		{"only a word", "A", said("B", "idle"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := freeGate(1)
			g.Take(attempt(1), c.held, epoch)
			r := fold(at{20, registered("A")}, at{30, said("A", "idle")}, at{40, c.next})
			if _, handBack := g.Follow(r, true); handBack != c.want {
				t.Errorf("handed back %t, want %t", handBack, c.want)
			}
			if _, handBack := g.Follow(r, true); handBack {
				t.Error("handed back twice")
			}
			if !g.Holds(attempt(1)) {
				t.Error("the slot was freed before the attempt was taken back")
			}
		})
	}
}

// history drives a gate through the acts of both packages that write it.
type history struct {
	record *lifecycle.Record
	gate   *lifecycle.Gate
	seq    uint64
	now    time.Time
	tries  int
	taken  bool // the last act took a slot
}

func newHistory() *history {
	return &history{record: &lifecycle.Record{}, gate: &lifecycle.Gate{Agent: "a"}, now: epoch}
}

// act does one thing to the gate, and reports whether its document changed.
func (h *history) act(t *rapid.T) (changed bool) {
	h.now = h.now.Add(rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second, time.Minute}).Draw(t, "passes"))
	h.seq++
	h.taken = false
	place := lifecycle.Mark{Seq: h.seq, At: h.now}
	ref := attempt(rapid.IntRange(max(1, h.tries-3), h.tries+1).Draw(t, "attempt"))
	switch what := rapid.SampledFrom([]string{
		"register", "deregister", "say", "say", "say", "cordon", "take", "take", "take", "watch", "release", "drain", "reject", "unheard", "answered",
		"failed", "failed", "worked",
	}).Draw(t, "act"); what {
	case "register":
		e := registered(rapid.SampledFrom([]string{"", "A", "B"}).Draw(t, "instance"))
		e.Slots = rapid.IntRange(0, 3).Draw(t, "slots")
		e.Capabilities = rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y", "z", ""}), 0, 4).Draw(t, "capabilities")
		h.record.Apply(e, place)
	case "deregister":
		h.record.Apply(deregistered(), place)
	case "say":
		word := said("", rapid.SampledFrom([]string{"idle", "busy", "error"}).Draw(t, "word"))
		h.record.Apply(word, place)
		witnessed := h.gate.Witness(word, place)
		followed, _ := h.gate.Follow(h.record, true)
		return witnessed || followed
	case "cordon":
		kind := rapid.SampledFrom([]event.CommandKind{event.KindAgentCordon, event.KindAgentUncordon, event.KindAgentDrain}).Draw(t, "kind")
		h.record.Apply(&event.AgentCommand{Kind: kind, DeadlineSeconds: rapid.SampledFrom([]float64{0, 1, 90}).Draw(t, "deadline")}, place)
	case "take":
		want := lifecycle.Want{Agent: "a", Bound: rapid.Bool().Draw(t, "bound"), Probe: rapid.Bool().Draw(t, "probe")}
		if lifecycle.Match(h.gate, want, h.now) != nil {
			return false
		}
		h.tries++
		h.gate.Take(attempt(h.tries), h.gate.Instance, h.now)
		h.taken = true
		return true
	case "watch":
		h.gate.Watch(ref, h.seq)
		return true
	case "release":
		h.gate.Release(ref, rapid.SampledFrom([]time.Time{{}, h.now}).Draw(t, "result"))
		return true
	case "drain":
		return h.gate.Drain(ref, h.now.Add(time.Minute))
	case "reject":
		h.gate.Rejected(h.now, 0)
		return true
	case "unheard":
		h.gate.Unheard(h.now)
		return true
	case "failed":
		h.gate.Failed(ref, h.now)
		return true
	case "worked":
		h.gate.Worked(ref)
		return true
	case "answered":
		h.gate.Answered()
		return true
	}
	changed, _ = h.gate.Follow(h.record, true)
	return changed
}

func TestNeverMoreTasksThanSlots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory()
		for range rapid.IntRange(1, 40).Draw(t, "acts") {
			h.act(t)
			if h.taken && len(h.gate.Held) > h.gate.Slots {
				t.Fatalf("holds %d attempts in %d slots", len(h.gate.Held), h.gate.Slots)
			}
			if probes := slices.IndexFunc(h.gate.Held, isProbe); probes >= 0 && slices.ContainsFunc(h.gate.Held[probes+1:], isProbe) {
				t.Fatalf("holds two probes: %+v", h.gate)
			}
			if h.gate.Free(h.now) != (lifecycle.Match(h.gate, lifecycle.Want{Agent: "a"}, h.now) == nil) {
				t.Fatalf("Free and Match disagree about %+v", h.gate)
			}
		}
	})
}

// isProbe reports whether a slot holds a probe that is not over.
func isProbe(h lifecycle.Held) bool { return h.Probe && h.Drain.IsZero() }

// indexes is what a store keeps of the free indexes.
type indexes map[storage.Index]map[string]storage.Score

func (x indexes) commit(t *rapid.T, add, remove []storage.IndexOp) {
	txn := storage.Txn{
		Rev: "r", If: []storage.Cond{{Key: "gate"}}, Put: []storage.Put{{Key: "gate"}}, IndexAdd: add, IndexRemove: remove,
	}
	if err := txn.Check(); err != nil {
		t.Fatalf("the store would refuse it: %v", err)
	}
	for _, op := range add {
		if x[op.Index] == nil {
			x[op.Index] = make(map[string]storage.Score)
		}
		x[op.Index][op.Member] = op.Score
	}
	for _, op := range remove {
		delete(x[op.Index], op.Member)
	}
}

// freeIndexes looks at the gate alone.
func freeIndexes(g *lifecycle.Gate, now time.Time) indexes {
	want := make(indexes)
	for _, c := range g.Caps {
		if c != "" && g.Free(now) {
			want[lifecycle.FreeIndex(c)] = map[string]storage.Score{g.Agent: storage.Score(g.Used)}
		}
		if until, able := ableFrom(g, now); c != "" && able {
			want[lifecycle.AbleIndex(c)] = map[string]storage.Score{g.Agent: until}
		}
	}
	return want
}

// ableFrom says, in the plainest way, whether an agent is a candidate, and when its breaker lets a task through.
func ableFrom(g *lifecycle.Gate, now time.Time) (until storage.Score, able bool) {
	if b := g.Breaker; b != nil && b.Opens > 0 && now.Before(b.Until) {
		until = storage.Score(b.Until.UnixMicro())
	}
	return until, g.Registered && g.Open && !g.Cordoned && !g.Drained && (!g.Silent || !now.Before(g.Until))
}

func TestTheFreeIndexesFollowTheGate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, index := newHistory(), make(indexes)
		for range rapid.IntRange(1, 40).Draw(t, "acts") {
			before := *h.gate
			if h.act(t) {
				add, remove := lifecycle.FreeOps(&before, h.gate, h.now)
				index.commit(t, add, remove)
				if h.gate.Listed != h.gate.Free(h.now) {
					t.Fatalf("listed %t, free %t", h.gate.Listed, h.gate.Free(h.now))
				}
			} else if now, was := freeIndexes(h.gate, h.now), freeIndexes(&before, h.now); !cmp.Equal(now, was) {
				t.Fatalf("nothing is said to have changed, but the free indexes have: %v, were %v", now, was)
			} else {
				continue
			}
			got := maps.Clone(index)
			maps.DeleteFunc(got, func(_ storage.Index, members map[string]storage.Score) bool { return len(members) == 0 })
			if diff := cmp.Diff(freeIndexes(h.gate, h.now), got); diff != "" {
				t.Fatalf("free indexes (-by the gate +as stored):\n%s", diff)
			}
		}
	})
}

// Whatever may be read from a gate later is written when it changes.
func TestFollowSaysWhenTheGateChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory()
		stored := *h.gate
		for range rapid.IntRange(1, 40).Draw(t, "acts") {
			if h.act(t) {
				stored = *h.gate
			}
			shown := *h.gate
			if shown.Open {
				shown.Word = stored.Word // shown only of a shut gate
			}
			if diff := cmp.Diff(&stored, &shown, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("the gate changed unseen (-stored +now):\n%s", diff)
			}
		}
	})
}

// Match, against the rules of the design written down once more, over all small gates.
func TestMatchNamesAReasonForEveryRefusal(t *testing.T) {
	bools := []bool{false, true}
	checked := 0
	for _, registered := range bools {
		for _, cordoned := range bools {
			for _, open := range bools {
				for _, silent := range bools {
					for _, held := range []int{0, 1, 2, 3} {
						for _, until := range []time.Duration{-time.Second, 0, time.Second} {
							g := &lifecycle.Gate{
								Agent: "a", Registered: registered, Cordoned: cordoned, Open: open, Silent: silent, Slots: 2, Caps: []string{"x"},
								Word: "pondering", Until: epoch.Add(until), Held: make([]lifecycle.Held, held),
							}
							checked += checkMatch(t, g)
						}
					}
				}
			}
		}
	}
	if checked != 2*2*2*2*4*3*5 {
		t.Errorf("%d cases", checked)
	}
}

func checkMatch(t *testing.T, g *lifecycle.Gate) (checked int) {
	t.Helper()
	texts := make(map[string]string)
	for _, want := range []lifecycle.Want{{Agent: "a"}, {Agent: "a", Capability: "y"}, {Capability: "x"}, {Capability: "y"}, {Agent: "b"}} {
		checked++
		able := want.Agent == "a" || want.Agent == "" && want.Capability == "x"
		ready := g.Registered && !g.Cordoned && g.Open && !epoch.Before(g.Until) && len(g.Held) < g.Slots
		refusal := lifecycle.Match(g, want, epoch)
		if (refusal == nil) != (able && ready) {
			t.Errorf("%+v wants %+v: refusal %v", g, want, refusal)
		}
		if refusal == nil {
			continue
		}
		if refusal.AgentID != "a" || !slices.Contains(rulesOf(g, want), refusal.Rule) || refusal.Text == "" || refusal.Text == refusal.Rule {
			t.Errorf("%+v wants %+v: refusal %+v, want one of %v", g, want, refusal, rulesOf(g, want))
		}
		if text, ok := texts[refusal.Rule]; ok && text != refusal.Text {
			t.Errorf("rule %s has texts %q and %q", refusal.Rule, text, refusal.Text)
		}
		texts[refusal.Rule] = refusal.Text
	}
	return checked
}

// rulesOf lists the rules that a gate breaks.
func rulesOf(g *lifecycle.Gate, want lifecycle.Want) (rules []string) {
	add := func(broken bool, rule string) {
		if broken {
			rules = append(rules, rule)
		}
	}
	waits := epoch.Before(g.Until)
	if add(!g.Registered, lifecycle.RuleUnregistered); !g.Registered && want.Agent != "b" {
		return rules // nothing else matters then
	}
	add(want.Agent == "b", lifecycle.RuleNotNamed)
	add(want.Agent == "" && want.Capability == "y", lifecycle.RuleCapability)
	add(g.Cordoned, lifecycle.RuleCordoned)
	add(waits && g.Silent, lifecycle.RuleSilent)
	add(waits && !g.Silent, lifecycle.RuleBackoff)
	add(!g.Open, lifecycle.RuleState)
	add(len(g.Held) >= g.Slots, lifecycle.RuleSlots)
	return rules
}

func TestRefusalsAreSaidInWords(t *testing.T) {
	named := lifecycle.Want{Agent: "a"}
	for _, c := range []struct {
		rule, text string
		want       lifecycle.Want
		change     func(*lifecycle.Gate)
	}{
		{lifecycle.RuleNotNamed, `the task is for agent "b"`, lifecycle.Want{Agent: "b"}, func(*lifecycle.Gate) {}},
		{lifecycle.RuleCapability, `it does not offer capability "y"`, lifecycle.Want{Capability: "y"}, func(*lifecycle.Gate) {}},
		{
			lifecycle.RuleVersion, `its version "2.1" is not within "^1.4"`,
			lifecycle.Want{Capability: "x", Version: versions(t, "^1.4")},
			func(g *lifecycle.Gate) { g.Version = "2.1" },
		},
		{
			lifecycle.RuleLabel, `it does not have the label "pool=a"`,
			lifecycle.Want{Capability: "x", Labels: map[string]string{"pool": "a", "zone": "z"}},
			func(g *lifecycle.Gate) { g.Labels = map[string]string{"pool": "b"} },
		},
		{
			lifecycle.RuleSchema, `the input does not fit the schema that it has registered for capability "x"`,
			lifecycle.Want{Capability: "x", Unfit: []string{"s1", "s2"}},
			func(g *lifecycle.Gate) { g.Schemas = map[string]lifecycle.SchemaIDs{"x": {Input: "s2"}} },
		},
		{lifecycle.RuleUnregistered, "the agent is not registered", named, func(g *lifecycle.Gate) { g.Registered = false }},
		{lifecycle.RuleCordoned, "it is cordoned", named, func(g *lifecycle.Gate) { g.Cordoned = true }},
		{lifecycle.RuleSilent, "nobody answered on its subject; it is asked again at its next sign of life or in 1s", named, func(g *lifecycle.Gate) { g.Unheard(epoch) }},
		{lifecycle.RuleBackoff, "it refused its last task; it is asked again in 1.5s", named, func(g *lifecycle.Gate) { g.Rejected(epoch, 1500*time.Millisecond) }},
		{lifecycle.RuleState, `its state is "busy"`, named, func(g *lifecycle.Gate) { g.Open, g.Word = false, "busy" }},
		{lifecycle.RuleState, "it has not reported a state yet", named, func(g *lifecycle.Gate) { g.Open, g.Word = false, "" }},
		{lifecycle.RuleDraining, "it is drained: it takes no new work", named, func(g *lifecycle.Gate) { g.Drained = true }},
		{
			lifecycle.RuleDraining, "it is drained: it takes no new work, and what it holds is handed back at 2026-01-02T03:05:05Z", named,
			func(g *lifecycle.Gate) { g.Drained, g.DrainBy = true, time.Date(2026, 1, 2, 3, 5, 5, 0, time.UTC) },
		},
		{
			lifecycle.RuleBreaker, "it has failed 5 of its last 5 tasks; it is tried again in 10s", named,
			func(g *lifecycle.Gate) { fail(g, 5) },
		},
		{lifecycle.RuleSlots, "1 of its 1 slots are in use", named, func(g *lifecycle.Gate) { g.Take(attempt(1), "", epoch) }},
	} {
		g := freeGate(1)
		g.Caps = []string{"x"}
		c.change(g)
		want := &event.Refusal{AgentID: "a", Rule: c.rule, Text: c.text}
		if diff := cmp.Diff(want, lifecycle.Match(g, c.want, epoch)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.rule, diff)
		}
	}
}

func versions(t *testing.T, text string) lifecycle.VersionRange {
	t.Helper()
	r, err := lifecycle.ParseVersionRange(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVersionRanges(t *testing.T) {
	for _, c := range []struct{ text, holds, not string }{
		{"", "1.0.0 v2 nightly", ""},
		{"^1.4", "1.4.0 v1.9 1.5.1", "1.3.9 2.0.0 1 nightly 1.5.0-rc.1"},
		{">=1.2  <3", "1.2.0 2.9.9", "3.0.0 1.1.9"},
		{"1.x || >=3", "1.0.0 3.1", "2.0.0"},
		{">=2.0.0-0", "2.0.0-rc.1 2.0.0", "1.9.9"},
	} {
		r := versions(t, c.text)
		for _, v := range strings.Fields(c.holds) {
			if !r.Holds(v) {
				t.Errorf("%q does not hold %s", c.text, v)
			}
		}
		for _, v := range strings.Fields(c.not) {
			if r.Holds(v) {
				t.Errorf("%q holds %s", c.text, v)
			}
		}
	}
	for _, text := range []string{"latest", ">", "1.2.3.4", strings.Repeat("1 ||", 200) + "1"} {
		if _, err := lifecycle.ParseVersionRange(text); !errors.Is(err, &event.Error{Code: event.CodeInvalid}) {
			t.Errorf("range %q: %v", text, err)
		}
	}
}

func TestAPickyTaskGoesOnlyToAnAgentThatIsAllItAsksFor(t *testing.T) {
	want := lifecycle.Want{Capability: "x", Version: versions(t, ">=2"), Labels: map[string]string{"pool": "a", "gpu": ""}}
	for _, c := range []struct {
		version string
		labels  map[string]string
		rule    string
	}{
		{"2.0.0", map[string]string{"pool": "a", "gpu": "", "more": "is fine"}, ""},
		{"1.9.9", map[string]string{"pool": "a", "gpu": ""}, lifecycle.RuleVersion},
		{"two", map[string]string{"pool": "a", "gpu": ""}, lifecycle.RuleVersion},
		{"2.0.0", map[string]string{"pool": "a"}, lifecycle.RuleLabel}, // an empty label is one
		{"2.0.0", map[string]string{"pool": "b", "gpu": ""}, lifecycle.RuleLabel},
		{"2.0.0", nil, lifecycle.RuleLabel},
	} {
		g := freeGate(1)
		g.Caps, g.Version, g.Labels = []string{"x"}, c.version, c.labels
		rule := ""
		if refusal := lifecycle.Match(g, want, epoch); refusal != nil {
			rule = refusal.Rule
		}
		if rule != c.rule || lifecycle.Fits(g, want) != (rule == "") {
			t.Errorf("version %s, labels %v: rule %q, want %q", c.version, c.labels, rule, c.rule)
		}
		if refusal := lifecycle.Match(g, lifecycle.Want{Agent: "a", Version: want.Version, Labels: want.Labels}, epoch); refusal != nil {
			t.Errorf("version %s, labels %v: the named agent is refused: %v", c.version, c.labels, refusal)
		}
	}
}

func TestATaskThatDoesNotFitASchemaGoesOnlyToOthers(t *testing.T) {
	want := lifecycle.Want{Capability: "x", Unfit: []string{"s1", "s2"}}
	for _, c := range []struct {
		schemas map[string]lifecycle.SchemaIDs
		refused bool
	}{
		{nil, false},
		{map[string]lifecycle.SchemaIDs{"x": {Input: "s2"}}, true},
		{map[string]lifecycle.SchemaIDs{"x": {Input: "s3"}}, false},
		{map[string]lifecycle.SchemaIDs{"x": {Output: "s2"}}, false},
		{map[string]lifecycle.SchemaIDs{"y": {Input: "s2"}}, false},
	} {
		g := freeGate(1)
		g.Caps, g.Schemas = []string{"x", "y"}, c.schemas
		if refused := lifecycle.Match(g, want, epoch) != nil; refused != c.refused || lifecycle.Fits(g, want) == c.refused {
			t.Errorf("schemas %v: refused %t, want %t", c.schemas, refused, c.refused)
		}
	}
	if !want.Picky() {
		t.Error("it asks for no more than the capability")
	}
}

func TestADrainedAgentGoesOnWithTheRunsItIsBoundTo(t *testing.T) {
	bound := lifecycle.Want{Agent: "a", Bound: true}
	for _, c := range []struct {
		name   string
		want   lifecycle.Want
		by     time.Time
		at     time.Duration
		refuse string
	}{
		{"new work", lifecycle.Want{Capability: "x"}, time.Time{}, 0, lifecycle.RuleDraining},
		{"new work for it by name", lifecycle.Want{Agent: "a"}, time.Time{}, 0, lifecycle.RuleDraining},
		{"a run that is bound to it", bound, time.Time{}, time.Hour, ""},
		{"a run that is bound to it, before the deadline", bound, epoch.Add(time.Minute), time.Minute - 1, ""},
		{"a run that is bound to it, at the deadline", bound, epoch.Add(time.Minute), time.Minute, lifecycle.RuleDraining},
	} {
		g := freeGate(1)
		g.Caps, g.Drained, g.DrainBy = []string{"x"}, true, c.by
		rule := ""
		if refusal := lifecycle.Match(g, c.want, epoch.Add(c.at)); refusal != nil {
			rule = refusal.Rule
		}
		if rule != c.refuse {
			t.Errorf("%s: rule %q, want %q", c.name, rule, c.refuse)
		}
		if now := epoch.Add(c.at); g.Free(now) || c.want.Bound && g.Takes(now) != (rule == "") {
			t.Errorf("%s: free %t, takes %t", c.name, g.Free(now), g.Takes(now))
		}
	}
	g := freeGate(1)
	g.Cordoned = true
	if lifecycle.Match(g, bound, epoch) == nil {
		t.Error("a cordoned agent is given a task of a run that is bound to it")
	}
}
