package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// MinServer is the oldest NATS server that can do what Ops-Core needs: resetting a consumer to a sequence.
var MinServer = fmt.Sprintf("%d.%d", minServerMajor, minServerMinor)

// NewEnough reports whether a version like "2.15.2" or "v2.14.0-beta.1" is at least [MinServer].
func NewEnough(version string) bool { return newEnough(version) }

// StreamReport is what a look at one stream of Ops-Core has found.
type StreamReport struct {
	Name            string
	Exists          bool
	Differs         []string // in what way it differs from what Ops-Core would create
	Replicas        int
	Bytes, MaxBytes int64
	Durable         string // its consumer, empty for a stream that Ops-Core does not read
	Consumes        bool   // that consumer exists
	Waiting         uint64 // messages that were not delivered yet
	Unacked         int    // messages that were delivered and not acknowledged
}

// Inspect looks at the streams and durables of Ops-Core without changing anything, and returns by how much the server's clock is ahead of this one, give or
// take the time its answer took. How many replicas a stream should have is the operator's business.
func Inspect(ctx context.Context, js jetstream.JetStream) (reports []StreamReport, ahead time.Duration, err error) {
	durables := make(map[string]jetstream.ConsumerConfig)
	for _, d := range consumers() {
		durables[d.stream] = d.config
	}
	for _, want := range (StreamConfig{}).streams(1) {
		r := StreamReport{Name: want.Name}
		asked := time.Now()
		stream, err := js.Stream(ctx, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			reports = append(reports, r)
			continue
		case err != nil:
			return nil, 0, fmt.Errorf("bus: stream %s: %w", want.Name, err)
		}
		info := stream.CachedInfo()
		ahead = Ahead(info.TimeStamp, asked, time.Now())
		want.Replicas = info.Config.Replicas
		r.Exists, r.Differs = true, streamDiff(want, info.Config)
		r.Replicas, r.Bytes, r.MaxBytes = info.Config.Replicas, int64(info.State.Bytes), info.Config.MaxBytes
		if config, ok := durables[want.Name]; ok {
			if err := r.consumer(ctx, stream, config); err != nil {
				return nil, 0, err
			}
		}
		reports = append(reports, r)
	}
	return reports, ahead, nil
}

func (r *StreamReport) consumer(ctx context.Context, stream jetstream.Stream, want jetstream.ConsumerConfig) error {
	r.Durable = want.Durable
	c, err := stream.Consumer(ctx, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bus: consumer %s: %w", want.Durable, err)
	}
	info := c.CachedInfo()
	r.Consumes, r.Waiting, r.Unacked = true, info.NumPending, info.NumAckPending
	for _, d := range consumerDiff(want, info.Config) {
		r.Differs = append(r.Differs, "consumer "+want.Durable+": "+d)
	}
	return nil
}

// Ahead is by how much a clock is ahead of this machine's, told by an answer that says the time and was asked for and had between two moments.
func Ahead(said, asked, had time.Time) time.Duration {
	return said.Sub(asked.Add(had.Sub(asked) / 2))
}
