package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow"
)

// newWorkflowValidate makes "opscore workflow validate".
func newWorkflowValidate(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE...",
		Short: "Check workflows without storing them",
		Long: `Check workflows without storing them: all mistakes at once, with their lines.

FILE is JSON or YAML; "-" means standard input. No server is asked, unless one is named by --server or OPSCORE_URL: then a
capability that no agent offers is a warning. The command exits with 1 if there is a mistake; warnings do not count.`,
		Example: "  opscore workflow validate examples/workflows/*.yaml",
		Args:    asInUse,
		RunE: func(cmd *cobra.Command, files []string) error {
			return a.call(func(ctx context.Context, c *client, files []string) error {
				if !cmd.Flags().Changed("server") && a.getenv(envServer) == "" {
					c = nil
				}
				return a.validate(ctx, c, files)
			})(cmd, files)
		},
	}
}

// newWorkflowSchema makes "opscore workflow schema".
func newWorkflowSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of workflows, for editors",
		Example: "  opscore workflow schema > workflow.schema.json",
		Args:    none,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.stdout.Write(workflow.JSONSchema())
			return err
		},
	}
}

// verdict is what was found in one file.
type verdict struct {
	File       string    `json:"file"`
	WorkflowID string    `json:"workflowId,omitzero"`
	Tasks      int       `json:"tasks,omitzero"`
	Valid      bool      `json:"valid"`
	Mistakes   []finding `json:"mistakes"`
	Warnings   []finding `json:"warnings"`
}

// finding is a mistake or a warning, with the lines of the file around it.
type finding struct {
	workflow.Problem
	Excerpt string `json:"excerpt,omitzero"`
}

func findings(source []byte, problems workflow.Problems) []finding {
	all := make([]finding, len(problems))
	for i, p := range problems {
		all[i] = finding{p, p.Excerpt(source)}
	}
	return all
}

// validate checks files, and prints what it finds: warnings and mistakes to stderr, one line for each file to stdout.
func (a *app) validate(ctx context.Context, c *client, files []string) error {
	verdicts := make([]verdict, 0, len(files))
	mistakes := 0
	for _, file := range files {
		v, err := a.judge(ctx, c, file)
		if err != nil {
			return err
		}
		mistakes += len(v.Mistakes)
		verdicts = append(verdicts, v)
	}
	err := a.print(map[string]any{"files": verdicts}, func(p *sheet) {
		t := newTable("FILE", "WORKFLOW", "TASKS", "MISTAKES", "WARNINGS")
		rows := make([][]cell, len(verdicts))
		for i, v := range verdicts {
			rows[i] = []cell{text(v.File), text(v.WorkflowID), text(fmt.Sprint(v.Tasks)), text(fmt.Sprint(len(v.Mistakes))), text(fmt.Sprint(len(v.Warnings)))}
		}
		p.rows(t, rows, true)
	})
	if err == nil && mistakes > 0 {
		err = errors.New(count(mistakes, "mistake"))
	}
	return err
}

// judge checks one file. Its error is that the file cannot be read.
func (a *app) judge(ctx context.Context, c *client, file string) (verdict, error) {
	name, source, err := a.readInput(file)
	if err != nil {
		return verdict{}, err
	}
	v := verdict{File: name}
	def, err := workflow.ParseFile(source)
	var problems workflow.Problems
	if err != nil && !errors.As(err, &problems) {
		problems = workflow.Problems{{Text: err.Error()}}
	}
	a.printProblems(name, source, problems, "")
	v.Mistakes, v.Valid = findings(source, problems), err == nil
	if def != nil {
		v.WorkflowID, v.Tasks = def.ID, len(def.Tasks)
	}
	v.Warnings = findings(source, a.warn(ctx, c, name, source, def))
	return v, nil
}

// warn prints and returns what is hardly meant in a definition, which is nil if it has mistakes. With a server that includes capabilities that
// nobody offers.
func (a *app) warn(ctx context.Context, c *client, name string, source []byte, def *workflow.Definition) workflow.Problems {
	raw, err := workflow.ToJSON(source)
	if err != nil {
		return nil
	}
	warnings := workflow.Warnings(raw)
	if c != nil && def != nil {
		warnings = append(warnings, unoffered(ctx, c, def)...)
	}
	workflow.Locate(source, warnings)
	a.printProblems(name, source, warnings, "warning: ")
	return warnings
}

// unoffered names the capabilities of a definition that no agent offers. A server that cannot say does not keep a workflow from being checked.
func unoffered(ctx context.Context, c *client, def *workflow.Definition) workflow.Problems {
	wanted, paths := def.Capabilities()
	for page, err := range pages[event.Agent](ctx, c, apiRoute("agents")) {
		if err != nil || len(wanted) == 0 {
			return nil
		}
		for _, agent := range page {
			wanted = slices.DeleteFunc(wanted, func(name string) bool { return slices.Contains(agent.Capabilities, name) })
		}
	}
	var p workflow.Problems
	for _, name := range wanted {
		p = append(p, workflow.Problem{Path: paths[name], Text: fmt.Sprintf("no agent offers the capability %q now", name)})
	}
	return p
}

// printProblems writes each mistake or warning to stderr as FILE:LINE: text, followed by the lines around it, in the order of the file.
func (a *app) printProblems(name string, source []byte, problems workflow.Problems, kind string) {
	slices.SortStableFunc(problems, func(p, q workflow.Problem) int { return p.Line - q.Line })
	s := a.style(a.stderr)
	for _, p := range problems {
		place := name
		if p.Line > 0 {
			place = fmt.Sprintf("%s:%d", name, p.Line)
		}
		fmt.Fprintf(a.stderr, "%s: %s%s\n", place, kind, printable(p.Text))
		for line := range strings.Lines(p.Excerpt(source)) {
			fmt.Fprintln(a.stderr, s.paint(harmless(strings.TrimSuffix(line, "\n")), colorFaint))
		}
	}
}

// appliedWorkflow is the answer to a definition that was applied.
type appliedWorkflow struct {
	WorkflowID      string `json:"workflowId"`
	WorkflowVersion string `json:"workflowVersion"`
}

// apply checks a definition, stores it, and says what of it is hardly meant.
func (a *app) apply(ctx context.Context, c *client, file string) error {
	name, source, err := a.readInput(file)
	if err != nil {
		return err
	}
	def, err := workflow.ParseFile(source)
	var problems workflow.Problems
	if errors.As(err, &problems) {
		a.printProblems(name, source, problems, "")
		a.warn(ctx, c, name, source, nil)
		return fmt.Errorf("%s was not applied: %s", name, count(len(problems), "mistake"))
	}
	var body event.Raw
	if err == nil {
		body, err = workflow.ToJSON(source)
	}
	if err != nil {
		return fmt.Errorf("%s was not applied: %w", name, err)
	}
	put := request{method: http.MethodPut, path: apiRoute("workflows", def.ID), body: body}
	applied, err := send[appliedWorkflow](ctx, c, put)
	if err != nil {
		return fmt.Errorf("%s was not applied: %w", file, err)
	}
	a.warn(ctx, c, name, source, def)
	return a.print(applied, func(p *sheet) {
		p.field("Workflow", text(applied.WorkflowID))
		p.field("Version", text(applied.WorkflowVersion))
		p.field("Tasks", text(fmt.Sprint(len(def.Tasks))))
	})
}
