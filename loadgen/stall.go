package loadgen

import (
	"math"
	"slices"
	"strings"
	"time"
)

const (
	// StallSpan names what Stalls has measured in the Spans of a Result.
	StallSpan = "stall"
	// StallLimit is how long the work may stand still when one of several replicas is killed.
	StallLimit = 2 * time.Second
	// stallWindow is how long a kill is held responsible.
	stallWindow = 5 * time.Second
)

// Stalls measures, for each kill of a replica that was carried out, the longest time in the 5 s after it in which no agent began a task, writes it into the
// fault, and returns all of them together. What happens after the load has ended, or after the next kill, does not count. It is false when there is none to measure.
func (j *Journal) Stalls(faults []Fault, began time.Time, load time.Duration) (Quantiles, bool) {
	begun := j.begun()
	at := make([]int64, len(begun))
	for i := range begun {
		at[i] = begun[i].begin
	}
	slices.Sort(at)
	var stalls []time.Duration
	for i := range faults {
		f := &faults[i]
		if f.Kind != FaultKill || !strings.HasPrefix(f.Target, "opscore-") || f.Error != "" {
			continue
		}
		from := began.Add(time.Duration(f.Second * float64(time.Second)))
		until := from.Add(stallWindow)
		if end := began.Add(load); end.Before(until) {
			until = end
		}
		for _, next := range faults {
			if t := began.Add(time.Duration(next.Second * float64(time.Second))); t.After(from) && t.Before(until) {
				until = t
			}
		}
		stall := longestGap(at, from.UnixNano(), until.UnixNano())
		f.StallMs = float64(stall.Microseconds()) / 1000
		stalls = append(stalls, stall)
	}
	if len(stalls) == 0 {
		return Quantiles{}, false
	}
	slices.Sort(stalls)
	return quantilesOf(stalls), true
}

// longestGap is the longest time between from and until in which none of the sorted moments lies.
func longestGap(moments []int64, from, until int64) (longest time.Duration) {
	first, _ := slices.BinarySearch(moments, from)
	last := from
	for _, m := range moments[first:] {
		if m > until {
			break
		}
		longest, last = max(longest, time.Duration(m-last)), m
	}
	return max(longest, time.Duration(until-last))
}

// quantilesOf sums up some times, the shortest first.
func quantilesOf(sorted []time.Duration) Quantiles {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	at := func(p float64) float64 { return ms(sorted[min(int(math.Ceil(p*float64(len(sorted)))), len(sorted))-1]) }
	var sum time.Duration
	for _, d := range sorted {
		sum += d
	}
	return Quantiles{
		Min: ms(sorted[0]), Mean: ms(sum / time.Duration(len(sorted))), P50: at(0.5), P66: at(0.66), P75: at(0.75), P80: at(0.8), P90: at(0.9), P95: at(0.95),
		P98: at(0.98), P99: at(0.99), P999: at(0.999), P9999: at(0.9999), Max: ms(sorted[len(sorted)-1]),
	}
}
