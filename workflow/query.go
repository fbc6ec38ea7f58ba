package workflow

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// maxShown is how many bytes of input and outputs are shown with a run; beyond it they are left out.
const maxShown = 256 << 10

// Queries reads runs and definitions.
type Queries struct{ store storage.Store }

// NewQueries returns the queries of a store.
func NewQueries(store storage.Store) *Queries { return &Queries{store: store} }

// Run returns a run. It fails with an *event.Error of CodeUnknownRun if there is none, and otherwise with the store's error.
func (q *Queries) Run(ctx context.Context, id string) (*event.Run, error) {
	r, err := q.readRun(ctx, id)
	if err != nil {
		return nil, err
	}
	def, err := q.definition(ctx, r)
	if err != nil {
		return nil, err
	}
	shown, err := show(ctx, q.store, r, def)
	if err != nil {
		return nil, err
	}
	return shown, q.addReasons(ctx, r, shown)
}

// readRun reads the document of a run. It fails with an *event.Error of CodeUnknownRun if there is none.
func (q *Queries) readRun(ctx context.Context, id string) (*Run, error) {
	docs, err := q.store.Get(ctx, runKey(id))
	if err != nil {
		return nil, fmt.Errorf("read run: %w", err)
	}
	if docs[0].Rev == "" {
		return nil, event.Errorf(event.CodeUnknownRun, "there is no run %q", id)
	}
	r := new(Run)
	if err := event.Unmarshal(docs[0].Data, r); err != nil {
		return nil, fmt.Errorf("document %s: %w", docs[0].Key, err)
	}
	if r.stub() {
		return nil, event.Errorf(event.CodeUnknownRun, "there is no run %q", id)
	}
	return r, nil
}

// Runs returns at most limit runs, newest last, behind the cursor of an earlier page. Inputs and outputs are left out.
func (q *Queries) Runs(ctx context.Context, cursor string, limit int) (event.List[event.Run], error) {
	page := event.List[event.Run]{Items: []event.Run{}}
	after, err := parseCursor(cursor)
	if err != nil {
		return page, err
	}
	entries, err := q.store.Range(ctx, runIndex, after, storage.MaxScore, limit)
	if err != nil {
		return page, fmt.Errorf("list runs: %w", err)
	}
	keys := make([]storage.Key, len(entries))
	for i, e := range entries {
		keys[i] = runKey(e.Member)
	}
	if page.Items, err = q.headers(ctx, keys); err != nil {
		return page, err
	}
	if len(entries) == limit {
		last := entries[limit-1]
		page.NextCursor = fmt.Sprintf("%d~%s", last.Score, last.Member)
	}
	return page, nil
}

// headers reads runs without their inputs, outputs and tasks; those that are not there are left out.
func (q *Queries) headers(ctx context.Context, keys []storage.Key) ([]event.Run, error) {
	runs := []event.Run{}
	if len(keys) == 0 {
		return runs, nil
	}
	docs, err := q.store.Get(ctx, keys...)
	if err != nil {
		return runs, fmt.Errorf("read runs: %w", err)
	}
	for _, d := range docs {
		var r Run
		if d.Rev == "" {
			continue
		}
		if err := event.Unmarshal(d.Data, &r); err != nil {
			return runs, fmt.Errorf("document %s: %w", d.Key, err)
		}
		runs = append(runs, *header(&r))
	}
	return runs, nil
}

func parseCursor(s string) (c storage.Cursor, err error) {
	if s == "" {
		return c, nil
	}
	if n, err := fmt.Sscanf(s, "%d~", &c.Score); n != 1 || err != nil {
		return c, event.Errorf(event.CodeInvalid, "the cursor is not one that a list gave")
	}
	_, c.Member, _ = strings.Cut(s, "~")
	return c, nil
}

// Fence returns the highest sequence of StreamWork that a run has taken in, 0 if there is none, for callers whose answer was lost.
func (q *Queries) Fence(ctx context.Context, id string) (uint64, error) {
	docs, err := q.store.Get(ctx, runKey(id))
	if err != nil || docs[0].Rev == "" {
		return 0, err
	}
	var r Run
	if err := event.Unmarshal(docs[0].Data, &r); err != nil {
		return 0, fmt.Errorf("document %s: %w", docs[0].Key, err)
	}
	return r.Seq, nil
}

