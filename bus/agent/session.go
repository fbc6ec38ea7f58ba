package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

const (
	farewell    = 2 * time.Second // for draining, offline and the like: Ops-Core finds out without them, only later
	requestsMax = 256             // requests on their way to serve, beyond one per slot
)

// session is an agent that is connected.
type session struct {
	*Agent

	nc       *nats.Conn
	out      *outbox
	presence *presence
	attempts *attempts
	requests chan *nats.Msg // of tasks and of cancels, in one channel: a cancel must not overtake its task
	subs     []*nats.Subscription
}

// run has three parts that end one after the other: taking tasks ends with live, working ends with work, and the services
// live until everything was reported or the drain time is over.
func (s *session) run(ctx context.Context) error {
	status := s.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer s.nc.RemoveStatusListener(status)
	beyond := context.WithoutCancel(ctx)
	service, stopServices := context.WithCancel(beyond)
	var services sync.WaitGroup
	defer services.Wait()
	defer stopServices()
	work, interrupt := context.WithCancelCause(beyond)
	defer interrupt(nil)
	live, stopTaking := context.WithCancelCause(ctx)
	defer stopTaking(nil)
	refused, refuse := context.WithCancelCause(beyond)
	defer refuse(nil)
	leave := func(err error) { // Ops-Core does not listen to this process any more
		refuse(err)
		stopTaking(err)
	}

	unsubscribe, err := s.subscribeReplies(leave)
	if err != nil {
		return err
	}
	defer unsubscribe()
	services.Go(func() { s.watch(service, status, leave) })
	services.Go(func() { s.out.run(service) })
	defer s.unsubscribe()
	if err := s.join(live); err != nil {
		return cmp.Or(context.Cause(refused), err)
	}
	services.Go(func() { s.serve(service, work) })
	if s.cfg.Heartbeat > 0 {
		services.Go(func() { s.presence.beat(service, s.attempts.load) })
	}
	if err := s.open(live); err == nil {
		s.presence.run(live)
	}
	s.session.Store(nil)
	return s.drain(beyond, refused, interrupt)
}

// watch tells the others what becomes of the connection until ctx ends.
func (s *session) watch(ctx context.Context, status <-chan nats.Status, leave func(error)) {
	for !s.nc.IsClosed() {
		select {
		case <-ctx.Done():
			return
		case now := <-status:
			if now == nats.CONNECTED {
				s.out.hurry()
				s.presence.reconnected()
			}
		}
	}
	leave(fmt.Errorf("agent %s: the connection was closed: %w", s.cfg.ID, closedBy(s.nc)))
}

// subscribeReplies makes the outbox and presence, which hear of the fate of messages on inboxes of their own.
func (s *session) subscribeReplies(leave func(error)) (unsubscribe func(), err error) {
	out, acks, err := newOutbox(s.nc, s.cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("agent %s: subscribe to acknowledgements: %w", s.cfg.ID, err)
	}
	pres, outcomes, err := newPresence(&s.cfg, s.token, s.instance, s.nc, out, leave)
	if err != nil {
		_ = acks.Unsubscribe()
		return nil, fmt.Errorf("agent %s: subscribe to outcomes: %w", s.cfg.ID, err)
	}
	s.out, s.presence = out, pres
	return func() {
		_ = acks.Unsubscribe() // fails only on a closed connection
		_ = outcomes.Unsubscribe()
	}, nil
}

// join registers the agent and subscribes to its requests. The subscriptions are in place on the server when it returns.
func (s *session) join(ctx context.Context) error {
	if err := s.presence.register(ctx); err != nil {
		return err
	}
	s.requests = make(chan *nats.Msg, s.cfg.Slots+requestsMax)
	for _, subject := range []string{event.TaskSubject(s.token), event.CancelSubject(s.token)} {
		sub, err := s.nc.ChanSubscribe(subject, s.requests)
		if err != nil {
			return fmt.Errorf("agent %s: subscribe to %s: %w", s.cfg.ID, subject, err)
		}
		s.subs = append(s.subs, sub)
	}
	for s.flush(ctx) != nil { // not connected at the moment; the client subscribes again by itself
		if err := pause(ctx, retryMin); err != nil {
			return fmt.Errorf("agent %s: subscribe to tasks: %w", s.cfg.ID, err)
		}
	}
	return s.denied()
}

