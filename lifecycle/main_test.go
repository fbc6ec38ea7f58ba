package lifecycle_test

import (
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

func TestMain(m *testing.M) { bustest.Main(m) }

// epoch is when the streams of the tests without a server begin.
var epoch = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

// mark is a place in a stream to which one message a second is published.
func mark(seq uint64) lifecycle.Mark {
	return lifecycle.Mark{Seq: seq, At: epoch.Add(time.Duration(seq) * time.Second)}
}

// at is an event and the sequence it has in the stream.
type at struct {
	seq   uint64
	event event.Event
}

// fold applies events to a new record in the order given.
func fold(events ...at) *lifecycle.Record {
	r := &lifecycle.Record{}
	for _, e := range events {
		r.Apply(e.event, mark(e.seq))
	}
	return r
}

func registered(instance string) *event.Register {
	return &event.Register{AgentName: "n", Version: "1", Capabilities: []string{"echo"}, Instance: instance}
}

func deregistered() *event.Deregister { return &event.Deregister{} }

func command(kind event.CommandKind) *event.AgentCommand { return &event.AgentCommand{Kind: kind} }

func said(instance, word string) *event.State { return &event.State{State: word, Instance: instance} }

func attempt(n int) event.AttemptRef { return event.AttemptRef{RunID: "r", TaskID: "t", Attempt: n} }
