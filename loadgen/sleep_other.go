//go:build !linux

package loadgen

import "time"

// PreciseSleep sleeps at least so long.
func PreciseSleep(d time.Duration) { time.Sleep(d) }
