package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/demo"
)

// newDemoCommand builds the command that shows what Ops-Core does, in a few seconds.
func newDemoCommand(a *app) *cobra.Command {
	var cfg demo.Config
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work: three agents, a hundred runs, and a proof that nothing was lost",
		Long: `demo starts a server on free ports with its data in a temporary folder, three agents that connect to it over NATS, and 100 runs of a
workflow of three tasks with different capabilities. When all have ended it stops the server and reads the store anew: every
message that was acknowledged must have its effect there.

With --redis-url the store is Redis, under a key prefix of its own; nothing is flushed and the keys stay. With --nats-url the bus is
that NATS server, which must not have Ops-Core streams; those of the demo are removed.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Log = slog.New(slog.DiscardHandler)
			if a.getenv(envLogLevel) != "" {
				log, err := a.logger()
				if err != nil {
					return err
				}
				cfg.Log = log
			}
			cfg.Progress = a.demoProgress()
			report, err := demo.Run(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return a.printDemo(report, cfg.RedisURL)
		},
	}
	cmd.Flags().StringVar(&cfg.RedisURL, "redis-url", "", "use this Redis server, `redis://host:6379/0`, instead of a file")
	cmd.Flags().StringVar(&cfg.NATSURL, "nats-url", "", "use this NATS server, `nats://host:4222`, instead of an embedded one")
	cmd.Flags().IntVar(&cfg.Runs, "runs", 100, "how many runs to start")
	return cmd
}

// demoProgress shows how far the demo is: one line that moves on a terminal, two plain lines otherwise.
func (a *app) demoProgress() func(demo.Progress) {
	s := a.style(a.stderr)
	last := -1
	return func(p demo.Progress) {
		if s.terminal {
			const width = 30
			done := width * p.Ended / max(p.Total, 1)
			fmt.Fprintf(a.stderr, "\r%s%s %d of %d runs, %d tasks ", strings.Repeat("█", done), strings.Repeat("░", width-done), p.Ended, p.Total, p.Tasks)
			if p.Ended == p.Total && last != p.Ended {
				fmt.Fprintln(a.stderr)
			}
			last = p.Ended
			return
		}
		if half := p.Ended * 2 / max(p.Total, 1); half != last {
			last = half
			fmt.Fprintf(a.stderr, "%d of %d runs have ended\n", p.Ended, p.Total)
		}
	}
}

// errDemo says that the demo ran and did not show what it should.
var errDemo = errors.New("not all runs completed, or something acknowledged is missing")

func (a *app) printDemo(r *demo.Report, redisURL string) error {
	if a.output == formatJSON {
		fmt.Fprintf(a.stdout, "%s\n", event.MustMarshal(r))
	} else {
		printDemoTable(a.stdout, r)
	}
	if r.Prefix != "" {
		fmt.Fprintf(a.stderr, "The keys of this demo stay in Redis under the prefix {%s}. To remove them:\n"+
			"  redis-cli -u %s --scan --pattern '{%s}:*' | xargs -r redis-cli -u %s del\n", r.Prefix, redisURL, r.Prefix, redisURL)
	}
	if !r.OK() {
		return errDemo
	}
	return nil
}

func printDemoTable(w io.Writer, r *demo.Report) {
	rows := [][2]string{
		{"store", r.Store},
		{"agents", fmt.Sprint(r.Agents)},
		{"runs", fmt.Sprintf("%d started, %d completed, %d failed", r.Runs.Started, r.Runs.Completed, r.Runs.Failed)},
		{"tasks", fmt.Sprint(r.Tasks)},
		{"events", fmt.Sprintf("%d acknowledged, %d found in the store", r.Events.Acked, r.Events.Persisted)},
		{"start → agent", fmt.Sprintf("%.1f ms (p50), %.1f ms (p99)", r.StartToAgentMs.P50, r.StartToAgentMs.P99)},
		{"took", time.Duration(r.Seconds * float64(time.Second)).Round(100 * time.Millisecond).String()},
	}
	for _, row := range rows {
		fmt.Fprintf(w, "%-14s  %s\n", row[0], row[1])
	}
	for _, m := range r.Missing {
		fmt.Fprintf(w, "missing         %s\n", m)
	}
}
