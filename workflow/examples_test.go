package workflow_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/storage/storagetest"
	"github.com/opspawn/opscore/workflow"
)

const exampleFolder = "../examples/workflows"

// example is the file beside a workflow: runs of it, and what each comes to.
type example struct {
	Apply []string     `json:"apply,omitzero"` // other workflows of the folder that it needs
	Runs  []exampleRun `json:"runs"`
}

type exampleRun struct {
	Name    string          `json:"name"`
	Input   event.Raw       `json:"input"`
	Signals []exampleSignal `json:"signals,omitzero"` // sent as soon as the run has begun
	Approve *exampleWord    `json:"approve,omitzero"`
	Result  exampleResult   `json:"result"`
}

type exampleSignal struct {
	Name    string    `json:"name"`
	Payload event.Raw `json:"payload"`
	Refused string    `json:"refused,omitzero"` // code
}

type exampleWord struct {
	Task     string `json:"task"`
	By       string `json:"by"`
	Approved bool   `json:"approved"`
}

// exampleResult is how a run ends. Of a run that fails, tasks that were beside it may have come to anything, and are left out.
type exampleResult struct {
	State  event.RunState             `json:"state"`
	Output event.Raw                  `json:"output,omitzero"`
	Error  string                     `json:"error,omitzero"` // code
	Tasks  map[string]event.TaskState `json:"tasks"`
}

