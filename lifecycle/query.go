package lifecycle

import (
	"context"
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// Queries reads agents. The zero value is not usable; see [NewQueries].
type Queries struct {
	store storage.Store
	now   func() time.Time
}

// NewQueries returns the queries of a store.
func NewQueries(store storage.Store) *Queries { return &Queries{store: store, now: time.Now} }

// initialDetails is what the old API shows of an agent that has registered and not reported.
var initialDetails = event.Raw(`{"reason":"Initial registration"}`)

// Get returns an agent. It fails with an *event.Error of CodeUnknownAgent if it is not registered, and otherwise with the store's error.
func (q *Queries) Get(ctx context.Context, id string) (*event.Agent, error) {
	agents, err := q.get(ctx, true, id)
	if err != nil {
		return nil, err
	}
	if len(agents) == 0 {
		return nil, event.Errorf(event.CodeUnknownAgent, "agent %q is not registered", id)
	}
	return &agents[0], nil
}

// List returns at most limit registered agents, by id, behind the cursor of an earlier page. It fails with the store's error.
func (q *Queries) List(ctx context.Context, cursor string, limit int) (event.List[event.Agent], error) {
	limit = max(limit, 1)
	entries, err := q.store.Range(ctx, AgentIndex, storage.Cursor{Member: cursor}, 0, limit)
	if err != nil {
		return event.List[event.Agent]{}, fmt.Errorf("list agents: %w", err)
	}
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.Member
	}
	var page event.List[event.Agent]
	if page.Items, err = q.get(ctx, false, ids...); err != nil {
		return page, err
	}
	if len(entries) == limit {
		page.NextCursor = ids[limit-1]
	}
	return page, nil
}

// Fence returns the highest sequence of StreamAgent taken in for an agent, registered or not, for callers whose answer was lost.
func (q *Queries) Fence(ctx context.Context, id string) (uint64, error) {
	docs, err := q.store.Get(ctx, RecordKey(id))
	if err != nil {
		return 0, fmt.Errorf("read agent: %w", err)
	}
	var r Record
	if err := decodeDoc(docs[0], &r); err != nil {
		return 0, err
	}
	return r.Top.Seq, nil
}

// Gates reads the gates of agents; one that does not exist is empty. It fails with the store's error.
func Gates(ctx context.Context, store storage.Store, agents ...string) ([]*Gate, error) {
	if len(agents) == 0 {
		return nil, nil
	}
	keys := make([]storage.Key, len(agents))
	for i, a := range agents {
		keys[i] = GateKey(a)
	}
	docs, err := store.Get(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read gates: %w", err)
	}
	gates := make([]*Gate, len(agents))
	for i, d := range docs {
		gates[i] = &Gate{Agent: agents[i]}
		if err := decodeDoc(d, gates[i]); err != nil {
			return nil, err
		}
	}
	return gates, nil
}

// get reads the registered ones of these agents, with or without the schemas of their capabilities.
func (q *Queries) get(ctx context.Context, schemas bool, ids ...string) ([]event.Agent, error) {
	agents := make([]event.Agent, 0, len(ids))
	if len(ids) == 0 {
		return agents, nil
	}
	keys := make([]storage.Key, 0, 2*len(ids))
	for _, id := range ids {
		keys = append(keys, RecordKey(id), GateKey(id))
	}
	docs, err := q.store.Get(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read agents: %w", err)
	}
	now := q.now()
	for i, id := range ids {
		var r Record
		g := Gate{Agent: id}
		if err := decodeDoc(docs[2*i], &r); err != nil {
			return nil, err
		}
		if err := decodeDoc(docs[2*i+1], &g); err != nil {
			return nil, err
		}
		if !r.Registered() {
			continue
		}
		agents = append(agents, show(id, &r, &g, now))
		if schemas {
			if err := q.addSchemas(ctx, &agents[len(agents)-1], r.Reg.Schemas); err != nil {
				return nil, err
			}
		}
	}
	return agents, nil
}

// show turns the documents of an agent into its shape on the wire.
func show(id string, r *Record, g *Gate, now time.Time) event.Agent {
	e := &r.Reg.Event
	a := event.Agent{
		AgentID: id, AgentName: e.AgentName, Version: e.Version, Capabilities: e.Capabilities,
		Slots: max(e.Slots, event.DefaultSlots), Held: []event.AttemptRef{},
		State: "UNKNOWN", StateAt: r.Reg.Mark.At, Details: initialDetails,
		Liveness: g.Liveness(), Cordoned: r.Cordon.On, RegisteredAt: r.Reg.Mark.At,
		Labels: e.Labels, Metadata: e.Metadata, ContactEndpoint: e.ContactEndpoint, Delivery: e.Delivery,
		Instance: r.Instance.ID, Seq: r.Top.Seq, DocVersion: r.Version,
	}
	if a.Delivery == "" {
		a.Delivery = event.DeliveryNATS
	}
	if len(a.Metadata) == 0 {
		a.Metadata = event.Raw(`{}`)
	}
	if p := r.Current(); p != nil {
		a.State, a.StateAt, a.StateTimestamp, a.Details = p.State, p.Mark.At, p.Timestamp, p.Details
		if len(a.Details) == 0 {
			a.Details = event.Raw(`null`)
		}
	}
	a.Draining, a.DrainBy, a.CordonReason = r.Cordon.Drain, r.Cordon.By, r.Cordon.Reason
	if state := g.Breaker.State(now); state != BreakerClosed {
		a.Breaker = state
	}
	for _, h := range g.Held {
		if !h.Away {
			a.Held = append(a.Held, h.AttemptRef)
		}
	}
	if refusal := Match(g, Want{Agent: id}, now); refusal != nil {
		a.Unavailable = refusal.Text
	} else {
		a.Available = true
	}
	return a
}
