package workflow_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/examples/workflows"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
	"github.com/opspawn/opscore/workflow"
)

const exampleFolder = "../examples/workflows"

// TestExamples runs every example on real NATS and Redis, with stand-ins for agents, and compares how each run ends with the file beside it.
// With -update it writes that file.
func TestExamples(t *testing.T) {
	b := exampleBundle(t)
	examples, err := workflows.All()
	if err != nil || len(examples) < 15 {
		t.Fatalf("%d examples, %v", len(examples), err)
	}
	for _, ex := range examples {
		t.Run(ex.Name, func(t *testing.T) {
			if len(ex.Runs) < 2 {
				t.Fatal("at least one run of an example fails or goes another way")
			}
			for _, other := range ex.Apply {
				i := slices.IndexFunc(examples, func(o workflows.Example) bool { return o.Name == other })
				b.applyExample(t, &examples[i])
			}
			id := b.applyExample(t, &ex)
			for i := range ex.Runs {
				b.runExample(t, id, &ex.Runs[i])
			}
			if flag.Lookup("update").Value.String() == "true" && !t.Failed() {
				raw := append(mustIndent(t, &ex), '\n')
				if err := os.WriteFile(filepath.Join(exampleFolder, ex.Name+".json"), raw, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func mustIndent(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// applyExample applies an example, which must have no mistake and give no warning, and returns its id.
func (b *bundle) applyExample(t *testing.T, ex *workflows.Example) string {
	t.Helper()
	d, err := workflow.ParseFile(ex.Source)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := workflow.ToJSON(ex.Source)
	if err != nil {
		t.Fatal(err)
	}
	if w := workflow.Warnings(raw); len(w) > 0 {
		t.Errorf("%s: %v", ex.Name, w)
	}
	b.call(t, event.KindWorkflowApply, d.ID, raw)
	return d.ID
}

func (b *bundle) runExample(t *testing.T, id string, ex *workflows.Run) {
	t.Helper()
	run := uuid.NewString()
	o := b.ask(t, event.KindRunStart, run, &event.RunStart{WorkflowID: id, Input: ex.Input})
	var got workflows.Result
	if o.OK {
		for _, s := range ex.Signals {
			code := ""
			if o := b.ask(t, event.KindRunSignal, run, &event.RunCommand{Name: s.Name, Payload: s.Payload}); !o.OK {
				code = string(o.Error.Code)
			}
			if code != s.Refused {
				t.Errorf("%s: the signal is refused as %q, want %q", ex.Name, code, s.Refused)
			}
		}
		if w := ex.Approve; w != nil {
			b.decide(t, run, w)
		}
		got = workflows.ResultOf(b.ended(t, run))
	} else {
		got.State, got.Error = workflows.Refused, string(o.Error.Code)
	}
	if flag.Lookup("update").Value.String() == "true" {
		ex.Result = got
		return
	}
	for _, r := range []*event.Raw{&ex.Result.Output, &got.Output} {
		if len(*r) > 0 {
			_ = r.Canonicalize()
		}
	}
	if diff := cmp.Diff(ex.Result, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: %s", ex.Name, diff)
	}
}

// ask sends a command and returns what became of it.
func (b *bundle) ask(t *testing.T, kind event.CommandKind, key string, body any) event.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := nats.NewMsg(event.CommandSubject(kind, event.MustToken(key)))
	m.Data = event.MustMarshal(body)
	o, _, err := b.conn.Call(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// decide says a person's word as soon as the run waits for it, or each of the runs that a forEach has started.
func (b *bundle) decide(t *testing.T, run string, w *workflows.Word) {
	t.Helper()
	kind := event.KindRunReject
	if w.Approved {
		kind = event.KindRunApprove
	}
	runs := []string{run}
	bustest.Eventually(t, "the run waits for a word", func() bool {
		r, err := b.runs.Run(t.Context(), run)
		if err != nil {
			return false
		}
		i := slices.IndexFunc(r.Tasks, func(rt event.RunTask) bool { return rt.TaskID == w.Task && rt.State == event.TaskWaiting })
		if i < 0 || r.Tasks[i].Children == nil {
			return i >= 0
		}
		runs = nil
		for _, child := range b.childrenOf(t, run) {
			runs = append(runs, child.RunID)
		}
		return len(runs) > 0 && len(runs) == r.Tasks[i].Children.Total
	})
	for _, run := range runs {
		b.call(t, kind, run, &event.RunCommand{TaskID: w.Task, By: w.By})
	}
}

// exampleBundle is a replica on real NATS and Redis, with one agent for each capability that the examples ask for.
func exampleBundle(t *testing.T) *bundle {
	t.Helper()
	store, err := storage.Open(t.Context(), storagetest.StartRedis(t).URL(), redisstore.Driver)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b, stop := replica(t, bustest.Conn(t), store, nil)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	for _, who := range workflows.Agents() {
		b.employ(t, who.Config, who.Does)
	}
	return b
}

// employ runs an agent until the test ends.
func (b *bundle) employ(t *testing.T, cfg agent.Config, does workflows.StandIn) {
	t.Helper()
	who := workflows.Agent{Config: cfg, Does: does}
	cfg.Conn, cfg.Name, cfg.Slots = b.conn.NC(), cfg.ID, 4
	a, err := agent.New(cfg, who.Handle)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
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
