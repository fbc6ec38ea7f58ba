package workflow

import (
	"fmt"
	"maps"
	"strings"
	"time"

	cron "github.com/netresearch/go-cron"

	"github.com/opspawn/opscore/bus/event"
)

// Schedule is the document of a schedule. Its ticks are judged in order, each once; what a tick starts is named after it, so that
// judging it twice starts nothing twice.
type Schedule struct {
	Version  uint64             `json:"v"`
	ID       string             `json:"id"`
	Spec     event.ScheduleSpec `json:"spec,omitzero"`
	Applied  ScheduleMark       `json:"applied,omitzero"` // of the command that the spec is from, or that deleted it
	Deleted  bool               `json:"deleted,omitzero"`
	Switched ScheduleMark       `json:"switched,omitzero"` // of the command that paused or resumed it
	Paused   bool               `json:"paused,omitzero"`
	Next     time.Time          `json:"next,omitzero"`    // tick that is judged next, zero for none
	Last     time.Time          `json:"last,omitzero"`    // tick of LastRun
	LastRun  string             `json:"lastRun,omitzero"` // run that was started last
	Waiting  time.Time          `json:"waiting,omitzero"` // tick that waits for LastRun to end
	Look     time.Time          `json:"look,omitzero"`    // its timer
	Started  uint64             `json:"started,omitzero"`
	Skipped  uint64             `json:"skipped,omitzero"`
	Missed   uint64             `json:"missed,omitzero"`
}

// ScheduleMark is the place of a command in the stream: a level, the last one counts.
type ScheduleMark struct {
	Seq uint64    `json:"seq"`
	At  time.Time `json:"at"`
}

// before reports whether a command at n comes after m. A lower sequence with a later stream timestamp is from a stream that was rolled back.
func (m ScheduleMark) before(n ScheduleMark) bool { return n.Seq > m.Seq || n.At.After(m.At) }

const (
	defaultCatchUp = 10 * time.Minute
	maxStarts      = 32     // runs that one look starts; the rest is left to the next, at once
	maxMissed      = 10_000 // ticks that one look counts as missed
)

var cronParser = cron.MustNewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// CheckSchedule says what is wrong with a schedule beyond what its decoder refuses, or returns nil: its cron expression, its time zone, or that it has no tick
// at all after a time.
func CheckSchedule(spec *event.ScheduleSpec, now time.Time) error {
	if spec.Cron != "" {
		if strings.Contains(spec.Cron, "=") {
			return event.Errorf(event.CodeInvalid, "cron: write the time zone into timeZone")
		}
		if strings.HasPrefix(strings.TrimSpace(spec.Cron), "@every") {
			return event.Errorf(event.CodeInvalid, "cron: write @every as everySeconds")
		}
		if _, err := cronParser.Parse(spec.Cron); err != nil {
			return event.Errorf(event.CodeInvalid, "cron %q: %v", spec.Cron, err)
		}
		if _, err := time.LoadLocation(spec.TimeZone); err != nil {
			return event.Errorf(event.CodeInvalid, "timeZone %q is not known; it looks like Europe/Berlin", spec.TimeZone)
		}
	}
	if Ticks(spec, now, now, 1) == nil {
		return event.Errorf(event.CodeInvalid, "the schedule has no tick after %s", now.UTC().Format(time.RFC3339))
	}
	return nil
}

// Ticks returns the next n ticks after a time, fewer if there are no more. Anchor is where everySeconds counts from without startAt: when the schedule
// was applied. The spec must have been checked.
func Ticks(spec *event.ScheduleSpec, anchor, after time.Time, n int) []time.Time {
	var ticks []time.Time
	for range n {
		t := tickAfter(spec, anchor, after)
		if t.IsZero() {
			break
		}
		ticks, after = append(ticks, t), t
	}
	return ticks
}

func tickAfter(spec *event.ScheduleSpec, anchor, after time.Time) time.Time {
	var t time.Time
	switch {
	case spec.Cron != "":
		t = cronAfter(spec, after)
	case spec.StartAt.IsZero():
		t = everyAfter(spec, anchor.Truncate(time.Second), after, false)
	default:
		t = everyAfter(spec, spec.StartAt, after, true)
	}
	if !spec.EndAt.IsZero() && !t.Before(spec.EndAt) {
		return time.Time{}
	}
	return t.UTC()
}

