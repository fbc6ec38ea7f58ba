package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// defaultServer is where a server on the same machine listens.
const defaultServer = "http://127.0.0.1:8000"

// The environment variables that the client commands read.
const (
	envServer     = "OPSCORE_URL"
	envAPIKey     = "OPSCORE_API_KEY"
	envAPIKeyFile = "OPSCORE_API_KEY_FILE"

	envAPIKeys     = "OPSCORE_API_KEYS" // of a server: name:key, separated by white space
	envAPIKeysFile = "OPSCORE_API_KEYS_FILE"
)

const rootHelp = `opscore runs Ops-Core and talks to it: it shows the agents of a fleet, stores workflows, and starts and follows runs.

Data goes to stdout, everything else to stderr.

` + exitCodesHelp + `

Environment:
  OPSCORE_URL           the server to talk to, like --server
  OPSCORE_API_KEY       the key to show to the server
  OPSCORE_API_KEY_FILE  a file with that key
  NO_COLOR              no colours, like --no-color`

// app is what all commands share: the surroundings of the process and the global flags.
type app struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer

	server  string        // --server; empty: the environment decides
	output  outputFormat  // --output
	noColor bool          // --no-color
	timeout time.Duration // --timeout; zero: none

	began bool // a command was understood and has begun: errors from here on are not about usage
}

// newRoot builds the whole tree of commands.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "opscore",
		Short:         "Keeps a fleet of agents working",
		Long:          rootHelp,
		Version:       readBuild().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&a.server, "server", "", "`URL` of the server (default: OPSCORE_URL, or "+defaultServer+")")
	flags.VarP(&a.output, "output", "o", "what to print: table or json")
	flags.BoolVar(&a.noColor, "no-color", false, "no colours, like NO_COLOR")
	flags.DurationVar(&a.timeout, "timeout", 0, "give up after this `time`, for example 30s (default: none)")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{formatTable, formatJSON}, cobra.ShellCompDirectiveNoFileComp))
	group(root)
	root.AddCommand(
		newAgentCommand(a), newQueueCommand(a), newWorkflowCommand(a), newScheduleCommand(a), newRunCommand(a), newApprovalCommand(a), newExplainCommand(a), newDeadCommand(a),
		newDevCommand(a), newServeCommand(a), newDoctorCommand(a), newBackupCommand(a), newRestoreCommand(a), newDemoCommand(a), newVersionCommand(a),
	)
	addCompletionAndHelp(root)
	a.watchBegin(root)
	return root
}

// addCompletionAndHelp adds the commands that cobra brings, and makes them refuse what they do not know.
func addCompletionAndHelp(root *cobra.Command) {
	// A command that holds others must look runnable to check its arguments, and still is of no use alone.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			group(c)
		case "help":
			c.Args = func(_ *cobra.Command, args []string) error {
				if _, rest, err := root.Find(args); err != nil || len(rest) > 0 {
					return fmt.Errorf("there is no command %q", strings.Join(args, " "))
				}
				return nil
			}
		}
	}
}

// group makes a command that only holds other commands say so when none of them was named.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%q needs a command: %s", cmd.CommandPath(), strings.Join(commandNames(cmd), ", "))
		}
		text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
		if near := nearest(cmd, args[0]); near != "" {
			text += fmt.Sprintf("; did you mean %q?", near)
		}
		return errors.New(text)
	}
	cmd.RunE = func(*cobra.Command, []string) error { return nil } // never reached: Args refuses everything
	return cmd
}

// nearest returns the command below cmd whose name is most like a word, empty if none is: one edit is tried before two.
func nearest(cmd *cobra.Command, word string) string {
	for cmd.SuggestionsMinimumDistance = 1; cmd.SuggestionsMinimumDistance <= 2; cmd.SuggestionsMinimumDistance++ {
		if near := cmd.SuggestionsFor(word); len(near) > 0 {
			return near[0]
		}
	}
	return ""
}

// commandNames lists what may follow a command.
func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// watchBegin makes every command of a tree note that it has begun, which tells its own errors from those of reading the command line.
func (a *app) watchBegin(cmd *cobra.Command) {
	if do := cmd.RunE; do != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			a.began = true
			return do(cmd, args)
		}
	}
	for _, c := range cmd.Commands() {
		a.watchBegin(c)
	}
}

// one accepts exactly one argument that is not empty, which is what a command is about.
func one(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 || args[0] == "":
			return fmt.Errorf("%q needs the id of %s", cmd.CommandPath(), what)
		case len(args) > 1:
			return fmt.Errorf("%q takes one id, and %d were given", cmd.CommandPath(), len(args))
		}
		return nil
	}
}

// asInUse accepts the arguments that the use line of a command names: NAME must be there and not be empty, [NAME] may be left out, and of
// NAME... there is at least one.
func asInUse(cmd *cobra.Command, args []string) error {
	names := strings.Fields(cmd.Use)[1:]
	form := cmd.CommandPath() + " " + strings.Join(names, " ")
	for i, name := range names {
		if !strings.HasPrefix(name, "[") && (i >= len(args) || args[i] == "") {
			return fmt.Errorf("%s is missing: %s", strings.TrimSuffix(name, "..."), form)
		}
	}
	if len(args) > len(names) && !strings.HasSuffix(cmd.Use, "...") {
		return fmt.Errorf("%q is one argument too many: %s", args[len(names)], form)
	}
	return nil
}

// none accepts no argument.
func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q takes no argument, and %q was given", cmd.CommandPath(), args[0])
	}
	return nil
}

// serverURL returns the server that the client commands talk to.
func (a *app) serverURL() string {
	for _, url := range []string{a.server, a.getenv(envServer)} {
		if url != "" {
			return url
		}
	}
	return defaultServer
}

// apiKey returns the key to show to the server, empty if there is none. It comes from the environment only: the flags of a process can be read by others.
func (a *app) apiKey() (string, error) { return a.secret(envAPIKey, envAPIKeyFile) }

// secret returns what one variable holds, or the file that another names.
func (a *app) secret(env, envFile string) (string, error) {
	text, file := a.getenv(env), a.getenv(envFile)
	if file == "" {
		return strings.TrimSpace(text), nil
	}
	if text != "" {
		return "", usagef("%s and %s are both set; unset one", env, envFile)
	}
	held, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the key that %s names: %w", envFile, err)
	}
	return strings.TrimSpace(string(held)), nil
}

// style returns how to print to w.
func (a *app) style(w io.Writer) style {
	terminal := isTerminal(w) && a.getenv("TERM") != "dumb"
	return style{terminal: terminal, color: terminal && !a.noColor && a.getenv("NO_COLOR") == "", now: time.Now()}
}

// isTerminal reports whether a stream of the process is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
