package server

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// A process whose garbage is let grow to four times what lives must not take that much when much lives, nor collect without end.
func TestMemoryIsLimited(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); limitMemory(ctx) }()
	wait := func(good func(limit int64) bool) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for limit := debug.SetMemoryLimit(-1); !good(limit); limit = debug.SetMemoryLimit(-1) {
			select {
			case <-deadline:
				t.Fatalf("the limit is %d MiB", limit>>20)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	wait(func(limit int64) bool { return limit == softLimit })
	alive := make([]byte, softLimit)
	runtime.GC()
	wait(func(limit int64) bool { return limit >= 2*softLimit })
	runtime.KeepAlive(alive)
	runtime.GC()
	wait(func(limit int64) bool { return limit == softLimit })
	stop()
	<-done
}
