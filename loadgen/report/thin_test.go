package report

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestThinningKeepsExtremesAndGaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, buckets := rapid.IntRange(0, 3000).Draw(t, "points"), rapid.IntRange(1, 400).Draw(t, "buckets")
		points := make([]point, n)
		x := 0.0
		for i := range points {
			x += rapid.Float64Range(0.1, 3).Draw(t, "step")
			points[i] = point{x, rapid.Float64Range(0, 1000).Draw(t, "value")}
		}
		gaps := rapid.SliceOfN(rapid.IntRange(0, max(n-1, 0)), 0, 3).Draw(t, "gaps")
		for _, g := range gaps {
			if n > 0 {
				points[g].y = math.NaN()
			}
		}
		kept := thin(points, buckets)
		if n > 2*buckets && len(kept) > 3*buckets+4 {
			t.Fatalf("%d of %d points are kept for %d buckets", len(kept), n, buckets)
		}
		if !slices.IsSortedFunc(kept, func(a, b point) int { return int(math.Copysign(1, a.x-b.x)) }) {
			t.Fatalf("the order is lost: %v", kept)
		}
		if n == 0 {
			return
		}
		if kept[0].x != points[0].x || kept[len(kept)-1].x != points[n-1].x {
			t.Fatalf("the line is from %v to %v, want from %v to %v", kept[0].x, kept[len(kept)-1].x, points[0].x, points[n-1].x)
		}
		if a, b := highest(points), highest(kept); a.y != b.y {
			t.Fatalf("the highest value is %v, want %v", b.y, a.y)
		}
		hasGap := func(list []point) bool {
			return slices.ContainsFunc(list, func(p point) bool { return math.IsNaN(p.y) })
		}
		if hasGap(points) != hasGap(kept) {
			t.Fatal("a gap is lost")
		}
	})
}

func TestStepsAreOnesThatPeopleCountIn(t *testing.T) {
	for _, test := range []struct{ reach, want float64 }{{0, 1}, {0.7, 0.2}, {1, 0.25}, {3.9, 1}, {4, 1}, {7, 2}, {130, 50}, {40_000, 10_000}} {
		if got := niceStep(test.reach, 4); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("up to %v in steps of %v, want %v", test.reach, got, test.want)
		}
	}
	for _, test := range []struct{ seconds, want float64 }{{5, 1}, {30, 5}, {60, 10}, {300, 60}, {3600, 600}, {100_000, 43200}, {1e6, 86400}} {
		if got := timeStep(test.seconds, 6); got != test.want {
			t.Errorf("%v s in steps of %v, want %v", test.seconds, got, test.want)
		}
	}
}

func TestNumbersHaveTheDigitsThatMatter(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.123: "0.12", 9.5: "9.50", 12.34: "12.3", 123.4: "123", 1_234_567: "1,234,567"} {
		if got := number(v); got != want {
			t.Errorf("%v is shown as %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0 s", 59.4: "59 s", 59.6: "1:00", 125: "2:05", 3725: "1:02:05"} {
		if got := clock(v); got != want {
			t.Errorf("%v s is shown as %s, want %s", v, got, want)
		}
	}
	if got := share(1, 1_000_000); got != "< 0.01 %" {
		t.Errorf("one in a million is shown as %s", got)
	}
}

func TestNamesOfLinesDoNotCoverEachOther(t *testing.T) {
	c := chart{Top: 10}
	for _, y := range []float64{0, 0, 0, 0.1, 9.9, 10, 10} {
		c.Lines = append(c.Lines, line{points: []point{{1, y}, {2, y}, {3, y}}})
	}
	c.placeLabels()
	var at []float64
	for _, l := range c.Lines {
		at = append(at, l.Label)
	}
	slices.Sort(at)
	for i := range at {
		if at[i] < 0 || at[i] > plotHeight || i > 0 && at[i]-at[i-1] < labelHeight-1e-9 {
			t.Fatalf("the names stand at %v, want them inside and %d apart", at, labelHeight)
		}
	}
}
