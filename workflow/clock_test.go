package workflow

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestOutagesOfOurOwnAreNobodysTime(t *testing.T) {
	t.Parallel()
	var c intakeClock
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	run := &Run{Created: minute(0), Tasks: []RunTask{
		{ID: "old", Ready: minute(0)},
		{ID: "new", Ready: minute(12)},
		{ID: "heard", Ready: minute(0), Renewed: minute(30)},
		{ID: "waits", Started: minute(12)}, // for a signal or a person: it was never ready
		{ID: "waits now", Started: minute(30)},
	}}
	c.read(minute(5), minute(5), nil)
	c.read(minute(10), time.Time{}, errors.New("the store is down"))
	c.read(minute(11), time.Time{}, errors.New("it still is"))
	c.back(minute(14)) // nothing is due for an hour: that hour is no outage
	c.read(minute(80), minute(80), nil)
	for id, want := range map[string]time.Time{
		"":          minute(76).Add(-outageGrace),
		"old":       minute(76).Add(-outageGrace),
		"new":       minute(78).Add(-outageGrace),
		"heard":     minute(80),
		"waits":     minute(78).Add(-outageGrace),
		"waits now": minute(80),
	} {
		if got := c.since(run, id, minute(80)); !got.Equal(want) {
			t.Errorf("for task %q everything is taken in up to %s, want %s", id, got.Sub(noon), want.Sub(noon))
		}
	}
}

func TestOutagesThatOverlapAreOne(t *testing.T) {
	t.Parallel()
	at := func(from, to int) outage {
		return outage{noon.Add(time.Duration(from) * time.Second), noon.Add(time.Duration(to) * time.Second)}
	}
	var all []outage
	for _, c := range []struct {
		add  outage
		want []outage
	}{
		{at(10, 20), []outage{at(10, 20)}},
		{at(30, 40), []outage{at(10, 20), at(30, 40)}},
		{at(2, 5), []outage{at(2, 5), at(10, 20), at(30, 40)}},
		{at(9, 21), []outage{at(2, 5), at(9, 21), at(30, 40)}},
		{at(12, 14), []outage{at(2, 5), at(9, 21), at(30, 40)}},
		{at(40, 50), []outage{at(2, 5), at(9, 21), at(30, 50)}},
		{at(4, 35), []outage{at(2, 50)}},
	} {
		if all = join(all, c.add); !slices.Equal(all, c.want) {
			t.Fatalf("with %v: %v, want %v", c.add, all, c.want)
		}
	}
	for i := range 2 * maxOutages {
		all = join(all, at(100+2*i, 101+2*i))
	}
	if last := at(98+4*maxOutages, 99+4*maxOutages); len(all) != maxOutages || all[maxOutages-1] != last {
		t.Errorf("%d are kept, the last is %v, want %v", len(all), all[len(all)-1], last)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	at := func(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }
	for name, c := range map[string]struct {
		last time.Time
		now  time.Time
		want watch
		due  bool
	}{
		"the first one ever":         {time.Time{}, at(0), watch{At: at(0)}, true},
		"another was just there":     {at(0), at(0.9), watch{At: at(0)}, false},
		"one was there lately":       {at(0), at(2.9), watch{At: at(2.9)}, true},
		"nobody was":                 {at(0), at(3), watch{At: at(3), Outages: []outage{{at(0), at(3)}}}, true},
		"another clock is ahead":     {at(50), at(0), watch{At: at(50)}, false},
		"another clock is far ahead": {at(3600), at(0), watch{At: at(0)}, true},
	} {
		got, gap, due := watch{At: c.last}.next(c.now)
		if !got.At.Equal(c.want.At) || !slices.Equal(got.Outages, c.want.Outages) || due != c.due || (gap > 0) != (len(c.want.Outages) > 0) {
			t.Errorf("%s: %+v %s %t, want %+v %t", name, got, gap, due, c.want, c.due)
		}
	}
}
