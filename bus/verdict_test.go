package bus_test

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// letters reads all dead letters.
func letters(t *testing.T, c *bus.Conn) []*nats.Msg {
	t.Helper()
	st, err := c.StreamState(testContext(t), event.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.JS().Stream(testContext(t), event.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	var list []*nats.Msg
	for seq := st.FirstSeq; seq <= st.LastSeq && seq > 0; seq++ {
		m, err := s.GetMsg(testContext(t), seq)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
	}
	return list
}

func TestPanicBuriesOnlyThePoison(t *testing.T) {
	c := bustest.Conn(t)
	publishMany(t, c, 300)
	poison := map[string]bool{"17": true, "18": true, "250": true}
	var handled tally
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Workers: 1, MaxBatch: 256,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			for _, m := range batch {
				if poison[string(m.Data)] {
					panic("cannot bear " + string(m.Data))
				}
			}
			handled.add(batch)
			done(batch)
			return nil
		},
	})
	wantSettled(t, c, event.ConsumerWorkflow)
	got := handled.snapshot()
	for i := range 300 {
		want := 1
		if poison[strconv.Itoa(i)] {
			want = 0
		}
		if got[strconv.Itoa(i)] != want {
			t.Errorf("message %d was handled %d times, want %d", i, got[strconv.Itoa(i)], want)
		}
	}
	dead := letters(t, c)
	if len(dead) != len(poison) {
		t.Errorf("%d dead letters, want %d", len(dead), len(poison))
	}
	for _, l := range dead {
		if l.Subject != event.DeadSubject(event.CodePanic) || !poison[string(l.Data)] ||
			!strings.Contains(l.Header.Get(event.HeaderDeadReason), "cannot bear "+string(l.Data)) {
			t.Errorf("dead letter %s %q %v", l.Subject, l.Data, l.Header)
		}
	}
}

func TestDeadIsStoredBeforeTheAcknowledgement(t *testing.T) {
	c := bustest.Conn(t)
	ctx := testContext(t)
	if err := c.JS().DeleteStream(ctx, event.StreamDead); err != nil {
		t.Fatal(err)
	}
	inbox, err := c.NC().SubscribeSync(nats.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	msg := resultMsg("a", "not JSON")
	msg.Header = nats.Header{event.HeaderReply: {inbox.Subject}, event.HeaderRequest: {"q-1"}}
	published := publish(t, c, msg)
	var offered atomic.Int64
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			offered.Add(1)
			batch[0].Dead(event.Errorf(event.CodeMalformed, "the body\nis not JSON"))
			return nil
		},
	})
	bustest.Eventually(t, "offered", func() bool { return offered.Load() > 0 })
	if open, _ := ackPending(t, c, event.StreamWork, event.ConsumerWorkflow); open != 1 {
		t.Errorf("%d messages are open while there is no dead-letter stream, want 1", open)
	}
	if err := c.EnsureStreams(ctx, bus.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	wantSettled(t, c, event.ConsumerWorkflow)

	dead := letters(t, c)
	if len(dead) != 1 {
		t.Fatalf("%d dead letters, want 1", len(dead))
	}
	for name, want := range map[string]string{
		event.HeaderDeadSubject: msg.Subject, event.HeaderDeadStream: event.StreamWork,
		event.HeaderDeadSeq: strconv.FormatUint(published.Seq, 10), event.HeaderDeadCode: string(event.CodeMalformed),
		event.HeaderDeadReason: "the body is not JSON", event.HeaderDeadCount: "1", event.HeaderRequest: "q-1",
	} {
		if got := dead[0].Header.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if !bytes.Equal(dead[0].Data, msg.Data) {
		t.Errorf("body %q", dead[0].Data)
	}
	answer, err := inbox.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var o event.Outcome
	if err := event.Unmarshal(answer.Data, &o); err != nil || o.OK || o.Error.Code != event.CodeMalformed || o.Seq != published.Seq {
		t.Errorf("answer %s, %v", answer.Data, err)
	}
}

// A body is kept whole, so that it can be sent again, unless it is over the limit of the wire.
func TestDeadLetterOfALargeBody(t *testing.T) {
	c := bustest.Conn(t)
	publish(t, c, resultMsg("a", strings.Repeat("x", event.MaxBody)))
	publish(t, c, resultMsg("a", strings.Repeat("x", event.MaxBody+1)))
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			for _, m := range batch {
				m.Dead(event.Errorf(event.CodeTooLarge, "%s", strings.Repeat("too large ", 1000)))
			}
			return nil
		},
	})
	wantSettled(t, c, event.ConsumerWorkflow)
	dead := letters(t, c)
	if len(dead) != 2 || len(dead[0].Data) != event.MaxBody || len(dead[1].Data) != event.MaxDeadBody {
		t.Fatalf("%d dead letters, want one of %d bytes and one of %d", len(dead), event.MaxBody, event.MaxDeadBody)
	}
	if n := len(dead[0].Header.Get(event.HeaderDeadReason)); n > 1<<10 {
		t.Errorf("the reason has %d bytes", n)
	}
}

