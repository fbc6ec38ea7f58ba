package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
)

// AgentQueries reads agents. An agent that is not registered is an *event.Error of CodeUnknownAgent; any other error means that
// the store does not answer.
type AgentQueries interface {
	Get(ctx context.Context, id string) (*event.Agent, error)
	List(ctx context.Context, cursor string, limit int) (event.List[event.Agent], error)
	// Fence returns the highest sequence of StreamAgent taken in for an agent, registered or not.
	Fence(ctx context.Context, id string) (uint64, error)
}

// RunQueries reads runs and definitions. One that does not exist is an *event.Error of CodeUnknownRun or CodeUnknownDefinition; any
// error that is no *event.Error means that the store does not answer.
type RunQueries interface {
	Run(ctx context.Context, id string) (*event.Run, error)
	Runs(ctx context.Context, cursor string, limit int) (event.List[event.Run], error)
	// Children returns the runs that the tasks of a run have started.
	Children(ctx context.Context, run, cursor string, limit int) (event.List[event.Run], error)
	// Approvals returns the places where runs wait for a person's word.
	Approvals(ctx context.Context, cursor string, limit int) (event.List[event.Approval], error)
	// Fence returns the highest sequence of StreamWork taken in for a run, 0 if there is no such run.
	Fence(ctx context.Context, id string) (uint64, error)
	// Workflow returns a version of a definition; the latest one if version is empty.
	Workflow(ctx context.Context, id, version string) (*event.Definition, error)
	Workflows(ctx context.Context, cursor string, limit int) (event.List[event.Definition], error)
}

// ExplainQueries say why nothing happens. A run or an agent that does not exist is an *event.Error of CodeUnknownRun or CodeUnknownAgent.
type ExplainQueries interface {
	ExplainRun(ctx context.Context, id string) (*event.RunExplanation, error)
	ExplainAgent(ctx context.Context, id string) (*event.AgentExplanation, error)
}

// QueueQueries read the queues in which tasks wait for agents.
type QueueQueries interface {
	Queues(ctx context.Context) (event.List[event.Queue], error)
	// QueueFence returns the sequence of the last command about the queues of a capability, 0 if there was none.
	QueueFence(ctx context.Context, capability string) (uint64, error)
}

// ScheduleQueries reads schedules. One that does not exist is an *event.Error of CodeUnknownSchedule.
type ScheduleQueries interface {
	Schedule(ctx context.Context, id string) (*event.Schedule, error)
	Schedules(ctx context.Context, cursor string, limit int) (event.List[event.Schedule], error)
	// ScheduleFence returns the highest sequence of StreamWork taken in for a schedule, 0 if there is none.
	ScheduleFence(ctx context.Context, id string) (uint64, error)
}

// Check is one thing that must work before Ops-Core is ready. Err is nil when it does.
type Check struct {
	Name string
	Err  error
	Note string // what an operator should know although it works
}

// Config is what a Bridge needs. Bus, Agents and Runs are required.
type Config struct {
	Bus    *bus.Conn
	Agents AgentQueries
	Runs   RunQueries
	// Explain, when set, is under /api/v1/runs/{id}/explain and /api/v1/agents/{id}/explain.
	Explain ExplainQueries
	// Queues, when set, are under /api/v1/queues.
	Queues QueueQueries
	// Schedules, when set, are under /api/v1/schedules.
	Schedules ScheduleQueries
	// History, when set, is shown under /api/v1/agents/{id}/history.
	History HistoryQuery
	// RunHistory, when set, is shown under /api/v1/runs/{id}/history. It fails as RunQueries do.
	RunHistory func(ctx context.Context, run string) (*event.RunHistory, error)

	// Key is a bearer key of all routes but the webhook and the probes. Without one, and without Keys, /api/v1 is open.
	Key string
	// Keys are more such keys, which say who shows them.
	Keys []NamedKey
	// OldKey is the key of the three old bearer routes when there is neither Key nor Keys. Without any these routes refuse everybody.
	OldKey string
	// WebhookSecrets are the secrets of which one must have signed a request to the old webhook. Empty leaves it open.
	WebhookSecrets []string

	// Ready returns what /readyz shows. Nil: ready means connected to NATS.
	Ready func(ctx context.Context) []Check
	// CallTimeout is how long a write waits for its outcome. 0 means 5 s.
	CallTimeout time.Duration
	// Version is shown in the description of the API.
	Version string
	// Backups, when set, serves /api/v1/backup and /api/v1/restore.
	Backups Backups
	// Setup is shown to whoever has the key.
	Setup Setup
	// Log gets one line per finished request: a warning for one that was refused, at most 20 per second and route. Nil logs nothing.
	Log *slog.Logger

	// PushSecrets sign what is sent to agents of delivery http, each whsec_ followed by base64. Empty signs nothing.
	PushSecrets []string
	// AgentKitURL, with or without a trailing /v1, is where agents of delivery agentkit are reached that cannot be reached directly.
	AgentKitURL string
	// AgentKitKey is the bearer key shown to AgentKit, if there is one.
	AgentKitKey string
	// AgentKitMode is AgentKitDirect or AgentKitThrough, for agents of delivery agentkit whose metadata do not say. Empty means AgentKitDirect.
	AgentKitMode string
	// AdoptAgents registers an unknown agent that reports its state on the old route, with the key.
	AdoptAgents bool
}

