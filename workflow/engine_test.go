package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
	"github.com/opspawn/opscore/workflow"
)

// bundle is one replica of Ops-Core over a real bus and a real store.
type bundle struct {
	conn   *bus.Conn
	store  storage.Store
	agents *lifecycle.Queries
	runs   *workflow.Queries
	engine *workflow.Engine
}

func setup(t *testing.T) *bundle {
	t.Helper()
	return joined(t, bustest.Conn(t), boltStore(t))
}

// joined starts a replica that is stopped when the test ends.
func joined(t *testing.T, conn *bus.Conn, store storage.Store) *bundle {
	t.Helper()
	b, stop := replica(t, conn, store, nil)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// boltStore opens an empty store that is closed when the test ends.
func boltStore(t *testing.T) storage.Store {
	t.Helper()
	store, err := boltstore.Driver.Open(t.Context(), &url.URL{Scheme: "file", Opaque: filepath.Join(t.TempDir(), "opscore.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// replica starts a replica, which runs until stop is called; stop returns what its services say.
func replica(t *testing.T, conn *bus.Conn, store storage.Store, crash func(point string)) (b *bundle, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	keeper := lifecycle.NewKeeper(store, conn, log, func() {})
	if err := keeper.Check(ctx); err != nil {
		t.Fatal(err)
	}
	engine := workflow.NewEngine(workflow.Config{Store: store, Bus: conn, Keeper: keeper, Log: log, Crash: crash})
	life := lifecycle.New(lifecycle.Config{Store: store, Bus: conn, Log: log, Wake: engine.Wake})
	var g errgroup.Group
	for _, run := range []func(context.Context) error{keeper.Run, engine.Run, life.Run} {
		g.Go(func() error { return run(ctx) })
	}
	b = &bundle{conn: conn, store: store, agents: lifecycle.NewQueries(store), runs: workflow.NewQueries(store), engine: engine}
	return b, func() error {
		cancel()
		return g.Wait()
	}
}

// call sends a command and fails the test unless it is accepted.
func (b *bundle) call(t *testing.T, kind event.CommandKind, key string, body any) event.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := nats.NewMsg(event.CommandSubject(kind, event.MustToken(key)))
	m.Data = event.MustMarshal(body)
	o, _, err := b.conn.Call(ctx, m)
	if err != nil || !o.OK {
		t.Fatalf("%s %s: %v %v", kind, key, err, o.Error)
	}
	return o
}

// purge empties the stream of commands, as the janitor does with what was said long ago.
func (b *bundle) purge(t *testing.T) {
	t.Helper()
	state, err := b.conn.StreamState(t.Context(), event.StreamWork)
	if err == nil {
		err = b.conn.Purge(t.Context(), event.StreamWork, state.LastSeq+1)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// say publishes what an agent says and fails the test unless it is accepted.
func (b *bundle) say(t *testing.T, verb event.Verb, id string, body any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := nats.NewMsg(event.AgentSubject(verb, event.MustToken(id)))
	m.Data = event.MustMarshal(body)
	if o, _, err := b.conn.Call(ctx, m); err != nil || !o.OK {
		t.Fatalf("%s %s: %v %v", verb, id, err, o.Error)
	}
}

// serve runs an agent of the SDK until the test ends.
func (b *bundle) serve(t *testing.T, id string, caps []string, h agent.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a, err := agent.New(agent.Config{Conn: b.conn.NC(), ID: id, Name: id, Version: "1", Capabilities: caps}, h)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-a.Ready()
}

// ended waits until a run has ended.
func (b *bundle) ended(t *testing.T, run string) *event.Run {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		r, err := b.runs.Run(t.Context(), run)
		if err == nil && r.State.Final() {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("run %s has not ended: %v %s", run, err, event.MustMarshal(r))
		}
		<-time.After(5 * time.Millisecond)
	}
}

func sequence(id string, caps ...string) *workflow.Definition {
	d := &workflow.Definition{ID: id, Name: id}
	for i, c := range caps {
		task := workflow.Task{TaskID: fmt.Sprintf("t%d", i+1), AgentCapability: c, Parameters: event.Raw(fmt.Sprintf(`{"n":%d}`, i+1))}
		if i+1 < len(caps) {
			next := fmt.Sprintf("t%d", i+2)
			task.NextTaskID = &next
		}
		d.Tasks = append(d.Tasks, task)
	}
	return d
}

func TestSequence(t *testing.T) {
	b := setup(t)
	for i, c := range []string{"fetch", "think", "write"} {
		b.serve(t, fmt.Sprintf("agent-%d", i), []string{c}, func(_ context.Context, task *agent.Task) (any, error) {
			return map[string]string{"by": c, "task": task.TaskID}, nil
		})
	}
	b.call(t, event.KindWorkflowApply, "seq", sequence("seq", "fetch", "think", "write"))
	var runs []string
	for range 100 {
		id := uuid.NewString()
		b.call(t, event.KindRunStart, id, &event.RunStart{WorkflowID: "seq", Input: event.Raw(`{"hello":1}`)})
		runs = append(runs, id)
	}
	for _, id := range runs {
		r := b.ended(t, id)
		if r.State != event.RunCompleted || string(r.Output) != `{"by":"write","task":"t3"}` {
			t.Fatalf("run ended as %s", event.MustMarshal(r))
		}
	}
}

// Inputs and outputs that are too large for the run's document are kept beside it, shown with it, and removed with it.
func TestLargeValuesAndRetirement(t *testing.T) {
	b := setup(t)
	large := strings.Repeat("x", 5000)
	b.serve(t, "echo", []string{"echo"}, func(_ context.Context, task *agent.Task) (any, error) {
		return task.Input, nil
	})
	b.call(t, event.KindWorkflowApply, "echo", sequence("echo", "echo"))
	run := uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "echo", Input: event.MustMarshal(map[string]string{"text": large})})
	r := b.ended(t, run)
	if want := fmt.Sprintf(`{"text":%q}`, large); string(r.Output) != want || string(r.Input) != want || string(r.Tasks[0].Output) != want {
		t.Fatalf("the run shows %d, %d and %d bytes of %d", len(r.Output), len(r.Input), len(r.Tasks[0].Output), len(want))
	}
	if n, err := b.engine.Retire(t.Context(), time.Now().Add(6*24*time.Hour)); n != 0 || err != nil {
		t.Fatalf("%d runs were removed before their time, %v", n, err)
	}
	if n, err := b.engine.Retire(t.Context(), time.Now().Add(8*24*time.Hour)); n != 0 || err != nil {
		t.Fatalf("%d runs were removed while their start can be replayed, %v", n, err)
	}
	b.purge(t)
	if n, err := b.engine.Retire(t.Context(), time.Now().Add(8*24*time.Hour)); n != 1 || err != nil {
		t.Fatalf("%d runs were removed, %v", n, err)
	}
	if _, err := b.runs.Run(t.Context(), run); !errors.Is(err, &event.Error{Code: event.CodeUnknownRun}) {
		t.Errorf("the run is still there: %v", err)
	}
	if page, err := b.runs.Runs(t.Context(), "", 10); err != nil || len(page.Items) != 0 {
		t.Errorf("the run is still listed: %+v %v", page, err)
	}
}

// A sequence that is too long for one document advances all the same, and shows all its tasks.
func TestLongSequence(t *testing.T) {
	b := setup(t)
	caps := make([]string, 150)
	for i := range caps {
		caps[i] = "step"
	}
	b.serve(t, "stepper", []string{"step"}, func(_ context.Context, task *agent.Task) (any, error) {
		return map[string]string{"did": task.TaskID}, nil
	})
	b.call(t, event.KindWorkflowApply, "long", sequence("long", caps...))
	run := uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "long"})
	r := b.ended(t, run)
	if r.State != event.RunCompleted || string(r.Output) != `{"did":"t150"}` || len(r.Tasks) != 150 {
		t.Fatalf("run ended as %s with %d tasks and output %s", r.State, len(r.Tasks), r.Output)
	}
	for i, task := range r.Tasks {
		if task.State != event.TaskCompleted || task.Attempt != 1 {
			t.Errorf("task %d is %s in attempt %d", i+1, task.State, task.Attempt)
		}
	}
}

// A task whose agent fails is tried again by its retry policy, is handed the last error, and fails the run when the retries are spent.
func TestRetriesAndFailure(t *testing.T) {
	b := setup(t)
	b.serve(t, "flaky", []string{"flaky"}, func(_ context.Context, task *agent.Task) (any, error) {
		if task.PreviousError == nil {
			return nil, agent.Fail("first", "not the first time")
		}
		return map[string]string{"after": task.PreviousError.Code}, nil
	})
	b.serve(t, "broken", []string{"broken"}, func(context.Context, *agent.Task) (any, error) {
		return nil, agent.Permanent(agent.Fail("broken", "never"))
	})
	for _, c := range []string{"flaky", "broken"} {
		d := sequence(c, c)
		d.Tasks[0].Retry = &workflow.Retry{InitialSeconds: 0.01}
		b.call(t, event.KindWorkflowApply, c, d)
	}
	flaky, broken := uuid.NewString(), uuid.NewString()
	b.call(t, event.KindRunStart, flaky, &event.RunStart{WorkflowID: "flaky"})
	b.call(t, event.KindRunStart, broken, &event.RunStart{WorkflowID: "broken"})
	if r := b.ended(t, flaky); r.State != event.RunCompleted || string(r.Output) != `{"after":"first"}` || r.Tasks[0].Attempt != 2 {
		t.Errorf("flaky ended as %s", event.MustMarshal(r))
	}
	if r := b.ended(t, broken); r.State != event.RunFailed || r.Error == nil || r.Error.Code != "broken" || r.Tasks[0].Attempt != 1 {
		t.Errorf("broken ended as %s", event.MustMarshal(r))
	}
}

// Cancelling a run reaches the agent, and its slot is free again when it has stopped.
func TestCancelReachesTheAgent(t *testing.T) {
	b := setup(t)
	began, stopped := make(chan struct{}, 1), make(chan struct{}, 1)
	b.serve(t, "slow", []string{"slow"}, func(ctx context.Context, _ *agent.Task) (any, error) {
		began <- struct{}{}
		<-ctx.Done()
		stopped <- struct{}{}
		return nil, context.Cause(ctx)
	})
	b.call(t, event.KindWorkflowApply, "slow", sequence("slow", "slow"))
	run := uuid.NewString()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "slow"})
	<-began
	b.call(t, event.KindRunCancel, run, map[string]string{"reason": "enough"})
	<-stopped
	if r := b.ended(t, run); r.State != event.RunCancelled || r.Error.Message != "enough" {
		t.Errorf("run ended as %s", event.MustMarshal(r))
	}
	again := uuid.NewString()
	b.call(t, event.KindRunStart, again, &event.RunStart{WorkflowID: "slow"})
	<-began // so the slot was given back
}

