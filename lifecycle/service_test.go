package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

// fleet is a server, a store and what a client sees of them.
type fleet struct {
	*testing.T
	conn    *bus.Conn
	store   storage.Store
	queries *lifecycle.Queries
}

// eachStore runs a test with each of the drivers.
func eachStore(t *testing.T, test func(f *fleet)) {
	t.Run("bolt", func(t *testing.T) {
		t.Parallel()
		test(newFleet(t, boltStore(t)))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		server := storagetest.StartRedis(t)
		u, err := url.Parse(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		store, err := redisstore.Open(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		test(newFleet(t, store))
	})
}

func boltStore(t *testing.T) storage.Store {
	t.Helper()
	store, err := boltstore.Open(t.Context(), &url.URL{Scheme: "file", Path: filepath.Join(t.TempDir(), "opscore.db")})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func newFleet(t *testing.T, store storage.Store) *fleet {
	t.Helper()
	t.Cleanup(func() { _ = store.Close() })
	return &fleet{T: t, conn: bustest.Conn(t), store: store, queries: lifecycle.NewQueries(store)}
}

// serve runs a service until the test ends or stop is called.
func (f *fleet) serve() (s *lifecycle.Service, stop func()) {
	f.Helper()
	// Warnings are about messages that the tests refuse on purpose.
	log := slog.New(slog.NewTextHandler(f.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	s = lifecycle.New(lifecycle.Config{Store: f.store, Bus: f.conn, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Errorf("service: %v", err)
		}
	})
	f.Cleanup(stop)
	return s, stop
}

// say publishes what an agent says and returns the outcome.
func (f *fleet) say(verb event.Verb, agent string, body any) event.Outcome {
	f.Helper()
	return f.call(event.AgentSubject(verb, event.MustToken(agent)), body)
}

// command publishes a command and returns the outcome.
func (f *fleet) command(kind event.CommandKind, agent string) event.Outcome {
	f.Helper()
	return f.call(event.CommandSubject(kind, event.MustToken(agent)), &event.AgentCommand{})
}

func (f *fleet) call(subject string, body any) event.Outcome {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), time.Minute)
	defer cancel()
	o, _, err := f.conn.Call(ctx, &nats.Msg{Subject: subject, Data: event.MustMarshal(body)})
	if err != nil {
		f.Fatal(err)
	}
	return o
}

// publish stores a message and does not wait for its outcome.
func (f *fleet) publish(subject string, body []byte) bus.Ack {
	f.Helper()
	ack, err := f.conn.Publish(f.Context(), &nats.Msg{Subject: subject, Data: body})
	if err != nil {
		f.Fatal(err)
	}
	return ack
}

// settle waits until everything that is in the streams has been handled.
func (f *fleet) settle() {
	f.Helper()
	stream, err := f.conn.JS().Stream(f.Context(), event.StreamAgent)
	if err != nil {
		f.Fatal(err)
	}
	last := stream.CachedInfo().State.LastSeq
	bustest.Eventually(f, "all messages are handled", func() bool {
		c, err := stream.Consumer(f.Context(), event.ConsumerLifecycle)
		if err != nil {
			f.Fatal(err)
		}
		// One that has only just been made may not know yet how much is pending.
		return c.CachedInfo().Delivered.Stream >= last && c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
	})
}

// agent reads an agent that must be there.
func (f *fleet) agent(id string) *event.Agent {
	f.Helper()
	a, err := f.queries.Get(f.Context(), id)
	if err != nil {
		f.Fatal(err)
	}
	return a
}

func (f *fleet) wantOK(o event.Outcome) event.Outcome {
	f.Helper()
	if !o.OK {
		f.Fatalf("refused: %v", o.Error)
	}
	return o
}

func (f *fleet) wantRefused(o event.Outcome, code event.Code) event.Outcome {
	f.Helper()
	if o.OK || o.Error == nil || o.Error.Code != code {
		f.Fatalf("outcome %+v, want a refusal with %s", o, code)
	}
	return o
}

func (f *fleet) wantUnknown(id string) {
	f.Helper()
	if a, err := f.queries.Get(f.Context(), id); !errors.Is(err, &event.Error{Code: event.CodeUnknownAgent}) {
		f.Errorf("agent %q: %+v, %v; want it unknown", id, a, err)
	}
}

func (f *fleet) wantState(id, state string) {
	f.Helper()
	if a := f.agent(id); a.State != state {
		f.Errorf("agent %q is %s, want %s", id, a.State, state)
	}
}

func TestAnAgentIsReadableWhenItsOutcomeArrives(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.serve()
		o := f.wantOK(f.say(event.VerbRegister, "agent:7", &event.Register{
			AgentName: "Summariser", Version: "1.4.0", Capabilities: []string{"summarise"}, Slots: 3,
			Labels: map[string]string{"region": "eu"}, Metadata: event.Raw(`{"n":1.0}`), Instance: "A",
		}))
		got := f.agent("agent:7")
		want := &event.Agent{
			AgentID: "agent:7", AgentName: "Summariser", Version: "1.4.0", Capabilities: []string{"summarise"}, Slots: 3,
			Held: []event.AttemptRef{}, State: "UNKNOWN", StateAt: got.RegisteredAt, Details: event.Raw(`{"reason":"Initial registration"}`),
			Liveness: event.LivenessUnwatched, Unavailable: "it has not reported a state yet", RegisteredAt: got.RegisteredAt,
			Labels: map[string]string{"region": "eu"}, Metadata: event.Raw(`{"n":1.0}`), Delivery: event.DeliveryNATS,
			Instance: "A", Seq: o.Seq, DocVersion: o.Version,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			f.Errorf("agent (-want +got):\n%s", diff)
		}

		f.wantOK(f.say(event.VerbState, "agent:7", &event.State{
			State: "Idle", Timestamp: "1999-12-31T23:59:59", Details: event.Raw(`{"queue":0}`), Instance: "A",
		}))
		got = f.agent("agent:7")
		if got.State != "Idle" || got.StateTimestamp != "1999-12-31T23:59:59" || string(got.Details) != `{"queue":0}` || !got.Available {
			f.Errorf("agent %+v, want it idle and available", got)
		}
	})
}

