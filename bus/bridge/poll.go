package bridge

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

const (
	maxPolls     = 8192                   // requests for a task that wait at the same time
	maxTaken     = 16                     // task requests that come to one of them at once
	shortestPoll = 250 * time.Millisecond // what is offered, or given to an agent because it asks, needs a moment to come
	firstReopen  = 1500 * time.Millisecond
	reopenEvery  = 10 * time.Second
	reopenWithin = time.Second            // less than takeTimeout: meanwhile a task may have come
	oustedPause  = holdFor / 2            // less than an offer is held: what comes meanwhile is for the next poll
	leaveWithin  = 200 * time.Millisecond // until the server has heard that nobody listens
)

// pollInput is a request for a task.
type pollInput struct {
	ID       string `path:"id" doc:"Id of the agent"`
	Wait     int    `query:"wait" minimum:"0" maximum:"60" default:"30" doc:"Seconds to wait for a task; a quarter of one at least"`
	Instance string `query:"instance" maxLength:"255" doc:"The process that asks, as registered"`
}

// isPoll reports whether a request waits for a task.
func isPoll(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, apiRoot+"/agents/") && strings.HasSuffix(r.URL.Path, "/tasks")
}

// polls are the requests for tasks that wait here. The zero value is ready for use. What bounds them is maxPolls.
type polls struct {
	mu   sync.Mutex
	open map[string]map[string]*poll // by agent token and process: one has one request at a time
}

// poll is a request that waits.
type poll struct {
	ended  chan struct{} // closed when it shall wait no longer
	ousted bool          // because a newer one has taken its place; read it by [polls.ousted]
}

// begin notes a request that waits, and ends an older one.
func (p *polls) begin(token, instance string) *poll {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(token, instance, true)
	if p.open == nil {
		p.open = make(map[string]map[string]*poll)
	}
	if p.open[token] == nil {
		p.open[token] = make(map[string]*poll, 1)
	}
	w := &poll{ended: make(chan struct{})}
	p.open[token][instance] = w
	return w
}

// end ends the request of a process, if there is one. p.mu is held.
func (p *polls) end(token, instance string, ousted bool) {
	if w := p.open[token][instance]; w != nil {
		w.ousted = ousted
		close(w.ended)
		p.remove(token, instance)
	}
}

func (p *polls) remove(token, instance string) {
	if delete(p.open[token], instance); len(p.open[token]) == 0 {
		delete(p.open, token)
	}
}

// oust ends the request of a process that has made a newer one elsewhere.
func (p *polls) oust(token, instance string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(token, instance, true)
}

// dismiss ends the requests that a process may have made: those that name no process may be its own, and so may all be when it does not say which one it is.
func (p *polls) dismiss(token, instance string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for other := range p.open[token] {
		if other == instance || other == "" || instance == "" {
			p.end(token, other, false)
		}
	}
}

// ousted reports whether a newer request has taken the place of one.
func (p *polls) ousted(w *poll) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return w.ousted
}

// done forgets a request that has ended, unless a newer one has its place.
func (p *polls) done(token, instance string, w *poll) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[token][instance] == w {
		p.remove(token, instance)
	}
}

// heardOfPoll makes the offers to an agent that has begun to ask again, and ends requests that it has abandoned here.
func (b *Bridge) heardOfPoll(m *nats.Msg) {
	var hint event.Poll
	if event.Unmarshal(m.Data, &hint) != nil {
		return
	}
	token := event.Key(m.Subject)
	elsewhere := hint.From != b.name
	if hint.Gone {
		if elsewhere {
			b.polls.dismiss(token, hint.Instance)
		}
		return
	}
	if elsewhere {
		b.polls.oust(token, hint.Instance)
	}
	b.pushes.offers.wake(token)
}

// endPolls ends the requests for tasks that a process of an agent has left open, at whatever replica, when it begins anew or goes: they would take tasks
// that nobody reads, and say idle for an agent that has just said offline.
func (b *Bridge) endPolls(said *event.Message) {
	instance := ""
	switch ev := said.Event.(type) {
	case *event.Register:
		instance = ev.Instance
	case *event.State:
		if !strings.EqualFold(ev.State, "offline") && !strings.EqualFold(ev.State, "draining") {
			return
		}
		instance = ev.Instance
	case *event.Deregister:
	default:
		return
	}
	token := event.MustToken(said.ID)
	b.polls.dismiss(token, instance)
	_ = b.cfg.Bus.NC().Publish(event.PollSubject(token), event.MustMarshal(&event.Poll{From: b.name, Instance: instance, Gone: true})) // a hint
}

// pollTask waits for a task and hands it over.
func (b *Bridge) pollTask(ctx context.Context, in *pollInput) (*huma.StreamResponse, error) {
	token, err := event.Token(in.ID)
	if err != nil {
		return nil, err
	}
	agent, err := b.agent(ctx, in.ID)
	switch {
	case err != nil:
		return nil, err
	case agent.Delivery != event.DeliveryPoll:
		return nil, event.Errorf(event.CodeNotAllowedNow, "the agent is registered for delivery %q, not for %q", agent.Delivery, event.DeliveryPoll)
	case !b.cfg.Bus.Connected():
		return nil, errBusDown
	}
	w := &pollWait{b: b, id: in.ID, token: token, instance: in.Instance, agent: agent}
	w.limit = max(time.Duration(in.Wait)*time.Second, shortestPoll)
	return &huma.StreamResponse{Body: w.serve}, nil
}

