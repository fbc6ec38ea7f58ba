package workflow

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/workflow/contract"
)

var update = flag.Bool("update", false, "write the tables of doc.go anew")

// The tables of doc.go, and the one that stands beside what it is about, are what Decide does.
func TestTheTablesOfTheDocumentationAreTrue(t *testing.T) {
	t.Parallel()
	checkTables(t, "control.go", []table{{"# What pauses and ends mean for a child", kinTable(t)}})
	checkTables(t, "doc.go", []table{
		{"# What happens to an attempt", attemptTable(t)},
		{"# What the way to an agent changes", deliveryTable(t)},
		{"# What happens to a run", runTable(t)},
		{"# When a task of a graph begins", joinTable(t)},
		{"# What follows from a failure", failureTable(t)},
		{"# What the clocks of a task do", clockTable(t)},
		{"# What commands do to a run", commandTable(t)},
		{"# What a person's word does", approvalTable(t)},
		{"# What becomes of a task that waits", waitTable(t)},
		{"# What becomes of a task with children", childrenTable(t)},
		{"# What becomes of a run that undoes what it has done", undoTable(t)},
	})
}

// table is a table of a file, under its heading.
type table struct{ heading, text string }

func checkTables(t *testing.T, file string, tables []table) {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := string(source)
	for _, table := range tables {
		got = replaceTable(t, got, table.heading, table.text)
	}
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(strings.Split(string(source), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s differs from what Decide does; if Decide is right, run this test with -update: %s", file, diff)
	}
}

// replaceTable replaces the first indented block behind a heading.
func replaceTable(t *testing.T, source, heading, table string) string {
	t.Helper()
	before, rest, ok := strings.Cut(source, "// "+heading+"\n")
	if !ok {
		t.Fatalf("doc.go has no heading %q", heading)
	}
	lines := strings.SplitAfter(rest, "\n")
	first := 0
	for !strings.HasPrefix(lines[first], "//\t") {
		first++
	}
	end := first
	for strings.HasPrefix(lines[end], "//\t") {
		end++
	}
	return before + "// " + heading + "\n" + strings.Join(lines[:first], "") + table + strings.Join(lines[end:], "")
}

// row is an event and what becomes of it in each state; states with the same result share a line.
type row struct {
	event   string
	results []result
}

type result struct{ state, text string }

func render(head string, rows []row) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, head)
	for _, r := range rows {
		name := r.event
		for _, group := range grouped(r.results) {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", name, group.state, group.text)
			name = ""
		}
	}
	_ = w.Flush()
	var table strings.Builder
	for line := range strings.Lines(b.String()) {
		table.WriteString("//\t" + strings.TrimRight(line, " \n") + "\n")
	}
	return table.String()
}

// grouped joins states with the same result; when all but a few do, those few come first and the others are called so.
func grouped(results []result) []result {
	var groups []result
	count := make(map[string]int)
	for _, r := range results {
		count[r.text]++
	}
	most := results[0].text
	for _, r := range results {
		if count[r.text] > count[most] {
			most = r.text
		}
	}
	done := map[string]bool{most: true}
	for _, r := range results {
		if done[r.text] {
			continue
		}
		done[r.text] = true
		var states []string
		for _, s := range results {
			if s.text == r.text {
				states = append(states, s.state)
			}
		}
		groups = append(groups, result{strings.Join(states, ", "), r.text})
	}
	rest := "others"
	if len(groups) == 0 {
		rest = "any"
	}
	if count[most] == 1 {
		for _, s := range results {
			if s.text == most {
				rest = s.state
			}
		}
	}
	return append(groups, result{rest, most})
}

