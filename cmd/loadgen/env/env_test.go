package env

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/loadgen"
)

func TestMain(m *testing.M) {
	if Child() {
		return
	}
	goleak.VerifyTestMain(m)
}

func start(t *testing.T, cfg Config) *Env {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	e, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func awaitReady(t *testing.T, e *Env) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := e.AwaitReady(ctx); err != nil {
		t.Fatalf("%v; the end of its log:\n%s", err, lastLines(e.LogFile(Replica(1)), 0, 20))
	}
}

func TestStartedIsReadyAndClosedIsGone(t *testing.T) {
	e := start(t, Config{Replicas: 2})
	for _, url := range e.URLs {
		if err := replicaReady(t.Context(), strings.TrimPrefix(url, "http://")); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	var ids []identity
	for _, p := range e.procs {
		ids = append(ids, p.run.id)
		if !p.run.id.alive() {
			t.Errorf("%s does not run", p.name)
		}
	}
	if len(ids) != 4 {
		t.Errorf("%d processes, want nats, redis and two replicas", len(ids))
	}
	var p loadgen.Point
	e.Sample(&p)
	if _, ok := p.Queue[event.StreamAgent]; !ok || p.Processes["opscore-2"].RSSMiB < 1 || p.Processes[Redis].RSSMiB < 1 {
		t.Errorf("the sample is %+v", p)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id.alive() {
			t.Errorf("process %d still runs after Close", id.PID)
		}
	}
}

func TestRefusesStoresThatAreNotEmpty(t *testing.T) {
	e := start(t, Config{})
	c := redis.NewClient(&redis.Options{Addr: e.process(Redis).addr})
	defer func() { _ = c.Close() }()
	e.process(Replica(1)).stop()
	if err := c.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := e.proveEmpty(t.Context()); err == nil || !strings.Contains(err.Error(), event.StreamWork) {
		t.Errorf("with the sample workflow in the stream: %v", err)
	}
	if err := c.Set(t.Context(), "left", "over", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := e.proveEmpty(t.Context()); err == nil || !strings.Contains(err.Error(), "1 keys") {
		t.Errorf("with a key in redis: %v", err)
	}
	if err := e.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), "left").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("after Reset the key is still there: %v", err)
	}
	awaitReady(t, e)
}

func TestKilledServersComeBack(t *testing.T) {
	e := start(t, Config{Replicas: 1, Proxied: true})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.Supervise(ctx, func(name string, err error) { t.Logf("%s: %v", name, err) })
	}()
	defer func() { cancel(); <-done }()
	for _, name := range e.Names() {
		before := e.process(name).current().id
		if err := e.Kill(name); err != nil {
			t.Fatal(err)
		}
		if before.alive() {
			t.Errorf("%s was killed and runs", name)
		}
		awaitReady(t, e)
	}
	for name, p := range e.Processes() {
		if name != Self && p.Restarts != 1 {
			t.Errorf("%s was started again %d times, want once", name, p.Restarts)
		}
	}
}

