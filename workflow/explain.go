package workflow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// Bounds of an explanation.
const (
	maxExplained = 50     // tasks of a run that are explained
	maxNamed     = 20     // agents that are named; of more, only how many each rule refuses
	maxAsked     = 20_000 // agents that are asked to explain a run
	fewAsked     = 64     // agents that are asked to show one
	askPage      = 256
)

// census is what the matcher says of the agents that a class could go to.
type census struct {
	asked   int
	free    []string // agents that would take a task now, at most maxNamed
	rules   map[string]int
	refused []refusedBy // the least in the way first, at most maxNamed
	more    bool        // there are agents that were not asked
}

// refusedBy is one refusal and the gate it comes from.
type refusedBy struct {
	event.Refusal
	gate   *lifecycle.Gate
	schema string // that the input does not fit, if that is why
}

// distance orders rules by how much they are in the way; one that is not known is most.
func distance(rule string) int {
	if i := slices.Index(lifecycle.Rules, rule); i >= 0 {
		return i
	}
	return len(lifecycle.Rules)
}

// ask lets the matcher judge one more agent.
func (c *census) ask(g *lifecycle.Gate, want lifecycle.Want, now time.Time) {
	c.asked++
	refusal := lifecycle.Match(g, want, now)
	if refusal == nil {
		if len(c.free) < maxNamed {
			c.free = append(c.free, g.Agent)
		}
		return
	}
	if c.rules == nil {
		c.rules = make(map[string]int)
	}
	c.rules[refusal.Rule]++
	at, _ := slices.BinarySearchFunc(c.refused, refusal.Rule, func(r refusedBy, rule string) int {
		if distance(r.Rule) <= distance(rule) {
			return -1
		}
		return 1
	})
	if at < maxNamed {
		by := refusedBy{Refusal: *refusal, gate: g}
		if refusal.Rule == lifecycle.RuleSchema {
			by.schema = g.Schemas[want.Capability].Input
		}
		c.refused = slices.Insert(c.refused, at, by)
		c.refused = c.refused[:min(len(c.refused), maxNamed)]
	}
}

// counts lists the rules, the least in the way first.
func (c *census) counts() []event.RuleCount {
	counts := make([]event.RuleCount, 0, len(c.rules))
	for rule, n := range c.rules {
		counts = append(counts, event.RuleCount{Rule: rule, Agents: n})
	}
	slices.SortFunc(counts, func(a, b event.RuleCount) int {
		if d := distance(a.Rule) - distance(b.Rule); d != 0 {
			return d
		}
		return strings.Compare(a.Rule, b.Rule)
	})
	return counts
}

// refusals lists the refusals of a task that were kept.
func (c *census) refusals(t *RunTask) []event.Refusal {
	list := make([]event.Refusal, len(c.refused))
	for i, r := range c.refused {
		list[i] = r.Refusal
		if r.Rule == lifecycle.RuleSchema {
			list[i].Text += t.misfits(r.schema)
		}
	}
	return list
}

// sentence says how many agents there are and what refuses a task.
func (c *census) sentence(refused []event.Refusal) string {
	switch {
	case len(c.free) > 0:
		return fmt.Sprintf("agent %q is free", c.free[0])
	case c.asked == 0:
		return "no agent is registered"
	case len(refused) == 1:
		return fmt.Sprintf("agent %q does not take it: %s", refused[0].AgentID, refused[0].Text)
	}
	counts := c.counts()
	parts := make([]string, len(counts))
	for i, n := range counts {
		parts[i] = fmt.Sprintf("%s (%d)", n.Rule, n.Agents)
	}
	more := ""
	if c.more {
		more = "the first "
	}
	return fmt.Sprintf("%s%d agents do not take it: %s", more, c.asked, strings.Join(parts, ", "))
}

