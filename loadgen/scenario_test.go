package loadgen

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBuiltinScenariosSurviveTheRoundTripThroughYAML(t *testing.T) {
	for _, s := range Builtins() {
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		text, err := s.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(s.Name+".yaml", text)
		if err != nil {
			t.Errorf("%v\n%s", err, text)
			continue
		}
		second, err := again.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(text), string(second)); diff != "" {
			t.Errorf("%s changes on its way through YAML:\n%s", s.Name, diff)
		}
		again.Definition, again.Metadata = s.Definition, s.Metadata // numbers come back as other types of number
		for i := range again.Tasks {
			again.Tasks[i].Context = s.Tasks[i].Context
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Errorf("%s changes on its way through YAML:\n%s", s.Name, diff)
		}
	}
}

func TestParseSaysWhereAFileIsWrong(t *testing.T) {
	const head = "name: x\nusers: 2\nrunTime: 5s\npause: {min: 1s, max: 2s}\n"
	for _, c := range []struct {
		name, text string
		at         string // line:column
		says       string
	}{
		{"unknown member", head + "taks:\n  - op: post-state\n", "5:1", `unknown field "taks"`},
		{"unknown member of a step", head + "tasks:\n  - op: post-state\n    wait: 3\n", "7:5", `unknown field "wait"`},
		{"wrong type", "name: x\nusers: many\n", "2:8", "cannot unmarshal string"},
		{"not YAML", "name: [x\n", "1:7", ""},
		{"not a time", "name: x\nusers: 1\nrunTime: 5 minutes\n", "3:10", "unknown unit"},
		{"unknown op", head + "tasks:\n  - op: post-state\n  - op: post-sate\n", "7:9", `no op "post-sate"; use one of`},
		{"no tasks", head, "1:1", "give tasks"},
		{"pause the wrong way round", "name: x\nusers: 1\nrunTime: 5s\npause:\n  min: 3s\n  max: 1s\ntasks:\n  - op: post-state\n", "5:3", "max not less than min"},
		{"users twice", head + "stages:\n  - users: 3\ntasks:\n  - op: post-state\n", "6:3", "either stages, or users"},
		{"fewer users", "name: x\nstages:\n  - users: 3\n  - users: 2\ntasks:\n  - op: post-state\n", "4:12", "only add to them"},
		{"nothing to send", head + "tasks:\n  - op: trigger\n", "6:5", "either workflow, an id, or inline"},
		{"inline without definition", head + "tasks:\n  - op: trigger\n    inline: true\n", "7:13", "no definition"},
		{"a rate with pauses", head + "rate: 10\ntasks:\n  - op: post-state\n", "4:9", "leave pause out"},
		{"empty", "", "1:1", "one YAML document"},
		{"a member twice", "name: x\nname: y\n", "2:1", "name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("load.yaml", []byte(c.text))
			var parse *ParseError
			if !errors.As(err, &parse) {
				t.Fatalf("it ends with %v, want a ParseError", err)
			}
			if want := "load.yaml:" + c.at + ": "; !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("it says %q, want %s … %s", err, want, c.says)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range Builtins() {
		text, err := s.YAML()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse("f", text)
		if err == nil && (s.Peak() < 1 || len(s.starts()) != s.Peak()) {
			t.Errorf("a scenario of %d users has %d starts", s.Peak(), len(s.starts()))
		}
	})
}

func TestUsersStartAlongTheRamp(t *testing.T) {
	s := &Scenario{Stages: []Stage{
		{Users: 2},
		{Users: 4, Over: 4 * time.Second, Hold: 10 * time.Second},
		{Add: 1, Hold: time.Second, Times: 2},
	}}
	want := []time.Duration{0, 0, 0, 2 * time.Second, 14 * time.Second, 15 * time.Second}
	if diff := cmp.Diff(want, s.starts()); diff != "" {
		t.Error(diff)
	}
	if s.Duration() != 16*time.Second || s.Peak() != 6 {
		t.Errorf("it takes %v and has %d users, want 16s and 6", s.Duration(), s.Peak())
	}
	c := s.Compressed(4)
	want = []time.Duration{0, 0, 0, 500 * time.Millisecond, 11 * time.Second, 12 * time.Second}
	if diff := cmp.Diff(want, c.starts()); diff != "" {
		t.Errorf("compressed: %s", diff)
	}
	if c.Duration() != 13*time.Second {
		t.Errorf("compressed it takes %v, want 13s: only the ramp is shorter", c.Duration())
	}
}

func TestASpawnRateIsARamp(t *testing.T) {
	s := &Scenario{Users: 4, SpawnRate: 2, RunTime: 10 * time.Second}
	want := []time.Duration{0, 500 * time.Millisecond, time.Second, 1500 * time.Millisecond}
	if diff := cmp.Diff(want, s.starts()); diff != "" {
		t.Error(diff)
	}
	if c := s.Compressed(2); c.SpawnRate != 4 || c.Duration() != 9*time.Second {
		t.Errorf("compressed: %v users a second for %v, want 4 for 9s", c.SpawnRate, c.Duration())
	}
}

// plan is what a user with these dice does first.
func plan(seed uint64, user int) string {
	s, _ := Builtin("scenario-3")
	d := newDice(seed, user)
	text := d.id(s.IDs, user)
	for range 20 {
		text += fmt.Sprint(" ", d.step(s.Tasks).Op, d.state(), d.span(s.Pause))
	}
	return text
}

func TestTheSameSeedGivesTheSameUsers(t *testing.T) {
	if first, again := plan(7, 3), plan(7, 3); first != again {
		t.Error("a user does other things with the same seed")
	}
	if plan(7, 3) == plan(7, 4) || plan(7, 3) == plan(8, 3) {
		t.Error("two users, or two seeds, give the same sequence")
	}
}

func TestTasksAreChosenByWeight(t *testing.T) {
	s, _ := Builtin("scenario-3")
	d, seen := newDice(1, 1), make(map[Op]int)
	for range 10_000 {
		seen[d.step(s.Tasks).Op]++
	}
	for op, share := range map[Op]int{OpPostState: 8000, OpGetState: 1500, OpTrigger: 500} {
		if n := seen[op]; n < share*9/10 || n > share*11/10 {
			t.Errorf("%s was chosen %d times of 10,000, want about %d", op, n, share)
		}
	}
}

func TestPausesStayWithinTheirBounds(t *testing.T) {
	d, span := newDice(1, 1), Span{5 * time.Millisecond, 10 * time.Millisecond}
	low, high := time.Hour, time.Duration(0)
	for range 10_000 {
		p := d.span(span)
		low, high = min(low, p), max(high, p)
	}
	if low < span.Min || high > span.Max || low > span.Min+span.Min/10 || high < span.Max-span.Min/10 {
		t.Errorf("pauses lie between %v and %v, want all of %v", low, high, span)
	}
}
