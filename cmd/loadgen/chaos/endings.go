package chaos

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/examples/workflows"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// endings is how the runs of examples have ended.
type endings struct {
	asWritten int
	otherwise map[string]int // by why, of those that something explains
	wrong     []string
}

// compare compares how each run has ended with the file beside its workflow.
func (x *examples) compare(ctx context.Context, storeURL string) (*endings, error) {
	store, err := storage.Open(ctx, storeURL, server.Drivers...)
	if err != nil {
		return nil, fmt.Errorf("open the store for reading: %w", err)
	}
	defer func() { _ = store.Close() }() // it was only read
	x.mu.Lock()
	defer x.mu.Unlock()
	queries := workflow.NewQueries(store)
	e := &endings{otherwise: make(map[string]int)}
	for _, id := range slices.Sorted(maps.Keys(x.started)) {
		want := x.started[id]
		run, err := queries.Run(ctx, id)
		switch missing := isUnknown(err); {
		case err != nil && !missing:
			return nil, fmt.Errorf("read run %s: %w", id, err)
		case missing && want.Result.State == workflows.Refused:
			e.asWritten++
		case missing:
			e.wrong = append(e.wrong, fmt.Sprintf("run %s (%s) is not there", id, want.Name))
		case want.Result.State == workflows.Refused:
			e.wrong = append(e.wrong, fmt.Sprintf("run %s (%s) is there, and should have been refused", id, want.Name))
		default:
			e.add(run, want)
		}
	}
	return e, nil
}

func isUnknown(err error) bool {
	refusal, ok := err.(*event.Error)
	return ok && refusal.Code == event.CodeUnknownRun
}

// add compares one run.
func (e *endings) add(run *event.Run, want *workflows.Run) {
	got, expected := workflows.ResultOf(run), want.Result
	for _, r := range []*event.Raw{&got.Output, &expected.Output} {
		if *r = r.Clone(); len(*r) > 0 {
			_ = r.Canonicalize()
		}
	}
	why := ""
	switch {
	case got.State == expected.State && got.Error == expected.Error && string(got.Output) == string(expected.Output) && maps.Equal(got.Tasks, expected.Tasks):
		e.asWritten++
		return
	default:
		why = explained(run)
	}
	if why != "" {
		e.otherwise[why]++
		return
	}
	e.wrong = append(e.wrong, fmt.Sprintf("run %s of %s (%s) %s with %q: %s, want %s with %q: %s",
		run.RunID, run.WorkflowID, want.Name, got.State, got.Error, got.Output, expected.State, expected.Error, expected.Output))
}

// healedSkip is by how much attempt numbers skip ahead when the store may have lost writes.
const healedSkip = 1000

// clocks are the codes of failures by time: what is broken on purpose may take longer than a workflow allows.
var clocks = []string{"not_accepted", "timeout", "attempt_timeout", "queue_timeout", "signal_timeout", "run_timeout", "interrupted"}

// explained says why a run may have ended otherwise than its file says, empty if nothing explains it.
func explained(run *event.Run) string {
	codes := make(map[string]bool)
	if run.Error != nil {
		codes[run.Error.Code] = true
	}
	for i := range run.Tasks {
		t := &run.Tasks[i]
		if t.Error != nil {
			codes[t.Error.Code] = true
		}
		switch {
		case strings.Contains(string(t.Output), `"by":""`):
			return "nobody spoke in time"
		case t.Attempt > healedSkip:
			return "tried again after the store was checked"
		}
	}
	for _, code := range clocks {
		if codes[code] {
			return code
		}
	}
	return ""
}

// lines says in words how the runs have ended.
func (e *endings) lines() (lines []string, ok bool) {
	total := 0
	for _, n := range e.otherwise {
		total += n
	}
	line := fmt.Sprintf("of the runs of examples %d ended as is written beside them, %d otherwise for a reason, %d without one", e.asWritten, total, len(e.wrong))
	var reasons []string
	for _, why := range slices.Sorted(maps.Keys(e.otherwise)) {
		reasons = append(reasons, fmt.Sprintf("%s: %d", why, e.otherwise[why]))
	}
	if len(reasons) > 0 {
		line += " (" + strings.Join(reasons, ", ") + ")"
	}
	return append([]string{line}, e.wrong[:min(10, len(e.wrong))]...), len(e.wrong) == 0
}