func TestRegisteringAgainKeepsTheNewerState(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.serve()
		f.wantOK(f.say(event.VerbRegister, "a", registered("")))
		f.wantOK(f.say(event.VerbState, "a", said("", "busy")))
		again := registered("")
		again.Version = "2"
		f.wantOK(f.say(event.VerbRegister, "a", again))
		if a := f.agent("a"); a.State != "busy" || a.Version != "2" {
			f.Errorf("agent %+v, want version 2, busy", a)
		}
	})
}

func TestADeregisteredAgentIsUnknownUntilItRegistersAgain(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.serve()
		f.wantOK(f.say(event.VerbRegister, "a", registered("")))
		f.wantOK(f.say(event.VerbState, "a", said("", "idle")))
		f.wantOK(f.say(event.VerbDeregister, "a", deregistered()))
		f.wantUnknown("a")
		f.wantListed()
		if n, err := f.store.Count(f.Context(), lifecycle.AgentIndex, 0, storage.MaxScore); n != 0 || err != nil {
			f.Errorf("%d agents stand in the index, %v", n, err)
		}
		f.wantFree("echo")
		f.wantOK(f.say(event.VerbDeregister, "never-seen", deregistered()))
		f.wantOK(f.say(event.VerbRegister, "a", registered("")))
		f.wantState("a", "UNKNOWN")
		f.wantListed("a")
	})
}

// wantListed compares the registered agents, read in pages of two.
func (f *fleet) wantListed(want ...string) {
	f.Helper()
	var got []string
	cursor := ""
	for {
		page, err := f.queries.List(f.Context(), cursor, 2)
		if err != nil {
			f.Fatal(err)
		}
		for _, a := range page.Items {
			got = append(got, a.AgentID)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		f.Errorf("registered agents (-want +got):\n%s", diff)
	}
}

// wantFree compares the agents that are free for a capability, least recently used first.
func (f *fleet) wantFree(capability string, want ...string) {
	f.Helper()
	entries, err := f.store.Range(f.Context(), lifecycle.FreeIndex(capability), storage.Cursor{}, storage.MaxScore, 1000)
	if err != nil {
		f.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Member)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		f.Errorf("free for %s (-want +got):\n%s", capability, diff)
	}
}

