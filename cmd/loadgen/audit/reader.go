package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/workflow"
)

// What the reader knows of the store beside what packages lifecycle and workflow export: see their documentation.
const (
	runIndex   storage.Index = "runs"
	dueIndex   storage.Index = "due/workflow"
	kinIndex   storage.Index = "due/kin"
	classIndex storage.Index = "classes"
)

func runKey(id string) storage.Key          { return storage.Key("run/" + id) }
func readyIndex(class string) storage.Index { return storage.Index("ready/" + class) }

const page = 256 // documents or entries read at once

// durables names the consumer that takes in each stream.
var durables = map[string]string{event.StreamAgent: event.ConsumerLifecycle, event.StreamWork: event.ConsumerWorkflow}

// reader reads one installation.
type reader struct {
	store  storage.Store
	conn   *bus.Conn
	runs   map[string]*seenRun
	due    map[string]storage.Score // run: when the first thing about it is due; 0 for a task that waits in a queue
	floors map[string]uint64        // stream: up to where its consumer has acknowledged everything
}

// seenRun is a run as it was read last; doc is nil while there is none.
type seenRun struct{ doc *workflow.Run }

func (r *seenRun) final() bool { return r.doc != nil && r.doc.State.Final() }

// look reads what changes while things settle: the consumers, and the runs that have not ended.
func (r *reader) look(ctx context.Context) (view, error) {
	var v view
	for stream, durable := range durables {
		c, err := r.conn.JS().Consumer(ctx, stream, durable)
		if err != nil {
			return v, fmt.Errorf("look at consumer %s: %w", durable, err)
		}
		info := c.CachedInfo()
		r.floors[stream] = info.AckFloor.Stream
		v.pending += info.NumPending + uint64(info.NumAckPending)
	}
	if err := r.listRuns(ctx); err != nil {
		return v, err
	}
	var open []string
	for id, run := range r.runs {
		if !run.final() {
			open = append(open, id)
		}
	}
	if err := r.readRuns(ctx, open); err != nil {
		return v, err
	}
	for _, id := range open {
		switch run := r.runs[id]; {
		case run.doc == nil: // it may have been refused, which only the end shows
		case !run.doc.State.Final():
			v.unfinished++
			v.versions += run.doc.Version
		}
	}
	return v, r.readDue(ctx)
}

// listRuns notes the runs that the journal knows only by number: the server made their ids.
func (r *reader) listRuns(ctx context.Context) error {
	return r.each(ctx, runIndex, func(e storage.Entry) {
		if r.runs[e.Member] == nil {
			r.runs[e.Member] = new(seenRun)
		}
	})
}

// each reads an index to its end.
func (r *reader) each(ctx context.Context, index storage.Index, do func(storage.Entry)) error {
	var after storage.Cursor
	for {
		entries, err := r.store.Range(ctx, index, after, storage.MaxScore, 4*page)
		if err != nil {
			return fmt.Errorf("read index %s: %w", index, err)
		}
		for _, e := range entries {
			do(e)
		}
		if len(entries) < 4*page {
			return nil
		}
		last := entries[len(entries)-1]
		after = storage.Cursor{Score: last.Score, Member: last.Member}
	}
}

// readRuns reads runs, and those that their tasks have started when it sees them for the first time.
func (r *reader) readRuns(ctx context.Context, ids []string) error {
	var children []string
	for part := range slices.Chunk(ids, page) {
		keys := make([]storage.Key, len(part))
		for i, id := range part {
			keys[i] = runKey(id)
		}
		docs, err := r.store.Get(ctx, keys...)
		if err != nil {
			return fmt.Errorf("read runs: %w", err)
		}
		for i, d := range docs {
			if d.Rev == "" {
				continue
			}
			doc := new(workflow.Run)
			if err := event.Unmarshal(d.Data, doc); err != nil {
				return fmt.Errorf("document %s: %w", d.Key, err)
			}
			r.runs[part[i]].doc = doc
			for _, id := range doc.ChildIDs() {
				if r.runs[id] == nil {
					r.runs[id] = new(seenRun)
					children = append(children, id)
				}
			}
		}
	}
	if len(children) == 0 {
		return nil
	}
	return r.readRuns(ctx, children)
}

