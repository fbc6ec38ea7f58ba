package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus/event"
)

const (
	deadPage   = 500             // letters asked of the server at a time
	deadScan   = 50_000          // letters looked at for one page of a list
	deadSilent = 2 * time.Second // how long a page waits for letters that the server has announced
)

// isText reports whether a body can be shown as it is: valid UTF-8 without zeros.
func isText(body []byte) bool {
	return utf8.Valid(body) && !strings.ContainsRune(string(body), 0)
}

func unknownLetter(seq uint64) error {
	return event.Errorf(event.CodeUnknownLetter, "there is no dead letter %d: it was sent again, deleted, or dropped to make room", seq)
}

// DeadLetter returns a dead letter with its body. It fails with an *event.Error of CodeUnknownLetter if there is none (any more).
func (c *Conn) DeadLetter(ctx context.Context, seq uint64) (*event.DeadLetter, error) {
	m, err := c.storedLetter(ctx, seq)
	if err != nil {
		return nil, err
	}
	l := readLetter(seq, m.Header, m.Data, m.Time, true)
	return &l, nil
}

func (c *Conn) storedLetter(ctx context.Context, seq uint64) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := withDefaultTimeout(ctx)
	defer cancel()
	s, err := c.js.Stream(ctx, event.StreamDead)
	if err != nil {
		return nil, fmt.Errorf("bus: read dead letter %d: %w", seq, err)
	}
	m, err := s.GetMsg(ctx, max(seq, 1))
	if errors.Is(err, jetstream.ErrMsgNotFound) || seq == 0 {
		return nil, unknownLetter(seq)
	}
	if err != nil {
		return nil, fmt.Errorf("bus: read dead letter %d: %w", seq, err)
	}
	return m, nil
}

// DeadLetters returns at most limit of the dead letters that a filter means, oldest first and without their bodies, behind the cursor of an
// earlier page. A page may hold fewer, or none, and still have a cursor: then many others were looked at.
func (c *Conn) DeadLetters(ctx context.Context, filter event.DeadFilter, cursor string, limit int) (*event.DeadList, error) {
	after, err := parseDeadCursor(cursor)
	if err != nil {
		return nil, err
	}
	ctx, cancel := withDefaultTimeout(ctx)
	defer cancel()
	s, err := c.js.Stream(ctx, event.StreamDead)
	if err != nil {
		return nil, fmt.Errorf("bus: list dead letters: %w", err)
	}
	info := s.CachedInfo()
	list := &event.DeadList{
		Items: []event.DeadLetter{}, Letters: info.State.Msgs, LastSeq: info.State.LastSeq,
		Bytes: int64(info.State.Bytes), MaxBytes: info.Config.MaxBytes, Evicted: c.dead.evicted.Load(),
	}
	if info.State.Msgs == 0 || after >= info.State.LastSeq {
		return list, nil
	}
	scanned, left, err := scanDead(ctx, s, filter, after, func(l event.DeadLetter) bool {
		list.Items = append(list.Items, l)
		return len(list.Items) < limit
	})
	if err != nil {
		return nil, fmt.Errorf("bus: list dead letters: %w", err)
	}
	if left {
		list.NextCursor = strconv.FormatUint(scanned, 10)
	}
	return list, nil
}

func parseDeadCursor(cursor string) (uint64, error) {
	if cursor == "" {
		return 0, nil
	}
	after, err := strconv.ParseUint(cursor, 10, 64)
	if err != nil {
		return 0, event.Errorf(event.CodeInvalid, "the cursor is not one that a list gave")
	}
	return after, nil
}

// scanDead gives the letters behind a sequence that a filter means to take, until it wants no more or enough were looked at. It returns the last
// sequence that was looked at, and whether there may be more behind it.
func scanDead(
	ctx context.Context, s jetstream.Stream, filter event.DeadFilter, after uint64, take func(event.DeadLetter) bool,
) (scanned uint64, left bool, err error) {
	cfg := jetstream.ConsumerConfig{
		HeadersOnly: true, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: 5 * deadSilent,
	}
	if filter.Class != "" {
		cfg.FilterSubject = event.DeadSubject(filter.Class)
	}
	consumer, err := s.CreateConsumer(ctx, cfg)
	if err != nil {
		return after, false, err
	}
	defer func() { _ = s.DeleteConsumer(context.WithoutCancel(ctx), consumer.CachedInfo().Name) }() // or the server does, when nobody asks any more
	pending := consumer.CachedInfo().NumPending
	scanned = after
	for n := 0; pending > 0; {
		batch, err := consumer.Fetch(int(min(pending, deadPage)), jetstream.FetchMaxWait(deadSilent))
		if err != nil {
			return scanned, false, err
		}
		got := 0
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return scanned, false, err
			}
			got++
			n++
			pending = meta.NumPending
			scanned = meta.Sequence.Stream
			l := readLetter(scanned, m.Headers(), nil, meta.Timestamp, false)
			if filter.Matches(&l) && !take(l) || n == deadScan {
				return scanned, pending > 0, nil
			}
		}
		if err := batch.Error(); err != nil {
			return scanned, false, err
		}
		if got == 0 { // deleted meanwhile
			return scanned, false, nil
		}
	}
	return scanned, false, nil
}

// DeleteDead deletes a dead letter for good. It fails with an *event.Error of CodeUnknownLetter if there is none (any more).
func (c *Conn) DeleteDead(ctx context.Context, seq uint64) error {
	ctx, cancel := withDefaultTimeout(ctx)
	defer cancel()
	body := fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, max(seq, 1))
	c.dead.deleted.Add(1) // first, so that nobody takes it for one that was dropped
	msg, err := c.nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.DELETE."+event.StreamDead, body)
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err == nil {
		err = json.Unmarshal(msg.Data, &answer)
	}
	if err == nil && answer.Error == nil {
		return nil
	}
	c.dead.deleted.Add(-1)
	if err == nil { // the server has several codes for a message that is not there
		if _, gone := c.storedLetter(ctx, seq); errors.Is(gone, &event.Error{Code: event.CodeUnknownLetter}) {
			return gone
		}
		err = answer.Error
	}
	return fmt.Errorf("bus: delete dead letter %d: %w", seq, err)
}
