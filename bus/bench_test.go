package bus_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// body is as long as a usual state event.
const body = `{"state":"idle","timestamp":"2025-01-01T00:00:00Z","details":{"queue":0,"model":"m","note":"nothing to do at the moment"}}`

// BenchmarkPublishAsync compares the client library's asynchronous publish with ours.
func BenchmarkPublishAsync(b *testing.B) {
	b.Run("jetstream", func(b *testing.B) {
		c := bustest.DialURL(b, bustest.ListeningServer(b).URL())
		js, err := jetstream.New(c.NC(), jetstream.WithPublishAsyncMaxPending(4096))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := js.PublishMsgAsync(resultMsg("a", body), jetstream.WithStallWait(time.Minute)); err != nil {
				b.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
		rate(b)
	})
	b.Run("ours", func(b *testing.B) {
		c := bustest.DialURL(b, bustest.ListeningServer(b).URL())
		var wg sync.WaitGroup
		for b.Loop() {
			wg.Add(1)
			err := c.PublishAsync(resultMsg("a", body), func(_ bus.Ack, err error) {
				if err != nil {
					b.Error(err)
				}
				wg.Done()
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		wg.Wait()
		rate(b)
	})
}

// BenchmarkConsume measures the loop with a handler that does nothing, and messages of 10,000 agents: what the server does for a
// filtered consumer grows with their number.
func BenchmarkConsume(b *testing.B) {
	c := bustest.DialURL(b, bustest.ListeningServer(b).URL())
	publishBench(b, c, b.N)
	var n atomic.Int64
	all := make(chan struct{})
	consumer, err := c.NewConsumer(bus.ConsumerConfig{
		Stream: event.StreamWork, Durable: event.ConsumerWorkflow, Workers: 4,
		Handler: func(_ context.Context, batch []*bus.Msg) error {
			done(batch)
			if n.Add(int64(len(batch))) == int64(b.N) {
				close(all)
			}
			return nil
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	b.ResetTimer()
	go func() { defer close(ended); _ = consumer.Run(ctx) }()
	<-all
	cancel()
	<-ended
	for {
		if open, _ := ackPending(b, c, event.StreamWork, event.ConsumerWorkflow); open == 0 {
			break
		}
	}
	rate(b)
}

func publishBench(b *testing.B, c *bus.Conn, n int) {
	b.Helper()
	var wg sync.WaitGroup
	wg.Add(n)
	for i := range n {
		msg := resultMsg("agent-"+strconv.Itoa(i%10_000), body)
		if err := c.PublishAsync(msg, func(bus.Ack, error) { wg.Done() }); err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
}

// BenchmarkRequest measures requests with up to 1000 in flight, answered by another connection.
func BenchmarkRequest(b *testing.B) {
	url := bustest.ListeningServer(b).URL()
	c, agent := bustest.DialURL(b, url), bustest.DialURL(b, url)
	answer := []byte(`{"status":"accepted"}`)
	_, err := agent.NC().Subscribe(event.TaskSubject("*"), func(m *nats.Msg) { _ = m.Respond(answer) })
	if err != nil {
		b.Fatal(err)
	}
	if err := agent.NC().Flush(); err != nil {
		b.Fatal(err)
	}
	slots := make(chan struct{}, 1000)
	var wg sync.WaitGroup
	for b.Loop() {
		slots <- struct{}{}
		wg.Add(1)
		c.Request(event.TaskSubject("a"), []byte(body), 5*time.Second, func(_ []byte, err error) {
			if err != nil {
				b.Error(err)
			}
			<-slots
			wg.Done()
		})
	}
	wg.Wait()
	rate(b)
}

func rate(b *testing.B) { b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s") }
