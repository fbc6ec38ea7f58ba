package server

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// CrashAt returns a [Config.Crash] that kills the process, without any clean-up, when a point is reached for the Nth time. The spec is "POINT:N"; for any other the
// result is nil. It is for fault tests.
func CrashAt(spec string) func(point string) {
	point, count, ok := strings.Cut(spec, ":")
	if !ok {
		return nil
	}
	left, _ := strconv.Atoi(count)
	var mu sync.Mutex
	return func(at string) {
		if at != point {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if left--; left <= 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // nothing may happen after the point
		}
	}
}
