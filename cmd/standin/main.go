// Command standin plays the two services around the old Ops-Core: AgentKit, and the agent that its load tests used. It is for tests and for
// compose files, over real HTTP.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/opspawn/opscore/cmd/standin/agentkit"
	"github.com/opspawn/opscore/cmd/standin/simagent"
)

const usage = `usage: standin agentkit | standin agent

agentkit  AgentKit: PORT (8000), OPSCORE_WEBHOOK_URL, OPSCORE_WEBHOOK_SECRET, STANDIN_BUGS ("AK1 AK2", or empty)
agent     the simulated agent: AGENTKIT_API_URL and OPSCORE_API_URL (both ending in /v1), OPSCORE_API_KEY, AGENT_NAME (TestSimulatedAgent),
          AGENT_PORT (8080), AGENT_CONTACT_ENDPOINT, AGENT_WORK (2s)
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch strings.Join(args, " ") {
	case "agentkit":
		bugs := strings.Fields(os.Getenv("STANDIN_BUGS"))
		kit := agentkit.New(agentkit.Config{
			WebhookURL: os.Getenv("OPSCORE_WEBHOOK_URL"), WebhookSecret: os.Getenv("OPSCORE_WEBHOOK_SECRET"), Log: log,
			LosesMetadata: has(bugs, "AK1"), NeverDelivers: has(bugs, "AK2"),
		})
		return serve(ctx, env("PORT", "8000"), kit.Handler(), kit.Close)
	case "agent":
		work, err := time.ParseDuration(env("AGENT_WORK", "2s"))
		if err != nil {
			return fmt.Errorf("AGENT_WORK: %w", err)
		}
		port := env("AGENT_PORT", "8080")
		agent := simagent.New(simagent.Config{
			AgentKitURL: os.Getenv("AGENTKIT_API_URL"), OpsCoreURL: os.Getenv("OPSCORE_API_URL"), Key: os.Getenv("OPSCORE_API_KEY"),
			Name: env("AGENT_NAME", "TestSimulatedAgent"), ContactEndpoint: env("AGENT_CONTACT_ENDPOINT", "http://127.0.0.1:"+port+"/task"),
			Work: work, Log: log,
		})
		started := make(chan error, 1)
		go func() { started <- agent.Start(ctx) }()
		err = serve(ctx, port, agent.Handler(), agent.Close)
		return errors.Join(err, ignoreCancel(<-started))
	}
	return errors.New(strings.TrimSpace(usage))
}

// serve answers on a port until ctx ends.
func serve(ctx context.Context, port string, h http.Handler, done func()) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = srv.Shutdown(limited)
	done()
	return err
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func has(list []string, word string) bool {
	for _, w := range list {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
