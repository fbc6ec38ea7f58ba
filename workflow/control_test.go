package workflow

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// steered is a run under commands: an agent's task, one that waits for a signal, and one that waits for a person, beside each other.
const steered = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"sig","signal":{"name":"go"}},
	{"taskId":"ask","approval":{"timeoutSeconds":60}}]}`

// helm gives commands to a run.
type helm struct {
	t   testing.TB
	def *Definition
	run *Run
	now time.Time
	seq uint64
}

func newHelm(t testing.TB, source string) *helm {
	def, err := Parse(event.Raw(source))
	if err != nil {
		t.Fatal(err)
	}
	return &helm{t: t, def: def, now: noon, seq: 1}
}

func (h *helm) decide(in Input, seq uint64) Decision {
	d := Decide(h.def, h.run, in, At{Now: h.now, Seq: seq, Stream: noon.Add(time.Duration(seq) * time.Millisecond), Random: 0.5})
	if d.Run != nil {
		h.run = d.Run
	}
	return d
}

// put gives the next input.
func (h *helm) put(in Input) Decision {
	h.seq++
	return h.decide(in, h.seq)
}

func (h *helm) start(delay float64) *helm {
	h.put(&Start{Event: &event.RunStart{RunID: runID, DelaySeconds: delay}, Workflow: "d", DefVersion: "v", Hash: "h"})
	return h
}

func command(kind event.CommandKind, fill func(*event.RunCommand)) *Command {
	c := &event.RunCommand{Kind: kind, RunID: runID}
	if fill != nil {
		fill(c)
	}
	return &Command{RunCommand: c}
}

func commandAbout(kind event.CommandKind, task string) *Command {
	return command(kind, func(c *event.RunCommand) { c.TaskID = task })
}

func signalled(name string) *Command {
	return command(event.KindRunSignal, func(c *event.RunCommand) { c.Name = name })
}

// work lets the agent's task end.
func (h *helm) work(status event.Status) {
	h.put(&Assign{TaskID: "a", Agent: "ann", Token: "t"})
	no := false
	r := &event.Result{AttemptRef: h.run.Find("a").ref(runID), Status: status}
	if status == event.StatusFailed {
		r.Error = &event.TaskError{Code: "broke", Retryable: &no}
	}
	h.put(&Said{Agent: "ann", Event: r})
}

// commandTable says what each command does to a run in each state.
func commandTable(t *testing.T) string {
	commands := []struct {
		name string
		in   *Command
	}{
		{"pause", command(event.KindRunPause, nil)},
		{"resume", command(event.KindRunResume, nil)},
		{"cancel", command(event.KindRunCancel, nil)},
		{"signal that a task waits for", signalled("go")},
		{"signal that no task knows", signalled("stop")},
		{"approve", commandAbout(event.KindRunApprove, "ask")},
		{"reject", commandAbout(event.KindRunReject, "ask")},
		{"retry", command(event.KindRunRetry, nil)},
		{"rerun", commandAbout(event.KindRunRerun, "a")},
	}
	states := []struct {
		name string
		make func(h *helm)
	}{
		{"none", func(*helm) {}},
		{"pending", func(h *helm) { h.start(60) }},
		{"running", func(h *helm) { h.start(0) }},
		{"paused", func(h *helm) { h.start(0).put(command(event.KindRunPause, nil)) }},
		{"completed", func(h *helm) {
			h.start(0).work(event.StatusCompleted)
			h.put(signalled("go"))
			h.put(commandAbout(event.KindRunApprove, "ask"))
		}},
		{"failed", func(h *helm) { h.start(0).work(event.StatusFailed) }},
		{"cancelled", func(h *helm) { h.start(0).put(command(event.KindRunCancel, nil)) }},
	}
	rows := make([]row, len(commands))
	for i, c := range commands {
		rows[i].event = c.name
		for _, s := range states {
			h := newHelm(t, steered)
			s.make(h)
			if h.run != nil && string(h.run.State) != s.name {
				t.Fatalf("the run is %s, not %s", h.run.State, s.name)
			}
			rows[i].results = append(rows[i].results, result{s.name, h.tell(c.in)})
		}
	}
	return render("COMMAND\tRUN IS\tRESULT", rows)
}

// tell gives a command and says in words what came of it.
func (h *helm) tell(c *Command) string {
	before := h.run
	held := 0
	if before != nil && before.Control != nil {
		held = len(before.Control.Signals)
	}
	d := h.put(c)
	switch {
	case d.Held != nil:
		return "kept for its start"
	case d.Refuse != nil:
		return "refused: " + string(d.Refuse.Code)
	case d.Run == nil:
		return "-"
	case d.Run.Control != nil && len(d.Run.Control.Signals) > held:
		return "kept for a task that will wait"
	}
	text := ""
	for i := range d.Run.Tasks {
		t := &d.Run.Tasks[i]
		if t.ID != "a" && t.State.Final() && t.State != event.TaskCancelled && t.State != before.at(i, t.ID).State {
			text = "; task " + string(t.State)
		}
	}
	if d.Run.State == before.State && text != "" {
		return text[2:]
	}
	return string(d.Run.State) + text
}

// approvalTable says what a person's word does, by what was said before and by the time.
func approvalTable(t *testing.T) string {
	cases := []struct {
		name string
		rule string
		make func(h *helm)
	}{
		{"waits", ``, func(*helm) {}},
		{"waits, paused", ``, func(h *helm) { h.put(command(event.KindRunPause, nil)) }},
		{"approved", ``, func(h *helm) { h.put(commandAbout(event.KindRunApprove, "ask")) }},
		{"rejected, goes on", `,"onReject":"continue"`, func(h *helm) { h.put(commandAbout(event.KindRunReject, "ask")) }},
		{"time over: fail", ``, (*helm).timeOver},
		{"time over: approve", `,"onTimeout":"approve"`, (*helm).timeOver},
		{"time over: reject", `,"onTimeout":"reject","onReject":"continue"`, (*helm).timeOver},
	}
	rows := make([]row, 0, 3)
	for _, word := range []event.CommandKind{event.KindRunApprove, event.KindRunReject} {
		r := row{event: string(word)[len("run-"):]}
		for _, c := range cases {
			h := newHelm(t, `{"id":"d","tasks":[{"taskId":"other","signal":{"name":"x"}},{"taskId":"ask","approval":{"timeoutSeconds":60`+c.rule+`}}]}`).start(0)
			c.make(h)
			r.results = append(r.results, result{c.name, h.tell(commandAbout(word, "ask"))})
		}
		rows = append(rows, r)
	}
	return render("WORD\tAPPROVAL\tRESULT", rows)
}

func (h *helm) timeOver() {
	h.now = h.now.Add(time.Minute)
	h.put(&Tick{TaskID: "ask", Intake: h.now})
}

// Pause is level: whatever the order in which pauses and resumes are taken in, and however often, the last one in the stream counts, and a wait lasts as
// long as the run was not paused.
func TestPauseIsALevelAndStopsTheClocks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := newHelm(t, `{"id":"d","tasks":[{"taskId":"w","wait":{"seconds":1000}},{"taskId":"go","signal":{"name":"s"},"dependsOn":["w"]}]}`).start(0)
		n := rapid.IntRange(1, 8).Draw(rt, "commands")
		kinds := make(map[uint64]event.CommandKind, n)
		order := make([]uint64, 0, 2*n)
		for i := range n {
			seq := uint64(10 + i)
			kinds[seq] = rapid.SampledFrom([]event.CommandKind{event.KindRunPause, event.KindRunResume}).Draw(rt, "kind")
			order = append(order, seq)
		}
		order = rapid.Permutation(append(order, rapid.SliceOf(rapid.SampledFrom(order)).Draw(rt, "repeats")...)).Draw(rt, "order")
		var stood time.Duration
		for _, seq := range order {
			step := time.Duration(rapid.IntRange(1, 10_000).Draw(rt, "ms")) * time.Millisecond
			if h.run.State == event.RunPaused {
				stood += step
			}
			h.now = h.now.Add(step)
			if d := h.decide(command(kinds[seq], nil), seq); d.Refuse != nil {
				rt.Fatal(d.Refuse)
			}
			if w := h.run.Find("w"); h.run.State == event.RunRunning && !w.Until.Equal(noon.Add(1000*time.Second+stood)) {
				rt.Fatalf("the wait ends at %s after %s of pause", w.Until, stood)
			}
			if w := h.run.Find("w"); h.run.look(w).IsZero() != (h.run.State == event.RunPaused) {
				rt.Fatalf("the run is %s and its wait looks at %s", h.run.State, h.run.look(w))
			}
		}
		if want := kinds[uint64(9+n)] == event.KindRunPause; (h.run.State == event.RunPaused) != want {
			rt.Fatalf("the run is %s, the last word was %s", h.run.State, kinds[uint64(9+n)])
		}
	})
}

// A clock that is set while the run is paused begins to run when it is resumed.
func TestAClockSetInAPauseBeginsWithTheResume(t *testing.T) {
	t.Parallel()
	h := newHelm(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"w","wait":{"seconds":60},"dependsOn":["a"]}]}`).start(0)
	h.put(&Assign{TaskID: "a", Agent: "ann", Token: "t"})
	h.put(command(event.KindRunPause, nil))
	h.now = noon.Add(time.Hour)
	h.put(&Said{Agent: "ann", Event: &event.Result{AttemptRef: h.run.Find("a").ref(runID), Status: event.StatusCompleted}})
	if w := h.run.Find("w"); w == nil || w.State != event.TaskWaiting {
		t.Fatalf("a result in flight was not taken: %s", event.MustMarshal(h.run))
	}
	h.now = noon.Add(2 * time.Hour)
	h.put(&Tick{TaskID: "w", Intake: h.now})
	if h.run.Find("w").State != event.TaskWaiting {
		t.Fatal("the wait ended while the run was paused")
	}
	h.put(command(event.KindRunResume, nil))
	if w := h.run.Find("w"); !w.Look.Equal(noon.Add(2*time.Hour + time.Minute)) {
		t.Errorf("the wait ends at %s", w.Look)
	}
}

