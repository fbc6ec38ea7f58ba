package workflow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// latest is the document that says which version of a definition is the newest.
type latest struct {
	Version string    `json:"version"`
	Name    string    `json:"name,omitzero"`
	Tasks   int       `json:"tasks"`
	At      time.Time `json:"at"`
	Seq     uint64    `json:"seq"` // of the command that applied it: level, the last word wins
	Count   uint64    `json:"v"`
	pausedWord
}

// definition returns a version of a definition, which never changes. It fails with the store's error, or when the document is missing.
func (e *Engine) definition(ctx context.Context, id, version string) (*Definition, error) {
	key := versionKey(id, version)
	if c, ok := e.defs.Load(key); ok {
		return c.Value, nil
	}
	docs, err := e.cfg.Store.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("load definition: %w", err)
	}
	if docs[0].Rev == "" {
		// It was never stored: a legacy run of a body that is no definition.
		return &Definition{ID: id}, nil
	}
	def, err := Decode(docs[0].Data)
	if err != nil {
		return nil, fmt.Errorf("document %s: %w", key, err)
	}
	e.defs.Store(key, docs[0].Rev, def)
	return def, nil
}

// newest returns which version of a definition is the latest, and the revision of that word; nil if there is none.
func (e *Engine) newest(ctx context.Context, id string) (storage.Cached[*latest], error) {
	key := definitionKey(id)
	if c, ok := e.latest.Load(key); ok {
		return c, nil
	}
	docs, err := e.cfg.Store.Get(ctx, key)
	if err != nil {
		return storage.Cached[*latest]{}, fmt.Errorf("load definition: %w", err)
	}
	c := storage.Cached[*latest]{Rev: docs[0].Rev}
	if c.Rev != "" {
		c.Value = new(latest)
		if err := event.Unmarshal(docs[0].Data, c.Value); err != nil {
			return c, fmt.Errorf("document %s: %w", key, err)
		}
		e.latest.Store(key, c.Rev, c.Value)
	}
	return c, nil
}

// resolve finds the definition that a start command means, and puts an inline one that is new into the change.
func (e *Engine) resolve(ctx context.Context, c *change, in *input) (*Start, *event.Error, error) {
	ev := in.start
	start := &Start{Event: ev, Workflow: ev.WorkflowID, DefVersion: ev.Version, Hash: bodyHash(in.msg.Data), Limit: e.cfg.LegacyTimeout}
	if c.after.exists() {
		return start, nil, nil // a repeat: Decide compares
	}
	if len(ev.Definition) > 0 {
		return e.resolveInline(ctx, c, start, in.msg)
	}
	if start.DefVersion == "" {
		newest, err := e.newest(ctx, ev.WorkflowID)
		if err != nil {
			return nil, nil, err
		}
		if newest.Value == nil {
			return nil, event.Errorf(event.CodeUnknownDefinition, "there is no workflow %q", ev.WorkflowID), nil
		}
		start.DefVersion = newest.Value.Version
	}
	// A remembered word may be old; the run must not start on it.
	var err error
	if start.Queue, err = e.queueOf(ctx, c, ev.WorkflowID); err != nil {
		return nil, nil, err
	}
	if c.def, err = e.definition(ctx, ev.WorkflowID, start.DefVersion); err != nil {
		return nil, nil, err
	}
	if len(c.def.Tasks) == 0 && c.def.index == nil {
		return nil, event.Errorf(event.CodeUnknownDefinition, "workflow %q has no version %q", ev.WorkflowID, start.DefVersion), nil
	}
	return start, nil, nil
}

// resolveInline checks a definition that came with the command. A legacy one that cannot run makes the run fail with the reason; others are refused. Its runs are
// held, as they are counted, with those of the definition that has its id.
func (e *Engine) resolveInline(ctx context.Context, c *change, start *Start, m *bus.Msg) (*Start, *event.Error, error) {
	raw := start.Event.Definition
	def, problem := parse(raw, start.Event.Legacy)
	if problem != nil {
		if !start.Event.Legacy {
			return nil, problemError(problem), nil
		}
		start.Problem = &event.TaskError{Code: string(event.CodeInvalid), Message: clip(problem.Error(), event.MaxErrorText)}
		if def, problem = Decode(raw); problem != nil {
			def = &Definition{ID: start.Workflow}
		}
	}
	version, canonical, err := VersionOf(raw)
	if err != nil {
		return nil, asError(err), nil
	}
	start.Workflow, start.DefVersion, c.def = def.ID, version, def
	if def.ID == "" {
		return nil, event.Errorf(event.CodeInvalid, "the definition has no id"), nil
	}
	if start.Problem != nil {
		return start, nil, nil // what cannot run is not kept, and waits for nobody
	}
	if start.Queue, err = e.queueOf(ctx, c, def.ID); err != nil {
		return nil, nil, err
	}
	key := versionKey(def.ID, version)
	if _, known := e.defs.Load(key); known {
		return start, nil, nil
	}
	docs, err := e.cfg.Store.Get(ctx, key, definitionKey(def.ID))
	if err != nil {
		return nil, nil, fmt.Errorf("load definition: %w", err)
	}
	if docs[0].Rev == "" {
		c.docs = append(c.docs, document{key: key, data: canonical})
	}
	if docs[1].Rev == "" { // an inline definition becomes known under its id only if the id is new
		word := latest{Version: version, Name: def.Name, Tasks: len(def.Tasks), At: m.Time, Count: 1}
		c.docs = append(c.docs, document{key: definitionKey(def.ID), data: event.MustMarshal(word)})
		c.listed = append(c.listed, def.ID)
	}
	return start, nil, nil
}