func TestAnEarlyReportIsHeldForItsRegistration(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.serve()
		o := f.wantRefused(f.say(event.VerbState, "a", said("", "idle")), event.CodeUnknownAgent)
		if !o.Held || o.Seq == 0 {
			f.Errorf("outcome %+v, want it held", o)
		}
		f.publish(event.AgentSubject(event.VerbState, "a"), event.MustMarshal(said("", "finished"))) // and nobody waits
		f.settle()
		f.wantUnknown("a")
		f.wantListed()
		f.wantOK(f.say(event.VerbRegister, "a", registered("")))
		f.wantState("a", "finished")
		f.wantFree("echo", "a")
		f.wantNoDeadLetters()
	})
}

func TestABatchIsJudgedInStreamOrder(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.publish(event.AgentSubject(event.VerbRegister, "a"), event.MustMarshal(registered("A")))
		f.publish(event.AgentSubject(event.VerbState, "a"), event.MustMarshal(said("A", "idle")))
		f.publish(event.AgentSubject(event.VerbDeregister, "a"), nil)
		f.serve()
		f.settle()
		f.wantUnknown("a")
		f.wantNoDeadLetters()
	})
}

func stateSubject(token string) string { return event.AgentSubject(event.VerbState, token) }

func TestExpiredEarlyReportsAreSweptAway(t *testing.T) {
	eachStore(t, func(f *fleet) {
		s, _ := f.serve()
		f.say(event.VerbState, "a", said("", "idle"))
		if n, err := s.Sweep(f.Context(), time.Now().Add(lifecycle.EarlyReportTTL-time.Minute)); n != 0 || err != nil {
			f.Fatalf("swept %d, %v; want nothing before the time", n, err)
		}
		if n, err := s.Sweep(f.Context(), time.Now().Add(lifecycle.EarlyReportTTL+time.Minute)); n != 1 || err != nil {
			f.Fatalf("swept %d, %v; want 1", n, err)
		}
		m := f.wantDeadLetter(event.CodeExpired, "did not register")
		if _, err := event.Decode(stateSubject("a"), m.Data()); err != nil || m.Headers().Get(event.HeaderDeadSubject) != stateSubject("a") {
			f.Errorf("the report is kept as %s %s, %v", m.Headers().Get(event.HeaderDeadSubject), m.Data(), err)
		}
		if n, err := s.Sweep(f.Context(), time.Now().Add(2*lifecycle.EarlyReportTTL)); n != 0 || err != nil {
			f.Fatalf("swept %d, %v; want nothing twice", n, err)
		}
		f.wantOK(f.say(event.VerbRegister, "a", registered("")))
		f.wantState("a", "UNKNOWN")
	})
}

func TestAReplacedProcessIsToldSo(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.serve()
		f.wantOK(f.say(event.VerbRegister, "a", registered("A")))
		f.wantOK(f.say(event.VerbState, "a", said("A", "idle")))
		o := f.wantOK(f.say(event.VerbRegister, "a", registered("B")))
		if o.Epoch != "B" {
			f.Errorf("epoch %q, want B", o.Epoch)
		}
		f.wantRefused(f.say(event.VerbState, "a", said("A", "idle")), event.CodeStaleInstance)
		f.wantState("a", "UNKNOWN")
		f.wantFree("echo")
		f.publish(event.AgentSubject(event.VerbState, "a"), event.MustMarshal(said("A", "idle")))
		f.wantDeadLetter(event.CodeStaleInstance, `another process of agent "a" has taken over`)
		f.wantOK(f.say(event.VerbState, "a", said("B", "idle")))
		f.wantFree("echo", "a")
	})
}

func TestACordonedAgentGetsNoTasks(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.serve()
		f.wantRefused(f.command(event.KindAgentCordon, "a"), event.CodeUnknownAgent)
		f.wantOK(f.say(event.VerbRegister, "a", registered("")))
		f.wantOK(f.say(event.VerbState, "a", said("", "idle")))
		f.wantFree("echo", "a")
		f.wantOK(f.command(event.KindAgentCordon, "a"))
		f.wantFree("echo")
		if a := f.agent("a"); !a.Cordoned || a.Available || a.Unavailable != "it is cordoned" {
			f.Errorf("agent %+v, want it cordoned", a)
		}
		f.wantOK(f.say(event.VerbState, "a", said("", "idle")))
		f.wantFree("echo")
		f.wantOK(f.command(event.KindAgentUncordon, "a"))
		f.wantFree("echo", "a")
	})
}