// unblock says in one sentence what would let a task of a class go on.
func unblock(want *lifecycle.Want, queue *event.Queue, c *census, now time.Time) string {
	switch {
	case queue.Paused:
		return fmt.Sprintf("resume the queue of %q", want.Capability)
	case len(c.free) > 0:
		return "nothing: it is about to be given out, or stands behind others in its queue"
	case len(c.refused) == 0, distance(c.refused[0].Rule) >= distance(lifecycle.RuleLabel):
		return "register " + asks(want)
	}
	text := relieve(&c.refused[0], now)
	if n := c.rules[c.refused[0].Rule]; n > 1 {
		text += fmt.Sprintf(", or the same of one of %d others", n-1)
	}
	return text
}

// relieve says what would let one agent take a task.
func relieve(r *refusedBy, now time.Time) string {
	wait := func(until time.Time, why string) string {
		return fmt.Sprintf("wait %s: %s of agent %q", max(until.Sub(now), 0).Round(100*time.Millisecond), why, r.AgentID)
	}
	switch r.Rule {
	case lifecycle.RuleSlots:
		return fmt.Sprintf("wait until agent %q has a free slot, or register another one like it", r.AgentID)
	case lifecycle.RuleBackoff:
		return wait(r.gate.Until, "back-off")
	case lifecycle.RuleBreaker:
		if r.gate.Breaker.State(now) == lifecycle.BreakerHalfOpen {
			return fmt.Sprintf("wait until agent %q has done the task that it is being tried with", r.AgentID)
		}
		return wait(r.gate.Breaker.Until, "breaker")
	case lifecycle.RuleSilent:
		return wait(r.gate.Until, "silence") + ", or let it be heard of"
	case lifecycle.RuleDraining:
		return fmt.Sprintf("undrain agent %q", r.AgentID)
	case lifecycle.RuleCordoned:
		return fmt.Sprintf("uncordon agent %q", r.AgentID)
	case lifecycle.RuleSuspect, lifecycle.RuleLost:
		return fmt.Sprintf("a heartbeat of agent %q", r.AgentID)
	case lifecycle.RuleState:
		return fmt.Sprintf("let agent %q report that it is idle", r.AgentID)
	}
	return fmt.Sprintf("agent %q: %s", r.AgentID, r.Text)
}

// addReasons says of each ready task why the agents it could go to have not taken it.
func (q *Queries) addReasons(ctx context.Context, r *Run, shown *event.Run) error {
	var classes []string
	waits := make(map[int]*RunTask) // by its place among those that are shown
	for i := range shown.Tasks {
		if t := r.Find(shown.Tasks[i].TaskID); t != nil && t.State == event.TaskReady && r.class(t) != "" {
			classes, waits[i] = append(classes, t.Class), t
		}
	}
	if len(classes) == 0 {
		return nil
	}
	x, err := q.explainer(ctx, fewAsked)
	if err != nil {
		return err
	}
	if err := x.meet(ctx, classes); err != nil {
		return err
	}
	for i, t := range waits {
		shown.Tasks[i].Reasons = x.known[t.Class].refusals(t)
	}
	return nil
}

// ExplainRun says what a run waits for. It fails with an *event.Error of CodeUnknownRun if there is none, and otherwise with the store's error.
func (q *Queries) ExplainRun(ctx context.Context, id string) (*event.RunExplanation, error) {
	r, err := q.readRun(ctx, id)
	if err != nil {
		return nil, err
	}
	def, err := q.definition(ctx, r)
	if err != nil {
		return nil, err
	}
	x, err := q.explainer(ctx, maxAsked)
	if err != nil {
		return nil, err
	}
	out := &event.RunExplanation{RunID: r.ID, State: r.State, Error: r.Error, Tasks: []event.TaskExplanation{}}
	since := r.Created.UTC()
	if !r.Ended.IsZero() {
		since = r.Ended.UTC()
	}
	out.Since = &since
	active, classes := explained(r)
	if err := x.meet(ctx, classes); err != nil {
		return nil, err
	}
	out.More = max(len(active)-maxExplained, 0)
	for _, t := range active[:min(len(active), maxExplained)] {
		said, err := x.task(ctx, def.Find(t.ID), t)
		if err != nil {
			return nil, err
		}
		out.Tasks = append(out.Tasks, *said)
	}
	out.Text = runText(r, out)
	if r.State == event.RunPending {
		out.Text, err = q.pendingText(ctx, r)
	}
	return out, err
}