// result tells a decision: what the task, or the run, becomes and what follows from it.
func resultOf(d Decision, became string) string {
	var parts []string
	if became != "" {
		parts = append(parts, became)
	}
	for _, s := range d.Slots {
		parts = append(parts, map[SlotKind]string{
			SlotTake: "slot taken", SlotResult: "slot freed", SlotRejected: "slot freed, agent backs off",
			SlotSilent: "slot freed, agent out of rotation", SlotGone: "slot freed", SlotDrain: "slot drains", SlotLate: "slot freed if it drains",
		}[s.Kind])
	}
	if d.Ask != "" {
		parts = append(parts, "asked again")
	}
	if d.Refuse != nil {
		parts = append(parts, "refused: "+string(d.Refuse.Code))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, "; ")
}

const tableDefinition = `{"id":"d","retry":{"attempts":1},"tasks":[
	{"taskId":"a","agentCapability":"c","nextTaskId":"b"},{"taskId":"b","agentCapability":"c"}]}`

// taskStates tells a run up to each state of its first task. The last attempt is always the second; the first was rejected.
func taskStates(t *testing.T) []struct {
	name string
	tell func() (*story, event.AttemptRef)
} {
	t.Helper()
	assigned := func() (*story, event.AttemptRef) {
		s := tell(t, tableDefinition, &event.RunStart{})
		s.put(&Refused{Ref: s.assign("a"), After: time.Second})
		return s, s.assign("a")
	}
	then := func(inputs ...func(event.AttemptRef) Input) func() (*story, event.AttemptRef) {
		return func() (*story, event.AttemptRef) {
			s, ref := assigned()
			for _, in := range inputs {
				s.put(in(ref))
			}
			return s, ref
		}
	}
	no := false
	accept := func(ref event.AttemptRef) Input {
		return &Said{Agent: "ann", Event: &event.Accepted{AttemptRef: ref}}
	}
	return []struct {
		name string
		tell func() (*story, event.AttemptRef)
	}{
		{"ready", then(func(ref event.AttemptRef) Input { return &Gone{Ref: ref} })},
		{"assigned", assigned},
		{"running", then(accept)},
		{"retrying", then(func(ref event.AttemptRef) Input { return failed(ref, &event.TaskError{Code: "broke"}) })},
		{"completed", then(func(ref event.AttemptRef) Input { return completed(ref, `1`) })},
		{"failed", then(func(ref event.AttemptRef) Input { return failed(ref, &event.TaskError{Code: "broke", Retryable: &no}) })},
		{"cancelled", then(func(event.AttemptRef) Input { return &Cancel{} })},
	}
}

