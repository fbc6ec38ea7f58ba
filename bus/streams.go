package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus/event"
)

// The sizes of the streams that a StreamConfig leaves open, in bytes.
const (
	DefaultAgentBytes = 4 << 30
	DefaultWorkBytes  = 8 << 30
	DefaultFactBytes  = 1 << 30
	DefaultDeadBytes  = 1 << 30
)

// How the durables of Ops-Core are made.
const (
	AckWait       = 10 * time.Second // unacknowledged and not renewed for so long: delivered again
	MaxAckPending = 16_384           // delivered and not acknowledged, over all replicas

	earlierMaxAckPending = 4096 // as earlier versions made them: one replica may hold more by itself now, and leave none to the others
)

// History is how many messages of one subject are kept: of agents it is the depth of their history, of facts it bounds what one busy
// run may take.
const (
	agentHistory = 64
	factHistory  = 16
	factAge      = 24 * time.Hour
)

// StreamConfig says how absent streams are created. Zero members mean the defaults; the sizes are bytes per replica. If the
// sizes are together more than half of what JetStream may use, all are scaled down to fit into that half.
type StreamConfig struct {
	Replicas                                    int // 0 means 1
	AgentBytes, WorkBytes, FactBytes, DeadBytes int64
}

// EnsureStreams creates the streams and durable consumers of Ops-Core that do not exist. Of one that exists it changes nothing but to add the
// subjects that a newer version knows; where it differs in what matters, a warning says how. It may run in several processes at the same time.
func (c *Conn) EnsureStreams(ctx context.Context, cfg StreamConfig) error {
	wait := newBackoff(100*time.Millisecond, time.Second)
	for try := 1; ; try++ {
		err := c.ensureAll(ctx, cfg)
		// Another process may just be finding out how much room there is.
		if !isNoRoom(err) || try == 4 || !wait.sleep(ctx) {
			return err
		}
	}
}

func (c *Conn) ensureAll(ctx context.Context, cfg StreamConfig) error {
	factor := 1.0
	missing, err := c.anyMissing(ctx, cfg)
	if err != nil {
		return fmt.Errorf("bus: look for the streams: %w", err)
	}
	if missing {
		if factor, err = c.scale(ctx, cfg); err != nil {
			return fmt.Errorf("bus: ask for the limits of JetStream: %w", err)
		}
	}
	defer func() {
		if missing {
			c.dropProbe(ctx)
		}
	}()
	for _, want := range cfg.streams(factor) {
		if err := c.ensureStream(ctx, want); err != nil {
			return fmt.Errorf("bus: stream %s: %w", want.Name, err)
		}
	}
	for _, want := range consumers() {
		if err := c.ensureConsumer(ctx, want.stream, want.config); err != nil {
			return fmt.Errorf("bus: consumer %s of stream %s: %w", want.config.Durable, want.stream, err)
		}
	}
	return nil
}

func (c *Conn) anyMissing(ctx context.Context, cfg StreamConfig) (bool, error) {
	for _, s := range cfg.streams(1) {
		_, err := c.js.Stream(ctx, s.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("stream %s: %w", s.Name, err)
		}
	}
	return false, nil
}

// streams lists the four streams, the sizes multiplied by factor.
func (cfg StreamConfig) streams(factor float64) []jetstream.StreamConfig {
	streams := []jetstream.StreamConfig{
		{
			// A full stream refuses, so that the last word of a silent agent is never evicted for the chatter of another.
			Name: event.StreamAgent, Subjects: event.AgentSubjects(),
			MaxBytes: orDefault(cfg.AgentBytes, DefaultAgentBytes), Discard: jetstream.DiscardNew, MaxMsgsPerSubject: agentHistory,
			Description: "what agents say of themselves",
		},
		{
			Name: event.StreamWork, Subjects: event.WorkSubjects(),
			MaxBytes: orDefault(cfg.WorkBytes, DefaultWorkBytes), Discard: jetstream.DiscardNew,
			Description: "results of tasks and commands",
		},
		{
			Name: event.StreamFact, Subjects: []string{event.SubjectFactAll},
			MaxBytes: orDefault(cfg.FactBytes, DefaultFactBytes), MaxMsgsPerSubject: factHistory, MaxAge: factAge,
			Description: "what became of agents and runs",
		},
		{
			Name: event.StreamDead, Subjects: []string{event.SubjectDeadAll},
			MaxBytes: orDefault(cfg.DeadBytes, DefaultDeadBytes), Description: "messages that could not be handled",
		},
	}
	for i := range streams {
		s := &streams[i]
		s.MaxBytes = max(int64(float64(s.MaxBytes)*factor), 1)
		s.Replicas = max(cfg.Replicas, 1)
		s.Storage = jetstream.FileStorage
		// De-duplication is per stream, so two agents that both send Nats-Msg-Id 1 would lose a message. It cannot be
		// switched off; this is the shortest window there is.
		s.Duplicates = 100 * time.Millisecond
		if s.Name == event.StreamDead { // written by Ops-Core alone, with ids that no two letters share
			s.Duplicates = deadWindow
		}
	}
	return streams
}

