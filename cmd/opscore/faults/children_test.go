package faults_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// mapped does task t1 for ten items, at most four at a time, and then task t1 of a workflow of its own.
const mapped = `{"id":"mapped","tasks":[
	{"taskId":"t1","agentCapability":"one","forEach":{"items":"[0,1,2,3,4,5,6,7,8,9]","maxParallel":4},"nextTaskId":"sub"},
	{"taskId":"sub","workflow":{"id":"inner"}}]}`

// children returns the runs that do the tasks of a mapped run: the items, and the inner workflow.
func (w *world) children(runs []string) []string {
	w.t.Helper()
	store, err := storage.Open(w.t.Context(), w.redis.URL(), server.Drivers...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	q := workflow.NewQueries(store)
	var children []string
	for _, run := range runs {
		page, err := q.Children(w.t.Context(), run, "", 100)
		if err != nil || len(page.Items) != 11 {
			w.t.Fatalf("run %s has %d children, %v", run, len(page.Items), err)
		}
		for _, child := range page.Items {
			if child.State != event.RunCompleted {
				w.t.Errorf("the run has completed, and its child is %s", child.State)
			}
			children = append(children, child.RunID)
		}
	}
	return children
}

func (w *world) applyMapped() {
	w.publishWorkflow("inner", "one")
	w.applyRaw("mapped", mapped)
}

// TestKilledAmongChildren kills the only replica with -9 between the steps of parents and children, starts another one, and wants every item done exactly once.
func TestKilledAmongChildren(t *testing.T) {
	for _, point := range []string{
		"workflow-after-commit:25", "before-ack:25", "workflow-before-request:60", "workflow-before-parent:60", "workflow-before-job:7",
	} {
		name, _, _ := strings.Cut(point, ":")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			wasThere := w.diesAt(point)
			for _, id := range []string{"a1", "a2"} {
				w.agent(id, 3, 2*time.Millisecond, "one")
			}
			w.applyMapped()
			runs := w.startMany("mapped", 12, 20*time.Millisecond, nil)
			w.complete(runs, 60*time.Second)
			wasThere()
			w.ledger.auditOnce(w.children(runs), 1)
		})
	}
}

// TestReplicaKilledAgainAndAgainAmongChildren keeps two replicas and kills one of them every 300 ms.
func TestReplicaKilledAgainAndAgainAmongChildren(t *testing.T) {
	w := newWorld(t)
	replicas := []*replica{w.replica(allRoles, ""), w.replica(allRoles, "")}
	for _, id := range []string{"a1", "a2", "a3"} {
		w.agent(id, 2, time.Millisecond, "one")
	}
	w.applyMapped()
	runs := w.startMany("mapped", 60, 30*time.Millisecond, func(i int) {
		if i%12 == 11 {
			k := (i / 12) % 2
			replicas[k].kill()
			replicas[k] = w.replica(allRoles, "")
		}
	})
	w.complete(runs, 90*time.Second)
	w.ledger.auditOnce(w.children(runs), 1)
}

// TestRedisComesBackAmongChildren replaces the append-only file with a copy of a moment ago in the middle of maps, or empties the database. Children have no
// command in a stream: their parents make them again.
func TestRedisComesBackAmongChildren(t *testing.T) {
	for _, name := range []string{"older", "empty"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.replica(allRoles, "")
			for _, id := range []string{"a1", "a2"} {
				w.agent(id, 3, 2*time.Millisecond, "one")
			}
			w.applyMapped()
			older := filepath.Join(t.TempDir(), "older")
			runs := w.startMany("mapped", 40, 30*time.Millisecond, func(i int) {
				switch {
				case name == "empty" && i == 30:
					w.redis.Do("FLUSHALL")
				case name == "older" && i == 18:
					copyTree(t, w.redis.Dir(), older)
				case name == "older" && i == 30:
					w.redis.Kill()
					if err := os.RemoveAll(w.redis.Dir()); err != nil {
						t.Fatal(err)
					}
					copyTree(t, older, w.redis.Dir())
					w.redis.Restart()
				}
			})
			w.complete(runs, 90*time.Second)
			again := w.ledger.audit(w.children(runs), 1)
			t.Logf("%d tasks had a second attempt", again)
		})
	}
}
