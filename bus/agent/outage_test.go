package agent_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
)

// ownServer starts a server for one test, which may stop and start it again on the same port and files.
func ownServer(t *testing.T, edit ...func(*server.Options)) (s *server.Server, restart func()) {
	t.Helper()
	o := serverOptions(t.TempDir())
	for _, e := range edit {
		e(o)
	}
	s, err := startServer(o)
	must(t, err)
	t.Cleanup(func() { stopServer(s) })
	return s, func() {
		t.Helper()
		var err error
		s, err = startServer(o)
		must(t, err)
	}
}

func TestOutage_ResultIsDeliveredAndRegistrationRepeated(t *testing.T) {
	t.Parallel()
	s, restart := ownServer(t)
	c := newOpscore(t, s)
	g := newGate()
	p := c.ready(g.handle)
	must(t, p.SetState(t.Context(), "error", nil))
	c.expectState("error")
	c.accepted(task("a", 1))
	wait(t, g.started)

	stopServer(s)
	close(g.release) // the result is made while the server is down
	restart()

	c.stored(event.StreamWork, event.VerbResult, 1)
	c.stored(event.StreamAgent, event.VerbRegister, 2)
	c.stored(event.StreamAgent, event.VerbState, 3)
	if r := c.last(event.StreamAgent, event.VerbRegister).(*event.Register); r.Instance != p.Instance() {
		t.Errorf("registered as another process: %+v", r)
	}
	if s := c.last(event.StreamAgent, event.VerbState).(*event.State); s.State != "error" {
		t.Errorf("state %q", s.State)
	}
	c.accepted(task("b", 1))
}

func TestOutage_DrainWaitsForTheServer(t *testing.T) {
	t.Parallel()
	s, restart := ownServer(t)
	c := newOpscore(t, s)
	g := newGate()
	p := c.ready(g.handle)
	c.accepted(task("a", 1))
	wait(t, g.started)
	stopServer(s)
	p.stop()
	close(g.release)
	restart()
	must(t, p.end(t))
	must(t, c.nc.ForceReconnect())
	c.stored(event.StreamWork, event.VerbResult, 1)
}

func TestOutage_DrainNamesResultsThatWereNotStored(t *testing.T) {
	t.Parallel()
	s, _ := ownServer(t)
	c := newOpscore(t, s)
	g := newGate()
	p := c.ready(g.handle, drainTimeout(300*time.Millisecond))
	c.accepted(task("a", 1))
	wait(t, g.started)
	stopServer(s)
	close(g.release)
	p.stop()
	var left *agent.UnreportedError
	if err := p.end(t); !errors.As(err, &left) || len(left.Results) != 1 || left.Results[0] != ref("a", 1) {
		t.Errorf("got %v", err)
	}
}

func TestOutage_ReconnectAsksBeforeItTakesTheIDBack(t *testing.T) {
	t.Parallel()
	s, restart := ownServer(t)
	c := newOpscore(t, s)
	p := c.ready(echo, func(cfg *agent.Config) { // it comes back later than the stand-in, which must hear it
		cfg.NATSOptions = append(cfg.NATSOptions, nats.ReconnectWait(time.Second))
	})
	stopServer(s)
	c.decide(func(event.Message) *event.Outcome { // while it was away, another process came
		return event.Refused(event.Errorf(event.CodeStaleInstance, "another process has taken over"))
	})
	restart()
	if err := p.end(t); !errors.Is(err, agent.ErrReplaced) {
		t.Errorf("got %v", err)
	}
	for _, m := range c.rest() {
		if _, ok := m.Event.(*event.Register); ok {
			t.Error("it registered again, against the process that had taken over")
		}
	}
}

func TestOutage_StartsBeforeTheServer(t *testing.T) {
	t.Parallel()
	s, restart := ownServer(t)
	c := newOpscore(t, s)
	stopServer(s)
	p := c.start(echo)
	restart()
	wait(t, p.Ready())
}

