package main

import (
	"log/slog"
	"net"
	"strings"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
)

// The environment variables that the server commands read.
const (
	envNATS           = "NATS_URL"
	envRedis          = "REDIS_URL"
	envWebhookSecrets = "OPSCORE_WEBHOOK_SECRET" // several, separated by spaces, while they are rotated
	envLogLevel       = "OPSCORE_LOG_LEVEL"      // debug, info, warn, error
)

// defaultRedis is the Redis server on the same machine.
const defaultRedis = "redis://127.0.0.1:6379/0"

// newServeCommand builds the command that runs a replica against external servers.
func newServeCommand(a *app) *cobra.Command {
	var natsURL, redisURL, httpAddr, roles string
	var replicas int
	var insecure bool
	var delivery deliveryFlags
	var runs runFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a replica against external NATS and Redis servers",
		Long: `serve runs Ops-Core against a NATS server (2.14 or newer, with JetStream) and a Redis server (7.0 or newer, with AOF).

Any number of replicas may run; any of them may be killed at any time. OPSCORE_API_KEY rules all routes but the webhook and the probes; so do
the keys of OPSCORE_API_KEYS (name:key, separated by spaces), which say who shows them.`,
		Example: "  OPSCORE_API_KEY=… opscore serve --nats-url nats://nats:4222 --redis-url redis://redis:6379/0 --http-addr :8000",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.serverConfig(httpAddr, delivery, runs)
			if err != nil {
				return err
			}
			if cfg.Roles, err = parseRoles(roles); err != nil {
				return err
			}
			if cfg.Key == "" && len(cfg.Keys) == 0 && !insecure && hasBridge(cfg.Roles) {
				return usagef("no OPSCORE_API_KEY: set one, or say --insecure to leave the API open to everybody who can reach %s", httpAddr)
			}
			cfg.StoreURL, cfg.NATSURL, cfg.Replicas = a.orEnv(redisURL, envRedis, defaultRedis), a.orEnv(natsURL, envNATS, "nats://127.0.0.1:4222"), replicas
			return a.runServer(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVar(&natsURL, "nats-url", "", "`URL` of the NATS server (default: NATS_URL, or nats://127.0.0.1:4222)")
	cmd.Flags().StringVar(&redisURL, "redis-url", "", "`URL` of the Redis server, with ?prefix=… for other keys than {opscore}:* (default: REDIS_URL, or redis://127.0.0.1:6379/0)")
	cmd.Flags().StringVar(&httpAddr, "http-addr", "127.0.0.1:8000", "`address` of the HTTP API")
	cmd.Flags().StringVar(&roles, "roles", "lifecycle,workflow,bridge", "the parts to run, separated by commas")
	cmd.Flags().IntVar(&replicas, "stream-replicas", 1, "replicas of the streams that are created, 1 or 3")
	cmd.Flags().BoolVar(&insecure, "insecure", false, "run without a key")
	delivery.add(cmd)
	runs.add(cmd)
	return cmd
}

// serverConfig is what dev and serve have in common.
func (a *app) serverConfig(httpAddr string, flags deliveryFlags, life runFlags) (server.Config, error) {
	key, err := a.apiKey()
	if err != nil {
		return server.Config{}, err
	}
	keys, err := a.namedKeys()
	if err != nil {
		return server.Config{}, err
	}
	log, err := a.logger()
	if err != nil {
		return server.Config{}, err
	}
	delivery, err := a.delivery(flags)
	if err != nil {
		return server.Config{}, err
	}
	runs, err := a.runs(life)
	if err != nil {
		return server.Config{}, err
	}
	return server.Config{
		HTTPAddr: httpAddr, Delivery: delivery, Runs: runs, Key: key, Keys: keys, WebhookSecrets: strings.Fields(a.getenv(envWebhookSecrets)),
		Version: readBuild().Version, Log: log,
	}, nil
}

// namedKeys returns the keys of a server that say who shows them. What it complains of it names by its place: it may be a key.
func (a *app) namedKeys() ([]bridge.NamedKey, error) {
	text, err := a.secret(envAPIKeys, envAPIKeysFile)
	if err != nil {
		return nil, err
	}
	var keys []bridge.NamedKey
	for i, pair := range strings.Fields(text) {
		name, key, _ := strings.Cut(pair, ":")
		if name == "" || key == "" || len(name) > event.MaxName {
			return nil, usagef("%s: entry %d is not name:key", envAPIKeys, i+1)
		}
		for j, other := range keys {
			if other.Key == key {
				return nil, usagef("%s: entries %d and %d have the same key", envAPIKeys, j+1, i+1)
			}
		}
		keys = append(keys, bridge.NamedKey{Name: name, Key: key})
	}
	return keys, nil
}

func (a *app) orEnv(flag, env, fallback string) string {
	for _, v := range []string{flag, a.getenv(env)} {
		if v != "" {
			return v
		}
	}
	return fallback
}

func parseRoles(text string) ([]server.Role, error) {
	var roles []server.Role
	for part := range strings.SplitSeq(text, ",") {
		switch r := server.Role(strings.TrimSpace(part)); r {
		case server.RoleLifecycle, server.RoleWorkflow, server.RoleBridge:
			roles = append(roles, r)
		default:
			return nil, usagef("--roles: %q is not one of lifecycle, workflow, bridge", part)
		}
	}
	return roles, nil
}

func hasBridge(roles []server.Role) bool {
	for _, r := range roles {
		if r == server.RoleBridge {
			return true
		}
	}
	return false
}

// isLoopback reports whether an address to listen on is reached from this machine only.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// logger writes to stderr: coloured lines on a terminal, JSON otherwise.
func (a *app) logger() (*slog.Logger, error) {
	level := slog.LevelInfo
	if text := a.getenv(envLogLevel); text != "" {
		if err := level.UnmarshalText([]byte(text)); err != nil {
			return nil, usagef("%s: %q is not one of debug, info, warn, error", envLogLevel, text)
		}
	}
	if s := a.style(a.stderr); s.terminal {
		return slog.New(tint.NewTextHandler(a.stderr, &tint.Options{Level: level, TimeFormat: "15:04:05.000", NoColor: !s.color})), nil
	}
	return slog.New(slog.NewJSONHandler(a.stderr, &slog.HandlerOptions{Level: level})), nil
}
