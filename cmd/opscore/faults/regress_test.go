package faults_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// TestRedisComesBackOlder replaces the append-only file with an older copy in the middle of 200 runs: one of a second ago, and one of a moment ago, in which no
// position was written that could tell.
func TestRedisComesBackOlder(t *testing.T) {
	for name, copied := range map[string]int{"a second": 50, "a moment": 147} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.replica(allRoles, "")
			for _, id := range []string{"a1", "a2"} {
				w.agent(id, 3, 2*time.Millisecond, "one", "two")
			}
			w.apply("seq", "one", "two")
			older := filepath.Join(t.TempDir(), "older")
			runs := w.startMany("seq", 200, 10*time.Millisecond, func(i int) {
				switch i {
				case copied:
					copyTree(t, w.redis.Dir(), older)
				case 150:
					w.redis.Kill()
					if err := os.RemoveAll(w.redis.Dir()); err != nil {
						t.Fatal(err)
					}
					copyTree(t, older, w.redis.Dir())
					w.redis.Restart()
				}
			})
			w.complete(runs, 90*time.Second)
			again := w.ledger.audit(runs, 2)
			t.Logf("%d tasks had a second attempt", again)
		})
	}
}

// TestRedisComesBackEmpty is the same with FLUSHALL, which no connection notices, for one replica and for two that notice at different times.
func TestRedisComesBackEmpty(t *testing.T) {
	for _, replicas := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d replicas", replicas), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for range replicas {
				w.replica(allRoles, "")
			}
			for _, id := range []string{"a1", "a2"} {
				w.agent(id, 3, 2*time.Millisecond, "one", "two")
			}
			w.apply("seq", "one", "two")
			runs := w.startMany("seq", 200, 10*time.Millisecond, func(i int) {
				if i == 120 {
					w.redis.Do("FLUSHALL")
				}
			})
			w.complete(runs, 90*time.Second)
			again := w.ledger.audit(runs, 2)
			t.Logf("%d tasks had a second attempt", again)
		})
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// TestEngineDownWhileResultsWait stops the only replica while agents work, lets the results wait in the stream for longer than the time to accept
// and the lease, and wants none of them done again.
func TestEngineDownWhileResultsWait(t *testing.T) {
	w := newWorld(t)
	r := w.replica(allRoles, "")
	for i := range 4 {
		w.agent(fmt.Sprintf("a%d", i), 10, 500*time.Millisecond, "one")
	}
	w.applyRaw("short", `{"id":"short","tasks":[{"taskId":"t1","agentCapability":"one","timeoutSeconds":3,"retry":{"attempts":0}}]}`)
	runs := w.startMany("short", 40, time.Millisecond, nil)
	w.until("all tasks have begun", time.Minute, func() bool { return w.ledger.count() == 40 })
	r.kill()
	<-time.After(engineDown)
	w.replica(allRoles, "")
	w.complete(runs, 90*time.Second)
	w.ledger.auditOnce(runs, 1)
}

// TestIdleWakesTheDispatcher runs lifecycle and workflow in two processes: a raw "idle" must start a waiting task by the wake-up, not by the
// tick of a quarter of a second.
func TestIdleWakesTheDispatcher(t *testing.T) {
	w := newWorld(t)
	w.replica("lifecycle", "")
	w.replica("workflow", "")
	a := w.rawAgent("raw", "one")
	w.apply("one", "one")
	store, err := storage.Open(t.Context(), w.redis.URL(), server.Drivers...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	agents := lifecycle.NewQueries(store)
	var waits []time.Duration
	for range 21 {
		a.say(t, event.VerbState, &event.State{State: "busy"})
		w.until("the agent is busy", time.Minute, func() bool {
			got, err := agents.Get(t.Context(), "raw")
			return err == nil && got.State == "busy" && !got.Available
		})
		w.start("one")
		<-time.After(300 * time.Millisecond) // the task is ready and its class is parked
		if len(a.tasks) > 0 {
			t.Fatal("the busy agent was given the task")
		}
		begin := time.Now()
		a.say(t, event.VerbState, &event.State{State: "idle"})
		task := a.next(t)
		waits = append(waits, time.Since(begin))
		a.say(t, event.VerbResult, &event.Result{AttemptRef: task.Ref(), Status: event.StatusCompleted})
		w.until("the result was taken in", time.Minute, func() bool {
			got, err := agents.Get(t.Context(), "raw")
			return err == nil && len(got.Held) == 0
		})
	}
	if p50 := median(waits); p50 > 50*time.Millisecond {
		t.Errorf("idle → task request took %s (p50), so it was the tick and not the wake-up: %v", p50, waits)
	} else {
		t.Logf("idle → task request: %s (p50)", p50)
	}
}

// TestDuplicatesChangeNothing has an agent say everything three times, and stale things in between.
func TestDuplicatesChangeNothing(t *testing.T) {
	w := newWorld(t)
	w.replica(allRoles, "")
	a := w.rawAgent("raw", "one", "two")
	w.apply("seq", "one", "two")
	var runs []string
	for range 20 {
		runs = append(runs, w.start("seq"))
		for range 2 {
			task := a.next(t)
			leave := w.ledger.enter("raw", 1, task.Ref())
			result := &event.Result{AttemptRef: task.Ref(), Status: event.StatusCompleted, Output: event.Raw(`{}`)}
			stale := *result
			stale.Attempt += 7
			a.say(t, event.VerbResult, &stale)
			leave()
			for range 3 {
				a.say(t, event.VerbAccepted, &event.Accepted{AttemptRef: task.Ref()})
				a.say(t, event.VerbResult, result)
			}
		}
	}
	w.complete(runs, 90*time.Second)
	w.ledger.auditOnce(runs, 2)
}

// rawAgent speaks the wire without the SDK.
type rawAgent struct {
	w     *world
	id    string
	tasks chan *event.Task
}

func (w *world) rawAgent(id string, caps ...string) *rawAgent {
	w.t.Helper()
	a := &rawAgent{w: w, id: id, tasks: make(chan *event.Task, 100)}
	sub, err := w.conn.NC().Subscribe(event.TaskSubject(id), func(m *nats.Msg) {
		task := new(event.Task)
		if err := event.Unmarshal(m.Data, task); err != nil {
			w.t.Error(err)
			return
		}
		_ = m.Respond(event.MustMarshal(&event.TaskAnswer{Status: event.AnswerAccepted}))
		a.tasks <- task
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = sub.Unsubscribe() })
	a.say(w.t, event.VerbRegister, &event.Register{AgentName: id, Version: "1", Capabilities: caps})
	a.say(w.t, event.VerbState, &event.State{State: "idle"})
	return a
}

func (a *rawAgent) say(t *testing.T, verb event.Verb, body any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := nats.NewMsg(event.AgentSubject(verb, a.id))
	m.Data = event.MustMarshal(body)
	if _, err := a.w.conn.Publish(ctx, m); err != nil {
		t.Fatal(err)
	}
}

func (a *rawAgent) next(t *testing.T) *event.Task {
	t.Helper()
	select {
	case task := <-a.tasks:
		return task
	case <-time.After(time.Minute):
		t.Fatal("no task came")
		return nil
	}
}
