package loadgen

import (
	"syscall"
	"time"
)

// preciseSleep sleeps at most so long, to about a tenth of a millisecond. It occupies a thread of the system.
func preciseSleep(d time.Duration) {
	t := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&t, nil) // interrupted by a signal it ends early, which the caller allows
}