func TestOutage_StreamIsMissing(t *testing.T) {
	t.Parallel()
	s, _ := ownServer(t)
	c := newOpscore(t, s)
	js, err := jetstream.New(c.nc)
	must(t, err)
	must(t, js.DeleteStream(t.Context(), event.StreamWork))
	c.ready(echo)
	c.accepted(task("a", 1))
	c.result()
	c.result() // nobody stored it: it is published again
	must(t, makeStream(js, event.StreamWork))
	c.stored(event.StreamWork, event.VerbResult, 1)
}

func TestOutage_StreamIsFull(t *testing.T) {
	t.Parallel()
	s, _ := ownServer(t)
	c := newOpscore(t, s)
	js, err := jetstream.New(c.nc)
	must(t, err)
	full := jetstream.StreamConfig{
		Name: event.StreamWork, Subjects: streamSubjects[event.StreamWork], Discard: jetstream.DiscardNew, MaxMsgs: 1,
	}
	_, err = js.UpdateStream(t.Context(), full)
	must(t, err)
	c.ready(echo)
	c.accepted(task("a", 1))
	c.result()
	c.accepted(task("b", 1))
	for range 3 { // refused by the stream and repeated
		if r := c.result(); r.TaskID != "b" {
			t.Fatalf("result of %s", r.TaskID)
		}
	}
	full.MaxMsgs = 10
	_, err = js.UpdateStream(t.Context(), full)
	must(t, err)
	c.stored(event.StreamWork, event.VerbResult, 2)
}

func TestAccess_WrongPassword(t *testing.T) {
	t.Parallel()
	s, _ := ownServer(t, withUsers)
	err := agent.Run(t.Context(), agent.Config{
		URL: s.ClientURL(), ID: "x", NATSOptions: []nats.Option{nats.UserInfo("agent", "wrong")},
	}, echo)
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("got %v", err)
	}
}

func TestAccess_TasksAreDenied(t *testing.T) {
	t.Parallel()
	s, _ := ownServer(t, withUsers)
	c := newOpscore(t, s)
	p := c.start(echo, func(cfg *agent.Config) {
		cfg.NATSOptions = append(cfg.NATSOptions, nats.UserInfo("agent", "secret"))
	})
	if err := p.end(t); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("got %v", err)
	}
}

// withUsers lets a user in who may publish anything and subscribe only to inboxes.
func withUsers(o *server.Options) {
	o.NoAuthUser = "core"
	o.Users = []*server.User{
		{Username: "core", Password: "core"},
		{Username: "agent", Password: "secret", Permissions: &server.Permissions{
			Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}},
	}
}

func TestAccess_DeniedPublishIsNamedInTheLog(t *testing.T) {
	t.Parallel()
	s, _ := ownServer(t, withUsers, func(o *server.Options) {
		o.Users[1].Permissions.Publish = &server.SubjectPermission{Deny: []string{event.SubjectRegister}}
	})
	lines := make(lineWriter, 100)
	newOpscore(t, s).start(echo, func(cfg *agent.Config) {
		cfg.NATSOptions = append(cfg.NATSOptions, nats.UserInfo("agent", "secret"))
		cfg.Log = slog.New(slog.NewTextHandler(lines, nil))
	})
	for { // the server does not answer such a message: the outbox says what the connection was told
		line := wait(t, lines)
		if strings.Contains(line, "repeating") && strings.Contains(line, "Permissions Violation for Publish") {
			return
		}
	}
}

// lineWriter makes a channel of a log.
type lineWriter chan string

func (w lineWriter) Write(line []byte) (int, error) {
	select {
	case w <- string(line):
	default:
	}
	return len(line), nil
}

func TestOutage_ConnectionIsClosedWhileRegistering(t *testing.T) {
	t.Parallel()
	s, _ := ownServer(t)
	c := newOpscore(t, s)
	js, err := jetstream.New(c.nc)
	must(t, err)
	must(t, js.DeleteStream(t.Context(), event.StreamAgent)) // so that nothing acknowledges the registration
	nc, err := nats.Connect(s.ClientURL())
	must(t, err)
	p := c.start(echo, func(cfg *agent.Config) { cfg.Conn = nc })
	c.next()
	nc.Close()
	if err := p.end(t); !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("got %v", err)
	}
}

