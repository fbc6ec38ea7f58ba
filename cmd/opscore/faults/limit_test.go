package faults_test

import (
	"strings"
	"testing"
	"time"
)

// limited lets three runs go on at the same time.
const limited = `{"id":"limited","concurrency":{"max":3},"tasks":[{"taskId":"t1","agentCapability":"one"}]}`

// TestKilledAtTheLimit kills the only replica with -9 while runs wait for their turn, and wants all to have theirs, and never too many at once.
func TestKilledAtTheLimit(t *testing.T) {
	for _, point := range []string{"after-fetch:10", "workflow-after-commit:20", "workflow-before-request:20", "workflow-after-request:20"} {
		name, _, _ := strings.Cut(point, ":")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			wasThere := w.diesAt(point)
			w.agent("a1", 10, 5*time.Millisecond, "one")
			w.applyRaw("limited", limited)
			runs := w.startMany("limited", 60, time.Millisecond, nil)
			w.complete(runs, 60*time.Second)
			wasThere()
			w.ledger.auditOnce(runs, 1)
			if w.ledger.most > 3 {
				t.Errorf("%d runs went on at the same time", w.ledger.most)
			}
		})
	}
}

// TestReplicasKilledAtTheLimit keeps three replicas and kills one of them every 300 ms.
func TestReplicasKilledAtTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	replicas := []*replica{w.replica(allRoles, ""), w.replica(allRoles, ""), w.replica(allRoles, "")}
	w.agent("a1", 10, 5*time.Millisecond, "one")
	w.applyRaw("limited", limited)
	runs := w.startMany("limited", 300, 5*time.Millisecond, func(i int) {
		if i%60 == 59 {
			n := i / 60 % 3
			replicas[n].kill()
			replicas[n] = w.replica(allRoles, "")
		}
	})
	w.complete(runs, 90*time.Second)
	w.ledger.auditOnce(runs, 1)
	if w.ledger.most > 3 {
		t.Errorf("%d runs went on at the same time", w.ledger.most)
	}
}
