package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// Fleets of agents report one fleet after the other, each agent in its turn, as fast as the stream takes it. No agent reports more often than the
// stream keeps messages per subject, so none is evicted: neither here nor in the raw baseline.
const (
	stateFleets = 4
	fleetAgents = 1_000
	statePer    = 60 // events of each agent
	stateAgents = stateFleets * fleetAgents
	stateEvents = stateAgents * statePer
)

// stateOf returns the ith event of all.
func stateOf(i int) (agent, n int) {
	fleet, rest := i/(fleetAgents*statePer), i%(fleetAgents*statePer)
	return fleet*fleetAgents + rest%fleetAgents, rest / fleetAgents
}

// words are what the agents report, in turn.
var words = []string{"idle", "active", "idle", "error"}

func stateMessage(agent, n int) *nats.Msg {
	m := nats.NewMsg(event.AgentSubject(event.VerbState, fmt.Sprintf("bench-agent-%d", agent)))
	m.Data = event.MustMarshal(&event.State{
		State: words[n%len(words)], Timestamp: "2026-01-01T00:00:00Z",
		Details: event.Raw(fmt.Sprintf(`{"load_test":true,"user":"user-%d","n":%d}`, agent, n)),
	})
	return m
}

// PublishAll publishes n messages asynchronously, waits for all acknowledgements, and returns how long that took, and the last error.
func PublishAll(conn *bus.Conn, n int, message func(i int) *nats.Msg) (time.Duration, error) {
	var pending sync.WaitGroup
	var mu sync.Mutex
	var failed error
	begin := time.Now()
	for i := range n {
		pending.Add(1)
		err := conn.PublishAsync(message(i), func(_ bus.Ack, err error) {
			if err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
			pending.Done()
		})
		if err != nil {
			return 0, err
		}
	}
	pending.Wait()
	return time.Since(begin), failed
}

