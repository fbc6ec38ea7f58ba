// Package interrupt ends a program at the signals that ask for it, and finds the exit code that says so.
package interrupt

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// Code is the exit code of a program that was interrupted by something else than a signal: that of an interrupt.
const Code = 128 + int(syscall.SIGINT)

// cause is why a context ended, when a signal ended it.
type cause struct {
	signal os.Signal
}

func (e cause) Error() string { return "ended by a signal: " + e.signal.String() }

// Context returns a context that ends at the first interrupt or termination signal. The second signal ends the process at once. The returned function
// gives the signals back.
func Context(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(cause{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// ExitCode returns the exit code of a program whose context has ended: 128 plus the number of the signal if it was one, else [Code].
func ExitCode(ctx context.Context) int {
	var c cause
	if errors.As(context.Cause(ctx), &c) {
		if number, ok := c.signal.(syscall.Signal); ok {
			return 128 + int(number)
		}
	}
	return Code
}