func attemptTable(t *testing.T) string {
	t.Helper()
	said := func(e event.Event) Input { return &Said{Agent: "ann", Event: e} }
	done := func(ref event.AttemptRef) *event.Result {
		return &event.Result{AttemptRef: ref, Status: event.StatusCompleted}
	}
	number := func(ref event.AttemptRef, by int) event.AttemptRef {
		ref.Attempt += by
		ref.Token = ""
		return ref
	}
	tick := func(now, intake time.Duration, accepted bool) func(*story, event.AttemptRef, *At) Input {
		return func(s *story, ref event.AttemptRef, at *At) Input {
			at.Now = noon.Add(now)
			in := &Tick{TaskID: "a", Intake: noon.Add(intake)}
			if accepted {
				in.Accepted = ref.Attempt
			}
			return in
		}
	}
	on := func(in func(event.AttemptRef) Input) func(*story, event.AttemptRef, *At) Input {
		return func(_ *story, ref event.AttemptRef, _ *At) Input { return in(ref) }
	}
	retries := func(tries int, e *event.TaskError) func(*story, event.AttemptRef, *At) Input {
		return func(s *story, ref event.AttemptRef, _ *At) Input {
			s.run = clone(s.run)
			s.run.Find("a").Tries = tries
			return failed(ref, e)
		}
	}
	no := false
	lease := DefaultTimeout
	events := []struct {
		name string
		in   func(*story, event.AttemptRef, *At) Input
	}{
		{"given to an agent", on(func(event.AttemptRef) Input { return &Assign{TaskID: "a", Agent: "bob", Token: "t"} })},
		{"its input does not fit", func(s *story, _ event.AttemptRef, _ *At) Input {
			return &Misfit{TaskID: "a", Agent: "bob", Ready: s.task("a").Ready, Unfit: Unfit{Schema: "x"}}
		}},
		{"accepted", on(func(ref event.AttemptRef) Input { return said(&event.Accepted{AttemptRef: ref}) })},
		{"accepted, older attempt", on(func(ref event.AttemptRef) Input { return said(&event.Accepted{AttemptRef: number(ref, -1)}) })},
		{"progress", func(s *story, ref event.AttemptRef, at *At) Input {
			at.Stream = noon.Add(lease / 2)
			return said(&event.Progress{AttemptRef: ref})
		}},
		{"progress, soon after other", on(func(ref event.AttemptRef) Input { return said(&event.Progress{AttemptRef: ref}) })},
		{"progress, older attempt", on(func(ref event.AttemptRef) Input { return said(&event.Progress{AttemptRef: number(ref, -1)}) })},
		{"result completed", on(func(ref event.AttemptRef) Input { return said(done(ref)) })},
		{"result that does not fit", func(s *story, ref event.AttemptRef, at *At) Input {
			s.run = clone(s.run)
			s.run.Find("a").Schema = "x"
			at.Schema, _ = contract.Compile(event.Raw(`{"type":"object"}`))
			return said(done(ref))
		}},
		{"result failed", retries(0, &event.TaskError{Code: "broke"})},
		{"result failed, no retry left", retries(1, &event.TaskError{Code: "broke"})},
		{"result failed, not retryable", retries(0, &event.TaskError{Code: "broke", Retryable: &no})},
		{"result, older attempt", on(func(ref event.AttemptRef) Input { return said(done(number(ref, -1))) })},
		{"result, newer attempt", on(func(ref event.AttemptRef) Input { return said(done(number(ref, 1))) })},
		{"… after a regression", func(_ *story, ref event.AttemptRef, at *At) Input {
			at.Adopt = true
			return said(done(number(ref, 1)))
		}},
		{"result, other agent", on(func(ref event.AttemptRef) Input { return &Said{Agent: "eve", Event: done(ref)} })},
		{"result, other token", on(func(ref event.AttemptRef) Input {
			ref.Token = "other"
			return said(done(ref))
		})},
		{"result, without token", on(func(ref event.AttemptRef) Input { return said(done(number(ref, 0))) })},
		{"result, other process", on(func(ref event.AttemptRef) Input {
			r := done(ref)
			r.Instance = "p0"
			return said(r)
		})},
		{"rejected", on(func(ref event.AttemptRef) Input { return &Refused{Ref: ref, After: time.Second} })},
		{"rejected, older attempt", on(func(ref event.AttemptRef) Input { return &Refused{Ref: number(ref, -1)} })},
		{"no responder", on(func(ref event.AttemptRef) Input { return &Refused{Ref: ref, Silent: true} })},
		{"process replaced", on(func(ref event.AttemptRef) Input { return &Gone{Ref: ref} })},
		{"taken away", on(func(ref event.AttemptRef) Input { return &Gone{Ref: ref, Removed: true} })},
		{"process replaced, older attempt", on(func(ref event.AttemptRef) Input { return &Gone{Ref: number(ref, -1)} })},
		{"timer, early", tick(AskAgain/4, AskAgain/4, false)},
		{"timer, 1 s", tick(AskAgain, AskAgain, false)},
		{"timer, 1 s, accepted is known", tick(AskAgain, AskAgain, true)},
		{"timer, 5 s, intake behind", tick(event.AcceptDeadline, AskAgain, false)},
		{"timer, 5 s", tick(event.AcceptDeadline, event.AcceptDeadline, false)},
		{"timer, lease over, intake behind", tick(lease, lease/2, true)},
		{"timer, lease over", tick(lease, lease, true)},
		{"timer, lease over, no retry left", func(s *story, ref event.AttemptRef, at *At) Input {
			s.run = clone(s.run)
			s.run.Find("a").Tries = 1
			return tick(lease, lease, false)(s, ref, at)
		}},
		{"run cancelled", on(func(event.AttemptRef) Input { return &Cancel{} })},
	}
	rows := make([]row, len(events))
	for i, e := range events {
		rows[i].event = e.name
		for _, state := range taskStates(t) {
			s, ref := state.tell()
			if got := s.task("a"); string(got.State) != state.name || got.Attempt != 2 {
				t.Fatalf("the task is %s at attempt %d, not %s", got.State, got.Attempt, state.name)
			}
			at := s.at()
			in := e.in(s, ref, &at)
			rows[i].results = append(rows[i].results, attemptResult(state.name, s, in, at))
		}
	}
	return render("EVENT\tTASK IS\tRESULT", rows)
}

