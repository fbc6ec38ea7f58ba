package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// mapOver is a definition that does one task for each item of its input.
func mapOver(id string, f workflow.ForEach) *workflow.Definition {
	f.Items = "input.items"
	return &workflow.Definition{ID: id, Tasks: []workflow.Task{{
		TaskID: "each", AgentCapability: "double", Parameters: event.Raw(`{"n":"${{ item }}","at":"${{ index }}"}`),
		Retry: &workflow.Retry{Attempts: new(int)}, Node: workflow.Node{ForEach: &f},
	}}}
}

// double answers with twice the number, and fails for those below 0.
func double(_ context.Context, task *agent.Task) (any, error) {
	var in struct{ N, At int }
	if err := task.Bind(&in); err != nil {
		return nil, err
	}
	switch {
	case in.N < 0:
		return nil, agent.Permanent(agent.Fail("negative", "no"))
	case task.ItemIndex == nil || *task.ItemIndex != in.At || task.ParentRunID == "":
		return nil, agent.Permanent(agent.Fail("lost", "it does not say which item it is"))
	}
	return 2 * in.N, nil
}

// doubles is what a map over n numbers brings.
func doubles(n int) (input, output event.Raw) {
	in, out := make([]int, n), make([]int, n)
	for i := range in {
		in[i], out[i] = i, 2*i
	}
	return event.MustMarshal(map[string][]int{"items": in}), event.MustMarshal(out)
}

func TestForEach(t *testing.T) {
	b := setup(t)
	b.serve(t, "a", []string{"double"}, double)
	for _, tt := range []struct {
		name, input, want string
		forEach           workflow.ForEach
		state             event.RunState
	}{
		{"all", `{"items":[5,6,7,8,9]}`, `[10,12,14,16,18]`, workflow.ForEach{MaxParallel: 2}, event.RunCompleted},
		{"none", `{"items":[]}`, `[]`, workflow.ForEach{}, event.RunCompleted},
		{
			"collect", `{"items":[1,-1,3]}`, `[2,{"error":{"code":"negative","message":"no","retryable":false}},6]`,
			workflow.ForEach{OnFailure: "collect"},
			event.RunCompleted,
		},
		{
			"tolerate", `{"items":[1,-1]}`, `[2,{"error":{"code":"negative","message":"no","retryable":false}}]`,
			workflow.ForEach{Tolerate: 1},
			event.RunCompleted,
		},
		{"fail", `{"items":[1,-1,3]}`, `negative`, workflow.ForEach{MaxParallel: 1}, event.RunFailed},
		{"more than tolerated", `{"items":[-1,-1,3]}`, `negative`, workflow.ForEach{Tolerate: 1}, event.RunFailed},
		{"no list", `{"items":7}`, `expression_error`, workflow.ForEach{}, event.RunFailed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := "map-" + uuid.NewString()
			b.call(t, event.KindWorkflowApply, id, mapOver(id, tt.forEach))
			run := uuid.NewString()
			b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: id, Input: event.Raw(tt.input)})
			r := b.ended(t, run)
			got := string(r.Output)
			if r.Error != nil {
				got = r.Error.Code
			}
			if r.State != tt.state || got != tt.want {
				t.Errorf("the run ended as %s", event.MustMarshal(r))
			}
		})
	}
}

// A map of several windows ends well on Redis with two replicas, which both give its items to agents.
func TestForEachOnTwoReplicas(t *testing.T) {
	b := setupRedis(t, 2)
	for i := range 3 {
		b.serve(t, fmt.Sprintf("a%d", i), []string{"double"}, double)
	}
	b.call(t, event.KindWorkflowApply, "map", mapOver("map", workflow.ForEach{MaxParallel: 50}))
	input, want := doubles(160)
	var runs []string
	for range 3 {
		runs = append(runs, uuid.NewString())
		b.call(t, event.KindRunStart, runs[len(runs)-1], &event.RunStart{WorkflowID: "map", Input: input})
	}
	for _, run := range runs {
		if r := b.ended(t, run); r.State != event.RunCompleted || string(r.Output) != string(want) {
			t.Errorf("the run ended as %s", event.MustMarshal(r))
		}
	}
}

