package main

import (
	"math"
	"testing"
)

// A server that is good up to some rate is found to be so, within a tenth, in few steps.
func TestTheLimitIsFound(t *testing.T) {
	t.Parallel()
	for _, limit := range []float64{20, 400, 500, 501, 3000, 24_999, 1e9} {
		var steps []Step
		best := 0.0
		for {
			rate, ok := nextRate(steps, 500, 50_000)
			if !ok {
				break
			}
			if len(steps) > 30 || rate <= 0 || rate > 50_000 {
				t.Fatalf("limit %v: step %d tries %v", limit, len(steps), rate)
			}
			good := rate <= limit
			if good {
				best = max(best, rate)
			}
			steps = append(steps, Step{Rate: rate, Good: good})
		}
		want := math.Min(limit, 50_000)
		if best > want || best < 0.85*want {
			t.Errorf("a server that is good up to %v a second is said to be good up to %v, after %d steps", limit, best, len(steps))
		}
	}
}

func TestAServerThatIsNeverGoodHasNoLimit(t *testing.T) {
	t.Parallel()
	var steps []Step
	for {
		rate, ok := nextRate(steps, 500, 50_000)
		if !ok {
			break
		}
		if len(steps) > 20 {
			t.Fatal("the search does not end")
		}
		steps = append(steps, Step{Rate: rate})
	}
	if len(steps) < 2 {
		t.Errorf("it was given up after %d steps", len(steps))
	}
}