// rawPublish measures nats.go's own asynchronous publish of the same messages to a stream of the same kind that nobody reads.
func rawPublish(ctx context.Context, conn *bus.Conn) (float64, error) {
	js, err := jetstream.New(conn.NC(), jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		return 0, err
	}
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "RAW", Subjects: []string{"raw.>"}, MaxMsgsPerSubject: 64, Storage: jetstream.FileStorage})
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	for i := range stateEvents {
		m := stateMessage(stateOf(i))
		m.Subject = "raw." + m.Subject
		if _, err := js.PublishMsgAsync(m); err != nil {
			return 0, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return stateEvents / time.Since(begin).Seconds(), js.DeleteStream(ctx, "RAW")
}

func benchState(ctx context.Context, l *lab) ([]Figure, error) {
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	conn := l.conn
	raw, err := rawPublish(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("raw publish: %w", err)
	}
	if err := registerAgents(ctx, conn, stateAgents, 0); err != nil {
		return nil, err
	}
	cpu := l.cpu()
	begin := time.Now()
	published, err := PublishAll(conn, stateEvents, func(i int) *nats.Msg { return stateMessage(stateOf(i)) })
	if err != nil {
		return nil, fmt.Errorf("publish states: %w", err)
	}
	if err := CaughtUp(ctx, conn); err != nil {
		return nil, err
	}
	took := time.Since(begin)
	busy := l.cpu().since(cpu)
	missing, err := missingStates(ctx, l)
	if err != nil {
		return nil, err
	}
	stored := stateEvents / took.Seconds()
	return []Figure{
		{Name: "raw asynchronous JetStream publish", Value: raw, Unit: "/s", Note: "same payload, nobody reads"},
		{Name: "state events published, while being stored", Value: stateEvents / published.Seconds(), Unit: "/s"},
		{
			Name: "state events published → stored on Redis", Value: stored, Unit: "/s", Ratio: stored / raw, Baseline: "the raw publish", Goal: "≥ 30 %",
			Note: fmt.Sprintf("%d delivered and folded, %d missing; CPU seconds in %.1f s: %s", stateEvents-missing, missing, took.Seconds(), busy),
		},
	}, nil
}

// registerAgents registers agents and waits until all are stored. Metadata of the given size makes them as heavy as real ones.
func registerAgents(ctx context.Context, conn *bus.Conn, n, metadata int) error {
	_, err := PublishAll(conn, n, func(i int) *nats.Msg {
		m := nats.NewMsg(event.AgentSubject(event.VerbRegister, fmt.Sprintf("bench-agent-%d", i)))
		m.Data = event.MustMarshal(&event.Register{
			AgentName: fmt.Sprintf("bench agent %d", i), Version: "1.0", Capabilities: []string{fmt.Sprintf("bench-%d", i%100)},
			Metadata: event.MustMarshal(map[string]string{"text": string(make([]byte, metadata))}),
		})
		return m
	})
	if err != nil {
		return fmt.Errorf("register agents: %w", err)
	}
	return CaughtUp(ctx, conn)
}

// CaughtUp waits until everything published so far was taken in and acknowledged.
func CaughtUp(ctx context.Context, conn *bus.Conn) error {
	for {
		now := time.Now()
		at, err := conn.IntakeTime(ctx, now)
		if err == nil && at.Equal(now) {
			return nil
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// missingStates counts the events that a separate reader does not find in the histories: evicted or lost ones would be gaps.
func missingStates(ctx context.Context, l *lab) (int, error) {
	store, err := storage.Open(ctx, l.env.StoreURL, server.Drivers...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = store.Close() }()
	q := lifecycle.NewQueries(store)
	missing := 0
	for i := range stateAgents {
		history, err := q.History(ctx, fmt.Sprintf("bench-agent-%d", i))
		if err != nil {
			return 0, err
		}
		missing += statePer + 1 - len(history)
	}
	return missing, nil
}

func benchDev(ctx context.Context, l *lab) ([]Figure, error) {
	dir, err := os.MkdirTemp("", "opscore-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	begin := time.Now()
	dev, err := l.help(ctx, "dev", dir)
	if err != nil {
		return nil, err
	}
	defer func() { dev.close(); l.extra = nil }() // before its folder goes
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+dev.addr+"/readyz", http.NoBody)
		if err != nil {
			return nil, err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return []Figure{{Name: "dev: process start → ready", Value: time.Since(begin).Seconds() * 1000, Unit: "ms", Goal: "< 1000 ms"}}, nil
}

// benchReadable measures how long it takes from the publishing of an event until a separate reader finds it in the store. The reader looks
// again and again, which is part of what is measured.
func benchReadable(ctx context.Context, l *lab) ([]Figure, error) {
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	if err := registerAgents(ctx, l.conn, 1, 0); err != nil {
		return nil, err
	}
	store, err := storage.Open(ctx, l.env.StoreURL, server.Drivers...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	q := lifecycle.NewQueries(store)
	const samples, warm = 1100, 100
	waits := make([]float64, 0, samples)
	for n := range samples {
		m := stateMessage(0, n)
		want := fmt.Sprintf(`"n":%d}`, n)
		begin := time.Now()
		if err := l.conn.PublishAsync(m, func(bus.Ack, error) {}); err != nil {
			return nil, err
		}
		for {
			a, err := q.Get(ctx, "bench-agent-0")
			if err != nil {
				return nil, err
			}
			if strings.HasSuffix(string(a.Details), want) {
				break
			}
		}
		if n >= warm {
			waits = append(waits, float64(time.Since(begin).Microseconds())/1000)
		}
	}
	slices.Sort(waits)
	return []Figure{
		{Name: "event → readable in the store, p50", Value: waits[len(waits)/2], Unit: "ms"},
		{Name: "event → readable in the store, p99", Value: waits[len(waits)*99/100], Unit: "ms"},
	}, nil
}

func benchMemory(ctx context.Context, l *lab) ([]Figure, error) {
	const agents = 100_000
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	if err := registerAgents(ctx, l.conn, agents, 0); err != nil {
		return nil, err
	}
	if _, err := PublishAll(l.conn, agents, func(i int) *nats.Msg { return stateMessage(i, 0) }); err != nil {
		return nil, err
	}
	if err := CaughtUp(ctx, l.conn); err != nil {
		return nil, err
	}
	if err := sleep(ctx, 2*time.Second); err != nil {
		return nil, err
	}
	p := l.env.Processes()
	var others []string
	for _, name := range []string{env.NATS, env.Redis} {
		others = append(others, fmt.Sprintf("%s %.0f MiB", name, p[name].OwnMiB))
	}
	return []Figure{{
		Name: "server memory with 100,000 registered agents", Value: p[env.Replica(1)].OwnMiB, Unit: "MiB", Goal: "< 300 MB",
		Note: fmt.Sprintf("RssAnon+RssShmem; VmRSS %.0f MiB; %s", p[env.Replica(1)].RSSMiB, strings.Join(others, ", ")),
	}}, nil
}
