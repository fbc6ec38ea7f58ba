package lifecycle

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
	"github.com/opspawn/opscore/storage/storagetest"
)

// replica is a judge whose clock the test turns: it takes a step each 100 ms of it, and sees what it was sent before the next.
type replica struct {
	*testing.T
	conn   *bus.Conn
	keeper *Keeper
	judge  *Judge
	ear    *ear
	now    atomic.Int64
}

func newReplica(t *testing.T, conn *bus.Conn, store storage.Store) *replica {
	t.Helper()
	r := &replica{T: t, conn: conn, keeper: started(t, store, conn)}
	r.now.Store(int64(time.Hour))
	r.renew(store)
	return r
}

// renew starts the judge again, as a new process would.
func (r *replica) renew(store storage.Store) {
	r.Helper()
	r.judge = NewJudge(JudgeConfig{Store: store, Bus: r.conn, Keeper: r.keeper, Log: bustest.Log(r)})
	r.judge.clock = func() tick { return tick(r.now.Load()) }
	ear, err := listen(r.conn.NC(), r.judge.lease.name, r.judge.roster, r.judge.clock)
	if err != nil {
		r.Fatal(err)
	}
	r.ear = ear
	r.Cleanup(ear.close)
}

func (r *replica) step() {
	r.Helper()
	r.now.Add(int64(judgeEvery))
	r.judge.tick(r.Context(), r.ear)
	bustest.Eventually(r, "the probe is back", func() bool {
		r.ear.mu.Lock()
		defer r.ear.mu.Unlock()
		return r.ear.back
	})
}

// pass lets time pass while some agents beat.
func (r *replica) pass(d time.Duration, beating ...string) {
	r.Helper()
	for ; d > 0; d -= judgeEvery {
		for _, a := range beating {
			r.judge.roster.hear(a, "p", "", r.judge.clock())
		}
		r.step()
	}
}

// heal lets the keeper heal the store.
func (r *replica) heal() {
	r.Helper()
	bustest.Eventually(r, "the store is healed", func() bool {
		return r.keeper.Check(r.Context()) == nil && r.keeper.Dispatching() == nil
	})
}

// publish makes one beat arrive.
func (r *replica) publish(agent string) {
	r.Helper()
	if err := r.conn.NC().Publish(event.HeartbeatSubject(agent), nil); err != nil {
		r.Fatal(err)
	}
}

func (r *replica) want(agent string, want event.Liveness) {
	r.Helper()
	gates, err := Gates(r.Context(), r.judge.cfg.Store, agent)
	if err != nil {
		r.Fatal(err)
	}
	if got := gates[0].Liveness(); got != want {
		r.Errorf("%s is %s, want %s", agent, got, want)
	}
}

// enlist stores agents that beat each second, as their registration would.
func enlist(t *testing.T, store storage.Store, agents ...string) {
	t.Helper()
	revs := storage.NewRevisions()
	for _, id := range agents {
		record, gate := &Record{}, &Gate{Agent: id}
		record.Apply(&event.Register{AgentName: id, Version: "1", HeartbeatSeconds: 1, Instance: "p"}, Mark{Seq: 1, At: time.Now()})
		gate.Follow(record, true)
		err := store.Commit(t.Context(), storage.Txn{
			Rev:      revs.Next(),
			If:       []storage.Cond{{Key: RecordKey(id)}, {Key: GateKey(id)}},
			Put:      []storage.Put{{Key: RecordKey(id), Data: record.encode()}, {Key: GateKey(id), Data: gate.Encode()}},
			IndexAdd: []storage.IndexOp{{Index: AgentIndex, Member: id}},
		})[0]
		if err != nil {
			t.Fatal(err)
		}
	}
}

