package bridge

import (
	"bytes"
	"context"
	"net/http"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/event"
)

// triggerAnswer says which run was started.
type triggerAnswer struct {
	SessionID  string `json:"sessionId"`
	WorkflowID string `json:"workflowId"`
	Message    string `json:"message"`
}

// trigger is a request to start a workflow.
type trigger struct {
	workflowID string
	definition event.Raw // inline; nil: the stored one
	payload    event.Raw // nil: none, or an empty one
	tasks      []event.Raw
}

func decodeTrigger(body event.Raw) (*trigger, error) {
	var c checker
	t := &trigger{}
	if o := c.body(body); o != nil {
		t.decode(o)
	}
	return t, c.err()
}

func (t *trigger) decode(o *object) {
	_, hasID := o.members["workflowDefinitionId"]
	_, hasDefinition := o.members["workflowDefinition"]
	switch {
	case !hasID && !hasDefinition:
		o.valueError("Either workflowDefinitionId or workflowDefinition must be provided")
		return
	case truthy(o.members["workflowDefinitionId"]) && truthy(o.members["workflowDefinition"]):
		o.valueError("Provide either workflowDefinitionId or workflowDefinition, not both")
		return
	}
	t.workflowID = o.optionalText("workflowDefinitionId")
	if o.has("workflowDefinition") {
		if d := o.model("workflowDefinition"); d != nil {
			t.definition = d.raw
			t.workflowID = d.text("id")
			t.tasks = d.definition()
		}
	}
	if payload := o.optionalDict("initialPayload"); truthy(payload) {
		t.payload = payload
	}
}

// definition checks the members of a definition and returns its tasks.
func (o *object) definition() []event.Raw {
	o.text("name")
	o.optionalText("description")
	o.textOr("version", "1.0")
	if _, ok := o.present("tasks"); !ok {
		return nil
	}
	tasks := o.list("tasks")
	for i, t := range tasks {
		if t.Kind() != '{' {
			o.c.add("dict_type", append(o.at("tasks"), i), "Input should be a valid dictionary", t, nil)
		}
	}
	return tasks
}

// truthy reports whether a member counts as given: neither null nor empty.
func truthy(v event.Raw) bool {
	v = bytes.TrimSpace(v)
	switch v.Kind() {
	case '{', '[', '"':
		return len(bytes.TrimSpace(v[1:len(v)-1])) > 0 || v[0] == '"' && len(v) > 2
	case 't', '0':
		return string(v) != "0"
	}
	return false
}

// oldTrigger starts a workflow on an agent.
func (b *Bridge) oldTrigger(ctx context.Context, r *oldRequest) (int, any, error) {
	t, err := decodeTrigger(r.body)
	if err != nil {
		return 0, nil, err
	}
	if err := b.checkTrigger(ctx, t, r.agent); err != nil {
		return 0, nil, err
	}
	if problem := t.firstTaskProblem(); problem != "" {
		return 0, nil, &oldError{http.StatusBadRequest, "Invalid task data: " + problem}
	}
	start := &event.RunStart{WorkflowID: t.workflowID, Definition: t.definition, Legacy: true, Input: t.payload, AgentID: r.agent}
	id := uuid.NewString()
	c, err := b.toRun(event.KindRunStart, id, start)
	if err != nil {
		return 0, nil, err
	}
	c.unsure = mayRun(id)
	outcome, err := b.call(ctx, c)
	switch {
	case refusedWith(err, event.CodeUnknownDefinition): // deleted, or not known yet where the command was judged
		return 0, nil, workflowNotFound(t.workflowID)
	case err != nil:
		return 0, nil, err
	}
	answer := triggerAnswer{SessionID: outcome.RunID, WorkflowID: t.workflowID, Message: "Workflow triggered successfully"}
	if outcome.State == string(event.RunCompleted) {
		answer.Message = "Workflow triggered but has no tasks."
	}
	return http.StatusAccepted, answer, nil
}

// checkTrigger makes the checks before anything is started, in the order of the old server: definition, then agent.
func (b *Bridge) checkTrigger(ctx context.Context, t *trigger, agent string) error {
	switch {
	case t.definition == nil && t.workflowID == "":
		return &oldError{http.StatusBadRequest, "Missing workflowDefinitionId or workflowDefinition"}
	case t.workflowID == "":
		return &oldError{http.StatusBadRequest, "Workflow definition error: the id must not be empty"}
	case t.definition == nil:
		_, err := b.workflow(ctx, t.workflowID, "")
		if refusedWith(err, event.CodeUnknownDefinition) {
			return workflowNotFound(t.workflowID)
		}
		if err != nil {
			return err
		}
	default:
		if _, err := event.Token(t.workflowID); err != nil {
			return err
		}
	}
	_, err := b.agent(ctx, agent)
	if refusedWith(err, event.CodeUnknownAgent) {
		return agentNotFound(agent)
	}
	return err
}

func workflowNotFound(id string) error {
	return &oldError{http.StatusNotFound, "Workflow definition not found: " + id}
}

// firstTaskProblem says why the first task of an inline definition cannot be made into one; it is all the old server looked at.
func (t *trigger) firstTaskProblem() string {
	if len(t.tasks) == 0 {
		return ""
	}
	var task struct {
		TaskID     event.Raw `json:"taskId"`
		Parameters event.Raw `json:"parameters"`
	}
	if event.Unmarshal(t.tasks[0], &task) != nil {
		return "the first task cannot be read"
	}
	if task.TaskID.Kind() != '"' {
		return "taskId: Input should be a valid string"
	}
	if len(task.Parameters) > 0 && task.Parameters.Kind() != '{' && t.payload == nil {
		return "parameters: Input should be a valid dictionary"
	}
	return ""
}
