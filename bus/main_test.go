package bus_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// testContext ends before a test that hangs would.
func testContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	tb.Cleanup(cancel)
	return ctx
}

// stateMsg is a message of OPSCORE_AGENT.
func stateMsg(id, body string) *nats.Msg {
	return &nats.Msg{Subject: event.AgentSubject(event.VerbState, event.MustToken(id)), Data: []byte(body)}
}

// resultMsg is a message of OPSCORE_WORK.
func resultMsg(id, body string) *nats.Msg {
	return &nats.Msg{Subject: event.AgentSubject(event.VerbResult, event.MustToken(id)), Data: []byte(body)}
}

func commandMsg(k event.CommandKind, id, body string) *nats.Msg {
	return &nats.Msg{Subject: event.CommandSubject(k, event.MustToken(id)), Data: []byte(body)}
}

func publish(tb testing.TB, c *bus.Conn, msg *nats.Msg) bus.Ack {
	tb.Helper()
	ack, err := c.Publish(testContext(tb), msg)
	if err != nil {
		tb.Fatal(err)
	}
	return ack
}

// publishMany stores n results, of 100 agents in turn, with bodies "0" to n-1.
func publishMany(tb testing.TB, c *bus.Conn, n int) {
	tb.Helper()
	if err := storeMany(c, n); err != nil {
		tb.Fatal(err)
	}
}

func storeMany(c *bus.Conn, n int) error {
	results := make(chan error, n)
	for i := range n {
		msg := resultMsg("agent-"+strconv.Itoa(i%100), strconv.Itoa(i))
		if err := c.PublishAsync(msg, func(_ bus.Ack, err error) { results <- err }); err != nil {
			return err
		}
	}
	var errs error
	for range n {
		errs = errors.Join(errs, <-results)
	}
	return errs
}

// recreate makes a durable of OPSCORE_WORK that reads everything and waits less than the real one.
func recreate(tb testing.TB, c *bus.Conn, name string, ackWait time.Duration) {
	tb.Helper()
	_, err := c.JS().CreateConsumer(testContext(tb), event.StreamWork, jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: bus.MaxAckPending,
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// consume runs a consumer until the test ends, or until stop is called.
func consume(tb testing.TB, c *bus.Conn, cfg bus.ConsumerConfig) (consumer *bus.Consumer, stop func()) {
	tb.Helper()
	cfg.Log = bustest.Log(tb)
	consumer, err := c.NewConsumer(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- consumer.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Run: %v", err)
		}
	}
	tb.Cleanup(stop)
	return consumer, stop
}

// ackPending returns how many messages a durable has delivered and not seen acknowledged, and how many it has yet to deliver.
func ackPending(tb testing.TB, c *bus.Conn, stream, durable string) (delivered, pending int) {
	tb.Helper()
	d, err := c.JS().Consumer(testContext(tb), stream, durable)
	if err != nil {
		tb.Fatal(err)
	}
	return d.CachedInfo().NumAckPending, int(d.CachedInfo().NumPending)
}

func done(batch []*bus.Msg) {
	for _, m := range batch {
		m.Done(nil)
	}
}
