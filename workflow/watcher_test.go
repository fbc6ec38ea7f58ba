package workflow

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// watcher looks at all that is written, as it is written, and fails the test when something is that must never be.
type watcher struct {
	t     *testing.T
	mu    sync.Mutex
	runs  map[string]*Run
	gates map[string]*lifecycle.Gate
	held  map[string]string // by attempt: agents that were ever given it
	ended map[string][]string
	limit map[string]*limiter
	def   *Definition                  // of the run that is played; its children follow it, or others
	agent map[string]map[string]string // by run and task: the last one that it was given to
	told  int                          // how often the run was told to go on again
	anew  map[string]bool              // what has completed and is done again then
	stops int                          // how often it was cancelled
}

func newWatcher(t *testing.T, def *Definition) *watcher {
	return &watcher{
		t: t, def: def, agent: make(map[string]map[string]string), runs: make(map[string]*Run), gates: make(map[string]*lifecycle.Gate), held: make(map[string]string), ended: make(map[string][]string),
		limit: make(map[string]*limiter),
	}
}

// commit commits, one caller after the other, and looks at what was written.
func (w *watcher) commit(store storage.Store, txns []storage.Txn) []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	errs := store.Commit(context.Background(), txns...)
	for i, err := range errs {
		if err != nil {
			continue
		}
		for _, put := range txns[i].Put {
			if id, is := strings.CutPrefix(string(put.Key), "run/"); is {
				w.run(id, put.Data)
			}
			if id, is := strings.CutPrefix(string(put.Key), "gate/"); is {
				w.gate(id, put.Data)
			}
			if id, is := strings.CutPrefix(string(put.Key), "limit/"); is {
				w.limit[id] = new(limiter)
				if err := event.Unmarshal(put.Data, w.limit[id]); err != nil {
					w.t.Errorf("limiter %s was written as %s: %v", id, put.Data, err)
				}
			}
		}
		for _, put := range txns[i].Put { // which of it is new, the run says
			if key, is := strings.CutPrefix(string(put.Key), "run-task/"); is {
				w.moved(key, put.Data)
			}
		}
		for _, key := range txns[i].Delete {
			delete(w.limit, strings.TrimPrefix(string(key), "limit/"))
		}
		w.limits()
	}
	return errs
}

func (w *watcher) run(id string, data []byte) {
	after := new(Run)
	if err := event.Unmarshal(data, after); err != nil {
		w.t.Errorf("run %s was written as %s: %v", id, data, err)
		return
	}
	before := w.runs[id]
	w.runs[id] = after
	if before == nil || before.stub() {
		before = &Run{}
	}
	if before.Version >= after.Version {
		w.t.Errorf("run %s: version %d follows on %d", id, after.Version, before.Version)
	}
	if before.State.Final() && (after.State != before.State || reruns(after) != reruns(before)) {
		before = w.reopened(id, before, after)
	}
	if id == runID && after.State == event.RunCancelled && before.State != event.RunCancelled {
		if w.stops++; w.stops > 1 {
			w.t.Errorf("run %s was cancelled %d times", id, w.stops)
		}
	}
	for i := range after.Tasks {
		t, old := &after.Tasks[i], before.at(0, after.Tasks[i].ID)
		if old.State.Final() && (t.State != old.State || t.Attempt != old.Attempt || string(t.Output) != string(old.Output)) {
			w.t.Errorf("task %s of run %s is %s with %s after it was %s with %s", t.ID, id, t.State, t.Output, old.State, old.Output)
		}
		if t.Attempt < old.Attempt {
			w.t.Errorf("task %s of run %s: attempt %d follows on %d", t.ID, id, t.Attempt, old.Attempt)
		}
		if t.held() && t.Attempt > old.Attempt && before.State == event.RunPaused && after.State == event.RunPaused {
			w.t.Errorf("attempt %d of %s was given to %s while run %s was paused", t.Attempt, t.ID, t.Agent, id)
		}
		if t.held() && (t.Attempt > old.Attempt || !old.held()) {
			w.given(after, t)
		}
		if t.State == event.TaskCompleted && old.State != event.TaskCompleted {
			w.completed(id, t.ID)
		}
	}
}

// given looks at a task that is given to an agent: what is for the agent of another task goes to that one.
func (w *watcher) given(r *Run, t *RunTask) {
	if w.agent[r.ID] == nil {
		w.agent[r.ID] = make(map[string]string)
	}
	w.agent[r.ID][t.ID] = t.Agent
	home, task := r.ID, w.def.Find(t.ID)
	if p := r.Parent; p != nil && p.Run == runID && p.Only != "" {
		home = runID
	}
	if home != runID || task == nil {
		return
	}
	s := task.wants(t.Fallback)
	if of, is := strings.CutSuffix(t.ID, undoSuffix); is && s.SameAs == "" && s.Capability == "" {
		s = &Select{SameAs: of}
	}
	if s != nil && s.SameAs != "" && t.Agent != w.agent[home][s.SameAs] {
		w.t.Errorf("%s, which is for the agent of %s, was given to %s, not to %s", t.ID, s.SameAs, t.Agent, w.agent[home][s.SameAs])
	}
}

// moved looks at a task that has left the document of its run.
func (w *watcher) moved(key string, data []byte) {
	t := new(RunTask)
	if err := event.Unmarshal(data, t); err != nil {
		w.t.Errorf("%s was written as %s: %v", key, data, err)
		return
	}
	if run, _, _ := strings.Cut(key, "/"); t.State == event.TaskCompleted {
		w.completed(run, t.ID)
	}
}

func (w *watcher) completed(run, task string) {
	for _, id := range w.ended[run] {
		if id == task {
			w.t.Errorf("task %s of run %s has completed twice", task, run)
			return
		}
	}
	w.ended[run] = append(w.ended[run], task)
}

// limits compares the limiters with the runs that have a place in them.
func (w *watcher) limits() {
	for id, l := range w.limit {
		holds := 0
		for _, r := range w.runs {
			if r.Holds() == id {
				holds++
			}
		}
		if l.Active != holds || holds > l.Max {
			w.t.Errorf("limiter %s counts %d of %d, and %d runs have a place", id, l.Active, l.Max, holds)
		}
	}
}

func (w *watcher) gate(agent string, data []byte) {
	after := new(lifecycle.Gate)
	if err := event.Unmarshal(data, after); err != nil {
		w.t.Errorf("the gate of %s was written as %s: %v", agent, data, err)
		return
	}
	before := w.gates[agent]
	if before == nil {
		before = new(lifecycle.Gate)
	}
	w.gates[agent] = after
	if len(after.Held) > after.Slots {
		w.t.Errorf("agent %s has %d slots and holds %d: %s", agent, after.Slots, len(after.Held), data)
	}
	for _, h := range after.Held {
		if before.Holds(h.AttemptRef) {
			continue
		}
		name := attemptName(h.RunID, h.TaskID, h.Attempt)
		if to := w.held[name]; to != "" {
			w.t.Errorf("attempt %s was given to %s, and to %s before", name, agent, to)
		}
		w.held[name] = agent
	}
}
