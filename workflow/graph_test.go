package workflow

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

// states tells the tasks of a run by state, in the order of the definition.
func (s *story) states() string {
	var b strings.Builder
	for _, t := range s.def.Tasks {
		state := s.run.mark(s.def.index[t.TaskID]).state()
		if rt := s.run.Find(t.TaskID); rt != nil {
			state = rt.State
		}
		fmt.Fprintf(&b, "%s:%s ", t.TaskID, state)
	}
	return strings.TrimSpace(b.String())
}

// does lets an agent complete a task that is ready.
func (s *story) does(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		if d := s.put(completed(s.assign(id), `{"by":"`+id+`"}`)); d.Refuse != nil {
			s.t.Fatal(d.Refuse)
		}
	}
}

// breaks lets a task fail for good.
func (s *story) breaks(id string) {
	s.t.Helper()
	no := false
	if d := s.put(failed(s.assign(id), &event.TaskError{Code: "broke", Retryable: &no})); d.Refuse != nil {
		s.t.Fatal(d.Refuse)
	}
}

func (s *story) want(states string) {
	s.t.Helper()
	if got := s.states(); got != states {
		s.t.Fatalf("the tasks are\n%s, want\n%s", got, states)
	}
}

func TestTasksOfAGraphRunSideBySide(t *testing.T) {
	t.Parallel()
	s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"b","agentCapability":"c","dependsOn":["a"]},
		{"taskId":"c","agentCapability":"c","dependsOn":["a"]},{"taskId":"d","agentCapability":"c","dependsOn":["b","c"]}]}`, &event.RunStart{})
	s.want("a:ready b:pending c:pending d:pending")
	s.does("a")
	s.want("a:completed b:ready c:ready d:pending")
	s.does("c")
	s.want("a:completed b:ready c:completed d:pending")
	s.does("b")
	s.want("a:completed b:completed c:completed d:ready")
	s.does("d")
	if s.run.State != event.RunCompleted || s.run.LastDone != "d" || s.run.Completed != 4 || s.run.Total != 4 {
		t.Errorf("%s", event.MustMarshal(s.run))
	}
}

func TestAFailureEndsAGraphWithAllThatIsActive(t *testing.T) {
	t.Parallel()
	s := tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"b","agentCapability":"c"},
		{"taskId":"c","agentCapability":"c","dependsOn":["a","b"]},{"taskId":"d","agentCapability":"c","dependsOn":["c"]}]}`, &event.RunStart{})
	s.assign("b")
	s.breaks("a")
	s.want("a:failed b:cancelled c:pending d:pending")
	if s.run.State != event.RunFailed || len(s.run.Tasks) != 2 {
		t.Errorf("%s", event.MustMarshal(s.run))
	}
}