// durable is a consumer that all replicas share.
type durable struct {
	stream string
	config jetstream.ConsumerConfig
}

// consumers lists the durables, one for each intake stream. They have no filters: the server finds the next message of a filtered consumer by
// walking over all subjects of a block, which with 10,000 agents leaves 600 messages a second of 150,000.
func consumers() []durable {
	list := []durable{
		{stream: event.StreamAgent, config: jetstream.ConsumerConfig{Durable: event.ConsumerLifecycle}},
		{stream: event.StreamWork, config: jetstream.ConsumerConfig{Durable: event.ConsumerWorkflow}},
	}
	for i := range list {
		c := &list[i].config
		c.DeliverPolicy = jetstream.DeliverAllPolicy
		c.AckPolicy = jetstream.AckExplicitPolicy
		c.AckWait = AckWait
		c.MaxDeliver = -1 // poison is proven by a handler, not by a count
		c.MaxAckPending = MaxAckPending
	}
	return list
}

// scale returns what the sizes must be multiplied with to fit into half of what JetStream may use.
func (c *Conn) scale(ctx context.Context, cfg StreamConfig) (float64, error) {
	replicas := int64(max(cfg.Replicas, 1))
	var total int64 // of one replica
	for _, s := range cfg.streams(1) {
		total += s.MaxBytes
	}
	limit := c.maxStore // of one replica, as an embedded server has said
	if limit == 0 {
		info, err := c.js.AccountInfo(ctx)
		if err != nil {
			return 0, err
		}
		limit = info.Limits.MaxStore / replicas
		if tier, ok := info.Tiers[fmt.Sprintf("R%d", replicas)]; ok {
			limit = tier.Limits.MaxStore
		}
	}
	factor := 1.0
	switch {
	case limit <= 0: // the account has no limit, and a server does not tell its own
		factor = c.probe(ctx, cfg, total)
	case total > limit/2:
		factor = float64(limit/2) / float64(total)
	}
	if factor < 1 {
		c.log.Info("new streams are smaller than configured, to fit into half of what JetStream may use", "factor", factor)
	}
	return factor, nil
}

// probeStream exists for a moment, to find out whether the server would reserve as many bytes.
const probeStream = "OPSCORE_PROBE"

// probe finds by trial the largest power of 1/2 that lets twice the streams fit. When the server refuses for any other reason it
// returns 1, and the creation of the streams will say why.
//
// It gives the room back but leaves the probe for [Conn.dropProbe]: after the last stream of an account was deleted the server removes the account's
// folder in the background, and fails to create a stream in it at that moment.
func (c *Conn) probe(ctx context.Context, cfg StreamConfig, total int64) float64 {
	for factor := 1.0; factor > 1.0/(1<<16); factor /= 2 {
		probe := jetstream.StreamConfig{
			Name: probeStream, MaxBytes: int64(2 * float64(total) * factor), Replicas: max(cfg.Replicas, 1), Storage: jetstream.FileStorage,
		}
		_, err := c.js.CreateOrUpdateStream(ctx, probe)
		if isNoRoom(err) {
			continue
		}
		if err != nil {
			return 1
		}
		probe.MaxBytes = 1
		if _, err := c.js.UpdateStream(ctx, probe); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			c.log.Warn("stream made to find out the limits cannot be made small", "stream", probeStream, "err", err)
		}
		return factor
	}
	return 1
}

// dropProbe removes what a probe has left. Another process may have done so.
func (c *Conn) dropProbe(ctx context.Context) {
	if err := c.js.DeleteStream(ctx, probeStream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		c.log.Warn("stream made to find out the limits cannot be deleted", "stream", probeStream, "err", err)
	}
}

// The server's error codes for a stream that does not fit.
const (
	errCodeNoStorage      jetstream.ErrorCode = 10047
	errCodeAccountStorage jetstream.ErrorCode = 10002
)

func isNoRoom(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == errCodeNoStorage || api.ErrorCode == errCodeAccountStorage)
}

func (c *Conn) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	for {
		have, err := c.js.Stream(ctx, want.Name)
		switch {
		case err == nil:
			if more := moreSubjects(want, have.CachedInfo().Config); more != nil {
				return c.addSubjects(ctx, have.CachedInfo().Config, more)
			}
			if diff := streamDiff(want, have.CachedInfo().Config); len(diff) > 0 {
				c.log.Warn("stream differs from what Ops-Core expects and is left as it is", "stream", want.Name, "differs", diff)
			}
			return nil
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			return err
		}
		_, err = c.js.CreateStream(ctx, want)
		switch {
		case err == nil:
			c.log.Info("stream created", "stream", want.Name, "max_bytes", want.MaxBytes, "replicas", want.Replicas)
			return nil
		case !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
			return err
		}
		// Another process has created it since, with other sizes.
	}
}

