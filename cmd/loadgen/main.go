// Command loadgen puts load on Ops-Core, breaks it on purpose, and says whether anything was lost. It is enough by itself: it runs
// itself again as Ops-Core and as nats-server; only redis-server comes from PATH.
//
// Data goes to stdout, everything else to stderr, and the exit code says what became of the command; "loadgen --help" lists the codes.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/cmd/interrupt"
	"github.com/opspawn/opscore/cmd/loadgen/bench"
	"github.com/opspawn/opscore/cmd/loadgen/env"
)

func main() {
	if env.Child() || bench.Child() {
		return
	}
	ctx, stop := interrupt.Context(context.Background())
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program: it does what args say and returns the exit code. It ends early when ctx does.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	a := &app{getenv: getenv, stdout: stdout, stderr: stderr, args: args}
	a.log = slog.New(tint.NewTextHandler(stderr, &tint.Options{NoColor: !isTerminal(stderr) || getenv("NO_COLOR") != "", TimeFormat: "15:04:05"}))
	root := newRoot(a)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !a.began {
		err = usageIn(cmd, err)
	}
	return a.report(ctx, err)
}

// app is what all commands share: the surroundings of the process.
type app struct {
	getenv         func(string) string
	stdout, stderr io.Writer
	log            *slog.Logger // for people, to stderr
	args           []string

	began bool // a command was understood and has begun: errors from here on are not about usage
}

const rootHelp = `loadgen puts load on Ops-Core, breaks it on purpose, and says whether anything was lost.

Data goes to stdout, everything else to stderr.

` + exitCodesHelp + `

Environment:
  OPSCORE_URL      the server that gets the load, like --host
  OPSCORE_API_KEY  the key to show to the server, like --api-key
  NATS_URL         the NATS server, like --nats-url
  NO_COLOR         no colours`

// newRoot builds the whole tree of commands.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "loadgen",
		Short:         "Puts load on Ops-Core and says whether anything was lost",
		Long:          rootHelp,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	for _, c := range []func(*app) *cobra.Command{
		newRunCommand, newScenariosCommand, newVerifyCommand, newChaosCommand, newFindLimitCommand, newCompareCommand,
		newPoisonCommand, newBenchCommand, newNATSBenchCommand, newSeedCommand, newEnvCommand, newKillAgentsCommand, newOutageCommand, newCronCommand,
	} {
		root.AddCommand(c(a))
	}
	a.watchBegin(root)
	return root
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

// version returns the version of the module, or else the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// commit returns the commit that the program was built from, empty if that is not known.
func commit() string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	var revision, dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + dirty
}