// attemptResult tells what an input does to the first task.
func attemptResult(name string, s *story, in Input, at At) result {
	before := *s.task("a")
	d := s.putAt(in, at)
	became := ""
	if after := s.task("a"); d.Run != nil {
		became = string(after.State)
		switch {
		case after.State != before.State:
		case after.Class != before.Class:
			became += " for others"
		case after.Lease.After(before.Lease):
			became = "lease renewed"
		case after.Look.After(before.Look):
			became = "looked at later"
		default:
			became = ""
		}
		if d.Run.State.Final() && after.State != event.TaskCancelled {
			became = strings.TrimPrefix(became+", run "+string(d.Run.State), ", ")
		}
	}
	return result{name, resultOf(d, became)}
}

// deliveryTable tells what becomes of an attempt that was assigned, by the way its agent is reached.
func deliveryTable(t *testing.T) string {
	t.Helper()
	tick := func(now, intake time.Duration, accepted int) func(event.AttemptRef, *At) Input {
		return func(_ event.AttemptRef, at *At) Input {
			at.Now = noon.Add(now)
			return &Tick{TaskID: "a", Intake: noon.Add(intake), Accepted: accepted}
		}
	}
	const (
		first  = AskAgain
		second = PushAskAgain
		last   = event.PushDeadline
	)
	events := []struct {
		name    string
		timeout float64
		in      func(event.AttemptRef, *At) Input
	}{
		{"timer, 1 s", 0, tick(first, first, 0)},
		{"timer, 5 s", 0, tick(second, second, 0)},
		{"timer, 5 s, accepted is known", 0, tick(second, second, 1)},
		{"timer, 15 s, intake behind", 0, tick(last, first, 0)},
		{"timer, 15 s", 0, tick(last, last, 0)},
		{"timer, 3 s, its lease is over", 3, tick(3*time.Second, 3*time.Second, 0)},
		{"rejected", 0, func(ref event.AttemptRef, _ *At) Input { return &Refused{Ref: ref, After: time.Second} }},
		{"no responder", 0, func(ref event.AttemptRef, _ *At) Input { return &Refused{Ref: ref, Silent: true} }},
	}
	rows := make([]row, len(events))
	for i, e := range events {
		rows[i].event = e.name
		for _, via := range []event.Delivery{event.DeliveryNATS, event.DeliveryHTTP, event.DeliveryPoll, event.DeliveryAgentKit} {
			s := tell(t, fmt.Sprintf(`{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","timeoutSeconds":%v}]}`, e.timeout), &event.RunStart{})
			s.put(&Assign{TaskID: "a", Agent: "ann", Token: "t", Delivery: (&lifecycle.Gate{Delivery: via}).Via()})
			at := s.at()
			in := e.in(s.task("a").ref(runID), &at)
			rows[i].results = append(rows[i].results, attemptResult(string(via), s, in, at))
		}
	}
	return render("EVENT\tREACHED BY\tRESULT", rows)
}