// deadLetters reads all of them.
func (f *fleet) deadLetters() []jetstream.Msg {
	f.Helper()
	return f.stream(event.StreamDead)
}

// stream reads all messages of a stream, in order.
func (f *fleet) stream(name string) []jetstream.Msg {
	f.Helper()
	s, err := f.conn.JS().Stream(f.Context(), name)
	if err != nil {
		f.Fatal(err)
	}
	left := int(s.CachedInfo().State.Msgs)
	if left == 0 {
		return nil
	}
	c, err := s.CreateConsumer(f.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		f.Fatal(err)
	}
	batch, err := c.Fetch(left)
	if err != nil {
		f.Fatal(err)
	}
	messages := make([]jetstream.Msg, 0, left)
	for m := range batch.Messages() {
		messages = append(messages, m)
	}
	if err := errors.Join(batch.Error(), s.DeleteConsumer(f.Context(), c.CachedInfo().Name)); err != nil || len(messages) != left {
		f.Fatalf("%d of %d messages of %s, %v", len(messages), left, name, err)
	}
	return messages
}

func (f *fleet) wantNoDeadLetters() {
	f.Helper()
	for _, m := range f.deadLetters() {
		f.Errorf("dead letter %s: %s %s", m.Subject(), m.Headers().Get(event.HeaderDeadReason), m.Data())
	}
}

// wantDeadLetter waits for a dead letter with this code and reason and returns it.
func (f *fleet) wantDeadLetter(code event.Code, reason string) (found jetstream.Msg) {
	f.Helper()
	bustest.Eventually(f, fmt.Sprintf("a dead letter with %s and %q", code, reason), func() bool {
		for _, m := range f.deadLetters() {
			if m.Subject() == event.DeadSubject(code) && strings.Contains(m.Headers().Get(event.HeaderDeadReason), reason) {
				found = m
			}
		}
		return found != nil
	})
	return found
}

func TestMalformedEventsDieAloneAndWithAReason(t *testing.T) {
	eachStore(t, func(f *fleet) {
		register := event.MustMarshal(registered(""))
		idle := event.MustMarshal(said("", "idle"))
		stateOf := func(token string) string { return event.AgentSubject(event.VerbState, token) }
		f.publish(event.AgentSubject(event.VerbRegister, "a"), register)
		broken := f.publish(stateOf("a"), []byte(`{"state":`))
		f.publish(stateOf("a"), []byte(`{"details":{}}`))
		f.publish(stateOf("a"), []byte(`{"state":"busy","agentId":"b"}`))
		f.publish(stateOf("=plain"), idle)
		f.publish(stateOf("==FF"), idle)
		f.publish(stateOf("a"), []byte(`{"state":"busy","details":{"x":"`+strings.Repeat("x", event.MaxDetails)+`"}}`))
		f.publish(event.CommandSubject(event.KindAgentCordon, "a"), []byte(`[]`))
		f.publish(event.AgentSubject(event.VerbRegister, "b"), register)
		f.publish(stateOf("b"), idle)
		f.publish(stateOf("a"), idle)
		f.serve()
		f.settle()

		f.wantState("a", "idle")
		f.wantState("b", "idle")
		f.wantListed("a", "b")
		if a := f.agent("a"); a.Cordoned {
			f.Error("cordoned by a body that is none")
		}
		m := f.wantDeadLetter(event.CodeMalformed, "ends too early")
		for header, want := range map[string]string{
			event.HeaderDeadSubject: stateOf("a"), event.HeaderDeadStream: event.StreamAgent,
			event.HeaderDeadSeq: strconv.FormatUint(broken.Seq, 10), event.HeaderDeadCode: "malformed", event.HeaderDeadCount: "1",
		} {
			if got := m.Headers().Get(header); got != want {
				f.Errorf("%s is %q, want %q", header, got, want)
			}
		}
		if string(m.Data()) != `{"state":` {
			f.Errorf("body %q is not the original one", m.Data())
		}
		f.wantDeadLetter(event.CodeMalformed, "state is missing")
		f.wantDeadLetter(event.CodeInvalid, `agentId "b" does not match the subject's "a"`)
		f.wantDeadLetter(event.CodeMalformed, "is not in its canonical form")
		f.wantDeadLetter(event.CodeMalformed, "is not UTF-8")
		f.wantDeadLetter(event.CodeTooLarge, "details has 65544 bytes")
		f.wantDeadLetter(event.CodeMalformed, "the body must be an object, not an array")
		if n := len(f.deadLetters()); n != 7 {
			f.Errorf("%d dead letters, want 7", n)
		}
	})
}

