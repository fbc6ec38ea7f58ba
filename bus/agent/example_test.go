package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
)

// An agent that takes tasks until its context ends.
func ExampleRun() {
	ctx, stop := context.WithCancel(context.Background())
	core := playOpsCore("shouter", `{"text":"hello"}`, stop) // asks it to do one task and then calls stop

	err := agent.Run(ctx, agent.Config{
		URL:          shared.ClientURL(),
		ID:           "shouter",
		Version:      "1.0",
		Capabilities: []string{"shout"},
		Log:          slog.New(slog.DiscardHandler),
	}, func(_ context.Context, t *agent.Task) (any, error) {
		var in struct {
			Text string `json:"text"`
		}
		if err := t.Bind(&in); err != nil {
			return nil, err
		}
		return map[string]string{"text": strings.ToUpper(in.Text)}, nil
	})
	<-core
	fmt.Println("stopped:", err)
	// Output:
	// idle
	// completed {"text":"HELLO"}
	// draining
	// offline
	// stopped: <nil>
}

// Progress keeps the lease of a long task alive.
func ExampleTask_Progress() {
	serveOne("indexer", func(ctx context.Context, t *agent.Task) (any, error) {
		for _, percent := range []float64{50, 100} {
			if err := t.Progress(ctx, agent.Progress{Message: "indexing", Percent: percent}); err != nil && ctx.Err() != nil {
				return nil, context.Cause(ctx) // the attempt is not wanted any more
			}
		}
		return nil, nil
	})
	// Output:
	// idle
	// progress 50 indexing
	// progress 100 indexing
	// completed
	// draining
	// offline
}

// A failure that another attempt can repair, but not at once.
func ExampleRetryAfter() {
	serveOne("caller", func(context.Context, *agent.Task) (any, error) {
		return nil, agent.RetryAfter(agent.Fail("rate_limited", "the model wants a pause"), 30*time.Second)
	})
	// Output:
	// idle
	// failed {"code":"rate_limited","message":"the model wants a pause","retryAfterMs":30000}
	// draining
	// offline
}

// A failure that no other attempt can repair.
func ExamplePermanent() {
	serveOne("reader", func(context.Context, *agent.Task) (any, error) {
		return nil, agent.Permanent(errors.New("the document does not exist"))
	})
	// Output:
	// idle
	// failed {"code":"failed","message":"the document does not exist","retryable":false}
	// draining
	// offline
}

// serveOne runs an agent for one task.
func serveOne(id string, h agent.Handler) {
	ctx, stop := context.WithCancel(context.Background())
	core := playOpsCore(id, `{}`, stop)
	cfg := agent.Config{URL: shared.ClientURL(), ID: id, Log: slog.New(slog.DiscardHandler)}
	if err := agent.Run(ctx, cfg, h); err != nil {
		fmt.Println(err)
	}
	<-core
}

// playOpsCore stands in for Ops-Core: it prints what the agent says, gives it one task when it is idle and calls stop when it
// has the result. The channel is closed when the agent has said its last word.
func playOpsCore(id, input string, stop func()) (done <-chan struct{}) {
	nc, err := nats.Connect("", nats.InProcessServer(shared))
	if err != nil {
		panic(err)
	}
	said := make(chan *nats.Msg, 64)
	if _, err := nc.ChanSubscribe("opscore.v1.agent.*."+id, said); err != nil {
		panic(err)
	}
	if err := nc.Flush(); err != nil {
		panic(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer nc.Close()
		for m := range said {
			if last := hear(nc, id, input, stop, m); last {
				return
			}
		}
	}()
	return ended
}

func hear(nc *nats.Conn, id, input string, stop func(), m *nats.Msg) (last bool) {
	msg, err := event.Decode(m.Subject, m.Data)
	if err != nil {
		panic(err)
	}
	switch e := msg.Event.(type) {
	case *event.Register:
		_ = nc.Publish(m.Header.Get(event.HeaderReply), event.MustMarshal(event.Outcome{OK: true}))
	case *event.State:
		fmt.Println(e.State)
		if e.State == agent.StateIdle {
			tk := task("t", 1)
			tk.Input = event.Raw(input)
			_, _ = nc.Request(event.TaskSubject(id), event.MustMarshal(&tk), patience)
		}
		return e.State == agent.StateOffline
	case *event.Progress:
		fmt.Println("progress", *e.Percent, e.Message)
	case *event.Result:
		if e.Error != nil {
			fmt.Println(e.Status, string(event.MustMarshal(e.Error)))
		} else {
			fmt.Println(strings.TrimSpace(string(e.Status) + " " + string(e.Output)))
		}
		stop()
	}
	return false
}
