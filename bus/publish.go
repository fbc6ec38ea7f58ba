package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

const (
	// ackTimeout is how long one try of a publish waits for the stream's acknowledgement. A server that stalls on its
	// disk for less must not be asked to store everything twice.
	ackTimeout = 5 * time.Second
	// maxInFlight bounds unanswered asynchronous publishes. The server refuses above 10,000 per stream.
	maxInFlight = 4096
)

// Ack is a stream's acknowledgement: the message is stored there under this sequence.
type Ack struct {
	Stream string
	Seq    uint64
	At     time.Time // when it came; of Call only
}

// Publish stores a message in the stream of its subject and waits for the acknowledgement. While no server or stream answers
// it tries again until ctx ends, so ctx should have a deadline; a message may thereby be stored twice, which intake and
// dead letters bear by design.
//
// It fails with an [*event.Error]: CodeUnavailable when the stream is full or the server has no room, CodeTooLarge when the message
// is over the server's limit. When ctx ends the error wraps ctx's and the last reason.
func (c *Conn) Publish(ctx context.Context, msg *nats.Msg) (Ack, error) {
	return c.publish(ctx, msg, func() {})
}

// publish calls prepare before each try.
func (c *Conn) publish(ctx context.Context, msg *nats.Msg, prepare func()) (Ack, error) {
	wait := newBackoff(50*time.Millisecond, time.Second)
	for {
		prepare()
		ack, err := c.publishOnce(ctx, msg)
		if err == nil || !isPassing(err) {
			return ack, err
		}
		if ctx.Err() != nil || !wait.sleep(ctx) {
			return Ack{}, fmt.Errorf("publish %s: %w: %w", msg.Subject, ctx.Err(), err)
		}
	}
}

func (c *Conn) publishOnce(ctx context.Context, msg *nats.Msg) (Ack, error) {
	type result struct {
		ack Ack
		err error
	}
	answered := make(chan result, 1)
	id, err := c.send(msg, func(ack Ack, err error) { answered <- result{ack, err} })
	if err != nil {
		return Ack{}, err
	}
	select {
	case r := <-answered:
		return r.ack, r.err
	case <-ctx.Done():
	}
	if _, mine := c.mux.take(id); mine {
		return Ack{}, errNotAcked
	}
	r := <-answered // it came at the same moment
	return r.ack, r.err
}

// PublishAsync stores a message without waiting. Done is called exactly once, from another goroutine, with the
// acknowledgement or why there is none: the errors of [Conn.Publish] or, after which the message may be stored or not,
// nats.ErrDisconnected or a timeout (5 s). If PublishAsync itself returns an error, nothing was sent and done is not called.
//
// It blocks while 4096 publishes are unanswered. Done must return quickly and must not publish asynchronously itself: every
// acknowledgement comes by the same goroutine. Messages of one goroutine are stored in the order of the calls, except that any of them
// may fail.
func (c *Conn) PublishAsync(msg *nats.Msg, done func(Ack, error)) error {
	select {
	case c.inFlight <- struct{}{}:
	default:
		select { // what waits for room is given up when the connection closes; what finds some is not
		case c.inFlight <- struct{}{}:
		case <-c.closing:
			return nats.ErrConnectionClosed
		}
	}
	_, err := c.send(msg, func(ack Ack, err error) {
		<-c.inFlight
		done(ack, err)
	})
	if err != nil {
		<-c.inFlight
	}
	return err
}

// PublishSoon is PublishAsync for what nobody waits for: it is published at once when there is little of it, and otherwise together with what else there is
// within 4 ms, in the order of the calls. What PublishAsync itself would return comes to done too, which may then be
// called before PublishSoon returns.
func (c *Conn) PublishSoon(msg *nats.Msg, done func(Ack, error)) {
	c.late.add(func() {
		if err := c.PublishAsync(msg, done); err != nil {
			done(Ack{}, err)
		}
	})
}

// send publishes once. If it returns no error, done is called exactly once unless the caller takes the waiter back.
func (c *Conn) send(msg *nats.Msg, done func(Ack, error)) (id uint64, err error) {
	subject := msg.Subject
	inbox, id, err := c.mux.add(waitAck, ackTimeout, func(m *nats.Msg, err error) {
		if err == nil {
			done(parseAck(m.Data))
			return
		}
		if errors.Is(err, errTimeout) {
			err = errNotAcked
		}
		done(Ack{}, fmt.Errorf("publish %s: %w", subject, err))
	})
	if err != nil {
		return 0, err
	}
	out := *msg
	out.Reply = inbox
	if err := c.nc.PublishMsg(&out); err != nil {
		if _, mine := c.mux.take(id); !mine {
			return id, nil // the end of the connection has told done already
		}
		if errors.Is(err, nats.ErrMaxPayload) {
			return 0, event.Errorf(event.CodeTooLarge, "the message is over the server's limit of %d bytes", c.nc.MaxPayload())
		}
		return 0, fmt.Errorf("publish %s: %w", subject, err)
	}
	return id, nil
}

// errNotAcked says that the message may be stored or not.
var errNotAcked = errors.New("the stream did not acknowledge in time")

// isPassing reports whether the same publish may succeed later without anybody doing anything.
func isPassing(err error) bool {
	return errors.Is(err, errNotAcked) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrDisconnected) ||
		errors.Is(err, nats.ErrReconnectBufExceeded)
}