const defaultCallTimeout = 5 * time.Second

// Bridge answers HTTP requests. Its methods are safe for concurrent use.
type Bridge struct {
	cfg     Config
	log     *slog.Logger
	api     http.Handler
	old     map[string]oldRoute
	handler http.Handler
	store   storeGuard

	timeouts timeouts
	requests requestLog
	refusals refusalLines
	paces    paces

	inFlight  chan struct{} // one token per request being served
	bigBodies chan struct{} // one more for each with a big body
	draining  chan struct{} // closed when Serve begins to stop
	drainOnce sync.Once

	name        string // of this replica, for hints to others
	pushSecrets [][]byte
	pushes      *pusher
	polls       polls
	polling     chan struct{} // one token per request that waits for a task
}

// New makes a Bridge. It fails if a required member of the Config is missing.
func New(cfg Config) (*Bridge, error) {
	if cfg.Bus == nil || cfg.Agents == nil || cfg.Runs == nil {
		return nil, errors.New("bridge: Bus, Agents and Runs are required")
	}
	if cfg.CallTimeout <= 0 {
		cfg.CallTimeout = defaultCallTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Ready == nil {
		cfg.Ready = func(context.Context) []Check { return []Check{natsCheck(cfg.Bus)} }
	}
	b := &Bridge{
		cfg: cfg, log: cfg.Log, timeouts: defaultTimeouts,
		inFlight:  make(chan struct{}, maxInFlight),
		bigBodies: make(chan struct{}, maxBigBodies),
		draining:  make(chan struct{}),
	}
	if err := b.setUpDelivery(); err != nil {
		return nil, err
	}
	b.store.probe = func(ctx context.Context) error {
		_, err := cfg.Agents.Fence(ctx, "probe")
		return err
	}
	b.api, b.old = b.newAPI(), b.oldRoutes()
	b.handler = b.observe(b.limit(http.HandlerFunc(b.route)))
	return b, nil
}

func natsCheck(conn *bus.Conn) Check {
	c := Check{Name: "nats"}
	if !conn.Connected() {
		c.Err = errors.New("not connected")
	}
	return c
}

// Handler returns the handler of all routes.
func (b *Bridge) Handler() http.Handler { return b.handler }

// errURITooLong stands for a status that has no code of its own on the wire.
var errURITooLong = &Problem{Status: http.StatusRequestURITooLong, Code: event.CodeTooLarge, Detail: fmt.Sprintf("the URL is over the limit of %d bytes", maxURI)}

// route sends a request to the new API, the probes or the old API, which also answers for everything unknown.
func (b *Bridge) route(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case len(r.RequestURI) > maxURI:
		fail(w, r, errURITooLong)
	case isAPI(path), isDescription(path):
		b.api.ServeHTTP(w, r)
	case path == pathLive || path == pathReady:
		b.serveProbe(w, r)
	default:
		b.serveOld(w, r)
	}
}

// isAPI reports whether errors of a path are told as problem+json.
func isAPI(path string) bool { return path == "/api" || strings.HasPrefix(path, "/api/") }
