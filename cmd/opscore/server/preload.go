package server

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow"
)

// sampleWorkflow is the definition that clients of the old service start by its id without ever having stored it.
//
//go:embed sample_workflow.json
var sampleWorkflow []byte

const sampleWorkflowID = "sample_workflow_id"

// preload applies the sample definition unless there is one of its id, again and again until it is known.
func (s *server) preload(ctx context.Context) error {
	queries := workflow.NewQueries(s.store)
	for {
		_, err := queries.Workflow(ctx, sampleWorkflowID, "")
		if err == nil {
			return nil
		}
		if errors.Is(err, &event.Error{Code: event.CodeUnknownDefinition}) {
			err = s.applySample(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return nil
		}
		s.cfg.Log.Warn("sample workflow not applied yet", "workflow", sampleWorkflowID, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// preloadTimeout is how long a start waits for the sample definition; where no replica runs workflows yet, it comes later.
const preloadTimeout = 5 * time.Second

func awaitPreload(ctx context.Context, preloaded <-chan struct{}) {
	limit := time.NewTimer(preloadTimeout)
	defer limit.Stop()
	select {
	case <-preloaded:
	case <-limit.C:
	case <-ctx.Done():
	}
}

func (s *server) applySample(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	msg := nats.NewMsg(event.CommandSubject(event.KindWorkflowApply, sampleWorkflowID))
	msg.Data = sampleWorkflow
	outcome, _, err := s.conn.Call(ctx, msg)
	if err != nil {
		return fmt.Errorf("apply the sample workflow: %w", err)
	}
	if outcome.Error != nil {
		return outcome.Error
	}
	return nil
}
