package loadgen

import (
	"maps"
	"time"
)

// sampleWorkflow is the definition that scenarios 3 and 4 send along: docs/sample_workflow.json of the original.
func sampleWorkflow() map[string]any {
	return map[string]any{
		"id": "sample_workflow_id", "name": "Sample workflow", "version": "1.0",
		"description": "Two tasks in a row; clients of the old API start it by this id.",
		"tasks": []any{
			map[string]any{
				"taskId": "step_1", "name": "First step", "agentCapability": "test_capability",
				"parameters": map[string]any{"message": "Hello from the sample workflow"}, "nextTaskId": "step_2",
			},
			map[string]any{
				"taskId": "step_2", "name": "Second step", "agentCapability": "another_capability",
				"parameters": map[string]any{"value": 123}, "nextTaskId": nil,
			},
		},
	}
}

// oneTask is a workflow of one task.
func oneTask(id, capability string) map[string]any {
	return map[string]any{
		"id": id, "name": "One task",
		"tasks": []any{map[string]any{"taskId": "only", "agentCapability": capability, "parameters": map[string]any{}}},
	}
}

// builtins are the scenarios that come with the program. 0 to 4 are the load tests of the original: its plan says the users and
// times, its scripts the pauses and what is sent.
var builtins = []func() *Scenario{scenario0, scenario1, scenario2, scenario3, scenario4, dispatch, churn, storm, soak}

// Builtin returns the scenario of that name, and whether there is one. Each call returns a copy.
func Builtin(name string) (*Scenario, bool) {
	for _, make := range builtins {
		if s := make(); s.Name == name {
			return s, true
		}
	}
	return nil, false
}

// Builtins returns all scenarios that come with the program.
func Builtins() []*Scenario {
	var all []*Scenario
	for _, make := range builtins {
		all = append(all, make())
	}
	return all
}

// constant is a span without chance.
func constant(d time.Duration) Span { return Span{Min: d, Max: d} }

func scenario0() *Scenario {
	return &Scenario{
		Name:         "scenario-0",
		Description:  "Minimal: a few agents report their state",
		Stages:       []Stage{{Users: 1}, {Users: 5, Over: time.Minute, Hold: 5 * time.Minute}},
		Pause:        constant(time.Second),
		IDs:          IDs{Prefix: "loadtest-agent-", From: 1000, To: 9999},
		Capabilities: []string{"state_reporting"},
		OnStart:      []Step{{Op: OpRegister}},
		Tasks:        []Step{{Op: OpPostState}},
	}
}

func scenario1() *Scenario {
	return &Scenario{
		Name:         "scenario-1",
		Description:  "State load: 500 agents report every 5 to 10 s",
		Stages:       []Stage{{Users: 10}, {Users: 500, Over: 5 * time.Minute, Hold: 15 * time.Minute}},
		Pause:        Span{5 * time.Second, 10 * time.Second},
		IDs:          IDs{Prefix: "loadtest-agent-", From: 10000, To: 99999},
		Capabilities: []string{"state_reporting"},
		Metadata:     map[string]any{"scenario": 1},
		OnStart: []Step{
			{Op: OpRegister, NoKey: true},
			{Op: OpWait, For: time.Second},
			{Op: OpAwaitState, Every: 500 * time.Millisecond, Within: 10 * time.Second},
		},
		Tasks: []Step{{Op: OpPostState, Weight: 100}},
	}
}

func scenario2() *Scenario {
	return &Scenario{
		Name:         "scenario-2",
		Description:  "Workflow starts: 100 agents start a run of two tasks every 30 to 60 s",
		Stages:       []Stage{{Users: 10}, {Users: 100, Over: 3 * time.Minute, Hold: 15 * time.Minute}},
		Pause:        Span{30 * time.Second, 60 * time.Second},
		IDs:          IDs{Prefix: "workflow-agent-", UUID: true},
		Capabilities: []string{"workflow_execution"},
		Metadata:     map[string]any{"scenario": 2},
		OnStart: []Step{
			{Op: OpRegister, NoKey: true},
			{Op: OpWait, For: time.Second},
			{Op: OpAwaitState, Every: time.Second, Within: 15 * time.Second, AllowMissing: true},
		},
		Tasks: []Step{{Op: OpTrigger, Workflow: "sample_workflow_id", Context: map[string]any{"scenario": 2}}},
		// Its agents take no tasks, as those of the original did not.
		RunsEnd: 30 * time.Second,
	}
}

