package bridge

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/singleflight"

	"github.com/opspawn/opscore/bus/event"
)

const (
	pushGroup   = "bridge" // the queue group that all replicas share
	maxPushes   = 10_000   // requests in hand at once, waiting ones included
	maxInHand   = 64 << 20 // bytes of them
	maxLookups  = 64       // registrations read at the same time
	pushTimeout = 14 * time.Second
	pushGrace   = 4 * time.Second // for what is in hand when the bridge stops

	briefly = 200 * time.Millisecond // until a bound that was reached is likely to be free again
)

// pusher hands the tasks of the workflow engine to agents that are reached by HTTP.
type pusher struct {
	b       *Bridge
	targets *targets
	offers  offers
	flights singleflight.Group // by attempt: a request that is repeated joins the one in flight
	lookups chan struct{}

	mu      sync.Mutex
	inHand  int
	bytes   int // of what is in hand
	closing bool
	idle    chan struct{} // closed when nothing is in hand and closing is set
}

func newPusher(b *Bridge) *pusher {
	return &pusher{b: b, targets: newTargets(), lookups: make(chan struct{}, maxLookups), idle: make(chan struct{})}
}

// run takes requests until ctx ends, and returns when none is in hand any more.
func (p *pusher) run(ctx context.Context) error {
	work, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	subs, err := p.subscribe(work)
	if err == nil {
		<-ctx.Done()
	}
	for _, s := range subs {
		_ = s.Drain() // the connection is closing otherwise
	}
	p.close()
	select {
	case <-p.idle:
	case <-time.After(pushGrace):
		abort()
		<-p.idle
	}
	p.targets.close()
	return err
}

func (p *pusher) subscribe(work context.Context) ([]*nats.Subscription, error) {
	nc := p.b.cfg.Bus.NC()
	var subs []*nats.Subscription
	for subject, serve := range map[string]func(context.Context, *nats.Msg) reply{
		event.SubjectPushAll:       p.push,
		event.SubjectPushCancelAll: p.cancel,
	} {
		sub, err := nc.QueueSubscribe(subject, pushGroup, func(m *nats.Msg) { p.take(work, m, serve) })
		if err != nil {
			return subs, fmt.Errorf("bridge: subscribe to %s: %w", subject, err)
		}
		subs = append(subs, sub)
	}
	sub, err := nc.Subscribe(event.SubjectPollAll, p.b.heardOfPoll)
	if err != nil {
		return subs, fmt.Errorf("bridge: subscribe to %s: %w", event.SubjectPollAll, err)
	}
	return append(subs, sub), nil
}

// take serves a request on a goroutine of its own: the next one must not wait for an agent.
func (p *pusher) take(work context.Context, m *nats.Msg, serve func(context.Context, *nats.Msg) reply) {
	if !p.begin(len(m.Data)) {
		if m.Subject == event.PushSubject(event.Key(m.Subject)) { // a cancel is asked again when it is not answered
			p.answer(m, rejected("the bridge takes no more tasks at the moment", briefly))
		}
		return
	}
	go func() {
		defer p.end(len(m.Data))
		limited, cancel := context.WithTimeout(work, pushTimeout)
		defer cancel()
		p.answer(m, serve(limited, m))
	}()
}

func (p *pusher) begin(size int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing || p.inHand >= maxPushes || p.bytes+size > maxInHand {
		return false
	}
	p.inHand++
	p.bytes += size
	return true
}

func (p *pusher) end(size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inHand--
	p.bytes -= size
	if p.closing && p.inHand == 0 {
		close(p.idle)
	}
}

func (p *pusher) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing = true
	if p.inHand == 0 {
		close(p.idle)
	}
}

func (p *pusher) answer(m *nats.Msg, r reply) {
	out := nats.NewMsg(m.Reply)
	switch {
	case m.Reply == "" || r.silent:
		return
	case r.nobody:
		out.Header.Set("Status", "503")
	default:
		out.Data = event.MustMarshal(r.body)
	}
	if err := p.b.cfg.Bus.NC().PublishMsg(out); err != nil {
		p.b.log.Debug("task request not answered", "subject", m.Subject, "err", err)
	}
}

// push delivers a task.
func (p *pusher) push(ctx context.Context, m *nats.Msg) reply {
	var task event.Task
	if err := decodeRequest(m, &task, func() event.AttemptRef { return task.Ref() }); err != nil {
		p.b.log.Warn("task request not understood", "subject", m.Subject, "err", err)
		return reply{silent: true}
	}
	agent, r := p.lookUp(ctx, m.Subject)
	if agent == nil {
		return r
	}
	ref := task.Ref()
	shared, _, _ := p.flights.Do(deliveryID("task", ref), func() (any, error) {
		return p.deliver(ctx, agent, &task, m), nil
	})
	r = shared.(reply)
	p.b.log.Debug("task pushed", "agent", agent.AgentID, "run_id", ref.RunID, "task_id", ref.TaskID, "attempt", ref.Attempt, "answer", r)
	return r
}

func (p *pusher) deliver(ctx context.Context, agent *event.Agent, task *event.Task, m *nats.Msg) reply {
	switch agent.Delivery {
	case event.DeliveryHTTP:
		return p.postTask(ctx, agent, task, m)
	case event.DeliveryAgentKit:
		return p.postAgentKit(ctx, agent, task, m)
	case event.DeliveryPoll:
		return p.offers.make(ctx, p.b, event.Key(m.Subject), m.Data)
	}
	return rejected("the agent is not reached by HTTP any more", time.Second)
}

