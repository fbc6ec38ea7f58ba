package workflow

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// slow is a store whose first write waits until it is let go.
type slow struct {
	storage.Store
	once    sync.Once
	entered chan struct{}
	letGo   chan struct{}
}

func (s *slow) Commit(ctx context.Context, txns ...storage.Txn) []error {
	s.once.Do(func() {
		close(s.entered)
		<-s.letGo
	})
	return s.Store.Commit(ctx, txns...)
}

// A decision that needs an output which an earlier one has written, but which has not reached the store, finds it.
func TestADecisionFindsWhatIsOnItsWayToTheStore(t *testing.T) {
	t.Parallel()
	def, err := Parse(event.Raw(`{"id":"w","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"b","agentCapability":"c"},
		{"taskId":"j","agentCapability":"none","dependsOn":["a","b"],"when":"tasks.a.output.pad.size() > 1000"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	task := func(id string) RunTask {
		return RunTask{ID: id, State: event.TaskRunning, Attempt: 1, Agent: "ann", Token: id, Assigned: noon, Started: noon, Lease: noon.Add(time.Hour), Look: noon.Add(time.Hour)}
	}
	run := &Run{
		Version: 3, ID: runID, Workflow: "w", DefVersion: "v", State: event.RunRunning, Created: noon, Total: 3, Tasks: []RunTask{task("a"), task("b")},
	}
	d := onDuty(t, map[storage.Key]any{runKey(runID): run, versionKey("w", "v"): def})
	s := &slow{Store: d.store, entered: make(chan struct{}), letGo: make(chan struct{})}
	d.cfg.Store = s
	results := make(chan error, 2)
	report := func(id string, seq uint64, output event.Raw) {
		m := &bus.Msg{Subject: event.AgentSubject(event.VerbResult, "ann"), Stream: event.StreamWork, Seq: seq, Time: noon, Delivered: 1}
		m.Data = event.MustMarshal(&event.Result{AttemptRef: event.AttemptRef{RunID: runID, TaskID: id, Attempt: 1, Token: id}, Status: event.StatusCompleted, Output: output})
		go func() { results <- d.Handle(context.Background(), []*bus.Msg{m}) }()
	}
	report("a", 1, event.Raw(`{"pad":`+big(2*inlineOutput)+`}`))
	<-s.entered
	report("b", 2, event.Raw(`1`))
	bustest.Eventually(t, "the second is decided", func() bool {
		c, ok := d.runs.Load(runKey(runID))
		return ok && c.Value.Find("b").State == event.TaskCompleted
	})
	close(s.letGo)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	docs, err := d.store.Get(t.Context(), runKey(runID))
	if err != nil {
		t.Fatal(err)
	}
	var after Run
	if err := event.Unmarshal(docs[0].Data, &after); err != nil || after.Find("j") == nil || after.Find("j").State != event.TaskReady {
		t.Errorf("%v: %s", err, docs[0].Data)
	}
}

// duty is an engine that does only what a test tells it to, and its store.
type duty struct {
	*Engine
	t     *testing.T
	store storage.Store
}

// onDuty makes an engine, and puts documents and due entries into its store.
func onDuty(t *testing.T, docs map[storage.Key]any, due ...storage.IndexOp) *duty {
	t.Helper()
	store, conn := openTestStore(t), bustest.Conn(t)
	keeper := lifecycle.NewKeeper(store, conn, bustest.Log(t), func() {})
	if err := keeper.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	txn := storage.Txn{Rev: storage.NewRevisions().Next(), IndexAdd: due}
	for key, doc := range docs {
		txn.If = append(txn.If, storage.Cond{Key: key})
		txn.Put = append(txn.Put, storage.Put{Key: key, Data: event.MustMarshal(doc)})
	}
	if err := store.Commit(t.Context(), txn)[0]; err != nil {
		t.Fatal(err)
	}
	return &duty{NewEngine(Config{Store: store, Bus: conn, Keeper: keeper, Log: bustest.Log(t)}), t, store}
}

// look looks at due entries, each as often as it is given.
func (d *duty) look(due ...storage.IndexOp) {
	d.t.Helper()
	entries := make([]storage.Entry, len(due))
	for i, op := range due {
		entries[i] = storage.Entry{Member: op.Member, Score: op.Score}
	}
	if err := d.fire(d.t.Context(), entries); err != nil {
		d.t.Fatal(err)
	}
}

// heed takes what lies in the inbox, once as it is and once more.
func (d *duty) heed() {
	d.t.Helper()
	inputs, _, _ := d.inbox.take()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.turn(d.t.Context(), append(inputs, inputs...)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *duty) due() []storage.Entry {
	d.t.Helper()
	entries, err := d.store.Range(d.t.Context(), dueIndex, storage.Cursor{}, storage.MaxScore, 10)
	if err != nil {
		d.t.Fatal(err)
	}
	return entries
}

// An entry from which two inputs of a turn have come goes once: a Txn that named it twice would be refused, and with it the turn.
func TestTwoInputsOfOneEntry(t *testing.T) {
	t.Parallel()
	op := storage.IndexOp{Index: dueIndex, Member: timer(timerTask, "gone", "a"), Score: 7}
	d := onDuty(t, map[storage.Key]any{"k": 1}, op)
	earlier := op
	earlier.Score = 3
	d.look(op, earlier, op)
	if left := d.due(); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// A replica that remembers a run as it was before it ended finds its final fact due: it reads the run again, and says how it has ended. To let the entry go would lose the
// fact for ever.
func TestAFinalFactIsSaidByAReplicaThatRemembersTheRunGoingOn(t *testing.T) {
	t.Parallel()
	before := &Run{Version: 3, ID: runID, Workflow: "w", State: event.RunRunning, Created: noon}
	after := &Run{Version: 4, ID: runID, Workflow: "w", State: event.RunCompleted, Created: noon, Ended: noon.Add(time.Second)}
	op := storage.IndexOp{Index: dueIndex, Member: factTimer(after), Score: storage.Score(after.Ended.Add(AskAgain).UnixMicro())}
	d := onDuty(t, map[storage.Key]any{runKey(runID): after}, op)
	d.runs.Store(runKey(runID), "old", before)
	d.look(op)
	stream, err := d.cfg.Bus.JS().Stream(t.Context(), event.StreamFact)
	if err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, "the fact is said", func() bool {
		m, err := stream.GetLastMsgForSubject(t.Context(), event.FactSubject("run", runID))
		if err != nil {
			return false
		}
		var fact event.Fact
		return event.Unmarshal(m.Data, &fact) == nil && fact.Version == 4 && fact.Run.State == event.RunCompleted
	})
}

// So does one that remembers a task as it was before its retries were spent, whose dead letter is due.
func TestADeadLetterIsStoredByAReplicaThatRemembersTheTaskGoingOn(t *testing.T) {
	t.Parallel()
	task := RunTask{
		ID: "a", State: event.TaskFailed, Attempt: 2, Tries: 1, Agent: "ann", Error: &event.TaskError{Code: "broke", Message: "no"}, Ended: noon,
	}
	after := &Run{Version: 4, ID: runID, Workflow: "w", State: event.RunFailed, Created: noon, Ended: noon, Error: task.Error, Tasks: []RunTask{task}}
	before := *after
	before.Version, before.State, before.Tasks = 3, event.RunRunning, []RunTask{{ID: "a", State: event.TaskRunning, Attempt: 2, Agent: "ann"}}
	if !task.spent() {
		t.Fatal("its retries are not spent")
	}
	op := spentTimer(runID, &task)
	d := onDuty(t, map[storage.Key]any{runKey(runID): after}, op)
	d.runs.Store(runKey(runID), "old", &before)
	d.look(op)
	bustest.Eventually(t, "the letter is stored", func() bool {
		state, err := d.cfg.Bus.StreamState(t.Context(), event.StreamDead)
		return err == nil && state.LastSeq == 1
	})
}

// The entry of a loop's child that has completed although its task was cancelled before goes, as nobody waits for it.
func TestTheEntryOfALoopsChildGoesWithoutAParentThatWaits(t *testing.T) {
	t.Parallel()
	def, err := Parse(event.Raw(`{"id":"w","tasks":[{"taskId":"l","agentCapability":"c","loop":{"while":"true","max":3}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	kids := &Children{Round: 1, Opened: true, Next: 1, Active: []int{0}}
	parent := &Run{
		Version: 9, ID: runID, Workflow: "w", DefVersion: "v", State: event.RunCancelled, Created: noon, Ended: noon, Total: 1,
		Tasks: []RunTask{{ID: "l", State: event.TaskCancelled, Attempt: 1, Ended: noon, Kids: kids}},
	}
	ref := &ParentRef{Run: runID, Task: "l", Round: 1, Items: true, Only: "l", Depth: 1, Born: noon}
	child := &Run{
		Version: 4, ID: ref.ID(), Workflow: "w", DefVersion: "v", State: event.RunCompleted, Created: noon, Ended: noon, Total: 1, Parent: ref, LastDone: "l",
		Tasks: []RunTask{{ID: "l", State: event.TaskCompleted, Attempt: 1, Agent: "ann", Output: event.Raw(`1`), Ended: noon}},
	}
	op := storage.IndexOp{Index: dueIndex, Member: endDue(child).Member, Score: 7} // as versions before the index of its own had it
	docs := map[storage.Key]any{runKey(runID): parent, runKey(child.ID): child, versionKey("w", "v"): def}
	for name, parentThere := range map[string]bool{"its task has ended": true, "it is gone": false} {
		t.Run(name, func(t *testing.T) {
			d := onDuty(t, docs, op)
			d.look(op)
			if !parentThere { // it is removed while the job waits for its turn
				txn := storage.Txn{Rev: "r"}
				found, err := d.store.Get(t.Context(), runKey(runID))
				if err != nil {
					t.Fatal(err)
				}
				txn.If = []storage.Cond{{Key: runKey(runID), Rev: found[0].Rev}, {Key: "k"}}
				txn.Delete, txn.Put = []storage.Key{runKey(runID)}, []storage.Put{{Key: "k"}}
				if err := d.store.Commit(t.Context(), txn)[0]; err != nil {
					t.Fatal(err)
				}
			}
			for j, ok := d.jobs.take(); ok; j, ok = d.jobs.take() {
				if err := d.do(t.Context(), j); err != nil {
					t.Fatal(err)
				}
				d.jobs.done(j)
			}
			d.heed()
			if left := d.due(); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}

// A replica that remembers of a run only the commands which came before its start finds a child of it ended: it reads the run again, and tells it what the child
// has brought.
func TestAChildIsToldOfByAReplicaThatRemembersItsParentNotStarted(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`"workflow":{"id":"in"}`, `"agentCapability":"c","loop":{"while":"output.n < 0","max":3}`} {
		def, err := Parse(event.Raw(`{"id":"w","tasks":[{"taskId":"a",` + body + `}]}`))
		if err != nil {
			t.Fatal(err)
		}
		stub := &Run{Version: 1, ID: runID, Control: &Control{Own: true}}
		parent := &Run{Version: 2, ID: runID, Workflow: "w", DefVersion: "v", State: event.RunRunning, Created: noon, Total: 1, Tasks: []RunTask{{
			ID: "a", State: event.TaskWaiting, Attempt: 1, Kids: &Children{Round: 1, Opened: true, Next: 1, Active: []int{0}}, Look: noon.Add(time.Hour),
		}}}
		child := &Run{
			Version: 2, ID: childID(runID, "a", 1, 0), Workflow: "in", State: event.RunCompleted, Created: noon, Ended: noon, Output: event.Raw(`{"n":7}`),
			Parent: &ParentRef{Run: runID, Task: "a", Round: 1, Born: noon, Depth: 1},
		}
		op := storage.IndexOp{Index: dueIndex, Member: endDue(child).Member, Score: storage.Score(noon.UnixMicro())}
		d := onDuty(t, map[storage.Key]any{runKey(runID): parent, runKey(child.ID): child, versionKey("w", "v"): def}, op)
		d.runs.Store(runKey(runID), "old", stub)
		d.look(op)
		if j, ok := d.jobs.take(); ok {
			if err := d.do(t.Context(), j); err != nil {
				t.Fatal(err)
			}
			d.heed()
		}
		r, err := NewQueries(d.store).readRun(t.Context(), runID)
		if err != nil {
			t.Fatal(err)
		}
		if r.State != event.RunCompleted || string(r.Find("a").Output) != `{"n":7}` || len(d.due()) > 1 {
			t.Errorf("%s: due %v, the run is %s", body, d.due(), event.MustMarshal(r))
		}
	}
}

// The children of a task that is for the agent of another go to that agent, also when the other has left the document of the run.
func TestChildrenAreForTheAgentOfATaskThatIsKeptApart(t *testing.T) {
	t.Parallel()
	tasks := []Task{{TaskID: "a", AgentCapability: "c"}, {TaskID: "each", Node: Node{
		Select: &Select{SameAs: "a"}, DependsOn: []string{"a"}, ForEach: &ForEach{Items: "[1, 2]"},
	}}}
	for i := range inlineTasks {
		tasks = append(tasks, Task{TaskID: fmt.Sprint("f", i)})
	}
	def, err := Parse(event.MustMarshal(&Definition{ID: "w", Tasks: tasks}))
	if err != nil {
		t.Fatal(err)
	}
	run := &Run{
		Version: 3, ID: runID, Workflow: "w", DefVersion: "v", State: event.RunRunning, Created: noon, Total: len(tasks), Marks: make([]byte, len(tasks)/2),
		Tasks: []RunTask{{
			ID: "each", State: event.TaskWaiting, Attempt: 1, Kids: &Children{Round: 1, Opened: true, Total: 2}, Look: noon,
		}},
	}
	run.setMark(0, markCompleted)
	op := storage.IndexOp{Index: dueIndex, Member: timer(timerTask, runID, "each"), Score: storage.Score(noon.UnixMicro())}
	d := onDuty(t, map[storage.Key]any{
		runKey(runID): run, versionKey("w", "v"): def, itemsKey(runID, "each", 1, 0): []int{1, 2},
		runTaskKey(runID, "a"): &RunTask{ID: "a", State: event.TaskCompleted, Attempt: 1, Agent: "ann"},
	}, op)
	d.look(op)
	for i := range 2 {
		child, err := NewQueries(d.store).readRun(t.Context(), childID(runID, "each", 1, i))
		if err != nil || child == nil || len(child.Tasks) != 1 || child.Tasks[0].Class != "a:ann" {
			t.Errorf("child %d: %v, %s", i, err, event.MustMarshal(child))
		}
	}
}

// What is due between parents and children, however much it is, makes no other timer late, and none of it waits for ever behind what stays.
func TestATreeOfRunsMakesNoOtherTimerLate(t *testing.T) {
	t.Parallel()
	wait := &Run{
		Version: 2, ID: runID, Workflow: "w", DefVersion: "v", State: event.RunRunning, Created: noon, Total: 1,
		Tasks: []RunTask{{ID: "a", State: event.TaskWaiting, Waits: waitsTime, Until: noon, Look: noon}},
	}
	def, err := Parse(event.Raw(`{"id":"w","tasks":[{"taskId":"a","wait":{"seconds":1}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	own := storage.IndexOp{Index: dueIndex, Member: timer(timerTask, runID, "a"), Score: micros(noon)}
	d := onDuty(t, map[storage.Key]any{runKey(runID): wait, versionKey("w", "v"): def}, own)
	const crowd = 2*batchSize + 10
	txn := storage.Txn{Rev: "r", If: []storage.Cond{{Key: "k"}}, Put: []storage.Put{{Key: "k"}}}
	for i := range crowd {
		txn.IndexAdd = append(txn.IndexAdd, storage.IndexOp{Index: kinIndex, Member: timer(timerChild, fmt.Sprintf("%05d", i)), Score: 1})
	}
	if err := d.store.Commit(t.Context(), txn)[0]; err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for pass := range 4 {
		for range 2 { // the second finds that enough waits
			if err := d.fireDue(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := d.remembered(t.Context(), runID); err != nil || r.State != event.RunCompleted {
			t.Fatalf("in pass %d the wait is not over, %v", pass, err)
		}
		if n := len(d.inbox.inputs); n >= 2*batchSize {
			t.Fatalf("%d inputs wait", n)
		}
		for len(d.inbox.inputs) > 0 {
			inputs, _, _ := d.inbox.take()
			for _, in := range inputs {
				seen[in.timer.Member] = true
			}
		}
	}
	if len(seen) != crowd {
		t.Errorf("%d of %d were looked at", len(seen), crowd)
	}
}

// The timer of a task stands with those of parents and children only while it waits for its children.
func TestATaskWithChildrenHasOneTimer(t *testing.T) {
	t.Parallel()
	kids := &Children{Round: 1, Opened: true, Total: 1, Next: 1, Active: []int{0}}
	states := []RunTask{
		{ID: "a", State: event.TaskPending},
		{ID: "a", State: event.TaskWaiting, Kids: kids, Look: noon},
		{ID: "a", State: event.TaskWaiting, Kids: kids, Look: noon.Add(time.Minute)},
		{ID: "a", State: event.TaskRetrying, Kids: kids, Look: noon.Add(time.Second)},
		{ID: "a", State: event.TaskFailed, Kids: kids},
	}
	for _, before := range states {
		for _, after := range states {
			txn := new(storage.Txn)
			was, is := &Run{ID: runID, Tasks: []RunTask{before}}, &Run{ID: runID, Tasks: []RunTask{after}}
			ops := &indexOps{txn: txn}
			ops.moveTimer(was, is, &was.Tasks[0], &is.Tasks[0])
			armed := make(map[storage.Index]storage.Score)
			if !before.Look.IsZero() {
				armed[before.timers()] = micros(before.Look)
			}
			for _, op := range txn.IndexAdd {
				armed[op.Index] = op.Score
			}
			for _, op := range txn.IndexRemove {
				delete(armed, op.Index)
			}
			want := make(map[storage.Index]storage.Score)
			if !after.Look.IsZero() {
				want[after.timers()] = micros(after.Look)
			}
			if diff := cmp.Diff(want, armed); diff != "" {
				t.Errorf("from %s to %s: %s", before.State, after.State, diff)
			}
		}
	}
}

// What jobs find waits for a turn, and may be large: jobs wait while there is much of it.
func TestJobsWaitForWhatTheyHaveFound(t *testing.T) {
	t.Parallel()
	const jobs = 20 * maxFound
	d := onDuty(t, map[storage.Key]any{"k": 1})
	var most atomic.Int64
	d.cfg.Crash = func(string) {
		d.inbox.mu.Lock()
		defer d.inbox.mu.Unlock()
		most.Store(max(most.Load(), int64(d.inbox.found)))
	}
	for i := range jobs {
		d.jobs.add(job{run: "gone", task: "a", child: fmt.Sprint(i)})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	for range jobWorkers {
		work.Go(func() { _ = d.work(ctx) })
	}
	found := 0
	bustest.Eventually(t, "all jobs are done", func() bool {
		d.jobs.mu.Lock()
		left := len(d.jobs.queue)
		d.jobs.mu.Unlock()
		if left > 0 && !d.inbox.full() {
			return false
		}
		inputs, _, _ := d.inbox.take()
		found += len(inputs)
		return found == jobs
	})
	cancel()
	work.Wait()
	if n := most.Load(); n >= maxFound+jobWorkers || d.inbox.found != 0 {
		t.Errorf("up to %d have waited, %d are left", n, d.inbox.found)
	}
}
