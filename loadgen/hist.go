package loadgen

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The range and the resolution of histograms, in µs. What takes longer counts as the longest.
const (
	histogramMax    = int64(time.Hour / time.Microsecond)
	histogramDigits = 3
)

// histogram counts latencies. It is not safe for concurrent use.
type histogram struct{ hdr *hdrhistogram.Histogram }

func newHistogram() histogram {
	return histogram{hdrhistogram.New(1, histogramMax, histogramDigits)}
}

func micros(d time.Duration) int64 { return min(max(d.Microseconds(), 1), histogramMax) }

// record adds one latency.
func (h histogram) record(d time.Duration) {
	_ = h.hdr.RecordValue(micros(d)) // fails only beyond histogramMax
}

// maxOmitted bounds how many requests one answer can stand for.
const maxOmitted = 10_000

// recordOmitted adds the latencies of the requests that could not be sent at their time because this one took longer than the time
// between two: each is late by what was still missing when it should have been sent. Without a time between two there are none.
func (h histogram) recordOmitted(d, interval time.Duration) {
	if interval <= 0 {
		return
	}
	for range maxOmitted {
		if d -= interval; d <= 0 {
			return
		}
		h.record(d)
	}
}

func (h histogram) count() int64 { return h.hdr.TotalCount() }

// merge adds the latencies of another one.
func (h histogram) merge(from histogram) { h.hdr.Merge(from.hdr) }

func (h histogram) reset() { h.hdr.Reset() }

// percentile returns the latency, in ms, that p percent are not above; 0 if there is none at all.
func (h histogram) percentile(p float64) float64 {
	return float64(h.hdr.ValueAtPercentile(p)) / 1000
}

func (h histogram) mean() float64 { return h.hdr.Mean() / 1000 }

// quantiles sums the histogram up.
func (h histogram) quantiles() Quantiles {
	if h.count() == 0 {
		return Quantiles{}
	}
	ps := []float64{50, 66, 75, 80, 90, 95, 98, 99, 99.9, 99.99}
	v := h.hdr.ValueAtPercentilesSlice(ps)
	ms := func(i int) float64 { return float64(v[i]) / 1000 }
	return Quantiles{
		Min: float64(h.hdr.Min()) / 1000, Mean: h.mean(), Max: float64(h.hdr.Max()) / 1000,
		P50: ms(0), P66: ms(1), P75: ms(2), P80: ms(3), P90: ms(4), P95: ms(5), P98: ms(6), P99: ms(7), P999: ms(8), P9999: ms(9),
	}
}