// A workflow inside of a workflow is given its input by the outer one, and its output is the output of the task.
func TestSubWorkflow(t *testing.T) {
	b := setup(t)
	b.serve(t, "a", []string{"double"}, func(_ context.Context, task *agent.Task) (any, error) {
		var in struct{ N int }
		if err := task.Bind(&in); err != nil || in.N < 0 {
			return nil, agent.Permanent(agent.Fail("negative", "no"))
		}
		return 2 * in.N, nil
	})
	b.call(t, event.KindWorkflowApply, "inner", &workflow.Definition{ID: "inner", Tasks: []workflow.Task{{TaskID: "t", AgentCapability: "double"}}})
	outer := &workflow.Definition{ID: "outer", Tasks: []workflow.Task{{TaskID: "sub", Node: workflow.Node{
		Workflow: &workflow.SubWorkflow{ID: "inner", Input: event.Raw(`{"n":"${{ input.k + 1 }}"}`)},
	}}}}
	b.call(t, event.KindWorkflowApply, "outer", outer)
	many := &workflow.Definition{ID: "many", Tasks: []workflow.Task{{TaskID: "subs", Node: workflow.Node{
		ForEach:  &workflow.ForEach{Items: "[1, 2, 3]", OnFailure: "collect"},
		Workflow: &workflow.SubWorkflow{ID: "outer", Input: event.Raw(`{"k":"${{ item - 3 }}"}`)},
	}}}}
	b.call(t, event.KindWorkflowApply, "many", many)
	lost := &workflow.Definition{ID: "lost", Tasks: []workflow.Task{{TaskID: "sub", Node: workflow.Node{Workflow: &workflow.SubWorkflow{ID: "nobody"}}}}}
	b.call(t, event.KindWorkflowApply, "lost", lost)
	self := &workflow.Definition{ID: "self", Tasks: []workflow.Task{{TaskID: "sub", Node: workflow.Node{Workflow: &workflow.SubWorkflow{ID: "self"}}}}}
	b.call(t, event.KindWorkflowApply, "self", self)
	for _, tt := range []struct {
		workflow, input, want string
		state                 event.RunState
	}{
		{"outer", `{"k":20}`, `42`, event.RunCompleted},
		{"outer", `{"k":-20}`, `negative`, event.RunFailed},
		{"outer", `{"k":"x"}`, `expression_error`, event.RunFailed},
		{"many", `{}`, `[{"error":{"code":"negative","message":"no","retryable":false}},0,2]`, event.RunCompleted},
		{"lost", `{}`, `unknown_definition`, event.RunFailed},
		{"self", `{}`, `too_deep`, event.RunFailed},
	} {
		run := uuid.NewString()
		b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: tt.workflow, Input: event.Raw(tt.input)})
		r := b.ended(t, run)
		got := string(r.Output)
		if r.Error != nil {
			got = r.Error.Code
		}
		if r.State != tt.state || got != tt.want {
			t.Errorf("%s of %s ended as %s", tt.workflow, tt.input, event.MustMarshal(r))
		}
	}
}

