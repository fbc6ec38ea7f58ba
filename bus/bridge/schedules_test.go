package bridge_test

import (
	"testing"

	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/event"
)

func TestSchedules(t *testing.T) {
	b := setup(t, func(c *bridge.Config) { c.Schedules = c.Runs.(bridge.ScheduleQueries) })
	const nightly = `{"workflowId":"one","cron":"30 4 * * *","timeZone":"Europe/Berlin"}`
	b.do("PUT", "/api/v1/schedules/nightly", nightly).problem(t, 404, event.CodeUnknownDefinition)
	b.do("PUT", "/api/v1/workflows/one", oneTask).want(t, 200)
	b.do("GET", "/api/v1/schedules/nightly", "").problem(t, 404, event.CodeUnknownSchedule)
	s := decode[event.Schedule](t, b.do("PUT", "/api/v1/schedules/nightly", nightly).want(t, 200))
	if s.ScheduleID != "nightly" || s.NextAt == nil || len(s.Upcoming) != 5 {
		t.Errorf("applied: %+v", s)
	}
	if s = decode[event.Schedule](t, b.do("POST", "/api/v1/schedules/nightly/pause", "").want(t, 200)); !s.Paused || s.NextAt != nil {
		t.Errorf("paused: %+v", s)
	}
	if s = decode[event.Schedule](t, b.do("POST", "/api/v1/schedules/nightly/resume", "").want(t, 200)); s.Paused || s.NextAt == nil {
		t.Errorf("resumed: %+v", s)
	}
	run := decode[struct {
		RunID string `json:"runId"`
	}](t, b.do("POST", "/api/v1/schedules/nightly/trigger", `{"reason":"now"}`).want(t, 200))
	b.do("GET", "/api/v1/runs/"+run.RunID, "").want(t, 200)
	if list := decode[event.List[event.Schedule]](t, b.do("GET", "/api/v1/schedules", "").want(t, 200)); len(list.Items) != 1 {
		t.Errorf("listed: %+v", list)
	}
	for _, want := range []string{`{"scheduleId":"nightly","deleted":true}`, `{"scheduleId":"nightly","deleted":true,"already":true}`} {
		if got := string(event.MustMarshal(decode[event.Raw](t, b.do("DELETE", "/api/v1/schedules/nightly", "").want(t, 200)))); got != want {
			t.Errorf("deleted: %s, want %s", got, want)
		}
	}
	b.do("DELETE", "/api/v1/schedules/never", "").problem(t, 404, event.CodeUnknownSchedule)
	b.do("POST", "/api/v1/schedules/nightly/trigger", "").problem(t, 404, event.CodeUnknownSchedule)
	b.do("PUT", "/api/v1/schedules/bad", `{"workflowId":"one","cron":"TZ=0"}`).problem(t, 422, event.CodeInvalid)
	b.do("PUT", "/api/v1/schedules/bad", `{"workflowId":"one"}`).problem(t, 422, event.CodeInvalid)
	b.do("PUT", "/api/v1/schedules/bad", `{"cron":"* * * * *"}`).problem(t, 400, event.CodeMalformed)
}
