package main

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow/contract"
)

// A handler is a function: it is tested by calling it, without a server.
func TestCountWords(t *testing.T) {
	tk := &agent.Task{Task: event.Task{Input: event.Raw(`{"texts": ["to be or", "not to be", ""]}`)}}
	got, err := countWords(t.Context(), tk)
	if err != nil {
		t.Fatal(err)
	}
	if out := got.(output); out.Total != 6 || !slices.Equal(out.Words, []int{3, 3, 0}) {
		t.Errorf("got %+v", out)
	}
}

// What the agent says that it takes and gives is what it does.
func TestSchemas(t *testing.T) {
	takes, err := contract.Compile(event.Raw(inputSchema))
	if err != nil {
		t.Fatal(err)
	}
	gives, err := contract.Compile(event.Raw(outputSchema))
	if err != nil {
		t.Fatal(err)
	}
	in := event.Raw(`{"texts": ["to be or"]}`)
	out, err := countWords(t.Context(), &agent.Task{Task: event.Task{Input: in}})
	if err := errors.Join(err, takes.Check(in), gives.Check(event.MustMarshal(out))); err != nil {
		t.Error(err)
	}
	if err := takes.Check(event.Raw(`{"texts": "to be or"}`)); err == nil {
		t.Error("a text that is no list is taken")
	}
}

func TestCountWords_NothingToCount(t *testing.T) {
	if _, err := countWords(t.Context(), &agent.Task{}); err == nil {
		t.Error("no error")
	}
}

func TestCountWords_StopsWhenTold(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(agent.ErrInterrupted)
	tk := &agent.Task{Task: event.Task{Input: event.Raw(`{"texts": ["to be"]}`)}}
	if _, err := countWords(ctx, tk); err != agent.ErrInterrupted {
		t.Errorf("got %v", err)
	}
}
