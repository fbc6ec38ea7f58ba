package loadgen

import (
	"context"
	"math"
	"time"
)

// metronome gives the tasks of an open model to the users, each at its time. When no user is free it waits for one, and the task keeps
// the time at which it was due.
type metronome struct {
	rate  float64 // tasks a second
	begin time.Time
	due   chan time.Time
}

// patience bounds how long a metronome sleeps without looking whether its time is over.
const patience = 20 * time.Millisecond

// run gives tasks out until ctx ends and returns how many were due before and found no user.
func (m *metronome) run(ctx context.Context) (unsent int64) {
	for n := int64(0); ; n++ {
		due := m.begin.Add(time.Duration(float64(n) / m.rate * float64(time.Second)))
		for wait := time.Until(due); wait > 0; wait = time.Until(due) {
			if ctx.Err() != nil {
				return 0
			}
			// Not a timer of Go's: those are up to 1 ms late, which would be charged to the server.
			PreciseSleep(min(wait, patience))
		}
		select {
		case m.due <- due:
		case <-ctx.Done():
			end := time.Now()
			if deadline, ok := ctx.Deadline(); ok && deadline.Before(end) {
				end = deadline
			}
			return max(0, int64(math.Ceil(end.Sub(m.begin).Seconds()*m.rate))-n)
		}
	}
}