func (c *Conn) ensureConsumer(ctx context.Context, stream string, want jetstream.ConsumerConfig) error {
	for {
		have, err := c.js.Consumer(ctx, stream, want.Durable)
		switch {
		case err == nil:
			config := have.CachedInfo().Config
			if config.MaxAckPending == earlierMaxAckPending {
				config.MaxAckPending = want.MaxAckPending
				if _, err := c.js.UpdateConsumer(ctx, stream, config); err != nil {
					return fmt.Errorf("let consumer %s take more at a time: %w", want.Durable, err)
				}
				c.log.Info("consumer takes more at a time than before", "stream", stream, "consumer", want.Durable, "messages", want.MaxAckPending)
			}
			if diff := consumerDiff(want, config); len(diff) > 0 {
				c.log.Warn("consumer differs from what Ops-Core expects and is left as it is",
					"stream", stream, "consumer", want.Durable, "differs", diff)
			}
			return nil
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return err
		}
		_, err = c.js.CreateConsumer(ctx, stream, want)
		switch {
		case err == nil:
			c.log.Info("consumer created", "stream", stream, "consumer", want.Durable)
			return nil
		case !errors.Is(err, jetstream.ErrConsumerExists):
			return err
		}
	}
}

// moreSubjects returns the subjects that a stream of an earlier version lacks and that differs in nothing else, or nil.
func moreSubjects(want, have jetstream.StreamConfig) []string {
	var more []string
	for _, s := range want.Subjects {
		if !slices.ContainsFunc(have.Subjects, func(h string) bool { return covers(h, s) }) {
			more = append(more, s)
		}
	}
	want.Subjects = have.Subjects
	if len(streamDiff(want, have)) > 0 {
		return nil
	}
	return more
}

// addSubjects lets a stream carry what this version knows besides. Subjects are only ever added: an earlier version beside this one keeps its own.
func (c *Conn) addSubjects(ctx context.Context, have jetstream.StreamConfig, more []string) error {
	have.Subjects = append(slices.Clone(have.Subjects), more...)
	if _, err := c.js.UpdateStream(ctx, have); err != nil {
		return fmt.Errorf("add subjects %s: %w", strings.Join(more, " "), err)
	}
	c.log.Info("stream carries more than before", "stream", have.Name, "subjects", more)
	return nil
}

// streamDiff names what differs in a way that changes what Ops-Core promises. Sizes are the operator's business.
func streamDiff(want, have jetstream.StreamConfig) []string {
	var d []string
	for _, s := range want.Subjects {
		if !slices.ContainsFunc(have.Subjects, func(h string) bool { return covers(h, s) }) {
			d = append(d, "subject "+s+" is missing")
		}
	}
	d = appendDiff(d, "retention", have.Retention, want.Retention)
	d = appendDiff(d, "storage", have.Storage, want.Storage)
	d = appendDiff(d, "discard", have.Discard, want.Discard)
	d = appendDiff(d, "max age", have.MaxAge, want.MaxAge)
	d = appendDiff(d, "max messages per subject", max(have.MaxMsgsPerSubject, 0), max(want.MaxMsgsPerSubject, 0))
	d = appendDiff(d, "max messages", max(have.MaxMsgs, 0), max(want.MaxMsgs, 0))
	return appendDiff(d, "replicas", have.Replicas, want.Replicas)
}

func consumerDiff(want, have jetstream.ConsumerConfig) []string {
	filters := func(c jetstream.ConsumerConfig) string {
		list := slices.Clone(c.FilterSubjects)
		if c.FilterSubject != "" {
			list = append(list, c.FilterSubject)
		}
		slices.Sort(list)
		return strings.Join(list, " ")
	}
	d := appendDiff(nil, "filter", filters(have), filters(want))
	d = appendDiff(d, "deliver policy", have.DeliverPolicy, want.DeliverPolicy)
	d = appendDiff(d, "ack policy", have.AckPolicy, want.AckPolicy)
	d = appendDiff(d, "ack wait", have.AckWait, want.AckWait)
	d = appendDiff(d, "max deliver", have.MaxDeliver, want.MaxDeliver)
	return appendDiff(d, "max ack pending", have.MaxAckPending, want.MaxAckPending)
}

func appendDiff[T comparable](d []string, what string, have, want T) []string {
	if have == want {
		return d
	}
	return append(d, fmt.Sprintf("%s is %v, not %v", what, have, want))
}

// covers reports whether every subject that matches pattern b also matches pattern a.
func covers(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i, t := range as {
		switch {
		case t == ">":
			return len(bs) > i
		case i >= len(bs), bs[i] == ">", t != "*" && t != bs[i]:
			return false
		}
	}
	return len(as) == len(bs)
}

func orDefault(v, def int64) int64 {
	if v > 0 {
		return v
	}
	return def
}
