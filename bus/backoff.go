package bus

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff waits longer after each failure, from a first wait up to a longest one, each spread by a quarter so that replicas do not
// return in step.
type backoff struct {
	first, longest, next time.Duration
}

func newBackoff(first, longest time.Duration) *backoff {
	return &backoff{first: first, longest: longest, next: first}
}

// reset makes the next wait the first one again.
func (b *backoff) reset() { b.next = b.first }

// sleep waits and reports whether ctx is still alive.
func (b *backoff) sleep(ctx context.Context) bool { return b.sleepUnless(ctx.Done()) }

// sleepUnless waits and reports whether stop is still open.
func (b *backoff) sleepUnless(stop <-chan struct{}) bool {
	d := b.next + time.Duration(rand.Int64N(int64(b.next/4)+1))
	b.next = min(2*b.next, b.longest)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
		return false
	}
}
