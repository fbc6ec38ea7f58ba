package workflow_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// Signals that nobody waits for yet are kept up to a bound. Beyond it the sender is told, or the signal becomes a dead letter; what was kept is taken in its order.
func TestTheRoomForSignalsIsBounded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.define(t, `{"id":"d","tasks":[{"taskId":"gate","signal":{"name":"open"}},
		{"taskId":"one","dependsOn":["gate"],"signal":{"name":"go"}},{"taskId":"two","dependsOn":["one"],"signal":{"name":"go"}},
		{"taskId":"three","dependsOn":["two"],"signal":{"name":"go"}}]}`)
	run := b.launch(t, "d", `{}`)
	signal := func(name string, n, size int) *event.RunCommand {
		return &event.RunCommand{Name: name, Payload: event.Raw(fmt.Sprintf(`{"n":%d,"text":%q}`, n, strings.Repeat("x", size)))}
	}
	b.call(t, event.KindRunSignal, run, signal("go", 1, 30<<10))
	b.call(t, event.KindRunSignal, run, signal("go", 2, 30<<10))
	o := b.refused(t, event.KindRunSignal, run, signal("go", 3, 30<<10), event.CodeTooLarge)
	if want := "the run keeps at most 100 signals of 65536 bytes together that no task waits for"; o.Error.Message != want {
		t.Errorf("it is refused as %v", o.Error)
	}
	publish(t, b, event.CommandSubject(event.KindRunSignal, run), signal("go", 3, 30<<10)) // nobody waits for the outcome
	letter := b.letters(t, event.CodeTooLarge, 1)[0]
	b.call(t, event.KindRunSignal, run, signal("go", 4, 10)) // a small one has room
	b.call(t, event.KindRunSignal, run, signal("open", 0, 60<<10))
	r := b.ended(t, run)
	for i, want := range []string{`{"n":1,`, `{"n":2,`, `{"n":4,`} {
		if got := string(r.Tasks[i+1].Output); r.State != event.RunCompleted || !strings.HasPrefix(got, want) {
			t.Errorf("task %s was given %.20s", r.Tasks[i+1].TaskID, got)
		}
	}
	if whole, err := b.conn.DeadLetter(t.Context(), letter.Seq); err != nil || letter.RunID != run || !strings.Contains(string(whole.Body), `"n":3,`) {
		t.Errorf("the letter is %s, %v", event.MustMarshal(&letter), err)
	}
}

// A command that was kept for a run, and is refused when that is started, becomes a dead letter: whoever sent it was told that it is kept.
func TestWhatWasKeptAndRefusedIsALetter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.define(t, `{"id":"d","tasks":[{"taskId":"paid","signal":{"name":"paid","schema":{"type":"integer"}}}]}`)
	run := uuid.NewString()
	for _, payload := range []string{`"much"`, `12`} {
		o := b.refused(t, event.KindRunSignal, run, &event.RunCommand{Name: "paid", Payload: event.Raw(payload)}, event.CodeUnknownRun)
		if !o.Held {
			t.Errorf("it is not kept: %v", o.Error)
		}
	}
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "d"})
	if r := b.ended(t, run); r.State != event.RunCompleted || string(r.Output) != `12` {
		t.Errorf("the run is %s", event.MustMarshal(r))
	}
	l := b.letters(t, event.CodeInvalid, 1)[0]
	if l.RunID != run || !strings.Contains(l.Reason, "does not fit the schema of signal") {
		t.Errorf("the letter is %s", event.MustMarshal(&l))
	}
}

