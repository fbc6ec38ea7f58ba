package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

const (
	ackWait  = 2 * time.Second       // for an acknowledgement, before the message is sent again; doubles
	ackMax   = 30 * time.Second      // most of the load on an overloaded server must not be repeats
	retryMin = 50 * time.Millisecond // first wait after a failure; doubles
	retryMax = 5 * time.Second
)

// How many results may wait for their acknowledgement before the agent takes no more tasks: the streams are full or gone, and
// memory is not endless.
const (
	maxUnreported    = 4096
	maxUnreportedMem = 64 << 20
)

// message is something the streams must have. Publishing it twice is harmless.
type message struct {
	subject string
	header  nats.Header
	body    []byte
	ref     *event.AttemptRef // of a result, for UnreportedError
	settled func(error)       // called once at most, when a stream has it or when it can never be sent

	key string // in the outbox, while it is there
}

// parcel is a message in the outbox, published or about to be.
type parcel struct {
	*message
	due   time.Time     // when to publish it again
	ack   time.Duration // how long to wait for the next acknowledgement
	wait  time.Duration // before the next try after a failure
	fault error         // the last one
}

// outbox publishes to JetStream and repeats each message until it is acknowledged. All messages share one inbox for their
// acknowledgements, so a message that waits costs a map entry and no goroutine.
type outbox struct {
	nc    *nats.Conn
	log   *slog.Logger
	inbox string
	wake  chan struct{} // something became due earlier than run expects

	mu      sync.Mutex
	pending map[string]*parcel // by the last token of its reply subject
	last    uint64
	mem     int
	emptied chan struct{} // closed when pending becomes empty, if somebody waits for it
}

// newOutbox subscribes to the acknowledgements; the caller ends the subscription.
func newOutbox(nc *nats.Conn, log *slog.Logger) (*outbox, *nats.Subscription, error) {
	o := &outbox{nc: nc, log: log, inbox: nc.NewInbox() + ".", wake: make(chan struct{}, 1), pending: map[string]*parcel{}}
	sub, err := nc.Subscribe(o.inbox+"*", o.acknowledge)
	return o, sub, err
}

// run repeats what is due until ctx ends.
func (o *outbox) run(ctx context.Context) {
	timer := time.NewTimer(ackWait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		case <-timer.C:
		}
		due, silent, next := o.overdue(time.Now())
		if silent > 0 {
			o.log.Warn("no acknowledgement in time, repeating", "messages", silent, keyErr, o.silence())
		}
		for key, p := range due {
			o.publish(key, p)
		}
		timer.Reset(next)
	}
}

// post publishes a message and returns at once; settled tells when a stream has it.
func (o *outbox) post(m *message) (key string) {
	p := &parcel{message: m, due: time.Now().Add(ackWait), ack: ackWait, wait: retryMin}
	o.mu.Lock()
	o.last++
	key = strconv.FormatUint(o.last, 36)
	m.key = key
	o.pending[key] = p
	o.mem += len(m.body)
	o.mu.Unlock()
	o.publish(key, p)
	return key
}

// repeat publishes a message once more, whether it still waits for its acknowledgement or not.
func (o *outbox) repeat(m *message) {
	o.mu.Lock()
	key := m.key
	p := o.pending[key]
	o.mu.Unlock()
	if p != nil && p.message == m {
		o.publish(key, p)
	} else {
		o.post(m)
	}
}

// send publishes a message until a stream has it or ctx ends. After that it is not repeated: what a caller gave up must not
// overtake what it says next.
func (o *outbox) send(ctx context.Context, m *message) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	settled := make(chan error, 1)
	m.settled = func(err error) { settled <- err }
	key := o.post(m)
	select {
	case err := <-settled:
		return err
	case <-ctx.Done():
		p := o.remove(key)
		if p == nil { // acknowledged at the last moment
			return <-settled
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if p.fault != nil {
			return fmt.Errorf("%w (%w)", context.Cause(ctx), p.fault)
		}
		return context.Cause(ctx)
	}
}

func (o *outbox) publish(key string, p *parcel) {
	err := o.nc.PublishMsg(&nats.Msg{Subject: p.subject, Reply: o.inbox + key, Header: p.header, Data: p.body})
	switch {
	case err == nil:
	case errors.Is(err, nats.ErrMaxPayload): // the server's limit has shrunk: it will never take this
		o.settle(key, err)
	default:
		o.fail(key, err)
	}
}

// acknowledge takes in what a stream, or the server in its place, says about one message.
func (o *outbox) acknowledge(m *nats.Msg) {
	key := m.Subject[len(o.inbox):]
	if err := ackError(m); err != nil {
		o.fail(key, err)
		return
	}
	o.settle(key, nil)
}

