package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/opspawn/opscore/cmd/interrupt"
	"github.com/opspawn/opscore/loadgen"
)

// The exit codes of the program. A process ended by a signal answers 128 plus its number.
const (
	exitOK          = 0
	exitBad         = 1
	exitUsage       = 2
	exitUnreachable = 6
	exitThreshold   = 99
	exitInterrupt   = interrupt.Code
)

// exitCodesHelp is the part of the help text about exit codes.
const exitCodesHelp = `Exit codes:
  0    ok
  1    the verdict is bad, the ledger is not clean, or the command failed
  2    wrong usage, or a scenario file that is wrong
  6    the server cannot be reached
  99   a threshold was crossed
  130  interrupted (143: terminated)`

// codeError is an error that ends the program with a code of its own. Its text may be empty: then everything was said already.
type codeError struct {
	code int
	text string
}

func (e *codeError) Error() string { return e.text }

// usagef makes an error about the command line.
func usagef(format string, args ...any) error {
	return &codeError{code: exitUsage, text: fmt.Sprintf(format, args...)}
}

// usageIn turns an error of reading the command line into one that names the help of the command.
func usageIn(cmd *cobra.Command, err error) error {
	return usagef("%v (see %q)", err, cmd.CommandPath()+" --help")
}

// report prints what became of a command and returns the exit code for it.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	code, text := exitCode(ctx, err), err.Error()
	if code >= exitInterrupt && errors.Is(err, context.Canceled) {
		text = "interrupted"
	}
	if text != "" {
		fmt.Fprintf(a.stderr, "loadgen: %s\n", text)
	}
	return code
}

// exitCode returns the exit code that an error stands for.
func exitCode(ctx context.Context, err error) int {
	var (
		own   *codeError
		check *loadgen.CheckError
		parse *loadgen.ParseError
	)
	switch {
	case errors.As(err, &own):
		return own.code
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return interrupt.ExitCode(ctx)
	case errors.As(err, &parse), errors.Is(err, loadgen.ErrConfig):
		return exitUsage
	case errors.As(err, &check) && check.Unreachable():
		return exitUnreachable
	}
	return exitBad
}

// isTerminal reports whether a stream of the process is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
