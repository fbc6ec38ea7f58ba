package lifecycle

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

// openRedis opens a store of a server.
func openRedis(t *testing.T, server *storagetest.RedisServer) *redisstore.Store {
	t.Helper()
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	s, err := redisstore.Open(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func started(t *testing.T, store storage.Store, conn *bus.Conn) *Keeper {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	k := NewKeeper(store, conn, bustest.Log(t), func() {})
	if err := k.Check(ctx); err != nil {
		t.Fatal(err)
	}
	return k
}

// say publishes events, which nobody takes in.
func say(t *testing.T, conn *bus.Conn, n int) {
	t.Helper()
	for range n {
		m := nats.NewMsg(event.AgentSubject(event.VerbState, "a"))
		m.Data = []byte(`{"state":"idle"}`)
		if _, err := conn.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
}

// takeIn acknowledges everything there is.
func takeIn(t *testing.T, conn *bus.Conn, upTo uint64) {
	t.Helper()
	c, err := conn.NewConsumer(bus.ConsumerConfig{
		Stream: event.StreamAgent, Durable: event.ConsumerLifecycle, Workers: 1, Log: bustest.Log(t),
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			for _, m := range batch {
				m.Done(nil)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	bustest.Eventually(t, "everything is acknowledged", func() bool {
		floor, err := conn.AckFloor(t.Context(), event.StreamAgent)
		return err == nil && floor >= upTo
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A process that is killed before it has acknowledged anything leaves a position of 0 and a floor of 0.
func TestAProcessStartsWhenNothingWasAcknowledgedYet(t *testing.T) {
	conn, store := bustest.Conn(t), openRedis(t, storagetest.StartRedis(t))
	started(t, store, conn)
	say(t, conn, 1)
	k := NewKeeper(store, conn, bustest.Log(t), func() {})
	if err := k.tick(t.Context()); err != nil {
		t.Errorf("the next process cannot start: %v", err)
	}
	if err := k.Dispatching(); err != nil {
		t.Errorf("it does not give out tasks: %v", err)
	}
}

// A process that starts while others heal the store must not give out tasks on the word of what is not read again yet.
func TestAProcessThatStartsDuringAHealingWaitsForItsEnd(t *testing.T) {
	conn, server := bustest.Conn(t), storagetest.StartRedis(t)
	store := openRedis(t, server)
	first := started(t, store, conn)
	say(t, conn, 3)
	takeIn(t, conn, 3)
	if err := first.tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Do("FLUSHALL")
	if err := first.tick(t.Context()); err != nil || first.Dispatching() == nil {
		t.Fatalf("the empty store was not noticed: %v", err)
	}
	second := started(t, openRedis(t, server), conn)
	if second.Dispatching() == nil {
		t.Error("a process that starts gives out tasks while the store is being healed")
	}
	takeIn(t, conn, 3)
	for _, k := range []*Keeper{first, second} {
		if err := k.tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := k.Dispatching(); err != nil {
			t.Errorf("after the healing: %v", err)
		}
	}
}

// Between the moment a database comes back and the check that notices, nothing can be written to it.
func TestARestartedDatabaseIsNotWrittenBeforeItWasNoticed(t *testing.T) {
	conn, server := bustest.Conn(t), storagetest.StartRedis(t)
	store := openRedis(t, server)
	k := started(t, store, conn)
	write := func() error {
		return store.Commit(t.Context(), storage.Txn{
			Rev: k.revs.Next(), If: []storage.Cond{{Key: "x"}}, Put: []storage.Put{{Key: "x", Data: []byte("1")}},
		})[0]
	}
	server.Restart()
	if err := write(); !errors.Is(err, storage.ErrUnknown) {
		t.Errorf("a write before the check: %v, want an error", err)
	}
	forgot, dispatching := false, true
	k.forget = func() {
		forgot = true
		if write() == nil {
			t.Error("a write went through before everything was forgotten")
		}
		dispatching = k.Dispatching() == nil
		k.forget = func() {}
	}
	if err := k.tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !forgot || dispatching {
		t.Errorf("when the new database was accepted: forgot %v, dispatch on %v", forgot, dispatching)
	}
	if err := write(); err != nil {
		t.Errorf("a write after the check: %v", err)
	}
}
