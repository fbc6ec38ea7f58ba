package workflow

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

func TestNamesOfClasses(t *testing.T) {
	for _, c := range []struct {
		selector Selector
		want     string
	}{
		{Selector{}, ""},
		{Selector{Version: ">=1", Labels: map[string]string{"k": "v"}}, ""}, // asks for no agent
		{Selector{Agent: "w 1"}, "a:w 1"},
		{Selector{Agent: "w1", Bound: true}, "b:w1"},
		{Selector{Agent: "w1", Capability: "code", Version: ">=1", Labels: map[string]string{"k": "v"}, Spread: true}, "a:w1"},
		{Selector{Capability: "code"}, "c:code"},
		{Selector{Capability: "code", Labels: map[string]string{}}, "c:code"},
		{Selector{Capability: "code", Version: " >=1.2   <3 "}, "s:cap=code&version=%3E%3D1.2+%3C3"},
		{Selector{Capability: "code", Labels: map[string]string{"pool": "a", "arch": "x"}}, "s:cap=code&label.arch=x&label.pool=a"},
		{Selector{Capability: "code", Spread: true}, "s:cap=code&spread=1"},
		{Selector{Capability: "code", Unfit: []string{"s2", "s1"}, Version: ">=1"}, "s:cap=code&unfit=s1&unfit=s2&version=%3E%3D1"},
	} {
		if got := classOf(c.selector); got != c.want {
			t.Errorf("class of %+v is %q, want %q", c.selector, got, c.want)
		}
	}
}

// A class says all that its selector asks for, whatever characters it is made of.
func TestClassesAreReadAsTheyWereNamed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z:&=%+./ é|]{0,6}`)
		s := Selector{
			Agent: text.Draw(t, "agent"), Bound: rapid.Bool().Draw(t, "bound"), Capability: text.Draw(t, "capability"),
			Version: rapid.SampledFrom([]string{"", "^1", ">=1 <2", "1.x || >=3"}).Draw(t, "version"),
			Spread:  rapid.Bool().Draw(t, "spread"),
		}
		if labels := rapid.MapOfN(text, text, 0, 3).Draw(t, "labels"); len(labels) > 0 {
			s.Labels = labels
		}
		if unfit := rapid.SliceOfNDistinct(text, 0, 3, rapid.ID[string]).Draw(t, "unfit"); len(unfit) > 0 {
			s.Unfit = unfit
		}
		class := classOf(s)
		if class == "" {
			if s.Agent != "" || s.Capability != "" {
				t.Fatalf("%+v asks for an agent and has no class", s)
			}
			return
		}
		want := lifecycle.Want{Agent: s.Agent, Bound: s.Bound}
		if s.Agent == "" {
			version, err := lifecycle.ParseVersionRange(s.Version)
			if err != nil {
				t.Fatal(err)
			}
			want = lifecycle.Want{Capability: s.Capability, Version: version, Labels: s.Labels, Spread: s.Spread, Unfit: slices.Sorted(slices.Values(s.Unfit))}
		}
		same := cmp.Comparer(func(a, b lifecycle.VersionRange) bool { return a.String() == b.String() })
		if diff := cmp.Diff(want, parseClass(class), same); diff != "" {
			t.Fatalf("class %q (-asked for +read):\n%s", class, diff)
		}
	})
}

// What a newer version of the program asks for must not be given to an agent that may not be it.
func TestAClassThatIsNotUnderstoodAsksForNoAgent(t *testing.T) {
	g := &lifecycle.Gate{Agent: "a", Registered: true, Open: true, Slots: 1, Caps: []string{"code"}, Version: "1.0.0"}
	for _, class := range []string{"z:code", "s:cap=code&gpu=1", "s:cap=code&version=what", "s:cap=%zz", "s", ":", "s:"} {
		if refusal := lifecycle.Match(g, parseClass(class), time.Now()); refusal == nil {
			t.Errorf("a task of class %q is given to an agent", class)
		}
	}
	for _, class := range []string{"c:code", "a:a", "b:a", "s:cap=code&version=1"} {
		if refusal := lifecycle.Match(g, parseClass(class), time.Now()); refusal != nil {
			t.Errorf("a task of class %q: %v", class, refusal)
		}
	}
}

func TestPriorityIsTimeInTheQueue(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		priority int
		want     time.Duration
	}{{0, 0}, {1, -ageingStep}, {9, -9 * ageingStep}, {10, -9 * ageingStep}, {-1, 0}} {
		if got := place(at, c.priority).Sub(at); got != c.want {
			t.Errorf("priority %d: %v, want %v", c.priority, got, c.want)
		}
	}
	// An old task of no priority goes before a new one of the highest.
	if !place(at, MinPriority).Before(place(at.Add(9*ageingStep+time.Second), MaxPriority)) {
		t.Error("a task of low priority can wait for ever")
	}
}

func TestThePriorityOfATask(t *testing.T) {
	for _, c := range []struct{ run, want int }{{0, 3}, {5, 5}, {99, 9}} {
		s := tell(t, `{"id":"d","priority":3,"tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"b","agentCapability":"c","priority":7},
			{"taskId":"z","agentCapability":"c","priority":0,"dependsOn":[]}]}`, &event.RunStart{Priority: c.run})
		for task, want := range map[string]int{"a": c.want, "b": 7, "z": 0} {
			if got := s.task(task); got == nil || got.Priority != want {
				t.Errorf("a run of priority %d: task %s is %+v, want priority %d", c.run, task, got, want)
			}
		}
	}
}

// Classes are hints: however many wait, no more than a number of them are remembered, and of those that are not the slow scan learns again.
func TestNoMoreClassesAreRememberedThanABound(t *testing.T) {
	t.Parallel()
	e := NewEngine(Config{})
	for i := range maxClasses + 100 {
		k := e.class(fmt.Sprint("a:", i))
		k.backlog = true
		e.touch(k)
	}
	idle := e.class("s:cap=c&version=1")
	if e.class("s:cap=c&version=2"); len(e.classes) > maxClasses || e.classes[idle.name] == nil && len(e.picky["c"]) > 1 {
		t.Errorf("%d classes are remembered, %d of them by their capability", len(e.classes), len(e.picky["c"]))
	}
}
