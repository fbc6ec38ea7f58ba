package bus_test

import (
	"context"
	"errors"
	"strconv"
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

func TestPublish(t *testing.T) {
	c := bustest.Conn(t)
	for seq := uint64(1); seq <= 3; seq++ {
		if got, want := publish(t, c, stateMsg("a", `{"state":"idle"}`)), (bus.Ack{Stream: event.StreamAgent, Seq: seq}); got != want {
			t.Errorf("ack = %+v, want %+v", got, want)
		}
	}
}

// The short way of reading acknowledgements is for those that the server writes.
func TestStoredReadsWhatTheServerWrites(t *testing.T) {
	c := bustest.Conn(t)
	answer, err := c.NC().RequestMsgWithContext(testContext(t), stateMsg("a", "{}"))
	if err != nil {
		t.Fatal(err)
	}
	if stream, seq, ok := event.Stored(answer.Data); !ok || stream != event.StreamAgent || seq != 1 {
		t.Errorf("of %s: %q, %d, %v", answer.Data, stream, seq, ok)
	}
}

// The same Nats-Msg-Id from two agents must not lose the second message.
func TestPublishDoesNotDeduplicate(t *testing.T) {
	c := bustest.Conn(t)
	for _, id := range []string{"a", "b"} {
		msg := stateMsg(id, "{}")
		msg.Header = nats.Header{"Nats-Msg-Id": {"1"}}
		publish(t, c, msg)
		<-time.After(150 * time.Millisecond) // more than the shortest window a server allows
	}
	if s, err := c.StreamState(testContext(t), event.StreamAgent); err != nil || s.LastSeq != 2 {
		t.Errorf("last sequence %d, %v; want 2", s.LastSeq, err)
	}
}

func TestPublishWithoutAStreamRetriesUntilTheContextEnds(t *testing.T) {
	c := bustest.Conn(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := c.Publish(ctx, &nats.Msg{Subject: event.Root + ".command.run-unknown.r1"})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("got %v, want the deadline and no responders", err)
	}
}

func TestPublishIntoAFullStream(t *testing.T) {
	ctx := testContext(t)
	c, err := bus.Connect(ctx, bus.Config{InProcess: bustest.Server(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.EnsureStreams(ctx, bus.StreamConfig{AgentBytes: 64 << 10}); err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat("x", 8<<10)
	for i := range 20 {
		_, err = c.Publish(ctx, stateMsg(strconv.Itoa(i), body))
		if err != nil {
			break
		}
	}
	if !errors.Is(err, &event.Error{Code: event.CodeUnavailable}) {
		t.Errorf("got %v, want %s", err, event.CodeUnavailable)
	}
	if _, err := c.Publish(ctx, stateMsg("big", strings.Repeat("x", 2<<20))); !errors.Is(err, &event.Error{Code: event.CodeTooLarge}) {
		t.Errorf("a body over the server's limit: got %v, want %s", err, event.CodeTooLarge)
	}
}

// What could not be sent must not be sent after the reconnect.
func TestPublishWhileDisconnected(t *testing.T) {
	s := bustest.NATSServer(t)
	c := s.Conn()
	publish(t, c, stateMsg("a", "before"))
	s.Stop()
	bustest.Eventually(t, "disconnected", func() bool { return !c.Connected() })

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if ack, err := c.Publish(ctx, stateMsg("a", "lost")); err == nil {
		t.Errorf("Publish: %+v, want an error", ack)
	}
	if err := c.PublishAsync(stateMsg("a", "lost"), func(bus.Ack, error) { t.Error("done is called") }); err == nil {
		t.Error("PublishAsync: no error")
	}
	failed := make(chan error, 1)
	c.Request("anybody", nil, time.Second, func(_ []byte, err error) { failed <- err })
	if err := <-failed; err == nil {
		t.Error("Request: no error")
	}
	s.Restart()
	bustest.Eventually(t, "connected", c.Connected)
	publish(t, c, stateMsg("a", "after"))
	if st, err := c.StreamState(testContext(t), event.StreamAgent); err != nil || st.LastSeq != 2 {
		t.Errorf("%d messages in the stream, %v; want 2", st.LastSeq, err)
	}
}

// A publish rides through a restart of the server, and an asynchronous one that was on its way is told that the connection
// is lost.
func TestPublishDuringRestart(t *testing.T) {
	s := bustest.NATSServer(t)
	c := s.Conn()
	var sent, told, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := c.PublishAsync(resultMsg("a", "{}"), func(_ bus.Ack, err error) {
				told.Add(1)
				if err != nil {
					failed.Add(1)
				}
			})
			if err == nil {
				sent.Add(1)
			}
		}
	})
	bustest.Eventually(t, "1000 stored", func() bool { return told.Load() > 1000 })
	s.Kill()
	bustest.Eventually(t, "disconnected", func() bool { return !c.Connected() })
	close(stop)
	wg.Wait()
	bustest.Eventually(t, "all are told", func() bool { return told.Load() == sent.Load() })
	if failed.Load() == 0 {
		t.Error("no publish on its way was told of the disconnect")
	}
	published := make(chan error, 1)
	go func() {
		_, err := c.Publish(testContext(t), resultMsg("a", "{}"))
		published <- err
	}()
	s.Restart()
	if err := <-published; err != nil {
		t.Errorf("Publish over the restart: %v", err)
	}
	st, err := c.StreamState(testContext(t), event.StreamWork)
	if acked := told.Load() - failed.Load() + 1; err != nil || int64(st.LastSeq) < acked {
		t.Errorf("%d messages in the stream, %v; %d were acknowledged", st.LastSeq, err, acked)
	}
}

func TestCall(t *testing.T) {
	c := bustest.Conn(t)
	want := event.Outcome{OK: true, RunID: "r1", Version: 7}
	var deadline atomic.Value
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			for _, m := range batch {
				deadline.Store(m.Header.Get(event.HeaderDeadline))
				m.Done(&want)
			}
			return nil
		},
	})
	msg := commandMsg(event.KindRunStart, "r1", `{}`)
	begun := time.Now()
	got, ack, err := c.Call(testContext(t), msg)
	want.Seq = ack.Seq
	if got.ConsumedAt.Before(begun) || got.CommittedAt.Before(got.ConsumedAt) || got.CommittedAt.After(time.Now()) {
		t.Errorf("consumed at %v and committed at %v, begun at %v", got.ConsumedAt, got.CommittedAt, begun)
	}
	want.ConsumedAt, want.CommittedAt = got.ConsumedAt, got.CommittedAt
	if ack.At.Before(begun) || ack.At.After(time.Now()) {
		t.Errorf("acknowledged at %v, begun at %v", ack.At, begun)
	}
	if err != nil || got != want || ack != (bus.Ack{Stream: event.StreamWork, Seq: 1, At: ack.At}) {
		t.Errorf("Call = %+v, %+v, %v; want %+v", got, ack, err, want)
	}
	if ms, err := strconv.Atoi(deadline.Load().(string)); err != nil || ms < 1000 || ms > 60_000 {
		t.Errorf("deadline header = %q, want about a minute", deadline.Load())
	}
	if msg.Header != nil || msg.Reply != "" {
		t.Errorf("Call changed its message: %+v", msg)
	}
}

