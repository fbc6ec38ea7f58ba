package workflow

import (
	"fmt"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// What counts as the time of a run: its tasks, its waits for time and for signals. What does not: pauses, and waits for people, also those of its children.
func TestWhatCountsAsTheTimeOfARun(t *testing.T) {
	t.Parallel()
	asks := func(h *helm, on bool) {
		h.put(&ChildAsks{TaskID: "each", Round: 1, Index: 0, On: on})
		if d := h.put(&ChildAsks{TaskID: "each", Round: 1, Index: 0, On: on}); d.Run != nil {
			h.t.Errorf("what was known changes the run: %s", event.MustMarshal(d.Run))
		}
	}
	none := func(*helm) {}
	for _, tt := range []struct {
		name, task string
		from, to   func(h *helm)
		stood      int // seconds
	}{
		{"an agent's task", `{"taskId":"a","agentCapability":"c"}`, none, none, 0},
		{"a wait", `{"taskId":"a","wait":{"seconds":3600}}`, none, none, 0},
		{"a signal", `{"taskId":"a","signal":{"name":"go"}}`, none, none, 0},
		{
			"a pause", `{"taskId":"a","signal":{"name":"go"}}`,
			func(h *helm) { h.put(command(event.KindRunPause, nil)) }, func(h *helm) { h.put(command(event.KindRunResume, nil)) }, 20,
		},
		{
			"an approval", `{"taskId":"a","approval":{}},{"taskId":"go","signal":{"name":"go"}}`,
			none, func(h *helm) { h.put(commandAbout(event.KindRunApprove, "a")) }, 30,
		},
		{"a child", `{"taskId":"each","workflow":{"id":"w"}}`, none, none, 0},
		{
			"an approval of a child", `{"taskId":"each","workflow":{"id":"w"}}`,
			func(h *helm) { asks(h, true) }, func(h *helm) { asks(h, false) }, 20,
		},
		{
			"an approval of a child that ends", `{"taskId":"each","forEach":{"items":"[1,2]"},"workflow":{"id":"w"}}`,
			func(h *helm) { asks(h, true) }, func(h *helm) { h.ends("each", 0, event.RunCompleted, nil) }, 20,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHelm(t, `{"id":"d","runTimeoutSeconds":60,"tasks":[`+tt.task+`]}`).start(0)
			h.put(&Opened{TaskID: "each", Round: 1, Total: 2, Pages: []event.Raw{event.Raw("[1,2]")}})
			h.put(&More{TaskID: "each", Limit: maxSpawn})
			h.now = noon.Add(10 * time.Second)
			tt.from(h)
			h.now = noon.Add(30 * time.Second)
			h.put(&Tick{Intake: h.now})
			tt.to(h)
			want := h.run.Created.Add(time.Minute + time.Duration(tt.stood)*time.Second)
			if !h.run.Look.Equal(want) {
				t.Fatalf("the run is looked at after %s, want %s", h.run.Look.Sub(noon), want.Sub(noon))
			}
			h.now = want
			if h.put(&Tick{Intake: h.now}); h.run.State != event.RunFailed || h.run.Error.Code != codeRunTimeout {
				t.Errorf("then it is %s", event.MustMarshal(h.run))
			}
		})
	}
}

// A child tells its parent of what it waits for only if a run that it is inside of has a time limit, and what its own children say goes on upwards.
func TestWhoIsToldOfWaitsForPeople(t *testing.T) {
	t.Parallel()
	for _, clock := range []bool{false, true} {
		h := newHelm(t, `{"id":"d","tasks":[{"taskId":"each","workflow":{"id":"w"}},{"taskId":"ask","approval":{}}]}`)
		h.put(&Start{Event: &event.RunStart{RunID: runID}, Workflow: "d", DefVersion: "v", Parent: &ParentRef{Run: "p", Task: "t", Round: 1, Clock: clock}})
		h.put(&More{TaskID: "each", Limit: maxSpawn})
		steps := []struct {
			in   Input
			told bool
		}{
			{&ChildAsks{TaskID: "each", Round: 1, On: true}, false}, // it asks already
			{commandAbout(event.KindRunApprove, "ask"), false},      // but so does its child
			{&ChildAsks{TaskID: "each", Round: 1}, true},
			{&ChildAsks{TaskID: "each", Round: 1, On: true}, true},
			{&ChildEnded{TaskID: "each", Round: 1, State: event.RunCompleted}, false}, // its end tells
		}
		for i, step := range steps {
			before := h.run
			h.now = h.now.Add(time.Second)
			h.put(step.in)
			if told := !asksTurned(before, h.run).IsZero(); told != (step.told && clock) {
				t.Errorf("%s: told %v", fmt.Sprint("clock ", clock, ", step ", i), told)
			}
		}
	}
}
