package bridge

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/opspawn/opscore/bus/event"
)

// runReasonInput is a command about a run that needs no more than a reason.
type runReasonInput struct {
	ID   string `path:"id" doc:"Id of the run"`
	Body *reasonBody
}

// signalInput is a signal for a run.
type signalInput struct {
	ID   string    `path:"id" doc:"Id of the run"`
	Name string    `path:"name" maxLength:"255" doc:"Name of the signal"`
	Body event.Raw `doc:"The payload: any JSON, 64 KiB at most" required:"false"`
}

// decisionBody is what a person says about an approval.
type decisionBody struct {
	Comment string `json:"comment,omitzero" maxLength:"4096" doc:"For people"`
	By      string `json:"by,omitzero" maxLength:"255" doc:"Who decides"`
}

// decisionInput decides an approval.
type decisionInput struct {
	ID   string `path:"id" doc:"Id of the run"`
	Task string `path:"task" doc:"Id of the task that waits for a decision"`
	Body *decisionBody
}

// retryBody says what of a run is tried again.
type retryBody struct {
	TaskID string `json:"taskId,omitzero" doc:"A task that failed or was cancelled; without it all of them"`
	Reason string `json:"reason,omitzero" maxLength:"4096" doc:"Why, for people"`
}

// retryInput lets a run go on that failed or was cancelled.
type retryInput struct {
	ID   string `path:"id" doc:"Id of the run"`
	Body *retryBody
}

// rerunBody says from where a run is run again.
type rerunBody struct {
	TaskID string    `json:"taskId" doc:"The task to begin with"`
	Input  event.Raw `json:"input,omitzero" doc:"An object that the task is given instead of its own input"`
	Set    event.Raw `json:"set,omitzero" doc:"An object; its members replace those of the task's input"`
	Reason string    `json:"reason,omitzero" maxLength:"4096" doc:"Why, for people"`
}

// rerunInput lets a run that has ended go on from one of its tasks.
type rerunInput struct {
	ID   string `path:"id" doc:"Id of the run"`
	Body rerunBody
}

// workflowReasonInput is a command about a stored definition.
type workflowReasonInput struct {
	ID   string `path:"id" doc:"Id of the workflow"`
	Body *reasonBody
}

func (b *Bridge) controlRoutes(api huma.API) {
	op := func(path, id, summary string, tags ...string) huma.Operation {
		return huma.Operation{Method: http.MethodPost, Path: path, OperationID: id, Summary: summary, Tags: tags}
	}
	handle(api, op("/runs/{id}/pause", "pause-run", "Give nothing of a run to agents, and stop its clocks", "runs"), b.switchRun(event.KindRunPause))
	handle(api, op("/runs/{id}/resume", "resume-run", "Let a paused run go on", "runs"), b.switchRun(event.KindRunResume))
	handle(api, op("/runs/{id}/signals/{name}", "signal-run", "Send a signal to a run", "runs"), b.signalRun)
	handle(api, op("/runs/{id}/tasks/{task}/approve", "approve-task", "Approve what a run waits for", "runs"), b.decide(event.KindRunApprove))
	handle(api, op("/runs/{id}/tasks/{task}/reject", "reject-task", "Reject what a run waits for", "runs"), b.decide(event.KindRunReject))
	handle(api, op("/runs/{id}/retry", "retry-run", "Let a run that failed or was cancelled go on", "runs"), b.retryRun)
	handle(api, op("/runs/{id}/rerun", "rerun-run", "Run a run again from one of its tasks", "runs"), b.rerunRun)
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/approvals", OperationID: "list-approvals", Summary: "List what waits for people, oldest first", Tags: []string{"runs"},
	}, b.listApprovals)
	handle(api, op("/workflows/{id}/pause", "pause-workflow", "Let runs that are started of a workflow wait", "workflows"),
		b.switchWorkflow(event.KindWorkflowPause))
	handle(api, op("/workflows/{id}/resume", "resume-workflow", "Let them begin", "workflows"), b.switchWorkflow(event.KindWorkflowResume))
}

