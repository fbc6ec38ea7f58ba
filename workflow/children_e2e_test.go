package workflow_test

import (
	"context"
	"fmt"
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
	server, redis := bustest.Server(t), storagetest.StartRedis(t)
	var b *bundle
	for range 2 {
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
	for i := range 3 {
		b.serve(t, fmt.Sprintf("a%d", i), []string{"double"}, double)
	}
	b.call(t, event.KindWorkflowApply, "map", mapOver("map", workflow.ForEach{MaxParallel: 50}))
	input, want := doubles(250)
	var runs []string
	for range 4 {
		runs = append(runs, uuid.NewString())
		b.call(t, event.KindRunStart, runs[len(runs)-1], &event.RunStart{WorkflowID: "map", Input: input})
	}
	for _, run := range runs {
		if r := b.ended(t, run); r.State != event.RunCompleted || string(r.Output) != string(want) {
			t.Errorf("the run ended as %s", event.MustMarshal(r))
		}
	}
}