// apply stores a definition. Level: of two with the same id the later in the stream becomes the latest; both versions are kept.
func (e *Engine) apply(ctx context.Context, m *bus.Msg, ev *event.WorkflowApply) error {
	def, err := Parse(ev.Definition)
	if err == nil && def.ID != ev.ID {
		err = Problems{{Path: "$.id", Text: fmt.Sprintf("id %q is not the one it was sent for, %q", def.ID, ev.ID)}}
	}
	if err != nil {
		e.refuse(m, problemError(err))
		return nil
	}
	version, canonical, err := VersionOf(ev.Definition)
	if err != nil {
		e.refuse(m, asError(err))
		return nil
	}
	for range maxTries {
		outcome, err := e.applyOnce(ctx, m, def, version, canonical)
		if errors.Is(err, storage.ErrConflict) {
			e.latest.Forget(definitionKey(def.ID))
			continue
		}
		if err != nil {
			return err
		}
		m.Done(outcome)
		e.cfg.Log.Info("workflow applied", "workflow", def.ID, "version", version, "seq", m.Seq)
		return nil
	}
	return fmt.Errorf("apply workflow %s: %w", def.ID, storage.ErrConflict)
}

func (e *Engine) applyOnce(ctx context.Context, m *bus.Msg, def *Definition, version string, canonical event.Raw) (*event.Outcome, error) {
	docs, err := e.cfg.Store.Get(ctx, definitionKey(def.ID), versionKey(def.ID, version))
	if err != nil {
		return nil, fmt.Errorf("load definition: %w", err)
	}
	var word latest
	if docs[0].Rev != "" {
		if err := event.Unmarshal(docs[0].Data, &word); err != nil {
			return nil, fmt.Errorf("document %s: %w", docs[0].Key, err)
		}
	}
	outcome := &event.Outcome{OK: true, Seq: m.Seq, WorkflowID: def.ID, WorkflowVersion: version, Version: word.Count}
	// The sequence orders, except in a stream that was rolled back or made anew: there a lower one has a later stream timestamp.
	newer := m.Seq > word.Seq || m.Time.After(word.At)
	if !newer && docs[1].Rev != "" {
		return outcome, nil
	}
	txn := storage.Txn{Rev: e.revs.Next()}
	put := func(d storage.Doc, data []byte) {
		txn.If = append(txn.If, storage.Cond{Key: d.Key, Rev: d.Rev})
		txn.Put = append(txn.Put, storage.Put{Key: d.Key, Data: data})
	}
	if docs[1].Rev == "" {
		put(docs[1], canonical)
	}
	if newer {
		outcome.Version++
		word = latest{
			Version: version, Name: def.Name, Tasks: len(def.Tasks), At: m.Time, Seq: m.Seq, Count: outcome.Version, pausedWord: word.pausedWord,
		}
		put(docs[0], event.MustMarshal(word))
		txn.IndexAdd = []storage.IndexOp{{Index: workflowIndex, Member: def.ID}}
	}
	if err := e.cfg.Store.Commit(ctx, txn)[0]; err != nil {
		return nil, fmt.Errorf("store workflow %s: %w", def.ID, err)
	}
	e.latest.Forget(definitionKey(def.ID))
	return outcome, nil
}

// problemError turns the mistakes of a definition into a refusal that lists them for machines too.
func problemError(err error) *event.Error {
	var problems Problems
	if !errors.As(err, &problems) {
		return asError(err)
	}
	e := event.Errorf(event.CodeInvalid, "%s", clip(problems.Error(), event.MaxErrorText))
	e.Details = event.MustMarshal(map[string]any{"problems": problems[:min(len(problems), 100)]})
	return e
}

// clip shortens a text to n bytes at a rune's border.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}

func bodyHash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:12])
}
