package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

// newRunCommand makes "opscore run".
func newRunCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "run",
		Aliases: []string{"runs"},
		Short:   "Start, show and steer runs of workflows",
	})
	cmd.AddCommand(newRunStart(a), newRunGet(a), newRunList(a), newRunHistory(a), newRunWatch(a), newRunCancel(a), newRunExplain(a),
		newRunSwitch(a, "pause", "Give nothing of a run to agents, and stop its clocks"), newRunSwitch(a, "resume", "Let a paused run go on"),
		newRunSignal(a), newRunDecision(a, "approve", "Approve what a run waits for"), newRunDecision(a, "reject", "Reject what a run waits for"),
		newRunRetry(a), newRunRerun(a))
	return cmd
}

// startOptions are the flags of "run start".
type startOptions struct {
	agent  string
	input  string
	labels []string
	wait   bool

	priority int
	delay    time.Duration
	within   time.Duration
	key      string
}

func newRunStart(a *app) *cobra.Command {
	var o startOptions
	cmd := &cobra.Command{
		Use:   "start WORKFLOW",
		Short: "Start a run of a workflow, and wait for its end if wanted",
		Long: `Start a run of the latest version of a workflow.

With --wait the command follows the run, prints it at its end, and exits with 7 unless it completed. --timeout then bounds
the wait; the run itself goes on when the wait ends early.`,
		Example: `  opscore run start report --input '{"week": 47}' --wait
  opscore run start report --input @input.json --label team=sales`,
		Args:              one("a workflow"),
		ValidArgsFunction: onlyArgument(a.completeWorkflows()),
		RunE:              a.call(func(ctx context.Context, c *client, args []string) error { return a.startRun(ctx, c, args[0], &o) }),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&o.agent, "agent", "", "`id` of the agent that gets the first task")
	_ = cmd.RegisterFlagCompletionFunc("agent", a.completeAgents())
	flags.StringVar(&o.input, "input", "", "input of the run: a JSON object, @FILE, or @- for standard input")
	flags.StringArrayVar(&o.labels, "label", nil, "label `k=v` of the run; may be repeated")
	flags.IntVar(&o.priority, "priority", 0, "priority of its tasks, 0 to 9")
	flags.DurationVar(&o.delay, "delay", 0, "begin after this `time`")
	flags.DurationVar(&o.within, "deadline", 0, "the run fails unless it has ended within this `time`")
	flags.StringVar(&o.key, "idempotency-key", "", "the same `key` starts the same run, once")
	flags.BoolVar(&o.wait, "wait", false, "wait for the end of the run")
	return cmd
}

func newRunGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "get RUN",
		Short:             "Show a run, its tasks, and what they wait for",
		Args:              one("a run"),
		ValidArgsFunction: onlyArgument(a.completeRuns()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			run, err := send[event.Run](ctx, c, request{method: http.MethodGet, path: apiRoute("runs", args[0])})
			if err != nil {
				return err
			}
			return a.print(run, func(p *sheet) { showRun(p, &run) })
		}),
	}
}

func newRunList(a *app) *cobra.Command {
	var parent string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the runs, oldest first",
		Long: `List the runs, oldest first. Those that the tasks of a run have started, by forEach, loop or workflow, are listed with --parent, in the order of
the tasks and of the items.`,
		Args: none,
		RunE: a.call(func(ctx context.Context, c *client, _ []string) error {
			head := []string{"RUN", "WORKFLOW", "STATE", "CREATED", "DURATION", "LABELS", "ERROR"}
			route := apiRoute("runs")
			if parent != "" {
				route = apiRoute("runs", parent, "children")
			}
			return printList(a, pages[event.Run](ctx, c, route), head, runRow)
		}),
	}
	cmd.Flags().StringVar(&parent, "parent", "", "list what the tasks of this `run` have started")
	_ = cmd.RegisterFlagCompletionFunc("parent", a.completeRuns())
	return cmd
}

