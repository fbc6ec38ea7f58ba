package bus

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What is said aside goes at once while there is little of it, and together within a period while there is much; always in order, and all of it.
func TestAsideGathersWhileThereIsMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAside()
		defer a.timer.Stop()
		type said struct {
			n  int
			at time.Duration
		}
		var mu sync.Mutex
		var got []said
		begin := time.Now()
		say := func(n int) {
			a.add(func() {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, said{n, time.Since(begin)})
			})
		}
		expect := func(when string, want ...said) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
			got = nil
		}
		say(1)
		expect("the first", said{1, 0})
		say(2)
		<-time.After(time.Millisecond)
		say(3)
		expect("soon after it")
		<-time.After(asidePeriod)
		expect("a period later", said{2, asidePeriod}, said{3, asidePeriod})
		<-time.After(time.Second)
		say(4)
		expect("after a quiet second", said{4, asidePeriod + time.Second + time.Millisecond})
		say(5)
		a.flush()
		expect("flushed", said{5, asidePeriod + time.Second + time.Millisecond})
		<-time.After(time.Second)
		expect("nothing is said twice")
	})
}

// What is gathered is bounded: whoever adds more sends it.
func TestAsideIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAside()
		defer a.timer.Stop()
		sent := 0
		for range 1 + asideMax {
			a.add(func() { sent++ })
		}
		if sent != 1+asideMax {
			t.Errorf("%d of %d were sent", sent, 1+asideMax)
		}
	})
}
