package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/cmd/interrupt"
)

// The exit codes of the program. A process ended by a signal answers 128 plus its number.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnreachable = 6
	exitRun         = 7
	exitInterrupt   = interrupt.Code
)

// exitCodesHelp is the part of the help text about exit codes.
const exitCodesHelp = `Exit codes:
  0    ok
  1    failure
  2    wrong usage
  3    not found
  6    the server cannot be reached or is not available
  7    the run that was waited for did not complete
  130  interrupted (143: terminated)`

// usageError says that a command line is wrong.
type usageError struct {
	text string
}

func (e *usageError) Error() string { return e.text }

// usagef makes a usageError with a formatted text.
func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// usageIn turns an error of reading the command line into a usageError that names the help of the command.
func usageIn(cmd *cobra.Command, err error) error {
	return usagef("%v (see %q)", err, cmd.CommandPath()+" --help")
}

// incompleteError says that a run that was waited for did not complete: it failed, was cancelled, or the wait ended before it did.
type incompleteError struct {
	text  string
	cause error // why the wait ended early, nil if it did not
}

func (e *incompleteError) Error() string { return e.text }

func (e *incompleteError) Unwrap() error { return e.cause }

// noneError says that a command was to do something with all that are chosen, and nothing is.
type noneError struct{ text string }

func (e *noneError) Error() string { return e.text }

// report prints what became of a command and returns the exit code for it.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	code, text := exitCode(ctx, err), err.Error()
	if code >= exitInterrupt {
		text = "interrupted"
		if wait := (*incompleteError)(nil); errors.As(err, &wait) {
			text += "; " + wait.text
		}
	}
	fmt.Fprintf(a.stderr, "opscore: %s\n", printable(text))
	return code
}

// exitCode returns the exit code that an error stands for.
func exitCode(ctx context.Context, err error) int {
	var (
		usage       *usageError
		incomplete  *incompleteError
		unreachable *unreachableError
		answer      *apiError
		none        *noneError
	)
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return interrupt.ExitCode(ctx)
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &incomplete):
		return exitRun
	case errors.As(err, &unreachable):
		return exitUnreachable
	case errors.As(err, &answer):
		return answer.exitCode()
	case errors.As(err, &none):
		return exitNotFound
	}
	return exitFailure
}

// exitCode returns the exit code that a refusal stands for.
func (e *apiError) exitCode() int {
	switch {
	case e.status == http.StatusNotFound && e.typed:
		return exitNotFound
	case e.unavailable():
		return exitUnreachable
	}
	return exitFailure
}
