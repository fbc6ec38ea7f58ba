package workflow

import (
	"slices"
	"testing"
	"time"

	"github.com/opspawn/opscore/storage"
)

// Flights land in the order in which they were launched, also when those who launched them end them in another one, and when a panic leaves one behind.
func TestFlightsLandInOrder(t *testing.T) {
	t.Parallel()
	e := NewEngine(Config{Store: openTestStore(t)})
	const n = 4
	views := make([]*view, n)
	rev := storage.Rev("")
	for i := range views {
		next := e.revs.Next()
		views[i] = &view{groups: []*group{{txn: storage.Txn{
			Rev: next, If: []storage.Cond{{Key: "flight", Rev: rev}}, Put: []storage.Put{{Key: "flight", Data: []byte{byte(i)}}},
		}}}}
		rev = next
		e.launch(views[i])
	}
	e.mu.Lock()
	e.abandon(t.Context(), views[0])
	e.mu.Unlock()
	outcomes := make(chan []error, n)
	for _, v := range slices.Backward(views[1:]) {
		go func() { outcomes <- v.flight.end(t.Context(), e.cfg.Store) }()
	}
	for range n - 1 {
		select {
		case errs := <-outcomes:
			if len(errs) == 0 || errs[len(errs)-1] != nil {
				t.Errorf("a flight ends with %v: each needs what the one before it has written", errs)
			}
		case <-time.After(time.Minute):
			t.Fatal("a flight waits for one that nobody has begun")
		}
	}
	if e.flights[views[0]] {
		t.Error("the abandoned flight is still looked at")
	}
}
