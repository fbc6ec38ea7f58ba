package bridge

import (
	"context"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/event"
)

// Bounds of a Prefer: wait.
const (
	maxWait      = 60 * time.Second
	firstLook    = 2 * time.Millisecond
	slowestLook  = 100 * time.Millisecond
	maxKeyLength = 255
)

// runNamespace is where run ids that are derived from idempotency keys come from.
var runNamespace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://opspawn.github.io/opscore/run"))

// runInput names a run in the path.
type runInput struct {
	ID string `path:"id" doc:"Id of the run"`
}

// startBody is what a run is started with.
type startBody struct {
	WorkflowID     string            `json:"workflowId,omitzero" doc:"The workflow to run"`
	Version        string            `json:"version,omitzero" doc:"Its version; the latest one without it"`
	Definition     event.Raw         `json:"definition,omitzero" doc:"A definition to run instead of a stored one"`
	Input          event.Raw         `json:"input,omitzero" doc:"An object: the input of the first task"`
	AgentID        string            `json:"agentId,omitzero" doc:"The agent that gets the first task"`
	Labels         map[string]string `json:"labels,omitzero"`
	Priority       int               `json:"priority,omitzero" minimum:"0" maximum:"9"`
	IdempotencyKey string            `json:"idempotencyKey,omitzero" maxLength:"255" doc:"The same key starts the same run, once"`
	DelaySeconds   float64           `json:"delaySeconds,omitzero" doc:"The run stays pending for so long"`
	StartAt        time.Time         `json:"startAt,omitzero" doc:"Instead: it stays pending until then"`
	Deadline       time.Time         `json:"deadline,omitzero" doc:"It fails unless it has ended by then"`

	DeadlineSeconds float64 `json:"deadlineSeconds,omitzero" doc:"Instead: unless it has ended so long after it was started"`
}

// startInput is a request to start a run.
type startInput struct {
	Key    string `header:"Idempotency-Key" maxLength:"255" doc:"The same key starts the same run, once"`
	Prefer string `header:"Prefer" doc:"wait=N: answer when the run has ended, or after N seconds, 60 at most"`
	Body   *startBody
}

// startWorkflowInput is a request to start a run of the workflow in the path.
type startWorkflowInput struct {
	ID     string `path:"id" doc:"Id of the workflow"`
	Key    string `header:"Idempotency-Key" maxLength:"255" doc:"The same key starts the same run, once"`
	Prefer string `header:"Prefer" doc:"wait=N: answer when the run has ended, or after N seconds, 60 at most"`
	Body   *startBody
}

// started is a run that was started and has not been waited for.
type started struct {
	RunID           string         `json:"runId"`
	WorkflowID      string         `json:"workflowId"`
	WorkflowVersion string         `json:"workflowVersion"`
	State           event.RunState `json:"state"`
}

// startAnswer is 202 with a started, or 200 with the whole run when it has ended while the client waited.
type startAnswer struct {
	Status   int
	Location string `header:"Location"`
	Applied  string `header:"Preference-Applied"`
	Body     any
}

// cancelInput is a request to cancel a run.
type cancelInput struct {
	ID   string `path:"id" doc:"Id of the run"`
	Body *reasonBody
}

func (b *Bridge) runRoutes(api huma.API) {
	tags := []string{"runs"}
	handle(api, huma.Operation{
		Method: http.MethodPost, Path: "/runs", OperationID: "start-run", Summary: "Start a run", Tags: tags, Responses: startResponses(api),
	}, func(ctx context.Context, in *startInput) (*startAnswer, error) { return b.startRun(ctx, "", in) })
	handle(api, huma.Operation{
		Method: http.MethodPost, Path: "/workflows/{id}/runs", OperationID: "start-workflow-run",
		Summary: "Start a run of a workflow", Tags: tags, Responses: startResponses(api),
	}, func(ctx context.Context, in *startWorkflowInput) (*startAnswer, error) {
		return b.startRun(ctx, in.ID, &startInput{Key: in.Key, Prefer: in.Prefer, Body: in.Body})
	})
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/runs", OperationID: "list-runs", Summary: "List runs, oldest first", Tags: tags,
	}, b.listRuns)
	handle(api, huma.Operation{Method: http.MethodGet, Path: "/runs/{id}", OperationID: "get-run", Summary: "Get a run", Tags: tags}, b.getRun)
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/runs/{id}/children", OperationID: "list-children", Summary: "List the runs that the tasks of a run have started", Tags: tags,
	}, b.listChildren)
	handle(api, huma.Operation{
		Method: http.MethodPost, Path: "/runs/{id}/cancel", OperationID: "cancel-run", Summary: "Cancel a run", Tags: tags,
	}, b.cancelRun)
}

// startResponses describes the two answers to a start.
func startResponses(api huma.API) map[string]*huma.Response {
	describe := func(text string, t reflect.Type) *huma.Response {
		schema := api.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
		return &huma.Response{Description: text, Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}}
	}
	return map[string]*huma.Response{
		"200": describe("The run has ended while the client waited", reflect.TypeFor[event.Run]()),
		"202": describe("The run was started", reflect.TypeFor[started]()),
	}
}

func (b *Bridge) listRuns(ctx context.Context, in *pageInput) (*page[event.Run], error) {
	list, err := query(ctx, b, func(ctx context.Context) (event.List[event.Run], error) {
		return b.cfg.Runs.Runs(ctx, in.Cursor, in.Limit)
	})
	return pageOf("/runs", in, list), err
}

