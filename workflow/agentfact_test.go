package workflow_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// agentFacts reads what is told of an agent.
type agentFacts struct {
	t    *testing.T
	said chan *nats.Msg
	last uint64 // version
}

func (b *bundle) agentFacts(t *testing.T, id string) *agentFacts {
	t.Helper()
	f := &agentFacts{t: t, said: make(chan *nats.Msg, 64)}
	sub, err := b.conn.NC().ChanSubscribe(event.FactSubject("agent", id), f.said)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return f
}

// next waits for the next fact, which may have come before, and wants it to have this cause.
func (f *agentFacts) next(cause string) *event.Fact {
	f.t.Helper()
	for {
		select {
		case m := <-f.said:
			var fact event.Fact
			if err := event.Unmarshal(m.Data, &fact); err != nil {
				f.t.Fatal(err)
			}
			if fact.Version <= f.last {
				continue // again
			}
			f.last = fact.Version
			if fact.Cause != cause {
				f.t.Fatalf("the agent is said to be %s, want %s", fact.Cause, cause)
			}
			return &fact
		case <-time.After(time.Minute):
			f.t.Fatalf("it is not said that the agent is %s", cause)
		}
	}
}

// What becomes of an agent is told: not what it says of itself and what it is given.
func TestFactsAboutAgents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.judge(t)
	facts := b.agentFacts(t, "a")
	b.call(t, event.KindWorkflowApply, "w", sequence("w", "work"))
	b.takes(t, "a", 1)
	if a := facts.next("registered").Agent; a == nil || a.AgentID != "a" || a.Instance != "a" {
		t.Errorf("of a new agent it is told: %+v", a)
	}
	b.call(t, event.KindRunStart, uuid.NewString(), &event.RunStart{WorkflowID: "w"})
	b.call(t, event.KindAgentCordon, "a", &event.AgentCommand{Reason: "why not"})
	if a := facts.next("cordoned").Agent; a == nil || !a.Cordoned || a.CordonReason != "why not" {
		t.Errorf("of a cordoned agent it is told: %+v", a)
	}
	b.call(t, event.KindAgentDrain, "a", &event.AgentCommand{})
	facts.next("drained")
	b.call(t, event.KindAgentUncordon, "a", &event.AgentCommand{})
	facts.next("uncordoned")
	facts.next("suspect") // it has said that it beats, and never does
	if a := facts.next("lost").Agent; a == nil || a.Liveness != event.LivenessLost {
		t.Errorf("of a lost agent it is told: %+v", a)
	}
	b.say(t, event.VerbState, "a", &event.State{State: "idle", Instance: "a"})
	facts.next("live")
	b.say(t, event.VerbDeregister, "a", &event.Deregister{Instance: "a"})
	if a := facts.next("deregistered").Agent; a != nil {
		t.Errorf("of an agent that is gone it is told: %+v", a)
	}
	bustest.Eventually(t, "nothing is left to be told", func() bool {
		due, err := b.store.Range(t.Context(), "due/workflow", storage.Cursor{}, storage.MaxScore, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range due {
			if strings.HasPrefix(entry.Member, "a|") {
				return false
			}
		}
		return true
	})
}

func TestFactsAboutBreakers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	facts := b.agentFacts(t, "bad")
	b.failing(t, "bad", 5, "code")
	facts.next("registered")
	b.call(t, event.KindWorkflowApply, "w", event.Raw(`{"id":"w","tasks":[{"taskId":"t","agentCapability":"code","retry":{"attempts":9,"initialSeconds":0.01,"maxSeconds":0.01}}]}`))
	run := b.begin(t, "w")
	if a := facts.next("breaker_opened").Agent; a == nil || a.Breaker == "" {
		t.Errorf("of an agent whose breaker has opened it is told: %+v", a)
	}
	b.ended(t, run)
	facts.next("breaker_closed")
}