// flush waits until the server has seen everything sent so far.
func (s *session) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	return s.nc.FlushWithContext(ctx)
}

// refuseRequests ends the subscriptions without losing a request on its way here: when it returns, the server sends no more
// and serve has what it sent.
func (s *session) refuseRequests(ctx context.Context) {
	if !s.nc.IsConnected() {
		return
	}
	for _, sub := range s.subs {
		_ = sub.Drain() // fails only on a closed connection
	}
	if err := s.flush(ctx); err != nil {
		s.cfg.Log.Debug("subscriptions not ended in order", keyErr, err)
	}
}

// unsubscribe takes the subscriptions off a connection that may outlive the agent.
func (s *session) unsubscribe() {
	for _, sub := range s.subs {
		_ = sub.Unsubscribe() // fails only if that was done
	}
}

// denied returns an error if the server does not let the agent have its tasks, which it says only on the connection.
func (s *session) denied() error {
	last := s.nc.LastError()
	if !errors.Is(last, nats.ErrPermissionViolation) {
		return nil
	}
	for _, sub := range s.subs {
		if strings.Contains(last.Error(), `"`+sub.Subject+`"`) {
			return fmt.Errorf("agent %s: subscribe to %s: %w", s.cfg.ID, sub.Subject, last)
		}
	}
	return nil
}

// open says that tasks may come.
func (s *session) open(ctx context.Context) error {
	if err := s.presence.setState(ctx, StateIdle, nil, false); err != nil {
		return err
	}
	s.session.Store(s)
	close(s.ready)
	s.cfg.Log.Info("ready for tasks", "instance", s.instance, "slots", s.cfg.Slots, "capabilities", s.cfg.Capabilities)
	return nil
}

// drain is the end: no new tasks, handlers to their end, results to the stream, then offline. It takes DrainTimeout at most,
// and a farewell. If Ops-Core has refused the process, all that is left is to end the handlers.
func (s *session) drain(ctx, refused context.Context, interrupt context.CancelCauseFunc) error {
	limit, cancel := context.WithTimeout(ctx, s.cfg.DrainTimeout)
	defer cancel()
	patience := time.NewTimer(s.cfg.DrainTimeout * 4 / 5) // the rest is for what interrupted handlers report
	defer patience.Stop()

	idle := s.attempts.close()
	if refused.Err() == nil {
		s.say(ctx, StateDraining)
	}
	select {
	case <-idle:
	case <-patience.C:
		interrupt(ErrInterrupted)
	case <-refused.Done():
	}
	if refused.Err() != nil {
		s.attempts.drop(context.Cause(refused))
	}
	select {
	case <-idle:
	case <-limit.Done():
	}
	select {
	case <-s.out.empty():
	case <-limit.Done():
	case <-refused.Done():
	}
	return errors.Join(context.Cause(refused), s.part(ctx, refused))
}

// part says the last words and returns an UnreportedError for what could not be said.
func (s *session) part(ctx, refused context.Context) error {
	left := &UnreportedError{Results: s.out.unreported(), Running: s.attempts.held()}
	if refused.Err() == nil {
		s.say(ctx, StateOffline)
		if s.cfg.DeregisterOnStop {
			s.deregister(ctx)
		}
	}
	s.refuseRequests(ctx)
	if len(left.Results)+len(left.Running) > 0 {
		return left
	}
	s.cfg.Log.Info("stopped")
	return nil
}

// say reports one of the last states, if that can be done now.
func (s *session) say(ctx context.Context, state string) {
	if !s.nc.IsConnected() {
		s.cfg.Log.Warn("state not reported", "state", state, keyErr, nats.ErrDisconnected)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	if err := s.presence.setState(ctx, state, nil, true); err != nil {
		s.cfg.Log.Warn("state not reported", "state", state, keyErr, err)
	}
}

func (s *session) deregister(ctx context.Context) {
	if !s.nc.IsConnected() {
		s.cfg.Log.Warn("not deregistered", keyErr, nats.ErrDisconnected)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	if err := s.presence.deregister(ctx); err != nil {
		s.cfg.Log.Warn("not deregistered", keyErr, err)
	}
}
