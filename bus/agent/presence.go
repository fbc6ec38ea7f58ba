package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"github.com/opspawn/opscore/bus/event"
)

// The states the SDK reports by itself.
const (
	StateIdle     = "idle"     // serving; said when tasks can be taken
	StateDraining = "draining" // stopping, handlers may still run
	StateOffline  = "offline"  // stopped
)

const (
	outcomeWait  = 3 * time.Second        // for Ops-Core's answer to a registration; the stream's acknowledgement is what counts
	rejoinJitter = 500 * time.Millisecond // so that a fleet does not come back in one instant
	doubtEvery   = 30 * time.Second
	beatJitter   = 0.1
)

// How many states an agent reports: more are as good as none to those who read them, and each is written to a disk.
const (
	statesPerSecond = 20
	statesAtOnce    = 20
)

// verbBeat stands in the reply subjects of heartbeats, which are answered only when they are refused.
const verbBeat event.Verb = "heartbeat"

// presence is what Ops-Core knows of this process: its registration, its state and its heartbeats.
type presence struct {
	cfg      *Config
	token    string
	instance string
	nc       *nats.Conn
	out      *outbox
	inbox    string        // for outcomes
	leave    func(error)   // ends the session when Ops-Core has refused it
	back     chan struct{} // the connection is up again
	unknown  chan struct{} // Ops-Core does not know this agent
	doubt    chan struct{} // another process may have taken over

	// stating is held while a state is reported, so that states reach the stream in the order they were set.
	stating chan struct{}
	state   event.State // the last one, guarded by stating
	parting bool        // only the session may report states now; guarded by stating
	stored  uint64      // number of the wish that a stream has; guarded by stating
	pace    *rate.Limiter

	mu      sync.Mutex
	waiting map[string]chan event.Outcome // by the last token of the reply subject
	last    uint64
	wishes  []*wish // states that somebody waits to report, the newest last
	wished  uint64
}

// wish is a state that somebody wants to be reported, and waits.
type wish struct {
	number uint64 // in the order they were set
	state  event.State
}

// newPresence subscribes to outcomes; the caller ends the subscription.
func newPresence(cfg *Config, token, instance string, nc *nats.Conn, out *outbox, leave func(error)) (*presence, *nats.Subscription, error) {
	p := &presence{
		cfg: cfg, token: token, instance: instance, nc: nc, out: out, leave: leave,
		inbox:   nc.NewInbox() + ".",
		back:    make(chan struct{}, 1),
		unknown: make(chan struct{}, 1),
		pace:    rate.NewLimiter(statesPerSecond, statesAtOnce),
		doubt:   make(chan struct{}, 1),
		stating: make(chan struct{}, 1),
		waiting: map[string]chan event.Outcome{},
	}
	sub, err := nc.Subscribe(p.inbox+"*", p.judged)
	return p, sub, err
}

// run keeps the registration true until ctx ends: it registers again after a reconnect, since the server may have lost what
// it knew, and finds out whether another process has taken over when there are signs of it.
func (p *presence) run(ctx context.Context) {
	var lastDoubt, lastRejoin time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.back:
			if pause(ctx, rand.N(rejoinJitter)) == nil {
				p.rejoin(ctx)
			}
		case <-p.unknown:
			if time.Since(lastRejoin) >= doubtEvery {
				lastRejoin = time.Now()
				p.rejoin(ctx)
			}
		case <-p.doubt:
			if time.Since(lastDoubt) >= doubtEvery {
				lastDoubt = time.Now()
				p.restate(ctx)
			}
		}
	}
}

// rejoin says again what Ops-Core may have missed. The state comes first: if another process has taken over, it is refused
// without harm, whereas a registration would take the id back and the two would fight for it.
func (p *presence) rejoin(ctx context.Context) {
	known := p.restate(ctx)
	if err := p.register(ctx); err != nil {
		if ctx.Err() == nil {
			p.leave(err)
		}
		return
	}
	if !known {
		p.restate(ctx)
	}
	if ctx.Err() == nil {
		p.cfg.Log.Info("registered again", "instance", p.instance)
	}
}

