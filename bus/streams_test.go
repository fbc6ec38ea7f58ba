package bus_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

func streamConfig(t *testing.T, c *bus.Conn, name string) jetstream.StreamConfig {
	t.Helper()
	s, err := c.JS().Stream(testContext(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().Config
}

func TestEnsureStreamsTwiceFromSeveralProcesses(t *testing.T) {
	s := bustest.Server(t)
	c := bustest.Dial(t, s)
	first := streamConfig(t, c, event.StreamWork)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := c.EnsureStreams(testContext(t), bus.StreamConfig{WorkBytes: 1 << 20}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if again := streamConfig(t, c, event.StreamWork); again.MaxBytes != first.MaxBytes {
		t.Errorf("max bytes went from %d to %d", first.MaxBytes, again.MaxBytes)
	}
}

// A durable that reads most of a stream must not be filtered by the server: see consumers.
func TestConsumerSettings(t *testing.T) {
	c := bustest.Conn(t)
	for _, tc := range []struct {
		stream, durable string
		filters         int
	}{
		{event.StreamAgent, event.ConsumerLifecycle, 0},
		{event.StreamWork, event.ConsumerWorkflow, 0},
	} {
		d, err := c.JS().Consumer(testContext(t), tc.stream, tc.durable)
		if err != nil {
			t.Fatal(err)
		}
		got := d.CachedInfo().Config
		if len(got.FilterSubjects) != tc.filters || got.AckWait != 10*time.Second || got.MaxDeliver != -1 || got.MaxAckPending != 16_384 ||
			got.AckPolicy != jetstream.AckExplicitPolicy || got.DeliverPolicy != jetstream.DeliverAllPolicy {
			t.Errorf("%s: %+v", tc.durable, got)
		}
	}
}

func TestEnsureStreamsLeavesADifferingStreamAlone(t *testing.T) {
	ctx := testContext(t)
	var log bytes.Buffer
	c, err := bus.Connect(ctx, bus.Config{InProcess: bustest.Server(t), Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	_, err = c.JS().CreateStream(ctx, jetstream.StreamConfig{
		Name: event.StreamWork, Subjects: []string{event.SubjectResult}, Discard: jetstream.DiscardOld, MaxBytes: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureStreams(ctx, bus.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	if got := streamConfig(t, c, event.StreamWork); got.Discard != jetstream.DiscardOld || len(got.Subjects) != 1 {
		t.Errorf("the stream was changed: %+v", got)
	}
	warnings := 0
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "level=WARN") {
			warnings++
			if !strings.Contains(line, event.StreamWork) || !strings.Contains(line, "discard") || !strings.Contains(line, event.SubjectAccepted) {
				t.Errorf("the warning does not say what differs: %s", line)
			}
		}
	}
	if warnings != 1 {
		t.Errorf("%d warnings, want 1:\n%s", warnings, log.String())
	}
}

// A consumer of an earlier version takes as much at a time as this one asks for; what somebody else has set stays.
func TestEnsureStreamsLetsEarlierConsumersTakeMore(t *testing.T) {
	ctx := testContext(t)
	c := bustest.Conn(t)
	for _, tc := range []struct{ set, want int }{{4096, bus.MaxAckPending}, {1000, 1000}} {
		d, err := c.JS().Consumer(ctx, event.StreamAgent, event.ConsumerLifecycle)
		if err != nil {
			t.Fatal(err)
		}
		config := d.CachedInfo().Config
		config.MaxAckPending = tc.set
		if _, err := c.JS().UpdateConsumer(ctx, event.StreamAgent, config); err != nil {
			t.Fatal(err)
		}
		if err := c.EnsureStreams(ctx, bus.StreamConfig{}); err != nil {
			t.Fatal(err)
		}
		if d, err = c.JS().Consumer(ctx, event.StreamAgent, event.ConsumerLifecycle); err != nil {
			t.Fatal(err)
		}
		if got := d.CachedInfo().Config.MaxAckPending; got != tc.want {
			t.Errorf("max ack pending was %d and is %d, want %d", tc.set, got, tc.want)
		}
	}
}

// A stream of an earlier version, which carries less and differs in nothing else, carries what this version knows besides; nothing is taken from it.
func TestEnsureStreamsAddsSubjects(t *testing.T) {
	ctx := testContext(t)
	c, err := bus.Connect(ctx, bus.Config{InProcess: bustest.Server(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.EnsureStreams(ctx, bus.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	old := streamConfig(t, c, event.StreamWork)
	old.Subjects = []string{event.SubjectResult, "elsewhere"}
	if _, err := c.JS().UpdateStream(ctx, old); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureStreams(ctx, bus.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	got := streamConfig(t, c, event.StreamWork).Subjects
	for _, want := range append(event.WorkSubjects(), "elsewhere") {
		if !slices.Contains(got, want) {
			t.Errorf("the stream does not carry %s", want)
		}
	}
}

// Whoever says how much JetStream may use, the streams take half of it at most, in the proportions of the defaults.
func TestStreamsFitIntoHalfOfTheStore(t *testing.T) {
	const store = 1 << 30
	embedded, err := bus.StartEmbedded(bus.EmbeddedConfig{Dir: t.TempDir(), MaxStore: store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(embedded.Shutdown)
	for name, cfg := range map[string]bus.Config{
		"embedded": {InProcess: embedded},
		"server that does not say": {URL: plainServer(t, &server.Options{
			JetStream: true, JetStreamMaxStore: store, JetStreamMaxMemory: 1 << 20,
		})},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := bus.Connect(testContext(t), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.EnsureStreams(testContext(t), bus.StreamConfig{}); err != nil {
				t.Fatal(err)
			}
			var total int64
			for _, name := range []string{event.StreamAgent, event.StreamWork, event.StreamFact, event.StreamDead} {
				total += streamConfig(t, c, name).MaxBytes
			}
			if total > store/2 || total < store/8 {
				t.Errorf("the streams take %d of %d bytes", total, store)
			}
			if work, agent := streamConfig(t, c, event.StreamWork).MaxBytes, streamConfig(t, c, event.StreamAgent).MaxBytes; work/2 != agent {
				t.Errorf("work has %d bytes and agent %d, want twice as many", work, agent)
			}
			{
				names := c.JS().StreamNames(testContext(t))
				for name := range names.Name() {
					if name == "OPSCORE_PROBE" {
						t.Error("the probe is left behind")
					}
				}
			}
		})
	}
}

// The server removes the folder of an account in the background when its last stream was deleted, and cannot create one at that moment: what was made to
// find out the limits goes last.
func TestTheProbeIsDeletedAfterTheStreamsWereCreated(t *testing.T) {
	url := plainServer(t, &server.Options{JetStream: true, JetStreamMaxStore: 1 << 30, JetStreamMaxMemory: 1 << 20})
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	said, err := nc.SubscribeSync("$JS.EVENT.ADVISORY.STREAM.*.*")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	c, err := bus.Connect(testContext(t), bus.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.EnsureStreams(testContext(t), bus.StreamConfig{}); err != nil {
		t.Fatal(err)
	}
	for created := 0; ; {
		m, err := said.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		switch what := strings.TrimPrefix(m.Subject, "$JS.EVENT.ADVISORY.STREAM."); {
		case what == "DELETED.OPSCORE_PROBE":
			if created != 5 {
				t.Errorf("the probe is deleted when %d streams were created, want 5", created)
			}
			return
		case strings.HasPrefix(what, "CREATED."):
			created++
		}
	}
}