// readDue notes for which runs something is due: a timer of the run or one of its tasks, or a task that waits in a queue.
func (r *reader) readDue(ctx context.Context) error {
	clear(r.due)
	for _, index := range []storage.Index{dueIndex, kinIndex} {
		err := r.each(ctx, index, func(e storage.Entry) {
			parts := strings.Split(e.Member, "|")
			if parts[0] != "t" && parts[0] != "r" || len(parts) < 2 {
				return // about an agent, or about a run that has ended
			}
			r.isDue(parts[1], e.Score)
		})
		if err != nil {
			return err
		}
	}
	var classes []string
	if err := r.each(ctx, classIndex, func(e storage.Entry) { classes = append(classes, e.Member) }); err != nil {
		return err
	}
	for _, class := range classes {
		err := r.each(ctx, readyIndex(class), func(e storage.Entry) {
			run, _, _ := strings.Cut(e.Member, "|")
			r.isDue(run, 0)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) isDue(token string, at storage.Score) {
	run, err := event.ParseToken(token)
	if err != nil {
		return // of a version that this one does not know
	}
	if before, ok := r.due[run]; !ok || at < before {
		r.due[run] = at
	}
}

// dueBefore reports whether a timer of a run that has not ended fires before a time.
func (r *reader) dueBefore(t time.Time) bool {
	for id, at := range r.due {
		if run := r.runs[id]; at > 0 && at < storage.Score(t.UnixMicro()) && run != nil && !run.final() {
			return true
		}
	}
	return false
}

// found turns the runs into what the ledger compares.
func (r *reader) found(ctx context.Context) (map[string]*loadgen.FoundRun, error) {
	queries := workflow.NewQueries(r.store)
	found := make(map[string]*loadgen.FoundRun, len(r.runs))
	held := make(map[string]bool) // limiters of which a run has a place that it will give back
	for _, run := range r.runs {
		if run.doc != nil {
			held[run.doc.Holds()] = true
		}
	}
	for id, run := range r.runs {
		if run.doc == nil {
			continue
		}
		f := &loadgen.FoundRun{State: run.doc.State, Tasks: make([]loadgen.FoundTask, len(run.doc.Tasks)), Child: run.doc.Parent != nil}
		if !f.Child {
			f.N = numberIn(run.doc.Input)
		}
		for i, t := range run.doc.Tasks {
			f.Tasks[i] = loadgen.FoundTask{TaskID: t.ID, State: t.State, Attempt: t.Attempt, AgentID: t.Agent}
		}
		if !f.State.Final() {
			_, f.Due = r.due[id]
			if q := run.doc.WaitsFor(); q != "" && held[q] {
				f.Due = true
			}
			f.Waits = waits(ctx, queries, id)
		}
		found[id] = f
	}
	return found, nil
}

// waits says what a run that has not ended waits for.
func waits(ctx context.Context, queries *workflow.Queries, id string) string {
	shown, err := queries.Run(ctx, id)
	if err != nil {
		return err.Error()
	}
	var parts []string
	for _, t := range shown.Tasks {
		if t.State.Final() || t.State == event.TaskPending {
			continue
		}
		part := fmt.Sprintf("task %s, which is %s (attempt %d", t.TaskID, t.State, t.Attempt)
		if t.AgentID != "" {
			part += " on agent " + t.AgentID
		}
		part += ")"
		if len(t.Reasons) > 0 {
			part += ": " + t.Reasons[0].Text
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// agents reads what is known of agents, and their histories.
func (r *reader) agents(ctx context.Context, ids []string) (map[string]*loadgen.FoundAgent, error) {
	found := make(map[string]*loadgen.FoundAgent, len(ids))
	queries := lifecycle.NewQueries(r.store)
	for part := range slices.Chunk(ids, page) {
		keys := make([]storage.Key, len(part))
		for i, id := range part {
			keys[i] = lifecycle.RecordKey(id)
		}
		docs, err := r.store.Get(ctx, keys...)
		if err != nil {
			return nil, fmt.Errorf("read agents: %w", err)
		}
		for i, d := range docs {
			f := new(loadgen.FoundAgent)
			found[part[i]] = f
			if d.Rev == "" {
				continue
			}
			if err := fillAgent(f, d); err != nil {
				return nil, err
			}
			if err := r.fillHistory(ctx, queries, part[i], f); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

func fillAgent(f *loadgen.FoundAgent, d storage.Doc) error {
	var record lifecycle.Record
	if err := event.Unmarshal(d.Data, &record); err != nil {
		return fmt.Errorf("document %s: %w", d.Key, err)
	}
	f.Registered, f.Deregister = record.Registered(), record.Dereg.Seq
	if record.Reg != nil {
		f.Register = loadgen.FoundLevel{Seq: record.Reg.Mark.Seq, N: numberIn(record.Reg.Event.Metadata)}
	}
	if len(record.Reports) > 0 {
		newest := record.Reports[0]
		f.State = loadgen.FoundLevel{Seq: newest.Mark.Seq, N: numberIn(newest.Details)}
	}
	return nil
}

// fillHistory reads the history as queries show it, and the log behind it, which holds more.
func (r *reader) fillHistory(ctx context.Context, queries *lifecycle.Queries, id string, f *loadgen.FoundAgent) error {
	shown, err := queries.History(ctx, id)
	if err != nil {
		return err
	}
	shown = slices.DeleteFunc(shown, func(h lifecycle.HistoryEntry) bool { return h.Event == lifecycle.EventLiveness }) // nobody has published those
	for _, h := range shown {
		f.History = append(f.History, loadgen.FoundEntry{Seq: h.Seq, N: numberIn(h.Details)})
	}
	f.Full = len(shown) >= lifecycle.HistoryDepth
	const all = 4 * lifecycle.HistoryDepth
	raw, err := r.store.Tail(ctx, lifecycle.HistoryLog(id), all)
	if err != nil {
		return fmt.Errorf("read the log of agent %s: %w", id, err)
	}
	times := make(map[uint64]int, len(raw))
	for _, b := range raw {
		var h lifecycle.HistoryEntry
		if err := event.Unmarshal(b, &h); err != nil {
			return fmt.Errorf("log of agent %s: %w", id, err)
		}
		if times[h.Seq]++; times[h.Seq] == 2 {
			f.Repeats = append(f.Repeats, h.Seq)
		}
	}
	return nil
}

// numberIn returns the member n of a JSON object, 0 if there is none.
func numberIn(raw event.Raw) uint64 {
	var body struct {
		N uint64 `json:"n"`
	}
	if len(raw) == 0 || event.Unmarshal(raw, &body) != nil {
		return 0
	}
	return body.N
}

// dead reads which messages became dead letters.
func (r *reader) dead(ctx context.Context) (map[loadgen.Position]string, error) {
	stream, err := r.conn.JS().Stream(ctx, event.StreamDead)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	left := int(stream.CachedInfo().State.Msgs)
	found := make(map[loadgen.Position]string, left)
	if left == 0 {
		return found, nil
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{HeadersOnly: true})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	for left > 0 {
		batch, err := consumer.Fetch(min(left, page), jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			return nil, fmt.Errorf("read dead letters: %w", err)
		}
		before := left
		for m := range batch.Messages() {
			left--
			seq, _ := strconv.ParseUint(m.Headers().Get(event.HeaderDeadSeq), 10, 64)
			found[loadgen.Position{Stream: m.Headers().Get(event.HeaderDeadStream), Seq: seq}] = m.Headers().Get(event.HeaderDeadReason)
		}
		if err := batch.Error(); err != nil {
			return nil, fmt.Errorf("read dead letters: %w", err)
		}
		if left == before {
			return nil, errors.New("read dead letters: the stream does not hand them out")
		}
	}
	return found, nil
}
