package workflow

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

const reportSchema = `{"type": "object", "required": ["title", "score"], "properties": {"title": {"type": "string"}, "score": {"type": "number"}}}`

func TestASchemaIsUsedByManyAtOnce(t *testing.T) {
	t.Parallel()
	d := decoded(t, `{"id":"d","inputSchema":`+reportSchema+`,"tasks":[{"taskId":"a","outputSchema":{"type":"object","required":["n"]}}]}`)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if why := d.checkInput(event.Raw(`{"title":"a","score":1}`)); why != nil {
				t.Errorf("an input that fits: %+v", why)
			}
			if why := d.checkInput(nil); why == nil || why.Code != "invalid" {
				t.Errorf("no input: %+v", why)
			}
			decider := &decider{def: d}
			if why := decider.checkOutput(&RunTask{ID: "a"}, event.Raw(`{}`)); why == nil || why.Code != CodeInvalidOutput || why.Retryable != nil {
				t.Errorf("an output that does not fit: %+v", why)
			}
		})
	}
	all.Wait()
	kept := 0
	d.compiled.contracts.Range(func(any, any) bool { kept++; return true })
	if kept != 2 {
		t.Errorf("%d schemas are kept, want 2", kept)
	}
}

func decoded(t *testing.T, source string) *Definition {
	t.Helper()
	d, err := Decode(event.Raw(source))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// An output that does not fit is a failed attempt whose violations the next attempt is told; one that fits completes the task. Repeats change nothing.
func TestAnOutputThatDoesNotFitIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	def := decoded(t, `{"id":"d","retry":{"attempts":1},"tasks":[{"taskId":"a","agentCapability":"x","outputSchema":{"type":"object","required":["n"]}}]}`)
	at := At{Now: noon, Stream: noon, Seq: 1}
	run := Decide(def, nil, &Start{Event: &event.RunStart{RunID: "r"}, Workflow: "d"}, at).Run
	bad, good := event.Raw(`{"m":1}`), event.Raw(`{"n":1}`)
	report := func(attempt int, output event.Raw) Decision {
		ref := event.AttemptRef{RunID: "r", TaskID: "a", Attempt: attempt, Token: "t"}
		return Decide(def, run, &Said{Agent: "g", Event: &event.Result{AttemptRef: ref, Status: event.StatusCompleted, Output: output}}, at)
	}
	assign := func() { run = Decide(def, run, &Assign{TaskID: "a", Agent: "g", Token: "t"}, at).Run }

	assign()
	out := report(1, bad)
	run = out.Run
	if got := run.Tasks[0]; got.State != event.TaskRetrying || got.Error.Code != CodeInvalidOutput || !strings.Contains(got.Error.Message, "missing property 'n'") {
		t.Fatalf("after an output that does not fit: %+v", got)
	}
	if len(out.Slots) != 1 || !out.Slots[0].Failed {
		t.Errorf("its slot: %+v", out.Slots)
	}
	if again := report(1, bad); again.Run != nil || again.Refuse != nil {
		t.Errorf("its repeat: %+v", again)
	}
	at.Now = at.Now.Add(time.Hour)
	run = Decide(def, run, &Tick{TaskID: "a"}, at).Run
	assign()
	completed := report(2, good).Run
	if completed.State != event.RunCompleted || completed.Tasks[0].Error != nil {
		t.Errorf("after an output that fits: %+v", completed)
	}
	run = report(2, bad).Run
	if run.State != event.RunFailed || run.Error.Code != CodeInvalidOutput {
		t.Errorf("without a retry left: %+v", run)
	}
	if again := report(2, bad); again.Run != nil || again.Refuse != nil {
		t.Errorf("the repeat of the last: %+v", again)
	}
}

func TestARunDoesNotBeginWithAnInputThatDoesNotFit(t *testing.T) {
	t.Parallel()
	def := decoded(t, `{"id":"d","inputSchema":{"type":"object","required":["n"]},"tasks":[{"taskId":"a","agentCapability":"x"}]}`)
	at := At{Now: noon, Stream: noon, Seq: 1}
	start := func(input string, legacy bool) Decision {
		return Decide(def, nil, &Start{Event: &event.RunStart{RunID: "r", Input: event.Raw(input), Legacy: legacy}, Workflow: "d"}, at)
	}
	if out := start(`{"m":1}`, false); out.Run != nil || out.Refuse == nil || out.Refuse.Code != event.CodeInvalid || !strings.Contains(out.Refuse.Message, "'n'") {
		t.Errorf("an input that does not fit: %+v", out)
	}
	if out := start(`{"n":1}`, false); out.Refuse != nil || out.Run.State != event.RunRunning {
		t.Errorf("an input that fits: %+v", out)
	}
	if out := start(`{}`, true); out.Refuse != nil || out.Run.State != event.RunFailed {
		t.Errorf("of the old API: %+v", out)
	}
}

func TestARunHasThePriorityOfItsDefinitionUnlessItIsGivenOne(t *testing.T) {
	t.Parallel()
	def := decoded(t, `{"id":"d","priority":4,"tasks":[{"taskId":"a","agentCapability":"x"}]}`)
	for given, want := range map[int]int{0: 4, 7: 7, 99: 9} {
		start := &Start{Event: &event.RunStart{RunID: "r", Priority: given}, Workflow: "d"}
		if got := Decide(def, nil, start, At{Now: noon, Stream: noon, Seq: 1}).Run.Priority; got != want {
			t.Errorf("given %d it is %d, want %d", given, got, want)
		}
	}
}
