package chaos

import (
	"testing"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/examples/workflows"
)

// An ending that nothing explains is an error, whatever the ledger says.
func TestAnEndingOtherThanWrittenNeedsAReason(t *testing.T) {
	want := &workflows.Run{Name: "n", Result: workflows.Result{
		State: event.RunCompleted, Output: event.Raw(`{"a":1, "b":2}`), Tasks: map[string]event.TaskState{"t": event.TaskCompleted},
	}}
	for name, tt := range map[string]struct {
		run event.Run
		why string
		ok  bool
	}{
		"as written":       {event.Run{State: event.RunCompleted, Output: event.Raw(`{"b":2,"a":1}`), Tasks: []event.RunTask{{TaskID: "t", State: event.TaskCompleted}}}, "", true},
		"another output":   {event.Run{State: event.RunCompleted, Output: event.Raw(`{"b":2,"a":2}`), Tasks: []event.RunTask{{TaskID: "t", State: event.TaskCompleted}}}, "", false},
		"another task":     {event.Run{State: event.RunCompleted, Output: event.Raw(`{"b":2,"a":1}`), Tasks: []event.RunTask{{TaskID: "t", State: event.TaskSkipped}}}, "", false},
		"another code":     {event.Run{State: event.RunFailed, Error: &event.TaskError{Code: "broke"}}, "", false},
		"too late":         {event.Run{State: event.RunFailed, Error: &event.TaskError{Code: "not_accepted"}}, "not_accepted", true},
		"a silent person":  {event.Run{State: event.RunCompleted, Tasks: []event.RunTask{{TaskID: "t", Output: event.Raw(`{"approved":false,"by":"","at":1}`)}}}, "nobody spoke in time", true},
		"a healed attempt": {event.Run{State: event.RunCompleted, Tasks: []event.RunTask{{TaskID: "t", Attempt: 1001}}}, "tried again after the store was checked", true},
	} {
		e := &endings{otherwise: make(map[string]int)}
		e.add(&tt.run, want)
		lines, ok := e.lines()
		if ok != tt.ok || (tt.why != "") != (e.otherwise[tt.why] == 1) || !ok && len(lines) != 2 {
			t.Errorf("%s: %v, %q", name, ok, lines)
		}
	}
}
