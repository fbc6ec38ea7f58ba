package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

func newRunWatch(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "watch RUN",
		Short: "Follow a run to its end",
		Long: `Follow a run to its end: on a terminal all tasks in one place, elsewhere a line for each change. Then the run is printed, and the command exits with 7 unless
it completed. --timeout bounds the wait; the run itself goes on when the wait ends early.`,
		Args:              one("a run"),
		ValidArgsFunction: onlyArgument(a.completeRuns()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			show := (&lineView{w: a.stderr, style: a.style(a.stderr)}).show
			view := a.newLiveView()
			if view != nil {
				show = view.show
			}
			run, err := a.followRun(ctx, c, args[0], show)
			view.clear()
			if run == nil {
				return err
			}
			if printed := a.print(*run, func(p *sheet) { showRun(p, run) }); printed != nil {
				return printed
			}
			return err
		}),
	}
}

// lineView writes a line whenever the run or one of its tasks is in another state than before, or with another attempt.
type lineView struct {
	w     io.Writer
	style style
	run   event.RunState
	tasks map[string]string
}

func (v *lineView) show(r *event.Run) {
	if v.tasks == nil {
		v.tasks = make(map[string]string)
	}
	for i := range r.Tasks {
		t := &r.Tasks[i]
		if t.State == event.TaskPending {
			continue
		}
		now := fmt.Sprintf("%s %d %s", t.State, t.Attempt, t.AgentID)
		if v.tasks[t.TaskID] == now {
			continue
		}
		v.tasks[t.TaskID] = now
		v.line(append([]cell{text("task " + t.TaskID)}, liveRow(v.style, t)[1:]...))
	}
	if v.run != r.State {
		v.run = r.State
		v.line([]cell{text("run " + r.RunID), state(r.State)})
	}
}

func (v *lineView) line(cells []cell) {
	const width = 200
	fmt.Fprintln(v.w, v.style.row(cells, nil, width))
}