func TestHistoryIsInStreamOrderAndWithoutRepeats(t *testing.T) {
	eachStore(t, func(f *fleet) {
		s, stop := f.serve()
		f.wantOK(f.say(event.VerbRegister, "a", registered("A")))
		for i := range 80 {
			f.publish(event.AgentSubject(event.VerbState, "a"), event.MustMarshal(&event.State{State: "idle", Timestamp: strconv.Itoa(i)}))
		}
		f.wantOK(f.command(event.KindAgentCordon, "a"))
		f.wantOK(f.say(event.VerbDeregister, "a", &event.Deregister{Reason: "bye"}))
		f.settle()
		before := f.history("a")
		if len(before) != lifecycle.HistoryDepth {
			f.Fatalf("%d entries, want %d", len(before), lifecycle.HistoryDepth)
		}
		last := before[len(before)-1]
		if last.Event != "deregister" || last.Reason != "bye" || before[len(before)-2].Event != "agent-cordon" {
			f.Errorf("the newest entries are %+v", before[len(before)-2:])
		}

		stop()
		if err := f.conn.ResetConsumer(f.Context(), event.StreamAgent, event.ConsumerLifecycle, 1); err != nil {
			f.Fatal(err)
		}
		s.Forget()
		f.serve()
		f.settle()
		if diff := cmp.Diff(before, f.history("a")); diff != "" {
			f.Errorf("history (-before +after everything was delivered again):\n%s", diff)
		}
		f.wantUnknown("a")
	})
}

// history reads the history of an agent, whose sequences must rise.
func (f *fleet) history(agent string) []lifecycle.HistoryEntry {
	f.Helper()
	entries, err := f.queries.History(f.Context(), agent)
	if err != nil {
		f.Fatal(err)
	}
	highest := uint64(0)
	for _, e := range entries {
		if e.Seq <= highest {
			f.Errorf("%s at %d stands behind %d", e.Event, e.Seq, highest)
		}
		highest = e.Seq
	}
	return entries
}

func TestListsComeInPages(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.serve()
		var want []string
		for i := range 7 {
			id := fmt.Sprintf("agent:%d", i)
			f.publish(event.AgentSubject(event.VerbRegister, event.MustToken(id)), event.MustMarshal(registered("")))
			want = append(want, id)
		}
		f.settle()
		f.wantListed(want...) // in pages of two
		page, err := f.queries.List(f.Context(), "", 7)
		if err != nil || len(page.Items) != 7 {
			f.Fatalf("a page of seven has %d agents, %v", len(page.Items), err)
		}
		page, err = f.queries.List(f.Context(), "agent:4", 7)
		if err != nil || len(page.Items) != 2 || page.NextCursor != "" {
			f.Fatalf("the last page has %d agents and cursor %q, %v", len(page.Items), page.NextCursor, err)
		}
		page, err = f.queries.List(f.Context(), "zzz", 7)
		if err != nil || page.Items == nil || len(page.Items) != 0 || page.NextCursor != "" {
			f.Fatalf("behind the end: %+v, %v", page, err)
		}
	})
}

func TestEventsAndCommandsOfOneAgentAreOneSequence(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.serve()
		f.wantOK(f.say(event.VerbRegister, "a", registered("")))
		kinds := []event.CommandKind{event.KindAgentCordon, event.KindAgentUncordon}
		for i := range 300 {
			f.publish(event.AgentSubject(event.VerbState, "a"), event.MustMarshal(&event.State{State: "idle", Instance: strconv.Itoa(i % 3)}))
			f.publish(event.CommandSubject(kinds[i%2], "a"), nil)
		}
		f.settle()
		f.wantFolded("a")
		f.wantFree("echo", "a")
	})
}

