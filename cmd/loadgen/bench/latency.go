package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/loadgen"
)

const (
	latencyTime = 15 * time.Second
	relayTime   = 8 * time.Second
	latencyWarm = 1                // seconds at the beginning that do not count
	latencyRest = 60 * time.Second // after the last was sent, until all must have arrived
	perSecond   = 2                // stretches of time that are looked at alone
)

// benchLatency starts runs at a fixed rate and measures how long each takes to its agent, beside the least that anything of that shape must do.
func benchLatency(ctx context.Context, l *lab) ([]Figure, error) {
	f, err := prepare(ctx, l, "bench", 1)
	if err != nil {
		return nil, err
	}
	defer f.close()
	var figures []Figure
	for _, r := range []struct {
		rate     int
		p50, p99 string
	}{{1000, "< 1.5 ms", ""}, {2000, "< 1.5 ms", "< 10 ms"}} {
		bare, spent, err := l.relayLatency(ctx, f, r.rate)
		if err != nil {
			return figures, fmt.Errorf("the bare relay: %w", err)
		}
		before := l.cpu()
		t, err := f.latency(ctx, l.conn, r.rate, latencyTime)
		if err != nil {
			return figures, err
		}
		name := fmt.Sprintf("start → agent at %d runs/s, ", r.rate)
		p50, p99, bare50, bare99 := quantile(t.waits, 50), quantile(t.waits, 99), quantile(bare.waits, 50), quantile(bare.waits, 99)
		figures = append(figures,
			Figure{
				Name: name + "p50", Value: p50, Unit: "ms", Ratio: p50 / bare50, Baseline: relayName, Goal: r.p50,
				Note: fmt.Sprintf("%s: p50 %s ms, p99 %s; %s; CPU seconds in %s: %s", relayName, number(bare50), number(bare99), bare, relayTime, spent),
			},
			Figure{
				Name: name + "p99", Value: p99, Unit: "ms", Ratio: p99 / bare99, Baseline: relayName, Goal: r.p99,
				Note: fmt.Sprintf("%s; CPU seconds in %s: %s", t, latencyTime, l.cpu().since(before)),
			},
		)
	}
	return figures, nil
}

// latency starts runs at a fixed rate for a while and times them from the intended time to the agent's handler.
func (f *fleet) latency(ctx context.Context, conn *bus.Conn, rate int, length time.Duration) (*timing, error) {
	a := f.expect(rate * int(length/time.Second))
	f.watched.Store(a)
	return a.drive(ctx, conn, rate, func(run string) *nats.Msg { return startMessage(run, "bench") })
}

// The ids of runs have a number at their end, from which one sees without looking it up which run it is, and are otherwise as long and as far from one
// another as others are.
const (
	idMiddle  = "-0000-4000-8000-"
	idNumbers = 8 + len(idMiddle)
	idLength  = idNumbers + 12
)

func runID(n int) string { return fmt.Sprintf("%08x%s%012d", uint32(n)*2654435761, idMiddle, n) }

// runNumber returns the number of a run that runID has named.
func runNumber(id string) (n int, ok bool) {
	if len(id) != idLength || id[8:idNumbers] != idMiddle {
		return 0, false
	}
	n, err := strconv.Atoi(id[idNumbers:])
	return n, err == nil
}

// arrivals is when each of a number of runs reached an agent first. It holds no pointers and does not grow: what the garbage collector of this process
// does beside the servers would be charged to them.
type arrivals struct {
	first int // number of the first run
	since time.Time
	at    []atomic.Int64 // ns after since, 0 until then
	left  atomic.Int64   // have not arrived
}

func newArrivals(first, n int) *arrivals {
	a := &arrivals{first: first, since: time.Now(), at: make([]atomic.Int64, n)}
	a.left.Store(int64(n))
	return a
}

// note notes that a run has reached an agent, unless it is none of these, or has before.
func (a *arrivals) note(run string) {
	now := time.Since(a.since)
	n, ok := runNumber(run)
	if i := n - a.first; ok && i >= 0 && i < len(a.at) && a.at[i].CompareAndSwap(0, int64(max(now, 1))) {
		a.left.Add(-1)
	}
}

// drive sends the messages that start the runs, so many a second, whatever becomes of them, and returns when all have arrived.
func (a *arrivals) drive(ctx context.Context, conn *bus.Conn, rate int, message func(run string) *nats.Msg) (*timing, error) {
	late := make([]time.Duration, len(a.at))
	defer holdCollector()()
	begin := time.Now()
	due := func(i int) time.Time { return begin.Add(time.Duration(i) * time.Second / time.Duration(rate)) }
	for i := range late {
		at := due(i)
		for wait := time.Until(at); wait > 0; wait = time.Until(at) {
			loadgen.PreciseSleep(wait) // not a timer of Go's: those are up to 1 ms late, which would be charged to the server
		}
		late[i] = time.Since(at)
		if err := conn.PublishAsync(message(runID(a.first+i)), func(bus.Ack, error) {}); err != nil { // one that is refused never arrives
			return nil, fmt.Errorf("start a run: %w", err)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, latencyRest, errors.New("they did not arrive in time"))
	defer cancel()
	for a.left.Load() > 0 {
		if sleep(ctx, 5*time.Millisecond) != nil {
			return nil, fmt.Errorf("%d of %d runs have not reached an agent: %w", a.left.Load(), len(a.at), context.Cause(ctx))
		}
	}
	waits := make([]time.Duration, len(a.at))
	for i := range waits {
		waits[i] = a.since.Add(time.Duration(a.at[i].Load())).Sub(due(i))
	}
	return newTiming(waits[latencyWarm*rate:], late[latencyWarm*rate:], rate/perSecond), nil
}

// holdCollector collects garbage now, and none until resume: in this process that would slow the agents and their clients for 300 ms once in 15 s,
// which decides a p99 and is no server's doing. Some 100 MB of it come together meanwhile. The servers collect theirs as ever.
func holdCollector() (resume func()) {
	runtime.GC()
	percent := debug.SetGCPercent(-1)
	return func() { debug.SetGCPercent(percent) }
}

// timing is how long things took, in ms, all sorted.
type timing struct {
	waits     []float64 // from the time at which each was due
	late      []float64 // how much of that was the sender's
	stretches []float64 // the p99 of each stretch of time alone: one stall of the machine decides that of all, and only that of a few of these
}

// newTiming sums up what was noted in the order of the times at which things were due, with so many of them to a stretch.
func newTiming(waits, late []time.Duration, stretch int) *timing {
	t := &timing{waits: sortedMillis(waits), late: sortedMillis(late)}
	for part := range slices.Chunk(waits, stretch) {
		t.stretches = append(t.stretches, quantile(sortedMillis(part), 99))
	}
	slices.Sort(t.stretches)
	return t
}

// String tells what is to be known beside the quantiles of the waits.
func (t *timing) String() string {
	return fmt.Sprintf("p99 of the half seconds: %s ms median, %s worst; sent %s ms late p50, %s p99", number(quantile(t.stretches, 50)),
		number(t.stretches[len(t.stretches)-1]), number(quantile(t.late, 50)), number(quantile(t.late, 99)))
}

func sortedMillis(all []time.Duration) []float64 {
	ms := make([]float64, len(all))
	for i, d := range all {
		ms[i] = float64(d.Microseconds()) / 1000
	}
	slices.Sort(ms)
	return ms
}

// quantile returns the value that so many percent of sorted ones come before.
func quantile(sorted []float64, percent int) float64 { return sorted[len(sorted)*percent/100] }
