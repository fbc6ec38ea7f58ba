package bus

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// Letter is something that was given up, with what is needed to do it again.
type Letter struct {
	Subject string      // where it was, or has to be, sent
	Header  nats.Header // its own; may be nil
	Data    []byte
	Stream  string       // that carries it, empty if none does
	Seq     uint64       // its place there
	First   time.Time    // when it was said
	Count   uint64       // how often it was tried
	Err     *event.Error // why it was given up; the code is the letter's class
	ID      string       // the same for the same letter, which is then stored once; empty: it follows from Stream, Seq and First
	Agent   string       // it is about; empty: what [event.About] says
	Run     string       // it is about; empty: what [event.About] says
}

// deadWindow is for how long JetStream knows a dead letter again: longer than it takes until a message comes again whose consumer has died between
// burying and acknowledging it.
const deadWindow = 2 * time.Minute

// Bury stores a dead letter. The same letter is stored once, if the second time comes within two minutes. It fails when the stream does not
// acknowledge within 5 s; the letter may be stored then.
func (c *Conn) Bury(ctx context.Context, l *Letter) error {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	if _, err := c.Publish(ctx, l.message(time.Now(), c.nc.MaxPayload())); err != nil {
		return fmt.Errorf("store a dead letter: %w", err)
	}
	return nil
}

// BuryAsync stores a dead letter without waiting; done is called as by [Conn.PublishAsync].
func (c *Conn) BuryAsync(l *Letter, done func(error)) error {
	return c.PublishAsync(l.message(time.Now(), c.nc.MaxPayload()), func(_ Ack, err error) { done(err) })
}

const (
	deadHeaderRoom  = 16 << 10 // more than the headers of a dead letter take
	deadOwnHeaders  = 4 << 10  // bytes kept of a message's own headers
	deadHeadersRead = "Opscore-Dead-"
	natsHeaders     = "Nats-"
)

// message makes the stored form of a letter. The body is kept whole, so that it can be sent again, unless it is over the wire's limit.
func (l *Letter) message(now time.Time, maxPayload int64) *nats.Msg {
	body := l.Data
	if len(body) > event.MaxBody || int64(len(body)) > maxPayload-deadHeaderRoom {
		body = body[:min(len(body), event.MaxDeadBody)]
	}
	h := l.ownHeaders()
	set := func(name, value string) {
		if value != "" {
			h[name] = []string{value}
		}
	}
	if l.Stream != "" {
		set(event.HeaderDeadStream, l.Stream)
		set(event.HeaderDeadSeq, strconv.FormatUint(l.Seq, 10))
	}
	set(event.HeaderDeadSubject, l.Subject)
	set(event.HeaderDeadCode, string(l.Err.Code))
	set(event.HeaderDeadReason, headerText(l.Err.Message))
	set(event.HeaderDeadTime, now.UTC().Format(time.RFC3339))
	set(event.HeaderDeadFirst, l.First.UTC().Format(time.RFC3339Nano))
	set(event.HeaderDeadCount, strconv.FormatUint(l.Count, 10))
	set(event.HeaderDeadSize, strconv.Itoa(len(l.Data)))
	set(event.HeaderDeadHops, l.Header.Get(event.HeaderDeadHops))
	agent, run := event.About(l.Subject, l.Data)
	set(event.HeaderDeadAgent, tokenOf(firstOf(l.Agent, agent)))
	set(event.HeaderDeadRun, tokenOf(firstOf(l.Run, run)))
	set(nats.MsgIdHdr, l.id())
	return &nats.Msg{Subject: event.DeadSubject(l.Err.Code), Header: h, Data: body}
}

// id names the letter for as long as JetStream looks for repeats.
func (l *Letter) id() string {
	if l.ID != "" || l.Stream == "" {
		return l.ID
	}
	return l.Stream + "/" + strconv.FormatUint(l.Seq, 10) + "/" + strconv.FormatInt(l.First.UnixNano(), 10)
}

// ownHeaders copies the headers of the message that are its own: not those that are about its way through NATS, or that somebody waited for it.
func (l *Letter) ownHeaders() nats.Header {
	h := make(nats.Header, len(l.Header)+12)
	room := deadOwnHeaders
	for name, values := range l.Header {
		switch {
		case strings.HasPrefix(name, natsHeaders), strings.HasPrefix(name, deadHeadersRead), name == event.HeaderReply, name == event.HeaderDeadline:
			continue
		}
		kept := make([]string, len(values))
		for i, v := range values {
			kept[i] = headerText(v)
			room -= len(name) + len(kept[i])
		}
		if room < 0 {
			break
		}
		h[name] = kept
	}
	return h
}

// tokenOf is the form of an id that a header can hold; empty for none, and for what is no id.
func tokenOf(id string) string {
	token, err := event.Token(id)
	if err != nil {
		return ""
	}
	return token
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// headerText makes one line of at most 1 KiB.
func headerText(s string) string {
	if len(s) > 1<<10 {
		s = s[:1<<10]
	}
	return strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), "")
}

// readLetter turns a stored message back into a letter; withBody also reads its body.
func readLetter(seq uint64, h nats.Header, body []byte, at time.Time, withBody bool) event.DeadLetter {
	number := func(name string) uint64 { n, _ := strconv.ParseUint(h.Get(name), 10, 64); return n }
	id := func(name string) string { id, _ := event.ParseToken(h.Get(name)); return id }
	when := func(name string) time.Time {
		t, err := time.Parse(time.RFC3339Nano, h.Get(name))
		if err != nil {
			return at.UTC()
		}
		return t
	}
	l := event.DeadLetter{
		Seq: seq, Class: event.Code(h.Get(event.HeaderDeadCode)), Reason: h.Get(event.HeaderDeadReason), Subject: h.Get(event.HeaderDeadSubject),
		Stream: h.Get(event.HeaderDeadStream), StreamSeq: number(event.HeaderDeadSeq), AgentID: id(event.HeaderDeadAgent), RunID: id(event.HeaderDeadRun),
		FirstAt: when(event.HeaderDeadFirst), LastAt: at.UTC(), Count: number(event.HeaderDeadCount), Hops: int(number(event.HeaderDeadHops)),
		Size: int(number(event.HeaderDeadSize)),
	}
	if !withBody {
		return l
	}
	for name, values := range h {
		if !strings.HasPrefix(name, natsHeaders) && !strings.HasPrefix(name, deadHeadersRead) {
			if l.Header == nil {
				l.Header = make(map[string][]string)
			}
			l.Header[name] = values
		}
	}
	l.Size = max(l.Size, len(body))
	l.Truncated = len(body) < l.Size
	switch raw := event.Raw(body); {
	case len(body) == 0:
	case raw.IsValid():
		l.Body = raw
	case isText(body):
		l.Text = string(body)
	default:
		l.Base64 = body
	}
	return l
}
