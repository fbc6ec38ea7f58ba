package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// StreamState is what a stream says of itself. LastSeq is 0 for a stream that never held a message; FirstSeq is above LastSeq
// for one that is empty now.
type StreamState struct {
	Now               time.Time // on the clock that stamps its messages
	Created           time.Time
	FirstSeq, LastSeq uint64
	FirstTime         time.Time // stream timestamp of the message at FirstSeq
	LastTime          time.Time // stream timestamp of the message at LastSeq
	Bytes, MaxBytes   int64     // what is stored, and what may be
}

// StreamState reads the state of a stream. It fails with jetstream.ErrStreamNotFound if there is none.
func (c *Conn) StreamState(ctx context.Context, stream string) (StreamState, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return StreamState{}, fmt.Errorf("bus: state of stream %s: %w", stream, err)
	}
	info := s.CachedInfo()
	return StreamState{
		Now:       info.TimeStamp,
		Created:   info.Created,
		FirstSeq:  info.State.FirstSeq,
		LastSeq:   info.State.LastSeq,
		FirstTime: info.State.FirstTime,
		LastTime:  info.State.LastTime,
		Bytes:     int64(info.State.Bytes),
		MaxBytes:  info.Config.MaxBytes,
	}, nil
}

// MessageTime returns the timestamp of the message that a stream holds at a sequence, and false if it holds none there (any more).
func (c *Conn) MessageTime(ctx context.Context, stream string, seq uint64) (time.Time, bool, error) {
	m, ok, err := c.storedMessage(ctx, stream, messageQuery{Seq: seq})
	if err != nil {
		return time.Time{}, false, fmt.Errorf("bus: message %d of stream %s: %w", seq, stream, err)
	}
	return m.Time, ok, nil
}

// LastMessage returns the last message that a stream holds on a subject, which may have wildcards, without its headers, and false if it holds none.
func (c *Conn) LastMessage(ctx context.Context, stream, subject string) (*Msg, bool, error) {
	m, ok, err := c.storedMessage(ctx, stream, messageQuery{LastFor: subject})
	if err != nil {
		return nil, false, fmt.Errorf("bus: last message of stream %s on %s: %w", stream, subject, err)
	}
	return &Msg{Subject: m.Subject, Stream: stream, Seq: m.Seq, Time: m.Time, Data: m.Data}, ok, nil
}

// AckFloor returns the sequence up to which every message of a stream has been acknowledged by all durables of Ops-Core that read
// it: after a loss of everything at or below it, nothing would have to be handled again. Messages that a durable does not read do
// not count against it. The answer may be too low by what has happened meanwhile; it is never too high.
func (c *Conn) AckFloor(ctx context.Context, stream string) (uint64, error) {
	state, err := c.StreamState(ctx, stream)
	if err != nil {
		return 0, err
	}
	// The last sequence is read before the consumers: what a publisher stores in between must not be counted.
	floor := state.LastSeq
	for _, d := range consumers() {
		if d.stream != stream {
			continue
		}
		next, found, err := c.oldestOpen(ctx, d)
		if err != nil {
			return 0, fmt.Errorf("bus: ack floor of stream %s: %w", stream, err)
		}
		if found {
			floor = min(floor, next.Seq-1)
		}
	}
	return floor, nil
}

// IntakeTime returns the time up to which everything that agents have said was taken in: now, which the caller reads before the
// call, or the stream timestamp of the oldest message that is not acknowledged yet by lifecycle or workflow. It may be too early,
// never too late.
func (c *Conn) IntakeTime(ctx context.Context, now time.Time) (time.Time, error) {
	at := now
	for _, d := range consumers() {
		next, found, err := c.oldestOpen(ctx, d)
		if err != nil {
			return time.Time{}, fmt.Errorf("bus: intake time: %w", err)
		}
		if found && next.Time.Before(at) {
			at = next.Time
		}
	}
	return at, nil
}

// oldestOpen returns the oldest stored message that a durable has yet to see acknowledged, and false if there is none.
//
// It asks the stream for the first message after the ack floor. The durable's own count of pending messages would be cheaper but
// lags: a message is stored, and its publisher answered, before the consumer counts it.
func (c *Conn) oldestOpen(ctx context.Context, d durable) (storedMessage, bool, error) {
	info, err := c.js.Consumer(ctx, d.stream, d.config.Durable)
	if err != nil {
		return storedMessage{}, false, fmt.Errorf("consumer %s: %w", d.config.Durable, err)
	}
	return c.storedMessage(ctx, d.stream, messageQuery{Seq: info.CachedInfo().AckFloor.Stream + 1, NextFor: ">"})
}

// messageQuery asks for the message at Seq, with NextFor for the first one at or after it whose subject matches, or with LastFor alone
// for the last one whose subject matches.
type messageQuery struct {
	Seq     uint64 `json:"seq,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
}

type storedMessage struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Data    []byte    `json:"data"`
	Headers []byte    `json:"hdrs"`
}

// storedMessage reads from the stream's leader. The client library would read from any replica where the stream allows it,
// and one that lags must not make a message look gone.
func (c *Conn) storedMessage(ctx context.Context, stream string, q messageQuery) (storedMessage, bool, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return storedMessage{}, false, err
	}
	ctx, cancel := withDefaultTimeout(ctx)
	defer cancel()
	subject := jetstream.DefaultAPIPrefix + "STREAM.MSG.GET." + stream
	msg, err := c.nc.RequestWithContext(ctx, subject, body)
	if errors.Is(err, nats.ErrNoResponders) {
		return storedMessage{}, false, jetstream.ErrJetStreamNotEnabled
	}
	if err != nil {
		return storedMessage{}, false, err
	}
	var answer struct {
		Message storedMessage       `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return storedMessage{}, false, fmt.Errorf("the answer is not JSON: %w", err)
	}
	switch {
	case answer.Error == nil:
		return answer.Message, true, nil
	case answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return storedMessage{}, false, nil
	}
	return storedMessage{}, false, answer.Error
}

// ResetConsumer makes a durable deliver again from a sequence: the next message that it delivers has that sequence or a higher
// one, and what was delivered before counts as not delivered. Messages that a [Consumer] holds at that moment are handled a second
// time; pause it first to avoid that.
func (c *Conn) ResetConsumer(ctx context.Context, stream, durable string, seq uint64) error {
	c.soon.flush() // an acknowledgement behind the reset would be taken for one of the next delivery
	// Sequence 0 would mean "to the ack floor".
	if _, err := c.js.ResetConsumerToSequence(ctx, stream, durable, max(seq, 1)); err != nil {
		return fmt.Errorf("bus: reset consumer %s of stream %s to %d: %w", durable, stream, seq, err)
	}
	return nil
}

// Purge deletes the messages of a stream with sequences below the given one.
func (c *Conn) Purge(ctx context.Context, stream string, below uint64) error {
	if below <= 1 {
		return nil // to the server, 0 means everything
	}
	s, err := c.js.Stream(ctx, stream)
	if err == nil {
		err = s.Purge(ctx, jetstream.WithPurgeSequence(below))
	}
	if err != nil {
		return fmt.Errorf("bus: purge stream %s below %d: %w", stream, below, err)
	}
	return nil
}

// withDefaultTimeout bounds a request whose caller set no deadline.
func withDefaultTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, ackTimeout)
}
