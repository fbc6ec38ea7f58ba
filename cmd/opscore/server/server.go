// Package server wires Ops-Core together: the store, the bus, the services of the chosen roles, and the HTTP bridge. It is a package
// of its own so that other programs and tests start the same thing that `opscore serve` does.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
	"github.com/opspawn/opscore/storage/redisstore"
	"github.com/opspawn/opscore/workflow"
)

// Role is a part of Ops-Core that a process may run. Any number of processes may run each.
type Role string

// The roles.
const (
	RoleLifecycle Role = "lifecycle"
	RoleWorkflow  Role = "workflow"
	RoleBridge    Role = "bridge"
)

// AllRoles is what a process runs unless it is told otherwise.
var AllRoles = []Role{RoleLifecycle, RoleWorkflow, RoleBridge}

// Drivers are the storage drivers that a store URL may name.
var Drivers = []storage.Driver{redisstore.Driver, redisstore.DriverTLS, boltstore.Driver}

// Config says what to run. Either NATSURL or Embedded names the bus.
type Config struct {
	StoreURL string              // redis://… or file:…
	NATSURL  string              // of an external server
	Embedded *bus.EmbeddedConfig // run a server in this process instead
	HTTPAddr string              // of the bridge
	Roles    []Role              // empty: AllRoles
	Replicas int                 // of streams that are created, 0 means 1

	Key            string            // bearer key of all routes but the webhook and the probes; empty leaves /api/v1 open
	Keys           []bridge.NamedKey // more such keys, which say who shows them
	OldKey         string            // key of the three old bearer routes when Key is empty
	WebhookSecrets []string          // of the old webhook; empty leaves it open

	Delivery Delivery
	Runs     Runs

	Version string
	Log     *slog.Logger
	// Ready is called once everything stands and the listener is open.
	Ready func(Addresses)
	// Crash is called at named points, for fault tests.
	Crash func(point string)
}

// Delivery says how agents are reached by HTTP; see [bridge.Config].
type Delivery struct {
	Secrets      []string // that sign requests to agents of delivery http
	AgentKitURL  string
	AgentKitKey  string
	AgentKitMode string
	AdoptAgents  bool
}

// Runs says how long runs last, and are kept; what is 0 has the default of [workflow.Config].
type Runs struct {
	Retention     time.Duration // of runs that have ended
	MaxEnded      int           // how many of those are kept
	LegacyTimeout time.Duration // of runs started over the old API
}

// Addresses say where a running server is reached.
type Addresses struct {
	HTTP string // host:port, empty without the bridge role
	NATS string // URL
}

// deadLookEvery is how often it is looked whether dead letters were dropped.
const deadLookEvery = 10 * time.Second

// startTimeout bounds how long a server waits for its store and its bus when it starts.
const startTimeout = 15 * time.Second

// Run runs the server until ctx ends and all its goroutines are gone. The listener opens only when store, streams and consumers stand; a
// failed start is one error that says what to do.
func Run(ctx context.Context, cfg Config) (err error) {
	s := &server{cfg: cfg}
	if len(s.cfg.Roles) == 0 {
		s.cfg.Roles = AllRoles
	}
	if s.cfg.Crash == nil {
		s.cfg.Crash = func(string) {}
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.open(ctx); err != nil {
		return err
	}
	return s.run(ctx)
}

// listenHTTP opens the bridge's listener. Its error names the flag to change.
func listenHTTP(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("HTTP address %s cannot be used (choose another with --http-addr): %w", addr, err)
	}
	return l, nil
}

type server struct {
	cfg      Config
	embedded *bus.Embedded
	conn     *bus.Conn
	store    storage.Store
	listener net.Listener

	keeper *lifecycle.Keeper
	agents *lifecycle.Service
	judge  *lifecycle.Judge
	engine *workflow.Engine
}

func (s *server) has(r Role) bool { return slices.Contains(s.cfg.Roles, r) }

