package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/loadgen"
)

// newScenariosCommand builds the command that shows the scenarios.
func newScenariosCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "scenarios [NAME]",
		Short:   "List the scenarios that come with loadgen, or print one as YAML",
		Example: "  loadgen scenarios\n  loadgen scenarios scenario-3 > mine.yaml\n  loadgen run mine.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.listScenarios()
			}
			s, ok := loadgen.Builtin(args[0])
			if !ok {
				return usagef("there is no scenario %q; \"loadgen scenarios\" lists them", args[0])
			}
			text, err := s.YAML()
			if err == nil {
				_, err = a.stdout.Write(text)
			}
			return err
		},
	}
}

func (a *app) listScenarios() error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tUSERS\tTIME\tDESCRIPTION")
	for _, s := range loadgen.Builtins() {
		fmt.Fprintf(w, "%s\t%d\t%v\t%s\n", s.Name, s.Peak(), s.Duration(), s.Description)
	}
	return w.Flush()
}

// loadScenario returns the scenario of that name, or the one in that file.
func loadScenario(name string) (*loadgen.Scenario, error) {
	if s, ok := loadgen.Builtin(name); ok {
		return s, nil
	}
	text, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && filepath.Ext(name) == "":
		return nil, usagef("there is no scenario %q and no such file; \"loadgen scenarios\" lists them", name)
	case err != nil:
		return nil, usagef("read the scenario: %v", err)
	}
	return loadgen.Parse(name, text)
}
