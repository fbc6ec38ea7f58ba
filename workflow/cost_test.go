package workflow

import (
	"fmt"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

// BenchmarkOneTaskRun is what the engine decides and encodes for a run of one task: start, assignment, acceptance and result.
func BenchmarkOneTaskRun(b *testing.B) {
	def, err := Parse(event.Raw(oneTask))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		at := At{Now: noon, Seq: 1, Stream: noon}
		var run *Run
		put := func(in Input) {
			at.Seq++
			run = Decide(def, run, in, at).Run
			run.encode()
		}
		put(&Start{Event: &event.RunStart{RunID: runID, Input: event.Raw(`{"q":1}`)}, Workflow: def.ID, DefVersion: "v1", Hash: "h"})
		put(&Assign{TaskID: "a", Agent: "ann", Instance: "p1", Token: "token"})
		ref := run.Find("a").ref(runID)
		put(&Said{Agent: "ann", Event: &event.Accepted{AttemptRef: ref}})
		put(completed(ref, `{"ok":true}`))
		if run.State != event.RunCompleted {
			b.Fatal(run.State)
		}
	}
}

// BenchmarkChain is what it costs to advance a run by one task, in chains of 100 and more.
func BenchmarkChain(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			def := chain(n)
			for b.Loop() {
				drive(b, def)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/task")
		})
	}
}

// drive lets a run of a definition go to its end: each ready task is given to an agent and completes, the earliest first.
func drive(b *testing.B, def *Definition) {
	at := At{Now: noon, Stream: noon}
	var run *Run
	put := func(in Input) {
		at.Seq++
		run = Decide(def, run, in, at).Run
		run.encode()
	}
	put(&Start{Event: &event.RunStart{RunID: runID}, Workflow: def.ID, DefVersion: "v1", Hash: "h"})
	for !run.State.Final() {
		var id string
		for i := range run.Tasks {
			if run.Tasks[i].State == event.TaskReady {
				id = run.Tasks[i].ID
				break
			}
		}
		put(&Assign{TaskID: id, Agent: "ann", Instance: "p1", Token: "token"})
		put(completed(run.Find(id).ref(runID), `{"ok":true}`))
	}
	if run.State != event.RunCompleted || run.Completed != run.Total {
		b.Fatalf("the run is %s after %d of %d tasks", run.State, run.Completed, run.Total)
	}
}

// BenchmarkFan is what it costs to advance a run by one task, when many are active at the same time.
func BenchmarkFan(b *testing.B) {
	for _, n := range []int{99, 1000, MaxTasks - 1} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			def := fan(n)
			for b.Loop() {
				drive(b, def)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/task")
		})
	}
}
