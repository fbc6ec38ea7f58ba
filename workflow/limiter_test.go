package workflow

import "testing"

// A run that is started stands behind those that wait, although there may be room for a moment; one from the head of the queue needs room alone.
func TestLimiterAdmits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		active, waiting int
		waits, want     bool
	}{
		{0, 0, false, true},
		{1, 0, false, true},
		{2, 0, false, false},
		{3, 0, false, false}, // a version with a lower bound
		{1, 1, false, false},
		{1, 1, true, true},
		{2, 1, true, false},
	} {
		l := &limiter{Max: 9, Active: tt.active, Waiting: tt.waiting}
		if got := l.admits(2, tt.waits); got != tt.want {
			t.Errorf("%+v admits one that waits (%v): %v", l, tt.waits, got)
		}
	}
}
