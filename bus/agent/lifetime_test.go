package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
)

func TestRun_RegistersSubscribesAndThenIsIdle(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	answered := make(chan event.TaskAnswer, 1)
	c.decide(func(m event.Message) *event.Outcome {
		if isState(m, agent.StateIdle) { // from here on tasks may come
			answered <- c.ask(task("a", 1))
		}
		return approve(m)
	})
	p := c.start(echo, slots(3), func(cfg *agent.Config) {
		cfg.Heartbeat = 20 * time.Second
		cfg.Labels = map[string]string{"zone": "a"}
		cfg.Metadata = map[string]any{"model": "m"}
		cfg.CapabilitySchemas = map[string]event.CapabilitySchemas{"work": {Output: event.Raw(`{"type":"object"}`)}}
	})
	r, ok := c.next().Event.(*event.Register)
	if !ok || r.Slots != 3 || r.HeartbeatSeconds != 20 || r.Instance != p.Instance() || r.AgentName != c.id ||
		r.Labels["zone"] != "a" || string(r.Metadata) != `{"model":"m"}` || r.Capabilities[0] != "work" ||
		string(r.CapabilitySchemas["work"].Output) != `{"type":"object"}` {
		t.Errorf("registration %+v", r)
	}
	if s, ok := c.next().Event.(*event.State); !ok || s.State != agent.StateIdle || s.Instance != p.Instance() {
		t.Errorf("state %+v", s)
	}
	if a := wait(t, answered); a.Status != event.AnswerAccepted {
		t.Errorf("got %+v", a)
	}
	wait(t, p.Ready())
}

func TestRun_DrainsInOrder(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	g := newGate()
	p := c.ready(g.handle, slots(2), func(cfg *agent.Config) { cfg.DeregisterOnStop = true })
	c.accepted(task("a", 1))
	wait(t, g.started)
	p.stop()
	c.expectState(agent.StateDraining)
	c.rejected(task("b", 1), "draining")
	c.accepted(task("a", 1)) // it has that one
	if err := p.SetState(t.Context(), agent.StateIdle, nil); !errors.Is(err, agent.ErrNotRunning) {
		t.Errorf("SetState while draining: %v", err)
	}
	close(g.release)
	if r := c.result(); r.Status != event.StatusCompleted {
		t.Errorf("got %+v", r)
	}
	c.expectState(agent.StateOffline)
	if d, ok := c.next().Event.(*event.Deregister); !ok || d.Instance != p.Instance() {
		t.Errorf("got %+v", d)
	}
	must(t, p.end(t))
	if _, err := c.nc.Request(event.TaskSubject(c.token), nil, patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("after the end: %v", err)
	}
}

func TestRun_InterruptsHandlersWhenDrainTimeIsNearlyOver(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	g := newGate()
	p := c.ready(g.handle, drainTimeout(time.Second))
	c.accepted(task("a", 1))
	wait(t, g.started)
	p.stop()
	if err := wait(t, g.causes); !errors.Is(err, agent.ErrInterrupted) {
		t.Errorf("cause %v", err)
	}
	if r := c.result(); r.Error == nil || r.Error.Code != agent.CodeInterrupted || r.Error.Retryable != nil {
		t.Errorf("got %+v", r.Error)
	}
	c.expectState(agent.StateOffline)
	must(t, p.end(t))
}

func TestRun_NamesHandlersThatIgnoreTheirContext(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	release := make(chan struct{})
	returned := make(chan struct{})
	p := c.ready(func(context.Context, *agent.Task) (any, error) {
		defer close(returned)
		<-release
		return nil, nil
	}, drainTimeout(200*time.Millisecond))
	c.accepted(task("a", 1))
	p.stop()
	var left *agent.UnreportedError
	if err := p.end(t); !errors.As(err, &left) || len(left.Running) != 1 || left.Running[0] != ref("a", 1) {
		t.Errorf("got %v", err)
	} else if !strings.Contains(err.Error(), "run/a/1") {
		t.Errorf("the error does not name the attempt: %v", err)
	}
	close(release)
	wait(t, returned)
}

