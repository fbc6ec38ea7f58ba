package workflow

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

func instant(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		name  string
		spec  event.ScheduleSpec
		after string
		want  []string
	}{
		{"cron in UTC", event.ScheduleSpec{Cron: "30 4 * * *"}, "2026-11-22T04:30:00Z", []string{"2026-11-23T04:30:00Z", "2026-11-24T04:30:00Z"}},
		{"cron with seconds", event.ScheduleSpec{Cron: "*/20 * * * * *"}, "2026-11-22T04:30:01Z", []string{"2026-11-22T04:30:20Z", "2026-11-22T04:30:40Z"}},
		{"cron in a zone", event.ScheduleSpec{Cron: "0 9 * * MON-FRI", TimeZone: "America/New_York"}, "2026-11-20T15:00:00Z", []string{"2026-11-23T14:00:00Z", "2026-11-24T14:00:00Z"}},
		{
			"the hour that summer time leaves out",
			event.ScheduleSpec{Cron: "30 2 * * *", TimeZone: "Europe/Rome"},
			"2026-03-28T12:00:00Z",
			[]string{"2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"},
		},
		{
			"the hour that comes twice",
			event.ScheduleSpec{Cron: "30 2 * * *", TimeZone: "Europe/Rome"},
			"2026-10-24T12:00:00Z",
			[]string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},
		},
		{
			"both of the hours that come twice",
			event.ScheduleSpec{Cron: "30 * * * *", TimeZone: "Europe/Rome"},
			"2026-10-25T00:00:00Z",
			[]string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"},
		},
		{"every, from the anchor", event.ScheduleSpec{EverySeconds: 90}, "2026-11-22T00:00:00Z", []string{"2026-11-22T00:01:30Z", "2026-11-22T00:03:00Z"}},
		{
			"every, from a start that is still to come",
			event.ScheduleSpec{EverySeconds: 60, StartAt: instant(t, "2026-11-23T00:00:30Z")},
			"2026-11-22T00:00:00Z",
			[]string{"2026-11-23T00:00:30Z", "2026-11-23T00:01:30Z"},
		},
		{
			"every, from a start that was",
			event.ScheduleSpec{EverySeconds: 60, StartAt: instant(t, "2026-11-21T00:00:30Z")},
			"2026-11-22T00:00:00Z",
			[]string{"2026-11-22T00:00:30Z", "2026-11-22T00:01:30Z"},
		},
		{"cron from a start that is a tick", event.ScheduleSpec{Cron: "0 0 1 * *", StartAt: instant(t, "2027-01-01T00:00:00Z")}, "2026-11-22T00:00:00Z", []string{"2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"}},
		{"an end", event.ScheduleSpec{EverySeconds: 60, EndAt: instant(t, "2026-11-22T00:02:00Z")}, "2026-11-22T00:00:00Z", []string{"2026-11-22T00:01:00Z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			after := instant(t, c.after)
			var got []string
			for _, tick := range Ticks(&c.spec, instant(t, "2026-11-22T00:00:00Z"), after, 2) {
				got = append(got, tick.Format(time.RFC3339))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("ticks (-want +got):\n%s", diff)
			}
		})
	}
}

// What has hurt other systems: expressions that panic, that never come true, and time zones in disguise.
func TestBadSchedulesAreRefused(t *testing.T) {
	now := instant(t, "2026-11-22T00:00:00Z")
	for _, spec := range []event.ScheduleSpec{
		{Cron: "TZ=0"},
		{Cron: "TZ="},
		{Cron: "CRON_TZ=UTC"},
		{Cron: "CRON_TZ=Europe/Rome 0 0 * * *"},
		{Cron: "@every 1s"},
		{Cron: " @every -1h"},
		{Cron: "61 * * * *"},
		{Cron: "* * *"},
		{Cron: "nonsense"},
		{Cron: "0 0 30 2 *"},
		{Cron: "0 0 * * *", TimeZone: "Mars/Olympus"},
		{Cron: "0 0 * * *", TimeZone: "../../etc/passwd"},
		{EverySeconds: 60, EndAt: instant(t, "2026-11-21T00:00:00Z")},
	} {
		if err := CheckSchedule(&spec, now); err == nil {
			t.Errorf("%+v is taken", spec)
		}
	}
}

// everySecond is a schedule that ticks each second, of which one tick was judged at 0.
func everySecond(t *testing.T, overlap event.Overlap) *Schedule {
	t.Helper()
	s := &Schedule{ID: "s"}
	at := instant(t, "2026-11-22T00:00:00Z")
	if !s.apply(&event.ScheduleSpec{WorkflowID: "w", EverySeconds: 1, Overlap: overlap}, ScheduleMark{1, at}) {
		t.Fatal("not applied")
	}
	return s
}

