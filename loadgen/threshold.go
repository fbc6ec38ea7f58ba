package loadgen

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limit is a threshold to be judged at the end of a run. Latencies count from the intended time.
type Limit struct {
	text      string
	operation string // empty: all
	metric    string // "p", "avg", "min", "max", "rate" or "rps"
	percent   float64
	compare   string
	value     float64
}

// limitForm is [operation:]metric comparison value.
var limitForm = regexp.MustCompile(`^(?:(.+):)?\s*(p\(\s*(\d+(?:\.\d+)?)\s*\)|avg|min|max|rate|rps)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?)\s*$`)

// ParseLimit reads a threshold: [operation:]metric, a comparison and a value, as "p(99)<20", "POST state:p(95)<=10", "rate<0.01" or
// "rps>100". p(N), avg, min and max are in ms, rate is the share of requests that failed, rps is requests a second.
func ParseLimit(text string) (Limit, error) {
	m := limitForm.FindStringSubmatch(text)
	if m == nil {
		return Limit{}, fmt.Errorf("threshold %q cannot be read; write [OPERATION:]METRIC, then <, <=, > or >=, then a number, as in "+
			"\"p(99)<20\" (ms), \"POST state:avg<=5\" (ms), \"rate<0.01\" (share of failures) or \"rps>100\"", text)
	}
	l := Limit{text: text, operation: strings.TrimSpace(m[1]), metric: m[2], compare: m[4]}
	if m[3] != "" {
		l.metric = "p"
		l.percent, _ = strconv.ParseFloat(m[3], 64) // digits, as the pattern says
		if l.percent > 100 {
			return Limit{}, fmt.Errorf("threshold %q: a percentile is at most 100", text)
		}
	}
	l.value, _ = strconv.ParseFloat(m[5], 64)
	return l, nil
}

// check says whether a run has the operation that a limit is about.
func (l Limit) check(run *load) error {
	if l.operation == "" {
		return nil
	}
	known := make(map[string]bool)
	for _, t := range slices.Concat(run.scenario.OnStart, run.scenario.Tasks) {
		if t.Op != OpWait {
			known[run.transport.operation(t.Op)] = true
		}
	}
	if !known[l.operation] {
		return fmt.Errorf("%w: threshold %q: scenario %s has no operation %q; it has %s",
			ErrConfig, l.text, run.scenario.Name, l.operation, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	return nil
}

// judge says whether a limit holds. Without any request only a limit on rps can: nothing was seen.
func (l Limit) judge(s *statistics, over time.Duration) Threshold {
	m := s.totals()
	if l.operation != "" {
		if m = s.named(l.operation); m == nil {
			m = newMeasured()
		}
	}
	seen := l.seen(m, over)
	held := m.requests > 0 || l.metric == "rps"
	switch l.compare {
	case "<":
		held = held && seen < l.value
	case "<=":
		held = held && seen <= l.value
	case ">":
		held = held && seen > l.value
	case ">=":
		held = held && seen >= l.value
	}
	return Threshold{Text: l.text, Seen: seen, Held: held}
}

func (l Limit) seen(m *measured, over time.Duration) float64 {
	switch l.metric {
	case "p":
		return m.corrected.percentile(l.percent)
	case "avg":
		return m.corrected.mean()
	case "min":
		return m.corrected.quantiles().Min
	case "max":
		return m.corrected.quantiles().Max
	case "rate":
		return float64(m.failures) / float64(max(m.requests, 1))
	}
	return m.operation(over).RPS
}