// An agent that registers with one more capability is found by the tasks that wait for it.
func TestCapabilityAddedToAFreeAgent(t *testing.T) {
	b := setup(t)
	work := func(context.Context, *agent.Task) (any, error) { return nil, nil }
	b.serve(t, "grows", []string{"a"}, work)
	b.call(t, event.KindWorkflowApply, "wa", sequence("wa", "a"))
	b.call(t, event.KindWorkflowApply, "wb", sequence("wb", "b"))
	first, second := uuid.NewString(), uuid.NewString()
	b.call(t, event.KindRunStart, first, &event.RunStart{WorkflowID: "wa"})
	b.ended(t, first)
	b.call(t, event.KindRunStart, second, &event.RunStart{WorkflowID: "wb"})
	b.say(t, event.VerbRegister, "grows", &event.Register{AgentName: "grows", Version: "2", Capabilities: []string{"a", "b"}})
	if r := b.ended(t, second); r.State != event.RunCompleted {
		t.Errorf("run ended as %s", event.MustMarshal(r))
	}
}

// A definition applied after the stream of commands was made anew, with sequences that were used before, becomes the latest.
func TestApplyAfterTheStreamWasMadeAnew(t *testing.T) {
	b := setup(t)
	for i := range 5 {
		b.call(t, event.KindWorkflowApply, "w", sequence("w", fmt.Sprintf("old%d", i)))
	}
	if err := b.conn.JS().DeleteStream(t.Context(), event.StreamWork); err != nil {
		t.Fatal(err)
	}
	if err := b.conn.EnsureStreams(t.Context(), bus.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	o := b.call(t, event.KindWorkflowApply, "w", sequence("w", "new"))
	if d, err := b.runs.Workflow(t.Context(), "w", ""); err != nil || d.WorkflowVersion != o.WorkflowVersion {
		t.Errorf("the latest is %+v, %v; version %s was applied", d, err, o.WorkflowVersion)
	}
}

// A run that is started right behind the definition it needs finds it, whichever worker takes which message.
func TestStartRightBehindApply(t *testing.T) {
	b := setup(t)
	b.serve(t, "any", []string{"c"}, func(context.Context, *agent.Task) (any, error) { return nil, nil })
	var runs []string
	for i := range 20 {
		id, run := fmt.Sprintf("w%d", i), uuid.NewString()
		publish(t, b, event.CommandSubject(event.KindWorkflowApply, id), sequence(id, "c"))
		publish(t, b, event.CommandSubject(event.KindRunStart, run), &event.RunStart{WorkflowID: id})
		runs = append(runs, run)
	}
	for _, run := range runs {
		if r := b.ended(t, run); r.State != event.RunCompleted {
			t.Errorf("run ended as %s", event.MustMarshal(r))
		}
	}
}

// publish sends a command without waiting for what becomes of it.
func publish(t *testing.T, b *bundle, subject string, body any) {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Data = event.MustMarshal(body)
	if _, err := b.conn.Publish(context.WithoutCancel(t.Context()), m); err != nil { // a double may speak as the test ends
		t.Fatal(err)
	}
}

// The timeline of a run names every transition with its cause, and goes when the run goes.
func TestTimeline(t *testing.T) {
	b := setup(t)
	b.serve(t, "flaky", []string{"flaky"}, func(_ context.Context, task *agent.Task) (any, error) {
		if task.PreviousError == nil {
			return nil, agent.Fail("first", "not the first time")
		}
		return nil, nil
	})
	d := sequence("flaky", "flaky")
	d.Tasks[0].Retry = &workflow.Retry{InitialSeconds: 0.01}
	b.call(t, event.KindWorkflowApply, "flaky", d)
	run := uuid.NewString()
	began := time.Now()
	b.call(t, event.KindRunStart, run, &event.RunStart{WorkflowID: "flaky"})
	b.ended(t, run)
	h, err := b.runs.History(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"start:  → running", "start: t1  → ready 0", "dispatch: t1 ready → assigned 1", "result: t1 assigned → retrying 1 first",
		"timer: t1 retrying → ready 1", "dispatch: t1 ready → assigned 2", "result: t1 assigned → completed 2", "result: running → completed",
	}
	var got []string
	for _, s := range h.Items {
		line := fmt.Sprintf("%s: %s → %s", s.Cause, s.From, s.To)
		if s.TaskID != "" {
			line = strings.TrimRight(fmt.Sprintf("%s: %s %s → %s %d %s", s.Cause, s.TaskID, s.From, s.To, s.Attempt, s.Code), " ")
		}
		got = append(got, line)
		if s.At.Before(began) || s.At.After(time.Now()) {
			t.Errorf("%s happened at %v", line, s.At)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	b.purge(t)
	if n, err := b.engine.Retire(t.Context(), time.Now().Add(8*24*time.Hour)); n != 1 || err != nil {
		t.Fatalf("%d runs were removed, %v", n, err)
	}
	if _, err := b.runs.History(t.Context(), run); !errors.Is(err, &event.Error{Code: event.CodeUnknownRun}) {
		t.Errorf("the timeline is still there: %v", err)
	}
}

// What has ended is in the store: kept in memory too, runs of a few seconds were most of what the garbage collector had to look at.
func TestRunsThatHaveEndedAreNotRemembered(t *testing.T) {
	b := setup(t)
	def := sequence("forgotten", "work", "")
	b.call(t, event.KindWorkflowApply, def.ID, def)
	w := b.serveGated(t, "w", "work")
	run := b.begin(t, def.ID)
	<-w.begun
	if !b.engine.Remembers(run) {
		t.Error("a run that goes on is not remembered")
	}
	w.end <- "t1"
	w.end <- <-w.begun
	b.ended(t, run)
	bustest.Eventually(t, "it is forgotten", func() bool { return !b.engine.Remembers(run) })
}
