package loadgen

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"github.com/opspawn/opscore/bus/event"
)

// usersPerConn is how many users share a connection to NATS: one takes about 100 KB, and it carries any number of requests at once.
const usersPerConn = 100

// spanStored is the time from the intended publishing of a state event to its commit, of every storedEvery-th event.
const (
	spanStored  = "state → stored"
	storedEvery = 50
)

// natsTransport publishes what users do, and waits for the acknowledgement of the stream. Starts of runs also wait for the outcome.
type natsTransport struct {
	conns []*natsConn
	next  atomic.Uint64
	spans func(user int, name string, d time.Duration)
}

// natsConn is a connection with an inbox for outcomes.
type natsConn struct {
	*nats.Conn

	prefix string // of the inbox, with a dot at its end
	sub    *nats.Subscription

	mu      sync.Mutex
	waiting map[string]func(*nats.Msg) // by the last token of the subject
}

// dialNATS opens one connection with the options that all of ours have: they outlive a restart of the server, and never send what
// the caller was told has failed.
func dialNATS(url string) (*nats.Conn, error) {
	nc, err := nats.Connect(url, nats.Name("loadgen"), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.ReconnectWait(100*time.Millisecond), nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond), nats.Timeout(dialTimeout))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

func newNATSTransport(url string, users int, spans func(int, string, time.Duration)) (*natsTransport, error) {
	t := &natsTransport{spans: spans}
	for range max(1, (users+usersPerConn-1)/usersPerConn) {
		c, err := newNATSConn(url)
		if err != nil {
			t.close()
			return nil, err
		}
		t.conns = append(t.conns, c)
	}
	return t, nil
}

func newNATSConn(url string) (*natsConn, error) {
	nc, err := dialNATS(url)
	if err != nil {
		return nil, err
	}
	c := &natsConn{Conn: nc, prefix: nats.NewInbox() + ".", waiting: make(map[string]func(*nats.Msg))}
	if c.sub, err = nc.Subscribe(c.prefix+"*", c.deliver); err != nil {
		nc.Close()
		return nil, fmt.Errorf("subscribe to outcomes: %w", err)
	}
	return c, nil
}

// deliver hands an outcome to who waits for it.
func (c *natsConn) deliver(m *nats.Msg) {
	token := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	c.mu.Lock()
	got := c.waiting[token]
	delete(c.waiting, token)
	c.mu.Unlock()
	if got != nil {
		got(m)
	}
}

// expect makes an inbox for one outcome. The returned function gives it up.
func (c *natsConn) expect(got func(*nats.Msg)) (subject string, forget func()) {
	token := nuid.Next()
	c.mu.Lock()
	c.waiting[token] = got
	c.mu.Unlock()
	return c.prefix + token, func() {
		c.mu.Lock()
		delete(c.waiting, token)
		c.mu.Unlock()
	}
}

func (t *natsTransport) close() {
	for _, c := range t.conns {
		c.Close()
	}
}

func (*natsTransport) newRunID() string { return uuid.NewString() }

func (*natsTransport) operation(op Op) string {
	switch op {
	case OpRegister:
		return "PUB register"
	case OpDeregister:
		return "PUB deregister"
	case OpPostState:
		return "PUB state"
	case OpGetState, OpAwaitState:
		return "ASK state"
	case OpTrigger, OpStartRun:
		return "CALL run"
	}
	return string(op)
}

func (t *natsTransport) session() session {
	n := t.next.Add(1)
	return &natsSession{transport: t, user: int(n), conn: t.conns[n%uint64(len(t.conns))]}
}

// natsSession is one user's.
type natsSession struct {
	transport *natsTransport
	user      int
	conn      *natsConn
	states    int
}

// drop does nothing: the connection is shared.
func (*natsSession) drop() {}

func (s *natsSession) do(ctx context.Context, a *action) reply {
	token, err := event.Token(a.agent)
	if err != nil {
		return reply{failed: failuref(ClassOther, "%v", err)}
	}
	switch a.step.Op {
	case OpRegister:
		return s.publish(ctx, a, event.AgentSubject(event.VerbRegister, token), &event.Register{
			AgentName: agentName(a.agent), Version: "1.0", Capabilities: a.scenario.capabilities(), Metadata: event.MustMarshal(a.metadata()),
		})
	case OpDeregister:
		return s.publish(ctx, a, event.AgentSubject(event.VerbDeregister, token), &event.Deregister{Reason: "load test"})
	case OpPostState:
		return s.publish(ctx, a, event.AgentSubject(event.VerbState, token), &event.State{
			State: a.state, Timestamp: pythonTime(time.Now()), Details: event.MustMarshal(a.details()),
		})
	case OpGetState, OpAwaitState:
		return s.conn.ask(ctx, event.APISubject("agent", "get"), map[string]string{"id": a.agent})
	}
	return s.start(ctx, a)
}