// pollWait is one request that waits for a task.
type pollWait struct {
	b                   *Bridge
	id, token, instance string
	limit               time.Duration
	agent               *event.Agent // as it was when the request came
	poll                *poll
}

// serve answers the request: with a task, or that there is none.
func (w *pollWait) serve(hc huma.Context) {
	if hc.Method() != http.MethodHead && w.wait(hc) {
		return
	}
	if w.poll != nil && w.b.polls.ousted(w.poll) {
		w.pause(hc.Context())
	}
	hc.SetStatus(http.StatusNoContent)
}

// pause holds back the answer to a request that a newer one has ended. Mostly nobody reads it any more; but two processes that ask under one name would
// end each other's requests as fast as they can send them.
func (w *pollWait) pause(ctx context.Context) {
	over := time.NewTimer(oustedPause)
	defer over.Stop()
	select {
	case <-over.C:
	case <-w.b.draining:
	case <-ctx.Done():
	}
}

// wait reports whether a task came, which has then been written.
func (w *pollWait) wait(hc huma.Context) bool {
	ctx, b := hc.Context(), w.b
	w.poll = b.polls.begin(w.token, w.instance)
	defer b.polls.done(w.token, w.instance, w.poll)
	nc, tasks := b.cfg.Bus.NC(), make(chan *nats.Msg, maxTaken)
	sub, err := nc.ChanSubscribe(event.TaskSubject(w.token), tasks)
	if err != nil {
		b.log.Debug("an agent that waits for a task cannot get one", "agent", w.id, "err", err)
		return false
	}
	defer w.leave(sub, tasks)
	// The subscription stands before anybody hears of it: messages of a connection keep their order.
	_ = nc.Publish(event.PollSubject(w.token), event.MustMarshal(&event.Poll{From: b.name, Instance: w.instance})) // a hint
	w.reopen(ctx)
	over := time.NewTimer(w.limit)
	defer over.Stop()
	look := time.NewTimer(firstReopen)
	defer look.Stop()
	for {
		select {
		case m := <-tasks:
			if w.isMine(m) {
				w.hand(hc, m)
				return true
			}
		case <-look.C:
			look.Reset(reopenEvery)
			if w.agent, err = b.agent(ctx, w.id); err != nil {
				continue
			}
			if w.agent.Delivery != event.DeliveryPoll {
				return false
			}
			w.reopen(ctx)
		case <-over.C:
			return false
		case <-w.poll.ended:
			return false
		case <-b.draining:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// leave tells those whose requests came too late that nobody is here, so that they may offer their tasks again: those that wait, and those that the server
// had sent before it heard that nobody listens any more.
func (w *pollWait) leave(sub *nats.Subscription, tasks chan *nats.Msg) {
	closed := sub.StatusChanged(nats.SubscriptionClosed)
	if sub.Drain() != nil {
		_ = sub.Unsubscribe() // the connection is closed otherwise
	}
	over := time.NewTimer(leaveWithin)
	defer over.Stop()
	for open := true; open; {
		select {
		case m := <-tasks:
			w.decline(m)
		case <-closed:
			open = false
		case <-over.C:
			_ = sub.Unsubscribe()
			open = false
		}
	}
	for {
		select {
		case m := <-tasks:
			w.decline(m)
		default:
			return
		}
	}
}

// decline says that nobody is here to take a task, unless another request of the agent may be taking it at this moment.
func (w *pollWait) decline(m *nats.Msg) {
	if w.isMine(m) && !w.b.polls.ousted(w.poll) {
		w.b.pushes.answer(m, reply{nobody: true})
	}
}

// reopen says idle for an agent that asks for work and is kept out of rotation: that it asks is a sign of life. It says nothing for an agent
// that has no room for another task, or that somebody wants to be left alone.
func (w *pollWait) reopen(ctx context.Context) {
	if a := w.agent; a.Available || a.Cordoned || len(a.Held) >= a.Slots {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reopenWithin)
	defer cancel()
	if err := w.b.report(ctx, event.VerbState, w.id, &event.State{State: "idle", Instance: w.instance}); err != nil {
		w.b.log.Debug("an agent that waits for a task stays out of rotation", "agent", w.id, "err", err)
	}
}

// isMine reports whether a task may be done by the process that asks; any other process ignores it without an answer.
func (w *pollWait) isMine(m *nats.Msg) bool {
	var task event.Task
	return event.Unmarshal(m.Data, &task) == nil && (task.Instance == "" || w.instance == "" || task.Instance == w.instance)
}

// hand writes a task to the agent and accepts it once it is written. When that failed the agent may have got all of it or nothing, so nothing is said
// and the same attempt is asked for again.
func (w *pollWait) hand(hc huma.Context, m *nats.Msg) {
	if hc.Context().Err() != nil {
		w.decline(m) // it has gone, and has got nothing
		return
	}
	hc.SetHeader("Content-Type", "application/json")
	hc.SetHeader("Content-Length", strconv.Itoa(len(m.Data)))
	hc.SetStatus(http.StatusOK)
	out := hc.BodyWriter()
	_, err := out.Write(m.Data)
	if writer, ok := out.(http.ResponseWriter); ok && err == nil {
		err = http.NewResponseController(writer).Flush()
	}
	if err != nil {
		w.b.log.Debug("a task was not handed over", "agent", w.id, "err", err)
		return
	}
	w.b.pushes.answer(m, accepted())
}
