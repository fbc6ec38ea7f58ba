package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

const (
	beatAgents = 100_000
	beatEvery  = 10 * time.Second
	beatTick   = 10 * time.Millisecond
	beatWarm   = 2 * beatEvery
	beatTime   = 3 * beatEvery
)

func beatID(i int) string { return fmt.Sprintf("beating-%d", i) }

// benchBeats measures what it costs a server to hear and judge the heartbeats of a fleet in which nothing else happens.
func benchBeats(ctx context.Context, l *lab) ([]Figure, error) {
	if err := l.start(ctx); err != nil {
		return nil, err
	}
	_, err := PublishAll(l.conn, beatAgents, func(i int) *nats.Msg {
		m := nats.NewMsg(event.AgentSubject(event.VerbRegister, beatID(i)))
		m.Data = event.MustMarshal(&event.Register{
			AgentName: beatID(i), Version: "1.0", Capabilities: []string{fmt.Sprintf("bench-%d", i%100)}, Instance: fmt.Sprintf("process-%d", i),
			HeartbeatSeconds: beatEvery.Seconds(),
		})
		return m
	})
	if err == nil {
		err = CaughtUp(ctx, l.conn)
	}
	if err == nil {
		err = l.beat(ctx, beatWarm)
	}
	if err != nil {
		return nil, err
	}
	before, begin := l.cpu(), time.Now()
	if err := l.beat(ctx, beatTime); err != nil {
		return nil, err
	}
	used, took := l.cpu()[env.Replica(1)]-before[env.Replica(1)], time.Since(begin).Seconds()
	p := l.env.Processes()
	wrong, err := l.silent(ctx)
	if err != nil {
		return nil, err
	}
	if wrong > 0 {
		return nil, fmt.Errorf("%d of %d beating agents are suspect or lost", wrong, beatAgents)
	}
	return []Figure{
		{
			Name: "server CPU, 100,000 agents beat every 10 s", Value: 100 * used / took, Unit: "%", Goal: "< 30 % of a core",
			Note: "CPU s: " + l.cpu().since(before),
		},
		{
			Name: "server memory, 100,000 agents beat every 10 s", Value: p[env.Replica(1)].OwnMiB, Unit: "MiB", Goal: "< 300 MB",
			Note: fmt.Sprintf("RssAnon+RssShmem; VmRSS %.0f MiB", p[env.Replica(1)].RSSMiB),
		},
	}, nil
}

// beat lets all agents beat, one after the other, for a while.
func (l *lab) beat(ctx context.Context, d time.Duration) error {
	nc := l.conn.NC()
	reply := nc.NewInbox() // as the SDK does; only a refusal would be said there
	tick := time.NewTicker(beatTick)
	defer tick.Stop()
	begin, sent := time.Now(), 0
	for time.Since(begin) < d {
		for ; sent < int(time.Since(begin).Seconds()*beatAgents/beatEvery.Seconds()); sent++ {
			i := sent % beatAgents
			body := fmt.Appendf(nil, `{"instance":"process-%d","load":0}`, i)
			if err := nc.PublishRequest(event.HeartbeatSubject(beatID(i)), reply, body); err != nil {
				return fmt.Errorf("beat: %w", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// silent counts the agents that are not live.
func (l *lab) silent(ctx context.Context) (n int, err error) {
	store, err := storage.Open(ctx, l.env.StoreURL, server.Drivers...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = store.Close() }() // it was only read
	const page = 1000
	ids := make([]string, page)
	for first := 0; first < beatAgents; first += page {
		for i := range ids {
			ids[i] = beatID(first + i)
		}
		gates, err := lifecycle.Gates(ctx, store, ids...)
		if err != nil {
			return 0, err
		}
		for _, g := range gates {
			if g.Liveness() != event.LivenessLive {
				n++
			}
		}
	}
	return n, nil
}