func cronAfter(spec *event.ScheduleSpec, after time.Time) time.Time {
	rule, err := cronParser.Parse(spec.Cron)
	zone, zoneErr := time.LoadLocation(spec.TimeZone)
	if err != nil || zoneErr != nil {
		return time.Time{}
	}
	if after.Before(spec.StartAt) {
		after = spec.StartAt.Add(-time.Nanosecond) // StartAt may be a tick
	}
	for t := rule.Next(after.In(zone)); ; t = rule.Next(t) {
		if t.IsZero() || everyHour(spec.Cron) || !secondTime(t) {
			return t
		}
	}
}

// everyHour reports whether a cron expression leaves the hour open. Such a one ticks in both hours when summer time ends; one that names
// hours ticks once.
func everyHour(expression string) bool {
	fields := strings.Fields(expression)
	hour := len(fields) - 4
	return expression == "@hourly" || hour >= 0 && strings.HasPrefix(fields[hour], "*")
}

// secondTime reports whether clocks show this time for the second time, because they were set back.
func secondTime(t time.Time) bool {
	_, now := t.Zone()
	_, before := t.Add(-3 * time.Hour).Zone()
	earlier := t.Add(time.Duration(now-before) * time.Second)
	return before > now && earlier.Format(time.DateTime) == t.Format(time.DateTime)
}

// everyAfter returns the first time after another that is a whole number of periods from the anchor. The anchor itself is a tick only if it was asked for.
func everyAfter(spec *event.ScheduleSpec, anchor, after time.Time, first bool) time.Time {
	period := time.Duration(spec.EverySeconds * float64(time.Second))
	n := after.Sub(anchor)/period + 1
	if after.Before(anchor) {
		n = 0
	}
	if n == 0 && !first {
		n = 1
	}
	return anchor.Add(n * period)
}

// apply takes in a new spec, or the deletion when it is nil. Ticks are counted from the stream timestamp of the command, so none is lost while it waits in the
// stream. It reports whether the document changed.
func (s *Schedule) apply(spec *event.ScheduleSpec, at ScheduleMark) bool {
	if !s.Applied.before(at) {
		return false
	}
	s.Applied, s.Deleted = at, spec == nil
	if spec == nil {
		s.Spec, s.Waiting = event.ScheduleSpec{}, time.Time{}
	} else {
		s.Spec = *spec
	}
	s.begin(at.At)
	return true
}

// pause pauses the schedule, or resumes it: what would have ticked meanwhile is left out.
func (s *Schedule) pause(on bool, at ScheduleMark) bool {
	if !s.Switched.before(at) {
		return false
	}
	s.Switched = at
	if s.Paused != on {
		s.Paused = on
		s.begin(at.At)
	}
	return true
}

// known reports whether there is such a schedule: it was applied, and not deleted since.
func (s *Schedule) known() bool { return s.Version > 0 && !s.Deleted }

// seq is the highest sequence that was taken in.
func (s *Schedule) seq() uint64 { return max(s.Applied.Seq, s.Switched.Seq) }

// begin counts the ticks from a time.
func (s *Schedule) begin(from time.Time) {
	s.Next = time.Time{}
	if s.Spec.WorkflowID != "" && !s.Paused {
		s.Next = tickAfter(&s.Spec, s.Applied.At, later(from, s.Last))
	}
	s.arm(from)
}

func (s *Schedule) arm(now time.Time) {
	s.Look = s.Next
	if !s.Waiting.IsZero() && !s.Paused {
		if soon := now.Add(LookAgain); s.Look.IsZero() || soon.Before(s.Look) {
			s.Look = soon
		}
	}
	s.Version++
}

