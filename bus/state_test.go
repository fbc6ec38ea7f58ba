package bus_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// fetch delivers n messages of a durable to the test.
func fetch(t *testing.T, c *bus.Conn, stream, durable string, n int) []jetstream.Msg {
	t.Helper()
	d, err := c.JS().Consumer(testContext(t), stream, durable)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := d.Fetch(n, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var list []jetstream.Msg
	for m := range batch.Messages() {
		list = append(list, m)
	}
	if len(list) != n {
		t.Fatalf("fetched %d messages of %s, want %d: %v", len(list), durable, n, batch.Error())
	}
	return list
}

func ack(t *testing.T, messages ...jetstream.Msg) {
	t.Helper()
	for _, m := range messages {
		if err := m.DoubleAck(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func wantFloor(t *testing.T, c *bus.Conn, when, stream string, want uint64) {
	t.Helper()
	if got, err := c.AckFloor(testContext(t), stream); err != nil || got != want {
		t.Errorf("%s: AckFloor(%s) = %d, %v; want %d", when, stream, got, err, want)
	}
}

func wantIntake(t *testing.T, c *bus.Conn, when string, seq uint64) {
	t.Helper()
	now := time.Now()
	want := now
	if seq > 0 {
		at, ok, err := c.MessageTime(testContext(t), event.StreamWork, seq)
		if err != nil || !ok {
			t.Fatalf("MessageTime(%d): %v, %v", seq, ok, err)
		}
		want = at
	}
	if got, err := c.IntakeTime(testContext(t), now); err != nil || !got.Equal(want) {
		t.Errorf("%s: IntakeTime = %v, %v; want %v", when, got, err, want)
	}
}

func TestAckFloorAndIntakeTime(t *testing.T) {
	c := bustest.Conn(t)
	wantFloor(t, c, "empty", event.StreamWork, 0)
	wantIntake(t, c, "empty", 0)

	publishMany(t, c, 5) // 1 to 5, for workflow
	wantFloor(t, c, "nothing delivered", event.StreamWork, 0)
	wantIntake(t, c, "nothing delivered", 1)

	m := fetch(t, c, event.StreamWork, event.ConsumerWorkflow, 5)
	ack(t, m[1], m[2], m[4])
	wantFloor(t, c, "acknowledged out of order", event.StreamWork, 0)
	wantIntake(t, c, "acknowledged out of order", 1)
	ack(t, m[0])
	wantFloor(t, c, "the first acknowledged", event.StreamWork, 3)
	wantIntake(t, c, "the first acknowledged", 4)
	ack(t, m[3])
	wantFloor(t, c, "all acknowledged", event.StreamWork, 5)
	wantIntake(t, c, "all acknowledged", 0)
}

// The floor read while messages are published and acknowledged must never reach one that a handler has in its hands.
func TestAckFloorIsNeverTooHigh(t *testing.T) {
	c := bustest.Conn(t)
	floors := make(chan uint64)
	check := make(chan chan struct{})
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Workers: 1, MaxBatch: 16,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			select {
			case checked := <-check: // stand still until the floor is read
				floor := <-floors
				for _, m := range batch {
					if m.Seq <= floor {
						t.Errorf("floor %d, but %d is not acknowledged", floor, m.Seq)
					}
				}
				close(checked)
			default:
			}
			done(batch)
			return nil
		},
	})
	stop := make(chan struct{})
	stored := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stored <- nil
				return
			default:
			}
			if err := storeMany(c, 20); err != nil {
				stored <- err
				return
			}
		}
	}()
	for range 50 {
		checked := make(chan struct{})
		check <- checked
		floor, err := c.AckFloor(testContext(t), event.StreamWork)
		if err != nil {
			t.Error(err)
		}
		floors <- floor
		<-checked
	}
	close(stop)
	if err := <-stored; err != nil {
		t.Error(err)
	}
	bustest.Eventually(t, "the floor reaches the end", func() bool {
		floor, err := c.AckFloor(testContext(t), event.StreamWork)
		if err != nil {
			return false
		}
		s, err := c.StreamState(testContext(t), event.StreamWork)
		return err == nil && floor == s.LastSeq
	})
}

func TestMessageTimeAndPurge(t *testing.T) {
	c := bustest.Conn(t)
	ctx := testContext(t)
	before := time.Now().Add(-time.Second)
	publishMany(t, c, 5)
	at, ok, err := c.MessageTime(ctx, event.StreamWork, 2)
	if err != nil || !ok || at.Before(before) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("MessageTime = %v, %v, %v", at, ok, err)
	}
	if err := c.Purge(ctx, event.StreamWork, 0); err != nil {
		t.Error(err)
	}
	if err := c.Purge(ctx, event.StreamWork, 3); err != nil {
		t.Error(err)
	}
	for _, seq := range []uint64{2, 6} {
		if _, ok, err := c.MessageTime(ctx, event.StreamWork, seq); ok || err != nil {
			t.Errorf("MessageTime(%d) = %v, %v; want it gone", seq, ok, err)
		}
	}
	if s, err := c.StreamState(ctx, event.StreamWork); err != nil || s.FirstSeq != 3 || s.LastSeq != 5 || s.Created.IsZero() {
		t.Errorf("StreamState = %+v, %v", s, err)
	}
}

func TestResetConsumerReplays(t *testing.T) {
	c := bustest.Conn(t)
	publishMany(t, c, 100)
	seen := make(chan uint64, 1000)
	consumer, _ := consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			for _, m := range batch {
				seen <- m.Seq
				m.Done(nil)
			}
			return nil
		},
	})
	for range 100 {
		<-seen
	}
	ctx := testContext(t)
	if err := consumer.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.ResetConsumer(ctx, event.StreamWork, event.ConsumerWorkflow, 61); err != nil {
		t.Fatal(err)
	}
	wantFloor(t, c, "after the reset", event.StreamWork, 60)
	if len(seen) > 0 {
		t.Error("a paused consumer pulls")
	}
	consumer.Resume()
	replayed := map[uint64]bool{}
	for range 40 {
		replayed[<-seen] = true
	}
	for seq := uint64(61); seq <= 100; seq++ {
		if !replayed[seq] {
			t.Errorf("%s is not replayed", strconv.FormatUint(seq, 10))
		}
	}
}
