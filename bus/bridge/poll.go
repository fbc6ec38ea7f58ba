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
	reopenWithin = time.Second // less than takeTimeout: meanwhile a task may have come
	oustedPause  = holdFor / 2 // less than an offer is held: what comes meanwhile is for the next poll
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

// polls are the agents that wait here for a task. The zero value is ready for use. What bounds them is maxPolls.
type polls struct {
	mu   sync.Mutex
	open map[pollKey]chan struct{} // closed when a newer one has taken its place
}

// pollKey names who waits: a process has one request at a time.
type pollKey struct{ token, instance string }

// begin notes a request that waits, and ends an older one.
func (p *polls) begin(k pollKey) (ended chan struct{}) {
	p.end(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = make(map[pollKey]chan struct{})
	}
	ended = make(chan struct{})
	p.open[k] = ended
	return ended
}

// end ends the request that waits, if any.
func (p *polls) end(k pollKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ended, ok := p.open[k]; ok {
		delete(p.open, k)
		close(ended)
	}
}

// current reports whether no newer request has taken the place of one.
func (p *polls) current(k pollKey, ended chan struct{}) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[k] == ended
}

// done forgets a request that has ended, unless a newer one has its place.
func (p *polls) done(k pollKey, ended chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[k] == ended {
		delete(p.open, k)
	}
}

// heardOfPoll makes the offers to an agent that has begun to ask again, and ends an older request that it has abandoned here.
func (b *Bridge) heardOfPoll(m *nats.Msg) {
	var hint event.Poll
	if event.Unmarshal(m.Data, &hint) != nil {
		return
	}
	token := event.Key(m.Subject)
	b.pushes.offers.wake(token)
	if hint.From != b.name {
		b.polls.end(pollKey{token, hint.Instance})
	}
}

// endPoll ends the request for a task that a process of an agent has left open, at whatever replica, because it now says something else of itself: it
// registers, or says how it is. Such a request would take tasks that nobody reads, and say idle for an agent that has just said that it goes.
func (b *Bridge) endPoll(id, instance string) {
	token, err := event.Token(id)
	if err != nil || !b.cfg.Bus.Connected() {
		return
	}
	b.polls.end(pollKey{token, instance})
	_ = b.cfg.Bus.NC().Publish(event.PollSubject(token), event.MustMarshal(&event.Poll{From: b.name, Instance: instance})) // a hint
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
	agent               *event.Agent  // as it was when the request came
	ended               chan struct{} // closed when a newer one has taken its place
	ousted              bool          // a newer one has taken its place
}

// serve answers the request: with a task, or that there is none.
func (w *pollWait) serve(hc huma.Context) {
	if hc.Method() != http.MethodHead && w.wait(hc) {
		return
	}
	if w.ousted {
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
	ctx, b, key := hc.Context(), w.b, pollKey{w.token, w.instance}
	ended := b.polls.begin(key)
	w.ended = ended
	defer b.polls.done(key, ended)
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
		case <-ended:
			w.ousted = true
			return false
		case <-b.draining:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// leave tells those whose requests came too late that nobody is here, so that they may offer their tasks again.
func (w *pollWait) leave(sub *nats.Subscription, tasks chan *nats.Msg) {
	_ = sub.Unsubscribe() // the connection is closed otherwise
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
	if w.isMine(m) && w.b.polls.current(pollKey{w.token, w.instance}, w.ended) {
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
