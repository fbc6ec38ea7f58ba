package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

func makeStream(js jetstream.JetStream, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: streamSubjects[name]})
	return err
}

// judge decides what Ops-Core says to a registration or a state.
type judge func(m event.Message) *event.Outcome

func approve(event.Message) *event.Outcome { return &event.Outcome{OK: true} }

// opscore stands in for Ops-Core towards one agent: it sees what the agent publishes and asks it to do tasks.
type opscore struct {
	t     *testing.T
	url   string
	id    string
	token string
	nc    *nats.Conn
	judge atomic.Pointer[judge]
	heard chan event.Message // every event of the agent, in order
	subs  []*nats.Subscription
}

func newOpscore(t *testing.T, s *server.Server) *opscore {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Log("stand-in:", err) }))
	must(t, err)
	t.Cleanup(nc.Close)
	id := strings.ReplaceAll(t.Name(), "/", ".")
	c := &opscore{t: t, url: s.ClientURL(), id: id, token: event.MustToken(id), nc: nc, heard: make(chan event.Message, 1<<12)}
	c.decide(approve)
	sub, err := nc.Subscribe("opscore.v1.agent.*."+c.token, c.hear)
	must(t, err)
	c.subs = append(c.subs, sub)
	must(t, nc.Flush())
	return c
}

func (c *opscore) decide(j judge) { c.judge.Store(&j) }

func (c *opscore) hear(m *nats.Msg) {
	msg, err := event.Decode(m.Subject, m.Data)
	if err != nil {
		c.t.Errorf("%s: %v\n%s", m.Subject, err, m.Data)
		return
	}
	if reply := m.Header.Get(event.HeaderReply); event.HonoursReply(reply) {
		if outcome := (*c.judge.Load())(msg); outcome != nil {
			_ = c.nc.Publish(reply, event.MustMarshal(outcome))
		}
	}
	c.heard <- msg
}

// next waits for the next event of the agent.
func (c *opscore) next() event.Message {
	c.t.Helper()
	select {
	case m := <-c.heard:
		return m
	case <-time.After(patience):
		c.t.Fatal("the agent says nothing")
		return event.Message{}
	}
}

// result waits for the next result, passing over everything else.
func (c *opscore) result() *event.Result {
	c.t.Helper()
	for {
		if r, ok := c.next().Event.(*event.Result); ok {
			return r
		}
	}
}

// rest returns what was heard and not looked at, after everything published so far has arrived.
func (c *opscore) rest() []event.Message {
	c.t.Helper()
	must(c.t, c.nc.Flush())
	for c.pending() > 0 {
		must(c.t, c.nc.Flush())
	}
	var all []event.Message
	for {
		select {
		case m := <-c.heard:
			all = append(all, m)
		default:
			return all
		}
	}
}

func (c *opscore) pending() int {
	n, _, err := c.subs[0].Pending()
	must(c.t, err)
	return n
}

// stored waits until a stream holds at least n messages of the agent's verb.
func (c *opscore) stored(stream string, verb event.Verb, n uint64) {
	c.t.Helper()
	subject := event.AgentSubject(verb, c.token)
	c.until(func(ctx context.Context, js jetstream.JetStream) bool {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return false
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject))
		return err == nil && info.State.Subjects[subject] >= n
	})
}

// last returns the newest stored event of the agent's verb.
func (c *opscore) last(stream string, verb event.Verb) event.Event {
	c.t.Helper()
	var m event.Message
	c.until(func(ctx context.Context, js jetstream.JetStream) bool {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return false
		}
		raw, err := s.GetLastMsgForSubject(ctx, event.AgentSubject(verb, c.token))
		if err != nil {
			return false
		}
		m, err = event.Decode(raw.Subject, raw.Data)
		return err == nil
	})
	return m.Event
}

// until repeats a question to the server, each time with a second for the answer: one asked of a connection that was just
// lost is never answered.
func (c *opscore) until(yes func(context.Context, jetstream.JetStream) bool) {
	c.t.Helper()
	js, err := jetstream.New(c.nc)
	must(c.t, err)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		ok := yes(ctx, js)
		cancel()
		if ok {
			return
		}
	}
	c.t.Fatal("the server does not say what it should")
}

// task makes a task with a deadline far away.
func task(id string, attempt int) event.Task {
	return event.Task{
		RunID: "run", WorkflowID: "wf", WorkflowVersion: "1", TaskID: id, Attempt: attempt, Name: id, Capability: "work",
		Input: event.Raw(`{"n":1}`), Token: "token-" + string(rune('0'+attempt)), Deadline: time.Now().Add(time.Minute).UTC(),
	}
}

