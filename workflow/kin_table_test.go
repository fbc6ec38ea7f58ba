package workflow

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// childrenTable says what becomes of a task with children: three items, two at a time, of which one may fail.
func childrenTable(t *testing.T) string {
	t.Helper()
	const one = 1 // its round
	ended := func(index int, why *event.TaskError) *ChildEnded {
		return &ChildEnded{TaskID: "each", Round: one, Index: index, State: event.RunCompleted, Error: why}
	}
	known := &Opened{TaskID: "each", Round: one, Total: 3, Pages: []event.Raw{event.Raw(`[1,2,3]`)}}
	more := &More{TaskID: "each", Limit: maxSpawn}
	broke := &event.TaskError{Code: "broke"}
	rest := []Input{known, more, ended(0, nil), ended(1, nil), more, ended(2, nil)}
	joined := &Joined{TaskID: "each", Round: one, Output: event.Raw(`[1,2,3]`)}
	states := []struct {
		name   string
		inputs []Input
	}{
		{"opening", nil},
		{"under way", []Input{known, more}},
		{"paused", []Input{known, more, command(event.KindRunPause, nil)}},
		{"joining", rest},
		{"completed", append(rest[:len(rest):len(rest)], joined)},
		{"failed", []Input{known, more, ended(0, broke), ended(1, broke)}},
		{"cancelled", []Input{known, more, command(event.KindRunCancel, nil)}},
	}
	events := []struct {
		name string
		in   []Input // the last one counts
	}{
		{"items are known", []Input{known}},
		{"there are no items", []Input{&Opened{TaskID: "each", Round: one}}},
		{"items are too many for the tree", []Input{&Opened{TaskID: "each", Round: one, Total: 3, Tree: MaxTree - 2}}},
		{"items cannot be known", []Input{&Opened{TaskID: "each", Round: one, Error: &event.TaskError{Code: "expression_error"}}}},
		{"room for more", []Input{more}},
		{"a child has completed", []Input{ended(0, nil)}},
		{"… and is told again", []Input{ended(0, nil), ended(0, nil)}},
		{"… and there is room for more", []Input{ended(0, nil), more}},
		{"… but none in the tree", []Input{ended(0, nil), &More{TaskID: "each", Limit: maxSpawn, Tree: MaxTree}}},
		{"a child has failed", []Input{ended(0, broke)}},
		{"… and another", []Input{ended(0, broke), ended(1, broke)}},
		{"a child of another round has ended", []Input{&ChildEnded{TaskID: "each", Round: one + 1, State: event.RunCompleted}}},
		{"an active child is missing", []Input{&Missing{TaskID: "each", Round: one}}},
		{"the outputs are joined", []Input{joined}},
		{"… and too large", []Input{&Joined{TaskID: "each", Round: one, Error: &event.TaskError{Code: "too_large"}}}},
		{"timer", []Input{&Tick{TaskID: "each"}}},
	}
	rows := make([]row, len(events))
	for i, e := range events {
		rows[i].event = e.name
		for _, s := range states {
			h := tell(t, `{"id":"d","tasks":[{"taskId":"each","agentCapability":"c","forEach":{"items":"[1,2,3]","maxParallel":2,"tolerate":1}}]}`, &event.RunStart{})
			for _, in := range append(s.inputs[:len(s.inputs):len(s.inputs)], e.in[:len(e.in)-1]...) {
				h.now = h.now.Add(time.Second)
				h.put(in)
			}
			h.now = later(h.now, h.task("each").Look)
			rows[i].results = append(rows[i].results, result{s.name, h.kin(e.in[len(e.in)-1])})
		}
	}
	return render("EVENT\tTASK IS\tRESULT", rows)
}

// kin gives an input and says what becomes of the task with children.
func (s *story) kin(in Input) string {
	before := *s.task("each")
	d := s.put(in)
	after := s.task("each")
	var parts []string
	if after.State != before.State {
		text := string(after.State)
		if after.Error != nil {
			text += ": " + after.Error.Code
		}
		parts = append(parts, text)
	}
	switch {
	case d.Run == nil:
	case len(d.Spawn) > 0:
		parts = append(parts, fmt.Sprintf("starts %d", len(d.Spawn)))
	case after.State.Final():
	case !before.Kids.Opened && after.Kids.Opened:
		parts = append(parts, fmt.Sprintf("has %d", after.Kids.Total))
	case len(after.Kids.Active) < len(before.Kids.Active):
		parts = append(parts, "one less goes on")
	case after.Look.After(before.Look):
		parts = append(parts, "looked at later")
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, "; ")
}