// TestExamples runs every example on real NATS and Redis, with stand-ins for agents, and compares how each run ends with the file beside it.
// With -update it writes that file.
func TestExamples(t *testing.T) {
	b := exampleBundle(t)
	files, err := filepath.Glob(filepath.Join(exampleFolder, "*.yaml"))
	if err != nil || len(files) < 15 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			beside := strings.TrimSuffix(file, ".yaml") + ".json"
			var ex example
			if raw, err := os.ReadFile(beside); err != nil || event.Unmarshal(raw, &ex) != nil || len(ex.Runs) < 2 {
				t.Fatalf("%s: %v; an example has a file with its runs, at least one of which fails or goes another way", beside, err)
			}
			for _, other := range ex.Apply {
				b.applyExample(t, other)
			}
			id := b.applyExample(t, name)
			for i := range ex.Runs {
				b.runExample(t, id, &ex.Runs[i])
			}
			if flag.Lookup("update").Value.String() == "true" && !t.Failed() {
				raw := append(mustIndent(t, &ex), '\n')
				if err := os.WriteFile(beside, raw, 0o644); err != nil {
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
func (b *bundle) applyExample(t *testing.T, name string) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(exampleFolder, name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := workflow.ParseFile(source)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := workflow.ToJSON(source)
	if err != nil {
		t.Fatal(err)
	}
	if w := workflow.Warnings(raw); len(w) > 0 {
		t.Errorf("%s: %v", name, w)
	}
	b.call(t, event.KindWorkflowApply, d.ID, raw)
	return d.ID
}

func (b *bundle) runExample(t *testing.T, id string, ex *exampleRun) {
	t.Helper()
	run := uuid.NewString()
	o := b.ask(t, event.KindRunStart, run, &event.RunStart{WorkflowID: id, Input: ex.Input})
	var got exampleResult
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
		got = resultOf(b.ended(t, run))
	} else {
		got.State, got.Error = "refused", string(o.Error.Code)
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
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	m := nats.NewMsg(event.CommandSubject(kind, event.MustToken(key)))
	m.Data = event.MustMarshal(body)
	o, _, err := b.conn.Call(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// decide says a person's word as soon as the run waits for it.
func (b *bundle) decide(t *testing.T, run string, w *exampleWord) {
	t.Helper()
	kind := event.KindRunReject
	if w.Approved {
		kind = event.KindRunApprove
	}
	bustest.Eventually(t, "the run waits for a word", func() bool {
		r, err := b.runs.Run(t.Context(), run)
		return err == nil && slices.ContainsFunc(r.Tasks, func(rt event.RunTask) bool { return rt.TaskID == w.Task && rt.State == event.TaskWaiting })
	})
	b.call(t, kind, run, &event.RunCommand{TaskID: w.Task, By: w.By})
}

func resultOf(r *event.Run) exampleResult {
	got := exampleResult{State: r.State, Output: r.Output, Tasks: make(map[string]event.TaskState)}
	if r.Error != nil {
		got.Error = r.Error.Code
	}
	for _, task := range r.Tasks {
		if r.State == event.RunCompleted || task.State == event.TaskFailed || strings.HasSuffix(task.TaskID, "~undo") {
			got.Tasks[task.TaskID] = task.State
		}
	}
	return got
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
	for _, name := range slices.Sorted(maps.Keys(standIns)) {
		b.employ(t, agent.Config{ID: name, Version: "1.0.0", Capabilities: []string{name}}, standIns[name])
	}
	b.employ(t, agent.Config{ID: "builder-eu", Version: "2.1.0", Capabilities: []string{"build"}, Labels: map[string]string{"zone": "eu"}}, build)
	b.employ(t, agent.Config{ID: "builder-us", Version: "2.1.0", Capabilities: []string{"build"}, Labels: map[string]string{"zone": "us"}}, build)
	b.employ(t, agent.Config{ID: "builder-old", Version: "1.9.0", Capabilities: []string{"build"}, Labels: map[string]string{"zone": "eu"}}, build)
	b.employTyped(t)
	return b
}

// employTyped runs the agents that have registered what they take and give.
func (b *bundle) employTyped(t *testing.T) {
	t.Helper()
	const cents = `{"type":"object","required":["cents"],"properties":{"cents":{"type":"integer"}}}`
	amount := func(kind string) string {
		return `{"type":"object","required":["amount"],"properties":{"amount":{"type":"` + kind + `"}}}`
	}
	b.employ(t, agent.Config{ID: "convert-numbers", Capabilities: []string{"convert"}, CapabilitySchemas: schemas("convert", amount("number"), cents)},
		func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
			return fields{"cents": int(100 * in["amount"].(float64))}, nil
		})
	b.employ(t, agent.Config{ID: "convert-texts", Capabilities: []string{"convert"}, CapabilitySchemas: schemas("convert", amount("string"), cents)},
		func(_ context.Context, in map[string]any, task *agent.Task) (any, error) {
			digits := strings.ReplaceAll(in["amount"].(string), ",", "")
			if n, err := strconv.Atoi(digits); err == nil && task.PreviousError != nil {
				return fields{"cents": n}, nil
			}
			return fields{"cents": digits}, nil
		})
	b.employ(t, agent.Config{
		ID: "bookkeeper", Capabilities: []string{"book"}, CapabilitySchemas: schemas("book", `{"properties":{"cents":{"minimum":1}}}`, ""),
	}, func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"booked": in["cents"]}, nil
	})
}

// employ runs an agent until the test ends.
func (b *bundle) employ(t *testing.T, cfg agent.Config, does standIn) {
	t.Helper()
	cfg.Conn, cfg.Name, cfg.Slots = b.conn.NC(), cfg.ID, 4
	a, err := agent.New(cfg, func(ctx context.Context, task *agent.Task) (any, error) {
		var in map[string]any
		if err := task.Bind(&in); err != nil {
			return nil, err
		}
		return does(ctx, in, task)
	})
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

// standIn stands for an agent: what it brings follows from what it is given, and from which attempt it is.
type standIn func(ctx context.Context, in map[string]any, task *agent.Task) (any, error)

type fields = map[string]any

func never(code string) error { return agent.Permanent(agent.Fail(code, "no")) }

func text(v any) string { return fmt.Sprint(v) }

func build(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
	if in["code"] == "broken" {
		return nil, never("does_not_compile")
	}
	return fields{"built": in["code"]}, nil
}

// standIns stand for agents by the capability they offer.
var standIns = map[string]standIn{
	"collect": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		sources, _ := in["sources"].([]any)
		if len(sources) == 0 {
			return nil, never("nothing_to_report")
		}
		return fields{"count": len(sources)}, nil
	},
	"write": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"text": "about " + text(in["about"])}, nil
	},
	"mailer": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"sent": in["text"]}, nil
	},
	"plan": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"query": text(in["question"]) + "?"}, nil
	},
	"search": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["in"] == "ashes" {
			return nil, never("no_such_archive")
		}
		return fields{"hits": len(text(in["in"])) + len(text(in["for"]))}, nil
	},
	"fetch": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["from"] == "down" {
			return nil, never("unreachable")
		}
		return fields{"data": "data from " + text(in["from"])}, nil
	},
	"review": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"approvedBy": in["by"]}, nil
	},
	"merge": func(context.Context, map[string]any, *agent.Task) (any, error) { return fields{"merged": true}, nil },
	"lint": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		files, _ := in["files"].([]any)
		if len(files) == 0 {
			return nil, never("nothing_to_lint")
		}
		return fields{"clean": true}, nil
	},
	"classify": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		kind := "other"
		switch said := text(in["text"]); {
		case said == "":
			return nil, never("unreadable")
		case strings.HasPrefix(said, "bug"):
			kind = "bug"
		case strings.HasSuffix(said, "?"):
			kind = "question"
		}
		return fields{"kind": kind}, nil
	},
	"summarise": func(_ context.Context, in map[string]any, task *agent.Task) (any, error) {
		if in["text"] == "" {
			return nil, never("unreadable")
		}
		return fields{"summary": fmt.Sprintf("%v: %v", in["place"], in["text"])}, nil
	},
	"improve": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		score := 25.0
		if before, ok := in["before"].(map[string]any); ok {
			score += before["score"].(float64)
		}
		return fields{"score": score}, nil
	},
	"flaky": func(_ context.Context, in map[string]any, task *agent.Task) (any, error) {
		if fails, _ := in["fails"].([]any); task.Attempt <= len(fails) {
			return nil, agent.Fail(text(fails[task.Attempt-1]), "not yet")
		}
		return fields{"attempts": task.Attempt}, nil
	},
	"cheap-model": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["question"] != "2 + 2" {
			return nil, agent.Fail("unsure", "I do not know")
		}
		return fields{"answer": "4", "by": "cheap"}, nil
	},
	"strong-model": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["question"] != "hard" {
			return nil, agent.Fail("unsure", "I do not know either")
		}
		return fields{"answer": "42", "by": "strong"}, nil
	},
	"helpdesk": func(context.Context, map[string]any, *agent.Task) (any, error) { return nil, never("nobody_knows") },
	"book": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["undo"] != nil {
			return fields{"undone": in["undo"]}, nil
		}
		return fields{"booking": text(in["what"]) + "-1"}, nil
	},
	"refund": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"undone": in["undo"]}, nil
	},
	"pay": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["amount"].(float64) > 1000 {
			return nil, never("no_money")
		}
		return fields{"paid": in["amount"]}, nil
	},
	"sleepy": func(ctx context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["seconds"].(float64) > 0 {
			<-ctx.Done() // until it is cancelled
			return nil, ctx.Err()
		}
		return fields{"awake": true}, nil
	},
	"extract": func(_ context.Context, in map[string]any, task *agent.Task) (any, error) {
		_, number, found := strings.Cut(text(in["text"]), "total ")
		if !found || task.PreviousError == nil {
			return fields{"total": number}, nil // a string, which the schema does not allow
		}
		var total float64
		_, err := fmt.Sscan(number, &total)
		return fields{"total": total}, err
	},
}
