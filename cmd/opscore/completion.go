package main

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
)

// Bounds of what a shell is offered: somebody waits at the keyboard.
const (
	completeTimeout = 2 * time.Second
	completeLimit   = "100"
)

// completeIDs offers a shell the ids of a list.
func completeIDs[T any](a *app, list string, id func(T) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
		defer cancel()
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.http.CloseIdleConnections()
		get := request{method: http.MethodGet, path: apiRoute(list), query: url.Values{"limit": {completeLimit}}}
		page, err := send[event.List[T]](ctx, c, get)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ids := make([]cobra.Completion, len(page.Items))
		for i, item := range page.Items {
			ids[i] = id(item)
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeAgents offers the ids of agents.
func (a *app) completeAgents() cobra.CompletionFunc {
	return completeIDs(a, "agents", func(g event.Agent) string { return g.AgentID })
}

// completeWorkflows offers the ids of workflows.
func (a *app) completeWorkflows() cobra.CompletionFunc {
	return completeIDs(a, "workflows", func(d event.Definition) string { return d.WorkflowID })
}

// completeRuns offers the ids of runs.
func (a *app) completeRuns() cobra.CompletionFunc {
	return completeIDs(a, "runs", func(r event.Run) string { return r.RunID })
}

// onlyArgument offers what another function does for the first argument of a command, and nothing for more.
func onlyArgument(offer cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return offer(cmd, args, typed)
	}
}