// Workflow returns the latest version of a definition, or the given one. It fails with an *event.Error of CodeUnknownDefinition if there is none.
func (q *Queries) Workflow(ctx context.Context, id, version string) (*event.Definition, error) {
	docs, err := q.store.Get(ctx, definitionKey(id))
	if err != nil {
		return nil, fmt.Errorf("read workflow: %w", err)
	}
	var word latest
	if docs[0].Rev == "" {
		return nil, event.Errorf(event.CodeUnknownDefinition, "there is no workflow %q", id)
	}
	if err := event.Unmarshal(docs[0].Data, &word); err != nil {
		return nil, fmt.Errorf("document %s: %w", docs[0].Key, err)
	}
	if version == "" {
		version = word.Version
	}
	docs, err = q.store.Get(ctx, versionKey(id, version))
	if err != nil {
		return nil, fmt.Errorf("read workflow: %w", err)
	}
	if docs[0].Rev == "" {
		return nil, event.Errorf(event.CodeUnknownDefinition, "workflow %q has no version %q", id, version)
	}
	return &event.Definition{
		WorkflowID: id, WorkflowVersion: version, Name: word.Name, Tasks: word.Tasks, AppliedAt: word.At, Definition: docs[0].Data,
		Paused: word.Paused,
	}, nil
}

// Workflows returns at most limit definitions by id, behind the cursor of an earlier page, without their bodies.
func (q *Queries) Workflows(ctx context.Context, cursor string, limit int) (event.List[event.Definition], error) {
	page := event.List[event.Definition]{Items: []event.Definition{}}
	entries, err := q.store.Range(ctx, workflowIndex, storage.Cursor{Member: cursor}, 0, limit)
	if err != nil || len(entries) == 0 {
		return page, err
	}
	keys := make([]storage.Key, len(entries))
	for i, e := range entries {
		keys[i] = definitionKey(e.Member)
	}
	docs, err := q.store.Get(ctx, keys...)
	if err != nil {
		return page, fmt.Errorf("read workflows: %w", err)
	}
	for i, d := range docs {
		var word latest
		if err := event.Unmarshal(d.Data, &word); err != nil {
			return page, fmt.Errorf("document %s: %w", d.Key, err)
		}
		page.Items = append(page.Items, event.Definition{
			WorkflowID: entries[i].Member, WorkflowVersion: word.Version, Name: word.Name, Tasks: word.Tasks, AppliedAt: word.At,
			Paused: word.Paused,
		})
	}
	if len(entries) == limit {
		page.NextCursor = entries[limit-1].Member
	}
	return page, nil
}

func (q *Queries) definition(ctx context.Context, r *Run) (*Definition, error) {
	docs, err := q.store.Get(ctx, versionKey(r.Workflow, r.DefVersion))
	if err != nil {
		return nil, fmt.Errorf("read definition: %w", err)
	}
	if docs[0].Rev == "" {
		return &Definition{ID: r.Workflow}, nil
	}
	def, err := Decode(docs[0].Data)
	if err != nil || r.Parent == nil || r.Parent.Only == "" {
		return def, err
	}
	return def.only(r.Parent.Only), nil
}

// show turns a run into its shape on the wire: with all its parts when it has ended, else with what its document holds.
func (e *Engine) show(ctx context.Context, r *Run) (*event.Run, error) {
	def, err := e.definitionOf(ctx, r)
	if err != nil {
		return nil, err
	}
	if r.State.Final() {
		return show(ctx, e.cfg.Store, r, def)
	}
	s := header(r)
	for i := range r.Tasks {
		s.Tasks = append(s.Tasks, event.RunTask{TaskID: r.Tasks[i].ID})
		fillTask(&s.Tasks[i], &r.Tasks[i], def)
	}
	s.Truncated = r.Total > len(r.Tasks) || r.BigInput
	return s, nil
}

// header is a run without its input, outputs and tasks.
func header(r *Run) *event.Run {
	s := &event.Run{
		RunID: r.ID, WorkflowID: r.Workflow, WorkflowVersion: r.DefVersion, State: r.State, Error: r.Error, AgentID: r.Agent,
		Labels: r.Labels, CreatedAt: r.Created.UTC(), Tasks: []event.RunTask{}, Version: r.Version, Seq: r.Seq,
	}
	if !r.Ended.IsZero() {
		ended := r.Ended.UTC()
		s.EndedAt = &ended
	}
	s.Parent = shownParent(r.Parent)
	if ctl := r.Control; ctl != nil {
		s.PausedAt, s.Deadline, s.Reruns = shownTime(ctl.Paused), shownTime(ctl.Deadline), ctl.Reruns
		if r.pending() {
			s.StartAt = shownTime(ctl.Begin)
		}
	}
	return s
}

// shownParent is a run's place in another one as it is shown, nil for none.
func shownParent(p *ParentRef) *event.RunParent {
	if p == nil {
		return nil
	}
	return &event.RunParent{RunID: p.Run, TaskID: p.Task, Index: p.Index}
}