func TestLoop(t *testing.T) {
	b := setup(t)
	b.serve(t, "a", []string{"count"}, func(_ context.Context, task *agent.Task) (any, error) {
		var in struct{ Before *int }
		if err := task.Bind(&in); err != nil {
			return nil, err
		}
		if in.Before == nil {
			return 1, nil
		}
		return *in.Before + 1, nil
	})
	for _, tt := range []struct {
		while, want string
		most        int
		state       event.RunState
	}{
		{"output < input.until", "5", 10, event.RunCompleted},
		{"output < input.until && index < 2", "3", 10, event.RunCompleted},
		{"true", "loop_limit", 4, event.RunFailed},
		{"output.x", "expression_error", 4, event.RunFailed},
	} {
		id := "loop-" + uuid.NewString()
		b.call(t, event.KindWorkflowApply, id, &workflow.Definition{ID: id, Tasks: []workflow.Task{{
			TaskID: "again", AgentCapability: "count", Parameters: event.Raw(`{"before":"${{ output }}"}`),
			Node: workflow.Node{Loop: &workflow.Loop{While: tt.while, Max: tt.most}},
		}}})
		run := uuid.NewString()
		b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: id, Input: event.Raw(`{"until":5}`)})
		r := b.ended(t, run)
		got := string(r.Output)
		if r.Error != nil {
			got = r.Error.Code
		}
		if r.State != tt.state || got != tt.want {
			t.Errorf("while %s ended as %s", tt.while, event.MustMarshal(r))
		}
	}
}

// Cancelling a run reaches the agents that work on the children of its children.
func TestCancelReachesChildren(t *testing.T) {
	b := setup(t)
	began, stopped := make(chan struct{}, 10), make(chan struct{}, 10)
	ctx, cancel := context.WithCancel(t.Context())
	a, err := agent.New(agent.Config{Conn: b.conn.NC(), ID: "slow", Name: "slow", Version: "1", Capabilities: []string{"slow"}, Slots: 4},
		func(ctx context.Context, _ *agent.Task) (any, error) {
			began <- struct{}{}
			<-ctx.Done()
			stopped <- struct{}{}
			return nil, context.Cause(ctx)
		})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-a.Ready()
	b.call(t, event.KindWorkflowApply, "inner", &workflow.Definition{ID: "inner", Tasks: []workflow.Task{{
		TaskID: "each", AgentCapability: "slow", Node: workflow.Node{ForEach: &workflow.ForEach{Items: "[1, 2]"}},
	}}})
	b.call(t, event.KindWorkflowApply, "outer", &workflow.Definition{ID: "outer", Tasks: []workflow.Task{{
		TaskID: "subs", Node: workflow.Node{ForEach: &workflow.ForEach{Items: "[1, 2]"}, Workflow: &workflow.SubWorkflow{ID: "inner"}},
	}}})
	run := uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "outer"})
	for range 4 {
		<-began
	}
	at := time.Now()
	b.call(t, event.KindRunCancel, run, map[string]string{"reason": "enough"})
	for range 4 {
		<-stopped
	}
	t.Logf("all agents had stopped %s after the cancel", time.Since(at))
	if r := b.ended(t, run); r.State != event.RunCancelled || r.Error.Message != "enough" {
		t.Errorf("run ended as %s", event.MustMarshal(r))
	}
	bustest.Eventually(t, "all slots are free", func() bool {
		a, err := b.agents.Get(t.Context(), "slow")
		return err == nil && len(a.Held) == 0
	})
}

