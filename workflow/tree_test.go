package workflow_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// crowd lets a tree of runs have so many already.
func (b *bundle) crowd(t *testing.T, run string, n int) {
	t.Helper()
	revs := storage.NewRevisions()
	for first := 0; first < n; first += 1000 {
		key := storage.Key(fmt.Sprintf("crowd/%s/%d", run, first))
		txn := storage.Txn{Rev: revs.Next(), If: []storage.Cond{{Key: key}}, Put: []storage.Put{{Key: key, Data: []byte("{}")}}}
		for i := first; i < min(first+1000, n); i++ {
			txn.IndexAdd = append(txn.IndexAdd, storage.IndexOp{Index: storage.Index("tree/" + run), Member: fmt.Sprintf("before-%d", i)})
		}
		if err := b.store.Commit(t.Context(), txn)[0]; err != nil {
			t.Fatal(err)
		}
	}
}

// treeSize counts the runs of a tree.
func (b *bundle) treeSize(t *testing.T, tree string) int {
	t.Helper()
	n, err := b.store.Count(t.Context(), storage.Index("tree/"+tree), 0, storage.MaxScore)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A workflow that starts itself ten times ends soon, on two replicas that both make its runs.
func TestATreeOfRunsIsBounded(t *testing.T) {
	t.Parallel()
	const room = 500
	b := setupRedis(t, 2)
	b.define(t, `{"id":"wide","tasks":[{"taskId":"each","forEach":{"items":"[0,1,2,3,4,5,6,7,8,9]","maxParallel":10},"workflow":{"id":"wide"}}]}`)
	run := uuid.NewString()
	b.crowd(t, run, workflow.MaxTree-room)
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "wide"})
	r := b.ended(t, run)
	if r.State != event.RunFailed || r.Error.Code != "tree_too_large" || r.Error.Retryable == nil || *r.Error.Retryable {
		t.Errorf("the run ended as %s", event.MustMarshal(r))
	}
	bustest.Eventually(t, "nothing of the tree goes on", func() bool {
		n, err := b.store.Count(t.Context(), "due/workflow", 0, storage.MaxScore)
		kin, kinErr := b.store.Count(t.Context(), "due/kin", 0, storage.MaxScore)
		return err == nil && kinErr == nil && n+kin == 0
	})
	if n := b.treeSize(t, run); n < workflow.MaxTree-10 || n > workflow.MaxTree+60*room {
		t.Errorf("the tree has %d runs", n)
	}
}

// A map that finds no room is not begun. Who runs it again begins another tree; and a tree goes with its runs.
func TestATreeThatIsRunAgainIsAnother(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.define(t, `{"id":"inner","tasks":[{"taskId":"a","wait":{"seconds":1.2}},
		{"taskId":"each","dependsOn":["a"],"forEach":{"items":"[1,2,3,4,5]"},"wait":{"seconds":0.01}}]}`)
	b.define(t, `{"id":"outer","tasks":[{"taskId":"sub","workflow":{"id":"inner"}}]}`)
	run := uuid.NewString()
	b.crowd(t, run, workflow.MaxTree-5)
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "outer"})
	if r := b.ended(t, run); r.State != event.RunFailed || r.Error.Code != "tree_too_large" {
		t.Fatalf("the run ended as %s", event.MustMarshal(r))
	}
	if n := b.treeSize(t, run); n != workflow.MaxTree-4 {
		t.Errorf("the tree has %d runs, but only one was to be started", n)
	}
	b.call(t, event.KindRunRerun, run, &event.RunCommand{TaskID: "sub"})
	if r := b.again(t, run, 1); r.State != event.RunCompleted {
		t.Errorf("the run ended as %s", event.MustMarshal(r))
	}
	if n := b.treeSize(t, run+"|1"); n != 6 {
		t.Errorf("the tree of the second go has %d runs", n)
	}
	b.purge(t)
	if n, err := b.engine.Retire(t.Context(), time.Now().Add(8*24*time.Hour)); n != 1 || err != nil {
		t.Fatalf("%d runs were removed, %v", n, err)
	}
	if first, second := b.treeSize(t, run), b.treeSize(t, run+"|1"); first != workflow.MaxTree-5 || second != 0 {
		t.Errorf("%d and %d runs are left in the trees", first, second)
	}
}
