package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus/event"
)

// replayTries bounds the tries against others who publish on the same subject.
const replayTries = 5

// ReplayDead sends a dead letter again to where it was sent, with another body unless that is nil, and deletes it.
//
// Doing it twice has one effect, also when the first time ended between sending and deleting, or both run at the same time: the message names its
// letter, and is published only if nothing has come on its subject since that was looked through for it. Results and other words about an
// attempt are not looked for: an agent may say thousands on one subject, and the attempt's number and token make a second one harmless.
//
// It fails with an *event.Error: CodeUnknownLetter if the letter is not there (any more), CodeNotAllowedNow when it was sent again too often,
// CodeTooLarge when only a part of the body is left, what [event.Decode] says of a message that would be refused again unseen, or CodeUnavailable.
func (c *Conn) ReplayDead(ctx context.Context, seq uint64, body []byte) (*event.Replayed, error) {
	m, err := c.storedLetter(ctx, seq)
	if err != nil {
		return nil, err
	}
	l := readLetter(seq, m.Header, m.Data, m.Time, true)
	if body == nil && l.Truncated {
		return nil, event.Errorf(event.CodeTooLarge, "only %d of its %d bytes were kept; give it another body", len(m.Data), l.Size)
	}
	if body == nil {
		body = m.Data
	}
	if err := mayReplay(&l, body); err != nil {
		return nil, err
	}
	msg := &nats.Msg{Subject: l.Subject, Header: nats.Header{}, Data: body}
	for name, values := range l.Header {
		msg.Header[name] = values
	}
	msg.Header.Set(event.HeaderDeadHops, strconv.Itoa(l.Hops+1))
	msg.Header.Set(event.HeaderDeadReplay, strconv.FormatUint(seq, 10)+"/"+strconv.FormatInt(m.Time.UnixNano(), 10))
	done, err := c.publishOnceEver(ctx, msg, &l)
	if err != nil {
		return nil, err
	}
	done.Seq = seq
	if err := c.DeleteDead(ctx, seq); err != nil && !errors.Is(err, &event.Error{Code: event.CodeUnknownLetter}) {
		return nil, fmt.Errorf("bus: the dead letter was sent again; say it again to delete it: %w", err)
	}
	return done, nil
}

// mayReplay returns why a letter cannot be sent again with this body.
func mayReplay(l *event.DeadLetter, body []byte) error {
	if l.Hops >= event.MaxDeadHops {
		return event.Errorf(event.CodeNotAllowedNow, "it has come back %d times; whatever is wrong is not the message's time", l.Hops)
	}
	if event.StreamOf(l.Subject) == "" {
		return event.Errorf(event.CodeInvalid, "no stream takes messages on %q", l.Subject)
	}
	if _, err := event.Decode(l.Subject, body); err != nil {
		return err
	}
	return nil
}

// publishOnceEver publishes the message of a letter unless that was done before.
func (c *Conn) publishOnceEver(ctx context.Context, msg *nats.Msg, l *event.DeadLetter) (*event.Replayed, error) {
	ctx, cancel := withDefaultTimeout(ctx)
	defer cancel()
	stream := event.StreamOf(l.Subject)
	about, _ := event.ParseSubject(l.Subject)
	fenced := about.Family == "agent" && stream == event.StreamWork // about an attempt
	for range replayTries {
		if !fenced {
			before, last, err := c.findReplay(ctx, stream, msg, l)
			if err != nil {
				return nil, fmt.Errorf("bus: look for an earlier replay: %w", err)
			}
			if before != 0 {
				return &event.Replayed{Subject: l.Subject, Stream: stream, StreamSeq: before, Again: true}, nil
			}
			msg.Header.Set(nats.ExpectedLastSubjSeqHdr, strconv.FormatUint(last, 10))
		}
		ack, err := c.Publish(ctx, msg)
		if errors.Is(err, errOvertaken) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("bus: send a dead letter again: %w", err)
		}
		return &event.Replayed{Subject: l.Subject, Stream: ack.Stream, StreamSeq: ack.Seq}, nil
	}
	return nil, event.Errorf(event.CodeUnavailable, "others publish on %q all the time; try again", l.Subject)
}

// findReplay looks for the message of a letter among those on its subject, and returns its sequence, 0 if there is none, and the last sequence on
// that subject. It looks at all of them behind the letter's own, or at all if that is gone, as when the stream was made anew: one that was left out
// could be the one.
func (c *Conn) findReplay(ctx context.Context, stream string, msg *nats.Msg, l *event.DeadLetter) (found, last uint64, err error) {
	newest, ok, err := c.storedMessage(ctx, stream, messageQuery{LastFor: msg.Subject})
	if err != nil || !ok {
		return 0, 0, err
	}
	after := uint64(0)
	if l.Stream == stream && l.StreamSeq > 0 {
		at, there, err := c.MessageTime(ctx, stream, l.StreamSeq)
		if err != nil {
			return 0, 0, err
		}
		if there && at.Equal(l.FirstAt) {
			after = l.StreamSeq
		}
	}
	for after < newest.Seq {
		m, ok, err := c.storedMessage(ctx, stream, messageQuery{Seq: after + 1, NextFor: msg.Subject})
		if err != nil || !ok || m.Seq > newest.Seq {
			return 0, newest.Seq, err
		}
		if m.header(event.HeaderDeadReplay) == msg.Header.Get(event.HeaderDeadReplay) {
			return m.Seq, newest.Seq, nil
		}
		after = m.Seq
	}
	return 0, newest.Seq, nil
}

// header returns a header of a stored message, empty if it has none of that name.
func (m *storedMessage) header(name string) string {
	if len(m.Headers) == 0 {
		return ""
	}
	h, err := nats.DecodeHeadersMsg(m.Headers)
	if err != nil {
		return ""
	}
	return h.Get(name)
}

// errOvertaken says that something has come on the subject since the publisher looked.
var errOvertaken = errors.New("bus: another message has come on the subject")

// isOvertaken reports whether that is what an error of the server's says.
func isOvertaken(code int) bool {
	return code == int(jetstream.JSErrCodeStreamWrongLastSequence) || code == errCodeWrongLastSequenceConstant
}

const errCodeWrongLastSequenceConstant = 10164