func TestCallTimeoutGivesTheAck(t *testing.T) {
	c := bustest.Conn(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, ack, err := c.Call(ctx, commandMsg(event.KindRunStart, "r1", `{}`))
	if !errors.Is(err, context.DeadlineExceeded) || ack != (bus.Ack{Stream: event.StreamWork, Seq: 1, At: ack.At}) {
		t.Errorf("Call = %+v, %v; want the ack and a deadline error", ack, err)
	}
}

func TestCallsShareOneSubscription(t *testing.T) {
	c := bustest.Conn(t)
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			for _, m := range batch {
				m.Done(&event.Outcome{OK: true, RunID: m.Key()})
			}
			return nil
		},
	})
	// One of ours, one of the client library, and one of the consumer.
	bustest.Eventually(t, "pulling", func() bool { return c.NC().NumSubscriptions() == 3 })
	before := c.NC().NumSubscriptions()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			id := "r" + strconv.Itoa(i)
			o, _, err := c.Call(testContext(t), commandMsg(event.KindRunStart, id, `{}`))
			if err != nil || o.RunID != id {
				t.Errorf("call %s: %+v, %v", id, o, err)
			}
		})
	}
	wg.Wait()
	if after := c.NC().NumSubscriptions(); after != before {
		t.Errorf("%d subscriptions, %d before the calls", after, before)
	}
}

func TestRequest(t *testing.T) {
	c := bustest.Conn(t)
	_, err := c.NC().Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.NC().Subscribe("silent", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	type result struct {
		data string
		err  error
	}
	for _, tc := range []struct {
		subject string
		want    result
	}{
		{"echo", result{data: "x"}},
		{"nobody", result{err: nats.ErrNoResponders}},
		{"silent", result{err: context.DeadlineExceeded}},
	} {
		got := make(chan result, 2)
		begin := time.Now()
		c.Request(tc.subject, []byte("x"), 200*time.Millisecond, func(data []byte, err error) { got <- result{string(data), err} })
		if r := <-got; r.data != tc.want.data || !errors.Is(r.err, tc.want.err) {
			t.Errorf("%s: got %+v, want %+v", tc.subject, r, tc.want)
		}
		if took := time.Since(begin); tc.subject == "silent" && (took < 200*time.Millisecond || took > 2*time.Second) {
			t.Errorf("the timeout of 200 ms came after %v", took)
		}
	}
}

func TestManyRequestsAreAllAnswered(t *testing.T) {
	c := bustest.Conn(t)
	_, err := c.NC().Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	if err != nil {
		t.Fatal(err)
	}
	const n = 20_000
	var answered atomic.Int64
	for i := range n {
		want := strconv.Itoa(i)
		c.Request("echo", []byte(want), 30*time.Second, func(data []byte, err error) {
			if err != nil || string(data) != want {
				t.Errorf("request %s: %q, %v", want, data, err)
			}
			answered.Add(1)
		})
	}
	bustest.Eventually(t, "all answered", func() bool { return answered.Load() == n })
}

// Closing tells everybody who waits.
func TestCloseEndsWaiting(t *testing.T) {
	c := bustest.Conn(t)
	if _, err := c.NC().Subscribe("silent", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	requested, called := make(chan error, 1), make(chan error, 1)
	c.Request("silent", nil, time.Hour, func(_ []byte, err error) { requested <- err })
	go func() {
		_, _, err := c.Call(context.Background(), commandMsg(event.KindRunStart, "r1", `{}`))
		called <- err
	}()
	bustest.Eventually(t, "the command is stored", func() bool {
		s, err := c.StreamState(testContext(t), event.StreamWork)
		return err == nil && s.LastSeq == 1
	})
	c.Close()
	if err := <-requested; !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("request: %v", err)
	}
	if err := <-called; !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("call: %v", err)
	}
}
