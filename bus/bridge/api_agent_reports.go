package bridge

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/opspawn/opscore/bus/event"
)

// reportInput is what an agent says, as on the wire.
type reportInput struct {
	ID   string    `path:"id" doc:"Id of the agent"`
	Body event.Raw `doc:"The event, as on the wire"`
}

// heartbeatInput is a beat of an agent.
type heartbeatInput struct {
	ID   string `path:"id" doc:"Id of the agent"`
	Body *event.Heartbeat
}

// taken says that an event was taken in and committed.
type taken struct {
	OK  bool   `json:"ok"`
	Seq uint64 `json:"seq,omitzero" doc:"Its sequence in the stream"`
}

// reportRoutes are the routes for agents that speak HTTP.
func (b *Bridge) reportRoutes(api huma.API) {
	tags := []string{"for agents"}
	handle(api, huma.Operation{
		Method: http.MethodPut, Path: "/agents/{id}", OperationID: "register-agent", Summary: "Register an agent, or change its registration", Tags: tags,
	}, b.registerAgent)
	for _, r := range []struct {
		verb    event.Verb
		summary string
	}{
		{event.VerbState, "Say how an agent is"},
		{event.VerbAccepted, "Say that an attempt was taken"},
		{event.VerbProgress, "Say that an attempt is being worked on"},
		{event.VerbResult, "End an attempt"},
	} {
		handle(api, huma.Operation{
			Method: http.MethodPost, Path: "/agents/{id}/" + string(r.verb), OperationID: "report-" + string(r.verb), Summary: r.summary, Tags: tags,
		}, b.takeReport(r.verb))
	}
	handle(api, huma.Operation{
		Method: http.MethodPost, Path: "/agents/{id}/heartbeat", OperationID: "agent-heartbeat", Summary: "Say that an agent is alive; not stored", Tags: tags,
		DefaultStatus: http.StatusAccepted,
	}, b.takeHeartbeat)
	task := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[event.Task](), true, "Task")
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/agents/{id}/tasks", OperationID: "poll-task", Summary: "Wait for a task, of an agent of delivery poll", Tags: tags,
		Responses: map[string]*huma.Response{
			"200": {Description: "A task, which counts as accepted", Content: map[string]*huma.MediaType{"application/json": {Schema: task}}},
			"204": {Description: "There is none: ask again"},
		},
	}, b.pollTask)
}

func (b *Bridge) registerAgent(ctx context.Context, in *reportInput) (*answer[*event.Agent], error) {
	if err := b.report(ctx, event.VerbRegister, in.ID, in.Body); err != nil {
		return nil, err
	}
	agent, err := b.agent(ctx, in.ID)
	return answerWith(agent), err
}

// takeReport returns the handler of one verb.
func (b *Bridge) takeReport(v event.Verb) func(context.Context, *reportInput) (*answer[taken], error) {
	return func(ctx context.Context, in *reportInput) (*answer[taken], error) {
		c, err := b.toAgent(v, in.ID, in.Body)
		if err == nil && v != event.VerbState {
			err = b.aboutAttempt(&c, in.ID)
		}
		if err != nil {
			return nil, err
		}
		outcome, err := b.call(ctx, c)
		if err != nil {
			return nil, err
		}
		return answerWith(taken{OK: true, Seq: outcome.Seq}), nil
	}
}

// aboutAttempt makes the run of an attempt the judge of what an agent says of it: it tells when the outcome got lost.
func (b *Bridge) aboutAttempt(c *command, agent string) error {
	var ref event.AttemptRef
	if err := event.Unmarshal(c.body.(event.Raw), &ref); err != nil {
		return err
	}
	c.passed = func(ctx context.Context, seq uint64) (bool, error) {
		fence, err := b.cfg.Runs.Fence(ctx, ref.RunID)
		return fence >= seq, err
	}
	c.result = func(ctx context.Context) (event.Outcome, error) {
		run, err := b.cfg.Runs.Run(ctx, ref.RunID)
		if err != nil {
			return event.Outcome{}, err
		}
		for i := range run.Tasks {
			if t := &run.Tasks[i]; t.TaskID == ref.TaskID && t.Attempt == ref.Attempt && t.AgentID == agent {
				return event.Outcome{OK: true}, nil
			}
		}
		return event.Outcome{}, event.Errorf(event.CodeStaleAttempt, "attempt %d of task %q is not the current one of this agent", ref.Attempt, ref.TaskID)
	}
	return nil
}

func (b *Bridge) takeHeartbeat(_ context.Context, in *heartbeatInput) (*answer[taken], error) {
	token, err := event.Token(in.ID)
	if err != nil {
		return nil, err
	}
	var body []byte
	if in.Body != nil {
		body = event.MustMarshal(in.Body)
	}
	if !b.cfg.Bus.Connected() || b.cfg.Bus.NC().Publish(event.HeartbeatSubject(token), body) != nil {
		return nil, errBusDown
	}
	return answerWith(taken{OK: true}), nil
}
