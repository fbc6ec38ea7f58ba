package workflow_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow"
)

// TestGraph runs a graph whose tasks hand on values that are too large for the run's document.
func TestGraph(t *testing.T) {
	b := setup(t)
	large := strings.Repeat("x", 5000)
	for i := range 2 {
		b.serve(t, fmt.Sprint("echo-", i), []string{"echo"}, func(_ context.Context, task *agent.Task) (any, error) {
			return map[string]any{"task": task.TaskID, "got": task.Input}, nil
		})
	}
	def, err := workflow.ParseFile([]byte(`
id: review
output:
  text: ${{ tasks.join.output.got.left }}
  states: [ "${{ tasks.left.state }}", "${{ tasks.never.state }}" ]
tasks:
  - taskId: split
    agentCapability: echo
  - {taskId: left, agentCapability: echo, dependsOn: [split], parameters: {text: "${{ tasks.split.output.got.text }}"}}
  - {taskId: right, agentCapability: echo, dependsOn: [split], when: input.text.size() > 4000}
  - {taskId: never, agentCapability: echo, dependsOn: [split], when: "false"}
  - {taskId: join, agentCapability: echo, dependsOn: [left, right, never], parameters: {left: "${{ tasks.left.output.got.text }}"}}
`))
	if err != nil {
		t.Fatal(err)
	}
	b.call(t, event.KindWorkflowApply, "review", def)
	var runs []string
	for range 20 {
		run := uuid.NewString()
		b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "review", Input: event.MustMarshal(map[string]string{"text": large})})
		runs = append(runs, run)
	}
	for _, run := range runs {
		r := b.ended(t, run)
		if want := `{"states":["completed","skipped"],"text":"` + large + `"}`; r.State != event.RunCompleted || string(r.Output) != want {
			t.Fatalf("the run ended as %s with an output of %d bytes: %v", r.State, len(r.Output), r.Error)
		}
		var states []string
		for _, task := range r.Tasks {
			states = append(states, task.TaskID+":"+string(task.State))
		}
		if got := strings.Join(states, " "); got != "split:completed left:completed right:completed never:skipped join:completed" {
			t.Errorf("the tasks are %s", got)
		}
	}
}

// TestLargeGraph runs a graph with more tasks side by side than a run may have active.
func TestLargeGraph(t *testing.T) {
	b := setup(t)
	b.serve(t, "stepper", []string{"step"}, func(_ context.Context, task *agent.Task) (any, error) {
		return map[string]string{"did": task.TaskID}, nil
	})
	def := &workflow.Definition{ID: "wide"}
	join := workflow.Task{TaskID: "join", AgentCapability: "step", Parameters: event.Raw(`{"first":"${{ tasks.t0.output.did }}"}`)}
	for i := range 250 {
		id := fmt.Sprint("t", i)
		def.Tasks = append(def.Tasks, workflow.Task{TaskID: id, AgentCapability: "step"})
		join.DependsOn = append(join.DependsOn, id)
	}
	def.Tasks = append(def.Tasks, join)
	b.call(t, event.KindWorkflowApply, "wide", def)
	run := uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "wide"})
	r := b.ended(t, run)
	if r.State != event.RunCompleted || string(r.Output) != `{"did":"join"}` || len(r.Tasks) != 251 {
		t.Fatalf("the run ended as %s with %d tasks and output %s: %v", r.State, len(r.Tasks), r.Output, r.Error)
	}
	for _, task := range r.Tasks {
		if task.State != event.TaskCompleted || task.Attempt != 1 {
			t.Errorf("task %s is %s in attempt %d", task.TaskID, task.State, task.Attempt)
		}
	}
}
