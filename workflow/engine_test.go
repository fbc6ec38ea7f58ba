package workflow_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

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
}

func setup(t *testing.T) *bundle {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	conn := bustest.Conn(t)
	u := &url.URL{Scheme: "file", Opaque: filepath.Join(t.TempDir(), "opscore.db")}
	store, err := boltstore.Driver.Open(ctx, u)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	keeper := lifecycle.NewKeeper(store, conn, log, func() {})
	if err := keeper.Check(ctx); err != nil {
		t.Fatal(err)
	}
	engine := workflow.NewEngine(workflow.Config{Store: store, Bus: conn, Keeper: keeper, Log: log})
	life := lifecycle.New(lifecycle.Config{Store: store, Bus: conn, Log: log, Wake: engine.Wake})
	done := make(chan error, 3)
	for _, run := range []func(context.Context) error{keeper.Run, engine.Run, life.Run} {
		go func() { done <- run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bundle{conn: conn, store: store, agents: lifecycle.NewQueries(store), runs: workflow.NewQueries(store)}
}

// call sends a command and fails the test unless it is accepted.
func (b *bundle) call(t *testing.T, kind event.CommandKind, key string, body any) event.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	m := nats.NewMsg(event.CommandSubject(kind, event.MustToken(key)))
	m.Data = event.MustMarshal(body)
	o, _, err := b.conn.Call(ctx, m)
	if err != nil || !o.OK {
		t.Fatalf("%s %s: %v %v", kind, key, err, o.Error)
	}
	return o
}

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
	for deadline := time.Now().Add(20 * time.Second); ; {
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
