package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow"
)

// newScheduleCommand makes "opscore schedule".
func newScheduleCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "schedule",
		Aliases: []string{"schedules"},
		Short:   "Start runs by the clock",
	})
	cmd.AddCommand(
		newScheduleApply(a), newScheduleList(a), newScheduleShow(a, "get", "Show a schedule and its next ticks", http.MethodGet),
		newScheduleShow(a, "pause", "Pass over all ticks until it is resumed", http.MethodPost, "pause"),
		newScheduleShow(a, "resume", "Let it tick again, from now on", http.MethodPost, "resume"), newScheduleTrigger(a), newScheduleDelete(a),
	)
	return cmd
}

func newScheduleApply(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "apply ID -f FILE",
		Short: "Store a schedule",
		Long: `Store a schedule. FILE is JSON or YAML; "-" means standard input:

  workflowId: report
  cron: "30 4 * * MON-FRI"     # or everySeconds: 90
  timeZone: Europe/Berlin
  overlap: skip                # or queue, allow, replace
  catchUpSeconds: 600          # ticks that nobody could keep are made up for if they are not older
  input: {day: yesterday}

Its next ticks are shown.`,
		Example: "  opscore schedule apply nightly -f nightly.yaml",
		Args:    one("a schedule"),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			name, body, err := a.readSchedule(file)
			if err != nil {
				return err
			}
			put := request{method: http.MethodPut, path: apiRoute("schedules", args[0]), body: body}
			s, err := send[event.Schedule](ctx, c, put)
			if err != nil {
				return fmt.Errorf("%s was not applied: %w", name, err)
			}
			return a.print(s, func(p *sheet) { showSchedule(p, &s) })
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` with the schedule; - for standard input")
	_ = cmd.MarkFlagRequired("file")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml", "json")
	return cmd
}

// readSchedule reads a schedule, says what its file is called, and checks what can be checked here.
func (a *app) readSchedule(file string) (name string, _ event.Raw, _ error) {
	name, source, err := a.readInput(file)
	if err != nil {
		return "", nil, err
	}
	body, err := workflow.ToJSON(source)
	var problems workflow.Problems
	if errors.As(err, &problems) {
		a.printProblems(name, source, problems, "")
		return "", nil, fmt.Errorf("%s was not applied", name)
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s was not applied: %w", name, err)
	}
	message, err := event.Decode(event.CommandSubject(event.KindScheduleApply, "x"), body)
	if err == nil {
		err = workflow.CheckSchedule(&message.Event.(*event.ScheduleApply).ScheduleSpec, time.Now())
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s was not applied: %w", name, err)
	}
	warnings := workflow.ScheduleWarnings(body)
	workflow.Locate(source, warnings)
	a.printProblems(name, source, warnings, "warning: ")
	return name, body, nil
}

func newScheduleList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the schedules, and when each ticks next",
		Args:  none,
		RunE: a.call(func(ctx context.Context, c *client, _ []string) error {
			head := []string{"SCHEDULE", "WORKFLOW", "WHEN", "NEXT", "LAST", "STARTED", "SKIPPED", "MISSED"}
			return printList(a, pages[event.Schedule](ctx, c, apiRoute("schedules")), head, scheduleRow)
		}),
	}
}

// newScheduleShow makes a command that makes one request about a schedule and shows what it is then.
func newScheduleShow(a *app, verb, short, method string, below ...string) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " ID",
		Short: short,
		Args:  one("a schedule"),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			route := apiRoute(append([]string{"schedules", args[0]}, below...)...)
			s, err := send[event.Schedule](ctx, c, request{method: method, path: route})
			if err != nil {
				return err
			}
			return a.print(s, func(p *sheet) { showSchedule(p, &s) })
		}),
	}
}

// triggeredRun is the answer to a trigger.
type triggeredRun struct {
	ScheduleID string `json:"scheduleId"`
	RunID      string `json:"runId"`
}

func newScheduleTrigger(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "trigger ID",
		Short: "Start a run at once, whatever its ticks are",
		Args:  one("a schedule"),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			run, err := send[triggeredRun](ctx, c, request{method: http.MethodPost, path: apiRoute("schedules", args[0], "trigger")})
			if err != nil {
				return err
			}
			return a.print(run, func(p *sheet) { p.field("Run", text(run.RunID)) })
		}),
	}
}

// deletedSchedule is the answer to a deletion.
type deletedSchedule struct {
	ScheduleID string `json:"scheduleId"`
	Deleted    bool   `json:"deleted"`
	Already    bool   `json:"already,omitzero"` // it was gone before
}

func newScheduleDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "delete ID",
		Short: "Delete a schedule; its runs stay",
		Args:  one("a schedule"),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			done, err := send[deletedSchedule](ctx, c, request{method: http.MethodDelete, path: apiRoute("schedules", args[0])})
			if err != nil {
				return err
			}
			return a.print(done, func(p *sheet) {
				if done.Already {
					p.field("Already gone", text(done.ScheduleID))
				} else {
					p.field("Deleted", text(done.ScheduleID))
				}
			})
		}),
	}
}

// when says in a few words when a schedule ticks.
func when(s *event.Schedule) string {
	if s.Cron == "" {
		return "every " + time.Duration(s.EverySeconds*float64(time.Second)).String()
	}
	if s.TimeZone == "" {
		return s.Cron + " UTC"
	}
	return s.Cron + " " + s.TimeZone
}

// nextTick is when a schedule ticks next, or why it does not.
func nextTick(st style, s *event.Schedule) cell {
	switch {
	case s.Paused:
		return text("paused")
	case s.NextAt == nil:
		return text("never")
	}
	return st.time(*s.NextAt)
}

func scheduleRow(st style, s event.Schedule) []cell {
	last := text("")
	if s.LastAt != nil {
		last = st.time(*s.LastAt)
	}
	number := func(n uint64) cell { return text(fmt.Sprint(n)) }
	return []cell{
		text(s.ScheduleID), text(s.WorkflowID), text(when(&s)), nextTick(st, &s), last, number(s.Started), number(s.Skipped), number(s.Missed),
	}
}

func showSchedule(p *sheet, s *event.Schedule) {
	p.field("Schedule", text(s.ScheduleID))
	p.field("Workflow", text(s.WorkflowID))
	p.field("When", text(when(s)))
	p.field("Next", nextTick(p.style, s))
	if s.LastAt != nil {
		p.field("Last", p.time(*s.LastAt))
		p.field("Last run", text(s.LastRunID))
	}
	if s.WaitingAt != nil {
		p.field("Waiting", text(s.WaitingAt.Format(time.RFC3339)+" waits for the last run to end"))
	}
	p.field("Ticks", text(fmt.Sprintf("%d started, %d skipped, %d missed", s.Started, s.Skipped, s.Missed)))
	if len(s.Upcoming) > 0 {
		p.section("Upcoming")
		rows := make([][]cell, len(s.Upcoming))
		for i, tick := range s.Upcoming {
			rows[i] = []cell{text(tick.UTC().Format(time.RFC3339))}
		}
		p.rows(newTable("TICK"), rows, false)
	}
}