// register publishes the registration until a stream has it, and again while Ops-Core says it cannot judge it now. It returns
// an error if it was refused or ctx ended. A refusal that comes after outcomeWait still ends the session.
func (p *presence) register(ctx context.Context) error {
	body := event.MustMarshal(p.cfg.register(p.instance))
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		reply, inbox := p.expect(event.VerbRegister)
		err := p.out.send(ctx, p.message(event.VerbRegister, body, inbox))
		if err != nil {
			return fmt.Errorf("agent %s: register: %w", p.cfg.ID, err)
		}
		outcome, err := await(ctx, reply)
		if err != nil {
			return fmt.Errorf("agent %s: register: %w", p.cfg.ID, err)
		}
		if outcome == nil || outcome.OK || outcome.Error == nil {
			return nil
		}
		if refused := refusal(event.VerbRegister, outcome.Error); refused != nil {
			return fmt.Errorf("agent %s: the registration was refused: %w", p.cfg.ID, refused)
		}
		p.cfg.Log.Warn("registration not judged yet, repeating it", keyErr, outcome.Error)
		if err := pause(ctx, wait/2+rand.N(wait/2)); err != nil {
			return fmt.Errorf("agent %s: register: %w", p.cfg.ID, err)
		}
	}
}

// setState reports a state and remembers it for reconnects. It returns when a stream has it or one that was set later, or with the cause of ctx. After
// the first parting state, all others are refused with ErrNotRunning.
//
// Whose turn it is reports the newest state that anybody waits to report, so that of states that are set faster than they may be reported the last one
// counts, and one whose caller gives up takes none with it that was set before.
func (p *presence) setState(ctx context.Context, state string, details event.Raw, parting bool) error {
	w := &wish{state: event.State{State: state, Details: details, Instance: p.instance}}
	if !parting {
		p.enter(w)
		defer p.withdraw(w)
	}
	select {
	case p.stating <- struct{}{}:
		defer func() { <-p.stating }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if p.parting && !parting {
		return ErrNotRunning
	}
	if !parting {
		if p.stored >= w.number {
			return nil
		}
		if err := pause(ctx, p.pace.Reserve().Delay()); err != nil {
			return err
		}
		w = p.newest()
	}
	p.parting = parting
	p.state = w.state
	_, reply := p.expect(event.VerbState)
	err := p.out.send(ctx, p.message(event.VerbState, p.stateBody(), reply))
	if err == nil {
		p.stored = max(p.stored, w.number)
	}
	return err
}

// enter puts a wish behind all others.
func (p *presence) enter(w *wish) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wished++
	w.number = p.wished
	p.wishes = append(p.wishes, w)
}

// withdraw takes a wish out: it came true, or nobody waits for it any more.
func (p *presence) withdraw(w *wish) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.wishes, w)
	p.wishes = slices.Delete(p.wishes, i, i+1)
}

// newest returns the newest wish. There is one: the caller's.
func (p *presence) newest() *wish {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wishes[len(p.wishes)-1]
}

// restate reports the last state again and returns whether Ops-Core has said that it knows this process.
func (p *presence) restate(ctx context.Context) (known bool) {
	outcome, err := p.resend(ctx)
	if err != nil {
		return false
	}
	o, err := await(ctx, outcome)
	return err == nil && o != nil && o.OK && !o.Held
}