// open connects to everything, cheapest first, so that a mistake in the configuration is said at once.
func (s *server) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	if s.has(RoleBridge) {
		// Bound now, so that a taken port is said before anything else starts; served when all stands.
		if s.listener, err = listenHTTP(s.cfg.HTTPAddr); err != nil {
			return err
		}
	}
	if s.store, err = storage.Open(ctx, s.cfg.StoreURL, Drivers...); err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	s.warn(ctx)
	if s.cfg.Embedded != nil {
		if s.embedded, err = bus.StartEmbedded(*s.cfg.Embedded); err != nil {
			return err
		}
	}
	busConfig := bus.Config{URL: s.cfg.NATSURL, Name: "opscore", Log: s.cfg.Log}
	if s.embedded != nil {
		busConfig.InProcess = s.embedded
	}
	if s.conn, err = bus.Connect(ctx, busConfig); err != nil {
		return err
	}
	if err := s.conn.EnsureStreams(ctx, bus.StreamConfig{Replicas: s.cfg.Replicas}); err != nil {
		return fmt.Errorf("set up the streams: %w", err)
	}
	s.build()
	err = lifecycle.EnsureSchema(ctx, s.store)
	if err == nil {
		err = s.keeper.Check(ctx)
	}
	if errors.Is(err, storage.ErrHeld) {
		// A restore must be repeated, and this is where: it is not ready until then.
		s.cfg.Log.Error("the store cannot be used yet", "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("compare the store with the streams: %w", err)
	}
	return nil
}

// warn says what about the store's configuration may lose data.
func (s *server) warn(ctx context.Context) {
	checked, ok := s.store.(interface {
		Warnings(ctx context.Context) []string
	})
	if !ok {
		return
	}
	for _, w := range checked.Warnings(ctx) {
		s.cfg.Log.Warn("store: " + w)
	}
}

func (s *server) build() {
	log := s.cfg.Log
	s.keeper = lifecycle.NewKeeper(s.store, s.conn, log, s.forget)
	wake := func(agents []string) {
		workflow.Announce(s.conn.NC(), agents)
	}
	if s.has(RoleWorkflow) {
		s.engine = workflow.NewEngine(workflow.Config{
			Store: s.store, Bus: s.conn, Keeper: s.keeper, Log: log, Crash: s.cfg.Crash,
			Retention: s.cfg.Runs.Retention, MaxEnded: s.cfg.Runs.MaxEnded, LegacyTimeout: s.cfg.Runs.LegacyTimeout,
		})
		wake = s.engine.Wake
	}
	if s.has(RoleLifecycle) {
		s.agents = lifecycle.New(lifecycle.Config{Store: s.store, Bus: s.conn, Log: log, Wake: wake, Newer: s.keeper.Newer, Crash: s.cfg.Crash})
		s.judge = lifecycle.NewJudge(lifecycle.JudgeConfig{Store: s.store, Bus: s.conn, Keeper: s.keeper, Log: log, Wake: wake})
	}
}

// forget drops what the services remember of the store.
func (s *server) forget() {
	if s.engine != nil {
		s.engine.Forget()
	}
	if s.agents != nil {
		s.agents.Forget()
	}
}

// run runs the services, and around them the edge, which needs them to answer: when ctx ends the edge stops first, and the services when it has
// answered its last request. Whatever fails ends both.
func (s *server) run(ctx context.Context) error {
	var b *bridge.Bridge
	at := Addresses{NATS: s.cfg.NATSURL}
	if s.embedded != nil {
		at.NATS = s.embedded.URL()
	}
	if s.has(RoleBridge) {
		var err error
		if b, err = s.newBridge(); err != nil {
			return fmt.Errorf("set up the HTTP bridge: %w", err)
		}
		at.HTTP = s.listener.Addr().String()
	}
	stay, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	services, inner := errgroup.WithContext(stay)
	s.serve(inner, services)
	edge, outer := errgroup.WithContext(ctx)
	edge.Go(func() error { // a service that failed
		select {
		case <-inner.Done():
			return context.Cause(inner)
		case <-outer.Done():
			return nil
		}
	})
	if s.has(RoleBridge) || s.has(RoleWorkflow) {
		preloaded := make(chan struct{})
		edge.Go(func() error {
			defer close(preloaded)
			return s.preload(outer)
		})
		awaitPreload(outer, preloaded) // so that the first request finds it
	}
	if b != nil {
		edge.Go(func() error { return b.Serve(outer, s.listener) })
		edge.Go(func() error { return b.Deliver(outer) })
	}
	if s.cfg.Ready != nil {
		s.cfg.Ready(at)
	}
	err := edge.Wait()
	stop()
	if failed := services.Wait(); failed != nil {
		return failed // the edge knows no more than that it did
	}
	return err
}

