package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/opspawn/opscore/bus/event"
)

// Agent is one process of an agent. It runs once.
type Agent struct {
	cfg      Config
	token    string
	instance string
	handler  Handler
	ready    chan struct{}
	ran      atomic.Bool
	session  atomic.Pointer[session]
}

// New makes an agent, without connecting. Its error names everything that is wrong with cfg.
func New(cfg Config, h Handler) (*Agent, error) {
	cfg = cfg.withDefaults()
	err := cfg.validate()
	if h == nil {
		err = errors.Join(err, errors.New("the handler is nil"))
	}
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return &Agent{
		cfg:      cfg,
		token:    event.MustToken(cfg.ID),
		instance: newInstance(),
		handler:  h,
		ready:    make(chan struct{}),
	}, nil
}

// Run makes an agent and runs it, see [Agent.Run].
func Run(ctx context.Context, cfg Config, h Handler) error {
	a, err := New(cfg, h)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// Main is Run until the process gets SIGINT or SIGTERM. A second signal ends the process at once.
func Main(cfg Config, h Handler) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // give the second signal its usual effect
	return Run(ctx, cfg, h)
}

// Run connects, waiting for NATS as long as it takes, registers the agent and serves tasks until ctx ends; then it drains and
// returns nil. It returns when all its goroutines have ended, except those of handlers named in an [UnreportedError].
//
// Other errors: the cause of ctx if it ended before the agent was registered, [ErrReplaced] if another process took over, an error
// wrapping [*event.Error] if Ops-Core refused the registration, an authorization error of nats.go, and
// an error if the connection was closed for good or the agent may not subscribe to its tasks. A second call returns an error.
func (a *Agent) Run(ctx context.Context) error {
	if a.ran.Swap(true) {
		return errors.New("agent: an agent runs once; make another one")
	}
	nc, disconnect, err := connect(ctx, &a.cfg)
	if err != nil {
		return fmt.Errorf("agent %s: %w", a.cfg.ID, err)
	}
	defer disconnect()
	s := &session{Agent: a, nc: nc, attempts: newAttempts(a.cfg.Slots)}
	return s.run(ctx)
}

// Ready is closed when the agent has been registered and reported idle: from then on Ops-Core may give it tasks.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Instance returns the id of this process of the agent, made by [New].
func (a *Agent) Instance() string { return a.instance }

// SetState reports how the agent is, in its own words, and repeats it after reconnects. While the agent holds no task, a state other
// than "idle", "finished" or "completed" keeps tasks away. Details, nil or something that encodes to a JSON
// object of at most 64 KiB, are shown with it.
//
// At most 20 states a second are reported, the first 20 at once; of those that are set faster, by several goroutines, the last one counts and the others
// are left out.
//
// It returns when the state, or a later one, is stored or about to be, the cause of ctx if that ended first, or [ErrNotRunning] before Ready and once the
// agent drains.
func (a *Agent) SetState(ctx context.Context, state string, details any) error {
	body, err := encodeObject(details)
	if err != nil {
		return fmt.Errorf("agent: details: %w", err)
	}
	s := a.session.Load()
	if s == nil {
		return ErrNotRunning
	}
	return s.presence.setState(ctx, state, body, false)
}