// What a start that fails says is about this start: the log may hold many earlier ones.
func TestAStartThatFailsSaysWhy(t *testing.T) {
	p := &process{
		name: "it", addr: "127.0.0.1:1", logFile: filepath.Join(t.TempDir(), "it.log"),
		ready: func(context.Context, string) error { return errors.New("not ready") },
	}
	if err := os.WriteFile(p.logFile, []byte("of yesterday\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.command = func(*process) (*exec.Cmd, error) {
		return exec.Command("sh", "-c", "echo the port is taken; exit 1"), nil
	}
	if err := p.start(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "the end of its log:\nthe port is taken") {
		t.Errorf("it ended: %v", err)
	}
	p.command = func(*process) (*exec.Cmd, error) { return exec.Command("sleep", "60"), nil }
	failed := make(chan error, 1)
	go func() { failed <- p.start(t.Context()) }()
	for p.current() == nil {
		select {
		case err := <-failed:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	p.kill()
	if err := <-failed; err == nil || err.Error() != "start it: it was killed before it was ready" {
		t.Errorf("it was killed: %v", err)
	}
}

func TestFrozenServerAnswersNobodyUntilThawed(t *testing.T) {
	e := start(t, Config{})
	if err := e.Freeze(Redis); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := redisReady(ctx, e.process(Redis).addr); err == nil {
		t.Error("a frozen server answered")
	}
	if err := e.Thaw(Redis); err != nil {
		t.Fatal(err)
	}
	if err := redisReady(t.Context(), e.process(Redis).addr); err != nil {
		t.Error(err)
	}
}

func TestRedisComesBackOlder(t *testing.T) {
	e := start(t, Config{})
	c := redis.NewClient(&redis.Options{Addr: e.process(Redis).addr})
	defer func() { _ = c.Close() }()
	copied := t.TempDir() + "/copy"
	if err := c.Set(t.Context(), "old", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := e.CopyRedis(copied); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), "new", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := e.RestoreRedis(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Exists(t.Context(), "old").Result(); n != 1 || err != nil {
		t.Errorf("old: %d %v", n, err)
	}
	if n, err := c.Exists(t.Context(), "new").Result(); n != 0 || err != nil {
		t.Errorf("new: %d %v", n, err)
	}
}

func TestCrashPointKillsTheNextIncarnation(t *testing.T) {
	e := start(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.Supervise(ctx, func(string, error) {}) }()
	defer func() { cancel(); <-done }()
	nc, err := nats.Connect(e.NATSURL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	say := func() {
		if _, err := nc.Request(event.AgentSubject(event.VerbState, "a"), []byte(`{"state":"idle"}`), 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	say()
	settled, give := context.WithTimeout(t.Context(), 20*time.Second)
	defer give()
	if err := waitFor(settled, func() error { // what is taken in now does not reach the point at the start
		if q := e.queues(); len(q) != 2 || q[event.StreamAgent]+q[event.StreamWork] > 0 {
			return errors.New("messages are not taken in")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := e.CrashAt(Replica(1), "lifecycle-after-commit", 1); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, e)
	say()
	limit, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	if err := waitFor(limit, func() error {
		if n := e.Processes()[Replica(1)].Restarts; n != 2 {
			return errors.New("it was not started twice again")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestGuardKillsWhatIsLeft(t *testing.T) {
	e := start(t, Config{})
	var ids []identity
	for _, p := range e.procs {
		ids = append(ids, p.run.id)
	}
	if err := e.Freeze(NATS); err != nil {
		t.Fatal(err)
	}
	if err := e.guard.close(); err != nil { // as when this process is killed
		t.Fatal(err)
	}
	for i, p := range e.procs {
		<-p.run.ended
		if ids[i].alive() {
			t.Errorf("%s still runs", p.name)
		}
	}
	e.guard = nil
}

func TestKeptEnvironment(t *testing.T) {
	dir := t.TempDir()
	if _, err := Down(t.Context(), dir); !errors.Is(err, ErrNone) {
		t.Errorf("Down of nothing: %v", err)
	}
	k, err := Up(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = k.end(context.Background()) })
	if _, err := Up(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("Up over a running one: %v", err)
	}
	again, err := Reset(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = again.end(context.Background()) })
	if again.NATSURL != k.NATSURL || again.URLs[0] != k.URLs[0] {
		t.Errorf("Reset changed the addresses: %+v, %+v", k, again)
	}
	if err := replicaReady(t.Context(), strings.TrimPrefix(again.URLs[0], "http://")); err != nil {
		t.Error(err)
	}
	if k.running() != 0 || again.running() != 3 {
		t.Errorf("%d old and %d new processes run", k.running(), again.running())
	}
	ended, err := Down(t.Context(), dir)
	if err != nil || ended != 3 || again.running() != 0 {
		t.Errorf("Down ended %d processes, %d run: %v", ended, again.running(), err)
	}
}

// A number that belongs to another process by now must never be signalled.
func TestDownLeavesStrangersAlone(t *testing.T) {
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	k := &Kept{Processes: []KeptProcess{{Name: NATS, identity: identity{PID: self.PID, Start: self.Start + 1}}}}
	stopped := make(chan os.Signal, 1)
	notify(t, stopped)
	if n, err := k.end(t.Context()); n != 0 || err != nil {
		t.Errorf("ended %d: %v", n, err)
	}
	select {
	case s := <-stopped:
		t.Errorf("a stranger got %v", s)
	default:
	}
}

func TestProxyCutsFreezesAndLosesReplies(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = echo.Close() }()
	heard := make(chan string, 10)
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				b := make([]byte, 100)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					heard <- string(b[:n])
					_, _ = c.Write(b[:n])
				}
			}()
		}
	}()
	p, err := newProxy(echo.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	say := func(c net.Conn, within time.Duration) error {
		if err := c.SetDeadline(time.Now().Add(within)); err != nil {
			return err
		}
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 10))
		return err
	}
	c := dial()
	if err := say(c, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	<-heard
	p.HalfOpen()
	if err := say(c, 50*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("half open: %v", err)
	}
	p.Flow()
	if err := say(c, 5*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after a half-open time the connection works on: %v", err)
	}
	c = dial()
	p.LoseReplies(1)
	if err := say(c, 5*time.Second); err == nil {
		t.Error("the reply was not lost")
	}
	if got := <-heard; got != "x" || p.Lost() != 1 {
		t.Errorf("the server heard %q, %d replies were lost", got, p.Lost())
	}
	c = dial()
	if err := say(c, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if n := p.Cut(); n != 1 {
		t.Errorf("cut %d connections, want 1", n)
	}
	if err := say(c, 5*time.Second); err == nil {
		t.Error("a cut connection works on")
	}
}

// notify has SIGTERM put into a channel instead of ending the test.
func notify(t *testing.T, to chan os.Signal) {
	t.Helper()
	signal.Notify(to, syscall.SIGTERM)
	t.Cleanup(func() { signal.Stop(to) })
}
