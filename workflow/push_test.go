package workflow_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// An old agent says only that it works and that it rests; its tasks end all the same, with or without the id it was told.
func TestTasksOfAnOldAgentEndWithItsStates(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, store storage.Store) {
		b := pair(t, store)
		bridge := newFakeBridge(t, b, func(agent string, task *event.Task) answer {
			if task.TaskID == "t1" { // tells no id
				b.tells(t, agent, "active", `{}`)
				b.tells(t, agent, "Idle", `{"last_task_result":{"sum":1.0}}`)
			} else { // tells the id, and is never seen at work
				b.tells(t, agent, "idle", `{"opscore_task_id":"r.t.1"}`)
				b.tells(t, agent, "finished", fmt.Sprintf(`{"opscore_task_id":%q}`, task.Ref().LegacyID()))
			}
			return accepts
		})
		b.enlist(t, "kit", event.DeliveryAgentKit, "c")
		for range 10 { // so the slot was given back
			run := b.start(t, sequence("two", "c", "c"))
			r := b.ended(t, run)
			want := fmt.Sprintf(`{"state":"finished","details":{"opscore_task_id":"%s.t2.1"}}`, run)
			if r.State != event.RunCompleted || string(r.Tasks[0].Output) != `{"sum":1.0}` || string(r.Output) != want {
				t.Fatalf("run ended as %s", event.MustMarshal(r))
			}
			if bridge.posted(run, "t1", 1) != 1 || bridge.posted(run, "t2", 1) != 1 {
				t.Errorf("posted %v", bridge.posts)
			}
		}
		if g := b.gate(t, "kit"); len(g.Held) != 0 || !g.Open || g.Released.IsZero() {
			t.Errorf("its gate is %s", g.Encode())
		}
		if due, err := store.Range(t.Context(), lifecycle.HandBack, storage.Cursor{}, storage.MaxScore, 100); err != nil || hasPrefix(due, "e|") {
			t.Errorf("timers that are left: %v %v", due, err)
		}
	})
}

// An error fails the attempt; the task is tried again when its agent is at rest again.
func TestAnErrorOfAnOldAgentFailsTheAttempt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	newFakeBridge(t, b, func(agent string, task *event.Task) answer {
		b.tells(t, agent, "active", `{}`)
		if task.Attempt == 1 {
			b.tells(t, agent, "error", `{"message":"out of paper"}`)
		} else if e := task.PreviousError; e == nil || e.Code != "agent_error" || e.Message != "the agent reported state error: out of paper" {
			t.Errorf("attempt %d follows on %+v", task.Attempt, e)
		}
		b.tells(t, agent, "idle", `{"last_task_result":"done"}`)
		return accepts
	})
	b.enlist(t, "kit", event.DeliveryAgentKit, "c")
	d := sequence("flaky", "c")
	d.Tasks[0].Retry = &workflow.Retry{InitialSeconds: 0.01}
	if r := b.ended(t, b.start(t, d)); r.State != event.RunCompleted || string(r.Output) != `"done"` || r.Tasks[0].Attempt != 2 {
		t.Errorf("run ended as %s", event.MustMarshal(r))
	}
}

