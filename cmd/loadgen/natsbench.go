package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/loadgen/bench"
	"github.com/opspawn/opscore/cmd/loadgen/env"
)

// benchPayload is the event that is published again and again: `nats bench` sends the same bytes each time.
const benchPayload = `{"state":"idle","timestamp":"2026-01-01T00:00:00Z","details":{"load_test":true}}`

// maxSeed bounds how many agents are seeded in one go.
const maxSeed = 1_000_000

// newSeedCommand builds the command that registers agents for other load tools.
func newSeedCommand(a *app) *cobra.Command {
	var agents int
	var prefix, natsURL string
	var padded bool
	cmd := &cobra.Command{
		Use:   "seed",
		Short: "Register agents that do nothing, for load tools that only publish",
		Long: `seed registers agents over NATS and returns when all are stored. With --padded their ids are the ones that
"nats bench --multisubject --multisubjectmax N" appends to its subject: numbers from 0, padded with zeros to the width of N.`,
		Example: "  loadgen seed --agents 1000 --padded --nats-url nats://127.0.0.1:4222",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if agents < 1 || agents > maxSeed {
				return usagef("--agents is a number from 1 to %d", maxSeed)
			}
			conn, err := a.dialNATS(cmd.Context(), natsURL)
			if err != nil {
				return err
			}
			defer conn.Close()
			if err := seed(cmd.Context(), conn, seedIDs(agents, prefix, padded)); err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "%d agents are registered\n", agents)
			return nil
		},
	}
	cmd.Flags().IntVar(&agents, "agents", 1000, "how `many`")
	cmd.Flags().BoolVar(&padded, "padded", false, "ids as nats bench makes them, without the prefix")
	cmd.Flags().StringVar(&prefix, "prefix", "seed-", "what ids begin with")
	cmd.Flags().StringVar(&natsURL, "nats-url", "", "`URL` of NATS (default: NATS_URL, or "+nats.DefaultURL+")")
	return cmd
}

// seedIDs returns the ids of agents to register.
func seedIDs(n int, prefix string, padded bool) []string {
	ids := make([]string, n)
	for i := range ids {
		if padded {
			ids[i] = fmt.Sprintf("%0*d", len(strconv.Itoa(n)), i)
		} else {
			ids[i] = prefix + strconv.Itoa(i)
		}
	}
	return ids
}

func (a *app) dialNATS(ctx context.Context, url string) (*bus.Conn, error) {
	url = first(url, a.getenv(envNATS), nats.DefaultURL)
	conn, err := bus.Connect(ctx, bus.Config{URL: url, Name: "loadgen"})
	if err != nil {
		return nil, &codeError{code: exitUnreachable, text: err.Error()}
	}
	return conn, nil
}

// seed registers agents and waits until everything that was published is stored.
func seed(ctx context.Context, conn *bus.Conn, ids []string) error {
	_, err := bench.PublishAll(conn, len(ids), func(i int) *nats.Msg {
		m := nats.NewMsg(event.AgentSubject(event.VerbRegister, event.MustToken(ids[i])))
		m.Data = event.MustMarshal(&event.Register{AgentName: "seeded " + ids[i], Version: "1.0", Capabilities: []string{"none"}})
		return m
	})
	if err != nil {
		return fmt.Errorf("register agents: %w", err)
	}
	return bench.CaughtUp(ctx, conn)
}

// newNATSBenchCommand builds the command that lets nats bench publish.
func newNATSBenchCommand(a *app) *cobra.Command {
	b := &natsBench{app: a}
	cmd := &cobra.Command{
		Use:   "nats-bench",
		Short: "Let nats bench publish state events, and say how many were stored",
		Long: `nats-bench registers agents and publishes state events for them with the command "nats bench", if that is on PATH, and else with a publisher of its
own that does the same. Then it waits until Ops-Core has taken in what the stream still holds.

The stream keeps the last 64 events of each agent: where the publisher is faster than the consumer, the oldest are evicted before anybody reads
them. They are counted, and do not count as stored.`,
		Example: "  loadgen nats-bench\n  loadgen nats-bench --agents 10000 --msgs 500000 --nats-url nats://127.0.0.1:4222",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return b.run(cmd.Context()) },
	}
	cmd.Flags().IntVar(&b.agents, "agents", 1000, "how `many` agents the events are of")
	cmd.Flags().IntVar(&b.msgs, "msgs", 200_000, "how `many` events")
	cmd.Flags().StringVar(&b.natsURL, "nats-url", "", "`URL` of a running NATS with Ops-Core (default: start both)")
	cmd.Flags().StringVarP(&b.output, "output", "o", "table", "what to print: table or json")
	return cmd
}

type natsBench struct {
	app             *app
	agents, msgs    int
	natsURL, output string
}

