package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow"
)

// newWorkflowCommand makes "opscore workflow".
func newWorkflowCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "workflow",
		Aliases: []string{"workflows"},
		Short:   "Store and show workflows",
	})
	cmd.AddCommand(newWorkflowApply(a), newWorkflowValidate(a), newWorkflowSchema(a), newWorkflowList(a), newWorkflowGet(a),
		newWorkflowSwitch(a, "pause", "Let runs that are started of a workflow wait"), newWorkflowSwitch(a, "resume", "Let them begin"))
	return cmd
}

func newWorkflowApply(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Check a workflow and store it as the latest version",
		Long: `Check a workflow and store it as the latest version.

FILE is JSON or YAML; "-" means standard input. Mistakes are listed with their lines, and then nothing is stored.
Applying the same workflow again changes nothing.`,
		Example: "  opscore workflow apply -f report.yaml",
		Args:    none,
		RunE:    a.call(func(ctx context.Context, c *client, _ []string) error { return a.apply(ctx, c, file) }),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` with the workflow; - for standard input")
	_ = cmd.MarkFlagRequired("file")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml", "json")
	return cmd
}

func newWorkflowList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the workflows in their latest version",
		Args:  none,
		RunE: a.call(func(ctx context.Context, c *client, _ []string) error {
			head := []string{"WORKFLOW", "VERSION", "TASKS", "APPLIED", "NAME"}
			return printList(a, pages[event.Definition](ctx, c, apiRoute("workflows")), head, workflowRow)
		}),
	}
}

func newWorkflowGet(a *app) *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use:               "get ID",
		Short:             "Show a workflow and its tasks",
		Args:              one("a workflow"),
		ValidArgsFunction: onlyArgument(a.completeWorkflows()),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			get := request{method: http.MethodGet, path: apiRoute("workflows", args[0])}
			if version != "" {
				get.query = url.Values{"version": {version}}
			}
			def, err := send[event.Definition](ctx, c, get)
			if err != nil {
				return err
			}
			return a.print(def, func(p *sheet) { showWorkflow(p, &def) })
		}),
	}
	cmd.Flags().StringVar(&version, "version", "", "`version` to show (default: the latest)")
	return cmd
}

// readInput reads a file, or standard input for "-", and returns how to call it.
func (a *app) readInput(file string) (name string, content []byte, err error) {
	if file == "-" {
		name = "stdin"
		content, err = io.ReadAll(a.stdin)
	} else {
		name = file
		content, err = os.ReadFile(file)
	}
	if err != nil {
		return name, nil, fmt.Errorf("read %s: %w", name, err)
	}
	return name, content, nil
}

// workflowRow is a row of the list of workflows.
func workflowRow(s style, d event.Definition) []cell {
	return []cell{text(d.WorkflowID), text(d.WorkflowVersion), text(fmt.Sprint(d.Tasks)), s.time(d.AppliedAt), text(d.Name)}
}

// showWorkflow shows a definition and its tasks.
func showWorkflow(p *sheet, d *event.Definition) {
	p.field("Workflow", text(d.WorkflowID))
	p.field("Version", text(d.WorkflowVersion))
	p.optional("Name", d.Name)
	p.field("Applied", p.time(d.AppliedAt))
	def, err := workflow.Decode(d.Definition)
	if err != nil {
		p.field("Tasks", text(fmt.Sprint(d.Tasks)))
		return
	}
	p.optional("Description", def.Description)
	rows := make([][]cell, len(def.Tasks))
	for i, t := range def.Tasks {
		next := ""
		if t.NextTaskID != nil {
			next = *t.NextTaskID
		}
		rows[i] = []cell{text(t.TaskID), text(t.AgentCapability), text(t.AgentID), text(next), text(t.Name)}
	}
	p.section("Tasks")
	p.rows(newTable("TASK", "CAPABILITY", "AGENT", "NEXT", "NAME"), rows, true)
}

// count says how many things there are.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