// The server's error codes for a publish that the stream refuses.
const (
	errCodeInsufficientResources = 10023
	errCodeMessageTooLarge       = 10054
	errCodeStoreFailed           = 10077 // among others: "maximum bytes exceeded"
)

func parseAck(data []byte) (Ack, error) {
	if stream, seq, ok := event.Stored(data); ok {
		return Ack{Stream: stream, Seq: seq}, nil
	}
	var answer struct {
		Stream string `json:"stream"`
		Seq    uint64 `json:"seq"`
		Error  *struct {
			Code        int    `json:"code"`
			ErrCode     int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return Ack{}, fmt.Errorf("publish: the acknowledgement is not JSON: %w", err)
	}
	if e := answer.Error; e != nil {
		switch {
		case isOvertaken(e.ErrCode):
			return Ack{}, errOvertaken
		case e.ErrCode == errCodeMessageTooLarge:
			return Ack{}, event.Errorf(event.CodeTooLarge, "the stream refuses the message: %s", e.Description)
		case e.ErrCode == errCodeStoreFailed, e.ErrCode == errCodeInsufficientResources, e.Code == 503, e.Code == 429:
			return Ack{}, event.Errorf(event.CodeUnavailable, "the stream takes no more: %s", e.Description)
		}
		return Ack{}, fmt.Errorf("publish: the stream refuses the message: %s (%d)", e.Description, e.ErrCode)
	}
	if answer.Stream == "" || answer.Seq == 0 {
		return Ack{}, errors.New("publish: the answer is not a stream's acknowledgement")
	}
	return Ack{Stream: answer.Stream, Seq: answer.Seq}, nil
}

// Call publishes a message like [Conn.Publish] and waits for its [event.Outcome], which comes after the commit. A command gets
// a deadline header from ctx's deadline, unless the caller has set one, so that it is refused when nobody waits for it any more.
// The Ack names the message that was judged or, if it was stored twice, the one that was acknowledged. msg itself is not changed.
//
// When ctx ends first, the error wraps ctx's. The Ack is not zero if the message was stored: it may then take effect, and the
// caller can ask the aggregate whether it has taken in that sequence.
func (c *Conn) Call(ctx context.Context, msg *nats.Msg) (event.Outcome, Ack, error) {
	publishCtx, stopPublish := context.WithCancel(ctx)
	defer stopPublish()
	answered := make(chan answer, 1)
	inbox, id, err := c.mux.add(waitOutcome, 0, func(m *nats.Msg, err error) {
		answered <- answer{m, err}
		stopPublish() // an outcome proves that the message was stored
	})
	if err != nil {
		return event.Outcome{}, Ack{}, err
	}
	defer c.mux.take(id)

	out := *msg
	out.Header = maps.Clone(msg.Header)
	if out.Header == nil {
		out.Header = nats.Header{}
	}
	out.Header.Set(event.HeaderReply, inbox)
	ack, err := c.publish(publishCtx, &out, deadlineStamp(ctx, &out))
	if err != nil && publishCtx.Err() == nil {
		return event.Outcome{}, Ack{}, err
	}
	if err == nil {
		ack.At = time.Now()
	}
	select {
	case a := <-answered: // it counts even if ctx has ended meanwhile
		return a.outcome(ack, msg.Subject)
	default:
	}
	if err != nil {
		return event.Outcome{}, Ack{}, err
	}
	select {
	case a := <-answered:
		return a.outcome(ack, msg.Subject)
	case <-ctx.Done():
		return event.Outcome{}, ack, fmt.Errorf("call %s (seq %d): no outcome: %w", msg.Subject, ack.Seq, ctx.Err())
	}
}

// answer is what came to the inbox of a Call.
type answer struct {
	msg *nats.Msg
	err error
}

func (a answer) outcome(ack Ack, subject string) (event.Outcome, Ack, error) {
	var o event.Outcome
	if a.err == nil {
		a.err = event.Unmarshal(a.msg.Data, &o)
	}
	if a.err != nil {
		return event.Outcome{}, ack, fmt.Errorf("call %s: %w", subject, a.err)
	}
	o.ConsumedAt, o.CommittedAt = headerTime(a.msg, event.HeaderConsumedAt), headerTime(a.msg, event.HeaderCommittedAt)
	if ack.Seq == 0 { // the outcome was faster
		ack = Ack{Stream: event.StreamOf(subject), Seq: o.Seq, At: time.Now()}
	}
	return o, ack, nil
}

// headerTime reads a time of a header, zero if there is none.
func headerTime(m *nats.Msg, name string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, m.Header.Get(name))
	if err != nil {
		return time.Time{}
	}
	return t
}

// commandPrefix begins the subjects of commands.
var commandPrefix = strings.TrimSuffix(event.SubjectCommandAll, ">")

// deadlineStamp returns what sets the deadline of a command before each try of its publish: the deadline counts from the
// stream timestamp, so a later try gets less.
func deadlineStamp(ctx context.Context, msg *nats.Msg) func() {
	deadline, ok := ctx.Deadline()
	if !ok || !strings.HasPrefix(msg.Subject, commandPrefix) || msg.Header.Get(event.HeaderDeadline) != "" {
		return func() {}
	}
	return func() {
		left := max(time.Until(deadline).Milliseconds(), 1)
		msg.Header.Set(event.HeaderDeadline, strconv.FormatInt(left, 10))
	}
}
