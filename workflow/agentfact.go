package workflow

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// tellAgents publishes the facts about agents among due entries, and returns the other entries. An entry goes when the stream has its fact; until then the
// fact is published again, with what the agent has become meanwhile.
func (e *Engine) tellAgents(ctx context.Context, entries []storage.Entry) (rest []storage.Entry, err error) {
	rest = make([]storage.Entry, 0, len(entries))
	var facts []*agentFact
	var ids []string
	for _, entry := range entries {
		kind, parts, ok := parseTimer(entry.Member)
		if !ok || kind != timerAgent {
			rest = append(rest, entry)
			continue
		}
		op := storage.IndexOp{Index: dueIndex, Member: entry.Member, Score: entry.Score}
		if e.told.Has(storage.Key(entry.Member)) {
			e.facts.sent(op)
		} else if e.facts.begin(entry.Member) {
			facts, ids = append(facts, &agentFact{id: parts[0], cause: parts[1], op: op}), append(ids, parts[0])
		}
	}
	if len(facts) == 0 {
		return rest, nil
	}
	said, err := lifecycle.Snapshots(ctx, e.cfg.Store, ids...)
	for i, f := range facts {
		if err != nil {
			e.facts.end(f.op.Member)
			continue
		}
		e.tellAgent(f, said[i])
	}
	if err != nil {
		return rest, fmt.Errorf("facts about agents: %w", err)
	}
	return rest, nil
}

// agentFact is a fact about an agent that is due.
type agentFact struct {
	id, cause string
	op        storage.IndexOp
}

// tellAgent publishes a fact.
func (e *Engine) tellAgent(f *agentFact, said lifecycle.Snapshot) {
	fact := event.Fact{ID: f.id, Epoch: e.cfg.Keeper.Epoch().N, Version: said.Version, At: time.Now().UTC(), Cause: f.cause, Agent: said.Agent}
	msg := nats.NewMsg(event.FactSubject("agent", event.MustToken(f.id)))
	msg.Data = fact.Encode()
	err := e.cfg.Bus.PublishAsync(msg, func(_ bus.Ack, err error) {
		if err == nil {
			e.told.Store(storage.Key(f.op.Member), "", struct{}{})
			e.facts.sent(f.op)
		}
		e.facts.end(f.op.Member)
	})
	if err != nil {
		e.facts.end(f.op.Member)
	}
}