func show(ctx context.Context, store storage.Store, r *Run, def *Definition) (*event.Run, error) {
	s := header(r)
	s.Input, s.Output = r.Input, r.Output
	var keys []storage.Key // of what is still to be read, and what to do with it
	var fill []func(data []byte)
	want := func(k storage.Key, f func([]byte)) { keys, fill = append(keys, k), append(fill, f) }
	if r.BigInput {
		want(runInputKey(r.ID), func(b []byte) { s.Input = b })
	}
	if r.BigOutput {
		want(runResultKey(r.ID), func(b []byte) { s.Output = b })
	}
	s.Tasks = r.way(def)
	for i := range s.Tasks {
		shown := &s.Tasks[i]
		t := r.Find(shown.TaskID)
		switch {
		case t != nil:
			fillTask(shown, t, def)
			if t.Big {
				want(outputKey(r.ID, t.ID, t.Attempt), func(b []byte) { shown.Output = b })
			}
		default:
			shown.State = r.mark(i).state()
			if r.State.Final() && shown.State == event.TaskPending {
				shown.State = event.TaskSkipped
			}
			if !r.apart(def, i, shown.TaskID) {
				continue
			}
			want(runTaskKey(r.ID, shown.TaskID), func(b []byte) {
				var t RunTask
				if event.Unmarshal(b, &t) != nil {
					return
				}
				fillTask(shown, &t, def)
				if t.Big && t.ID == r.LastDone { // the run's output; those of other tasks are left out
					want(outputKey(r.ID, t.ID, t.Attempt), func(b []byte) { shown.Output = b })
				}
			})
		}
	}
	for len(keys) > 0 {
		docs, err := store.Get(ctx, keys...)
		if err != nil {
			return nil, fmt.Errorf("read the parts of run %s: %w", r.ID, err)
		}
		found := fill
		keys, fill = nil, nil
		for i, d := range docs {
			if d.Rev != "" {
				found[i](d.Data)
			}
		}
	}
	finish(s, r)
	return s, nil
}

// way lists the tasks that a run may reach: those of a graph in the order of the definition, else those that follow from the first.
func (r *Run) way(def *Definition) []event.RunTask {
	tasks := []event.RunTask{}
	add := func(t *Task) {
		tasks = append(tasks, event.RunTask{TaskID: t.TaskID, Name: t.Name, State: event.TaskPending})
	}
	if def.graph() {
		for i := range def.Tasks {
			add(&def.Tasks[i])
		}
		for _, t := range r.undoes(def) {
			add(t)
		}
		return tasks
	}
	for t, n := def.first(), 0; t != nil && n < len(def.Tasks); t, n = def.after(t), n+1 {
		add(t)
	}
	return tasks
}

// apart reports whether a task at a place of the way may have ended and have a document of its own.
func (r *Run) apart(def *Definition, place int, id string) bool {
	if r.Total > inlineTasks && !def.graph() {
		return place < r.Completed+1
	}
	return r.mayBeApart(def, id)
}

func (d *Definition) first() *Task {
	if len(d.Tasks) == 0 {
		return nil
	}
	return &d.Tasks[0]
}

// shownTime is a time as it is shown, nil for none.
func shownTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func fillTask(s *event.RunTask, t *RunTask, def *Definition) {
	s.State, s.Attempt, s.AgentID, s.Output, s.Error = t.State, t.Attempt, t.Agent, t.Output, t.Error
	s.Percent, s.Message, s.Cancel, s.Reused = t.Percent, t.Message, t.Cancel, t.Reused
	if k := t.Kids; k != nil {
		s.Children = &event.Children{Total: k.Total, Active: len(k.Active), Done: k.Done, Failed: k.Failed}
	}
	if t.State == event.TaskWaiting && t.Waits != "" {
		s.WaitsFor = &event.WaitsFor{Approval: t.Waits == waitsApproval, Until: shownTime(t.Until)}
		if node := def.Find(t.ID); node != nil && node.Signal != nil {
			s.WaitsFor.Signal = node.Signal.Name
		}
	}
	if !t.Started.IsZero() {
		at := t.Started.UTC()
		s.StartedAt = &at
	}
	if !t.Ended.IsZero() {
		at := t.Ended.UTC()
		s.EndedAt = &at
	}
}

// finish adds the run's output, which is the one of its last task unless the definition says another, and leaves out what is too large to show.
func finish(s *event.Run, r *Run) {
	if r.State == event.RunCompleted {
		if r.Total == 0 {
			s.Output = event.Raw(`{"message":"Workflow has no tasks"}`)
		}
		for i := range s.Tasks {
			if s.Tasks[i].TaskID == r.LastDone && s.Output == nil {
				s.Output = s.Tasks[i].Output
			}
		}
	}
	size := len(s.Input) + len(s.Output)
	for i := range s.Tasks {
		size += len(s.Tasks[i].Output)
	}
	if size <= maxShown {
		return
	}
	s.Truncated = true
	for i := range s.Tasks {
		s.Tasks[i].Output = nil
	}
	if len(s.Input) > maxShown/2 {
		s.Input = nil
	}
	if len(s.Output) > maxShown/2 {
		s.Output = nil
	}
}