// serve starts the services.
func (s *server) serve(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { collectWhenIdle(ctx); return nil })
	g.Go(func() error { limitMemory(ctx); return nil })
	g.Go(func() error { return s.keeper.Run(ctx) })
	if s.agents != nil {
		g.Go(func() error { return s.agents.Run(ctx) })
		g.Go(func() error { return s.judge.Run(ctx) })
	}
	if s.engine != nil {
		g.Go(func() error { return s.engine.Run(ctx) })
	}
	g.Go(func() error { return s.serveQueries(ctx) })
	g.Go(func() error { return s.conn.WatchDead(ctx, deadLookEvery) })
}

func (s *server) newBridge() (*bridge.Bridge, error) {
	agents, runs := lifecycle.NewQueries(s.store), workflow.NewQueries(s.store)
	return bridge.New(bridge.Config{
		Bus: s.conn, Agents: agents, Runs: runs, Schedules: runs, Explain: runs, Queues: runs, History: bridge.History(agents.History), RunHistory: runs.History,
		Key: s.cfg.Key, Keys: s.cfg.Keys, OldKey: s.cfg.OldKey, WebhookSecrets: s.cfg.WebhookSecrets,
		Ready: s.checks, Log: s.cfg.Log, Version: s.cfg.Version, Setup: s.setup(), Backups: backups{s},
		PushSecrets: s.cfg.Delivery.Secrets, AgentKitURL: s.cfg.Delivery.AgentKitURL, AgentKitKey: s.cfg.Delivery.AgentKitKey,
		AgentKitMode: s.cfg.Delivery.AgentKitMode, AdoptAgents: s.cfg.Delivery.AdoptAgents,
	})
}

// setup says how this server was started, without passwords.
func (s *server) setup() bridge.Setup {
	scheme, _, _ := strings.Cut(s.cfg.StoreURL, ":")
	if scheme != boltstore.Driver.Scheme {
		scheme = redisstore.Driver.Scheme
	}
	if s.embedded == nil {
		return bridge.Setup{Store: scheme, NATS: "external"}
	}
	return bridge.Setup{Store: scheme, NATS: "embedded", NATSURL: s.embedded.URL()}
}

// checks says what /readyz shows: ready means progressing.
func (s *server) checks(ctx context.Context) []bridge.Check {
	checks := []bridge.Check{{Name: "nats"}, {Name: "store", Err: s.keeper.Progress()}, {Name: "dispatch", Err: s.keeper.Dispatching(), Note: s.keeper.Lost()}}
	if !s.conn.Connected() {
		checks[0].Err = errors.New("not connected")
	}
	if s.embedded != nil && checks[0].Err == nil {
		checks[0].Err = s.embedded.Healthy()
	}
	return checks
}

// close stops things in the reverse order of their use: whoever sends goes before whoever receives.
func (s *server) close() error {
	if s.listener != nil {
		_ = s.listener.Close() // the bridge has closed it already, unless the start failed
	}
	if s.conn != nil {
		s.conn.Close()
	}
	if s.embedded != nil {
		s.embedded.Shutdown()
	}
	if s.store != nil {
		return s.store.Close()
	}
	return nil
}