// Of several tasks that wait for one name the first takes the first signal; a repeat gives nothing to the second.
func TestEachSignalIsTakenOnce(t *testing.T) {
	t.Parallel()
	h := newHelm(t, `{"id":"d","tasks":[{"taskId":"x","signal":{"name":"go"}},{"taskId":"y","signal":{"name":"go"}},
		{"taskId":"z","signal":{"name":"go"},"dependsOn":["x","y"]}]}`).start(0)
	for _, seq := range []uint64{10, 10, 12, 11, 10, 12} {
		h.decide(command(event.KindRunSignal, func(c *event.RunCommand) {
			c.Name, c.Payload = "go", event.MustMarshal(seq)
		}), seq)
	}
	for id, want := range map[string]string{"x": "10", "y": "12", "z": "11"} {
		if rt := h.run.Find(id); rt == nil || string(rt.Output) != want {
			t.Errorf("task %s is %s, want the signal %s", id, event.MustMarshal(rt), want)
		}
	}
}

// Commands that come before the start are taken in their order with it, and each once.
func TestWhatComesBeforeTheStart(t *testing.T) {
	t.Parallel()
	h := newHelm(t, steered)
	for _, seq := range []uint64{12, 11, 12} {
		kind := map[uint64]event.CommandKind{11: event.KindRunPause, 12: event.KindRunResume}[seq]
		if d := h.decide(command(kind, nil), seq); d.Held == nil {
			t.Fatalf("command %d was not kept: %v", seq, d.Refuse)
		}
	}
	if n := len(h.run.Early); n != 2 || h.run.exists() {
		t.Fatalf("%d commands are kept: %s", n, event.MustMarshal(h.run))
	}
	if d := h.decide(commandAbout(event.KindRunApprove, "ask"), 13); d.Refuse == nil || d.Refuse.Code != event.CodeUnknownRun {
		t.Errorf("an approval of nothing: %v", d.Refuse)
	}
	for i := range uint64(earlyCommands) {
		h.decide(command(event.KindRunCancel, nil), 20+i)
	}
	if n := len(h.run.Early); n != earlyCommands {
		t.Errorf("%d commands are kept", n)
	}
}

