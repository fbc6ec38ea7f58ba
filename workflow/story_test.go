package workflow

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// chain is a definition of n tasks in a row.
func chain(n int) *Definition {
	def := &Definition{ID: "chain"}
	ids := ids(n)
	for i := range ids {
		task := Task{TaskID: ids[i], AgentCapability: "c"}
		if i+1 < n {
			task.NextTaskID = &ids[i+1]
		}
		def.Tasks = append(def.Tasks, task)
	}
	parsed, err := Parse(event.MustMarshal(def))
	if err != nil {
		panic(err)
	}
	return parsed
}

func starts(t *rapid.T) *event.RunStart {
	return &event.RunStart{AgentID: rapid.SampledFrom([]string{"", "ann"}).Draw(t, "named agent")}
}

// story is a run of one task, or more, told input by input.
type story struct {
	t   *testing.T
	def *Definition
	run *Run
	now time.Time
	seq uint64

	docs library
	last Decision
}

func tell(t *testing.T, definition string, start *event.RunStart) *story {
	t.Helper()
	def, err := Parse(event.Raw(definition))
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, def: def, now: noon}
	start.RunID = runID
	s.put(&Start{Event: start, Workflow: def.ID, DefVersion: "v1", Hash: "h"})
	return s
}

func (s *story) at() At {
	s.seq++
	return At{Now: s.now, Seq: s.seq, Stream: s.now, Random: 0.5}
}

// put puts an input and returns the decision, which becomes the run.
func (s *story) put(in Input) Decision { return s.putAt(in, s.at()) }

func (s *story) putAt(in Input, at At) Decision {
	if s.docs == nil {
		s.docs = make(library)
	}
	d := s.docs.decide(s.def, s.run, in, at)
	if d.Run != nil {
		s.run = d.Run
	}
	s.last = d
	return d
}

func (s *story) task(id string) *RunTask {
	s.t.Helper()
	t := s.run.Find(id)
	if t == nil {
		s.t.Fatalf("task %s is not in the run", id)
	}
	return t
}

func (s *story) assign(id string) event.AttemptRef {
	s.t.Helper()
	n := s.run.Find(id).Attempt + 1
	if d := s.put(&Assign{TaskID: id, Agent: "ann", Instance: "p1", Token: fmt.Sprintf("token-%d", n)}); d.Refuse != nil {
		s.t.Fatal(d.Refuse)
	}
	return s.run.Find(id).ref(runID)
}

func completed(ref event.AttemptRef, output string) *Said {
	return &Said{Agent: "ann", Event: &event.Result{AttemptRef: ref, Status: event.StatusCompleted, Output: event.Raw(output)}}
}

func failed(ref event.AttemptRef, e *event.TaskError) *Said {
	return &Said{Agent: "ann", Event: &event.Result{AttemptRef: ref, Status: event.StatusFailed, Error: e}}
}
