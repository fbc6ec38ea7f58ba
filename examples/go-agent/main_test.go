package main

import (
	"context"
	"slices"
	"testing"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
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
