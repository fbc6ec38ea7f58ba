package bus

import (
	"context"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// minLater keeps a verdict of Later from becoming a bare Nak.
const minLater = 10 * time.Millisecond

// inProgress renews the ownership of a message.
var inProgress = []byte("+WPI")

// worker handles the messages of its share of the keys, one batch after another.
type worker struct {
	c    *Consumer
	wake chan struct{} // the queue is not empty any more

	mu    sync.Mutex
	queue []*Msg            // not begun
	open  map[*Msg]struct{} // begun and not settled
}

func newWorker(c *Consumer) *worker {
	return &worker{c: c, wake: make(chan struct{}, 1), open: make(map[*Msg]struct{})}
}

func (w *worker) push(m *Msg) {
	w.mu.Lock()
	w.queue = append(w.queue, m)
	w.mu.Unlock()
	wake(w.wake)
}

// take begins the next batch: as many messages as are queued and allowed, none if the queue is empty.
func (w *worker) take() []*Msg {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, bytes := 0, 0
	for n < len(w.queue) && n < w.c.cfg.MaxBatch {
		bytes += w.queue[n].size
		if n > 0 && bytes > w.c.cfg.MaxBytes {
			break
		}
		n++
	}
	if n == 0 {
		return nil
	}
	batch := make([]*Msg, n)
	copy(batch, w.queue)
	rest := copy(w.queue, w.queue[n:])
	clear(w.queue[rest:])
	w.queue = w.queue[:rest]
	for _, m := range batch {
		w.open[m] = struct{}{}
	}
	return batch
}

// run handles batches until stop is closed; the batch begun by then is finished if its handler can decide.
func (w *worker) run(ctx context.Context, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if batch := w.take(); batch != nil {
			w.c.cfg.Crash("after-fetch")
			w.handle(ctx, stop, batch)
			continue
		}
		select {
		case <-w.wake:
		case <-stop:
			return
		}
	}
}

// handle offers a batch to the handler until every message is settled, or until stop. Pieces of it are kept in order.
func (w *worker) handle(ctx context.Context, stop <-chan struct{}, batch []*Msg) {
	wait := newBackoff(50*time.Millisecond, time.Second)
	failing := false
	defer func() {
		if failing {
			w.c.handlerRecovered()
		}
	}()
	pieces := [][]*Msg{batch} // what is left, the next one last
	for len(pieces) > 0 {
		piece := pieces[len(pieces)-1]
		pieces = pieces[:len(pieces)-1]
		caught, err := w.offer(ctx, piece)
		if caught != nil && len(piece) > 1 {
			half := len(piece) / 2
			pieces = append(pieces, piece[half:], piece[:half:half])
			continue
		}
		if caught != nil {
			piece[0].caught = caught
			piece[0].Dead(event.Errorf(event.CodePanic, "the handler panicked: %v", caught.value))
		}
		left := piece
		if err == nil {
			left, err = w.settle(ctx, piece)
		}
		if err == nil {
			wait.reset()
			continue
		}
		pieces = append(pieces, left)
		if !failing {
			failing = true
			w.c.handlerFails(err)
		}
		if !wait.sleepUnless(stop) {
			return
		}
	}
}

// caughtPanic is what a handler panicked with.
type caughtPanic struct {
	value any
	stack []byte
}

// offer calls the handler, with all verdicts taken back.
func (w *worker) offer(ctx context.Context, piece []*Msg) (caught *caughtPanic, err error) {
	for _, m := range piece {
		m.Verdict = Verdict{}
	}
	defer func() {
		if r := recover(); r != nil {
			caught = &caughtPanic{value: r, stack: debug.Stack()}
		}
	}()
	return nil, w.c.cfg.Handler(ctx, piece)
}

// settle carries out the verdicts: dead letters are stored, outcomes said, and then messages acknowledged. It returns
// the messages for which that is not possible yet, and why.
func (w *worker) settle(ctx context.Context, piece []*Msg) (left []*Msg, err error) {
	committed := time.Now()
	w.c.cfg.Crash("before-reply")
	settled := make([]*Msg, 0, len(piece))
	for _, m := range piece {
		if w.c.forNewer(m, committed) {
			m.Later(putOff)
		}
		switch m.Verdict.Kind {
		case VerdictNone:
			left, err = append(left, m), fmt.Errorf("the handler gave no verdict on message %d", m.Seq)
			continue
		case VerdictDead:
			if buryErr := w.bury(ctx, m); buryErr != nil {
				left, err = append(left, m), buryErr
				continue
			}
		}
		w.answer(m, committed)
		settled = append(settled, m)
	}
	w.c.cfg.Crash("before-ack")
	acks := make([]nats.Msg, len(settled)) // without the bodies of what they acknowledge
	for i, m := range settled {
		acks[i] = nats.Msg{Subject: m.reply, Data: m.acknowledgement()}
	}
	w.c.conn.soon.add(func() {
		for i := range acks {
			// An acknowledgement that cannot be sent, or is lost, means another delivery, which changes nothing.
			_ = w.c.conn.nc.PublishMsg(&acks[i])
		}
	})
	w.close(settled)
	return left, err
}