// A person decides about each item for itself: the message knows the item, the list of approvals says where it stands, and each is decided in the run of its item.
func TestAnApprovalOfEachItem(t *testing.T) {
	t.Parallel()
	b := setupRedis(t, 2)
	b.define(t, `{"id":"d","output":"${{ tasks.check.output.map(v, v.approved) }}","tasks":[
		{"taskId":"prices","wait":{"seconds":0.01}},
		{"taskId":"check","dependsOn":["prices"],"forEach":{"items":"input.orders"},
			"approval":{"message":"Pay ${{ item.price }} for ${{ item.what }} (${{ index + 1 }} of ${{ size(input.orders) }}, ${{ tasks.prices.state }})?","onReject":"continue"}}]}`)
	run := b.launch(t, "d", `{"orders":[{"what":"tea","price":3},{"what":"a boat","price":30000}]}`)
	var list []event.Approval
	bustest.Eventually(t, "two approvals wait", func() bool {
		page, err := b.runs.Approvals(t.Context(), "", 10)
		list = page.Items
		return err == nil && len(list) == 2
	})
	slices.SortFunc(list, func(a, b event.Approval) int { return a.Parent.Index - b.Parent.Index })
	for i, want := range []string{"Pay 3 for tea (1 of 2, completed)?", "Pay 30000 for a boat (2 of 2, completed)?"} {
		if a := list[i]; a.Message != want || a.TaskID != "check" || *a.Parent != (event.RunParent{RunID: run, TaskID: "check", Index: i}) {
			t.Errorf("approval %d is %s", i, event.MustMarshal(&list[i]))
		}
	}
	o := b.refused(t, event.KindRunApprove, run, &event.RunCommand{TaskID: "check"}, event.CodeInvalid)
	if !strings.Contains(o.Error.Message, "is decided each time for itself, in runs of its own") {
		t.Errorf("it is refused as %v", o.Error)
	}
	b.call(t, event.KindRunReject, list[1].RunID, &event.RunCommand{TaskID: "check", By: "ada", Comment: "too much"})
	b.call(t, event.KindRunApprove, list[0].RunID, &event.RunCommand{TaskID: "check", By: "ada"})
	if r := b.ended(t, run); r.State != event.RunCompleted || string(r.Output) != `[true,false]` {
		t.Errorf("the run is %s", event.MustMarshal(r))
	}
	if page, err := b.runs.Approvals(t.Context(), "", 10); err != nil || len(page.Items) != 0 {
		t.Errorf("still waiting for people: %v, %v", page.Items, err)
	}
	b.define(t, `{"id":"strict","tasks":[{"taskId":"check","forEach":{"items":"[1,2]"},"approval":{}}]}`)
	run = b.launch(t, "strict", `{}`)
	bustest.Eventually(t, "two children wait", func() bool { return len(b.childrenOf(t, run)) == 2 })
	b.call(t, event.KindRunReject, b.childrenOf(t, run)[0].RunID, &event.RunCommand{TaskID: "check", Comment: "no"})
	if r := b.ended(t, run); r.State != event.RunFailed || r.Error.Code != "rejected" {
		t.Errorf("with one rejected the run is %s", event.MustMarshal(r))
	}
	bustest.Eventually(t, "nobody is asked any more", func() bool {
		page, err := b.runs.Approvals(t.Context(), "", 10)
		return err == nil && len(page.Items) == 0
	})
}

// A loop asks again until somebody approves; what was said before stands in the message.
func TestAnApprovalThatIsAskedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.define(t, `{"id":"d","tasks":[{"taskId":"check","loop":{"while":"!output.approved","max":5},
		"approval":{"message":"Time ${{ index + 1 }}, before: ${{ output == null ? 'nothing' : string(output.comment) }}","onReject":"continue"}}]}`)
	run := b.launch(t, "d", `{}`)
	for i, want := range []string{"Time 1, before: nothing", "Time 2, before: word 0", "Time 3, before: word 1"} {
		var list []event.Approval
		bustest.Eventually(t, "an approval waits", func() bool {
			page, err := b.runs.Approvals(t.Context(), "", 10)
			list = page.Items
			return err == nil && len(list) == 1
		})
		if list[0].Message != want {
			t.Errorf("the message is %q, want %q", list[0].Message, want)
		}
		kind := map[bool]event.CommandKind{false: event.KindRunReject, true: event.KindRunApprove}[i == 2]
		b.call(t, kind, list[0].RunID, &event.RunCommand{TaskID: "check", Comment: fmt.Sprint("word ", i)})
	}
	if r := b.ended(t, run); r.State != event.RunCompleted || !strings.Contains(string(r.Output), `"comment":"word 2"`) {
		t.Errorf("the run is %s", event.MustMarshal(r))
	}
}

