package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// Nothing that was acknowledged to its publisher is lost when the server is killed in the middle.
func TestServerKilledWhileConsuming(t *testing.T) {
	s := bustest.NATSServer(t)
	c := s.Conn()
	const n = 20_000
	recreate(t, c, "short", 2*time.Second)
	publishMany(t, c, n)
	var handled tally
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: "short", Workers: 4,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			handled.add(batch)
			done(batch)
			return nil
		},
	})
	for _, at := range []int{n / 10, n / 2} {
		bustest.Eventually(t, "part of the messages", func() bool { return handled.len() > at })
		s.Restart()
	}
	bustest.Eventually(t, "all messages", func() bool { return handled.len() == n })
	wantSettled(t, c, "short")
	again := 0
	for _, times := range handled.snapshot() {
		again += times - 1
	}
	t.Logf("%d of %d messages were handled again", again, n)
}

func TestSurvivesADeletedConsumer(t *testing.T) {
	c := bustest.Conn(t)
	recreate(t, c, "short", time.Second)
	publishMany(t, c, 10)
	var handled tally
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: "short",
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			handled.add(batch)
			done(batch)
			return nil
		},
	})
	bustest.Eventually(t, "handled", func() bool { return handled.len() == 10 })
	if err := c.JS().DeleteConsumer(testContext(t), event.StreamWork, "short"); err != nil {
		t.Fatal(err)
	}
	recreate(t, c, "short", time.Second) // delivers all again
	bustest.Eventually(t, "handled twice", func() bool {
		for _, times := range handled.snapshot() {
			if times < 2 {
				return false
			}
		}
		return true
	})
	wantSettled(t, c, "short")
}

// A consumer may be started before there is anything to consume.
func TestWaitsForItsStream(t *testing.T) {
	ctx := testContext(t)
	c, err := bus.Connect(ctx, bus.Config{InProcess: bustest.Server(t), Log: bustest.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	var handled tally
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			handled.add(batch)
			done(batch)
			return nil
		},
	})
	if err := c.EnsureStreams(ctx, bus.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	publishMany(t, c, 1)
	bustest.Eventually(t, "handled", func() bool { return handled.len() == 1 })
}

func TestRefusesAPushConsumer(t *testing.T) {
	c := bustest.Conn(t)
	_, err := c.JS().CreateConsumer(testContext(t), event.StreamWork, jetstream.ConsumerConfig{
		Durable: "none", AckPolicy: jetstream.AckNonePolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	publishMany(t, c, 1)
	_, stop := consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: "none",
		Handler: func(context.Context, []*bus.Msg) error { t.Error("it gets messages"); return nil },
	})
	stop()
	if _, err := c.NewConsumer(bus.ConsumerConfig{Stream: event.StreamWork}); err == nil {
		t.Error("a consumer without durable and handler is made")
	}
}
