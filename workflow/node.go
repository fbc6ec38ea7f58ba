package workflow

// nodeKind is what a task does.
type nodeKind int

const (
	nodeAgent    nodeKind = iota // an agent does it
	nodePass                     // edges meet
	nodeWait                     // time passes
	nodeSignal                   // a signal comes
	nodeApproval                 // a person decides
	nodeChildren                 // runs of their own: forEach, loop, workflow
)

// kind returns what a task does. Old definitions know only agents.
func (d *Definition) kind(t *Task) nodeKind {
	switch {
	case t.ForEach != nil || t.Loop != nil || t.Workflow != nil:
		return nodeChildren
	case t.Wait != nil:
		return nodeWait
	case t.Signal != nil:
		return nodeSignal
	case t.Approval != nil:
		return nodeApproval
	case t.Select != nil || t.AgentCapability != "" || t.AgentID != "" || !d.graph():
		return nodeAgent
	}
	return nodePass
}

// enter begins a task that was reached.
func (d *decider) enter(t *Task, rt *RunTask) {
	switch d.def.kind(t) {
	case nodeAgent:
		d.enterAgent(t, rt)
	case nodePass:
		d.complete(rt, nil)
	case nodeChildren:
		d.enterChildren(t, rt)
	case nodeWait:
		d.enterWait(t, rt)
	case nodeSignal:
		d.enterSignal(t, rt)
	case nodeApproval:
		d.enterApproval(t, rt)
	}
}
