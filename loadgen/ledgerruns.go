package loadgen

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

const (
	// cancelGrace is how long an agent may go on after a cancel before its slot is given away: the second grace.
	cancelGrace = 10 * time.Second
	// healedSkip is by how much attempt numbers skip ahead after the store came back older.
	healedSkip = 1000
)

// edge judges an acknowledged command or result by its effect.
func (a *auditor) edge(n uint64, e sent, kind Kind) {
	a.ledger.Acked++
	if e.state&bitRefused != 0 || a.dead(e) {
		a.ledger.Stored++
		return
	}
	var missing string
	switch kind {
	case KindStart:
		if a.run(e.key, n) == nil {
			missing = "there is no such run"
		}
	case KindCancel:
		if r := a.found.Runs[e.key]; r == nil {
			missing = "there is no such run"
		} else if !r.State.Final() {
			missing = fmt.Sprintf("the run is %s", r.State)
		}
	case KindResult:
		status := event.StatusCompleted
		if e.state&bitFailed != 0 {
			status = event.StatusFailed
		}
		missing = a.resultMissing(parseResultKey(e.key), status)
	}
	if missing == "" {
		a.ledger.Stored++
		return
	}
	subject := "run " + e.key
	if kind == KindResult {
		ref := parseResultKey(e.key)
		subject = fmt.Sprintf("attempt %d of task %s of run %s", ref.Attempt, ref.TaskID, ref.RunID)
	}
	a.add(&a.ledger.Lost, findingLost, "%s of %s, number %d (%s) was acknowledged, and %s%s", kind, subject, n, a.place(e), missing, a.late(e))
}

// ends judges whether a run has ended, or still can.
func (a *auditor) ends(id string, r *FoundRun) {
	if r.Child && r.State.Final() {
		return
	}
	switch r.State {
	case event.RunCompleted:
		a.ledger.Runs.Completed++
		return
	case event.RunFailed:
		a.ledger.Runs.Failed++
		return
	case event.RunCancelled:
		a.ledger.Runs.Cancelled++
		return
	}
	if !r.Child {
		a.ledger.Runs.GoingOn++
	}
	switch {
	case !r.Due:
		a.add(&a.ledger.Stuck, findingStuck, "run %s is %s, and nothing is due for it: it waits for %s", id, r.State, r.Waits)
	case a.found.MustEnd:
		a.add(&a.ledger.Unended, findingUnended, "run %s is %s, and should have ended: it waits for %s", id, r.State, r.Waits)
	}
}

// run finds a run by its id or, where only the server knew that when it was started, by the number in its input.
func (a *auditor) run(id string, n uint64) *FoundRun {
	if r := a.found.Runs[id]; r != nil {
		return r
	}
	if a.byN == nil {
		a.byN = make(map[uint64]*FoundRun)
		for _, r := range a.found.Runs {
			if r.N != 0 {
				a.byN[r.N] = r
			}
		}
	}
	return a.byN[n]
}

// resultMissing says what shows that a result was not taken in, empty if nothing does. Its effect is the end of its attempt, or what came after it: another
// attempt, or the end of the run, makes the result one that was refused.
func (a *auditor) resultMissing(ref event.AttemptRef, status event.Status) string {
	r := a.found.Runs[ref.RunID]
	if r == nil {
		return "there is no such run"
	}
	if r.State.Final() {
		return ""
	}
	i := slices.IndexFunc(r.Tasks, func(t FoundTask) bool { return t.TaskID == ref.TaskID })
	if i < 0 {
		return "the run has no such task"
	}
	t := r.Tasks[i]
	switch {
	case t.Attempt > ref.Attempt, t.State.Final():
		return ""
	case t.Attempt == ref.Attempt && status == event.StatusFailed && (t.State == event.TaskRetrying || t.State == event.TaskReady):
		return ""
	}
	return fmt.Sprintf("the task is %s in its attempt %d", t.State, t.Attempt)
}