// A run that is run again from a task does what follows from it once more, uses the outputs before it, and counts attempts on.
func TestRunAgainFromATask(t *testing.T) {
	t.Parallel()
	for _, source := range []string{
		`{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","nextTaskId":"b"},{"taskId":"b","agentCapability":"c","nextTaskId":"e"},{"taskId":"e","agentCapability":"c"}]}`,
		`{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"b","agentCapability":"c","dependsOn":["a"]},
			{"taskId":"side","dependsOn":["a"]},{"taskId":"e","agentCapability":"c","dependsOn":["b","side"]}]}`,
	} {
		h := newHelm(t, source).start(0)
		do := func(id string) {
			h.put(&Assign{TaskID: id, Agent: "ann", Token: "t"})
			h.put(&Said{Agent: "ann", Event: &event.Result{AttemptRef: h.run.Find(id).ref(runID), Status: event.StatusCompleted, Output: event.Raw(`1`)}})
		}
		do("a")
		do("b")
		do("e")
		completed := h.run.Completed
		if d := h.put(commandAbout(event.KindRunRerun, "b")); d.Refuse != nil || h.run.State != event.RunRunning {
			t.Fatalf("rerun: %v %s", d.Refuse, h.run.State)
		}
		if a := h.run.Find("a"); !a.Reused || a.Attempt != 1 || h.run.Find("b").State != event.TaskReady {
			t.Fatalf("run again: %s", event.MustMarshal(h.run))
		}
		do("b")
		if e := h.run.Find("e"); e == nil || e.State != event.TaskReady {
			t.Fatalf("what follows was not reached again: %s", event.MustMarshal(h.run))
		}
		do("e")
		if h.run.State != event.RunCompleted || h.run.Find("e").Attempt != 2 || h.run.Completed != completed || h.run.Control.Reruns != 1 {
			t.Errorf("the end: %s", event.MustMarshal(h.run))
		}
	}
}
