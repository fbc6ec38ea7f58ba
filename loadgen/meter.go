package loadgen

import (
	"net/http"
	"strconv"
	"time"
)

// Meter measures the requests of a load that no scenario describes, as those of `loadgen chaos`. It is safe for concurrent use.
type Meter struct {
	stats *statistics
	last  time.Time // of the last point
}

// NewMeter returns a meter whose first point begins now.
func NewMeter() *Meter { return &Meter{stats: newStatistics(), last: time.Now()} }

// Request is one request that was made.
type Request struct {
	Operation string        // as "PUB state"
	Intended  time.Time     // when it should have been sent
	Sent      time.Time     // when it was
	Interval  time.Duration // between two requests of a sender that waits for answers: those that it left out meanwhile are counted too; 0 for others
	Err       error         // why it has failed
}

// Done adds a request that ends now.
func (m *Meter) Done(r Request) {
	s := &sample{operation: r.Operation, intended: r.Intended, sent: r.Sent, interval: r.Interval, done: time.Now()}
	if r.Err != nil {
		s.failed = classify(r.Err)
	}
	m.stats.shard(int(r.Intended.UnixNano())).record(s)
}

// Point adds to a point what was measured since the last one. One goroutine calls it.
func (m *Meter) Point(p *Point) {
	now := time.Now()
	m.stats.gather().point(p, now.Sub(m.last))
	m.last = now
}

// Sum adds to a result what was measured over a time. Requests that failed later than in that time count too.
func (m *Meter) Sum(r *Result, over time.Duration) {
	m.stats.gather()
	m.stats.sum(r, over)
}

// StatusError is that of a request whose answer had another HTTP status than it should; the status is the class of the failure.
func StatusError(status int) error {
	return failuref(strconv.Itoa(status), "%s", http.StatusText(status))
}
