package loadgen

import (
	"syscall"
	"time"
)

// PreciseSleep sleeps at most so long, to about a tenth of a millisecond, where a timer of Go is up to one late. It occupies a thread of the system.
func PreciseSleep(d time.Duration) {
	t := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&t, nil) // interrupted by a signal it ends early, which the caller allows
}