func scenario3() *Scenario {
	return &Scenario{
		Name:         "scenario-3",
		Description:  "Mixed: 300 agents post state (80 %), read it (15 %) and start runs (5 %)",
		Stages:       []Stage{{Users: 20}, {Users: 300, Over: 5 * time.Minute, Hold: 30 * time.Minute}},
		Pause:        Span{time.Second, 5 * time.Second},
		IDs:          IDs{Prefix: "loadtest-agent-", From: 10000, To: 99999},
		Capabilities: []string{"state_reporting", "test_capability", "another_capability"},
		Metadata:     map[string]any{"scenario": 3},
		Definition:   sampleWorkflow(),
		OnStart:      []Step{{Op: OpRegister}},
		Tasks:        []Step{{Op: OpPostState, Weight: 80}, {Op: OpGetState, Weight: 15}, {Op: OpTrigger, Inline: true, Weight: 5}},
	}
}

func scenario4() *Scenario {
	s := scenario3()
	s.Name = "scenario-4"
	s.Description = "Stress: as scenario 3, and 50 users more every 5 minutes until it becomes too slow or fails"
	s.Metadata = map[string]any{"scenario": 4}
	s.Stages = []Stage{
		{Users: 20},
		{Users: 300, Over: 5 * time.Minute, Hold: 5 * time.Minute},
		{Add: 50, Hold: 5 * time.Minute, Times: 100},
	}
	s.Stop = &Stop{MeanMs: 2000, Failures: 0.05}
	return s
}

func dispatch() *Scenario {
	return &Scenario{
		Name:        "dispatch",
		Description: "Agents that work: 500 runs of one task a second, taken by 64 agents over NATS",
		Users:       32,
		RunTime:     time.Minute,
		Rate:        500,
		IDs:         IDs{Prefix: "client-"},
		Tasks:       []Step{{Op: OpStartRun, Workflow: "loadgen-dispatch"}},
		Definition:  oneTask("loadgen-dispatch", "loadgen"),
		Agents:      &Agents{Count: 64, Slots: 8, Work: 2 * time.Millisecond, Capability: "loadgen"},
	}
}

func churn() *Scenario {
	s := dispatch()
	s.Name = "churn"
	s.Description = "Agents that come and go: they work a while, deregister or vanish, and come back"
	s.RunTime = 2 * time.Minute
	s.Rate = 50
	s.Tasks[0].Workflow = "loadgen-churn"
	s.Definition = oneTask("loadgen-churn", "loadgen-churn")
	s.Agents = &Agents{
		Count: 50, Slots: 2, Work: 50 * time.Millisecond, Capability: "loadgen-churn",
		Life: Span{10 * time.Second, 30 * time.Second}, Away: Span{time.Second, 5 * time.Second}, Vanish: 0.5,
	}
	return s
}

func storm() *Scenario {
	return &Scenario{
		Name:         "storm",
		Description:  "All agents lose their connections and register again at the same moment, several times",
		Users:        1000,
		SpawnRate:    100,
		RunTime:      2 * time.Minute,
		Pause:        Span{5 * time.Second, 10 * time.Second},
		IDs:          IDs{Prefix: "storm-agent-"},
		Capabilities: []string{"state_reporting"},
		OnStart:      []Step{{Op: OpRegister}},
		Tasks:        []Step{{Op: OpPostState}},
		Reconnect:    &Reconnect{Every: 20 * time.Second, Times: 4},
	}
}

func soak() *Scenario {
	s := scenario3()
	s.Name = "soak"
	s.Description = "Long: agents that report, read and start runs, and agents that work on them"
	s.Stages = []Stage{{Users: 200, Over: 2 * time.Minute, Hold: time.Hour}}
	s.IDs = IDs{Prefix: "soak-agent-"}
	s.Metadata = map[string]any{"scenario": "soak"}
	s.Definition = oneTask("loadgen-soak", "loadgen-soak")
	s.Tasks = []Step{{Op: OpPostState, Weight: 70}, {Op: OpGetState, Weight: 15}, {Op: OpStartRun, Workflow: "loadgen-soak", Weight: 15}}
	s.Agents = &Agents{
		Count: 20, Slots: 4, Work: 100 * time.Millisecond, Capability: "loadgen-soak",
		Life: Span{time.Minute, 5 * time.Minute}, Away: Span{time.Second, 10 * time.Second}, Vanish: 0.3,
	}
	return s
}

// merged returns a new map with the members of both; those of b win.
func merged(a, b map[string]any) map[string]any {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}
