package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// message is one message that a stream has acknowledged.
type message struct {
	subject string
	seq     uint64
	body    []byte
}

// readStreams reads back everything that the intake streams acknowledged.
func (d *demo) readStreams(ctx context.Context) ([]message, error) {
	var all []message
	for _, name := range []string{event.StreamAgent, event.StreamWork} {
		state, err := d.conn.StreamState(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("read stream %s: %w", name, err)
		}
		stream, err := d.conn.JS().Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("read stream %s: %w", name, err)
		}
		for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
			m, err := stream.GetMsg(ctx, seq)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read stream %s: %w", name, err)
			}
			all = append(all, message{subject: m.Subject, seq: m.Sequence, body: m.Data})
		}
	}
	return all, nil
}

// verify opens the store anew and looks for the effect of each acknowledged message.
func (d *demo) verify(ctx context.Context) error {
	store, err := storage.Open(ctx, d.storeURL, server.Drivers...)
	if err != nil {
		return fmt.Errorf("open the store for reading: %w", err)
	}
	defer func() { _ = store.Close() }()
	r := &reader{agents: lifecycle.NewQueries(store), runs: workflow.NewQueries(store), history: make(map[string]map[uint64]bool)}
	for _, m := range d.messages {
		found, err := r.effect(ctx, m)
		if err != nil {
			return err
		}
		d.report.Events.Acked++
		if found {
			d.report.Events.Persisted++
		} else if len(d.report.Missing) < 20 {
			d.report.Missing = append(d.report.Missing, fmt.Sprintf("%s (sequence %d)", m.subject, m.seq))
		}
	}
	for run := range d.started {
		got, err := r.runs.Run(ctx, run)
		switch {
		case err == nil && got.State == event.RunCompleted:
			d.report.Runs.Completed++
		case err == nil && got.State.Final():
			d.report.Runs.Failed++
		}
	}
	d.report.StartToAgentMs = d.percentiles()
	d.report.Tasks = d.tasks.Load()
	return nil
}

// reader finds the effects of messages in a store.
type reader struct {
	agents  *lifecycle.Queries
	runs    *workflow.Queries
	history map[string]map[uint64]bool // agent: sequences in its history
}

// effect reports whether the effect of a message is in the store.
func (r *reader) effect(ctx context.Context, m message) (bool, error) {
	d, err := event.Decode(m.subject, m.body)
	if err != nil {
		return false, fmt.Errorf("message %s: %w", m.subject, err)
	}
	switch e := d.Event.(type) {
	case *event.Register, *event.Deregister, *event.State:
		return r.inHistory(ctx, d.ID, m.seq)
	case *event.WorkflowApply:
		def, err := r.runs.Workflow(ctx, d.ID, "")
		return def != nil, ignoreUnknown(err)
	case *event.RunStart:
		run, err := r.runs.Run(ctx, d.ID)
		return run != nil, ignoreUnknown(err)
	case *event.Result:
		run, err := r.runs.Run(ctx, e.RunID)
		if err != nil {
			return false, ignoreUnknown(err)
		}
		for _, t := range run.Tasks {
			if t.TaskID == e.TaskID {
				return t.Attempt == e.Attempt && string(t.State) == string(e.Status), nil
			}
		}
		return false, nil
	}
	return true, nil // accepted and progress: shown by what follows them
}

func (r *reader) inHistory(ctx context.Context, agent string, seq uint64) (bool, error) {
	known, ok := r.history[agent]
	if !ok {
		entries, err := r.agents.History(ctx, agent)
		if err != nil {
			return false, err
		}
		known = make(map[uint64]bool, len(entries))
		for _, h := range entries {
			known[h.Seq] = true
		}
		r.history[agent] = known
	}
	return known[seq], nil
}

func ignoreUnknown(err error) error {
	var e *event.Error
	if errors.As(err, &e) {
		return nil
	}
	return err
}

// checkForeign refuses a NATS server on which Ops-Core streams exist: the demo would take the messages of whoever uses them.
func (d *demo) checkForeign(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := bus.Connect(ctx, bus.Config{URL: d.cfg.NATSURL, Name: "opscore demo", Log: d.cfg.Log})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.JS().Stream(ctx, event.StreamAgent)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for streams: %w", err)
	}
	return fmt.Errorf("the NATS server at %s has Ops-Core streams already, and the demo would take their messages: "+
		"use a server without them, or leave --nats-url out", d.cfg.NATSURL)
}

// removeStreams removes the streams that the demo made on a foreign server.
func (d *demo) removeStreams(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, name := range []string{event.StreamAgent, event.StreamWork, event.StreamFact, event.StreamDead} {
		if err := d.conn.JS().DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("remove stream %s: %w", name, err)
		}
	}
	return nil
}
