package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

// newExplainCommand makes "opscore explain".
func newExplainCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "explain",
		Short: "Say why something did not go as it should",
	})
	cmd.AddCommand(newExplainRequest(a))
	return cmd
}

func newExplainRequest(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "request ID",
		Short: "Show how far an HTTP request came, and why not farther",
		Long: `request shows the steps of an HTTP request: received, authenticated, published to its stream, consumed, committed and answered, each with
its time or its error. ID is the X-Request-Id of the answer, which the log line of the request has too.

Each replica remembers its last 10,000 writes and refused reads; all replicas are asked.`,
		Example: "  opscore explain request 5f0c2a9b1d3e4f60",
		Args:    one("a request"),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			trace, err := send[event.RequestTrace](ctx, c, request{method: http.MethodGet, path: apiRoute("requests", args[0])})
			if err != nil {
				return err
			}
			return a.print(trace, func(p *sheet) { showRequest(p, &trace) })
		}),
	}
}

// showRequest shows what a request was and how far it came.
func showRequest(p *sheet, r *event.RequestTrace) {
	p.field("Request", text(r.RequestID))
	p.field("Route", text(r.Method+" "+r.Route))
	p.field("Status", httpStatus(r.Status))
	p.optional("Key", r.Key)
	p.optional("Message", r.Subject)
	p.optional("Sequence", r.Sequence)
	if len(r.Steps) == 0 {
		return
	}
	begun := r.Steps[0].At
	p.field("Received", p.time(begun))
	p.section("")
	rows := make([][]cell, 0, len(r.Steps))
	for _, s := range r.Steps {
		rows = append(rows, []cell{text(string(s.Step)), after(begun, s.At), stepResult(s)})
	}
	p.rows(newTable("STEP", "AFTER", "RESULT"), rows, true)
}

// httpStatus shows a status in the colour of its class.
func httpStatus(code int) cell {
	c := text(fmt.Sprintf("%d %s", code, http.StatusText(code)))
	if code >= http.StatusBadRequest {
		return c.in(colorBad)
	}
	return c.in(colorGood)
}

// after shows the time from one moment to another, in milliseconds. Clocks of replicas differ, so it can be negative.
func after(begun, at time.Time) cell {
	if at.IsZero() {
		return text("")
	}
	return text(fmt.Sprintf("%.2fms", float64(at.Sub(begun).Microseconds())/1000))
}

// stepResult says what became of a step.
func stepResult(s event.RequestStep) cell {
	said := s.Error
	if s.Note != "" {
		if said != "" {
			said += "; "
		}
		said += s.Note
	}
	switch {
	case s.Error != "":
		return text(said).in(colorBad)
	case s.At.IsZero():
		return text(said).in(colorWarn)
	case said != "":
		return text("ok; " + said).in(colorGood)
	}
	return text("ok").in(colorGood)
}