// An old agent is asked once, whatever becomes of the answer; one that knows attempts is asked again.
func TestALostReplyIsAskedForAgainOnlyWhereThatDoesNoHarm(t *testing.T) {
	t.Parallel()
	for delivery, want := range map[event.Delivery]int{event.DeliveryAgentKit: 1, event.DeliveryHTTP: 2, event.DeliveryPoll: 2} {
		t.Run(string(delivery), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			var asked atomic.Int32
			bridge := newFakeBridge(t, b, func(string, *event.Task) answer {
				if asked.Add(1) == 1 {
					return saysNothing
				}
				return accepts
			})
			b.enlist(t, "push", delivery, "c")
			d := sequence("lost", "c")
			d.Tasks[0].Retry = &workflow.Retry{Attempts: new(int)}
			before, err := b.conn.StreamState(t.Context(), event.StreamAgent)
			if err != nil {
				t.Fatal(err)
			}
			asAsked := time.Now()
			run := b.start(t, d)
			bustest.Eventually(t, "the task is asked for", func() bool { return bridge.posted(run, "t1", 1) == 1 })
			held := b.gate(t, "push").Held[0]
			if traced := held.Trace != nil; held.Delivery != delivery || traced != (want == 1) || traced && held.Trace.Base != before.LastSeq {
				t.Errorf("it is held as %s, the stream was at %d", event.MustMarshal(held), before.LastSeq)
			}
			bustest.Eventually(t, "the time to ask again has passed", func() bool {
				if want > 1 {
					return bridge.posted(run, "t1", 1) == want
				}
				return time.Since(asAsked) > workflow.PushAskAgain+workflow.LookAgain
			})
			if delivery == event.DeliveryAgentKit {
				b.tells(t, "push", "busy", `{}`)
				b.tells(t, "push", "completed", `{}`)
			} else {
				publish(t, b, event.AgentSubject(event.VerbResult, "push"), &event.Result{
					AttemptRef: event.AttemptRef{RunID: run, TaskID: "t1", Attempt: 1}, Status: event.StatusCompleted,
				})
			}
			if r := b.ended(t, run); r.State != event.RunCompleted || r.Tasks[0].Attempt != 1 || bridge.posted(run, "t1", 1) != want {
				t.Errorf("after %d posts the run ended as %s", bridge.posted(run, "t1", 1), event.MustMarshal(r))
			}
		})
	}
}

// What an agent refuses, or what never reached it, goes to another one and spends no retry.
func TestWhatNeverBeganSpendsNoRetry(t *testing.T) {
	t.Parallel()
	for _, delivery := range []event.Delivery{event.DeliveryAgentKit, event.DeliveryHTTP} {
		for name, first := range map[string]answer{"rejected": rejects, "nobody reached": reachesNobody} {
			t.Run(string(delivery)+", "+name, func(t *testing.T) {
				t.Parallel()
				b := setup(t)
				var asked atomic.Int32
				newFakeBridge(t, b, func(_ string, task *event.Task) answer {
					if asked.Add(1) == 1 {
						return first
					}
					for _, agent := range []string{"a", "b"} { // one of them has it; the run may end before the other result is acknowledged
						m := nats.NewMsg(event.AgentSubject(event.VerbResult, agent))
						m.Data = event.MustMarshal(&event.Result{AttemptRef: task.Ref(), Status: event.StatusCompleted})
						if err := b.conn.PublishAsync(m, func(bus.Ack, error) {}); err != nil {
							t.Error(err)
						}
					}
					return accepts
				})
				b.enlist(t, "a", delivery, "c")
				b.enlist(t, "b", delivery, "c")
				d := sequence("refused", "c")
				d.Tasks[0].Retry = &workflow.Retry{Attempts: new(int)}
				r := b.ended(t, b.start(t, d))
				if r.State != event.RunCompleted || r.Tasks[0].Attempt != 2 {
					t.Errorf("run ended as %s", event.MustMarshal(r))
				}
			})
		}
	}
}

// Without a bridge nobody is asked: the task is given once one is there.
func TestATaskWaitsForABridge(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.enlist(t, "kit", event.DeliveryAgentKit, "c")
	d := sequence("waits", "c")
	d.Tasks[0].Retry = &workflow.Retry{Attempts: new(int)}
	run := b.start(t, d)
	bustest.Eventually(t, "the agent is out of rotation", func() bool { return b.gate(t, "kit").Silent })
	newFakeBridge(t, b, func(agent string, task *event.Task) answer {
		b.tells(t, agent, "finished", fmt.Sprintf(`{"opscore_task_id":%q}`, task.Ref().LegacyID()))
		return accepts
	})
	b.tells(t, "kit", "idle", `{}`) // a sign of life
	if r := b.ended(t, run); r.State != event.RunCompleted {
		t.Errorf("run ended as %s", event.MustMarshal(r))
	}
}