// ack is the answer of a stream.
type ack struct {
	Stream string `json:"stream"`
	Seq    uint64 `json:"seq"`
	Error  *struct {
		Code        int    `json:"code"`
		Description string `json:"description"`
	} `json:"error"`
}

// publish sends an event and waits until the stream has it.
func (s *natsSession) publish(ctx context.Context, a *action, subject string, body any) reply {
	m := message(subject, a.request, body)
	if a.step.Op == OpPostState {
		if s.states++; s.states%storedEvery == 1 {
			s.watchStored(m, a.intended)
		}
	}
	return s.conn.store(ctx, m)
}

// watchStored measures when the outcome of an event comes, without waiting for it.
func (s *natsSession) watchStored(m *nats.Msg, intended time.Time) {
	inbox, forget := s.conn.expect(func(m *nats.Msg) {
		var o event.Outcome
		if event.Unmarshal(m.Data, &o) == nil && o.OK {
			s.transport.spans(s.user, spanStored, time.Since(intended))
		}
	})
	m.Header.Set(event.HeaderReply, inbox)
	time.AfterFunc(requestTimeout, forget)
}

func message(subject, request string, body any) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Header.Set(event.HeaderRequest, request)
	m.Data = event.MustMarshal(body)
	return m
}

// store publishes a message and waits until its stream has it.
func (c *natsConn) store(ctx context.Context, m *nats.Msg) reply {
	answer, err := c.RequestMsgWithContext(ctx, m)
	if err != nil {
		return reply{failed: classify(err)}
	}
	out := reply{bytes: len(answer.Data)}
	var stored ack
	switch err := event.Unmarshal(answer.Data, &stored); {
	case err != nil:
		out.failed = failuref(ClassContent, "the answer to a publish is not an acknowledgement: %v", err)
	case stored.Error != nil:
		out.failed = failuref(fmt.Sprint(stored.Error.Code), "%s", stored.Error.Description)
		out.refused = true
	default:
		out.position = Position{Stream: stored.Stream, Seq: stored.Seq}
	}
	return out
}

// ask makes a query.
func (c *natsConn) ask(ctx context.Context, subject string, body any) reply {
	answer, err := c.RequestMsgWithContext(ctx, message(subject, "", body))
	if err != nil {
		return reply{failed: classify(err)}
	}
	out := reply{bytes: len(answer.Data)}
	if code := answer.Header.Get(micro.ErrorCodeHeader); code != "" {
		out.failed, out.refused = failuref(code, "%s", answer.Header.Get(micro.ErrorHeader)), true
		out.status = statusOf(event.Code(code))
	}
	return out
}

// statusOf returns the HTTP status that stands for a refusal, for rules that were made for HTTP; 0 for most.
func statusOf(code event.Code) int {
	if code == event.CodeUnknownAgent {
		return 404
	}
	return 0
}

// start starts a run and waits for its outcome.
func (s *natsSession) start(ctx context.Context, a *action) reply {
	body := &event.RunStart{Input: event.MustMarshal(a.input())}
	if a.step.Inline {
		body.Definition = event.MustMarshal(a.scenario.Definition)
	} else {
		body.WorkflowID = a.step.Workflow
	}
	if a.step.Op == OpTrigger {
		body.AgentID, body.Legacy = a.agent, true
	}
	return s.conn.command(ctx, message(event.CommandSubject(event.KindRunStart, a.run), a.request, body))
}

// command publishes a command and waits for its outcome.
func (c *natsConn) command(ctx context.Context, m *nats.Msg) reply {
	outcomes := make(chan *nats.Msg, 1)
	inbox, forget := c.expect(func(m *nats.Msg) { outcomes <- m })
	defer forget()
	m.Header.Set(event.HeaderReply, inbox)
	out := c.store(ctx, m)
	if out.failed != nil {
		return out
	}
	select {
	case m := <-outcomes:
		out.bytes += len(m.Data)
		var o event.Outcome
		if err := event.Unmarshal(m.Data, &o); err != nil {
			out.failed = failuref(ClassContent, "the outcome cannot be read: %v", err)
		} else if o.Error != nil {
			out.failed, out.refused = failuref(string(o.Error.Code), "%s", o.Error.Message), o.Error.Code != event.CodeUnavailable
		}
	case <-ctx.Done():
		out.failed = failuref(ClassTimeout, "stored as %s/%d, and no outcome came: %v", out.position.Stream, out.position.Seq, ctx.Err())
	}
	return out
}

// applyNATS stores a definition.
func applyNATS(ctx context.Context, c *natsConn, definition map[string]any) error {
	id, _ := definition["id"].(string)
	token, err := event.Token(id)
	if err != nil {
		return err
	}
	body, err := event.Marshal(definition)
	if err != nil {
		return fmt.Errorf("encode the definition: %w", err)
	}
	m := message(event.CommandSubject(event.KindWorkflowApply, token), "", event.Raw(body))
	if out := c.command(ctx, m); out.failed != nil {
		return errors.New(out.failed.detail)
	}
	return nil
}
