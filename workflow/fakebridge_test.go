package workflow_test

import (
	"net/url"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
	"github.com/opspawn/opscore/workflow"
)

// fakeBridge takes task requests for agents that are reached by HTTP, in the place of the real one and of its agents.
type fakeBridge struct {
	serving sync.RWMutex

	t       *testing.T
	nc      *nats.Conn
	post    func(agent string, task *event.Task) answer
	mu      sync.Mutex
	posts   map[string]int // by the legacy id of the attempt
	cancels map[string]int
	last    *event.Task
}

// answer is what the bridge says to a request.
type answer int

const (
	accepts answer = iota
	rejects
	saysNothing // its reply is lost
	reachesNobody
)

func newFakeBridge(t *testing.T, b *bundle, post func(agent string, task *event.Task) answer) *fakeBridge {
	t.Helper()
	f := &fakeBridge{t: t, nc: b.conn.NC(), post: post, posts: make(map[string]int), cancels: make(map[string]int)}
	for subject, serve := range map[string]nats.MsgHandler{
		event.SubjectPushAll: f.push, event.SubjectPushCancelAll: f.cancel, event.CancelSubject("*"): f.cancel,
	} {
		sub, err := f.nc.Subscribe(subject, func(m *nats.Msg) {
			f.serving.RLock()
			defer f.serving.RUnlock()
			serve(m)
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			f.serving.Lock() // what is being served still publishes
			defer f.serving.Unlock()
			_ = sub.Unsubscribe()
		})
	}
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fakeBridge) push(m *nats.Msg) {
	var task event.Task
	if err := event.Unmarshal(m.Data, &task); err != nil {
		f.t.Error(err)
		return
	}
	agent, err := event.ParseToken(event.Key(m.Subject))
	if err != nil {
		f.t.Error(err)
	}
	f.mu.Lock()
	f.posts[task.Ref().LegacyID()]++
	f.last = &task
	f.mu.Unlock()
	switch f.post(agent, &task) {
	case accepts:
		_ = m.Respond(event.MustMarshal(event.TaskAnswer{Status: event.AnswerAccepted}))
	case rejects:
		_ = m.Respond(event.MustMarshal(event.TaskAnswer{Status: event.AnswerRejected, Reason: "busy", RetryAfterMs: 60_000}))
	case reachesNobody:
		nobody := nats.NewMsg(m.Reply)
		nobody.Header.Set("Status", "503")
		_ = f.nc.PublishMsg(nobody)
	}
}

func (f *fakeBridge) cancel(m *nats.Msg) {
	var c event.Cancel
	if err := event.Unmarshal(m.Data, &c); err != nil {
		f.t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cancels[m.Subject]++
	_ = m.Respond(event.MustMarshal(event.CancelAnswer{Status: event.AnswerCancelled}))
}

// posted returns how often an attempt was posted.
func (f *fakeBridge) posted(run, task string, attempt int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.posts[event.AttemptRef{RunID: run, TaskID: task, Attempt: attempt}.LegacyID()]
}

func (f *fakeBridge) cancelled(subject string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cancels[subject]
}

// tells publishes what an agent says of itself, without waiting for what becomes of it.
func (b *bundle) tells(t *testing.T, agent, state, details string) {
	t.Helper()
	publish(t, b, event.AgentSubject(event.VerbState, event.MustToken(agent)), &event.State{State: state, Details: event.Raw(details)})
}

// enlist registers an idle agent that is reached in some way.
func (b *bundle) enlist(t *testing.T, agent string, delivery event.Delivery, caps ...string) {
	t.Helper()
	b.say(t, event.VerbRegister, agent, &event.Register{AgentName: agent, Version: "1", Capabilities: caps, Delivery: delivery})
	b.say(t, event.VerbState, agent, &event.State{State: "idle"})
}

func (b *bundle) gate(t *testing.T, agent string) *lifecycle.Gate {
	t.Helper()
	gates, err := lifecycle.Gates(t.Context(), b.store, agent)
	if err != nil {
		t.Fatal(err)
	}
	return gates[0]
}

// start starts a run of a definition that is applied first.
func (b *bundle) start(t *testing.T, d *workflow.Definition) (run string) {
	t.Helper()
	b.call(t, event.KindWorkflowApply, d.ID, d)
	run = uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: d.ID})
	return run
}

// onEachStore runs a test on both stores.
func onEachStore(t *testing.T, test func(t *testing.T, store storage.Store)) {
	t.Run("bolt", func(t *testing.T) {
		t.Parallel()
		test(t, boltStore(t))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		u, err := url.Parse(storagetest.StartRedis(t).URL())
		if err != nil {
			t.Fatal(err)
		}
		store, err := redisstore.Driver.Open(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
		test(t, store)
	})
}

// pair starts two replicas that are stopped when the test ends, and returns one of them.
func pair(t *testing.T, store storage.Store) (b *bundle) {
	t.Helper()
	server := bustest.Server(t)
	for range 2 {
		b = joined(t, bustest.Dial(t, server), store)
	}
	return b
}

func hasPrefix(entries []storage.Entry, prefix string) bool {
	for _, e := range entries {
		if len(e.Member) >= len(prefix) && e.Member[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

// change rewrites the gate of an agent behind the back of all replicas.
func (b *bundle) change(t *testing.T, agent string, act func(before, after *lifecycle.Gate, txn *storage.Txn)) {
	t.Helper()
	docs, err := b.store.Get(t.Context(), lifecycle.GateKey(agent))
	if err != nil {
		t.Fatal(err)
	}
	before := &lifecycle.Gate{Agent: agent}
	if err := event.Unmarshal(docs[0].Data, before); err != nil {
		t.Fatal(err)
	}
	after := *before
	txn := storage.Txn{Rev: storage.NewRevisions().Next(), If: []storage.Cond{{Key: docs[0].Key, Rev: docs[0].Rev}}}
	act(before, &after, &txn)
	txn.Put = []storage.Put{{Key: docs[0].Key, Data: after.Encode()}}
	if err := b.store.Commit(t.Context(), txn)[0]; err != nil {
		t.Fatal(err)
	}
}