// attempts judges what the agents did.
func (a *auditor) attempts() {
	begun := a.journal.begun()
	byTask := make(map[[2]string][]int)
	byAgent := make(map[string][]int)
	for i := range begun {
		t := &begun[i]
		task := [2]string{t.run, a.journal.names.name(t.task)}
		byTask[task] = append(byTask[task], i)
		agent := a.journal.names.name(t.agent)
		byAgent[agent] = append(byAgent[agent], i)
		if t.status != 0 && t.delivered {
			a.delivered(t)
		}
	}
	superseded := make([]int64, len(begun)) // when an attempt that was still going on had been given up, at the latest; 0 if never
	tasks := make([][2]string, 0, len(byTask))
	for task, places := range byTask {
		if len(places) > 1 {
			tasks = append(tasks, task)
		}
	}
	slices.SortFunc(tasks, func(x, y [2]string) int { return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1])) })
	for _, task := range tasks {
		a.begunAgain(begun, byTask[task], superseded)
	}
	for _, agent := range sortedKeys(byAgent) {
		a.slots(agent, begun, byAgent[agent], superseded)
	}
}

// delivered judges an attempt whose result is known to be acknowledged.
func (a *auditor) delivered(t *attempt) {
	ref := a.ref(t)
	a.ledger.Acked++
	missing := a.resultMissing(ref, statuses[t.status])
	if missing == "" {
		a.ledger.Stored++
		return
	}
	a.add(&a.ledger.Lost, findingLost, "result of %s was acknowledged, and %s", a.name(t), missing)
}

func (a *auditor) ref(t *attempt) event.AttemptRef {
	return event.AttemptRef{RunID: t.run, TaskID: a.journal.names.name(t.task), Attempt: int(t.number)}
}

// name is an attempt, for people.
func (a *auditor) name(t *attempt) string {
	return fmt.Sprintf("attempt %d of task %s of run %s on agent %s", t.number, a.journal.names.name(t.task), t.run, a.journal.names.name(t.agent))
}

// begunAgain judges a task that was begun more than once. Another attempt is no mistake: the first one failed, or was not heard of in time. But
// one attempt is begun once, and no other may follow while it works and there has been no time to give it up.
func (a *auditor) begunAgain(begun []attempt, places []int, superseded []int64) {
	for i, later := range places {
		second := &begun[later]
		for _, earlier := range places[:i] {
			first := &begun[earlier]
			if first.number < second.number && (superseded[earlier] == 0 || second.begin < superseded[earlier]) {
				superseded[earlier] = second.begin
			}
			if first.number == second.number {
				a.add(&a.ledger.Doubled, findingDoubled, "%s was begun at %s, and on agent %s at %s before",
					a.name(second), logTime(second.begin), a.journal.names.name(first.agent), logTime(first.begin))
				continue
			}
			live := statuses[first.status] == event.StatusCompleted && first.delivered && first.cancelled == 0
			soon := time.Duration(second.begin-first.begin) < event.AcceptDeadline
			healed := second.number-first.number >= healedSkip
			if live && soon && !healed && !a.found.Broken.NATS {
				a.add(&a.ledger.Doubled, findingDoubled, "%s was begun at %s while %s was live, which was begun at %s",
					a.name(second), logTime(second.begin), a.name(first), logTime(first.begin))
			}
		}
	}
}

// logTime writes a time as the servers' logs do.
func logTime(ns int64) string { return time.Unix(0, ns).UTC().Format("15:04:05.000") }

// slots looks for a moment at which an agent had more tasks than slots. An attempt that goes on for the second grace after it was cancelled, or
// after another one took its place, does not count from then on: its agent has ignored a cancel, and is listed.
func (a *auditor) slots(agent string, begun []attempt, places []int, superseded []int64) {
	slices.SortStableFunc(places, func(x, y int) int { return cmp.Compare(begun[x].begin, begun[y].begin) })
	var active []int
	for _, p := range places {
		now := &begun[p]
		active = slices.DeleteFunc(active, func(q int) bool {
			t := &begun[q]
			if t.end != 0 && t.end <= now.begin {
				return true
			}
			told := t.cancelled
			if told == 0 {
				told = superseded[q]
			}
			if told == 0 || now.begin < told+int64(cancelGrace) {
				return false
			}
			a.ledger.Unconfirmed = append(a.ledger.Unconfirmed, a.name(t)+" went on for the whole second grace")
			return true
		})
		active = append(active, p)
		if len(active) > int(now.slots) {
			a.add(&a.ledger.OverSlot, findingOverSlot, "%s was begun as number %d at once, and the agent has %d slots", a.name(now), len(active), now.slots)
		}
	}
}