func openBolt(t *testing.T) storage.Store {
	t.Helper()
	store, err := boltstore.Open(t.Context(), &url.URL{Scheme: "file", Path: filepath.Join(t.TempDir(), "opscore.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// gaps are all that can keep a judge from hearing an agent, each carried out on an agent that has been silent for two seconds.
var gaps = map[string]func(r *replica, redis *storagetest.RedisServer){
	"a new process": func(r *replica, _ *storagetest.RedisServer) { r.renew(r.judge.cfg.Store) },
	"a reconnect": func(r *replica, _ *storagetest.RedisServer) {
		before := r.conn.NC().Stats().Reconnects
		if err := r.conn.NC().ForceReconnect(); err != nil {
			r.Fatal(err)
		}
		bustest.Eventually(r, "it has reconnected", func() bool { return r.conn.Connected() && r.conn.NC().Stats().Reconnects > before })
	},
	"the process stood still": func(r *replica, _ *storagetest.RedisServer) { r.now.Add(int64(maxStall)) },
	"dropped heartbeats": func(r *replica, _ *storagetest.RedisServer) {
		if err := r.ear.beats.SetPendingLimits(4, 1<<20); err != nil {
			r.Fatal(err)
		}
		r.judge.roster.mu.Lock() // it cannot hear
		for range 100 {
			r.publish("stranger")
		}
		bustest.Eventually(r, "heartbeats were dropped", func() bool { n, _ := r.ear.beats.Dropped(); return n > 0 })
		r.judge.roster.mu.Unlock()
		if err := r.ear.beats.SetPendingLimits(pendingBeats, pendingBytes); err != nil {
			r.Fatal(err)
		}
	},
	"late heartbeats": func(r *replica, _ *storagetest.RedisServer) {
		r.judge.roster.mu.Lock()
		r.publish("stranger") // the probe waits behind it
		r.ear.listening()
		r.now.Add(int64(maxEcho + judgeEvery))
		if _, _, gap := r.ear.listening(); gap != lateProbe {
			r.Errorf("the gap is %q", gap)
		}
		r.judge.roster.mu.Unlock()
	},
	"the store is down": func(r *replica, redis *storagetest.RedisServer) {
		redis.Kill()
		r.now.Add(int64(leaseRenew))
		r.step()
		redis.Restart()
		r.heal()
	},
	"a read that fails": func(r *replica, _ *storagetest.RedisServer) {
		r.judge.lease.looked = r.judge.clock() // it is not the lease that fails
		r.judge.roster.hint([]string{"stranger"})
		ended, end := context.WithCancel(r.Context())
		end()
		r.judge.tick(ended, r.ear)
	},
	"the store is healed": func(r *replica, _ *storagetest.RedisServer) {
		r.keeper.Alarm("as planned")
		r.step()
		r.heal()
	},
}

// Whatever keeps the judge from hearing restarts the window: the silence from before does not count. Without a gap it does.
func TestGapsAreNoSilence(t *testing.T) {
	t.Parallel()
	scenario := func(t *testing.T, happen func(r *replica, redis *storagetest.RedisServer)) {
		t.Parallel()
		redis := storagetest.StartRedis(t)
		store := openRedis(t, redis)
		enlist(t, store, "beats", "silent")
		r := newReplica(t, bustest.Conn(t), store)
		r.pass(settle+4*time.Second, "beats", "silent")
		r.pass(2*time.Second, "beats")
		r.want("silent", event.LivenessLive)
		if happen == nil {
			r.pass(time.Second, "beats")
			r.want("silent", event.LivenessSuspect)
			r.pass(time.Second, "beats")
			r.want("silent", event.LivenessLost)
			r.want("beats", event.LivenessLive)
			return
		}
		happen(r, redis)
		r.pass(2*time.Second, "beats") // by now it would be lost
		r.want("silent", event.LivenessLive)
		r.pass(leaseTTL+settle+4*time.Second, "beats")
		r.want("silent", event.LivenessLost) // it is judged again
		r.want("beats", event.LivenessLive)
	}
	t.Run("no gap", func(t *testing.T) { scenario(t, nil) })
	for name, happen := range gaps {
		t.Run(name, func(t *testing.T) { scenario(t, happen) })
	}
}

// Two replicas: the second takes over when the first stands still, and begins with a window of its own; what the first says when it goes on does not
// count any more.
func TestOneReplicaJudges(t *testing.T) {
	t.Parallel()
	store, server := openBolt(t), bustest.Server(t)
	enlist(t, store, "beats", "silent")
	first, second := newReplica(t, bustest.Dial(t, server), store), newReplica(t, bustest.Dial(t, server), store)
	for range int((settle + 4*time.Second) / judgeEvery) {
		first.pass(judgeEvery, "beats", "silent")
		second.pass(judgeEvery, "beats", "silent")
	}
	if !first.judge.lease.held || second.judge.lease.held {
		t.Fatalf("the first holds the lease: %v, the second: %v", first.judge.lease.held, second.judge.lease.held)
	}
	second.pass(leaseTTL+leaseRenew+judgeEvery, "beats") // the first stands still
	if !second.judge.lease.held {
		t.Fatal("nobody has taken over")
	}
	second.want("silent", event.LivenessLive) // it has been silent for longer than three heartbeats, but not in this window

	// The first goes on where it stood: it has found an agent silent, and is about to say so.
	stale := first.judge
	stale.roster.refresh("beats", stale.clock()-time.Minute)
	for i := range stale.roster.beaters {
		stale.roster.beaters[i].beat = stale.clock() - time.Minute
	}
	if err := stale.judge(t.Context(), stale.clock(), stale.clock()-time.Minute); err != nil {
		t.Fatal(err)
	}
	second.want("beats", event.LivenessLive)
	first.pass(leaseRenew + judgeEvery)
	if stale.lease.held {
		t.Error("the first still believes that it holds the lease")
	}

	second.pass(4*time.Second, "beats")
	second.want("silent", event.LivenessLost)
	second.want("beats", event.LivenessLive)
	second.judge.lease.leave(t.Context())
	first.pass(leaseRenew + judgeEvery)
	if !first.judge.lease.held {
		t.Error("a lease that was given back is not taken at once")
	}
}

// The work of many agents that are lost at once is handed back little by little.
func TestHandBacksAreSpread(t *testing.T) {
	t.Parallel()
	store := openBolt(t)
	const agents, each = 30, 20
	var ids []string
	for i := range agents {
		ids = append(ids, fmt.Sprint("agent-", i))
	}
	enlist(t, store, ids...)
	gates, err := Gates(t.Context(), store, ids...)
	if err != nil {
		t.Fatal(err)
	}
	docs, revs := make([]storage.Key, agents), storage.NewRevisions()
	for i, id := range ids {
		docs[i] = GateKey(id)
	}
	found, err := store.Get(t.Context(), docs...)
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range gates {
		for n := range each {
			g.Take(event.AttemptRef{RunID: fmt.Sprint(i, "-", n), TaskID: "t", Attempt: 1}, "p", time.Now())
		}
		err := store.Commit(t.Context(), storage.Txn{
			Rev: revs.Next(), If: []storage.Cond{{Key: docs[i], Rev: found[i].Rev}}, Put: []storage.Put{{Key: docs[i], Data: g.Encode()}},
		})[0]
		if err != nil {
			t.Fatal(err)
		}
	}
	r := newReplica(t, bustest.Conn(t), store)
	r.pass(settle + 5*time.Second)
	r.want(ids[0], event.LivenessLost)
	due, err := store.Range(t.Context(), HandBack, storage.Cursor{}, storage.MaxScore, 3*agents)
	due = slices.DeleteFunc(due, func(e storage.Entry) bool { return strings.HasPrefix(e.Member, FactTimer+"|") })
	if err != nil || len(due) != agents {
		t.Fatalf("%d agents are handed back (%v), want %d", len(due), err, agents)
	}
	took := time.Duration(due[agents-1].Score-due[0].Score) * time.Microsecond
	if least := time.Duration(agents-2)*each*handPace - jitter; took < least {
		t.Errorf("%d attempts are handed back within %v, want %v at least", agents*each, took, least)
	}
}