func ref(id string, attempt int) event.AttemptRef { tk := task(id, attempt); return tk.Ref() }

func TestRun_StopsBeforeNATSAnswers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := agent.Run(ctx, agent.Config{URL: "nats://127.0.0.1:1", ID: "x"}, echo)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
}

func TestRun_Twice(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	p := c.ready(echo)
	if err := p.Run(t.Context()); err == nil {
		t.Error("a second Run works")
	}
}

func TestRun_SharesAConnection(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	nc, err := nats.Connect(c.url)
	must(t, err)
	defer nc.Close()
	p := c.ready(echo, func(cfg *agent.Config) { cfg.Conn = nc })
	before := nc.NumSubscriptions()
	p.stop()
	must(t, p.end(t))
	if !nc.IsConnected() || nc.NumSubscriptions() != 0 || before == 0 {
		t.Errorf("connected: %t, subscriptions: %d, then %d", nc.IsConnected(), before, nc.NumSubscriptions())
	}
}

func TestRun_ConnectionClosedForGood(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	nc, err := nats.Connect(c.url)
	must(t, err)
	p := c.ready(echo, func(cfg *agent.Config) { cfg.Conn = nc })
	nc.Close()
	if err := p.end(t); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got %v", err)
	}
}

func TestNew_NamesEveryMistake(t *testing.T) {
	t.Parallel()
	_, err := agent.New(agent.Config{Slots: -1, Heartbeat: 25 * time.Hour, Metadata: 1, DrainTimeout: -1, Capabilities: make([]string, 201)}, nil)
	for _, want := range []string{"ID", "Slots", "Heartbeat", "Metadata", "DrainTimeout", "Capabilities", "handler"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestNew_NamesMistakesOfSchemas(t *testing.T) {
	t.Parallel()
	for schema, want := range map[string]string{
		`{`: "CapabilitySchemas", `1`: "must be a JSON Schema", `{"x":"` + strings.Repeat("x", event.MaxSchema) + `"}`: "at most 65536 are allowed",
	} {
		schemas := map[string]event.CapabilitySchemas{"work": {Input: event.Raw(schema)}}
		_, err := agent.New(agent.Config{ID: "a", Capabilities: []string{"work"}, CapabilitySchemas: schemas}, echo)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: %v, want %q", schema, err, want)
		}
	}
}

func TestRegister_Refused(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	c.decide(func(event.Message) *event.Outcome {
		return event.Refused(event.Errorf(event.CodeInvalid, "no such thing"))
	})
	p := c.start(echo)
	var refusal *event.Error
	if err := p.end(t); !errors.As(err, &refusal) || refusal.Code != event.CodeInvalid || strings.Count(err.Error(), "refused") != 1 {
		t.Errorf("got %v", err)
	}
}

func TestRegister_IsRepeatedWhileItCannotBeJudged(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	asked := 0
	c.decide(func(m event.Message) *event.Outcome {
		if asked++; asked == 1 {
			return event.Refused(event.Errorf(event.CodeUnavailable, "not now"))
		}
		return approve(m)
	})
	c.ready(echo)
}

func TestRegister_NobodyAnswers(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	c.decide(func(event.Message) *event.Outcome { return nil })
	c.ready(echo)
}

func TestReplaced(t *testing.T) {
	t.Parallel()
	stale := event.Refused(event.Errorf(event.CodeStaleInstance, "another process has taken over"))
	t.Run("AtTheRegistration", func(t *testing.T) {
		t.Parallel()
		c := newOpscore(t, shared)
		c.decide(func(event.Message) *event.Outcome { return stale })
		p := c.start(echo)
		if err := p.end(t); !errors.Is(err, agent.ErrReplaced) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("WhileWorking", func(t *testing.T) {
		t.Parallel()
		c := newOpscore(t, shared)
		g := newGate()
		p := c.ready(g.handle)
		c.accepted(task("a", 1))
		wait(t, g.started)
		c.decide(func(event.Message) *event.Outcome { return stale })

		// A request for the process that took over is the sign; the answer to a state proves it.
		other := task("b", 1)
		other.Instance = "other"
		must(t, c.nc.Publish(event.TaskSubject(c.token), event.MustMarshal(&other)))
		if err := wait(t, g.causes); !errors.Is(err, agent.ErrReplaced) {
			t.Errorf("cause %v", err)
		}
		if err := p.end(t); !errors.Is(err, agent.ErrReplaced) {
			t.Errorf("got %v", err)
		}
		for _, m := range c.rest() { // the probe, and nothing that would be refused
			if !isState(m, agent.StateIdle) {
				t.Errorf("said %+v", m.Event)
			}
		}
	})
}

func TestInstance_RequestForAnotherProcessIsNotAnswered(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	p := c.ready(echo)
	inbox := c.nc.NewInbox()
	answers, err := c.nc.SubscribeSync(inbox)
	must(t, err)
	other := task("other", 1)
	other.Instance = "other"
	must(t, c.nc.PublishRequest(event.TaskSubject(c.token), inbox, event.MustMarshal(&other)))

	mine := task("mine", 1) // requests are answered in order, so once this one is, the other never will be
	mine.Instance = p.Instance()
	c.accepted(mine)
	if r := c.result(); r.TaskID != "mine" {
		t.Errorf("result of %s", r.TaskID)
	}
	if n, _, err := answers.Pending(); n != 0 || err != nil {
		t.Errorf("%d answers, %v", n, err)
	}
}

func TestSetState(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	p := c.ready(echo)
	must(t, p.SetState(t.Context(), "error", map[string]string{"why": "no model"}))
	s, ok := c.next().Event.(*event.State)
	if !ok || s.State != "error" || string(s.Details) != `{"why":"no model"}` || s.Timestamp == "" {
		t.Errorf("got %+v", s)
	}
	if err := p.SetState(t.Context(), "error", 1); err == nil {
		t.Error("details that are no object are taken")
	}
	if err := p.SetState(t.Context(), "error", map[string]string{"a": strings.Repeat("x", event.MaxDetails)}); err == nil {
		t.Error("details over the limit are taken")
	}
	a, err := agent.New(agent.Config{ID: "x"}, echo)
	must(t, err)
	if err := a.SetState(t.Context(), "idle", nil); !errors.Is(err, agent.ErrNotRunning) {
		t.Errorf("before Run: %v", err)
	}
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	beats, err := c.nc.SubscribeSync(event.HeartbeatSubject(c.token))
	must(t, err)
	g := newGate()
	p := c.ready(g.handle, slots(2), func(cfg *agent.Config) { cfg.Heartbeat = 20 * time.Millisecond })
	c.accepted(task("a", 1))
	for {
		m, err := beats.NextMsg(patience)
		must(t, err)
		var b event.Heartbeat
		must(t, event.Unmarshal(m.Data, &b))
		if b.Instance != p.Instance() || b.Load == nil {
			t.Fatalf("got %+v", b)
		}
		if *b.Load == 0.5 {
			break
		}
	}
	close(g.release)
}

func TestMainDrainsOnASignal(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	done := make(chan error, 1)
	go func() {
		done <- agent.Main(agent.Config{URL: c.url, ID: c.id, Log: slog.New(slog.DiscardHandler)}, echo)
	}()
	c.expectState(agent.StateIdle)
	must(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	c.expectState(agent.StateDraining)
	c.expectState(agent.StateOffline)
	must(t, wait(t, done))
}

func TestRun_LeavesNoRequestUnanswered(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	p := c.ready(echo, slots(4))
	ended := make(chan error)
	const clients = 4
	for i := range clients {
		go func() {
			for n := 1; ; n++ {
				tk := task(fmt.Sprintf("%d-%d", i, n), 1)
				if _, err := c.nc.Request(event.TaskSubject(c.token), event.MustMarshal(&tk), patience); err != nil {
					ended <- err
					return
				}
				if i == 0 && n == 100 {
					p.stop()
				}
			}
		}()
	}
	for range clients { // each was answered until the server knew that nobody listens
		if err := <-ended; !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("got %v", err)
		}
	}
	must(t, p.end(t))
}

func TestSetState_LastWordCounts(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	p := c.ready(echo)
	const said = 10_000
	var all sync.WaitGroup
	for i := range said {
		all.Go(func() { must(t, p.SetState(t.Context(), "state-"+strconv.Itoa(i), nil)) })
	}
	all.Wait()
	must(t, p.SetState(t.Context(), "last", nil))
	heard := c.rest()
	if len(heard) > 100 {
		t.Errorf("%d of %d states were reported", len(heard), said)
	}
	if len(heard) == 0 || !isState(heard[len(heard)-1], "last") {
		t.Errorf("the last word of %d was not reported last", len(heard))
	}
}

func TestHeartbeat_Refused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		code event.Code
		then func(c *opscore, p *process)
	}{
		{event.CodeUnknownAgent, func(c *opscore, p *process) {
			c.expectState(agent.StateIdle)
			if r, ok := c.next().Event.(*event.Register); !ok || r.Instance != p.Instance() {
				c.t.Errorf("it does not register again: %+v", r)
			}
		}},
		{event.CodeStaleInstance, func(c *opscore, p *process) {
			if err := p.end(c.t); !errors.Is(err, agent.ErrReplaced) {
				c.t.Errorf("ended with %v", err)
			}
		}},
	} {
		t.Run(string(tc.code), func(t *testing.T) {
			t.Parallel()
			c := newOpscore(t, shared)
			p := c.ready(echo, func(cfg *agent.Config) { cfg.Heartbeat = 20 * time.Millisecond })
			refused := event.Refused(event.Errorf(tc.code, "as planned"))
			if tc.code == event.CodeStaleInstance {
				c.decide(func(event.Message) *event.Outcome { return refused })
			}
			beats, err := c.nc.Subscribe(event.HeartbeatSubject(c.token), func(m *nats.Msg) { _ = m.Respond(event.MustMarshal(refused)) })
			must(t, err)
			t.Cleanup(func() { _ = beats.Unsubscribe() })
			tc.then(c, p)
		})
	}
}

// While no Ops-Core listens the NATS server answers each heartbeat that nobody got it. That is no outcome.
func TestHeartbeat_NobodyListens(t *testing.T) {
	t.Parallel()
	c := newOpscore(t, shared)
	var said lines
	c.ready(echo, func(cfg *agent.Config) {
		cfg.Heartbeat = 5 * time.Millisecond
		cfg.Log = slog.New(slog.NewTextHandler(&said, nil))
	})
	unknown := event.MustMarshal(event.Refused(event.Errorf(event.CodeUnknownAgent, "as planned")))
	beats, err := c.nc.Subscribe(event.HeartbeatSubject(c.token), func(m *nats.Msg) {
		_ = m.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"503"}}})
		_ = m.Respond(unknown)
	})
	must(t, err)
	t.Cleanup(func() { _ = beats.Unsubscribe() })
	c.expectState(agent.StateIdle)
	if _, ok := c.next().Event.(*event.Register); !ok { // so the answers have come
		t.Error("it does not register again")
	}
	if text := said.String(); strings.Contains(text, "unreadable") || !strings.Contains(text, "refused") {
		t.Errorf("it logs %s", text)
	}
}

// lines collects a log.
type lines struct {
	mu sync.Mutex
	strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.String()
}