// A reply subject that is no inbox may be a stream's own, and the answer then be taken in as an event.
func TestAnswersOnlyInboxes(t *testing.T) {
	c := bustest.Conn(t)
	var heard tally
	inbox := nats.NewInbox()
	trap := event.AgentSubject(event.VerbState, "victim")
	for _, subject := range []string{inbox, trap, "somewhere"} {
		_, err := c.NC().Subscribe(subject, func(m *nats.Msg) { heard.add([]*bus.Msg{{Data: []byte(m.Subject)}}) })
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range []string{trap, "somewhere", "_INBOX.>", "", inbox} {
		msg := resultMsg("a", "{}")
		msg.Header = nats.Header{event.HeaderReply: {to}}
		publish(t, c, msg)
	}
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			for _, m := range batch {
				m.Done(&event.Outcome{OK: true})
			}
			return nil
		},
	})
	wantSettled(t, c, event.ConsumerWorkflow)
	bustest.Eventually(t, "the inbox is answered", func() bool { return heard.snapshot()[inbox] == 1 })
	if got := heard.snapshot(); len(got) != 1 {
		t.Errorf("answers went to %v", got)
	}
}

// What only a newer version knows is offered again and again for as long as there is one, and buried when there is none.
func TestWhatANewerVersionKnowsIsPutOff(t *testing.T) {
	c := bustest.Conn(t)
	ctx := testContext(t)
	s, err := c.JS().Stream(ctx, event.StreamWork)
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Subjects = append(config.Subjects, event.Root+".command.run-dance.*") // as the newer version has made it
	if _, err := c.JS().UpdateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	var newer atomic.Bool
	var offered atomic.Int64
	newer.Store(true)
	consume(t, c, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Newer: newer.Load,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			for _, m := range batch {
				offered.Add(1)
				m.Dead(event.Errorf(event.CodeMalformed, "unknown"))
			}
			return nil
		},
	})
	for _, subject := range []string{event.Root + ".command.run-dance.r1", event.CommandSubject(event.KindRunCancel, "r1")} {
		if _, err := c.Publish(ctx, nats.NewMsg(subject)); err != nil {
			t.Fatal(err)
		}
	}
	bustest.Eventually(t, "the unknown one is offered again", func() bool { return offered.Load() >= 4 })
	if l := letters(t, c); len(l) != 1 || l[0].Header.Get(event.HeaderDeadSubject) != event.CommandSubject(event.KindRunCancel, "r1") {
		t.Errorf("%d dead letters: %+v", len(l), l)
	}
	newer.Store(false)
	bustest.Eventually(t, "it is buried", func() bool { return len(letters(t, c)) == 2 })
}
