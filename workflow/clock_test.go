package workflow

import (
	"errors"
	"testing"
	"time"
)

func TestOutagesOfOurOwnAreNobodysTime(t *testing.T) {
	t.Parallel()
	var c intakeClock
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	run := &Run{Created: minute(0), Tasks: []RunTask{{ID: "old", Ready: minute(0)}, {ID: "new", Ready: minute(12)}, {ID: "heard", Ready: minute(0), Renewed: minute(30)}}}
	c.read(minute(5), minute(5), nil)
	c.read(minute(10), time.Time{}, errors.New("the store is down"))
	c.read(minute(11), time.Time{}, errors.New("it still is"))
	c.back(minute(14)) // nothing is due for an hour: that hour is no outage
	c.read(minute(80), minute(80), nil)
	for id, want := range map[string]time.Time{
		"":      minute(76).Add(-outageGrace),
		"old":   minute(76).Add(-outageGrace),
		"new":   minute(78).Add(-outageGrace),
		"heard": minute(80),
	} {
		if got := c.since(run, id, minute(80)); !got.Equal(want) {
			t.Errorf("for task %q everything is taken in up to %s, want %s", id, got.Sub(noon), want.Sub(noon))
		}
	}
}
