package faults_test

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// until waits for a condition.
func (w *world) until(what string, within time.Duration, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(within); !ok(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("after %s it is not true that %s", within, what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.begun)
}

func (w *world) applyRaw(id, definition string) {
	w.t.Helper()
	m := nats.NewMsg(event.CommandSubject(event.KindWorkflowApply, id))
	m.Data = []byte(definition)
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if o, _, err := w.conn.Call(ctx, m); err != nil || !o.OK {
		w.t.Fatalf("apply %s: %v %v", id, err, o.Error)
	}
}

// publishWorkflow stores a workflow although the replica may be killed before it answers: the command is in the stream, and the next one takes it.
func (w *world) publishWorkflow(id string, caps ...string) {
	w.t.Helper()
	m := nats.NewMsg(event.CommandSubject(event.KindWorkflowApply, id))
	m.Data = []byte(sequence(id, caps))
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if _, err := w.conn.Publish(ctx, m); err != nil {
		w.t.Fatal(err)
	}
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}