// cancel tells an agent to stop an attempt. Only agents of their own protocol can be told.
func (p *pusher) cancel(ctx context.Context, m *nats.Msg) reply {
	var c event.Cancel
	attempt := func() event.AttemptRef { return event.AttemptRef{RunID: c.RunID, TaskID: c.TaskID, Attempt: c.Attempt} }
	if err := decodeRequest(m, &c, attempt); err != nil {
		p.b.log.Warn("cancel request not understood", "subject", m.Subject, "err", err)
		return reply{silent: true}
	}
	agent, r := p.lookUp(ctx, m.Subject)
	switch {
	case agent == nil && !r.nobody:
		return reply{silent: true} // a rejection would pass for a confirmation
	case agent == nil || agent.Delivery != event.DeliveryHTTP || agent.ContactEndpoint == "":
		return reply{nobody: true}
	}
	id := deliveryID("cancel", attempt())
	shared, _, _ := p.flights.Do(id, func() (any, error) { // the engine asks every second
		return judgeCancel(p.targets.post(ctx, p.signed(agent.ContactEndpoint, id, m, &envelope{Type: "cancel", Data: &c}))), nil
	})
	return shared.(reply)
}

// decodeRequest reads the body of a request and checks that the attempt it is about can be named: anybody on the bus may send one.
func decodeRequest(m *nats.Msg, v any, attempt func() event.AttemptRef) error {
	if err := event.Unmarshal(m.Data, v); err != nil {
		return err
	}
	ref := attempt()
	for _, id := range []string{ref.RunID, ref.TaskID} {
		if _, err := event.Token(id); err != nil {
			return err
		}
	}
	return nil
}

// lookUp reads the registration of the agent that a subject names. Without it, the reply is what to say.
func (p *pusher) lookUp(ctx context.Context, subject string) (*event.Agent, reply) {
	id, err := event.ParseToken(event.Key(subject))
	if err != nil {
		return nil, reply{nobody: true}
	}
	select {
	case p.lookups <- struct{}{}:
		defer func() { <-p.lookups }()
	case <-ctx.Done():
		return nil, rejected("the agent's registration was not read in time", time.Second)
	}
	agent, err := p.b.agent(ctx, id)
	switch {
	case err == nil:
		return agent, reply{}
	case refusedWith(err, event.CodeUnknownAgent):
		return nil, reply{nobody: true}
	}
	return nil, rejected("the agent's registration cannot be read", time.Second)
}

// postTask hands a task to an agent of delivery http.
func (p *pusher) postTask(ctx context.Context, agent *event.Agent, task *event.Task, m *nats.Msg) reply {
	if agent.ContactEndpoint == "" {
		return rejected("the agent is registered for delivery by HTTP without a contactEndpoint", noEndpointWait)
	}
	return judgeTask(p.targets.post(ctx, p.signed(agent.ContactEndpoint, deliveryID("task", task.Ref()), m, &envelope{Type: "task", Data: task})))
}

// noEndpointWait is how long an agent that cannot be reached at all is left alone.
const noEndpointWait = 30 * time.Second

// postAgentKit hands a task to an agent that knows nothing of Ops-Core's protocol, directly or through AgentKit.
func (p *pusher) postAgentKit(ctx context.Context, agent *event.Agent, task *event.Task, m *nats.Msg) reply {
	cfg := &p.b.cfg
	out := posting{url: agent.ContactEndpoint, header: plainHeader(m, cfg.Version), once: true}
	through := through(agent, cfg.AgentKitMode)
	switch {
	case cfg.AgentKitURL != "" && (through || out.url == ""):
		out.url = agentKitURL(cfg.AgentKitURL, agent.AgentID)
		out.body = agentKitBody(task, time.Now(), true)
		if cfg.AgentKitKey != "" {
			out.header.Set("Authorization", "Bearer "+cfg.AgentKitKey)
		}
	case through:
		return rejected("the agent is reached through AgentKit, and no AgentKit URL is set", noEndpointWait)
	case out.url == "":
		return rejected("the agent has no contactEndpoint, and no AgentKit URL is set", noEndpointWait)
	default:
		out.body = agentKitBody(task, time.Now(), false)
	}
	posted, err := p.targets.post(ctx, out)
	if posted != nil {
		posted.body = nil // any 2xx means accepted; these agents do not know the answers
	}
	return judgeTask(posted, err)
}

// signed makes the posting of an envelope: by Standard Webhooks, with one signature per secret. The agent knows a repeat by its id.
func (p *pusher) signed(url, id string, m *nats.Msg, e *envelope) posting {
	now := time.Now()
	e.Timestamp = now.UTC()
	out := posting{url: url, header: plainHeader(m, p.b.cfg.Version), body: event.MustMarshal(e)}
	// With the key, net/http itself repeats a request for which a connection turned out to be closed already.
	out.header.Set("Idempotency-Key", id)
	sign(out.header, id, now, out.body, p.b.pushSecrets)
	return out
}

// plainHeader is the header that every posting has.
func plainHeader(m *nats.Msg, version string) http.Header {
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"opscore/" + version}}
	for _, name := range []string{event.HeaderTraceparent, event.HeaderTracestate} {
		if v := m.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	return h
}