func TestOverlap(t *testing.T) {
	type result struct {
		Starts, Skipped int
		Waits, Replace  bool
	}
	for _, c := range []struct {
		overlap event.Overlap
		goes    bool
		want    result
	}{
		{event.OverlapSkip, false, result{Starts: 1}}, // the other two at the next look
		{event.OverlapSkip, true, result{Skipped: 3}},
		{event.OverlapQueue, false, result{Starts: 1}},
		{event.OverlapQueue, true, result{Skipped: 2, Waits: true}},
		{event.OverlapAllow, false, result{Starts: 3}},
		{event.OverlapAllow, true, result{Starts: 3}},
		{event.OverlapReplace, false, result{Starts: 1, Skipped: 2}},
		{event.OverlapReplace, true, result{Starts: 1, Skipped: 2, Replace: true}},
	} {
		s := everySecond(t, c.overlap)
		after, starts, replace := s.fire(s.Applied.At.Add(3*time.Second), c.goes)
		got := result{len(starts), int(after.Skipped), !after.Waiting.IsZero(), replace}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s, last run goes on: %v (-want +got):\n%s", c.overlap, c.goes, diff)
		}
	}
}

func TestATickThatWaitsIsStartedWhenTheLastRunHasEnded(t *testing.T) {
	s := everySecond(t, event.OverlapQueue)
	s, _, _ = s.fire(s.Applied.At.Add(time.Second), true)
	s, starts, _ := s.fire(s.Applied.At.Add(1500*time.Millisecond), false)
	if len(starts) != 1 || !starts[0].Equal(s.Applied.At.Add(time.Second)) || !s.Waiting.IsZero() {
		t.Errorf("started %v, waiting %v; want the first tick, nothing waiting", starts, s.Waiting)
	}
}

func TestOldTicksAreMissedAndCounted(t *testing.T) {
	s := everySecond(t, event.OverlapAllow)
	catchUp := 10.0
	s.Spec.CatchUpSeconds = &catchUp
	s, starts, _ := s.fire(s.Applied.At.Add(100*time.Second), false)
	if s.Missed != 89 || len(starts) != 11 { // 90 s is ten seconds old, which is not older
		t.Errorf("%d missed and %d started, want 89 and 11", s.Missed, len(starts))
	}
	s, starts, _ = s.fire(s.Applied.At.Add(1_000_000*time.Second), false)
	if s.Missed != 89+maxMissed || len(starts) > maxStarts {
		t.Errorf("%d missed and %d started after ten days: one look must be bounded", s.Missed, len(starts))
	}
}

// Whatever the order of commands, and however often they come, the last one counts.
func TestCommandsOfAScheduleAreLevels(t *testing.T) {
	begin := instant(t, "2026-11-22T00:00:00Z")
	rapid.Check(t, func(t *rapid.T) {
		type command struct {
			seq   uint64
			kind  string
			every float64
		}
		var commands []command
		for i := range rapid.IntRange(1, 6).Draw(t, "commands") {
			kind := rapid.SampledFrom([]string{"apply", "delete", "pause", "resume"}).Draw(t, "kind")
			commands = append(commands, command{uint64(i + 1), kind, float64(rapid.IntRange(1, 3).Draw(t, "every"))})
		}
		take := func(s *Schedule, c command) {
			mark := ScheduleMark{c.seq, begin.Add(time.Duration(c.seq) * time.Second)}
			switch c.kind {
			case "apply":
				s.apply(&event.ScheduleSpec{WorkflowID: "w", EverySeconds: c.every}, mark)
			case "delete":
				s.apply(nil, mark)
			default:
				s.pause(c.kind == "pause", mark)
			}
		}
		inOrder, shuffled := &Schedule{ID: "s"}, &Schedule{ID: "s"}
		for _, c := range commands {
			take(inOrder, c)
		}
		for _, c := range rapid.Permutation(append(commands, commands...)).Draw(t, "order") {
			take(shuffled, c)
		}
		if inOrder.Deleted != shuffled.Deleted || inOrder.Paused != shuffled.Paused || inOrder.Spec.EverySeconds != shuffled.Spec.EverySeconds {
			t.Fatalf("in order %+v, shuffled %+v", inOrder, shuffled)
		}
	})
}

// Looks at any times, some of them twice on the same document as two replicas or a crash would: under allow each tick within the window is started, and each
// under one name.
func TestNoTickIsLostOrNamedTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &Schedule{ID: "s"}
		begin := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
		s.apply(&event.ScheduleSpec{WorkflowID: "w", EverySeconds: 1, Overlap: event.OverlapAllow}, ScheduleMark{1, begin})
		now := begin
		runs := make(map[string]bool)
		for range rapid.IntRange(1, 30).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			after, starts, _ := s.fire(now, rapid.Bool().Draw(t, "goes"))
			for _, tick := range starts {
				runs[s.runID(tick)] = true
			}
			if rapid.Bool().Draw(t, "committed") {
				s = after
			}
		}
		for s.Next.Compare(now) <= 0 {
			var starts []time.Time
			s, starts, _ = s.fire(now, false)
			for _, tick := range starts {
				runs[s.runID(tick)] = true
			}
		}
		if want := int(now.Sub(begin) / time.Second); len(runs) != want || s.Missed != 0 {
			t.Fatalf("%d runs and %d missed after %v, want %d and none", len(runs), s.Missed, now.Sub(begin), want)
		}
	})
}