// explained lists the tasks of a run that are active, and the classes in which the first of them wait.
func explained(r *Run) (active []*RunTask, classes []string) {
	if r.State.Final() {
		return nil, nil
	}
	for i := range r.Tasks {
		t := &r.Tasks[i]
		if t.State.Final() || t.State == event.TaskPending {
			continue
		}
		if active = append(active, t); len(active) <= maxExplained && t.State == event.TaskReady && t.Class != "" {
			classes = append(classes, t.Class)
		}
	}
	return active, classes
}

// runText says in a sentence or two what a run waits for.
func runText(r *Run, x *event.RunExplanation) string {
	switch {
	case r.State.Final():
		text := fmt.Sprintf("The run is %s since %s", r.State, x.Since.Format(time.RFC3339))
		if r.Error != nil {
			text += fmt.Sprintf(": %s: %s", r.Error.Code, r.Error.Message)
		}
		return text + "."
	case r.pausedWithParent():
		return fmt.Sprintf("The run is paused with run %q, which has started it: nothing of it is begun until that one is resumed.", r.Parent.Run)
	case r.State == event.RunPaused:
		return "The run is paused: nothing of it is begun until it is resumed."
	case r.State == event.RunPending:
		return "The run has not begun: it waits for its time, or until there is room beside other runs of its definition."
	case len(x.Tasks) == 0:
		return "No task of the run is active."
	case len(x.Tasks)+x.More == 1:
		return fmt.Sprintf("Task %q %s.", x.Tasks[0].TaskID, x.Tasks[0].Text)
	}
	return fmt.Sprintf("%d tasks are active; task %q %s.", len(x.Tasks)+x.More, x.Tasks[0].TaskID, x.Tasks[0].Text)
}

// task explains one task that has not ended; node is what the definition says of it, and may be nil.
func (x *explainer) task(ctx context.Context, node *Task, t *RunTask) (*event.TaskExplanation, error) {
	out := &event.TaskExplanation{TaskID: t.ID, State: t.State}
	if !t.Look.IsZero() {
		out.Until = utc(t.Look)
	}
	switch t.State {
	case event.TaskReady:
		if t.Class != "" {
			return out, x.ready(ctx, t, out)
		}
		out.Text = "is ready, and waits for room beside other tasks"
	case event.TaskAssigned:
		out.Since = utc(t.Assigned)
		out.Text = fmt.Sprintf("was given to agent %q %s ago (attempt %d), whose answer is awaited until %s",
			t.Agent, x.ago(t.Assigned), t.Attempt, t.AcceptBy.UTC().Format(time.RFC3339))
	case event.TaskRunning:
		out.Since = utc(t.Assigned)
		out.Text = fmt.Sprintf("has been at work on agent %q for %s (attempt %d); without progress or a result it is given up at %s",
			t.Agent, x.ago(t.Assigned), t.Attempt, t.Lease.UTC().Format(time.RFC3339))
	case event.TaskRetrying:
		out.Text = fmt.Sprintf("is tried again at %s, after attempt %d", t.Retry.UTC().Format(time.RFC3339), t.Attempt)
		if t.Error != nil {
			out.Text += fmt.Sprintf(" failed with %s: %s", t.Error.Code, t.Error.Message)
		}
	default:
		out.Text = waitText(node, t)
	}
	return out, nil
}

// waitText says what a task waits for that needs no agent now.
func waitText(node *Task, t *RunTask) string {
	text := "is " + string(t.State)
	switch {
	case node == nil:
	case t.Kids != nil:
		return t.Kids.text()
	case node.Signal != nil:
		text += fmt.Sprintf(": for signal %q", node.Signal.Name)
	case node.Approval != nil:
		text += ": for somebody's approval"
	case node.Wait != nil && !t.Look.IsZero():
		return text + " until " + t.Look.UTC().Format(time.RFC3339)
	}
	if !t.Look.IsZero() {
		text += ", and is looked at again at " + t.Look.UTC().Format(time.RFC3339)
	}
	return text
}

