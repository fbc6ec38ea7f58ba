package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullExpiry is how long one request for messages stays with the server. It bounds how long messages go on arriving at a process
	// whose handler cannot decide.
	pullExpiry = 5 * time.Second
	// pullHeartbeat is how often the server shows that it still has the request. Three missed ones mean that it has not.
	pullHeartbeat = time.Second
	// drainWait bounds how long messages already on their way are waited for when pulling stops.
	drainWait = 2 * time.Second
)

// puller asks the server for messages, on an inbox of its own. It has at most one request at the server: its size is what may still
// be held, and the next one is made while workers have the messages of the last, so the way to the server costs nothing. Any doubt
// about what the server has (a lost connection, a missed heartbeat) ends the puller; its successor has another inbox, so that
// requests which survived cannot add to the new ones.
type puller struct {
	c     *Consumer
	inbox string // requests are answered on inbox.<number>

	// Guarded by c.mu.
	number uint64    // of the youngest request
	want   int       // messages of it still to come; 0: it has ended
	seen   time.Time // when the server last said something
	works  bool      // the server has sent a message or a heartbeat
	err    error     // why the puller must end
}

func newPuller(c *Consumer) *puller { return &puller{c: c, inbox: c.conn.nc.NewInbox()} }

// run pulls until the consumer is paused or ctx ends, with nil, or until there is trouble. It calls working once, as soon as the server
// is known to serve it.
func (p *puller) run(ctx context.Context, working func()) error {
	nc := p.c.conn.nc
	lost := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer nc.RemoveStatusListener(lost)
	sub, err := nc.Subscribe(p.inbox+".*", p.receive)
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	// What can arrive is bounded by what was asked for.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	check := time.NewTicker(pullHeartbeat)
	defer check.Stop()
	for {
		stop, err := p.next(ctx)
		if err != nil {
			_ = sub.Unsubscribe()
			return fmt.Errorf("pull: %w", err)
		}
		if stop {
			p.drain(sub)
			return nil
		}
		if working != nil && p.isWorking() {
			working()
			working = nil
		}
		select {
		case <-p.c.kick:
		case <-check.C:
		case <-ctx.Done():
		case <-lost:
			_ = sub.Unsubscribe()
			return fmt.Errorf("pull: %w", nats.ErrDisconnected)
		}
	}
}

// next makes the next request if there is room for one, and reports whether to stop.
func (p *puller) next(ctx context.Context) (stop bool, err error) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case p.err != nil:
		return false, p.err
	case ctx.Err() != nil || c.paused:
		return true, nil
	case p.want > 0 && time.Since(p.seen) > 3*pullHeartbeat:
		return false, errSilent
	case p.want > 0 || c.failing > 0:
		return false, nil
	}
	// A quarter of the room at least, so that requests do not become as many as messages; and room for any one message.
	payload := int(c.conn.nc.MaxPayload())
	byteLimit := max(maxHeldBytes, 4*payload)
	room, byteRoom := c.cfg.MaxHeld-c.held, byteLimit-c.heldBytes
	if room < max(c.cfg.MaxHeld/4, 1) || byteRoom < byteLimit/4+payload {
		return false, nil
	}
	return false, p.request(room, byteRoom)
}

func (p *puller) isWorking() bool {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return p.works
}

var errSilent = errors.New("the server does not answer")

// pullRequest is the body of a request for messages; times are nanoseconds.
type pullRequest struct {
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

func (p *puller) request(batch, maxBytes int) error {
	body, err := json.Marshal(pullRequest{Batch: batch, MaxBytes: maxBytes, Expires: pullExpiry, Heartbeat: pullHeartbeat})
	if err != nil {
		return err
	}
	p.number++
	p.want = batch
	p.seen = time.Now()
	cfg := &p.c.cfg
	subject := jetstream.DefaultAPIPrefix + "CONSUMER.MSG.NEXT." + cfg.Stream + "." + cfg.Durable
	return p.c.conn.nc.PublishRequest(subject, p.inbox+"."+strconv.FormatUint(p.number, 10), body)
}

// receive runs on the subscription's goroutine. A message has its acknowledgement's subject as reply; what has none is the
// server speaking about the request.
func (p *puller) receive(msg *nats.Msg) {
	if msg.Reply == "" {
		p.status(msg)
		return
	}
	meta, err := msg.Metadata()
	if err != nil {
		return // nothing that a stream sends
	}
	now := time.Now()
	c := p.c
	m := &Msg{
		Subject:   msg.Subject,
		Header:    msg.Header,
		Data:      msg.Data,
		Stream:    meta.Stream,
		Seq:       meta.Sequence.Stream,
		Time:      meta.Timestamp.UTC(),
		Delivered: meta.NumDelivered,
		reply:     msg.Reply,
		size:      msg.Size(),
		arrived:   now,
		renewed:   now,
	}
	p.arrived(now, 1, m.size)
	c.workers[maphash.String(c.seed, c.cfg.Key(m))%uint64(len(c.workers))].push(m)
}

// arrived counts one message of the request, and what of it is held.
func (p *puller) arrived(now time.Time, held, bytes int) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held += held
	c.heldBytes += bytes
	p.seen = now
	p.works = true
	if p.want > 0 {
		p.want--
		if p.want == 0 {
			c.wakePuller()
		}
	}
}

// status takes in what the server says about a request.
func (p *puller) status(msg *nats.Msg) {
	c := p.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if msg.Subject != p.inbox+"."+strconv.FormatUint(p.number, 10) && msg.Header.Get("Status") != "503" {
		return // about an older request
	}
	p.seen = time.Now()
	text := msg.Header.Get("Description")
	switch code := msg.Header.Get("Status"); {
	case code == "100": // heartbeat
		p.works = true
		return
	case code == "404", code == "408", strings.Contains(text, "Batch Completed"), strings.Contains(text, "MaxBytes"):
		p.want = 0 // it has ended as requests do
	case code == "503":
		p.err = nats.ErrNoResponders
	default: // deleted, shut down, another leader
		p.err = fmt.Errorf("the server ended the request: %s %s", code, text)
	}
	c.wakePuller()
}

// drain stops the subscription without losing what is on its way, which would else be missing until AckWait has passed.
func (p *puller) drain(sub *nats.Subscription) {
	done := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(done) })
	if sub.Drain() != nil {
		_ = sub.Unsubscribe()
		return
	}
	t := time.NewTimer(drainWait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		_ = sub.Unsubscribe()
	}
}