// fire judges the ticks that are due. Goes says whether the run that was started last goes on. It returns the schedule as it shall be, the ticks that
// start a run, and whether the run that goes on is to be cancelled.
func (s *Schedule) fire(now time.Time, goes bool) (after *Schedule, starts []time.Time, replace bool) {
	a := *s
	if a.Deleted || a.Paused {
		a.Next = time.Time{}
		a.arm(now)
		return &a, nil, false
	}
	catchUp := defaultCatchUp
	if c := a.Spec.CatchUpSeconds; c != nil {
		catchUp = time.Duration(*c * float64(time.Second))
	}
	if !a.Waiting.IsZero() && !goes {
		starts, a.Waiting = append(starts, a.Waiting), time.Time{}
	}
	a.passOver(now.Add(-max(catchUp, duePeriod*10)))
	// Where runs must not overlap one is started at a time: whether the next tick finds it still going is seen at the next look, which is at once.
	alone := a.Spec.Overlap != event.OverlapAllow && a.Spec.Overlap != event.OverlapReplace
	for !a.Next.IsZero() && !a.Next.After(now) && len(starts) < maxStarts && !(alone && len(starts) > 0) {
		tick := a.Next
		a.Next = tickAfter(&a.Spec, a.Applied.At, tick)
		switch {
		case a.Spec.Overlap == event.OverlapAllow || !goes && len(starts) == 0:
			starts = append(starts, tick)
		case a.Spec.Overlap == event.OverlapReplace:
			a.Skipped += uint64(len(starts)) // of several that are due only the last one runs
			starts, replace = []time.Time{tick}, goes
		case a.Spec.Overlap == event.OverlapQueue && a.Waiting.IsZero():
			a.Waiting = tick
		default:
			a.Skipped++
		}
	}
	a.Started += uint64(len(starts))
	if n := len(starts); n > 0 {
		a.Last, a.LastRun = starts[n-1], a.runID(starts[n-1])
	}
	a.arm(now)
	return &a, starts, replace
}

// passOver counts the ticks before a horizon as missed. A second of delay is no reason to miss one.
func (s *Schedule) passOver(horizon time.Time) {
	for range maxMissed {
		if s.Next.IsZero() || !s.Next.Before(horizon) {
			return
		}
		s.Missed++
		s.Next = tickAfter(&s.Spec, s.Applied.At, s.Next)
	}
	s.Next = tickAfter(&s.Spec, s.Applied.At, horizon)
}

// runID names the run of a tick.
func (s *Schedule) runID(tick time.Time) string {
	return s.ID + "-" + tick.UTC().Format("20060102T150405Z")
}

// labelSchedule is the label of runs that a schedule has started.
const labelSchedule = "opscore.schedule"

// start is the command that starts the run of a tick. It is the same whoever makes it.
func (s *Schedule) start() *event.RunStart {
	labels := maps.Clone(s.Spec.Labels)
	if labels == nil {
		labels = make(map[string]string, 1)
	}
	labels[labelSchedule] = s.ID
	return &event.RunStart{
		WorkflowID: s.Spec.WorkflowID, Version: s.Spec.Version, Input: s.Spec.Input, AgentID: s.Spec.AgentID, Labels: labels, Priority: s.Spec.Priority,
	}
}

const upcomingTicks = 5

// show turns a schedule into its shape on the wire.
func (s *Schedule) show(upcoming bool) *event.Schedule {
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return new(t.UTC())
	}
	shown := &event.Schedule{
		ScheduleID: s.ID, ScheduleSpec: s.Spec, Paused: s.Paused, NextAt: at(s.Next), LastAt: at(s.Last), LastRunID: s.LastRun, WaitingAt: at(s.Waiting),
		Started: s.Started, Skipped: s.Skipped, Missed: s.Missed, Seq: s.seq(), Version: s.Version,
	}
	if upcoming && !s.Next.IsZero() {
		shown.Upcoming = append([]time.Time{s.Next.UTC()}, Ticks(&s.Spec, s.Applied.At, s.Next, upcomingTicks-1)...)
	}
	return shown
}

func unknownSchedule(id string) error {
	return event.Errorf(event.CodeUnknownSchedule, "there is no schedule %q", id)
}

func describeTick(s *Schedule, tick time.Time) string {
	return fmt.Sprintf("tick %s of schedule %s", tick.UTC().Format(time.RFC3339), s.ID)
}