// ready explains a task that waits for an agent, in a class that was met.
func (x *explainer) ready(ctx context.Context, t *RunTask, out *event.TaskExplanation) error {
	c := x.known[t.Class]
	at := storage.Score(max(place(t.Ready, t.Priority).UnixMicro(), 0))
	before, err := x.q.store.Count(ctx, readyIndex(t.Class), 0, max(at-1, 0))
	if err != nil {
		return fmt.Errorf("count ready tasks: %w", err)
	}
	out.Since, out.Queue, out.Place, out.Agents = utc(t.Ready), &c.queue, before+1, c.asked
	out.Rules, out.Refused = c.counts(), c.refusals(t)
	out.Unblock = unblock(&c.want, &c.queue, &c.census, x.now)
	why := c.sentence(out.Refused)
	if c.queue.Paused {
		why = "that queue is paused"
		if c.queue.Reason != "" {
			why += fmt.Sprintf(" (%s)", c.queue.Reason)
		}
	}
	out.Text = fmt.Sprintf("has waited for %s for %s, at place %d of %d: %s", asks(&c.want), x.ago(t.Ready), out.Place, max(c.queue.Waiting, out.Place), why)
	return nil
}

func (x *explainer) ago(t time.Time) string {
	d := max(x.now.Sub(t), 0)
	if d < time.Minute {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func utc(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// ExplainAgent says why an agent is given nothing, and which queues it could serve. It fails with an *event.Error of CodeUnknownAgent if it is not
// registered, and otherwise with the store's error.
func (q *Queries) ExplainAgent(ctx context.Context, id string) (*event.AgentExplanation, error) {
	gates, err := lifecycle.Gates(ctx, q.store, id)
	if err != nil {
		return nil, err
	}
	g := gates[0]
	if !g.Registered {
		return nil, event.Errorf(event.CodeUnknownAgent, "agent %q is not registered", id)
	}
	x, err := q.explainer(ctx, maxAsked)
	if err != nil {
		return nil, err
	}
	out := &event.AgentExplanation{AgentID: id, Held: len(g.Held), Slots: g.Slots, Queues: []event.Queue{}}
	out.Refusal = lifecycle.Match(g, lifecycle.Want{Agent: id}, x.now)
	out.Available = out.Refusal == nil
	if !out.Available {
		out.Unblock = relieve(&refusedBy{Refusal: *out.Refusal, gate: g}, x.now)
	}
	names, err := q.classes(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		switch want := parseClass(name); {
		case !lifecycle.Fits(g, want):
			out.Others++
		case len(out.Queues) < maxExplained:
			queue, err := q.queue(ctx, name, x.paused)
			if err != nil {
				return nil, err
			}
			if queue.Waiting > 0 {
				out.Queues = append(out.Queues, queue)
			}
		}
	}
	out.Text = agentText(out)
	return out, nil
}

// agentText says in a sentence why an agent is given nothing.
func agentText(x *event.AgentExplanation) string {
	waiting, paused := 0, 0
	for _, queue := range x.Queues {
		waiting += queue.Waiting
		if queue.Paused {
			paused += queue.Waiting
		}
	}
	switch {
	case !x.Available:
		return fmt.Sprintf("Agent %q is given nothing: %s. %d tasks wait that it could do.", x.AgentID, x.Refusal.Text, waiting)
	case waiting == 0:
		return fmt.Sprintf("Agent %q is free, and no task waits that it could do.", x.AgentID)
	case paused == waiting:
		return fmt.Sprintf("Agent %q is free; %d tasks wait that it could do, in queues that are paused.", x.AgentID, waiting)
	}
	return fmt.Sprintf("Agent %q is free, and is about to be given one of %d tasks that it could do.", x.AgentID, waiting-paused)
}
