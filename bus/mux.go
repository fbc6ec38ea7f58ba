package bus

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/opspawn/opscore/bus/event"
)

// sweepEvery is the resolution of timeouts.
const sweepEvery = 50 * time.Millisecond

// mux waits for many answers on one wildcard subscription. A waiter costs a map entry and an entry in a list of what
// times out together; there is no subscription, goroutine or timer per waiter.
type mux struct {
	prefix string // of every inbox: "_INBOX.<unique>."
	opened bool

	mu        sync.Mutex
	last      uint64 // id of the youngest waiter
	waiting   map[uint64]waiter
	publishes int
	requests  int
	due       map[int64][]uint64 // tick in which the waiters time out; those answered before are skipped
	swept     int64              // last tick that was swept
	closed    bool
	quiet     chan struct{} // when set: closed as soon as no publish waits

	start   time.Time
	stop    chan struct{}
	stopped chan struct{}
}

// waiter is told exactly once: of the first answer, of its timeout, or of the end of the connection.
type waiter struct {
	kind waiterKind
	done func(*nats.Msg, error)
}

type waiterKind uint8

const (
	waitOutcome waiterKind = iota // of a Call: outlives reconnects
	waitRequest                   // of a core NATS request: outlives reconnects, bounded in number
	waitAck                       // of a stream: fails when the connection is lost
)

func newMux() *mux {
	return &mux{
		prefix:  event.InboxPrefix + nuid.Next() + ".",
		waiting: make(map[uint64]waiter),
		due:     make(map[int64][]uint64),
		start:   time.Now(),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
}

// open begins to take answers.
func (m *mux) open(nc *nats.Conn) error {
	sub, err := nc.Subscribe(m.prefix+"*", m.receive)
	if err != nil {
		return fmt.Errorf("subscribe to the inbox: %w", err)
	}
	// What may wait is bounded; answers to it must not be dropped when they come at once.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("subscribe to the inbox: %w", err)
	}
	m.opened = true
	go m.sweep()
	return nil
}

// add registers a waiter and returns its inbox. A timeout of 0 means none: the caller then drops the waiter itself.
func (m *mux) add(kind waiterKind, timeout time.Duration, done func(*nats.Msg, error)) (inbox string, id uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return "", 0, nats.ErrConnectionClosed
	}
	if kind == waitRequest && m.requests >= maxRequests {
		return "", 0, ErrTooManyRequests
	}
	m.last++
	id = m.last
	m.waiting[id] = waiter{kind: kind, done: done}
	m.count(kind, 1)
	if timeout > 0 {
		tick := m.tick(time.Now().Add(timeout)) + 1
		m.due[tick] = append(m.due[tick], id)
	}
	return m.inbox(id), id, nil
}

func (m *mux) inbox(id uint64) string {
	b := make([]byte, 0, len(m.prefix)+13)
	return string(strconv.AppendUint(append(b, m.prefix...), id, 36))
}

// take removes a waiter and reports whether it was still there: whoever takes it tells it.
func (m *mux) take(id uint64) (waiter, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.takeLocked(id)
}

func (m *mux) takeLocked(id uint64) (waiter, bool) {
	w, ok := m.waiting[id]
	if ok {
		delete(m.waiting, id)
		m.count(w.kind, -1)
	}
	return w, ok
}

func (m *mux) count(kind waiterKind, n int) {
	switch kind {
	case waitRequest:
		m.requests += n
	case waitAck:
		m.publishes += n
		if m.publishes == 0 && m.quiet != nil {
			close(m.quiet)
			m.quiet = nil
		}
	}
}

// receive runs on the subscription's goroutine.
func (m *mux) receive(msg *nats.Msg) {
	id, err := strconv.ParseUint(strings.TrimPrefix(msg.Subject, m.prefix), 36, 64)
	if err != nil {
		return
	}
	w, ok := m.take(id)
	if !ok {
		return // answered before, or given up
	}
	if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		w.done(nil, nats.ErrNoResponders)
		return
	}
	w.done(msg, nil)
}

func (m *mux) tick(t time.Time) int64 { return int64(t.Sub(m.start) / sweepEvery) }

func (m *mux) sweep() {
	defer close(m.stopped)
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			for _, w := range m.timedOut(m.tick(now)) {
				w.done(nil, errTimeout)
			}
		case <-m.stop:
			return
		}
	}
}

// timedOut takes the waiters of all ticks up to and including now.
func (m *mux) timedOut(now int64) []waiter {
	m.mu.Lock()
	defer m.mu.Unlock()
	var late []waiter
	for ; m.swept <= now; m.swept++ {
		for _, id := range m.due[m.swept] {
			if w, ok := m.takeLocked(id); ok {
				late = append(late, w)
			}
		}
		delete(m.due, m.swept)
	}
	return late
}

// failPublishes tells all publishes that their acknowledgement will not come.
func (m *mux) failPublishes(err error) {
	for _, w := range m.takeAll(func(w waiter) bool { return w.kind == waitAck }) {
		w.done(nil, err)
	}
}

func (m *mux) takeAll(which func(waiter) bool) []waiter {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []waiter
	for id, w := range m.waiting {
		if which(w) {
			all = append(all, w)
			m.takeLocked(id)
		}
	}
	return all
}

// awaitPublishes waits until no publish is unanswered, or for the given time.
func (m *mux) awaitPublishes(limit time.Duration) {
	m.mu.Lock()
	if m.publishes == 0 {
		m.mu.Unlock()
		return
	}
	quiet := make(chan struct{})
	m.quiet = quiet
	m.mu.Unlock()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-quiet:
	case <-t.C:
	}
}

// close ends the sweep and fails every waiter.
func (m *mux) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	if m.opened {
		close(m.stop)
		<-m.stopped
	}
	for _, w := range m.takeAll(func(waiter) bool { return true }) {
		w.done(nil, nats.ErrConnectionClosed)
	}
}

// errTimeout says that nobody answered in time; the methods of Conn say it in their own words.
var errTimeout = errors.New("bus: no answer in time")