// Each item waits for its own signal, which may come before the item is begun, and each for its own time.
func TestASignalAndAWaitOfEachItem(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.define(t, `{"id":"d","output":"${{ tasks.paid.output }}","tasks":[{"taskId":"paid","forEach":{"items":"input.orders","maxParallel":2},
		"signal":{"name":"paid","schema":{"type":"integer"}}},
		{"taskId":"rest","dependsOn":["paid"],"forEach":{"items":"[1,2,3]"},"wait":{"until":"run.createdAt + duration(string(item * 100) + 'ms')"}}]}`)
	run := b.launch(t, "d", `{"orders":["a","b","c"]}`)
	bustest.Eventually(t, "two items wait", func() bool { return len(b.childrenOf(t, run)) == 2 })
	o := b.refused(t, event.KindRunSignal, run, &event.RunCommand{Name: "paid", Payload: event.Raw(`1`)}, event.CodeInvalid)
	if !strings.Contains(o.Error.Message, "each time for itself, in runs of its own") {
		t.Errorf("it is refused as %v", o.Error)
	}
	first := b.childrenOf(t, run)[0].RunID
	third := strings.TrimSuffix(first, "0") + "2"
	if o := b.refused(t, event.KindRunSignal, third, &event.RunCommand{Name: "paid", Payload: event.Raw(`3`)}, event.CodeUnknownRun); !o.Held {
		t.Errorf("a signal that came before its item is not kept: %v", o.Error)
	}
	b.refused(t, event.KindRunSignal, first, &event.RunCommand{Name: "paid", Payload: event.Raw(`"much"`)}, event.CodeInvalid)
	b.call(t, event.KindRunSignal, first, &event.RunCommand{Name: "paid", Payload: event.Raw(`1`)})
	b.call(t, event.KindRunSignal, strings.TrimSuffix(first, "0")+"1", &event.RunCommand{Name: "paid", Payload: event.Raw(`2`)})
	r := b.ended(t, run)
	if r.State != event.RunCompleted || string(r.Output) != `[1,2,3]` {
		t.Fatalf("the run is %s", event.MustMarshal(r))
	}
	for _, child := range b.childrenOf(t, run)[3:] {
		if early := r.CreatedAt.Add(time.Duration(child.Parent.Index+1) * 100 * time.Millisecond).Sub(*child.EndedAt); early > 0 {
			t.Errorf("item %d of the wait ended %s too early", child.Parent.Index, early)
		}
	}
}

// The time that a run has does not go by while somebody is asked in a run of a run that it has started.
func TestAnApprovalDeepInsideStopsTheClock(t *testing.T) {
	t.Parallel()
	b := setupRedis(t, 2)
	b.define(t, `{"id":"inner","tasks":[{"taskId":"check","forEach":{"items":"[1,2]"},"approval":{}}]}`)
	b.define(t, `{"id":"outer","runTimeoutSeconds":600,"tasks":[{"taskId":"sub","workflow":{"id":"inner"}},{"taskId":"go","dependsOn":["sub"],"signal":{"name":"go"}}]}`)
	run := b.launch(t, "outer", `{}`)
	var list []event.Approval
	bustest.Eventually(t, "two approvals wait", func() bool {
		page, err := b.runs.Approvals(t.Context(), "", 10)
		list = page.Items
		return err == nil && len(list) == 2
	})
	limit := func() (at *time.Time) { // when the run fails unless it has ended
		docs, err := b.store.Get(t.Context(), storage.Key("run/"+run))
		if err != nil {
			t.Fatal(err)
		}
		var r struct {
			Look *time.Time `json:"look"`
		}
		if err := event.Unmarshal(docs[0].Data, &r); err != nil {
			t.Fatal(err)
		}
		return r.Look
	}
	bustest.Eventually(t, "the clock of the run stands", func() bool { return limit() == nil })
	b.call(t, event.KindRunApprove, list[0].RunID, &event.RunCommand{TaskID: "check"})
	b.ended(t, list[0].RunID)
	if limit() != nil {
		t.Error("the clock goes on although somebody is still asked")
	}
	b.call(t, event.KindRunApprove, list[1].RunID, &event.RunCommand{TaskID: "check"})
	b.until(t, run, waits("go"))
	if at := limit(); at == nil { // for a signal it waits in its own time
		t.Error("the clock does not go on")
	}
	b.call(t, event.KindRunSignal, run, &event.RunCommand{Name: "go"})
	b.ended(t, run)
	bustest.Eventually(t, "nothing is due any more", func() bool {
		due, err := b.store.Range(t.Context(), lifecycle.HandBack, storage.Cursor{}, storage.MaxScore, 10)
		return err == nil && len(due) == 0
	})
}