func TestAnyAndNumberedJoinsBeginOnce(t *testing.T) {
	t.Parallel()
	const tasks = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c"},{"taskId":"b","agentCapability":"c"},{"taskId":"c","agentCapability":"c"},
		{"taskId":"j","agentCapability":"c","dependsOn":["a","b","c"],"join":%s}]}`
	s := tell(t, fmt.Sprintf(tasks, `"any"`), &event.RunStart{})
	s.does("b")
	s.want("a:ready b:completed c:ready j:ready")
	s.does("j", "a")
	s.want("a:completed b:completed c:ready j:completed")
	s.does("c")
	if s.run.State != event.RunCompleted || s.run.Find("j").Attempt != 1 {
		t.Errorf("%s", event.MustMarshal(s.run))
	}
	s = tell(t, fmt.Sprintf(tasks, `2`), &event.RunStart{})
	s.does("c")
	s.want("a:ready b:ready c:completed j:pending")
	s.does("a")
	s.want("a:completed b:ready c:completed j:ready")
}

func TestAFailureTakesItsOwnEdge(t *testing.T) {
	t.Parallel()
	const tasks = `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","onFailure":{"taskId":"mend"}},{"taskId":"b","agentCapability":"c","dependsOn":["a"]},
		{"taskId":"mend","agentCapability":"c"},{"taskId":"z","agentCapability":"c","dependsOn":["b","mend"],"join":"any"}]}`
	s := tell(t, tasks, &event.RunStart{})
	s.breaks("a")
	s.want("a:failed b:skipped mend:ready z:pending")
	s.does("mend", "z")
	if s.run.State != event.RunCompleted {
		t.Errorf("the run is %s", s.run.State)
	}
	s = tell(t, tasks, &event.RunStart{})
	s.does("a")
	s.want("a:completed b:ready mend:skipped z:pending")
	s = tell(t, `{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","onFailure":{"continue":true}},
		{"taskId":"b","agentCapability":"c","dependsOn":["a"]}]}`, &event.RunStart{})
	s.breaks("a")
	s.want("a:failed b:ready")
}

// fan is a definition whose n tasks all lead to one.
func fan(n int) *Definition {
	def := &Definition{ID: "fan"}
	join := Task{TaskID: "join", AgentCapability: "c"}
	for _, id := range ids(n) {
		def.Tasks = append(def.Tasks, Task{TaskID: id, AgentCapability: "c"})
		join.DependsOn = append(join.DependsOn, id)
	}
	def.Tasks = append(def.Tasks, join)
	parsed, err := Parse(event.MustMarshal(def))
	if err != nil {
		panic(err)
	}
	return parsed
}

func TestALargeGraphKeepsItsDocumentSmall(t *testing.T) {
	t.Parallel()
	const n = 1000
	s := &story{t: t, def: fan(n), now: noon}
	s.put(&Start{Event: &event.RunStart{RunID: runID}, Workflow: "fan", DefVersion: "v1", Hash: "h"})
	moved := map[string]bool{}
	for done := 0; done < n; done++ {
		i := slices.IndexFunc(s.run.Tasks, func(t RunTask) bool { return t.State == event.TaskReady })
		d := s.put(completed(s.assign(s.run.Tasks[i].ID), `1`))
		for _, m := range d.Moved {
			if moved[m.ID] {
				t.Fatalf("%s was moved out twice", m.ID)
			}
			moved[m.ID] = true
		}
		if size := len(s.run.encode()); size > 64<<10 || len(s.run.Tasks) > maxActive+1 {
			t.Fatalf("the document has %d tasks in %d bytes", len(s.run.Tasks), size)
		}
	}
	if join := s.task("join"); join.State != event.TaskReady || len(moved) != n || len(s.run.Tasks) != 1 {
		t.Fatalf("%d tasks were moved out, the last is %s", len(moved), join.State)
	}
	s.does("join")
	if s.run.State != event.RunCompleted || s.run.Completed != n+1 {
		t.Errorf("the run is %s after %d tasks", s.run.State, s.run.Completed)
	}
}

func TestALongRowOfTasksThatEndAtOnceNeedsNoStack(t *testing.T) {
	t.Parallel()
	def := &Definition{ID: "row"}
	for i, id := range ids(MaxTasks) {
		task := Task{TaskID: id}
		if i > 0 {
			task.DependsOn = []string{def.Tasks[i-1].TaskID}
		}
		def.Tasks = append(def.Tasks, task)
	}
	parsed, err := Parse(event.MustMarshal(def))
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, def: parsed, now: noon}
	d := s.put(&Start{Event: &event.RunStart{RunID: runID}, Workflow: "row", DefVersion: "v1", Hash: "h"})
	if s.run.State != event.RunCompleted || s.run.Completed != MaxTasks || len(s.run.Tasks) > 0 || len(d.Moved) > 0 {
		t.Errorf("the run is %s after %d tasks, %d are inline and %d moved", s.run.State, s.run.Completed, len(s.run.Tasks), len(d.Moved))
	}
}

// Many runs are decided at the same time by one definition.
func TestARunLeavesItsDefinitionAsItIs(t *testing.T) {
	t.Parallel()
	definition := `{"id":"d","tasks":[{"taskId":"a","switch":[{"taskId":"d"}]},{"taskId":"b","agentCapability":"c"},
		{"taskId":"c","agentCapability":"c"},{"taskId":"d","agentCapability":"c"}]}`
	def, err := Parse(event.Raw(definition))
	if err != nil {
		t.Fatal(err)
	}
	roots := slices.Grow(def.flow.roots, 1)
	roots[:len(roots)+1][len(roots)] = -1
	def.flow.roots = roots
	s := &story{t: t, def: def, now: noon}
	s.put(&Start{Event: &event.RunStart{RunID: runID}, Workflow: def.ID, DefVersion: "v1", Hash: "h"})
	s.want("a:completed b:ready c:ready d:ready")
	if behind := roots[:len(roots)+1][len(roots)]; behind != -1 {
		t.Errorf("the list of its roots was written to: %d", behind)
	}
}
