package workflow

import (
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

// Only a task that is ready in this class, of a run that goes on, is given to anybody: what a queue showed may have changed since.
func TestOnlyAReadyTaskOfTheClassWaits(t *testing.T) {
	t.Parallel()
	k := &class{name: "c:c"}
	ready := RunTask{ID: "a", State: event.TaskReady, Class: "c:c"}
	other, assigned := ready, ready
	other.Class = "c:spare"
	assigned.State = event.TaskAssigned
	for name, tt := range map[string]struct {
		run  *Run
		want bool
	}{
		"ready":         {&Run{State: event.RunRunning, Tasks: []RunTask{ready}}, true},
		"of no run":     {nil, false},
		"paused":        {&Run{State: event.RunPaused, Tasks: []RunTask{ready}}, false},
		"ended":         {&Run{State: event.RunCancelled, Tasks: []RunTask{ready}}, false},
		"moved out":     {&Run{State: event.RunRunning}, false},
		"given away":    {&Run{State: event.RunRunning, Tasks: []RunTask{assigned}}, false},
		"another class": {&Run{State: event.RunRunning, Tasks: []RunTask{other}}, false},
	} {
		if got := waits(tt.run, "a", k); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
