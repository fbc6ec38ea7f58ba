package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// bury stores a letter and returns its sequence.
func bury(t *testing.T, c *bus.Conn, l *bus.Letter) uint64 {
	t.Helper()
	if err := c.Bury(testContext(t), l); err != nil {
		t.Fatal(err)
	}
	st, err := c.StreamState(testContext(t), event.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	return st.LastSeq
}

func cordonLetter(agent string, seq uint64) *bus.Letter {
	return &bus.Letter{
		Subject: event.CommandSubject(event.KindAgentCordon, event.MustToken(agent)), Data: []byte(`{"reason":"x"}`), Stream: event.StreamAgent, Seq: seq,
		First: time.Now(), Count: 3, Err: event.Errorf(event.CodeUnknownAgent, "agent %q is not registered", agent),
	}
}

func TestALetterHasEverythingToActOn(t *testing.T) {
	c := bustest.Conn(t)
	first := time.Date(2026, 3, 1, 12, 0, 0, 123_000_000, time.UTC)
	body := []byte(`{"runId":"r 1","taskId":"t","attempt":1,"status":"completed"}`)
	seq := bury(t, c, &bus.Letter{
		Subject: "opscore.v1.agent.result.=a=2Eb", Data: body, Stream: event.StreamWork, Seq: 9, First: first, Count: 2,
		Header: nats.Header{
			"X-Mine": {"1", "2"}, event.HeaderTraceparent: {"tp"}, event.HeaderReply: {"_INBOX.x"}, event.HeaderDeadline: {"5"}, nats.MsgIdHdr: {"1"},
			event.HeaderDeadHops: {"2"}, event.HeaderDeadReplay: {"7/8"},
		},
		Err: event.Errorf(event.CodeStaleAttempt, "line one\nline two"),
	})
	got, err := c.DeadLetter(testContext(t), seq)
	if err != nil {
		t.Fatal(err)
	}
	if since := time.Since(got.LastAt); since < 0 || since > time.Minute {
		t.Errorf("given up at %v", got.LastAt)
	}
	got.LastAt = time.Time{}
	want := &event.DeadLetter{
		Seq: seq, Class: event.CodeStaleAttempt, Reason: "line one line two", Subject: "opscore.v1.agent.result.=a=2Eb", Stream: event.StreamWork,
		StreamSeq: 9, AgentID: "a.b", RunID: "r 1", FirstAt: first, Count: 2, Hops: 2, Size: len(body), Body: body,
		Header: map[string][]string{"X-Mine": {"1", "2"}, event.HeaderTraceparent: {"tp"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for body, read := range map[string]func(*event.DeadLetter) bool{
		"not JSON": func(l *event.DeadLetter) bool { return l.Text == "not JSON" && l.Body == nil },
		"\xff\x00": func(l *event.DeadLetter) bool { return string(l.Base64) == "\xff\x00" && l.Text == "" },
		"":         func(l *event.DeadLetter) bool { return l.Body == nil && l.Text == "" && l.Base64 == nil },
	} {
		l := cordonLetter("x", 0)
		l.Stream, l.Data = "", []byte(body)
		if got, err := c.DeadLetter(testContext(t), bury(t, c, l)); err != nil || !read(got) || got.Truncated {
			t.Errorf("%q is read as %+v, %v", body, got, err)
		}
	}
	if _, err := c.DeadLetter(testContext(t), 999); !errors.Is(err, &event.Error{Code: event.CodeUnknownLetter}) {
		t.Errorf("a letter that is not there: %v", err)
	}
}

func TestTheSameLetterIsStoredOnce(t *testing.T) {
	c := bustest.Conn(t)
	l := cordonLetter("a", 4)
	if first, again := bury(t, c, l), bury(t, c, l); first != 1 || again != 1 {
		t.Errorf("buried as %d and %d", first, again)
	}
	l.First = l.First.Add(time.Nanosecond) // the stream was made anew and counts from the beginning
	if other := bury(t, c, l); other != 2 {
		t.Errorf("another letter was buried as %d", other)
	}
}

func TestLettersAreListed(t *testing.T) {
	c := bustest.Conn(t)
	for i := range 7 {
		bury(t, c, cordonLetter(fmt.Sprintf("a%d", i%2), uint64(i+1)))
	}
	result := cordonLetter("x", 20)
	result.Subject, result.Data = event.AgentSubject(event.VerbResult, "a0"), []byte(`{"runId":"r-1"}`)
	result.Err = event.Errorf(event.CodeUnknownRun, "there is no such run")
	bury(t, c, result)
	broken := cordonLetter("x", 21)
	broken.Subject, broken.Err, broken.Data = "opscore.v1.agent.state.a%b", event.Errorf(event.CodeMalformed, "bad token"), nil
	bury(t, c, broken)
	if err := c.DeleteDead(testContext(t), 3); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		filter event.DeadFilter
		want   []uint64
	}{
		"all":             {event.DeadFilter{}, []uint64{1, 2, 4, 5, 6, 7, 8, 9}},
		"class":           {event.DeadFilter{Class: event.CodeUnknownRun}, []uint64{8}},
		"no such class":   {event.DeadFilter{Class: "nothing"}, nil},
		"agent":           {event.DeadFilter{AgentID: "a0"}, []uint64{1, 5, 7, 8}},
		"agent and class": {event.DeadFilter{AgentID: "a0", Class: event.CodeUnknownAgent}, []uint64{1, 5, 7}},
		"run":             {event.DeadFilter{RunID: "r-1"}, []uint64{8}},
		"subject":         {event.DeadFilter{Subject: "opscore.v1.command.*.a1"}, []uint64{2, 4, 6}},
		"subject below":   {event.DeadFilter{Subject: "opscore.v1.agent.>"}, []uint64{8, 9}},
		"since":           {event.DeadFilter{Since: time.Now().Add(time.Minute)}, nil},
	} {
		for _, limit := range []int{1, 2, 100} {
			var got []uint64
			for cursor, pages := "", 0; ; pages++ {
				list, err := c.DeadLetters(testContext(t), tc.filter, cursor, limit)
				if err != nil || len(list.Items) > limit || list.Letters != 8 || list.LastSeq != 9 {
					t.Fatalf("%s: %d of %d letters up to %d, %v", name, len(list.Items), list.Letters, list.LastSeq, err)
				}
				for _, l := range list.Items {
					got = append(got, l.Seq)
				}
				if cursor = list.NextCursor; cursor == "" || pages > 20 {
					break
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s, %d a page: %s", name, limit, diff)
			}
		}
	}
	if _, err := c.DeadLetters(testContext(t), event.DeadFilter{}, "x", 1); !errors.Is(err, &event.Error{Code: event.CodeInvalid}) {
		t.Errorf("a wrong cursor: %v", err)
	}
	if err := c.DeleteDead(testContext(t), 3); !errors.Is(err, &event.Error{Code: event.CodeUnknownLetter}) {
		t.Errorf("deleted twice: %v", err)
	}
}

// subjectMsgs counts the messages of a subject in its stream.
func subjectMsgs(t *testing.T, c *bus.Conn, subject string) int {
	t.Helper()
	s, err := c.JS().Stream(testContext(t), event.StreamOf(subject))
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(testContext(t), jetstream.WithSubjectFilter(subject))
	if err != nil {
		t.Fatal(err)
	}
	return int(info.State.Subjects[subject])
}

func TestReplayOfALetter(t *testing.T) {
	c := bustest.Conn(t)
	l := cordonLetter("a", 1)
	l.Header = nats.Header{"X-Mine": {"1"}, event.HeaderDeadHops: {"1"}}
	publish(t, c, &nats.Msg{Subject: l.Subject, Data: l.Data}) // the letter's own message, and one behind it
	publish(t, c, &nats.Msg{Subject: l.Subject, Data: []byte(`{}`)})
	seq := bury(t, c, l)
	got, err := c.ReplayDead(testContext(t), seq, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&event.Replayed{Seq: seq, Subject: l.Subject, Stream: event.StreamAgent, StreamSeq: 3}, got); diff != "" {
		t.Error(diff)
	}
	s, err := c.JS().Stream(testContext(t), event.StreamAgent)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetMsg(testContext(t), 3)
	if err != nil || string(m.Data) != string(l.Data) || m.Header.Get(event.HeaderDeadHops) != "2" || m.Header.Get("X-Mine") != "1" {
		t.Errorf("%q %v, %v", m.Data, m.Header, err)
	}
	if _, err := c.ReplayDead(testContext(t), seq, nil); !errors.Is(err, &event.Error{Code: event.CodeUnknownLetter}) {
		t.Errorf("a second replay: %v", err)
	}
	seq = bury(t, c, cordonLetter("a", 30))
	if _, err := c.ReplayDead(testContext(t), seq, []byte(`{"reason":"edited"}`)); err != nil {
		t.Fatal(err)
	}
	if m, err := s.GetMsg(testContext(t), 4); err != nil || string(m.Data) != `{"reason":"edited"}` || m.Header.Get(event.HeaderDeadHops) != "1" {
		t.Errorf("%q %v, %v", m.Data, m.Header, err)
	}
}

// denyDelete makes the stream of dead letters anew, so that letters can be deleted from it or not.
func denyDelete(t *testing.T, c *bus.Conn, deny bool) {
	t.Helper()
	s, err := c.JS().Stream(testContext(t), event.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	if err := c.JS().DeleteStream(testContext(t), event.StreamDead); err != nil {
		t.Fatal(err)
	}
	cfg.DenyDelete = deny
	if _, err := c.JS().CreateStream(testContext(t), cfg); err != nil {
		t.Fatal(err)
	}
}

// However many messages have come on a letter's subject before it was sent again.
func TestReplayingTwiceAmongMany(t *testing.T) {
	c := bustest.Conn(t)
	denyDelete(t, c, true) // as if the process ended there
	const others = 1100
	l := cordonLetter("a", 0)
	l.Subject, l.Stream = event.CommandSubject(event.KindRunSignal, event.MustToken("r")), ""
	l.Data = []byte(`{"name":"s"}`)
	for range others {
		publish(t, c, &nats.Msg{Subject: l.Subject, Data: l.Data})
	}
	seq := bury(t, c, l)
	for range 2 {
		if _, err := c.ReplayDead(testContext(t), seq, nil); err == nil || !strings.Contains(err.Error(), "was sent again") {
			t.Fatalf("the letter could not be deleted: %v", err)
		}
	}
	if n := subjectMsgs(t, c, l.Subject); n != others+1 {
		t.Errorf("%d messages, want the replay and %d others", n, others)
	}
}

// A replay that ended before it deleted its letter, and replays at the same time, send the message once; and a letter whose subject others write on
// meanwhile is sent all the same.
func TestReplayingTwiceSendsOnce(t *testing.T) {
	c := bustest.Conn(t)
	denyDelete(t, c, true) // as if the process ended there
	l := cordonLetter("a", 1)
	seq := bury(t, c, l)
	for range 3 {
		if _, err := c.ReplayDead(testContext(t), seq, nil); err == nil || !strings.Contains(err.Error(), "was sent again") {
			t.Fatalf("the letter could not be deleted: %v", err)
		}
		publish(t, c, &nats.Msg{Subject: l.Subject, Data: []byte(`{}`)})
	}
	if n := subjectMsgs(t, c, l.Subject); n != 4 {
		t.Errorf("%d messages, want the replay and three others", n)
	}
	denyDelete(t, c, false)
	var replays sync.WaitGroup
	begin := make(chan struct{})
	for i := range 10 {
		seq := bury(t, c, cordonLetter(fmt.Sprint("b", i), uint64(i)))
		for range 8 {
			replays.Go(func() {
				<-begin
				_, err := c.ReplayDead(context.WithoutCancel(t.Context()), seq, nil)
				if err != nil && !errors.Is(err, &event.Error{Code: event.CodeUnknownLetter}) {
					t.Error(err)
				}
			})
		}
	}
	close(begin)
	replays.Wait()
	for i := range 10 {
		if n := subjectMsgs(t, c, cordonLetter(fmt.Sprint("b", i), 0).Subject); n != 1 {
			t.Errorf("%d messages after eight replays of letter %d at the same time", n, i)
		}
	}
}

// A full stream drops the oldest letters, and their number is told.
func TestDroppedLettersAreCounted(t *testing.T) {
	c := bustest.Conn(t)
	s, err := c.JS().Stream(testContext(t), event.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = 1 << 20
	if _, err := c.JS().UpdateStream(testContext(t), cfg); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- c.WatchDead(ctx, 5*time.Millisecond) }()
	seen := func() *event.DeadList {
		list, err := c.DeadLetters(testContext(t), event.DeadFilter{}, "", 1)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	large := cordonLetter("a", 0)
	large.Data = []byte(strings.Repeat("x", 100<<10))
	for i := range 25 {
		large.Seq = uint64(i)
		bury(t, c, large)
	}
	if err := c.DeleteDead(testContext(t), seen().Items[0].Seq); err != nil { // which was not dropped
		t.Fatal(err)
	}
	bustest.Eventually(t, "all letters are accounted for", func() bool {
		list := seen()
		return list.Evicted > 0 && list.Evicted+list.Letters+1 == list.LastSeq
	})
	stop()
	if err := <-watched; err != nil {
		t.Error(err)
	}
}

func TestReplaysThatAreRefused(t *testing.T) {
	c := bustest.Conn(t)
	change := func(f func(*bus.Letter)) *bus.Letter {
		l := cordonLetter("a", 0)
		l.Stream = ""
		f(l)
		return l
	}
	for name, tc := range map[string]struct {
		letter *bus.Letter
		body   string
		want   event.Code
	}{
		"too often":      {change(func(l *bus.Letter) { l.Header = nats.Header{event.HeaderDeadHops: {"5"}} }), "", event.CodeNotAllowedNow},
		"cut off":        {change(func(l *bus.Letter) { l.Data = make([]byte, event.MaxBody+1) }), "", event.CodeTooLarge},
		"broken still":   {change(func(l *bus.Letter) { l.Data = []byte(`{"reason":1}`) }), "", event.CodeMalformed},
		"broken by hand": {change(func(*bus.Letter) {}), `{"reason":`, event.CodeMalformed},
		"no such stream": {change(func(l *bus.Letter) { l.Subject = "opscore.v1.agent.sing.a" }), "", event.CodeInvalid},
	} {
		seq := bury(t, c, tc.letter)
		var body []byte
		if tc.body != "" {
			body = []byte(tc.body)
		}
		if _, err := c.ReplayDead(testContext(t), seq, body); !errors.Is(err, &event.Error{Code: tc.want}) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
		if _, err := c.DeadLetter(testContext(t), seq); err != nil {
			t.Errorf("%s: the letter is gone: %v", name, err)
		}
	}
	if st, err := c.StreamState(testContext(t), event.StreamAgent); err != nil || st.LastSeq != 0 {
		t.Errorf("%d messages were sent, %v", st.LastSeq, err)
	}
}

// A replica that ends between burying and acknowledging leaves its messages to another one: whatever is poison among them is buried once, and
// the rest is handled.
func TestPoisonIsBuriedOnceByTwoReplicas(t *testing.T) {
	server := bustest.Server(t)
	first, second := bustest.Dial(t, server), bustest.Dial(t, server)
	if err := first.JS().DeleteConsumer(testContext(t), event.StreamWork, event.ConsumerWorkflow); err != nil {
		t.Fatal(err)
	}
	recreate(t, first, event.ConsumerWorkflow, time.Second)
	publishMany(t, first, 200)
	poison := map[string]bool{"17": true, "18": true, "150": true}
	var handled tally
	handler := func(_ context.Context, batch []*bus.Msg) error {
		for _, m := range batch {
			if poison[string(m.Data)] {
				panic("cannot bear " + string(m.Data))
			}
		}
		handled.add(batch)
		done(batch)
		return nil
	}
	died := make(chan struct{})
	var once sync.Once
	_, stop := consume(t, first, bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Workers: 1, Handler: handler,
		Crash: func(point string) {
			if point == "before-ack" && subjectLast(t, second) > 0 {
				first.NC().Close() // what follows is not acknowledged
				once.Do(func() { close(died) })
			}
		},
	})
	<-died
	stop()
	consume(t, second, bus.ConsumerConfig{Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Handler: handler})
	wantSettled(t, second, event.ConsumerWorkflow)
	if dead := letters(t, second); len(dead) != len(poison) {
		t.Errorf("%d dead letters, want %d", len(dead), len(poison))
	}
	if n := handled.len(); n != 200-len(poison) {
		t.Errorf("%d good messages were handled, want %d", n, 200-len(poison))
	}
}

// subjectLast returns the last sequence of the dead letters.
func subjectLast(t *testing.T, c *bus.Conn) uint64 {
	st, err := c.StreamState(context.WithoutCancel(t.Context()), event.StreamDead)
	if err != nil {
		t.Error(err)
	}
	return st.LastSeq
}