// What this version does not know is offered again so often, and for so long: while it waits the stream is not taken in behind it.
const (
	putOff      = time.Second
	putOffLimit = 10 * time.Minute
)

// forNewer reports whether a message that would be buried is one that only a newer version knows.
func (c *Consumer) forNewer(m *Msg, now time.Time) bool {
	return m.Verdict.Kind == VerdictDead && c.cfg.Newer != nil && !event.Known(m.Subject) && now.Sub(m.Time) < putOffLimit && c.cfg.Newer()
}

// acknowledgement is what is said to the server: nothing acknowledges.
func (m *Msg) acknowledgement() []byte {
	if m.Verdict.Kind == VerdictLater {
		return nak(max(m.Verdict.After, minLater))
	}
	return nil
}

func nak(delay time.Duration) []byte {
	return []byte(`-NAK {"delay":` + strconv.FormatInt(delay.Nanoseconds(), 10) + `}`)
}

// answer says the outcome to whoever waits for it, and when the message got how far.
func (w *worker) answer(m *Msg, committed time.Time) {
	to := m.Header.Get(event.HeaderReply)
	if to == "" || !event.HonoursReply(to) {
		return
	}
	o := m.outcome()
	if o == nil {
		return
	}
	said := *o
	if said.Seq == 0 {
		said.Seq = m.Seq
	}
	// One that is lost is asked for: the caller knows the sequence.
	_ = w.c.conn.nc.PublishMsg(&nats.Msg{Subject: to, Data: event.MustMarshal(&said), Header: nats.Header{
		event.HeaderConsumedAt:  {m.arrived.UTC().Format(time.RFC3339Nano)},
		event.HeaderCommittedAt: {committed.UTC().Format(time.RFC3339Nano)},
	}})
}

// bury stores the dead letter of a message.
func (w *worker) bury(ctx context.Context, m *Msg) error {
	if m.Verdict.Err == nil {
		m.Verdict.Err = event.Errorf(event.CodeInternal, "no reason was given")
	}
	err := w.c.conn.Bury(ctx, &Letter{
		Subject: m.Subject, Header: m.Header, Data: m.Data, Stream: m.Stream, Seq: m.Seq, First: m.Time, Count: m.Delivered, Err: m.Verdict.Err,
	})
	if err != nil {
		return fmt.Errorf("message %d: %w", m.Seq, err)
	}
	log := w.c.log.With("subject", m.Subject, "seq", m.Seq, "delivered", m.Delivered, "err", m.Verdict.Err)
	if m.caught != nil {
		log.Error("handler panicked, message buried", "stack", string(m.caught.stack))
	} else {
		log.Warn("message buried")
	}
	return nil
}

// close forgets messages.
func (w *worker) close(messages []*Msg) {
	bytes := 0
	w.mu.Lock()
	for _, m := range messages {
		delete(w.open, m)
		bytes += m.size
	}
	w.mu.Unlock()
	w.c.release(len(messages), bytes)
}

// renew keeps the ownership of the messages that were last renewed before the given time.
func (w *worker) renew(before time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	renew := func(m *Msg) {
		if m.renewed.Before(before) && w.c.conn.nc.Publish(m.reply, inProgress) == nil {
			m.renewed = now
		}
	}
	for _, m := range w.queue {
		renew(m)
	}
	for m := range w.open {
		renew(m)
	}
}

// handBack gives everything back that has no verdict.
func (w *worker) handBack() {
	w.mu.Lock()
	all := w.queue
	w.queue = nil
	for m := range w.open {
		all = append(all, m)
	}
	w.mu.Unlock()
	for _, m := range all {
		_ = w.c.conn.nc.Publish(m.reply, nak(handBackDelay))
	}
	w.close(all)
}