func TestReplicasAgreeWithTheStreams(t *testing.T) {
	const agents, events, batch = 200, 50, 500
	eachStore(t, func(f *fleet) {
		for range 2 {
			f.serve()
		}
		random := rand.New(rand.NewPCG(1, 2))
		words := []string{"idle", "busy", "active", "error", "finished"}
		instances := []string{"", "A", "B"}
		var ids []string
		for i := range agents {
			ids = append(ids, fmt.Sprintf("agent:%d", i))
		}
		acked := make(chan error, batch)
		sent := 0
		publish := func(subject string, body any) {
			sent++
			m := &nats.Msg{Subject: subject, Data: event.MustMarshal(body)}
			if err := f.conn.PublishAsync(m, func(_ bus.Ack, err error) { acked <- err }); err != nil {
				f.Fatal(err)
			}
			if sent%batch == 0 {
				f.drain(acked, batch)
			}
		}
		registrations := make(map[string]int)
		// A cordon is refused while its agent is not registered, so only those that never leave are cordoned.
		stays := func(i int) bool { return i%2 == 0 }
		for i, id := range ids {
			if stays(i) {
				f.wantOK(f.say(event.VerbRegister, id, registered("")))
			}
		}
		for range events {
			for i, id := range ids {
				token := event.MustToken(id)
				instance := instances[random.IntN(len(instances))]
				switch n := random.IntN(20); {
				case n < 2 && registrations[id] < 7: // of 8 that a record remembers
					registrations[id]++
					publish(event.AgentSubject(event.VerbRegister, token), registered(instance))
				case n == 2 && stays(i):
					publish(event.CommandSubject(event.KindAgentCordon, token), &event.AgentCommand{})
				case n == 3 && stays(i):
					publish(event.CommandSubject(event.KindAgentUncordon, token), &event.AgentCommand{})
				case n == 2:
					publish(event.AgentSubject(event.VerbDeregister, token), deregistered())
				default:
					publish(event.AgentSubject(event.VerbState, token), said(instance, words[random.IntN(len(words))]))
				}
			}
		}
		f.drain(acked, sent%batch)
		f.settle()
		f.wantFolded(ids...)
	})
}

func (f *fleet) drain(acked <-chan error, n int) {
	f.Helper()
	for range n {
		if err := <-acked; err != nil {
			f.Fatal(err)
		}
	}
}

// wantFolded compares the documents and indexes of agents with what the stream amounts to, in order.
func (f *fleet) wantFolded(ids ...string) {
	f.Helper()
	want := make(map[string]*lifecycle.Record)
	for _, m := range f.stream(event.StreamAgent) {
		d, err := event.Decode(m.Subject(), m.Data())
		if err != nil {
			f.Fatal(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			f.Fatal(err)
		}
		if want[d.ID] == nil {
			want[d.ID] = &lifecycle.Record{}
		}
		want[d.ID].Apply(d.Event, lifecycle.Mark{Seq: meta.Sequence.Stream, At: meta.Timestamp.UTC()})
	}
	var listed, free []string
	for _, id := range ids {
		docs, err := f.store.Get(f.Context(), lifecycle.RecordKey(id), lifecycle.GateKey(id))
		if err != nil {
			f.Fatal(err)
		}
		got, gate := lifecycle.Record{}, lifecycle.Gate{Agent: id}
		for i, into := range []any{&got, &gate} {
			if docs[i].Rev == "" {
				continue // the gate of an agent that was never registered
			}
			if err := event.Unmarshal(docs[i].Data, into); err != nil {
				f.Fatalf("document %s: %v", docs[i].Key, err)
			}
		}
		if diff := cmp.Diff(want[id], &got, sameRecord); diff != "" {
			f.Errorf("record of %s (-stream +store):\n%s", id, diff)
		}
		wantGate := lifecycle.Gate{Agent: id}
		wantGate.Follow(want[id], true)
		lifecycle.FreeOps(&lifecycle.Gate{}, &wantGate, time.Now()) // notes where it is listed
		if wantGate.Open {
			wantGate.Word = gate.Word // written only when it shuts the gate
		}
		wantGate.Facts = gate.Facts // counts what was told on the way
		if diff := cmp.Diff(&wantGate, &gate, cmpopts.EquateEmpty()); diff != "" {
			f.Errorf("gate of %s (-record +store):\n%s", id, diff)
		}
		if got.Registered() {
			listed = append(listed, id)
		}
		if wantGate.Listed {
			free = append(free, id)
		}
	}
	slices.Sort(listed)
	slices.Sort(free)
	f.wantListed(listed...)
	f.wantFree("echo", free...)
}
