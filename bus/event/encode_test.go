package event_test

import (
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// TestEncodeIsMarshal compares what facts and tasks write themselves with what reflection writes.
func TestEncodeIsMarshal(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)
	percent := 12.5
	full := &event.Fact{
		ID: "r \"1\"", Epoch: 1, Version: 2, At: at, Cause: "completed", Agent: &event.Agent{AgentID: "a"},
		Run: &event.Run{
			RunID: "r", WorkflowID: "w", WorkflowVersion: "v", State: event.RunFailed, Input: event.Raw(`{"a":1.0}`), Output: event.Raw(`null`),
			Error: &event.TaskError{Code: "c", Message: "m"}, AgentID: "a", Labels: map[string]string{"k": "v"}, CreatedAt: at, EndedAt: &at,
			Tasks: []event.RunTask{{
				TaskID: "t", Name: "n", State: event.TaskFailed, Attempt: 1, AgentID: "a", Output: event.Raw(`[]`),
				Error: &event.TaskError{Code: "c"}, StartedAt: &at, EndedAt: &at, Percent: &percent, Message: "ü\n",
				Reasons: []event.Refusal{{AgentID: "a", Rule: "state"}},
			}, {}},
			Truncated: true, Version: 3, Seq: 4,
		},
	}
	compare := func(got []byte, v any) {
		if want := string(event.MustMarshal(v)); string(got) != want {
			t.Errorf("encode:  %s\nmarshal: %s", got, want)
		}
	}
	for _, f := range []*event.Fact{full, {}, {Run: &event.Run{}}} {
		compare(f.Encode(), f)
	}
	for _, task := range []*event.Task{
		{
			RunID: "r", WorkflowID: "w \"1\"", WorkflowVersion: "v", TaskID: "t", Attempt: 2, Name: "ü", Capability: "c", Input: event.Raw(`{"a":1.0}`),
			Token: "x", Instance: "i", Deadline: at, PreviousError: &event.TaskError{Code: "c", Message: "m"},
			ParentRunID: "p", ItemIndex: new(int),
		},
		{Input: event.Raw(`{}`)},
	} {
		compare(task.Encode(), task)
	}
}