// A replica that dies between the commit of an assignment and the request leaves an attempt that nobody may ask for: it counts as accepted, its
// time ends it, and the task is tried again.
func TestAnAttemptThatWasPerhapsSentIsNotSentAgain(t *testing.T) {
	t.Parallel()
	server, store := bustest.Server(t), boltStore(t)
	doomed := bustest.Dial(t, server)
	died := make(chan struct{})
	var once sync.Once
	_, stopDoomed := replica(t, doomed, store, func(point string) {
		if point == "workflow-before-request" {
			once.Do(func() {
				doomed.NC().Close()
				close(died)
			})
		}
	})
	observer := bundle{conn: bustest.Dial(t, server), store: store, runs: workflow.NewQueries(store)}
	bridge := newFakeBridge(t, &observer, func(agent string, task *event.Task) answer {
		if agent == "second" {
			observer.tells(t, agent, "active", `{}`)
			observer.tells(t, agent, "idle", `{}`)
		}
		return accepts
	})
	observer.enlist(t, "first", event.DeliveryAgentKit, "c")
	d := sequence("doomed", "c")
	d.Tasks[0].TimeoutSeconds, d.Tasks[0].Retry = 1, &workflow.Retry{InitialSeconds: 0.01}
	observer.call(t, event.KindWorkflowApply, d.ID, d)
	run := uuid.NewString()
	publish(t, &observer, event.CommandSubject(event.KindRunStart, run), &event.RunStart{WorkflowID: d.ID})
	<-died
	_ = stopDoomed()

	heir, stop := replica(t, bustest.Dial(t, server), store, nil)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	heir.enlist(t, "second", event.DeliveryAgentKit, "c")
	r := heir.ended(t, run)
	if r.State != event.RunCompleted || r.Tasks[0].Attempt != 2 || r.Tasks[0].AgentID != "second" {
		t.Errorf("run ended as %s", event.MustMarshal(r))
	}
	if n := bridge.posted(run, "t1", 1); n != 0 {
		t.Errorf("the attempt that was perhaps sent was posted %d times", n)
	}
	if e := bridge.last.PreviousError; e == nil || e.Code != "timeout" {
		t.Errorf("the second attempt follows on %+v", e)
	}
}

// Cancels go the way the task went. An old agent knows none: its slot is free when it is at rest again, or after a grace.
func TestCancelsGoTheWayTheTaskWent(t *testing.T) {
	t.Parallel()
	for _, delivery := range []event.Delivery{event.DeliveryAgentKit, event.DeliveryHTTP} {
		t.Run(string(delivery), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			bridge := newFakeBridge(t, b, func(string, *event.Task) answer { return accepts })
			b.enlist(t, "push", delivery, "c")
			run := b.start(t, sequence("cancelled", "c"))
			bustest.Eventually(t, "the task is given", func() bool { return bridge.posted(run, "t1", 1) == 1 })
			b.tells(t, "push", "active", `{}`)
			b.call(t, event.KindRunCancel, run, map[string]string{"reason": "enough"})
			if delivery == event.DeliveryAgentKit {
				b.tells(t, "push", "idle", `{}`)
			}
			bustest.Eventually(t, "the slot is free", func() bool { return len(b.gate(t, "push").Held) == 0 })
			want := 0
			if delivery == event.DeliveryHTTP {
				want = 1
			}
			if n := bridge.cancelled(event.PushCancelSubject("push")); n != want || bridge.cancelled(event.CancelSubject("push")) != 0 {
				t.Errorf("asked to stop %v", bridge.cancels)
			}
		})
	}
}

