package server

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// TuneMemory trades memory for time in a process that is a server and nothing else: the live heap is small, and collecting it at every
// doubling costs a tenth of the throughput. GOGC overrides it.
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}

// softLimit is the memory of the Go runtime from which on time is no longer saved at its cost: a tree of 130,000 runs, of which 100 MiB lived, took 900.
const softLimit = 256 << 20

// limitMemory keeps the memory at softLimit for as long as what lives is less than half of that, and at twice what lives otherwise: collecting more often
// than the runtime does by itself would take the time of all else. GOMEMLIMIT overrides it.
func limitMemory(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for limit := int64(0); ; {
		metrics.Read(live)
		if want := memoryLimit(live[0].Value.Uint64()); want < limit-limit/8 || want > limit+limit/8 { // setting it stops the world
			limit = want
			debug.SetMemoryLimit(limit)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// memoryLimit returns how much memory a process may take of which so many bytes lived when they were last collected.
func memoryLimit(live uint64) int64 { return max(softLimit, 2*int64(live)) }

// idlePeriod is how long a server does so little that nothing is collected before it is collected all the same.
const idlePeriod = 10 * time.Second

// collectWhenIdle gives back what a burst of work has left behind: garbage, and the stacks of goroutines that wait for the next request on their
// connection. The runtime would do so after two minutes. A server that works collects more often by itself, and this does nothing.
func collectWhenIdle(ctx context.Context) {
	t := time.NewTicker(idlePeriod)
	defer t.Stop()
	var stats debug.GCStats
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		debug.ReadGCStats(&stats)
		if time.Since(stats.LastGC) >= idlePeriod {
			debug.FreeOSMemory()
		}
	}
}
