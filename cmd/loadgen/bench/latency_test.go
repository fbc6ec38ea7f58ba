package bench

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestRunsAreFoundByTheirIDs(t *testing.T) {
	seen := make(map[string]bool)
	for _, n := range []int{0, 1, 2, 59_999, 1 << 32, 999_999_999_999} {
		id := runID(n)
		if got, ok := runNumber(id); !ok || got != n {
			t.Errorf("run %d is named %s, which is read as %d, %t", n, id, got, ok)
		}
		if seen[id] || len(id) != len(uuid.NewString()) {
			t.Errorf("run %d is named %s", n, id)
		}
		seen[id] = true
	}
	for _, id := range []string{"", "bench-1", uuid.NewString(), runID(1) + "/each/1", "x" + runID(1), strings.Repeat("0", idLength), runID(1)[:idLength-1] + "x"} {
		if n, ok := runNumber(id); ok {
			t.Errorf("%q is taken for run %d", id, n)
		}
	}
}

func TestOnlyTheFirstArrivalOfARunCounts(t *testing.T) {
	a := newArrivals(100, 3)
	a.note(runID(101))
	first := a.at[1].Load()
	for _, id := range []string{runID(101), runID(99), runID(103), uuid.NewString()} {
		a.note(id)
	}
	if first == 0 || a.at[1].Load() != first || a.at[0].Load() != 0 || a.at[2].Load() != 0 || a.left.Load() != 2 {
		t.Errorf("after two arrivals of run 101 and some of others: %d, %d left; first it was %d", a.at, a.left.Load(), first)
	}
	id := runID(100)
	if n := testing.AllocsPerRun(100, func() { a.note(id) }); n > 0 {
		t.Errorf("an arrival allocates %.0f times, and the garbage collector would be charged to the server", n)
	}
}

// TestAStallDecidesOneStretch has one stretch of three in which a few of what was due waited long.
func TestAStallDecidesOneStretch(t *testing.T) {
	waits := make([]time.Duration, 300)
	late := make([]time.Duration, len(waits))
	for i := range waits {
		waits[i], late[i] = time.Duration(1+i/100)*time.Millisecond, 50*time.Microsecond
	}
	for i := range 4 { // one more than may be above the p99 of all
		waits[100+10*i] = 80 * time.Millisecond
	}
	got := newTiming(waits, late, 100)
	if want := []float64{1, 3, 80}; !slices.Equal(got.stretches, want) {
		t.Errorf("the p99 of the stretches are %v, want %v", got.stretches, want)
	}
	if p50, p99 := quantile(got.waits, 50), quantile(got.waits, 99); p50 != 2 || p99 != 80 {
		t.Errorf("p50 %v and p99 %v of all, want 2 and 80", p50, p99)
	}
	if want := "p99 of the half seconds: 3.00 ms median, 80.0 worst; sent 0.05 ms late p50, 0.05 p99"; got.String() != want {
		t.Errorf("it says %q, want %q", got, want)
	}
}