// resend publishes the last state once more; stating is not held while its outcome is waited for.
func (p *presence) resend(ctx context.Context) (<-chan event.Outcome, error) {
	select {
	case p.stating <- struct{}{}:
		defer func() { <-p.stating }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	outcome, reply := p.expect(event.VerbState)
	return outcome, p.out.send(ctx, p.message(event.VerbState, p.stateBody(), reply))
}

// stateBody stamps the last state with the agent's clock, which people read and nothing is ordered by.
func (p *presence) stateBody() []byte {
	s := p.state
	s.Timestamp = time.Now().UTC().Format(time.RFC3339Nano)
	return event.MustMarshal(&s)
}

// deregister removes the registration.
func (p *presence) deregister(ctx context.Context) error {
	body := event.MustMarshal(&event.Deregister{Reason: "stopped", Instance: p.instance})
	return p.out.send(ctx, p.message(event.VerbDeregister, body, ""))
}

// await waits a little for an outcome, which is nil if none came.
func await(ctx context.Context, outcome <-chan event.Outcome) (*event.Outcome, error) {
	timer := time.NewTimer(outcomeWait)
	defer timer.Stop()
	select {
	case o := <-outcome:
		return &o, nil
	case <-timer.C:
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *presence) message(verb event.Verb, body []byte, reply string) *message {
	m := &message{subject: event.AgentSubject(verb, p.token), body: body}
	if reply != "" && event.HonoursReply(reply) {
		m.header = nats.Header{event.HeaderReply: {reply}}
	}
	return m
}

// expect prepares for the outcome of one message. Only the latest of each verb is waited for; a late outcome still gets judged.
func (p *presence) expect(verb event.Verb) (outcome <-chan event.Outcome, reply string) {
	ch := make(chan event.Outcome, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	key := fmt.Sprintf("%s-%d", verb, p.last)
	for old := range p.waiting {
		if strings.HasPrefix(old, string(verb)+"-") {
			delete(p.waiting, old)
		}
	}
	p.waiting[key] = ch
	return ch, p.inbox + key
}

// judged takes in an outcome: it ends the session if the process was refused, and wakes whoever waits for it.
func (p *presence) judged(m *nats.Msg) {
	if len(m.Data) == 0 { // from the NATS server: nobody listens to heartbeats
		return
	}
	var outcome event.Outcome
	if err := event.Unmarshal(m.Data, &outcome); err != nil {
		p.cfg.Log.Warn("unreadable outcome", keyErr, err)
		return
	}
	key := m.Subject[len(p.inbox):]
	verb, _, _ := strings.Cut(key, "-")
	if !outcome.OK && outcome.Error != nil {
		p.cfg.Log.Warn("refused by Ops-Core", "verb", verb, keyErr, outcome.Error)
		if event.Verb(verb) == verbBeat {
			p.beatRefused(outcome.Error)
			return
		}
		if err := refusal(event.Verb(verb), outcome.Error); err != nil {
			p.leave(fmt.Errorf("agent %s: the %s was refused: %w", p.cfg.ID, nounOf[event.Verb(verb)], err))
		}
	}
	p.mu.Lock()
	ch := p.waiting[key]
	delete(p.waiting, key)
	p.mu.Unlock()
	if ch != nil {
		ch <- outcome
	}
}

// beatRefused follows from a refused heartbeat: who is not known registers again, and who may have been replaced asks.
func (p *presence) beatRefused(err *event.Error) {
	switch err.Code {
	case event.CodeUnknownAgent:
		poke(p.unknown)
	case event.CodeStaleInstance:
		p.suspect()
	}
}

var nounOf = map[event.Verb]string{event.VerbRegister: "registration", event.VerbState: "state"}

// refusal returns the error a session ends with after an outcome, or nil if it can go on: what Ops-Core cannot judge now it
// may take later, and a refused state leaves the registration as it was.
func refusal(verb event.Verb, err *event.Error) error {
	if err.Code == event.CodeStaleInstance {
		return fmt.Errorf("%w: %w", ErrReplaced, err)
	}
	if verb != event.VerbRegister {
		return nil
	}
	switch err.Code {
	case event.CodeMalformed, event.CodeInvalid, event.CodeTooLarge, event.CodeForbidden, event.CodeConflict:
		return err
	}
	return nil
}

// reconnected notes that the connection is up again.
func (p *presence) reconnected() { poke(p.back) }

// suspect notes a sign that another process has taken over. Only Ops-Core's answer to a state decides it.
func (p *presence) suspect() { poke(p.doubt) }

// poke wakes whoever reads a channel of capacity 1.
func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// beat sends heartbeats until ctx ends, the first after a random part of the interval.
func (p *presence) beat(ctx context.Context, load func() float64) {
	subject, reply := event.HeartbeatSubject(p.token), p.inbox+string(verbBeat)
	if !event.HonoursReply(reply) {
		reply = ""
	}
	wait := rand.N(p.cfg.Heartbeat)
	for pause(ctx, wait) == nil {
		busy := load()
		body := event.MustMarshal(&event.Heartbeat{Instance: p.instance, Load: &busy})
		if err := p.nc.PublishRequest(subject, reply, body); err != nil && !errors.Is(err, nats.ErrReconnectBufExceeded) {
			p.cfg.Log.Debug("heartbeat not sent", keyErr, err)
		}
		wait = time.Duration(float64(p.cfg.Heartbeat) * (1 - beatJitter*rand.Float64()))
	}
}

// pause waits, or returns the cause when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// The keys of log lines.
const (
	keyAgent   = "agent"
	keyRun     = "run_id"
	keyTask    = "task_id"
	keyAttempt = "attempt"
	keyErr     = "err"
)

func refAttrs(ref event.AttemptRef) slog.Attr {
	return slog.GroupAttrs("", slog.String(keyRun, ref.RunID), slog.String(keyTask, ref.TaskID), slog.Int(keyAttempt, ref.Attempt))
}
