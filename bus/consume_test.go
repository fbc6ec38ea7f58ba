package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
		return open == 0 && pending == 0
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

// A reply subject that is no inbox may be a stream's own, and the answer then be taken in as an event.
func TestAnswersOnlyInboxes(t *testing.T) {
	c := bustest.Conn(t)
	var heard tally
	inbox := nats.NewInbox()
	trap := event.AgentSubject(event.VerbState, "victim")
	for _, subject := range []string{inbox, trap, "somewhere", "_INBOX.>"} {
		if strings.HasSuffix(subject, ">") {
			continue
		}
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

// The workflow durable gets commands about agents too; they are acknowledged and not shown.
func TestWorkflowDoesNotSeeCommandsAboutAgents(t *testing.T) {
	c := bustest.Conn(t)
	for i := range 5 {
		publish(t, c, commandMsg(event.KindAgentCordon, "a"+strconv.Itoa(i), ""))
	}
	publish(t, c, commandMsg(event.KindRunStart, "r1", "{}"))
	kinds := func(durable string) *tally {
		var seen tally
		consume(t, c, bus.ConsumerConfig{
			Stream: event.StreamWork, Durable: durable,
			Handler: func(_ context.Context, batch []*bus.Msg) error {
				for _, m := range batch {
					addr, _ := event.ParseSubject(m.Subject)
					seen.add([]*bus.Msg{{Data: []byte(addr.Name)}})
				}
				done(batch)
				return nil
			},
		})
		return &seen
	}
	workflow, command := kinds(event.ConsumerWorkflow), kinds(event.ConsumerCommand)
	wantSettled(t, c, event.ConsumerWorkflow)
	wantSettled(t, c, event.ConsumerCommand)
	if got := fmt.Sprint(workflow.snapshot(), command.snapshot()); got != "map[run-start:1] map[agent-cordon:5]" {
		t.Errorf("workflow and command saw %s", got)
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
	wantSettled(t, c, event.ConsumerWorkflow) // far sooner than the 30 s of AckWait
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
