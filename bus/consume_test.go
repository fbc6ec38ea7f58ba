package bus_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// tally counts how often each message was handled.
type tally struct {
	mu    sync.Mutex
	count map[string]int
}

func (y *tally) add(batch []*bus.Msg) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.count == nil {
		y.count = make(map[string]int)
	}
	for _, m := range batch {
		y.count[string(m.Data)]++
	}
}

func (y *tally) snapshot() map[string]int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return maps.Clone(y.count)
}

func (y *tally) len() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return len(y.count)
}

func wantSettled(t *testing.T, c *bus.Conn, durable string) {
	t.Helper()
	bustest.Eventually(t, "all messages of "+durable+" are acknowledged", func() bool {
		open, pending := ackPending(t, c, event.StreamWork, durable)
		if open != 0 || pending != 0 || durable != event.ConsumerWorkflow {
			return open == 0 && pending == 0
		}
		// The consumer's own count of pending messages lags behind what is stored: ask for its ack floor too.
		floor, err := c.AckFloor(testContext(t), event.StreamWork)
		if err != nil {
			return false
		}
		state, err := c.StreamState(testContext(t), event.StreamWork)
		return err == nil && floor == state.LastSeq
	})
}

func TestAcknowledgesOnlyAfterTheVerdict(t *testing.T) {
	c := bustest.Conn(t)
	publishMany(t, c, 3)
	begun, finish := make(chan struct{}, 10), make(chan struct{})
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Workers: 1,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			begun <- struct{}{}
			<-finish
			done(batch)
			return nil
		},
	})
	<-begun
	bustest.Eventually(t, "three delivered", func() bool {
		open, _ := ackPending(t, c, event.StreamWork, event.ConsumerWorkflow)
		return open == 3
	})
	close(finish)
	wantSettled(t, c, event.ConsumerWorkflow)
}

func TestKeepsTheOrderOfAKey(t *testing.T) {
	c := bustest.Conn(t)
	var mu sync.Mutex
	last := make(map[string]uint64)
	var n atomic.Int64
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Workers: 4, MaxBatch: 7,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			mu.Lock()
			defer mu.Unlock()
			if len(batch) > 7 {
				t.Errorf("a batch of %d messages", len(batch))
			}
			for _, m := range batch {
				if m.Seq <= last[m.Key()] {
					t.Errorf("%s: %d comes after %d", m.Key(), m.Seq, last[m.Key()])
				}
				last[m.Key()] = m.Seq
				m.Done(nil)
			}
			n.Add(int64(len(batch)))
			return nil
		},
	})
	publishMany(t, c, 3000)
	bustest.Eventually(t, "all handled", func() bool { return n.Load() == 3000 })
}

func TestBatchesAreBoundedInBytes(t *testing.T) {
	c := bustest.Conn(t)
	large := strings.Repeat("x", 300<<10)
	for range 12 {
		publish(t, c, resultMsg("a", large))
	}
	publish(t, c, resultMsg("a", strings.Repeat("x", event.MaxBody)))
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, MaxBytes: 800 << 10,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			bytes := 0
			for _, m := range batch {
				bytes += len(m.Data)
			}
			if len(batch) > 1 && bytes > 800<<10 {
				t.Errorf("a batch of %d messages with %d bytes", len(batch), bytes)
			}
			done(batch)
			return nil
		},
	})
	wantSettled(t, c, event.ConsumerWorkflow)
}

func TestOffersTheSameBatchAfterAnError(t *testing.T) {
	c := bustest.Conn(t)
	publishMany(t, c, 10)
	var tries [][]uint64
	var handled tally
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Workers: 1,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			var seqs []uint64
			for _, m := range batch {
				seqs = append(seqs, m.Seq)
				if m.Verdict != (bus.Verdict{}) {
					t.Errorf("message %d still has the verdict of the last try", m.Seq)
				}
				m.Done(nil)
			}
			tries = append(tries, seqs)
			if len(tries) <= 3 {
				return errors.New("the store does not answer")
			}
			handled.add(batch)
			return nil
		},
	})
	wantSettled(t, c, event.ConsumerWorkflow)
	for _, again := range tries[1:4] {
		if !slices.Equal(again, tries[0]) {
			t.Errorf("batch %v is offered as %v", tries[0], again)
		}
	}
	for body, n := range handled.snapshot() {
		if n != 1 {
			t.Errorf("message %s was handled %d times", body, n)
		}
	}
}

func TestAMessageWithoutVerdictIsOfferedAgain(t *testing.T) {
	c := bustest.Conn(t)
	publishMany(t, c, 3)
	var calls atomic.Int64
	var handled tally
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Workers: 1,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			handled.add(batch)
			if calls.Add(1) == 1 {
				batch = batch[1:] // forgets one
			}
			done(batch)
			return nil
		},
	})
	wantSettled(t, c, event.ConsumerWorkflow)
	if got := handled.snapshot(); got["0"] != 2 {
		t.Errorf("offered %v, want message 0 twice", got)
	}
}

