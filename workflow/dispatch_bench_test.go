//go:build unix

package workflow

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

// work is the life of all agents whose names begin with live: each takes what it is given and says at once that it is done. Others never answer. Each time
// that so many tasks were given out it says so.
func (y *yard) work(every int64) (reached <-chan struct{}) {
	y.Helper()
	signal := make(chan struct{}, 1)
	var given atomic.Int64
	sub, err := y.conn.NC().Subscribe(event.TaskSubject("*"), func(m *nats.Msg) {
		id := event.Key(m.Subject)
		var task event.Task
		if !strings.HasPrefix(id, "live") || event.Unmarshal(m.Data, &task) != nil {
			return
		}
		_ = m.Respond([]byte(`{"status":"accepted"}`))
		result := event.Result{AttemptRef: task.Ref(), Status: event.StatusCompleted, Output: event.Raw(`1`)}
		_ = y.conn.NC().Publish(event.AgentSubject(event.VerbResult, id), event.MustMarshal(result))
		if given.Add(1)%every == 0 {
			signal <- struct{}{}
		}
	})
	if err != nil {
		y.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(y.Context()))
	done := make(chan error, 1)
	go func() { done <- y.engine.Run(ctx) }()
	y.Cleanup(func() {
		_ = sub.Unsubscribe()
		cancel()
		if err := <-done; err != nil {
			y.Error(err)
		}
	})
	return signal
}

// cpuTime is what the process has used.
func cpuTime(b *testing.B) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkDispatch is how many tasks a second are given out and done: with few and with a million that wait, and with 2,000 that wait for agents that
// never answer.
func BenchmarkDispatch(b *testing.B) {
	const burst, class = 1000, simpleClass + "work"
	for _, c := range []struct {
		name   string
		behind int
		dead   bool
	}{{"ready=1000", 0, false}, {"ready=1000000", 1_000_000, false}, {"beside-dead-agents", 0, true}} {
		b.Run(c.name, func(b *testing.B) {
			u, err := url.Parse(storagetest.StartRedis(b).URL())
			if err != nil {
				b.Fatal(err)
			}
			store, err := redisstore.Driver.Open(b.Context(), u)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = store.Close() })
			y := newYard(b, store)
			y.agents("live", 64, func(g *lifecycle.Gate) { g.Slots = 4 })
			y.behind(class, c.behind)
			y.ready(class, burst) // the last of a burst are no special case
			if c.dead {
				y.agents("dead", 200, func(g *lifecycle.Gate) { g.Caps = nil })
				for i := range 200 {
					y.ready(fmt.Sprintf("%sdead%04d", namedClass, i), 10)
				}
			}
			y.engine.mu.Lock()
			reached := y.work(burst)
			spent := cpuTime(b)
			for b.Loop() {
				b.StopTimer()
				before := cpuTime(b)
				y.ready(class, burst)
				spent += cpuTime(b) - before
				b.StartTimer()
				y.engine.inbox.hint(nil, []string{class})
				y.engine.mu.Unlock()
				<-reached
				y.engine.mu.Lock() // it stands still while there is more to be seeded
			}
			y.engine.mu.Unlock()
			b.ReportMetric(float64(b.N)*burst/b.Elapsed().Seconds(), "tasks/s")
			b.ReportMetric(float64((cpuTime(b)-spent).Microseconds())/float64(b.N*burst), "cpu-us/task") // of engine, bus and agents
		})
	}
}
