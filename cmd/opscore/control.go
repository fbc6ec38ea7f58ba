package main

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

// steer makes a command that is about one run, and prints the run it has become.
func (a *app) steer(use, short string, args cobra.PositionalArgs, post func(args []string) (request, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args, ValidArgsFunction: onlyArgument(a.completeRuns()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			r, err := post(args)
			if err != nil {
				return err
			}
			r.method = http.MethodPost
			run, err := send[event.Run](ctx, c, r)
			if err != nil {
				return err
			}
			return a.print(run, func(p *sheet) { showRun(p, &run) })
		}),
	}
}

// newRunSwitch makes "run pause" and "run resume".
func newRunSwitch(a *app, verb, short string) *cobra.Command {
	var reason string
	cmd := a.steer(verb+" RUN", short, one("a run"), func(args []string) (request, error) {
		return request{path: apiRoute("runs", args[0], verb), body: map[string]string{"reason": reason}}, nil
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people")
	return cmd
}

func newRunSignal(a *app) *cobra.Command {
	var file string
	cmd := a.steer("signal RUN NAME [JSON]", "Send a signal to a run", asInUse, func(args []string) (request, error) {
		raw := event.Raw("null")
		switch {
		case file != "" && len(args) == 3:
			return request{}, usagef("give the payload as an argument or with --file, not both")
		case file != "":
			_, content, err := a.readInput(file)
			if err != nil {
				return request{}, err
			}
			raw = content
		case len(args) == 3:
			raw = event.Raw(args[2])
		}
		if err := raw.Compact(); err != nil {
			return request{}, usagef("the payload is not JSON: %s", strings.TrimPrefix(err.Error(), "jsontext: "))
		}
		return request{path: apiRoute("runs", args[0], "signals", args[1]), body: raw}, nil
	})
	cmd.Example = `  opscore run signal $RUN paid '{"amount": 12}'`
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` with the payload; - for standard input")
	return cmd
}

// newRunDecision makes "run approve" and "run reject".
func newRunDecision(a *app, verb, short string) *cobra.Command {
	var comment, by string
	cmd := a.steer(verb+" RUN TASK", short, asInUse, func(args []string) (request, error) {
		if by == "" {
			by = a.getenv("USER")
		}
		return request{path: apiRoute("runs", args[0], "tasks", args[1], verb), body: map[string]string{"comment": comment, "by": by}}, nil
	})
	cmd.Flags().StringVar(&comment, "comment", "", "for people")
	cmd.Flags().StringVar(&by, "by", "", "who decides (default: USER)")
	return cmd
}

func newRunRetry(a *app) *cobra.Command {
	var task, reason string
	cmd := a.steer("retry RUN", "Let a run that failed or was cancelled go on", one("a run"), func(args []string) (request, error) {
		return request{path: apiRoute("runs", args[0], "retry"), body: map[string]string{"taskId": task, "reason": reason}}, nil
	})
	cmd.Flags().StringVar(&task, "task", "", "only this `task`, with what was cancelled because it had failed (default: all that did not complete)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people")
	return cmd
}

// rerunRequest is the body of a rerun.
type rerunRequest struct {
	TaskID string               `json:"taskId"`
	Input  event.Raw            `json:"input,omitzero"`
	Set    map[string]event.Raw `json:"set,omitzero"`
	Reason string               `json:"reason,omitzero"`
}

func newRunRerun(a *app) *cobra.Command {
	var inputs []string
	var reason string
	cmd := a.steer("rerun RUN TASK", "Run a run again from one of its tasks", asInUse, func(args []string) (request, error) {
		body := rerunRequest{TaskID: args[1], Reason: reason}
		for _, in := range inputs {
			if k, v, ok := strings.Cut(in, "="); ok && !strings.HasPrefix(in, "{") && !strings.HasPrefix(in, "@") {
				if body.Set == nil {
					body.Set = make(map[string]event.Raw)
				}
				body.Set[k] = jsonOrText(v)
				continue
			}
			raw, err := a.runInput(in)
			if err != nil {
				return request{}, err
			}
			body.Input = raw
		}
		return request{path: apiRoute("runs", args[0], "rerun"), body: body}, nil
	})
	cmd.Long = `Run a run again from one of its tasks. What followed from the task is done again, and so is what did not complete;
the outputs of all other tasks are used again. The run must have ended.`
	cmd.Example = `  opscore run rerun $RUN summarise --input tone=plain
  opscore run rerun $RUN summarise --input @input.json`
	cmd.Flags().StringArrayVar(&inputs, "input", nil, "input of the task: a JSON object or @FILE instead of its own, or `k=v` to replace a member; may be repeated")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people")
	return cmd
}

// jsonOrText takes a value for JSON if it is, else for a text.
func jsonOrText(v string) event.Raw {
	if raw := event.Raw(v); raw.IsValid() {
		return raw
	}
	return event.MustMarshal(v)
}

// newApprovalCommand makes "opscore approval".
func newApprovalCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{Use: "approval", Aliases: []string{"approvals"}, Short: "Show what waits for people"})
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List what waits for people, oldest first", Args: none,
		RunE: a.call(func(ctx context.Context, c *client, _ []string) error {
			head := []string{"RUN", "TASK", "WORKFLOW", "SINCE", "UNTIL", "MESSAGE"}
			return printList(a, pages[event.Approval](ctx, c, apiRoute("approvals")), head, approvalRow)
		}),
	})
	return cmd
}

func approvalRow(s style, w event.Approval) []cell {
	until := text("")
	if w.Until != nil {
		until = s.time(*w.Until)
	}
	return []cell{text(w.RunID), text(w.TaskID), text(w.WorkflowID), s.time(w.Since), until, text(w.Message)}
}

// newWorkflowSwitch makes "workflow pause" and "workflow resume".
func newWorkflowSwitch(a *app, verb, short string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Args: one("a workflow"), ValidArgsFunction: onlyArgument(a.completeWorkflows()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			post := request{method: http.MethodPost, path: apiRoute("workflows", args[0], verb), body: map[string]string{"reason": reason}}
			def, err := send[event.Definition](ctx, c, post)
			if err != nil {
				return err
			}
			return a.print(def, func(p *sheet) { showWorkflow(p, &def) })
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people")
	return cmd
}

// cancelSettled looks at a run until it is known what became of the cancel of each of its tasks, or the wait is over.
func cancelSettled(ctx context.Context, c *client, run event.Run, wait time.Duration) (event.Run, error) {
	over := time.After(wait)
	for pause := firstPoll; ; pause = min(2*pause, slowPoll) {
		open := false
		for i := range run.Tasks {
			open = open || run.Tasks[i].Cancel == event.CancelRequested
		}
		if !open {
			return run, nil
		}
		select {
		case <-time.After(pause):
		case <-over:
			return run, nil
		case <-ctx.Done():
			return run, ctx.Err()
		}
		var err error
		if run, err = send[event.Run](ctx, c, request{method: http.MethodGet, path: apiRoute("runs", run.RunID)}); err != nil {
			return run, err
		}
	}
}