// While the store is down nothing is pulled beyond what was asked for, and nothing is delivered again, for longer than AckWait.
func TestStoreDownKeepsMessages(t *testing.T) {
	c := bustest.Conn(t)
	const ackWait = time.Second
	recreate(t, c, "short", ackWait)
	publishMany(t, c, 200)
	var down atomic.Bool
	down.Store(true)
	var redelivered atomic.Int64
	var handled tally
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: "short", Workers: 2, MaxBatch: 10, MaxHeld: 100,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			for _, m := range batch {
				if m.Delivered > 1 {
					redelivered.Add(1)
				}
			}
			if down.Load() {
				return errors.New("the store does not answer")
			}
			handled.add(batch)
			done(batch)
			return nil
		},
	})
	held := func() int { open, _ := ackPending(t, c, event.StreamWork, "short"); return open }
	bustest.Eventually(t, "messages are held", func() bool { return held() == 100 })
	for begin := time.Now(); time.Since(begin) < 3*ackWait; {
		if n := held(); n != 100 {
			t.Fatalf("%d messages are held, want the 100 that were asked for", n)
		}
	}
	down.Store(false)
	wantSettled(t, c, "short")
	if n := redelivered.Load(); n != 0 {
		t.Errorf("%d messages were delivered again", n)
	}
	if got := handled.snapshot(); len(got) != 200 {
		t.Errorf("%d of 200 messages handled", len(got))
	}
}

// A slow handler keeps its messages for longer than AckWait, and costs only its own worker.
func TestSlowHandler(t *testing.T) {
	c := bustest.Conn(t)
	const ackWait = time.Second
	recreate(t, c, "short", ackWait)
	publish(t, c, resultMsg("slow", "slow"))
	publishMany(t, c, 500)
	release := make(chan struct{})
	var redelivered atomic.Bool
	var handled tally
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: "short", Workers: 8, MaxBatch: 1,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			m := batch[0]
			if m.Delivered > 1 {
				redelivered.Store(true)
			}
			if m.Key() == "slow" {
				<-release
			}
			handled.add(batch)
			m.Done(nil)
			return nil
		},
	})
	// Those of the slow worker's other agents wait; with eight workers that is an eighth, give or take.
	bustest.Eventually(t, "the other workers go on", func() bool { return handled.len() > 250 })
	<-time.After(2*ackWait + ackWait/2)
	close(release)
	wantSettled(t, c, "short")
	if redelivered.Load() {
		t.Error("a message was delivered again while its handler was busy")
	}
	if n := handled.len(); n != 501 {
		t.Errorf("%d of 501 messages handled", n)
	}
}

func TestLater(t *testing.T) {
	c := bustest.Conn(t)
	publishMany(t, c, 1)
	deliveries := make(chan time.Time, 10)
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			deliveries <- time.Now()
			if batch[0].Delivered == 1 {
				batch[0].Later(300 * time.Millisecond)
			} else {
				batch[0].Done(nil)
			}
			return nil
		},
	})
	first, second := <-deliveries, <-deliveries
	if gap := second.Sub(first); gap < 250*time.Millisecond {
		t.Errorf("delivered again after %v, want 300ms", gap)
	}
	wantSettled(t, c, event.ConsumerWorkflow)
}

func TestExpired(t *testing.T) {
	at := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		header string
		after  time.Duration
		want   bool
	}{
		{"", time.Hour, false},
		{"1000", 999 * time.Millisecond, false},
		{"1000", 1001 * time.Millisecond, true},
		{"soon", time.Hour, false},
		{"-1", time.Hour, false},
		{"99999999999999999999", time.Hour, false},
		{"9223372036854775807", time.Hour, false},
	} {
		m := &bus.Msg{Time: at, Header: nats.Header{event.HeaderDeadline: {tc.header}}}
		if got := m.Expired(at.Add(tc.after)); got != tc.want {
			t.Errorf("deadline %q, after %v: %v, want %v", tc.header, tc.after, got, tc.want)
		}
	}
}

// What is held when Run ends goes to another process at once, not after AckWait.
func TestStopHandsBack(t *testing.T) {
	c := bustest.Conn(t)
	publishMany(t, c, 500)
	begun := make(chan struct{}, 100)
	_, stop := consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Workers: 2,
		Handler: func(context.Context, []*bus.Msg) error {
			begun <- struct{}{}
			return errors.New("the store does not answer")
		},
	})
	<-begun
	stop()
	var handled tally
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			handled.add(batch)
			done(batch)
			return nil
		},
	})
	wantSettled(t, c, event.ConsumerWorkflow) // far sooner than AckWait
	if n := handled.len(); n != 500 {
		t.Errorf("%d of 500 messages handled", n)
	}
}

// The batch that a handler has begun when Run's context ends is finished and acknowledged.
func TestStopFinishesWhatHasBegun(t *testing.T) {
	c := bustest.Conn(t)
	publishMany(t, c, 1)
	begun, finish := make(chan struct{}), make(chan struct{})
	_, stop := consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(ctx context.Context, batch []*bus.Msg) error {
			close(begun)
			<-finish
			done(batch)
			return ctx.Err()
		},
	})
	<-begun
	go close(finish)
	stop()
	wantSettled(t, c, event.ConsumerWorkflow)
}

func TestCrashPoints(t *testing.T) {
	c := bustest.Conn(t)
	publishMany(t, c, 1)
	points := make(chan string, 10)
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(_ context.Context, batch []*bus.Msg) error { points <- "handler"; done(batch); return nil },
		Crash:   func(point string) { points <- point },
	})
	for _, want := range []string{"after-fetch", "handler", "before-reply", "before-ack"} {
		if got := <-points; got != want {
			t.Errorf("point %s, want %s", got, want)
		}
	}
}
