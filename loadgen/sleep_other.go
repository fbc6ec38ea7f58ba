//go:build !linux

package loadgen

import "time"

// preciseSleep sleeps at least so long.
func preciseSleep(d time.Duration) { time.Sleep(d) }
