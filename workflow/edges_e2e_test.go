package workflow_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

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
		b = joined(t, bustest.Dial(t, server), store)
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
	if x, err := b.runs.ExplainRun(t.Context(), first); err != nil || !strings.Contains(x.Text, `is paused with run "`+run+`"`) {
		t.Errorf("it is explained as %v, %v", x, err)
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

// again waits until a run that was told to go on has ended once more.
func (b *bundle) again(t *testing.T, run string, reruns int) *event.Run {
	t.Helper()
	return b.until(t, run, func(r *event.Run) bool { return r.State.Final() && r.Reruns == reruns })
}

// A map and a workflow inside are run again as new runs, with the input that somebody has given them; those before stay to be seen.
func TestAMapIsRunAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.serve(t, "a", []string{"echo"}, func(_ context.Context, task *agent.Task) (any, error) { return task.Input, nil })
	b.define(t, `{"id":"inner","tasks":[{"taskId":"t","agentCapability":"echo"}]}`)
	b.define(t, `{"id":"d","output":"${{ tasks.last.output }}","tasks":[
		{"taskId":"each","agentCapability":"echo","forEach":{"items":"input.items"},"parameters":{"n":"${{ item }}","tone":"warm"}},
		{"taskId":"sub","dependsOn":["each"],"workflow":{"id":"inner","input":{"all":"${{ tasks.each.output }}"}}},
		{"taskId":"last","dependsOn":["sub"],"agentCapability":"echo","parameters":{"sub":"${{ tasks.sub.output }}"}}]}`)
	run := b.launch(t, "d", `{"items":[1,2]}`)
	want := func(reruns, children int, output string) {
		t.Helper()
		if r := b.again(t, run, reruns); r.State != event.RunCompleted || string(r.Output) != output {
			t.Fatalf("the run is %s", event.MustMarshal(r))
		}
		if n := len(b.childrenOf(t, run)); n != children {
			t.Errorf("it has %d children, want %d", n, children)
		}
	}
	want(0, 3, `{"sub":{"all":[{"n":1,"tone":"warm"},{"n":2,"tone":"warm"}]}}`)
	b.call(t, event.KindRunRerun, run, &event.RunCommand{TaskID: "each", Set: event.Raw(`{"tone":"cool"}`)})
	want(1, 6, `{"sub":{"all":[{"n":1,"tone":"cool"},{"n":2,"tone":"cool"}]}}`)
	b.call(t, event.KindRunRerun, run, &event.RunCommand{TaskID: "sub", Input: event.Raw(`{"x":7}`)})
	want(2, 7, `{"sub":{"x":7}}`)
	child := b.childrenOf(t, run)[0]
	o := b.refused(t, event.KindRunRerun, child.RunID, &event.RunCommand{TaskID: "each"}, event.CodeNotAllowedNow)
	if want := `the run is a part of run "` + run + `", which can be retried or run again`; o.Error.Message != want {
		t.Errorf("a child is refused as %v", o.Error)
	}
}

// A map that has failed lets go of its items, also when it is run again at once.
func TestTheItemsOfAnEarlierGoAreCalledOff(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var stopped atomic.Int64
	var broken atomic.Bool
	broken.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	a, err := agent.New(agent.Config{Conn: b.conn.NC(), ID: "a", Name: "a", Version: "1", Capabilities: []string{"work"}, Slots: 10},
		func(ctx context.Context, task *agent.Task) (any, error) {
			if !broken.Load() {
				return *task.ItemIndex, nil
			}
			if *task.ItemIndex == 0 {
				return nil, agent.Permanent(agent.Fail("broken", "it is"))
			}
			<-ctx.Done()
			stopped.Add(1)
			return nil, context.Cause(ctx)
		})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-a.Ready()
	b.define(t, `{"id":"d","tasks":[{"taskId":"each","agentCapability":"work","forEach":{"items":"[1,2,3,4]"},"retry":{"attempts":0}}]}`)
	for range 5 {
		broken.Store(true)
		stopped.Store(0)
		run := b.launch(t, "d", `{}`)
		b.until(t, run, func(r *event.Run) bool { return r.State == event.RunFailed })
		broken.Store(false)
		b.call(t, event.KindRunRetry, run, struct{}{})
		if r := b.again(t, run, 1); r.State != event.RunCompleted || string(r.Output) != `[0,1,2,3]` {
			t.Fatalf("the run is %s", event.MustMarshal(r))
		}
		bustest.Eventually(t, "nobody works on what was called off", func() bool {
			for _, child := range b.childrenOf(t, run) {
				if !child.State.Final() {
					return false
				}
			}
			agent, err := b.agents.Get(t.Context(), "a")
			return err == nil && len(agent.Held) == 0
		})
	}
}