// NATSBench is what `loadgen nats-bench -o json` prints.
type NATSBench struct {
	Publisher  string  `json:"publisher"` // "nats bench" or "loadgen"
	Agents     int     `json:"agents"`
	Published  int     `json:"published"`
	PublishedS float64 `json:"publishedPerSecond"`
	Stored     uint64  `json:"stored"` // delivered to a consumer and committed
	StoredS    float64 `json:"storedPerSecond"`
	Evicted    uint64  `json:"evicted"` // by newer events of the same agent, before anybody read them
}

func (b *natsBench) run(ctx context.Context) error {
	if b.agents < 1 || b.agents > maxSeed || b.msgs < 1 {
		return usagef("--agents is a number from 1 to %d, --msgs one from 1", maxSeed)
	}
	if b.output != "table" && b.output != "json" {
		return usagef("--output is table or json, not %q", b.output)
	}
	if b.natsURL == "" {
		e, err := env.Start(ctx, env.Config{})
		if err != nil {
			return err
		}
		defer func() { _ = e.Close() }() // what is left is in a temporary folder
		b.natsURL = e.NATSURL
	}
	conn, err := b.app.dialNATS(ctx, b.natsURL)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := seed(ctx, conn, seedIDs(b.agents, "", true)); err != nil {
		return err
	}
	r, err := b.measure(ctx, conn)
	if err != nil {
		return err
	}
	if b.output == "json" {
		_, err = fmt.Fprintf(b.app.stdout, "%s\n", event.MustMarshal(r))
		return err
	}
	_, err = fmt.Fprintf(b.app.stdout, "published  %9d  %9.0f /s  by %s, for %d agents\nstored     %9d  %9.0f /s  committed to Redis and acknowledged\nevicted    %9d\n",
		r.Published, r.PublishedS, r.Publisher, r.Agents, r.Stored, r.StoredS, r.Evicted)
	return err
}

func (b *natsBench) measure(ctx context.Context, conn *bus.Conn) (*NATSBench, error) {
	before, err := delivered(ctx, conn)
	if err != nil {
		return nil, err
	}
	r := &NATSBench{Publisher: "nats bench", Agents: b.agents, Published: b.msgs}
	publish := b.natsCommand
	if _, err := exec.LookPath("nats"); err != nil {
		fmt.Fprintln(b.app.stderr, "the command nats is not on PATH: publishing the same events without it")
		r.Publisher, publish = "loadgen", b.own
	}
	begin := time.Now()
	published, err := publish(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err := bench.CaughtUp(ctx, conn); err != nil {
		return nil, err
	}
	took := time.Since(begin)
	after, err := delivered(ctx, conn)
	if err != nil {
		return nil, err
	}
	r.Stored = after - before
	r.Evicted = uint64(max(b.msgs-int(r.Stored), 0))
	r.PublishedS, r.StoredS = float64(b.msgs)/published.Seconds(), float64(r.Stored)/took.Seconds()
	return r, nil
}

// delivered returns how many messages of StreamAgent were handed to consumers since the durable was made. Without restarts and lost
// acknowledgements each was handed out once.
func delivered(ctx context.Context, conn *bus.Conn) (uint64, error) {
	c, err := conn.JS().Consumer(ctx, event.StreamAgent, event.ConsumerLifecycle)
	if err != nil {
		return 0, fmt.Errorf("look at the consumer of %s (does Ops-Core run there?): %w", event.StreamAgent, err)
	}
	return c.CachedInfo().Delivered.Consumer, nil
}

func (b *natsBench) own(_ context.Context, conn *bus.Conn) (time.Duration, error) {
	ids := seedIDs(b.agents, "", true)
	return bench.PublishAll(conn, b.msgs, func(i int) *nats.Msg {
		m := nats.NewMsg(event.AgentSubject(event.VerbState, ids[i%len(ids)]))
		m.Data = []byte(benchPayload)
		return m
	})
}

// natsCommand runs nats bench. Its own report goes to stderr.
func (b *natsBench) natsCommand(ctx context.Context, _ *bus.Conn) (time.Duration, error) {
	dir, err := os.MkdirTemp("", "opscore-loadgen-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	payload := filepath.Join(dir, "state.json")
	if err := os.WriteFile(payload, []byte(benchPayload), 0o600); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "nats", "--server", b.natsURL, "bench", "js", "pub", "async", event.Root+".agent.state", "--stream", event.StreamAgent,
		"--multisubject", "--multisubjectmax", strconv.Itoa(b.agents), "--payload", payload, "--msgs", strconv.Itoa(b.msgs), "--no-progress")
	cmd.Stdout, cmd.Stderr = b.app.stderr, b.app.stderr
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("run nats bench: %w", err)
	}
	return time.Since(begin), nil
}
