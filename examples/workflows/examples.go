// Package workflows holds the example workflows, what runs of them come to, and agents that can do what they ask for.
package workflows

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/opspawn/opscore/bus/event"
)

//go:embed *.yaml *.json
var files embed.FS

// Example is a workflow with the file beside it.
type Example struct {
	Name   string `json:"-"`
	Source []byte `json:"-"` // of the workflow, YAML

	Apply []string `json:"apply,omitzero"` // other examples that it needs
	Runs  []Run    `json:"runs"`
}

// Run is a run of an example, and what it comes to.
type Run struct {
	Name    string    `json:"name"`
	Input   event.Raw `json:"input"`
	Signals []Signal  `json:"signals,omitzero"` // sent as soon as the run has begun
	Approve *Word     `json:"approve,omitzero"`
	Result  Result    `json:"result"`
}

// Signal is sent to a run.
type Signal struct {
	Name    string    `json:"name"`
	Payload event.Raw `json:"payload"`
	Refused string    `json:"refused,omitzero"` // code
}

// Word is what a person says when a run asks.
type Word struct {
	Task     string `json:"task"`
	By       string `json:"by"`
	Approved bool   `json:"approved"`
}

// Refused is the State of a Result of which there is no run.
const Refused event.RunState = "refused"

// Result is how a run ends. Of a run that fails, tasks that were beside it may have come to anything, and are left out.
type Result struct {
	State  event.RunState             `json:"state"`
	Output event.Raw                  `json:"output,omitzero"`
	Error  string                     `json:"error,omitzero"` // code
	Tasks  map[string]event.TaskState `json:"tasks"`
}

// ResultOf is how a run has ended.
func ResultOf(r *event.Run) Result {
	got := Result{State: r.State, Output: r.Output, Tasks: make(map[string]event.TaskState)}
	if r.Error != nil {
		got.Error = r.Error.Code
	}
	for _, task := range r.Tasks {
		if r.State == event.RunCompleted || task.State == event.TaskFailed || strings.HasSuffix(task.TaskID, "~undo") {
			got.Tasks[task.TaskID] = task.State
		}
	}
	return got
}

// All returns the examples, by name.
func All() ([]Example, error) {
	sources, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	list := make([]Example, 0, len(sources))
	for _, source := range sources {
		ex := Example{Name: strings.TrimSuffix(source, ".yaml")}
		if ex.Source, err = files.ReadFile(source); err != nil {
			return nil, err
		}
		beside := ex.Name + ".json"
		raw, err := files.ReadFile(beside)
		if err != nil {
			return nil, fmt.Errorf("an example has a file with its runs: %w", err)
		}
		if err := event.Unmarshal(raw, &ex); err != nil {
			return nil, fmt.Errorf("%s: %w", beside, err)
		}
		list = append(list, ex)
	}
	return list, nil
}