func newRunCancel(a *app) *cobra.Command {
	var reason string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:               "cancel RUN",
		Short:             "Cancel a run",
		Args:              one("a run"),
		ValidArgsFunction: onlyArgument(a.completeRuns()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			post := request{method: http.MethodPost, path: apiRoute("runs", args[0], "cancel"), body: event.RunCommand{Reason: reason}}
			run, err := send[event.Run](ctx, c, post)
			if err == nil {
				run, err = cancelSettled(ctx, c, run, wait)
			}
			if err != nil {
				return err
			}
			return a.print(run, func(p *sheet) { showRun(p, &run) })
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait for this `time` until its agents have confirmed that they stopped")
	return cmd
}

// startRequest is the body that starts a run.
type startRequest struct {
	WorkflowID string            `json:"workflowId"`
	Input      event.Raw         `json:"input,omitzero"`
	AgentID    string            `json:"agentId,omitzero"`
	Labels     map[string]string `json:"labels,omitzero"`

	Priority        int     `json:"priority,omitzero"`
	DelaySeconds    float64 `json:"delaySeconds,omitzero"`
	DeadlineSeconds float64 `json:"deadlineSeconds,omitzero"` // and not a time: the same command with the same key says the same
}

// startedRun is the answer to a start.
type startedRun struct {
	RunID           string         `json:"runId"`
	WorkflowID      string         `json:"workflowId"`
	WorkflowVersion string         `json:"workflowVersion"`
	State           event.RunState `json:"state"`
}

func (r *startedRun) show(p *sheet) {
	p.field("Run", text(r.RunID))
	p.field("Workflow", text(nameVersion(r.WorkflowID, r.WorkflowVersion)))
	p.field("State", state(r.State))
}

// startRun starts a run, and with --wait follows it to its end.
func (a *app) startRun(ctx context.Context, c *client, workflowID string, o *startOptions) error {
	body := startRequest{
		WorkflowID: workflowID, AgentID: o.agent, Priority: o.priority, DelaySeconds: o.delay.Seconds(), DeadlineSeconds: o.within.Seconds(),
	}
	var err error
	if body.Input, err = a.runInput(o.input); err != nil {
		return err
	}
	if body.Labels, err = parseLabels(o.labels); err != nil {
		return err
	}
	post := request{method: http.MethodPost, path: apiRoute("runs"), body: body, key: cmp.Or(o.key, uuid.NewString())}
	started, err := send[startedRun](ctx, c, post)
	if err != nil {
		return err
	}
	if !o.wait {
		return a.print(started, started.show)
	}
	run, ended := a.waitRun(ctx, c, started.RunID)
	if run != nil {
		if err := a.print(run, func(p *sheet) { showRun(p, run) }); err != nil {
			return err
		}
	}
	return ended
}

// runInput reads the value of --input: JSON, @FILE or @-. It must be an object.
func (a *app) runInput(value string) (event.Raw, error) {
	if value == "" {
		return nil, nil
	}
	name, raw := "--input", event.Raw(value)
	if file, ok := strings.CutPrefix(value, "@"); ok {
		source, content, err := a.readInput(file)
		if err != nil {
			return nil, err
		}
		name, raw = source, content
	}
	if err := raw.Compact(); err != nil {
		return nil, usagef("%s is not JSON: %s", name, strings.TrimPrefix(err.Error(), "jsontext: "))
	}
	if raw.Kind() != '{' {
		return nil, usagef("%s must be a JSON object, for example '{\"week\": 47}'", name)
	}
	return raw, nil
}

// parseLabels reads the values of --label.
func parseLabels(list []string) (map[string]string, error) {
	labels := make(map[string]string, len(list))
	for _, l := range list {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, usagef("--label %q is not of the form k=v", l)
		}
		if old, dup := labels[k]; dup && old != v {
			return nil, usagef("--label %s is given two values, %q and %q", k, old, v)
		}
		labels[k] = v
	}
	if len(labels) == 0 {
		return nil, nil
	}
	return labels, nil
}

// nameVersion names a version of a workflow.
func nameVersion(id, version string) string {
	if version == "" {
		return id
	}
	return fmt.Sprintf("%s (version %s)", id, version)
}
