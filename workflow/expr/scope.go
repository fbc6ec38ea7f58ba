package expr

import (
	"errors"
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Scope is what the names of an expression stand for. It is used by one goroutine at a time, and not changed after its first use: what was decoded
// is kept.
type Scope struct {
	Input  event.Raw
	Run    RunView
	Tasks  map[string]TaskView // at least those that Refs names; one that is missing is pending
	Item   event.Raw
	Index  int
	Output event.Raw // of the time before, in a loop

	decoded map[string]any
}

// RunView is what an expression can know of its run.
type RunView struct {
	ID, WorkflowID, WorkflowVersion string
	Labels                          map[string]string
	Priority                        int
	CreatedAt                       time.Time
}

// TaskView is what an expression can know of a task.
type TaskView struct {
	State   event.TaskState
	Output  event.Raw // nil stands for null
	Error   *event.TaskError
	AgentID string
}

// With returns the scope for an item of a forEach; of what both share, nothing is decoded twice.
func (s *Scope) With(item event.Raw, index int) *Scope {
	if s.decoded == nil {
		s.decoded = make(map[string]any)
	}
	child := *s
	child.Item, child.Index = item, index
	return &child
}

var errReadsTooMuch = errors.New("it reads more than 4 MiB of JSON")

// vars returns the variables of CEL that an expression uses.
func (s *Scope) vars(refs Refs) (map[string]any, error) {
	if s.decoded == nil {
		s.decoded = make(map[string]any)
	}
	budget := MaxRead
	vars := make(map[string]any, 4)
	var err error
	set := func(name, key string, raw event.Raw) any {
		if err != nil {
			return nil
		}
		var v any
		if v, err = s.decode(key, raw, &budget); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return v
	}
	if refs.Input {
		vars["input"] = set("input", "input", s.Input)
	}
	if refs.Item {
		vars["item"] = set("item", "", s.Item)
	}
	if refs.Last {
		vars["output"] = set("output", "", s.Output)
	}
	if refs.Index {
		vars["index"] = s.Index
	}
	if refs.Run {
		vars["run"] = s.Run.value()
	}
	if len(refs.Outputs)+len(refs.States) == 0 {
		return vars, err
	}
	tasks := make(map[string]any, len(refs.Outputs)+len(refs.States))
	for _, id := range refs.States {
		tasks[id] = s.Tasks[id].value()
	}
	for _, id := range refs.Outputs {
		v, ok := tasks[id].(map[string]any)
		if !ok {
			v = make(map[string]any, 1)
			tasks[id] = v
		}
		v["output"] = set("tasks."+id+".output", "tasks."+id, s.Tasks[id].Output)
	}
	vars["tasks"] = tasks
	return vars, err
}

// decode decodes JSON, once for each key that is not empty.
func (s *Scope) decode(key string, raw event.Raw, budget *int) (any, error) {
	if *budget -= len(raw); *budget < 0 {
		return nil, errReadsTooMuch
	}
	if v, ok := s.decoded[key]; ok && key != "" {
		return v, nil
	}
	v, err := Decode(raw)
	if err == nil && key != "" {
		s.decoded[key] = v
	}
	return v, err
}

func (r *RunView) value() map[string]any {
	labels := r.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return map[string]any{
		"id": r.ID, "workflowId": r.WorkflowID, "workflowVersion": r.WorkflowVersion, "labels": labels,
		"priority": r.Priority, "createdAt": r.CreatedAt.UTC(),
	}
}

func (t TaskView) value() map[string]any {
	state := t.State
	if state == "" {
		state = event.TaskPending
	}
	v := map[string]any{"state": string(state), "agentId": t.AgentID, "error": nil}
	if t.Error != nil {
		v["error"] = map[string]any{"code": t.Error.Code, "message": t.Error.Message}
	}
	return v
}