// The children of a run are not listed with other runs but under it, and go with it.
func TestChildrenAreListedAndRetired(t *testing.T) {
	b := setup(t)
	large := strings.Repeat("x", 3000)
	b.serve(t, "a", []string{"double"}, func(_ context.Context, task *agent.Task) (any, error) { return task.Input, nil })
	each := mapOver("inner", workflow.ForEach{})
	each.Tasks[0].Parameters = event.Raw(`{"item":"${{ item }}","text":"` + large + `"}`)
	b.call(t, event.KindWorkflowApply, "inner", each)
	b.call(t, event.KindWorkflowApply, "outer", &workflow.Definition{ID: "outer", Tasks: []workflow.Task{{
		TaskID: "sub", Node: workflow.Node{Workflow: &workflow.SubWorkflow{ID: "inner", Input: event.Raw(`{"items":"${{ input.items }}"}`)}},
	}}})
	run := uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "outer", Input: event.Raw(`{"items":[1,2,3,4,5]}`)})
	if r := b.ended(t, run); r.State != event.RunCompleted || r.Tasks[0].Children.Done != 1 {
		t.Fatalf("the run ended as %s", event.MustMarshal(r))
	}
	if page, err := b.runs.Runs(t.Context(), "", 10); err != nil || len(page.Items) != 1 {
		t.Errorf("%d runs are listed, %v", len(page.Items), err)
	}
	subs, err := b.runs.Children(t.Context(), run, "", 10)
	if err != nil || len(subs.Items) != 1 || subs.Items[0].WorkflowID != "inner" {
		t.Fatalf("the children of the run are %+v, %v", subs, err)
	}
	var children []string
	for cursor := ""; ; {
		page, err := b.runs.Children(t.Context(), subs.Items[0].RunID, cursor, 2)
		if err != nil {
			t.Fatal(err)
		}
		for i := range page.Items {
			if p := page.Items[i].Parent; p.RunID != subs.Items[0].RunID || p.TaskID != "each" || p.Index != len(children) {
				t.Errorf("child %d is %+v", len(children), p)
			}
			children = append(children, page.Items[i].RunID)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if len(children) != 5 {
		t.Fatalf("%d children are listed", len(children))
	}
	if r, err := b.runs.Run(t.Context(), children[3]); err != nil || r.State != event.RunCompleted || !strings.Contains(string(r.Output), `"item":4`) {
		t.Errorf("a child is shown as %s, %v", event.MustMarshal(r), err)
	}
	b.purge(t)
	if n, err := b.engine.Retire(t.Context(), time.Now().Add(8*24*time.Hour)); n != 1 || err != nil {
		t.Fatalf("%d runs were removed, %v", n, err)
	}
	for _, id := range append(children, run, subs.Items[0].RunID) {
		if _, err := b.runs.Run(t.Context(), id); !errors.Is(err, &event.Error{Code: event.CodeUnknownRun}) {
			t.Errorf("run %s is still there: %v", id, err)
		}
	}
	key := storage.Key("run-items/" + subs.Items[0].RunID + "/each/1/0")
	if docs, err := b.store.Get(t.Context(), key); err != nil || docs[0].Rev != "" {
		t.Errorf("%s is still there, %v", key, err)
	}
}

// A run that is paused starts no more children, those that go on are paused with it, and all go on when it is resumed.
func TestPauseReachesChildren(t *testing.T) {
	b := setup(t)
	began, goOn := make(chan struct{}, 10), make(chan struct{})
	b.serve(t, "a", []string{"double"}, func(ctx context.Context, task *agent.Task) (any, error) {
		began <- struct{}{}
		<-goOn
		return double(ctx, task)
	})
	b.call(t, event.KindWorkflowApply, "map", mapOver("map", workflow.ForEach{MaxParallel: 2}))
	input, want := doubles(6)
	run := uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "map", Input: input})
	<-began
	states := func() (all []event.RunState) {
		page, err := b.runs.Children(t.Context(), run, "", 10)
		if err != nil {
			t.Fatal(err)
		}
		for i := range page.Items {
			all = append(all, page.Items[i].State)
		}
		return all
	}
	is := func(want ...event.RunState) func() bool { return func() bool { return slices.Equal(states(), want) } }
	bustest.Eventually(t, "two children go on", is(event.RunRunning, event.RunRunning))
	b.call(t, event.KindRunPause, run, map[string]string{})
	bustest.Eventually(t, "both are paused", is(event.RunPaused, event.RunPaused))
	close(goOn)
	bustest.Eventually(t, "the task that an agent had begun is taken in", is(event.RunCompleted, event.RunPaused))
	r, err := b.runs.Run(t.Context(), run)
	if err != nil || r.State != event.RunPaused || len(began) != 0 {
		t.Fatalf("the run is %s, %v", event.MustMarshal(r), err)
	}
	b.call(t, event.KindRunResume, run, map[string]string{})
	if r := b.ended(t, run); r.State != event.RunCompleted || string(r.Output) != string(want) {
		t.Errorf("the run ended as %s", event.MustMarshal(r))
	}
}
