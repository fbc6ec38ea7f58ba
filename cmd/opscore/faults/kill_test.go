package faults_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow"
)

// TestKilledAtNamedPoints kills the only replica with -9 between two steps, starts another one, and wants every task begun exactly once.
func TestKilledAtNamedPoints(t *testing.T) {
	for _, point := range []string{
		"after-fetch:20", "lifecycle-after-commit:3", "workflow-after-commit:25", "before-ack:30",
		"workflow-before-request:30", "workflow-after-request:30",
	} {
		name, _, _ := strings.Cut(point, ":")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			wasThere := w.diesAt(point)
			for _, id := range []string{"a1", "a2"} {
				w.agent(id, 3, 2*time.Millisecond, "one", "two")
			}
			w.publishWorkflow("seq", "one", "two")
			runs := w.startMany("seq", 60, 5*time.Millisecond, nil)
			w.complete(runs, 60*time.Second)
			wasThere()
			w.ledger.auditOnce(runs, 2)
		})
	}
}

// TestTwoReplicasShareAgents has two replicas give tasks to the same few agents.
func TestTwoReplicasShareAgents(t *testing.T) {
	w := newWorld(t)
	w.replica(allRoles, "")
	w.replica(allRoles, "")
	for _, id := range []string{"a1", "a2", "a3"} {
		w.agent(id, 2, time.Millisecond, "one", "two")
	}
	w.apply("seq", "one", "two")
	runs := w.startMany("seq", 400, time.Millisecond, nil)
	w.complete(runs, 60*time.Second)
	w.ledger.auditOnce(runs, 2)
}

// TestReplicaKilledAgainAndAgain keeps two replicas and kills one of them every 300 ms.
func TestReplicaKilledAgainAndAgain(t *testing.T) {
	w := newWorld(t)
	replicas := []*replica{w.replica(allRoles, ""), w.replica(allRoles, "")}
	for _, id := range []string{"a1", "a2", "a3"} {
		w.agent(id, 2, time.Millisecond, "one", "two")
	}
	w.apply("seq", "one", "two")
	runs := w.startMany("seq", 300, 10*time.Millisecond, func(i int) {
		if i%30 == 29 {
			n := i / 30 % 2
			replicas[n].kill()
			replicas[n] = w.replica(allRoles, "")
		}
	})
	w.complete(runs, 90*time.Second)
	w.ledger.auditOnce(runs, 2)
}

// TestRedisKilledInTheMiddle kills Redis in the middle of 200 runs and starts it again after a while. AOF loses nothing of a killed process.
func TestRedisKilledInTheMiddle(t *testing.T) {
	w := newWorld(t)
	w.replica(allRoles, "")
	for _, id := range []string{"a1", "a2"} {
		w.agent(id, 3, 2*time.Millisecond, "one", "two")
	}
	w.apply("seq", "one", "two")
	runs := w.startMany("seq", 200, 5*time.Millisecond, func(i int) {
		switch i {
		case 60:
			w.redis.Kill()
		case 140:
			w.redis.Restart()
		}
	})
	w.complete(runs, 60*time.Second)
	w.ledger.auditOnce(runs, 2)
}

// TestNATSKilledInTheMiddle does the same to NATS.
func TestNATSKilledInTheMiddle(t *testing.T) {
	w := newWorld(t)
	w.replica(allRoles, "")
	for _, id := range []string{"a1", "a2"} {
		w.agent(id, 3, 2*time.Millisecond, "one", "two")
	}
	w.apply("seq", "one", "two")
	restarted := make(chan struct{}, 1)
	restarted <- struct{}{}
	runs := w.startMany("seq", 200, 5*time.Millisecond, func(i int) {
		if i != 60 && i != 120 {
			return
		}
		<-restarted
		w.nats.Kill()
		time.AfterFunc(500*time.Millisecond, func() {
			w.nats.Restart()
			restarted <- struct{}{}
		})
	})
	<-restarted
	w.complete(runs, 90*time.Second)
	if again := w.ledger.audit(runs, 2); again > 0 {
		t.Logf("%d tasks had a second attempt: a request or its answer was lost with the server for longer than the time to accept", again)
	}
}

// TestTimeWithoutAReplicaIsNoTasksTime kills the only replica while an agent is at work, and starts another one when the task's time would be over.
func TestTimeWithoutAReplicaIsNoTasksTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.replica(allRoles, "")
	w.applyRaw("short", `{"id":"short","tasks":[{"taskId":"t1","agentCapability":"one","timeoutSeconds":2}]}`)
	tasks := make(chan *event.Task, 1)
	sub, err := w.conn.NC().Subscribe(event.TaskSubject("slow"), func(m *nats.Msg) { // unlike agents of the SDK it knows no time of its own
		task := new(event.Task)
		if event.Unmarshal(m.Data, task) == nil && m.Respond([]byte(`{"status":"accepted"}`)) == nil {
			tasks <- task
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	w.publish(event.VerbRegister, "slow", &event.Register{AgentName: "slow", Version: "1", Capabilities: []string{"one"}})
	w.publish(event.VerbState, "slow", &event.State{State: "idle"})
	run := w.start("short")
	task := <-tasks
	store := w.store()
	bustest.Eventually(t, "the replica has said that it is there", func() bool {
		docs, err := store.Get(t.Context(), "watch")
		return err == nil && docs[0].Rev != ""
	})
	r.kill()
	<-time.After(4 * time.Second)
	w.replica(allRoles, "")
	<-time.After(2 * time.Second) // in which the attempt would be called over, several times
	w.publish(event.VerbResult, "slow", &event.Result{AttemptRef: task.Ref(), Status: event.StatusCompleted})
	w.complete([]string{run}, 90*time.Second)
	history, err := workflow.NewQueries(store).History(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range history.Items {
		if step.Code != "" || step.Attempt > 1 {
			t.Errorf("%s", event.MustMarshal(step))
		}
	}
}
