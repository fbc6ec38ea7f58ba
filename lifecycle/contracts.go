package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow/contract"
)

// SchemaIDs name the schemas that an agent has registered for a capability; empty for none. The name of a schema follows from what it says.
type SchemaIDs struct {
	Input  string `json:"in,omitzero"`
	Output string `json:"out,omitzero"`
}

const (
	knownSchemas   = 4096                 // schemas remembered to be ones
	maxSchemasKept = 2 * event.MaxSchemas // bytes of the schemas that are kept of an agent
)

// namesOf returns the names of the schemas of a registration, by capability, and the schemas by their names.
func namesOf(e *event.Register) (ids map[string]SchemaIDs, schemas map[string]event.Raw) {
	if len(e.CapabilitySchemas) == 0 {
		return nil, nil
	}
	ids, schemas = make(map[string]SchemaIDs, len(e.CapabilitySchemas)), make(map[string]event.Raw)
	name := func(raw event.Raw) string {
		if len(raw) == 0 {
			return ""
		}
		id, canonical, err := contract.ID(raw)
		if err != nil {
			panic(err) // it was decoded
		}
		schemas[id] = canonical
		return id
	}
	for c, s := range e.CapabilitySchemas {
		ids[c] = SchemaIDs{Input: name(s.Input), Output: name(s.Output)}
	}
	return ids, schemas
}

// checkSchemas refuses a registration with a schema that is none. Its error is an *event.Error.
func (s *Service) checkSchemas(e event.Event) error {
	reg, ok := e.(*event.Register)
	if !ok {
		return nil
	}
	ids, schemas := namesOf(reg)
	for _, c := range slices.Sorted(maps.Keys(ids)) {
		for _, m := range [...]struct{ name, id string }{{"input", ids[c].Input}, {"output", ids[c].Output}} {
			if m.id == "" || s.schemas.Has(storage.Key(m.id)) {
				continue
			}
			if _, err := contract.Compile(schemas[m.id]); err != nil {
				return event.Errorf(event.CodeInvalid, "the %s schema of capability %q cannot be used: %v; correct it or leave it out", m.name, c, err)
			}
			s.schemas.Store(storage.Key(m.id), "", struct{}{})
		}
	}
	return nil
}

// schemaList is the document of the schemas that an agent has registered, the newest first. An attempt is held to those that its agent had when it was given
// the attempt: what is registered later does not replace them at once, but in time.
type schemaList struct {
	Schemas []namedSchema `json:"schemas"`
}

type namedSchema struct {
	ID     string    `json:"id"`
	Schema event.Raw `json:"schema"`
}

// with puts the schemas of a registration in front. Behind them stay as many of the others as there is room for.
func (l schemaList) with(fresh map[string]event.Raw) schemaList {
	kept := make([]namedSchema, 0, len(fresh)+len(l.Schemas))
	size := 0
	for _, id := range slices.Sorted(maps.Keys(fresh)) {
		kept = append(kept, namedSchema{id, fresh[id]})
		size += len(fresh[id])
	}
	for _, s := range l.Schemas {
		if _, again := fresh[s.ID]; again {
			continue
		}
		if size += len(s.Schema); size > maxSchemasKept {
			break
		}
		kept = append(kept, s)
	}
	return schemaList{kept}
}

// find returns a schema, nil if it is not kept.
func (l schemaList) find(id string) event.Raw {
	for _, s := range l.Schemas {
		if s.ID == id {
			return s.Schema
		}
	}
	return nil
}

// readSchemas reads the schemas that are kept of an agent.
func readSchemas(ctx context.Context, store storage.Store, agent string) (l schemaList, rev storage.Rev, err error) {
	docs, err := store.Get(ctx, schemasKey(agent))
	if err != nil {
		return l, "", fmt.Errorf("read the schemas of an agent: %w", err)
	}
	return l, docs[0].Rev, decodeDoc(docs[0], &l)
}

// CapabilitySchema returns a schema that an agent has registered, now or lately, by its name; nil if it is not kept any more. It fails with the store's error.
func CapabilitySchema(ctx context.Context, store storage.Store, agent, id string) (event.Raw, error) {
	l, _, err := readSchemas(ctx, store, agent)
	return l.find(id), err
}

// loadSchemas reads the schemas that are kept of the agents which register others.
func (s *Service) loadSchemas(ctx context.Context, todo []*agentBatch) error {
	var keys []storage.Key
	var whose []*agentBatch
	for _, b := range todo {
		if b.changesSchemas() {
			keys, whose = append(keys, schemasKey(b.id)), append(whose, b)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	docs, err := s.cfg.Store.Get(ctx, keys...)
	if err != nil {
		return fmt.Errorf("read the schemas of agents: %w", err)
	}
	for i, b := range whose {
		b.schemas, b.schemasRev = schemaList{}, docs[i].Rev
		if err := decodeDoc(docs[i], &b.schemas); err != nil {
			return err
		}
	}
	return nil
}

// changesSchemas reports whether one of the events is a registration with other schemas than the agent's last one.
func (b *agentBatch) changesSchemas() bool {
	return slices.ContainsFunc(b.items, func(it item) bool {
		e, ok := it.event.(*event.Register)
		if !ok || len(e.CapabilitySchemas) == 0 {
			return false
		}
		ids, _ := namesOf(e)
		return !maps.Equal(ids, b.gate.Schemas)
	})
}

// keepSchemas adds the document of the agent's schemas to what will be written, if its last registration has changed them.
func (f *fold) keepSchemas(t *storage.Txn) {
	reg := f.b.record.Reg
	if f.registered == nil || reg == nil || len(reg.Schemas) == 0 || maps.Equal(reg.Schemas, f.before.Schemas) {
		return
	}
	_, fresh := namesOf(f.registered)
	t.If = append(t.If, storage.Cond{Key: schemasKey(f.b.id), Rev: f.b.schemasRev})
	t.Put = append(t.Put, storage.Put{Key: schemasKey(f.b.id), Data: event.MustMarshal(f.b.schemas.with(fresh))})
}

// addSchemas shows the schemas of an agent's registration.
func (q *Queries) addSchemas(ctx context.Context, a *event.Agent, ids map[string]SchemaIDs) error {
	if len(ids) == 0 {
		return nil
	}
	l, _, err := readSchemas(ctx, q.store, a.AgentID)
	if err != nil {
		return err
	}
	a.CapabilitySchemas = make(map[string]event.CapabilitySchemas, len(ids))
	for c, of := range ids {
		a.CapabilitySchemas[c] = event.CapabilitySchemas{Input: l.find(of.Input), Output: l.find(of.Output)}
	}
	return nil
}