// ackError returns why a message was not stored, or nil if it was.
func ackError(m *nats.Msg) error {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return nats.ErrNoResponders // no stream takes this subject
	}
	if _, _, ok := event.Stored(m.Data); ok {
		return nil
	}
	var ack struct {
		Stream string         `json:"stream"`
		Error  *nats.APIError `json:"error"`
	}
	if err := event.Unmarshal(m.Data, &ack); err != nil {
		return fmt.Errorf("not an acknowledgement: %w", err)
	}
	if ack.Error != nil {
		return ack.Error
	}
	if ack.Stream == "" {
		return errors.New("not an acknowledgement: it names no stream")
	}
	return nil
}

// fail puts a message off.
func (o *outbox) fail(key string, err error) {
	o.mu.Lock()
	p := o.pending[key]
	first := p != nil && p.fault == nil
	if p != nil {
		p.fault = err
		p.due = time.Now().Add(p.wait/2 + rand.N(p.wait))
		p.wait = min(2*p.wait, retryMax)
	}
	o.mu.Unlock()
	if first {
		o.log.Warn("message not stored yet, repeating it", "subject", p.subject, keyErr, err)
	}
	poke(o.wake)
}

// settle ends a message and forgets its callback: a result is kept for long, and the callback would keep more with it.
func (o *outbox) settle(key string, err error) {
	o.mu.Lock()
	p := o.take(key)
	var settled func(error)
	if p != nil {
		settled, p.settled = p.settled, nil
	}
	o.mu.Unlock()
	switch {
	case settled != nil:
		settled(err)
	case p != nil && err != nil: // a repeated one
		o.log.Error("message cannot be stored again", "subject", p.subject, keyErr, err)
	}
}

// remove takes a message out, or returns nil if it was out already.
func (o *outbox) remove(key string) *parcel {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.take(key)
}

// take is remove for a caller who holds the lock.
func (o *outbox) take(key string) *parcel {
	p := o.pending[key]
	if p == nil {
		return nil
	}
	delete(o.pending, key)
	o.mem -= len(p.body)
	if len(o.pending) == 0 && o.emptied != nil {
		close(o.emptied)
		o.emptied = nil
	}
	return p
}

// overdue returns what is to be published now, for how much of it nothing at all has been heard, and how long until the next
// look. Scanning everything is cheap where it matters: while the streams answer, it happens every few seconds.
func (o *outbox) overdue(now time.Time) (due map[string]*parcel, silent int, next time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	due = map[string]*parcel{}
	soonest := now.Add(ackWait)
	for key, p := range o.pending {
		if !p.due.After(now) {
			if p.fault == nil {
				p.fault = errSilence
				silent++
			}
			p.ack = min(2*p.ack, ackMax)
			p.due = now.Add(p.ack)
			due[key] = p
		}
		if p.due.Before(soonest) {
			soonest = p.due
		}
	}
	return due, silent, max(soonest.Sub(now), retryMin/5) // look no more often than this, whatever fails
}

var errSilence = errors.New("no acknowledgement in time")

// silence says why no acknowledgement came. A denied publish is answered on the connection only.
func (o *outbox) silence() error {
	if err := o.nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) {
		return err
	}
	return errSilence
}

// hurry publishes everything again: after a reconnect, since acknowledgements on their way were lost with the connection.
func (o *outbox) hurry() {
	now := time.Now()
	o.mu.Lock()
	for _, p := range o.pending {
		p.due, p.ack, p.wait = now, ackWait/2, retryMin // ack doubles when it is published
		if p.fault == nil {
			p.fault = nats.ErrDisconnected
		}
	}
	o.mu.Unlock()
	poke(o.wake)
}

// empty returns a channel that is closed as soon as nothing waits for an acknowledgement.
func (o *outbox) empty() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.emptied == nil {
		o.emptied = make(chan struct{})
	}
	ch := o.emptied
	if len(o.pending) == 0 {
		close(ch)
		o.emptied = nil
	}
	return ch
}

// crowded reports whether too much waits for an acknowledgement.
func (o *outbox) crowded() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pending) >= maxUnreported || o.mem >= maxUnreportedMem
}

// unreported lists the attempts whose results wait for an acknowledgement.
func (o *outbox) unreported() []event.AttemptRef {
	o.mu.Lock()
	defer o.mu.Unlock()
	var refs []event.AttemptRef
	for _, p := range o.pending {
		if p.ref != nil {
			refs = append(refs, *p.ref)
		}
	}
	return refs
}
