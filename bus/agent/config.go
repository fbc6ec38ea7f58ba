package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// DefaultDrainTimeout bounds the end of [Run] when [Config.DrainTimeout] is zero.
const DefaultDrainTimeout = 30 * time.Second

// Config says what an agent is and how it reaches Ops-Core. Only ID is required.
type Config struct {
	// URL is one NATS URL or several, separated by commas. Empty means nats.DefaultURL. Ignored if Conn is set.
	URL string

	// Conn is a connection to use instead of opening one; the agent does not close it. It should be made with
	// nats.MaxReconnects(-1), since the default gives up after two minutes, and with nats.ReconnectBufSize(-1), since the
	// default sends messages after a reconnect whose publisher was told of a failure.
	Conn *nats.Conn

	// NATSOptions are added to the options of the connection that the agent opens: credentials, TLS, an inbox prefix. The agent
	// hears about refused registrations only while the inbox prefix begins with "_INBOX".
	NATSOptions []nats.Option

	// ID names the agent. Two processes must not use the same one at the same time: the later one replaces the other.
	ID string

	// Name is shown to people. Empty means ID.
	Name string

	// Version is the version of the agent program.
	Version string

	// Capabilities are the kinds of tasks the agent can do.
	Capabilities []string

	// CapabilitySchemas say what the agent takes and gives, by capability, as JSON Schemas that stand for themselves. A task whose input does not fit is not
	// given to it, and a result that does not fit is a failed attempt. At most 64 KiB each and 256 KiB together.
	CapabilitySchemas map[string]event.CapabilitySchemas

	// Slots is the number of tasks at the same time, 1 to 1000. Zero means 1.
	Slots int

	// Labels restrict which tasks come here, together with the selectors of workflows.
	Labels map[string]string

	// Metadata is shown with the agent. It must encode to a JSON object of at most 64 KiB.
	Metadata any

	// Heartbeat is the time between heartbeats. Zero means 10 s; a negative value means none, and Ops-Core will then not
	// notice when the process dies. At most 24 h.
	Heartbeat time.Duration

	// DrainTimeout is how long Run may take to end. Zero means DefaultDrainTimeout.
	DrainTimeout time.Duration

	// DeregisterOnStop removes the registration at the end of Run instead of leaving it as offline.
	DeregisterOnStop bool

	// Log gets one line per outcome, with the keys agent, run_id, task_id, attempt and err. Nil means slog.Default.
	Log *slog.Logger
}

// withDefaults returns a copy with every zero value replaced by what it means.
func (c Config) withDefaults() Config {
	if c.URL == "" {
		c.URL = nats.DefaultURL
	}
	if c.Name == "" {
		c.Name = c.ID
	}
	if c.Slots == 0 {
		c.Slots = event.DefaultSlots
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = event.DefaultHeartbeat
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = DefaultDrainTimeout
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Capabilities = slices.Clone(c.Capabilities)
	c.CapabilitySchemas = maps.Clone(c.CapabilitySchemas)
	c.Labels = maps.Clone(c.Labels)
	c.Log = c.Log.With(keyAgent, c.ID)
	return c
}

// validate reports every mistake at once.
func (c *Config) validate() error {
	var errs []error
	if _, err := event.Token(c.ID); err != nil {
		errs = append(errs, fmt.Errorf("field ID: %w", err))
	}
	if c.Slots < 1 || c.Slots > event.MaxSlots {
		errs = append(errs, fmt.Errorf("field Slots: %d is not 1 to %d", c.Slots, event.MaxSlots))
	}
	if len(c.Capabilities) > event.MaxCapabilities {
		errs = append(errs, fmt.Errorf("field Capabilities: %d are too many, at most %d are allowed", len(c.Capabilities), event.MaxCapabilities))
	}
	if err := c.checkSchemas(); err != nil {
		errs = append(errs, fmt.Errorf("field CapabilitySchemas: %w", err))
	}
	if c.Heartbeat > event.MaxHeartbeat {
		errs = append(errs, fmt.Errorf("field Heartbeat: %v is more than %v", c.Heartbeat, event.MaxHeartbeat))
	}
	if c.DrainTimeout < 0 {
		errs = append(errs, errors.New("field DrainTimeout: must not be negative"))
	}
	if _, err := encodeObject(c.Metadata); err != nil {
		errs = append(errs, fmt.Errorf("field Metadata: %w", err))
	}
	return errors.Join(errs...)
}

// checkSchemas says why Ops-Core would refuse the schemas, as far as that can be said without it: whether they are JSON Schemas is its to judge.
func (c *Config) checkSchemas() error {
	if len(c.CapabilitySchemas) == 0 {
		return nil
	}
	body, err := event.Marshal(&event.Register{Capabilities: c.Capabilities, CapabilitySchemas: c.CapabilitySchemas})
	if err != nil {
		return err
	}
	_, err = event.Decode(event.AgentSubject(event.VerbRegister, "any"), body)
	return err
}

// register makes the registration of one process.
func (c *Config) register(instance string) *event.Register {
	metadata, _ := encodeObject(c.Metadata) // checked by validate
	r := &event.Register{
		AgentName:    c.Name,
		Version:      c.Version,
		Capabilities: c.Capabilities,
		Slots:        c.Slots,
		Labels:       c.Labels,
		Metadata:     metadata,
		Delivery:     event.DeliveryNATS,
		Instance:     instance,

		CapabilitySchemas: c.CapabilitySchemas,
	}
	if c.Heartbeat > 0 {
		r.HeartbeatSeconds = c.Heartbeat.Seconds()
	}
	return r
}

// newInstance names this process. Time-ordered ids make "which process is newer" readable in logs.
func newInstance() string {
	id, err := uuid.NewV7()
	if err != nil { // the system has no randomness: nothing can be made unique
		panic("agent: " + err.Error())
	}
	return id.String()
}