// undoTable says what becomes of a run that undoes what it has done, by what the last of the tasks that do is.
func undoTable(t *testing.T) string {
	t.Helper()
	no := false
	states := []struct {
		name string
		make func(s *story)
	}{
		{"ready", func(*story) {}},
		{"assigned", func(s *story) { s.assign("a~undo") }},
		{"running", func(s *story) { s.put(&Said{Agent: "ann", Event: &event.Accepted{AttemptRef: s.assign("a~undo")}}) }},
		{"retrying", func(s *story) { s.fails("a~undo", "broke") }},
	}
	ref := func(s *story) event.AttemptRef {
		ref := s.task("a~undo").ref(runID)
		ref.Attempt = max(ref.Attempt, 1)
		return ref
	}
	on := func(in Input) func(*story) Input { return func(*story) Input { return in } }
	events := []struct {
		name string
		in   func(*story) Input
	}{
		{"pause", on(command(event.KindRunPause, nil))},
		{"resume", on(command(event.KindRunResume, nil))},
		{"cancel", on(command(event.KindRunCancel, nil))},
		{"retry", on(command(event.KindRunRetry, nil))},
		{"rerun", on(commandAbout(event.KindRunRerun, "a"))},
		{"timer of the run", on(&Tick{Intake: noon.Add(time.Hour)})},
		{"result completed", func(s *story) Input { return completed(ref(s), `1`) }},
		{"result failed for good", func(s *story) Input { return failed(ref(s), &event.TaskError{Code: "stuck", Retryable: &no}) }},
		{"process replaced", func(s *story) Input { return &Gone{Ref: ref(s)} }},
	}
	rows := make([]row, len(events))
	for i, e := range events {
		rows[i].event = e.name
		for _, state := range states {
			s := tell(t, `{"id":"d","runTimeoutSeconds":60,"tasks":[{"taskId":"a","agentCapability":"c","retry":{"attempts":1},"compensate":{}},
				{"taskId":"b","agentCapability":"c","dependsOn":["a"],"retry":{"attempts":0}}]}`, &event.RunStart{})
			s.does("a")
			s.fails("b", "broke")
			state.make(s)
			if got := string(s.task("a~undo").State); got != state.name || s.run.Undoing == nil {
				t.Fatalf("the task that undoes is %s, not %s", got, state.name)
			}
			s.now = s.now.Add(time.Hour)
			rows[i].results = append(rows[i].results, result{state.name, s.undoes(e.in(s))})
		}
	}
	return render("EVENT\tIT IS\tRESULT", rows)
}

// undoes gives an input and says what becomes of the run and of the task that undoes.
func (s *story) undoes(in Input) string {
	run, before := s.run.State, s.task("a~undo").State
	d := s.put(in)
	var parts []string
	if after := s.task("a~undo").State; after != before {
		parts = append(parts, string(after))
	}
	if s.run.State != run {
		text := "run " + string(s.run.State)
		if s.run.Error != nil && s.run.State.Final() {
			text += ": " + s.run.Error.Code
			if s.run.Error.Details != nil {
				text += ", names what is not undone"
			}
		}
		parts = append(parts, text)
	}
	if d.Refuse != nil {
		parts = append(parts, "refused: "+string(d.Refuse.Code))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, "; ")
}

// waitTable says what becomes of a task that waits for something that no agent does. Each may take 20 s.
func waitTable(t *testing.T) string {
	t.Helper()
	waits := []struct{ name, task string }{
		{"time", `"wait":{"seconds":20}`},
		{"a signal", `"signal":{"name":"go","timeoutSeconds":20}`},
		{"a person", `"approval":{"timeoutSeconds":20}`},
	}
	pause := func(s *story) { s.put(command(event.KindRunPause, nil)) }
	nothing := func(*story) {}
	tick := func(after, intake time.Duration) func(*story) Input {
		return func(s *story) Input {
			s.now = noon.Add(after)
			return &Tick{TaskID: "w", Intake: noon.Add(intake)}
		}
	}
	events := []struct {
		name   string
		before func(*story)
		in     func(*story) Input
	}{
		{"timer, early", nothing, tick(10*time.Second, 10*time.Second)},
		{"timer", nothing, tick(20*time.Second, 20*time.Second)},
		{"timer, intake behind", nothing, tick(20*time.Second, 10*time.Second)},
		{"timer, paused", pause, tick(20*time.Second, 20*time.Second)},
		{"timer, paused for 10 s before", func(s *story) {
			pause(s)
			s.now = noon.Add(10 * time.Second)
			s.put(command(event.KindRunResume, nil))
		}, tick(20*time.Second, 20*time.Second)},
		{"signal", nothing, func(*story) Input { return signalled("go") }},
		{"signal, paused", pause, func(*story) Input { return signalled("go") }},
		{"approve", nothing, func(*story) Input { return commandAbout(event.KindRunApprove, "w") }},
		{"cancel", nothing, func(*story) Input { return command(event.KindRunCancel, nil) }},
	}
	rows := make([]row, len(events))
	for i, e := range events {
		rows[i].event = e.name
		for _, w := range waits {
			s := tell(t, `{"id":"d","tasks":[{"taskId":"w",`+w.task+`}]}`, &event.RunStart{})
			e.before(s)
			in := e.in(s)
			before := *s.task("w")
			d := s.put(in)
			after, text := s.task("w"), "-"
			switch {
			case d.Refuse != nil:
				text = "refused: " + string(d.Refuse.Code)
			case after.State != before.State && after.Error != nil:
				text = string(after.State) + ": " + after.Error.Code
			case after.State != before.State:
				text = string(after.State)
			case after.Look.After(before.Look):
				text = "looked at later"
			}
			rows[i].results = append(rows[i].results, result{w.name, text})
		}
	}
	return render("EVENT\tWAITS FOR\tRESULT", rows)
}
