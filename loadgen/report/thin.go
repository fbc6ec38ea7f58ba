package report

import "math"

// point is a place in a chart, in the units of its axes. A NaN ends a line; the next point begins another.
type point struct{ x, y float64 }

// thin leaves about 2×buckets points of a line: of each bucket of time the lowest and the highest, in their order, so that no peak
// disappears. The first and the last point stay, and so do gaps. Points must be in the order of x.
func thin(points []point, buckets int) []point {
	if len(points) <= 2*buckets || buckets < 1 {
		return points
	}
	first, last := points[0].x, points[len(points)-1].x
	width := (last - first) / float64(buckets)
	if width <= 0 {
		return points[:1]
	}
	kept := []point{points[0]}
	for from := 0; from < len(points); {
		bucket := math.Floor((points[from].x - first) / width)
		to := from
		for to < len(points) && math.Floor((points[to].x-first)/width) == bucket {
			to++
		}
		kept = append(kept, extremes(points[from:to])...)
		from = to
	}
	if end := points[len(points)-1]; kept[len(kept)-1] != end {
		kept = append(kept, end)
	}
	return kept
}

// extremes returns the lowest and the highest of some points, and a gap if there is one, in their order.
func extremes(points []point) []point {
	low, high, gap := -1, -1, -1
	for i, p := range points {
		if math.IsNaN(p.y) {
			gap = i
			continue
		}
		if low < 0 || p.y < points[low].y {
			low = i
		}
		if high < 0 || p.y > points[high].y {
			high = i
		}
	}
	var kept []point
	for i, p := range points {
		if i == low || i == high || i == gap {
			kept = append(kept, p)
		}
	}
	return kept
}

// spans cuts points into at most n spans of equal numbers and returns the end of each span and its highest value, NaN where there is none.
func spans(points []point, n int) []point {
	size := max(1, (len(points)+n-1)/n)
	var out []point
	for from := 0; from < len(points); from += size {
		to := min(from+size, len(points))
		p := point{points[to-1].x, math.NaN()}
		for _, q := range points[from:to] {
			if !math.IsNaN(q.y) && !(p.y >= q.y) {
				p.y = q.y
			}
		}
		out = append(out, p)
	}
	return out
}

// niceStep is the smallest step of 1, 2, 2.5 or 5 times a power of ten that reaches a value in at most n steps.
func niceStep(reach float64, n int) float64 {
	if reach <= 0 {
		return 1
	}
	rough := reach / float64(n)
	power := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, f := range []float64{1, 2, 2.5, 5} {
		if f*power >= rough*(1-1e-9) {
			return f * power
		}
	}
	return 10 * power
}

// timeStep is a step of a time axis, in seconds, that people count in.
func timeStep(seconds float64, n int) float64 {
	for _, s := range []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200} {
		if seconds/s <= float64(n) {
			return s
		}
	}
	return 86400
}
