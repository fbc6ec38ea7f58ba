package faults_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/storage/storagetest"
	"github.com/opspawn/opscore/storage/storagetest/netproxy"
)

// TestLostReplies puts a proxy before Redis, or before NATS, that loses a reply again and again: what was asked has happened, and nobody says so.
func TestLostReplies(t *testing.T) {
	for _, c := range []struct {
		name  string
		proxy func(w *world) *netproxy.Proxy
	}{
		{"redis", func(w *world) *netproxy.Proxy {
			p := storagetest.NewProxy(w.t, w.redis.Addr())
			w.redisURL = "redis://" + p.Addr() + "/0"
			return p
		}},
		{"nats", func(w *world) *netproxy.Proxy {
			p := storagetest.NewProxy(w.t, strings.TrimPrefix(w.nats.URL(), "nats://"))
			w.natsURL = "nats://" + p.Addr()
			return p
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := c.proxy(w)
			w.replica(allRoles, "")
			for _, id := range []string{"a1", "a2"} {
				w.agent(id, 3, 2*time.Millisecond, "one", "two")
			}
			w.apply("seq", "one", "two")
			random := rand.New(rand.NewPCG(1, 2))
			runs := w.startMany("seq", 150, 10*time.Millisecond, func(i int) {
				if i%15 == 7 {
					p.LoseReplyAfter(random.IntN(6))
				}
			})
			w.complete(runs, 90*time.Second)
			if p.Lost() < 3 {
				t.Errorf("only %d replies were lost", p.Lost())
			}
			again := w.ledger.audit(runs, 2)
			t.Logf("%d replies lost, %d tasks had a second attempt", p.Lost(), again)
		})
	}
}
