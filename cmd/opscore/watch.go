package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/opspawn/opscore/bus/event"
)

// How a run is followed.
const (
	firstPoll  = 50 * time.Millisecond // doubled up to slowPoll
	slowPoll   = time.Second
	waitOutage = time.Minute // without an answer, after which the wait is given up
)

// waitRun follows a run to its end. It returns the run as it was last seen, nil if that was never or the program was interrupted, and an
// incompleteError unless the run completed.
func (a *app) waitRun(ctx context.Context, c *client, id string) (*event.Run, error) {
	view := a.newLiveView()
	defer view.clear()
	return a.followRun(ctx, c, id, view.show)
}

// followRun is waitRun with another way to show the run whenever it was seen.
func (a *app) followRun(ctx context.Context, c *client, id string, show func(*event.Run)) (*event.Run, error) {
	var last *event.Run
	answered := time.Now()
	for pause := firstPoll; ; pause = min(2*pause, slowPoll) {
		run, err := send[event.Run](ctx, c, request{method: http.MethodGet, path: apiRoute("runs", id)})
		switch {
		case ctx.Err() != nil:
			return a.waitEnded(ctx, id, last)
		case err == nil:
			last, answered = &run, time.Now()
			show(&run)
		case !passing(err) || time.Since(answered) > waitOutage:
			return nil, fmt.Errorf("lost sight of run %s: %w", id, err)
		}
		if err == nil && run.State.Final() {
			return &run, outcome(&run)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return a.waitEnded(ctx, id, last)
		}
	}
}

// waitEnded says that a wait ended before its run did.
func (a *app) waitEnded(ctx context.Context, id string, last *event.Run) (*event.Run, error) {
	text := fmt.Sprintf("run %s goes on; see \"opscore run get %s\"", id, id)
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, &incompleteError{text: text, cause: context.Canceled}
	}
	return last, &incompleteError{text: fmt.Sprintf("no end within %s; %s", a.timeout, text), cause: ctx.Err()}
}

// passing reports whether an error may be over soon, so that a wait goes on.
func passing(err error) bool {
	var unreachable *unreachableError
	var answer *apiError
	return errors.As(err, &unreachable) || errors.As(err, &answer) && answer.unavailable()
}

// outcome is nil for a run that completed, and says otherwise how it ended.
func outcome(r *event.Run) error {
	if r.State == event.RunCompleted {
		return nil
	}
	text := fmt.Sprintf("run %s is %s", r.RunID, r.State)
	if r.Error != nil {
		text += ": " + problemText(r.Error)
	}
	return &incompleteError{text: text}
}

// liveView draws a run on a terminal again and again, in the same place. Its nil pointer draws nothing.
type liveView struct {
	app   *app
	w     *os.File
	drawn int // lines
}

// newLiveView returns a view on stderr, nil if that is no terminal.
func (a *app) newLiveView() *liveView {
	if !a.style(a.stderr).terminal {
		return nil
	}
	return &liveView{app: a, w: a.stderr.(*os.File)}
}

// show draws a run over what was drawn before.
func (v *liveView) show(r *event.Run) {
	if v == nil {
		return
	}
	width, height, err := term.GetSize(int(v.w.Fd()))
	if err != nil || width == 0 || height == 0 {
		width, height = 80, 24 // it does not say
	}
	lines := frame(v.app.style(v.w), r, width, height)
	_, _ = io.WriteString(v.w, v.up()+strings.Join(lines, "\n")+"\n")
	v.drawn = len(lines)
}

// clear removes what was drawn.
func (v *liveView) clear() {
	if v == nil {
		return
	}
	_, _ = io.WriteString(v.w, v.up())
	v.drawn = 0
}

// up moves the cursor to the first line drawn, and erases from there.
func (v *liveView) up() string {
	if v.drawn == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", v.drawn)
}

// frame is what a live view shows of a run: its state and as many tasks as there is room for, from the first that has not ended.
func frame(s style, r *event.Run, width, height int) []string {
	title := []cell{state(r.State), s.between(&r.CreatedAt, r.EndedAt), text(r.WorkflowID), text("run " + r.RunID)}
	lines := []string{s.row(title, nil, max(width-1, 1))}
	from, to := window(r.Tasks, height-4)
	rows := make([][]cell, 0, to-from)
	for i := from; i < to; i++ {
		rows = append(rows, liveRow(s, &r.Tasks[i]))
	}
	t := new(table)
	t.fit(rows)
	for _, row := range rows {
		lines = append(lines, "  "+s.row(row, t.widths, max(width-3, 1)))
	}
	if hidden := len(r.Tasks) - (to - from); hidden > 0 {
		lines = append(lines, "  "+s.paint(fmt.Sprintf("and %s", count(hidden, "other task")), colorFaint))
	}
	return lines
}

// window chooses which tasks to show when there is room for some: the first that has not ended, the one before it, and those behind.
func window(tasks []event.RunTask, room int) (from, to int) {
	room = max(room, 1)
	if len(tasks) <= room {
		return 0, len(tasks)
	}
	first := 0
	for first < len(tasks)-1 && tasks[first].State.Final() {
		first++
	}
	from = min(max(first-1, 0), len(tasks)-room)
	return from, from + room
}

// liveRow is a line of a live view.
func liveRow(s style, t *event.RunTask) []cell {
	return []cell{text(t.TaskID), state(t.State), text(t.AgentID), s.between(t.StartedAt, t.EndedAt), liveNote(t)}
}

// liveNote says what is worth knowing of a task right now.
func liveNote(t *event.RunTask) cell {
	if t.Error != nil {
		return problemCell(t.Error)
	}
	var notes []string
	if t.Attempt > 1 {
		notes = append(notes, fmt.Sprintf("attempt %d", t.Attempt))
	}
	if c := t.Children; c != nil {
		notes = append(notes, fmt.Sprintf("%d of %s done", c.Done+c.Failed, count(max(c.Total, c.Active+c.Done+c.Failed), "run")))
	}
	if t.Percent != nil && !t.State.Final() {
		notes = append(notes, fmt.Sprintf("%.0f%%", *t.Percent))
	}
	if t.Message != "" && !t.State.Final() {
		notes = append(notes, t.Message)
	}
	if t.State == event.TaskReady && len(t.Reasons) > 0 {
		notes = append(notes, reasonLines(t.Reasons)[0])
	}
	return cell{text: printable(strings.Join(notes, ", "))}
}