// A hint, the timer and the look at an attempt whose lease is over each find its end without the others.
func TestTheEndOfAnAttemptIsFound(t *testing.T) {
	t.Parallel()
	large := `"` + strings.Repeat("x", 5000) + `"` // for a document of its own
	for name, c := range map[string]struct {
		timeout     float64
		timer, wake bool
		forgotten   bool // its history knows nothing of the end
	}{
		"by a hint":           {timeout: 300, wake: true},
		"by its timer":        {timeout: 300, timer: true, forgotten: true},
		"when its time is up": {timeout: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			bridge := newFakeBridge(t, b, func(string, *event.Task) answer { return accepts })
			b.enlist(t, "kit", event.DeliveryAgentKit, "c")
			d := sequence("found", "c")
			d.Tasks[0].TimeoutSeconds, d.Tasks[0].Retry = c.timeout, &workflow.Retry{Attempts: new(int)}
			run := b.start(t, d)
			bustest.Eventually(t, "the task is given", func() bool { return bridge.posted(run, "t1", 1) == 1 })
			rested := time.Now().UTC().Add(-time.Minute)
			b.change(t, "kit", func(before, after *lifecycle.Gate, txn *storage.Txn) {
				base := before.Held[0].Trace.Base
				for i, word := range []string{"active", "idle"} {
					after.Witness(&event.State{State: word}, lifecycle.Mark{Seq: base + uint64(i) + 1, At: rested})
				}
				if !c.forgotten {
					said := &lifecycle.HistoryEntry{Seq: base + 2, At: rested, State: "idle", Details: event.Raw(`{"last_task_result":` + large + `}`)}
					txn.LogAppend = []storage.Append{{Log: lifecycle.HistoryLog("kit"), Data: event.MustMarshal(said), Cap: 10}}
				}
				if c.timer {
					txn.IndexAdd, _ = lifecycle.EndOps(before, after, time.Now())
				}
			})
			if c.wake {
				b.engine.Wake([]string{"kit"})
			}
			r := b.ended(t, run)
			want := large
			if c.forgotten {
				want = `{"state":"idle","details":null}`
			}
			if r.State != event.RunCompleted || string(r.Output) != want {
				t.Errorf("run ended as %s", event.MustMarshal(r))
			}
			if g := b.gate(t, "kit"); len(g.Held) != 0 || !g.Released.Equal(rested) {
				t.Errorf("its gate is %s, it was at rest at %s", g.Encode(), rested)
			}
		})
	}
}

// What another replica has done to a gate is not lost when a result frees a slot and another one, of no attempt that is known, comes with it.
func TestAStaleResultHidesNoChangeOfTheGate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	bridge := newFakeBridge(t, b, func(string, *event.Task) answer { return accepts })
	b.enlist(t, "ann", event.DeliveryHTTP, "c")
	run := b.start(t, sequence("hidden", "c"))
	bustest.Eventually(t, "the task is given", func() bool { return bridge.posted(run, "t1", 1) == 1 })
	other := event.AttemptRef{RunID: "other", TaskID: "t1", Attempt: 1}
	b.change(t, "ann", func(_, after *lifecycle.Gate, _ *storage.Txn) { after.Take(other, "", time.Now()) })
	var batch []*bus.Msg
	for i, attempt := range []int{1, 99} {
		result := &event.Result{AttemptRef: event.AttemptRef{RunID: run, TaskID: "t1", Attempt: attempt}, Status: event.StatusCompleted}
		batch = append(batch, &bus.Msg{
			Subject: event.AgentSubject(event.VerbResult, "ann"), Data: event.MustMarshal(result),
			Seq: uint64(1000 + i), Time: time.Now(), Delivered: 1,
		})
	}
	if err := b.engine.Handle(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if g := b.gate(t, "ann"); len(g.Held) != 1 || !g.Holds(other) {
		t.Errorf("its gate is %s", g.Encode())
	}
	if r := b.ended(t, run); r.State != event.RunCompleted {
		t.Errorf("run ended as %s", event.MustMarshal(r))
	}
}
