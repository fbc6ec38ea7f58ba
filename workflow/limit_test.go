package workflow_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// crowd is an agent that counts how many of its tasks go on at the same time, by a key of their input, and in which order they began.
type crowd struct {
	mu    sync.Mutex
	now   map[string]int
	most  map[string]int
	order []int
}

func (w *crowd) work(_ context.Context, task *agent.Task) (any, error) {
	var in struct {
		User string
		N    int
	}
	if err := task.Bind(&in); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.now[in.User]++
	w.most[in.User] = max(w.most[in.User], w.now[in.User])
	w.order = append(w.order, in.N)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.now[in.User]--
		w.mu.Unlock()
	}()
	return in.N, nil
}

func limited(most int, key string) *workflow.Definition {
	d := sequence("limited", "work")
	d.Tasks[0].Parameters = nil
	d.Concurrency = &workflow.Concurrency{Max: most, Key: key}
	return d
}

// Of the runs that share a key no more go on at the same time than the definition says, with three replicas that all start and end them, and none is forgotten.
func TestConcurrencyByKey(t *testing.T) {
	t.Parallel()
	b := setupRedis(t, 3)
	w := &crowd{now: make(map[string]int), most: make(map[string]int)}
	for i := range 12 {
		b.serve(t, fmt.Sprintf("a%d", i), []string{"work"}, w.work)
	}
	b.call(t, event.KindWorkflowApply, "limited", limited(2, "input.user"))
	var runs []string
	for i := range 120 {
		run := uuid.NewString()
		publish(t, b, event.CommandSubject(event.KindRunStart, run), &event.RunStart{
			WorkflowID: "limited", Input: event.Raw(fmt.Sprintf(`{"user":"u%d","n":%d}`, i%3, i)),
		})
		runs = append(runs, run)
	}
	for _, run := range runs {
		if r := b.ended(t, run); r.State != event.RunCompleted {
			t.Errorf("the run ended as %s", event.MustMarshal(r))
		}
	}
	for user, most := range w.most {
		if most > 2 {
			t.Errorf("%d runs of %s went on at the same time", most, user)
		}
	}
	if len(w.order) != 120 {
		t.Errorf("%d tasks were begun", len(w.order))
	}
}

// Runs that wait begin in the order in which they were started, one that is cancelled while it waits takes no place, and one that fails gives it back.
func TestConcurrencyInOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var mu sync.Mutex
	var order []int
	goOn := make(chan struct{})
	b.serve(t, "a", []string{"work"}, func(_ context.Context, task *agent.Task) (any, error) {
		var in struct{ N int }
		if err := task.Bind(&in); err != nil {
			return nil, err
		}
		mu.Lock()
		order = append(order, in.N)
		mu.Unlock()
		<-goOn
		if in.N == 2 {
			return nil, agent.Permanent(agent.Fail("no", "no"))
		}
		return in.N, nil
	})
	b.call(t, event.KindWorkflowApply, "limited", limited(1, ""))
	var runs []string
	for i := range 6 {
		run := uuid.NewString()
		o := b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "limited", Input: event.Raw(fmt.Sprintf(`{"n":%d}`, i))})
		if want := map[bool]string{true: "running", false: "pending"}[i == 0]; o.State != want {
			t.Errorf("run %d is %s, want %s", i, o.State, want)
		}
		runs = append(runs, run)
	}
	x, err := b.runs.ExplainRun(t.Context(), runs[2])
	if want := `The run waits for a place: 1 runs of workflow "limited" go on, at most 1 may, and 1 wait before it.`; err != nil || x.Text != want {
		t.Errorf("it is explained as %v, %v", x, err)
	}
	b.call(t, event.KindRunCancel, runs[3], map[string]string{})
	close(goOn)
	for i, run := range runs {
		want := map[int]event.RunState{2: event.RunFailed, 3: event.RunCancelled}[i]
		if want == "" {
			want = event.RunCompleted
		}
		if r := b.ended(t, run); r.State != want {
			t.Errorf("run %d ended as %s", i, event.MustMarshal(r))
		}
	}
	if got := fmt.Sprint(order); got != "[0 1 2 4 5]" {
		t.Errorf("the runs began in the order %s", got)
	}
	bustest.Eventually(t, "nothing is left of the limiter", func() bool {
		for _, index := range []storage.Index{"due/workflow"} {
			if n, err := b.store.Count(t.Context(), index, 0, storage.MaxScore); err != nil || n > 0 {
				return false
			}
		}
		return true
	})
}