// Runs that are run again take a place as those do that are started: two replicas never let more go on than may, and who finds no room is told.
func TestRunningAgainTakesAPlace(t *testing.T) {
	t.Parallel()
	b := setupRedis(t, 2)
	c := b.crew(t, "crew", "work")
	b.define(t, `{"id":"d","concurrency":{"max":2},"tasks":[{"taskId":"t","agentCapability":"work"}]}`)
	var runs []string
	for range 6 {
		run := b.launch(t, "d", `{}`)
		b.call(t, event.KindRunCancel, run, struct{}{})
		b.ended(t, run)
		runs = append(runs, run)
	}
	began := c.began.Load()
	outcomes := make(chan bool, len(runs))
	for _, run := range runs {
		go func() {
			m := nats.NewMsg(event.CommandSubject(event.KindRunRetry, run))
			m.Data = []byte(`{}`)
			o, _, err := b.conn.Call(t.Context(), m)
			if err != nil || !o.OK && (o.Error.Code != event.CodeNotAllowedNow || !strings.Contains(o.Error.Message, "there is no room for the run")) {
				t.Errorf("%v %v", err, o.Error)
			}
			outcomes <- o.OK
		}()
	}
	taken := 0
	for range runs {
		if <-outcomes {
			taken++
		}
	}
	bustest.Eventually(t, "those that found room are at work", func() bool { return c.began.Load() == began+2 })
	if taken != 2 {
		t.Errorf("%d of 6 runs went on, 2 may", taken)
	}
	waits := b.launch(t, "d", `{}`)
	if r, err := b.runs.Run(t.Context(), waits); err != nil || r.State != event.RunPending {
		t.Errorf("beside them a run is %s, %v", r.State, err)
	}
	close(c.goOn)
	b.ended(t, waits)
	for _, run := range runs {
		r := b.ended(t, run)
		if r.State == event.RunCompleted {
			continue
		}
		b.call(t, event.KindRunRetry, run, struct{}{})
		if r = b.ended(t, run); r.State != event.RunCompleted {
			t.Errorf("with room again the run is %s", event.MustMarshal(r))
		}
	}
	b.call(t, event.KindWorkflowPause, "d", struct{}{})
	o := b.refused(t, event.KindRunRerun, waits, &event.RunCommand{TaskID: "t"}, event.CodeNotAllowedNow)
	if want := `workflow "d" is paused; the run can go on when it is resumed`; o.Error.Message != want {
		t.Errorf("it is refused as %v", o.Error)
	}
}

// A pause of a workflow holds all its runs, whether their definition was stored before or comes with the start, by the new API or the old one.
func TestAPausedDefinitionHoldsInlineRuns(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.serve(t, "a", []string{"c"}, func(_ context.Context, task *agent.Task) (any, error) { return task.Input, nil })
	b.define(t, `{"id":"held","tasks":[{"taskId":"t","agentCapability":"c"}]}`)
	b.call(t, event.KindWorkflowPause, "held", struct{}{})
	starts := map[string]*event.RunStart{
		"inline":       {Definition: event.Raw(`{"id":"held","tasks":[{"taskId":"t","agentCapability":"c","parameters":{"n":1}}]}`)},
		"inline again": {Definition: event.Raw(`{"id":"held","tasks":[{"taskId":"t","agentCapability":"c","parameters":{"n":1}}]}`), Priority: 1},
		"as stored":    {Definition: event.Raw(`{"id":"held","tasks":[{"taskId":"t","agentCapability":"c"}]}`)},
		"old":          {Definition: event.Raw(`{"id":"held","tasks":[{"taskId":"t"}]}`), AgentID: "a", Legacy: true},
		"later":        {Definition: event.Raw(`{"id":"held","tasks":[{"taskId":"t","agentCapability":"c","parameters":{"n":2}}]}`), DelaySeconds: 0.01},
	}
	runs := make(map[string]string)
	for name, start := range starts {
		runs[name] = uuid.NewString()
		if o := b.call(t, event.KindRunStart, runs[name], start); o.State != string(event.RunPending) {
			t.Errorf("%s: it was started as %s", name, o.State)
		}
	}
	other := uuid.NewString()
	b.call(t, event.KindRunStart, other, &event.RunStart{Definition: event.Raw(`{"id":"other","tasks":[{"taskId":"t","agentCapability":"c"}]}`)})
	if r := b.ended(t, other); r.State != event.RunCompleted {
		t.Errorf("a run of another workflow is %s", r.State)
	}
	for name, run := range runs {
		b.until(t, run, func(r *event.Run) bool { return r.State == event.RunPending && r.StartAt == nil })
		if x, err := b.runs.ExplainRun(t.Context(), run); err != nil || x.Text != `Workflow "held" is paused: its runs begin when it is resumed.` {
			t.Errorf("%s: it is explained as %v, %v", name, x, err)
		}
	}
	b.call(t, event.KindWorkflowResume, "held", struct{}{})
	for name, run := range runs {
		if r := b.ended(t, run); r.State != event.RunCompleted {
			t.Errorf("%s: resumed it is %s", name, event.MustMarshal(r))
		}
	}
}
