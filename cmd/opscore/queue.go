package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

// newQueueCommand makes "opscore queue".
func newQueueCommand(a *app) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "queue",
		Aliases: []string{"queues"},
		Short:   "Show in which queues tasks wait for agents, and hold them back",
	})
	cmd.AddCommand(newQueueList(a), newQueueSwitch(a, "pause", "Give tasks that ask for a capability to nobody; what agents hold goes on"),
		newQueueSwitch(a, "resume", "Give them out again"))
	return cmd
}

// queueHead is the head of the list of queues.
var queueHead = []string{"ASKS FOR", "VERSION", "LABELS", "WAITING", "GIVEN OUT"}

// queueRow is a row of the list of queues.
func queueRow(_ style, q event.Queue) []cell {
	asks := q.Capability
	if q.AgentID != "" {
		asks = "agent " + q.AgentID
	}
	if len(q.Unfit) > 0 {
		asks += " that takes the input"
	}
	given := text("yes").in(colorGood)
	if q.Paused {
		given = text("no: paused").in(colorWarn)
		if q.Reason != "" {
			given = text("no: paused: " + q.Reason).in(colorWarn)
		}
	}
	return []cell{text(asks), text(q.Version), text(pairs(q.Labels)), text(fmt.Sprint(q.Waiting)), given}
}

func newQueueList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the queues in which tasks wait, and those that are paused",
		Args:  none,
		RunE: a.call(func(ctx context.Context, c *client, _ []string) error {
			list, err := send[event.List[event.Queue]](ctx, c, request{method: http.MethodGet, path: apiRoute("queues")})
			if err != nil {
				return err
			}
			return printList(a, onePage(list.Items), queueHead, queueRow)
		}),
	}
}

// switchedQueue is the answer to a command about a queue.
type switchedQueue struct {
	Capability string `json:"capability"`
	Paused     bool   `json:"paused"`
}

func newQueueSwitch(a *app, verb, short string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   verb + " CAPABILITY",
		Short: short,
		Args:  one("a capability"),
		RunE: a.call(func(ctx context.Context, c *client, args []string) error {
			post := request{method: http.MethodPost, path: apiRoute("queues", args[0], verb), body: event.QueueCommand{Reason: reason}}
			q, err := send[switchedQueue](ctx, c, post)
			if err != nil {
				return err
			}
			return a.print(q, func(p *sheet) {
				p.field("Queue", text(q.Capability))
				p.field("Paused", text(fmt.Sprint(q.Paused)))
			})
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for people")
	return cmd
}
