package bridge

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/opspawn/opscore/bus/event"
)

// scheduleInput names a schedule in the path.
type scheduleInput struct {
	ID string `path:"id" doc:"Id of the schedule"`
}

// applyScheduleInput is a schedule to be stored.
type applyScheduleInput struct {
	ID   string    `path:"id" doc:"Id of the schedule"`
	Body event.Raw `doc:"The schedule, as in the body of the command schedule-apply"`
}

// scheduleCommandInput is a command about a schedule.
type scheduleCommandInput struct {
	ID   string `path:"id" doc:"Id of the schedule"`
	Body *reasonBody
}

// triggered says which run a schedule was made to start.
type triggered struct {
	ScheduleID string `json:"scheduleId"`
	RunID      string `json:"runId"`
}

// deletedSchedule is the answer to a deletion.
type deletedSchedule struct {
	ScheduleID string `json:"scheduleId"`
	Deleted    bool   `json:"deleted"`
	Already    bool   `json:"already,omitzero" doc:"It had been deleted before"`
}

func (b *Bridge) scheduleRoutes(api huma.API) {
	tags := []string{"schedules"}
	one := func(method, path, id, summary string) huma.Operation {
		return huma.Operation{Method: method, Path: "/schedules/{id}" + path, OperationID: id, Summary: summary, Tags: tags}
	}
	handle(api, huma.Operation{
		Method: http.MethodGet, Path: "/schedules", OperationID: "list-schedules", Summary: "List schedules, by id", Tags: tags,
	}, b.listSchedules)
	handle(api, one(http.MethodGet, "", "get-schedule", "Get a schedule and its next ticks"), b.getSchedule)
	handle(api, one(http.MethodPut, "", "apply-schedule", "Store a schedule"), b.applySchedule)
	handle(api, one(http.MethodDelete, "", "delete-schedule", "Delete a schedule"), b.deleteSchedule)
	handle(api, one(http.MethodPost, "/pause", "pause-schedule", "Pass over all ticks until it is resumed"), b.switchSchedule(event.KindSchedulePause))
	handle(api, one(http.MethodPost, "/resume", "resume-schedule", "Let a schedule tick again"), b.switchSchedule(event.KindScheduleResume))
	handle(api, one(http.MethodPost, "/trigger", "trigger-schedule", "Start a run at once"), b.triggerSchedule)
}

func (b *Bridge) schedule(ctx context.Context, id string) (*event.Schedule, error) {
	return query(ctx, b, func(ctx context.Context) (*event.Schedule, error) { return b.cfg.Schedules.Schedule(ctx, id) })
}

func (b *Bridge) listSchedules(ctx context.Context, in *pageInput) (*page[event.Schedule], error) {
	list, err := query(ctx, b, func(ctx context.Context) (event.List[event.Schedule], error) {
		return b.cfg.Schedules.Schedules(ctx, in.Cursor, in.Limit)
	})
	return pageOf("/schedules", in, list), err
}

func (b *Bridge) getSchedule(ctx context.Context, in *scheduleInput) (*answer[*event.Schedule], error) {
	s, err := b.schedule(ctx, in.ID)
	return answerWith(s), err
}

// toSchedule sends a command about a schedule; when its outcome got lost, the fence tells.
func (b *Bridge) toSchedule(ctx context.Context, kind event.CommandKind, id string, body any) (event.Outcome, error) {
	token, err := event.Token(id)
	if err != nil {
		return event.Outcome{}, err
	}
	return b.call(ctx, command{
		subject: event.CommandSubject(kind, token),
		body:    body,
		passed: func(ctx context.Context, seq uint64) (bool, error) {
			fence, err := b.cfg.Schedules.ScheduleFence(ctx, id)
			return fence >= seq, err
		},
	})
}

func (b *Bridge) applySchedule(ctx context.Context, in *applyScheduleInput) (*answer[*event.Schedule], error) {
	if _, err := b.toSchedule(ctx, event.KindScheduleApply, in.ID, in.Body); err != nil {
		return nil, err
	}
	s, err := b.schedule(ctx, in.ID)
	return answerWith(s), err
}

func (b *Bridge) deleteSchedule(ctx context.Context, in *scheduleInput) (*answer[deletedSchedule], error) {
	_, err := b.schedule(ctx, in.ID)
	gone := refusedWith(err, event.CodeUnknownSchedule) // perhaps there never was one: then the command is refused
	if err != nil && !gone {
		return nil, err
	}
	_, err = b.toSchedule(ctx, event.KindScheduleDelete, in.ID, &event.ScheduleCommand{})
	return answerWith(deletedSchedule{ScheduleID: in.ID, Deleted: true, Already: gone}), err
}

// switchSchedule returns the handler of one of the two commands that stop and start the ticks.
func (b *Bridge) switchSchedule(kind event.CommandKind) func(context.Context, *scheduleCommandInput) (*answer[*event.Schedule], error) {
	return func(ctx context.Context, in *scheduleCommandInput) (*answer[*event.Schedule], error) {
		if _, err := b.toSchedule(ctx, kind, in.ID, in.command()); err != nil {
			return nil, err
		}
		s, err := b.schedule(ctx, in.ID)
		return answerWith(s), err
	}
}

func (in *scheduleCommandInput) command() *event.ScheduleCommand {
	if in.Body == nil {
		return &event.ScheduleCommand{}
	}
	return &event.ScheduleCommand{Reason: in.Body.Reason}
}

// triggerSchedule starts a run. An edge without a fence: when its outcome got lost nobody can tell, and a repeat may start another run.
func (b *Bridge) triggerSchedule(ctx context.Context, in *scheduleCommandInput) (*answer[triggered], error) {
	token, err := event.Token(in.ID)
	if err != nil {
		return nil, err
	}
	outcome, err := b.call(ctx, command{
		subject: event.CommandSubject(event.KindScheduleTrigger, token),
		body:    in.command(),
		passed:  func(context.Context, uint64) (bool, error) { return false, nil },
		unsure:  event.Errorf(event.CodeUnavailable, "not confirmed in time; a run may have been started, and repeating the request would start another one"),
	})
	return answerWith(triggered{ScheduleID: in.ID, RunID: outcome.RunID}), err
}
