package bridge

import (
	"bytes"
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/opspawn/opscore/bus/event"
)

// workflowInput names a version of a definition.
type workflowInput struct {
	ID      string `path:"id" doc:"Id of the workflow"`
	Version string `query:"version" maxLength:"128" doc:"The version; the latest one without it"`
}

// applyInput is a definition to be stored.
type applyInput struct {
	ID   string    `path:"id" doc:"Id of the workflow, which the definition must have"`
	Body event.Raw `doc:"The definition"`
}

// applied says which version a definition became.
type applied struct {
	WorkflowID      string `json:"workflowId"`
	WorkflowVersion string `json:"workflowVersion"`
}

func (b *Bridge) workflowRoutes(api huma.API) {
	tags := []string{"workflows"}
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/workflows", OperationID: "list-workflows", Summary: "List workflows, by id", Tags: tags,
	}, b.listWorkflows)
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/workflows/{id}", OperationID: "get-workflow", Summary: "Get a definition", Tags: tags,
	}, b.getWorkflow)
	handle(api, huma.Operation{
		Method: http.MethodPut, Path: "/workflows/{id}", OperationID: "apply-workflow", Summary: "Store a definition", Tags: tags,
	}, b.applyWorkflow)
}

func (b *Bridge) listWorkflows(ctx context.Context, in *pageInput) (*page[event.Definition], error) {
	list, err := query(ctx, b, func(ctx context.Context) (event.List[event.Definition], error) {
		return b.cfg.Runs.Workflows(ctx, in.Cursor, in.Limit)
	})
	return pageOf("/workflows", in, list), err
}

func (b *Bridge) getWorkflow(ctx context.Context, in *workflowInput) (*answer[*event.Definition], error) {
	def, err := b.workflow(ctx, in.ID, in.Version)
	return answerWith(def), err
}

func (b *Bridge) applyWorkflow(ctx context.Context, in *applyInput) (*answer[applied], error) {
	token, err := event.Token(in.ID)
	if err != nil {
		return nil, err
	}
	latest := func(ctx context.Context) (*event.Definition, error) { return b.cfg.Runs.Workflow(ctx, in.ID, "") }
	outcome, err := b.call(ctx, command{
		subject: event.CommandSubject(event.KindWorkflowApply, token),
		body:    in.Body,
		passed: func(ctx context.Context, _ uint64) (bool, error) {
			// A definition has no fence; but this is a level, so what stands there tells.
			def, err := latest(ctx)
			if refusedWith(err, event.CodeUnknownDefinition) {
				return false, nil
			}
			return err == nil && sameJSON(def.Definition, in.Body), err
		},
		result: func(ctx context.Context) (event.Outcome, error) {
			def, err := latest(ctx)
			if err != nil {
				return event.Outcome{}, err
			}
			return event.Outcome{OK: true, WorkflowID: def.WorkflowID, WorkflowVersion: def.WorkflowVersion}, nil
		},
	})
	return answerWith(applied{WorkflowID: outcome.WorkflowID, WorkflowVersion: outcome.WorkflowVersion}), err
}

// sameJSON reports whether two values are the same but for white space and the order of members.
func sameJSON(a, b event.Raw) bool {
	x, y := a.Clone(), b.Clone()
	return x.Canonicalize() == nil && y.Canonicalize() == nil && bytes.Equal(x, y)
}
