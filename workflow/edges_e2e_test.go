package workflow_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
	"github.com/opspawn/opscore/workflow"
)

// setupRedis is setup on Redis, with so many replicas.
func setupRedis(t *testing.T, replicas int) (b *bundle) {
	t.Helper()
	server, redis := bustest.Server(t), storagetest.StartRedis(t)
	for range replicas {
		store, err := storage.Open(t.Context(), redis.URL(), redisstore.Driver)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		var stop func() error
		b, stop = replica(t, bustest.Dial(t, server), store, nil)
		t.Cleanup(func() {
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
	return b
}

// define applies a definition written as JSON.
func (b *bundle) define(t *testing.T, source string) string {
	t.Helper()
	def, err := workflow.Parse(event.Raw(source))
	if err != nil {
		t.Fatal(err)
	}
	b.call(t, event.KindWorkflowApply, def.ID, event.Raw(source))
	return def.ID
}

// launch starts a run.
func (b *bundle) launch(t *testing.T, id, input string) (run string) {
	t.Helper()
	run = uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: id, Input: event.Raw(input)})
	return run
}

// childrenOf lists the runs that a run has started.
func (b *bundle) childrenOf(t *testing.T, run string) []event.Run {
	t.Helper()
	page, err := b.runs.Children(t.Context(), run, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	return page.Items
}

// A workflow inside of another is run again as another run, and its first agent is told what went wrong. In a map each item tries for itself.
func TestRetryOfAWorkflowInside(t *testing.T) {
	t.Parallel()
	b := setupRedis(t, 2)
	var tries atomic.Int64
	b.serve(t, "a", []string{"flaky"}, func(_ context.Context, task *agent.Task) (any, error) {
		var in struct{ N int }
		if err := task.Bind(&in); err != nil {
			return nil, err
		}
		tries.Add(1)
		if in.N%2 == 1 && (task.PreviousError == nil || task.PreviousError.Code != "flaky") {
			return nil, agent.Fail("flaky", "not yet")
		}
		return 2 * in.N, nil
	})
	b.define(t, `{"id":"inner","retry":{"attempts":0},"tasks":[{"taskId":"t","agentCapability":"flaky"}]}`)
	const retry = `"retry":{"attempts":1,"initialSeconds":0.01}`
	b.define(t, `{"id":"one","tasks":[{"taskId":"sub","workflow":{"id":"inner","input":{"n":"${{ input.n }}"}},`+retry+`}]}`)
	b.define(t, `{"id":"many","tasks":[{"taskId":"each","forEach":{"items":"[1,2,3]"},"workflow":{"id":"inner","input":{"n":"${{ item }}"}},`+retry+`}]}`)
	for _, tt := range []struct {
		id, want                 string
		tries, children, deepest int
	}{
		{"one", `6`, 2, 2, 1},
		{"many", `[2,4,6]`, 5, 3, 2},
	} {
		tries.Store(0)
		run := b.launch(t, tt.id, `{"n":3}`)
		r := b.ended(t, run)
		if r.State != event.RunCompleted || string(r.Output) != tt.want || tries.Load() != int64(tt.tries) {
			t.Errorf("%s: after %d attempts the run is %s", tt.id, tries.Load(), event.MustMarshal(r))
		}
		children := b.childrenOf(t, run)
		if len(children) != tt.children {
			t.Errorf("%s: the children are %s", tt.id, event.MustMarshal(children))
		}
		if tt.deepest == 2 && len(b.childrenOf(t, children[0].RunID)) != 2 {
			t.Errorf("%s: the first item has %s", tt.id, event.MustMarshal(b.childrenOf(t, children[0].RunID)))
		}
		for i, child := range children {
			if want := tt.id == "one" && i == 0; (child.State == event.RunFailed) != want {
				t.Errorf("%s: child %d is %s", tt.id, i, child.State)
			}
		}
	}
}

// crew is an agent with many slots whose tasks go on until they are let go.
type crew struct {
	began atomic.Int64
	goOn  chan struct{}
}

func (b *bundle) crew(t *testing.T, id, capability string) *crew {
	t.Helper()
	c := &crew{goOn: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	a, err := agent.New(agent.Config{Conn: b.conn.NC(), ID: id, Name: id, Version: "1", Capabilities: []string{capability}, Slots: 100},
		func(ctx context.Context, task *agent.Task) (any, error) {
			c.began.Add(1)
			select {
			case <-c.goOn:
			case <-ctx.Done():
			}
			return task.Input, nil
		})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-a.Ready()
	return c
}

// A pause reaches the children of children: nobody is given anything any more, what agents were at work on is taken in, and all goes on with the resume, except what
// people have paused by itself.
func TestPauseHoldsTheWholeTree(t *testing.T) {
	t.Parallel()
	b := setupRedis(t, 2)
	c := b.crew(t, "crew", "work")
	b.define(t, `{"id":"inner","tasks":[{"taskId":"m","agentCapability":"work","forEach":{"items":"[1,2]"}},{"taskId":"last","agentCapability":"work","dependsOn":["m"]}]}`)
	b.define(t, `{"id":"outer","tasks":[{"taskId":"each","forEach":{"items":"[1,2,3]","maxParallel":2},"workflow":{"id":"inner"}}]}`)
	run := b.launch(t, "outer", `{}`)
	bustest.Eventually(t, "four items of two items are at work", func() bool { return c.began.Load() == 4 })
	all := func(state event.RunState, of func() []event.Run) func() bool {
		return func() bool {
			for _, r := range of() {
				if r.State != state {
					return false
				}
			}
			return true
		}
	}
	children := func() []event.Run { return b.childrenOf(t, run) }
	tree := func() (list []event.Run) {
		for _, child := range children() {
			list = append(append(list, child), b.childrenOf(t, child.RunID)...)
		}
		return list
	}
	b.call(t, event.KindRunPause, run, struct{}{})
	bustest.Eventually(t, "all are paused", all(event.RunPaused, tree))
	first := children()[0].RunID
	b.call(t, event.KindRunPause, first, struct{}{})
	if o := b.call(t, event.KindRunResume, children()[1].RunID, struct{}{}); o.State != string(event.RunPaused) {
		t.Errorf("a child of a paused run is resumed: %s", o.State)
	}
	close(c.goOn)
	bustest.Eventually(t, "what agents had begun is taken in", func() bool {
		return len(tree()) == 6 && all(event.RunCompleted, func() []event.Run { return b.childrenOf(t, first) })() &&
			all(event.RunCompleted, func() []event.Run { return b.childrenOf(t, children()[1].RunID) })()
	})
	if !all(event.RunPaused, children)() || c.began.Load() != 4 {
		t.Errorf("%d tasks were begun; the tree is %s", c.began.Load(), event.MustMarshal(tree()))
	}
	b.call(t, event.KindRunResume, run, struct{}{})
	bustest.Eventually(t, "two of three children end", func() bool {
		list := children()
		return len(list) == 3 && list[1].State == event.RunCompleted && list[2].State == event.RunCompleted
	})
	if r := children()[0]; r.State != event.RunPaused || c.began.Load() != 8 {
		t.Errorf("%d tasks were begun; what people have paused is %s", c.began.Load(), r.State)
	}
	b.call(t, event.KindRunResume, first, struct{}{})
	if r := b.ended(t, run); r.State != event.RunCompleted || c.began.Load() != 9 {
		t.Errorf("after %d tasks the run is %s", c.began.Load(), event.MustMarshal(r))
	}
}
