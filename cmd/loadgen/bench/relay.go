package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
)

// The bare relay is the least that must be done to take a start from a stream, store it and ask an agent, and then to take and store the result: what is
// between this and Ops-Core is Ops-Core. It checks nothing, knows of no agent whether it is there, and loses and doubles tasks when it is killed.
const (
	relayName    = "the bare relay"
	relayStream  = "BENCH_RELAY"
	relayDurable = "relay"
	relayStart   = "relay.start."  // and the id of the run
	relayResult  = "relay.result." // likewise
	relayTask    = "relay.task."   // and the number of the agent
	relayHeld    = 4096            // messages delivered and not acknowledged
	relayPull    = 1024            // messages asked for at a time
	relayConns   = 4               // of the agents
)

// serveRelay is the child process that relays.
func serveRelay(ctx context.Context, natsURL, storeURL string) error {
	options, err := redis.ParseURL(storeURL)
	if err != nil {
		return err
	}
	options.Protocol = 2 // as Ops-Core does
	store := redis.NewClient(options)
	defer func() { _ = store.Close() }() // each answer was awaited
	nc, err := nats.Connect(natsURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	consumer, err := js.CreateConsumer(ctx, relayStream, jetstream.ConsumerConfig{
		Durable: relayDurable, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: relayHeld,
	})
	if err != nil {
		return err
	}
	accepted, err := swallow(nc)
	if err != nil {
		return err
	}
	held := make(chan jetstream.Msg, relayHeld)
	consuming, err := consumer.Consume(func(m jetstream.Msg) { held <- m }, jetstream.PullMaxMessages(relayPull))
	if err != nil {
		return err
	}
	defer consuming.Stop()
	fmt.Println(relayStream) // it is ready
	tasks := 0
	for batch := make([]jetstream.Msg, 0, relayHeld); ; {
		select {
		case m := <-held:
			batch = append(batch[:0], m)
		case <-ctx.Done():
			return nil
		}
		for len(held) > 0 {
			batch = append(batch, <-held)
		}
		if err := relay(ctx, nc, store, batch, &tasks, accepted); err != nil {
			return err
		}
	}
}

// relay stores a batch in one round trip, gives what was started to the agents in turn, and acknowledges all.
func relay(ctx context.Context, nc *nats.Conn, store *redis.Client, batch []jetstream.Msg, tasks *int, accepted string) error {
	_, err := store.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, m := range batch {
			subject := m.Subject()
			p.HSet(ctx, "relay:"+subject[strings.LastIndexByte(subject, '.')+1:], "state", subject, "data", m.Data())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store a batch: %w", err)
	}
	for _, m := range batch {
		if run, ok := strings.CutPrefix(m.Subject(), relayStart); ok {
			*tasks++
			if err := nc.PublishRequest(fmt.Sprint(relayTask, *tasks%runAgents), accepted, []byte(run)); err != nil {
				return fmt.Errorf("ask an agent: %w", err)
			}
		}
	}
	for _, m := range batch {
		if err := m.Ack(); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
	}
	return nil
}

// swallow returns a subject for answers that are received, as whoever asks must, and not looked at.
func swallow(nc *nats.Conn) (string, error) {
	inbox := nc.NewInbox()
	_, err := nc.Subscribe(inbox, func(*nats.Msg) {})
	return inbox, err
}

// relayLatency starts runs of a bare relay at a fixed rate and times them as those of Ops-Core are. It returns also the CPU seconds that were spent.
func (l *lab) relayLatency(ctx context.Context, f *fleet, rate int) (t *timing, spent string, err error) {
	stream := jetstream.StreamConfig{Name: relayStream, Subjects: []string{relayStart + "*", relayResult + "*"}, Storage: jetstream.FileStorage}
	if _, err := l.conn.JS().CreateStream(ctx, stream); err != nil {
		return nil, "", fmt.Errorf("create its stream: %w", err)
	}
	defer func() { err = errors.Join(err, l.conn.JS().DeleteStream(ctx, relayStream)) }() // what it stored goes with the folder of Redis
	running, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	a := f.expect(rate * int(relayTime/time.Second))
	for i := range relayConns {
		nc, err := l.relayAgents(i, a, fail)
		if err != nil {
			return nil, "", err
		}
		defer nc.Close()
	}
	h, err := l.help(ctx, "relay", l.env.NATSURL, l.env.StoreURL)
	if err != nil {
		return nil, "", err
	}
	defer h.close()
	before := l.cpu()
	t, err = a.drive(running, l.conn, rate, func(run string) *nats.Msg {
		m := startMessage(run, "bench")
		m.Subject = relayStart + run
		return m
	})
	if err != nil {
		return nil, "", err
	}
	spent = l.cpu().since(before)
	h.close()
	used := h.cmd.ProcessState.UserTime() + h.cmd.ProcessState.SystemTime()
	return t, fmt.Sprintf("%s, relay %.1f", spent, used.Seconds()), nil
}

// relayAgents lets the agents of one connection accept tasks and say their results, as those of Ops-Core do, until the connection is closed.
func (l *lab) relayAgents(conn int, a *arrivals, fail func(error)) (*nats.Conn, error) {
	nc, err := nats.Connect(l.env.NATSURL)
	if err != nil {
		return nil, err
	}
	stored, err := swallow(nc)
	for agent := conn; agent < runAgents && err == nil; agent += relayConns {
		_, err = nc.Subscribe(fmt.Sprint(relayTask, agent), func(m *nats.Msg) {
			run := string(m.Data)
			a.note(run)
			if err := errors.Join(m.Respond([]byte(`{"status":"accepted"}`)), nc.PublishRequest(relayResult+run, stored, []byte(`{"ok":true}`))); err != nil {
				fail(fmt.Errorf("agent: %w", err))
			}
		})
	}
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}