func runTable(t *testing.T) string {
	t.Helper()
	no := false
	start := func(hash string, problem *event.TaskError) func(*story, *At) Input {
		return func(*story, *At) Input {
			e := &event.RunStart{RunID: runID, Legacy: true}
			return &Start{Event: e, Workflow: "d", DefVersion: "v1", Hash: hash, Problem: problem}
		}
	}
	with := func(definition string, in func(*story, *At) Input) func(*story, *At) Input {
		return func(s *story, at *At) Input {
			def, err := Parse(event.Raw(definition))
			if err != nil {
				t.Fatal(err)
			}
			if s.run == nil {
				s.def = def
			}
			return in(s, at)
		}
	}
	on := func(in Input) func(*story, *At) Input { return func(*story, *At) Input { return in } }
	tick := func(now, intake time.Duration) func(*story, *At) Input {
		return func(_ *story, at *At) Input {
			at.Now = noon.Add(now)
			return &Tick{Intake: noon.Add(intake)}
		}
	}
	last := event.AttemptRef{RunID: runID, TaskID: "b", Attempt: 1}
	states := []struct {
		name   string
		inputs []Input
	}{
		{"running", nil},
		{"completed", []Input{completed(last, `1`)}},
		{"failed", []Input{failed(last, &event.TaskError{Code: "broke", Retryable: &no})}},
		{"cancelled", []Input{&Cancel{}}},
	}
	events := []struct {
		name string
		in   func(*story, *At) Input
	}{
		{"start", start("h", nil)},
		{"start, another body", start("other", nil)},
		{"start, no tasks", with(`{"id":"d","tasks":[]}`, start("h", nil))},
		{"start, first task for nobody", with(`{"id":"d","tasks":[{"taskId":"a"}]}`, start("h", nil))},
		{"start, legacy, bad definition", start("h", &event.TaskError{Code: "invalid"})},
		{"last task completed", on(completed(last, `1`))},
		{"last task failed, to be tried again", on(failed(last, &event.TaskError{Code: "broke"}))},
		{"last task failed for good", on(failed(last, &event.TaskError{Code: "broke", Retryable: &no}))},
		{"cancel", on(&Cancel{})},
		{"cancel, repeated", func(s *story, at *At) Input {
			if s.run != nil {
				s.run = clone(s.run)
				s.run.apply(at.Seq)
			}
			return &Cancel{}
		}},
		{"timer of a legacy run, early", tick(LegacyTimeout-time.Second, LegacyTimeout)},
		{"timer of a legacy run, intake behind", tick(LegacyTimeout, time.Minute)},
		{"timer of a legacy run", tick(LegacyTimeout, LegacyTimeout)},
	}
	rows := make([]row, len(events))
	for i, e := range events {
		rows[i].event = e.name
		nobody := &story{t: t, def: tell(t, tableDefinition, &event.RunStart{}).def, now: noon}
		rows[i].results = append(rows[i].results, runResult("none", nobody, e.in))
		for _, state := range states {
			s := tell(t, tableDefinition, &event.RunStart{Legacy: true})
			s.put(completed(s.assign("a"), `1`))
			s.assign("b")
			for _, in := range state.inputs {
				s.put(in)
			}
			if string(s.run.State) != state.name {
				t.Fatalf("the run is %s, not %s", s.run.State, state.name)
			}
			rows[i].results = append(rows[i].results, runResult(state.name, s, e.in))
		}
	}
	return render("EVENT\tRUN IS\tRESULT", rows)
}

func runResult(state string, s *story, event func(*story, *At) Input) result {
	at := s.at()
	in := event(s, &at)
	before := s.run
	d := s.putAt(in, at)
	became := ""
	if d.Run != nil {
		became = string(d.Run.State)
		if before != nil && before.State == d.Run.State && d.Run.Look.After(before.Look) {
			became = "looked at later"
		}
	}
	return result{state, resultOf(d, became)}
}