func (c *opscore) ask(tk event.Task) event.TaskAnswer {
	c.t.Helper()
	return request[event.TaskAnswer](c, event.TaskSubject(c.token), &tk)
}

func (c *opscore) accepted(tk event.Task) {
	c.t.Helper()
	if a := c.ask(tk); a.Status != event.AnswerAccepted {
		c.t.Fatalf("%s/%d: got %+v, want accepted", tk.TaskID, tk.Attempt, a)
	}
}

func (c *opscore) rejected(tk event.Task, reason string) {
	c.t.Helper()
	if a := c.ask(tk); a.Status != event.AnswerRejected || !strings.Contains(a.Reason, reason) {
		c.t.Fatalf("%s/%d: got %+v, want rejected with %q", tk.TaskID, tk.Attempt, a, reason)
	}
}

func (c *opscore) cancel(tk event.Task) string {
	c.t.Helper()
	req := event.Cancel{RunID: tk.RunID, TaskID: tk.TaskID, Attempt: tk.Attempt, Reason: "not needed"}
	return request[event.CancelAnswer](c, event.CancelSubject(c.token), &req).Status
}

func request[A any](c *opscore, subject string, body any) A {
	c.t.Helper()
	m, err := c.nc.Request(subject, event.MustMarshal(body), patience)
	must(c.t, err)
	var a A
	must(c.t, event.Unmarshal(m.Data, &a))
	return a
}

// process is a running agent.
type process struct {
	*agent.Agent
	stop context.CancelFunc
	done chan error
}

// start runs an agent, changed by edit, until the end of the test.
func (c *opscore) start(h agent.Handler, edit ...func(*agent.Config)) *process {
	c.t.Helper()
	cfg := agent.Config{
		URL: c.url, ID: c.id, Version: "1.0", Capabilities: []string{"work"}, Heartbeat: -1,
		Log:         slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		NATSOptions: []nats.Option{nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectJitter(0, 0)},
	}
	for _, e := range edit {
		e(&cfg)
	}
	a, err := agent.New(cfg, h)
	must(c.t, err)
	ctx, stop := context.WithCancel(context.Background())
	p := &process{Agent: a, stop: stop, done: make(chan error, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.done <- a.Run(ctx)
	}()
	c.t.Cleanup(func() {
		stop()
		<-ended
	})
	return p
}

// ready starts an agent and waits until it is idle.
func (c *opscore) ready(h agent.Handler, edit ...func(*agent.Config)) *process {
	c.t.Helper()
	p := c.start(h, edit...)
	wait(c.t, p.Ready())
	c.expectState(agent.StateIdle)
	return p
}

// expectState passes over registrations to the next state.
func (c *opscore) expectState(want string) {
	c.t.Helper()
	for {
		switch e := c.next().Event.(type) {
		case *event.State:
			if e.State != want {
				c.t.Fatalf("state %q, want %q", e.State, want)
			}
			return
		case *event.Register:
		default:
			c.t.Fatalf("got %T before the state %q", e, want)
		}
	}
}

// end waits for the end of Run.
func (p *process) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.done:
		return err
	case <-time.After(patience):
		t.Fatal("Run does not return")
		return nil
	}
}

func wait[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("waited too long")
		panic("unreachable")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func slots(n int) func(*agent.Config) { return func(c *agent.Config) { c.Slots = n } }

func drainTimeout(d time.Duration) func(*agent.Config) {
	return func(c *agent.Config) { c.DrainTimeout = d }
}

// echo returns its input.
func echo(_ context.Context, t *agent.Task) (any, error) {
	var in json.RawMessage
	return &in, t.Bind(&in)
}

// gate is a handler that waits for the test.
type gate struct {
	started chan *agent.Task
	release chan struct{}
	causes  chan error // why contexts ended, of handlers that were not released
}

func newGate() *gate {
	return &gate{make(chan *agent.Task, 16), make(chan struct{}), make(chan error, 16)}
}

func (g *gate) handle(ctx context.Context, t *agent.Task) (any, error) {
	g.started <- t
	select {
	case <-g.release:
		return map[string]int{"attempt": t.Attempt}, nil
	case <-ctx.Done():
		g.causes <- context.Cause(ctx)
		return nil, ctx.Err()
	}
}

func isState(m event.Message, want string) bool {
	s, ok := m.Event.(*event.State)
	return ok && s.State == want
}

func results(ms []event.Message) int {
	return len(slices.DeleteFunc(ms, func(m event.Message) bool { _, ok := m.Event.(*event.Result); return !ok }))
}

var errBoom = errors.New("boom")