func TestOutage_ServerComesBackWithALowerLimit(t *testing.T) {
	t.Parallel()
	o := serverOptions(t.TempDir())
	s, err := startServer(o)
	must(t, err)
	c := newOpscore(t, s)
	started, release := make(chan struct{}), make(chan struct{})
	c.ready(func(context.Context, *agent.Task) (any, error) {
		close(started)
		<-release
		return strings.Repeat("x", 500<<10), nil
	})
	c.accepted(task("a", 1))
	wait(t, started)
	stopServer(s)
	close(release)
	o.MaxPayload = 200 << 10
	s, err = startServer(o)
	must(t, err)
	t.Cleanup(func() { stopServer(s) })
	c.stored(event.StreamWork, event.VerbResult, 1)
	r := c.last(event.StreamWork, event.VerbResult).(*event.Result)
	if r.Status != event.StatusFailed || r.Error.Code != agent.CodeTooLarge || r.AttemptRef != ref("a", 1) {
		t.Errorf("got %+v", r)
	}
}

func TestOutage_RepeatedResultIsOverALowerLimit(t *testing.T) {
	t.Parallel()
	o := serverOptions(t.TempDir())
	s, err := startServer(o)
	must(t, err)
	c := newOpscore(t, s)
	log := make(lineWriter, 100)
	c.ready(returning(strings.Repeat("x", 500<<10)), func(cfg *agent.Config) { cfg.Log = slog.New(slog.NewTextHandler(log, nil)) })
	tk := task("a", 1)
	c.accepted(tk)
	c.result()
	for !strings.Contains(wait(t, log), "task completed") { // so its result is acknowledged
	}
	stopServer(s)
	o.MaxPayload = 200 << 10
	s, err = startServer(o)
	must(t, err)
	t.Cleanup(func() { stopServer(s) })
	for !strings.Contains(wait(t, log), "registered again") {
	}
	c.until(func(context.Context, jetstream.JetStream) bool {
		_, err := c.nc.Request(event.TaskSubject(c.token), event.MustMarshal(&tk), time.Second)
		return err == nil
	})
	if r := c.result(); r.Status != event.StatusFailed || r.Error.Code != agent.CodeTooLarge || r.AttemptRef != tk.Ref() {
		t.Errorf("got %+v", r)
	}
}

func TestOutage_StateThatWasGivenUpDoesNotOvertakeTheNext(t *testing.T) {
	t.Parallel()
	s, _ := ownServer(t)
	c := newOpscore(t, s)
	js, err := jetstream.New(c.nc)
	must(t, err)
	p := c.ready(echo)
	must(t, js.DeleteStream(t.Context(), event.StreamAgent))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.SetState(ctx, "given-up", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	must(t, makeStream(js, event.StreamAgent))
	must(t, p.SetState(t.Context(), "next", nil))
	p.stop()
	must(t, p.end(t))
	stream, err := js.Stream(t.Context(), event.StreamAgent)
	must(t, err)
	if n := stream.CachedInfo().State.Msgs; n != 3 { // next, draining, offline
		t.Errorf("%d states are stored", n)
	}
}

// A state is not left out for the sake of a later one that is given up.
func TestOutage_StateBehindAnotherThatIsGivenUpIsStored(t *testing.T) {
	t.Parallel()
	s, _ := ownServer(t)
	c := newOpscore(t, s)
	js, err := jetstream.New(c.nc)
	must(t, err)
	p := c.ready(echo)
	must(t, js.DeleteStream(t.Context(), event.StreamAgent))
	var all sync.WaitGroup
	all.Go(func() { must(t, p.SetState(t.Context(), "first", nil)) })
	for m := c.next(); ; m = c.next() { // then it is being reported, and the others wait
		if said, ok := m.Event.(*event.State); ok && said.State == "first" {
			break
		}
	}
	all.Go(func() { must(t, p.SetState(t.Context(), "second", nil)) })
	for begun := time.Now(); time.Since(begun) < 200*time.Millisecond; {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := p.SetState(ctx, "given-up", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
	}
	must(t, makeStream(js, event.StreamAgent))
	all.Wait()
	if last := c.last(event.StreamAgent, event.VerbState).(*event.State); last.State != "second" {
		t.Errorf("the last state that is stored is %q", last.State)
	}
	p.stop()
	must(t, p.end(t))
}