// steer sends a command about a run and answers with the run.
func (b *Bridge) steer(ctx context.Context, kind event.CommandKind, id string, body *event.RunCommand) (*answer[*event.Run], error) {
	c, err := b.toRun(kind, id, body)
	if err != nil {
		return nil, err
	}
	if _, err := b.call(ctx, c); err != nil {
		return nil, err
	}
	run, err := b.run(ctx, id)
	return answerWith(run), err
}

// reason returns why something is done, empty without a body.
func (r *reasonBody) reason() string {
	if r == nil {
		return ""
	}
	return r.Reason
}

func (b *Bridge) switchRun(kind event.CommandKind) func(context.Context, *runReasonInput) (*answer[*event.Run], error) {
	return func(ctx context.Context, in *runReasonInput) (*answer[*event.Run], error) {
		return b.steer(ctx, kind, in.ID, &event.RunCommand{Reason: in.Body.reason()})
	}
}

func (b *Bridge) signalRun(ctx context.Context, in *signalInput) (*answer[*event.Run], error) {
	return b.steer(ctx, event.KindRunSignal, in.ID, &event.RunCommand{Name: in.Name, Payload: in.Body})
}

func (b *Bridge) decide(kind event.CommandKind) func(context.Context, *decisionInput) (*answer[*event.Run], error) {
	return func(ctx context.Context, in *decisionInput) (*answer[*event.Run], error) {
		body := &event.RunCommand{TaskID: in.Task}
		if in.Body != nil {
			body.Comment, body.By = in.Body.Comment, in.Body.By
		}
		if name := exchangeOf(ctx).key; name != "" { // that is known; who a person says to be is what they say
			if said := body.By; said != "" && said != name {
				comment := clip(strings.TrimSuffix("as "+said+": "+body.Comment, ": "), event.MaxErrorText-len("…"))
				body.Comment = strings.ToValidUTF8(comment, "")
			}
			body.By = name
		}
		return b.steer(ctx, kind, in.ID, body)
	}
}

func (b *Bridge) retryRun(ctx context.Context, in *retryInput) (*answer[*event.Run], error) {
	body := &event.RunCommand{}
	if in.Body != nil {
		body.TaskID, body.Reason = in.Body.TaskID, in.Body.Reason
	}
	return b.steer(ctx, event.KindRunRetry, in.ID, body)
}

func (b *Bridge) rerunRun(ctx context.Context, in *rerunInput) (*answer[*event.Run], error) {
	body := &event.RunCommand{TaskID: in.Body.TaskID, Input: in.Body.Input, Set: in.Body.Set, Reason: in.Body.Reason}
	return b.steer(ctx, event.KindRunRerun, in.ID, body)
}

func (b *Bridge) listApprovals(ctx context.Context, in *pageInput) (*page[event.Approval], error) {
	list, err := query(ctx, b, func(ctx context.Context) (event.List[event.Approval], error) {
		return b.cfg.Runs.Approvals(ctx, in.Cursor, in.Limit)
	})
	return pageOf("/approvals", in, list), err
}

func (b *Bridge) switchWorkflow(kind event.CommandKind) func(context.Context, *workflowReasonInput) (*answer[*event.Definition], error) {
	return func(ctx context.Context, in *workflowReasonInput) (*answer[*event.Definition], error) {
		token, err := event.Token(in.ID)
		if err != nil {
			return nil, err
		}
		_, err = b.call(ctx, command{
			subject: event.CommandSubject(kind, token), body: &event.WorkflowCommand{Reason: in.Body.reason()},
			passed: func(ctx context.Context, _ uint64) (bool, error) { // a level: what stands there tells
				def, err := b.cfg.Runs.Workflow(ctx, in.ID, "")
				return err == nil && def.Paused == (kind == event.KindWorkflowPause), err
			},
		})
		if err != nil {
			return nil, err
		}
		def, err := b.workflow(ctx, in.ID, "")
		return answerWith(def), err
	}
}
