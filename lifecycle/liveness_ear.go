package lifecycle

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

const (
	maxEcho  = time.Second     // a probe that takes longer to come back shows that beats were late, or stood still
	lostEcho = 5 * time.Second // such a probe will not come back: it was dropped
	settle   = 5 * time.Second // after an outage of the bus agents have to reconnect, too

	pendingBeats = 1 << 18  // beats that may wait to be heard
	pendingBytes = 64 << 20 // of them
)

// ear hears the heartbeats of all agents and knows since when it has missed none.
//
// It sends itself a probe on the same subscription, one at a time. A probe that comes back shows that everything the server had before it was heard:
// when it was sent is the time up to which agents may be judged, however far this process lags behind. One that is late, a reconnect
// and dropped messages are gaps: from their end on everything counts anew.
type ear struct {
	nc     *nats.Conn
	beats  *nats.Subscription
	hints  *nats.Subscription
	roster *roster
	clock  func() tick
	probe  string // subject

	mu         sync.Mutex
	sent       uint64 // number of the last probe
	sentAt     tick
	back       bool // it came back
	clear      tick // when the last probe that came back was sent
	since      tick // since when everything was heard; 0: it is not, now
	gap        string
	dropped    int
	reconnects uint64
}

// probePrefix begins the last token of a probe's subject. No agent's token begins with it.
const probePrefix = "~"

func listen(nc *nats.Conn, name string, r *roster, clock func() tick) (*ear, error) {
	e := &ear{
		nc: nc, roster: r, clock: clock, probe: event.HeartbeatSubject(probePrefix + name),
		back: true, gap: "start", reconnects: nc.Stats().Reconnects,
	}
	var err error
	if e.beats, err = nc.Subscribe(event.SubjectHeartbeatAll, e.hear); err != nil {
		return nil, fmt.Errorf("subscribe to heartbeats: %w", err)
	}
	if err := e.beats.SetPendingLimits(pendingBeats, pendingBytes); err != nil {
		e.close()
		return nil, fmt.Errorf("subscribe to heartbeats: %w", err)
	}
	e.hints, err = nc.Subscribe(event.SubjectHeard, func(m *nats.Msg) {
		var w event.Wake
		if event.Unmarshal(m.Data, &w) == nil {
			r.hint(w.Agents)
		}
	})
	if err != nil {
		e.close()
		return nil, fmt.Errorf("subscribe to hints: %w", err)
	}
	return e, nil
}

func (e *ear) close() {
	_ = e.beats.Unsubscribe() // fails only on a closed connection
	if e.hints != nil {
		_ = e.hints.Unsubscribe()
	}
}

// hear takes in one beat or probe. Bodies that are no heartbeat are nobody's sign of life.
func (e *ear) hear(m *nats.Msg) {
	token := event.Key(m.Subject)
	if strings.HasPrefix(token, probePrefix) {
		if m.Subject == e.probe {
			e.echoed(string(m.Data))
		}
		return
	}
	instance, ok := instanceOf(m.Data)
	if !ok {
		return
	}
	reply := m.Reply
	if !event.HonoursReply(reply) {
		reply = ""
	}
	e.roster.hear(token, instance, reply, e.clock())
}

// instanceOf returns the process that a beat names, without decoding the usual ones: an empty body, and one that begins with the name.
func instanceOf(body []byte) (instance string, ok bool) {
	if len(body) == 0 {
		return "", true
	}
	const head = `{"instance":"`
	if rest, found := strings.CutPrefix(string(body), head); found {
		if name, _, closed := strings.Cut(rest, `"`); closed && !strings.ContainsRune(name, '\\') {
			return name, true
		}
	}
	var h event.Heartbeat
	err := event.Unmarshal(body, &h)
	return h.Instance, err == nil
}

func (e *ear) echoed(number string) {
	n, err := strconv.ParseUint(number, 10, 64)
	now := e.clock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil || n != e.sent || e.back {
		return
	}
	e.back = true
	if now-e.sentAt > maxEcho {
		e.broken(lateProbe)
		return // what comes after it may have been late as well
	}
	e.clear = e.sentAt
	if e.gap != "" {
		e.gap, e.since = "", now+settle
	}
}

const lateProbe = "heartbeats are late"

// broken notes a gap. Its mutex is held.
func (e *ear) broken(why string) { e.gap, e.since = why, 0 }

// listening looks for gaps, sends the next probe, and returns up to when and since when everything was heard. Gap says why it is not; before since,
// agents are given time to come back after one.
func (e *ear) listening() (clear, since tick, gap string) {
	now := e.clock()
	stats := e.nc.Stats()
	dropped, err := e.beats.Dropped()
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err != nil || !e.nc.IsConnected():
		e.broken("not connected to NATS")
	case stats.Reconnects != e.reconnects:
		e.broken("reconnected to NATS")
		e.back = true // the probe was lost with the connection
	case dropped != e.dropped:
		e.broken("heartbeats were dropped: this process is too slow")
	case !e.back && now-e.sentAt > maxEcho:
		e.broken(lateProbe)
	}
	e.reconnects, e.dropped = stats.Reconnects, dropped
	lost := !e.back && now-e.sentAt > lostEcho
	if (e.back || lost) && e.nc.IsConnected() {
		e.sent++
		e.sentAt, e.back = now, false
		if e.nc.Publish(e.probe, strconv.AppendUint(nil, e.sent, 10)) != nil {
			e.back = true
		}
	}
	return e.clear, e.since, e.gap
}
