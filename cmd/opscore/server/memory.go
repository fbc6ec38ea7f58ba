package server

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

// TuneMemory trades memory for time in a process that is a server and nothing else: the live heap is small, and collecting it at every
// doubling costs a tenth of the throughput. GOGC overrides it.
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}

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