// childrenInput asks for a page of the runs that the tasks of a run have started. The members are those of pageInput, which cannot be embedded: a field
// of an unexported type is no parameter.
type childrenInput struct {
	ID     string `path:"id" doc:"Id of the run"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"Items per page"`
	Cursor string `query:"cursor" maxLength:"2048" doc:"nextCursor of the page before"`
}

func (b *Bridge) listChildren(ctx context.Context, in *childrenInput) (*page[event.Run], error) {
	list, err := query(ctx, b, func(ctx context.Context) (event.List[event.Run], error) {
		return b.cfg.Runs.Children(ctx, in.ID, in.Cursor, in.Limit)
	})
	return pageOf("/runs/"+url.PathEscape(in.ID)+"/children", &pageInput{Limit: in.Limit, Cursor: in.Cursor}, list), err
}

func (b *Bridge) getRun(ctx context.Context, in *runInput) (*answer[*event.Run], error) {
	run, err := b.run(ctx, in.ID)
	return answerWith(run), err
}

func (b *Bridge) cancelRun(ctx context.Context, in *cancelInput) (*answer[*event.Run], error) {
	return b.steer(ctx, event.KindRunCancel, in.ID, &event.RunCommand{Reason: in.Body.reason()})
}

// startRun starts a run of the workflow in the path or, if that is empty, of the one in the body.
func (b *Bridge) startRun(ctx context.Context, workflow string, in *startInput) (*startAnswer, error) {
	start, err := in.command(workflow)
	if err != nil {
		return nil, err
	}
	id := start.RunID
	c, err := b.toRun(event.KindRunStart, id, start)
	if err != nil {
		return nil, err
	}
	if start.IdempotencyKey == "" {
		c.unsure = mayRun(id)
	}
	outcome, err := b.call(ctx, c)
	if err != nil {
		return nil, err
	}
	out := &startAnswer{
		Status:   http.StatusAccepted,
		Location: apiRoot + "/runs/" + url.PathEscape(id),
		Body: started{
			RunID: id, WorkflowID: outcome.WorkflowID, WorkflowVersion: outcome.WorkflowVersion, State: event.RunState(outcome.State),
		},
	}
	wait := preferredWait(in.Prefer)
	if wait == 0 {
		return out, nil
	}
	out.Applied = "wait=" + strconv.Itoa(int(wait/time.Second))
	if run := b.awaitEnd(ctx, id, wait); run != nil {
		out.Status, out.Body = http.StatusOK, run
	}
	return out, nil
}

// command makes the start command of a request, under an id that is new or that its idempotency key stands for.
func (in *startInput) command(workflow string) (*event.RunStart, error) {
	var body startBody
	if in.Body != nil {
		body = *in.Body
	}
	switch {
	case workflow == "":
	case len(body.Definition) > 0:
		return nil, event.Errorf(event.CodeInvalid, "the workflow is named in the path; a definition goes to %s/runs", apiRoot)
	case body.WorkflowID != "" && body.WorkflowID != workflow:
		return nil, event.Errorf(event.CodeInvalid, "workflowId %q is not the one in the path, %q", body.WorkflowID, workflow)
	default:
		body.WorkflowID = workflow
	}
	if body.AgentID != "" {
		if _, err := event.Token(body.AgentID); err != nil {
			return nil, err
		}
	}
	if in.Key != "" && body.IdempotencyKey != "" && in.Key != body.IdempotencyKey {
		return nil, event.Errorf(event.CodeInvalid, "the Idempotency-Key header and idempotencyKey differ")
	}
	if body.IdempotencyKey == "" {
		body.IdempotencyKey = in.Key
	}
	return &event.RunStart{
		RunID: runID(body.IdempotencyKey), WorkflowID: body.WorkflowID, Version: body.Version, Definition: body.Definition, Input: body.Input,
		AgentID: body.AgentID, Labels: body.Labels, Priority: body.Priority, IdempotencyKey: body.IdempotencyKey,
		DelaySeconds: body.DelaySeconds, StartAt: body.StartAt, Deadline: body.Deadline, DeadlineSeconds: body.DeadlineSeconds,
	}, nil
}

func runID(key string) string {
	if key != "" {
		return uuid.NewSHA1(runNamespace, []byte(key)).String()
	}
	return uuid.Must(uuid.NewV7()).String()
}

// preferredWait reads the wait preference of RFC 7240.
func preferredWait(prefer string) time.Duration {
	for p := range strings.SplitSeq(prefer, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		seconds, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
		if strings.EqualFold(strings.TrimSpace(name), "wait") && err == nil && seconds > 0 {
			return time.Duration(min(seconds, int(maxWait/time.Second))) * time.Second
		}
	}
	return 0
}

// awaitEnd looks at a run until it has ended. It returns nil if it did not in time, or cannot be read: it was started all the same.
func (b *Bridge) awaitEnd(ctx context.Context, id string, wait time.Duration) *event.Run {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	pause := firstLook
	look := time.NewTimer(pause)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-deadline.C:
			return nil
		case <-b.draining:
			return nil
		case <-ctx.Done():
			return nil
		}
		run, err := b.run(ctx, id)
		if err == nil && run.State.Final() {
			return run
		}
		pause = min(pause*3/2, slowestLook)
		look.Reset(pause)
	}
}
