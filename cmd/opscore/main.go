// Command opscore keeps a fleet of agents working: it runs the service and talks to one that runs.
//
// The commands agent, workflow and run are clients of the HTTP API under /api/v1. Data goes to stdout, everything else to
// stderr, and the exit code says what became of the command; "opscore --help" lists the codes.
package main

import (
	"context"
	"io"
	"os"

	"github.com/opspawn/opscore/cmd/interrupt"
)

func main() {
	ctx, stop := interrupt.Context(context.Background())
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program: it does what args say and returns the exit code. It ends early when ctx does.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(a)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !a.began {
		err = usageIn(cmd, err)
	}
	return a.report(ctx, err)
}
