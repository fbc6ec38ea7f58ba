package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
)

// BenchmarkResults measures tasks from request to stored result: 64 agents in one process, a server in the same process with file
// storage, and a client that keeps every slot busy.
func BenchmarkResults(b *testing.B) {
	for _, share := range []bool{true, false} {
		b.Run(fmt.Sprintf("SharedConnection=%t", share), func(b *testing.B) { benchmarkResults(b, share) })
	}
}

func benchmarkResults(b *testing.B, share bool) {
	const agents, slots = 64, 8
	var conn *nats.Conn
	if share {
		conn = dial(b)
	}
	tokens := startFleet(b, conn, agents, slots)
	nc := dial(b)
	var asked atomic.Int64
	done := make(chan struct{})
	next := func(token string) {
		n := asked.Add(1)
		if n > int64(b.N) {
			return
		}
		tk := task(fmt.Sprintf("t%d", n), 1)
		tk.RunID = fmt.Sprintf("%s-%d", b.Name()[len("BenchmarkResults/"):], b.N)
		_ = nc.PublishRequest(event.TaskSubject(token), "_INBOX.void", event.MustMarshal(&tk))
	}
	var seen atomic.Int64
	sub, err := nc.Subscribe(event.SubjectResult, func(m *nats.Msg) {
		if seen.Add(1) == int64(b.N) {
			close(done)
		}
		next(event.Key(m.Subject))
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range agents * slots {
		next(tokens[i%agents])
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		b.Fatalf("%d of %d results", seen.Load(), b.N)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "results/s")
}

func dial(b *testing.B) *nats.Conn {
	b.Helper()
	nc, err := nats.Connect(shared.ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	return nc
}

// startFleet runs agents until the end of the benchmark and returns their tokens.
func startFleet(b *testing.B, conn *nats.Conn, agents, slots int) []string {
	b.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, agents)
	tokens := make([]string, agents)
	var fleet []*agent.Agent
	for i := range agents {
		id := fmt.Sprintf("bench-%d", i)
		tokens[i] = event.MustToken(id)
		a, err := agent.New(agent.Config{
			URL: shared.ClientURL(), Conn: conn, ID: id, Slots: slots, Heartbeat: -1, Log: slog.New(slog.DiscardHandler),
		}, echo)
		if err != nil {
			b.Fatal(err)
		}
		fleet = append(fleet, a)
		go func() { ended <- a.Run(ctx) }()
	}
	b.Cleanup(func() {
		stop()
		for range agents {
			if err := <-ended; err != nil {
				b.Error(err)
			}
		}
	})
	for _, a := range fleet {
		<-a.Ready()
	}
	return tokens
}
