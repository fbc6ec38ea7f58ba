package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/opspawn/opscore/bus/event"
)

// shownAgents is how many agents are named when the same reason holds for many.
const shownAgents = 5

// runRow is a row of the list of runs.
func runRow(s style, r event.Run) []cell {
	return []cell{
		text(r.RunID), text(r.WorkflowID), state(r.State), s.time(r.CreatedAt), s.between(&r.CreatedAt, r.EndedAt),
		text(pairs(r.Labels)), problemCell(r.Error),
	}
}

// showRun shows a run, its tasks, and why ready ones have no agent yet.
func showRun(p *sheet, r *event.Run) {
	p.field("Run", text(r.RunID))
	p.field("Workflow", text(nameVersion(r.WorkflowID, r.WorkflowVersion)))
	p.field("State", state(r.State))
	if r.Parent != nil {
		p.field("Started by", text(fmt.Sprintf("task %s of run %s, number %d", r.Parent.TaskID, r.Parent.RunID, r.Parent.Index)))
	}
	p.optional("Agent", r.AgentID)
	p.optional("Labels", pairs(r.Labels))
	p.field("Created", p.time(r.CreatedAt))
	if r.EndedAt != nil {
		p.field("Ended", p.time(*r.EndedAt))
	}
	p.field("Duration", p.between(&r.CreatedAt, r.EndedAt))
	p.optional("Input", compact(r.Input))
	p.optional("Output", compact(r.Output))
	if r.Error != nil {
		p.field("Error", problemCell(r.Error))
	}
	if r.Truncated {
		p.field("Left out", text("outputs that are too large to show"))
	}
	if len(r.Tasks) == 0 {
		return
	}
	rows := make([][]cell, len(r.Tasks))
	for i := range r.Tasks {
		rows[i] = taskRow(p.style, &r.Tasks[i])
	}
	p.section("Tasks")
	p.rows(newTable("TASK", "STATE", "AGENT", "ATTEMPT", "DURATION", "ERROR"), rows, true)
	for i := range r.Tasks {
		if c := r.Tasks[i].Children; c != nil {
			showChildren(p, r.RunID, r.Tasks[i].TaskID, c)
		}
	}
	for i := range r.Tasks {
		if r.Tasks[i].State == event.TaskReady && !r.State.Final() {
			showReasons(p, &r.Tasks[i])
		}
	}
}

// showChildren counts the runs that a task has started.
func showChildren(p *sheet, run, task string, c *event.Children) {
	p.section("")
	total := ""
	if c.Total > 0 {
		total = fmt.Sprintf(" of %d", c.Total)
	}
	p.line(text(fmt.Sprintf("Task %s has started %d%s runs: %d active, %d completed, %d failed. To list them: opscore run list --parent %s",
		printable(task), c.Active+c.Done+c.Failed, total, c.Active, c.Done, c.Failed, run)))
}

// taskRow is a row of the tasks of a run.
func taskRow(s style, t *event.RunTask) []cell {
	attempt := ""
	if t.Attempt > 0 {
		attempt = fmt.Sprint(t.Attempt)
	}
	return []cell{text(t.TaskID), state(t.State), text(t.AgentID), text(attempt), s.between(t.StartedAt, t.EndedAt), problemCell(t.Error)}
}

// problemCell shows why a run or a task failed.
func problemCell(e *event.TaskError) cell {
	if e == nil {
		return text("")
	}
	return text(problemText(e)).in(colorBad)
}

func problemText(e *event.TaskError) string {
	if e.Message == "" {
		return e.Code
	}
	return strings.TrimPrefix(e.Code+": "+e.Message, ": ")
}

// showReasons says why no agent has taken a task that is ready.
func showReasons(p *sheet, t *event.RunTask) {
	p.section("")
	if len(t.Reasons) == 0 {
		p.line(text(fmt.Sprintf("Task %s waits for an agent: none is registered, or one is just about to get it.", t.TaskID)))
		return
	}
	p.line(cell{text: fmt.Sprintf("Task %s waits for an agent:", printable(t.TaskID)), color: colorTitle})
	for _, line := range reasonLines(t.Reasons) {
		p.line(cell{}, text(line))
	}
}

// reasonLines says each reason once, with the agents it holds for, in the order in which the reasons were given.
func reasonLines(reasons []event.Refusal) []string {
	var order []string
	agents := make(map[string][]string)
	for _, r := range reasons {
		why := cmp.Or(r.Text, r.Rule)
		if _, seen := agents[why]; !seen {
			order = append(order, why)
		}
		agents[why] = append(agents[why], r.AgentID)
	}
	lines := make([]string, len(order))
	for i, why := range order {
		lines[i] = names(agents[why]) + ": " + why
	}
	return lines
}

// names lists some names and counts the others.
func names(list []string) string {
	if len(list) <= shownAgents {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:shownAgents], ", "), len(list)-shownAgents)
}
