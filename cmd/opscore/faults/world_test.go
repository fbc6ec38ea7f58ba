package faults_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/storagetest"
	"github.com/opspawn/opscore/workflow"
)

// childEnv makes the test binary a replica: "NATS_URL REDIS_URL ROLES [POINT:N]".
const childEnv = "OPSCORE_FAULTS_CHILD"

func TestMain(m *testing.M) {
	if args := strings.Fields(os.Getenv(childEnv)); len(args) > 0 {
		serve(args)
		return
	}
	if args := strings.Fields(os.Getenv(agentEnv)); len(args) > 0 {
		beAgent(args)
		return
	}
	bustest.Main(m)
}

// serve is a replica in a process of its own. It ends when its parent does, which closes its standard input.
func serve(args []string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	ctx, cancel := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	cfg := server.Config{
		NATSURL: args[0], StoreURL: args[1], HTTPAddr: "127.0.0.1:0", OldKey: "test-api-key",
		Log:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Ready: func(at server.Addresses) { fmt.Println("ready", at.HTTP) },
	}
	for r := range strings.SplitSeq(args[2], ",") {
		cfg.Roles = append(cfg.Roles, server.Role(r))
	}
	if len(args) > 3 {
		cfg.Crash = server.CrashAt(args[3])
	}
	if err := server.Run(ctx, cfg); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "replica:", err)
		os.Exit(1)
	}
}

// world is one installation: NATS and Redis in processes of their own, replicas, agents and the ledger.
type world struct {
	t      *testing.T
	redis  *storagetest.RedisServer
	nats   *bustest.Process
	conn   *bus.Conn
	ledger *ledger
	// addresses that replicas use; tests put proxies there
	natsURL, redisURL string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, redis: storagetest.StartRedis(t), nats: bustest.NATSServer(t), ledger: newLedger(t)}
	w.natsURL, w.redisURL = w.nats.URL(), w.redis.URL()
	w.conn = w.nats.Conn()
	return w
}

// replica is a running process of Ops-Core.
type replica struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	http  string
	ended chan struct{}
}

const allRoles = "lifecycle,workflow,bridge"

// replica starts a process and waits until it is ready. Crash is POINT:N or empty.
func (w *world) replica(roles, crash string) *replica {
	w.t.Helper()
	r, err := w.tryReplica(roles, crash)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// diesAt starts a replica that ends at a crash point, POINT:N, and another one when it has, as a supervisor would. wasThere fails the test if it has not
// ended: how often a point is reached depends on how much is done at once, so N must be small.
func (w *world) diesAt(point string) (wasThere func()) {
	w.t.Helper()
	r := w.replica(allRoles, point)
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-r.ended:
			if _, err := w.tryReplica(allRoles, ""); err != nil {
				w.t.Error(err)
			}
		case <-over:
		}
	}()
	w.t.Cleanup(func() { // before that of the replica, which ends it
		close(over)
		<-done
	})
	return func() {
		w.t.Helper()
		select {
		case <-r.ended:
		default:
			w.t.Errorf("the replica was never at %s", point)
		}
	}
}

func (w *world) tryReplica(roles, crash string) (*replica, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &replica{cmd: exec.Command(exe), ended: make(chan struct{})}
	r.cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{w.natsURL, w.redisURL, roles, crash}, " "))
	log, err := os.OpenFile(filepath.Join(w.t.ArtifactDir(), fmt.Sprintf("replica-%s.log", uuid.NewString()[:8])), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	r.cmd.Stderr = log
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	go func() {
		_ = r.cmd.Wait()
		_ = log.Close()
		close(r.ended)
	}()
	w.t.Cleanup(func() {
		r.kill()
		if w.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			w.t.Logf("log of replica %d:\n%s", r.cmd.Process.Pid, tail(text, 6000))
		}
	})
	if readErr != nil || !strings.HasPrefix(line, "ready") {
		<-r.ended
		return nil, fmt.Errorf("the replica did not get ready: %q %w", line, readErr)
	}
	r.http = strings.TrimSpace(strings.TrimPrefix(line, "ready"))
	return r, nil
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// kill ends the process with SIGKILL and waits until it is gone.
func (r *replica) kill() {
	_ = r.cmd.Process.Kill()
	<-r.ended
}

// agent starts an agent of the SDK in this process that enters each task into the ledger when it begins it.
func (w *world) agent(id string, slots int, work time.Duration, caps ...string) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	a, err := agent.New(agent.Config{
		URL: w.nats.URL(), ID: id, Version: "1", Capabilities: caps, Slots: slots, DrainTimeout: time.Second,
		Log: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}, func(ctx context.Context, t *agent.Task) (any, error) {
		leave := w.ledger.enter(id, slots, t.Ref())
		defer leave()
		select {
		case <-time.After(work):
			return map[string]string{"by": id}, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = a.Run(ctx)
		close(done)
	}()
	w.t.Cleanup(func() { cancel(); <-done })
	<-a.Ready()
}

// apply stores a workflow of one task per capability, in a row.
func (w *world) apply(id string, caps ...string) {
	w.t.Helper()
	w.applyRaw(id, sequence(id, caps))
}

// sequence is the definition of a workflow of one task per capability, in a row.
func sequence(id string, caps []string) string {
	var tasks []string
	for i, c := range caps {
		task := fmt.Sprintf(`{"taskId":"t%d","agentCapability":%q`, i+1, c)
		if i+1 < len(caps) {
			task += fmt.Sprintf(`,"nextTaskId":"t%d"`, i+2)
		}
		tasks = append(tasks, task+"}")
	}
	return fmt.Sprintf(`{"id":%q,"tasks":[%s]}`, id, strings.Join(tasks, ","))
}

// start publishes a run's start until the stream has it, and returns the run's id.
func (w *world) start(workflowID string) string {
	w.t.Helper()
	run := uuid.NewString()
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	defer cancel()
	m := nats.NewMsg(event.CommandSubject(event.KindRunStart, run))
	m.Data = event.MustMarshal(&event.RunStart{WorkflowID: workflowID})
	if _, err := w.conn.Publish(ctx, m); err != nil {
		w.t.Fatalf("start a run: %v", err)
	}
	return run
}

// publish publishes what an agent says until a stream has it.
func (w *world) publish(verb event.Verb, agent string, e any) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	defer cancel()
	m := nats.NewMsg(event.AgentSubject(verb, agent))
	m.Data = event.MustMarshal(e)
	if _, err := w.conn.Publish(ctx, m); err != nil {
		w.t.Fatalf("publish the %s of %s: %v", verb, agent, err)
	}
}

// store opens the store.
func (w *world) store() storage.Store {
	w.t.Helper()
	store, err := storage.Open(w.t.Context(), w.redis.URL(), server.Drivers...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = store.Close() })
	return store
}

// startMany starts runs at a pace, and calls at(i) before the ith.
func (w *world) startMany(workflowID string, n int, pace time.Duration, at func(i int)) []string {
	w.t.Helper()
	runs := make([]string, 0, n)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for i := range n {
		if at != nil {
			at(i)
		}
		runs = append(runs, w.start(workflowID))
		<-tick.C
	}
	return runs
}

// complete waits until all runs have completed; a run that ends otherwise fails the test.
func (w *world) complete(runs []string, within time.Duration) {
	w.t.Helper()
	store := w.store()
	q := workflow.NewQueries(store)
	deadline := time.Now().Add(within)
	for _, id := range runs {
		for {
			r, err := q.Run(w.t.Context(), id)
			if err == nil && r.State == event.RunCompleted {
				break
			}
			if err == nil && r.State.Final() {
				w.t.Fatalf("run ended as %s", event.MustMarshal(r))
			}
			if time.Now().After(deadline) {
				w.dump(store)
				w.t.Fatalf("run %s has not ended after %s: %v %s", id, within, err, event.MustMarshal(r))
			}
			<-time.After(10 * time.Millisecond)
		}
	}
}

// dump logs what agents hold and where the runs stand, for a test that failed.
func (w *world) dump(store storage.Store) {
	agents, err := lifecycle.NewQueries(store).List(w.t.Context(), "", 100)
	if err != nil {
		w.t.Log(err)
	}
	q := workflow.NewQueries(store)
	for _, a := range agents.Items {
		w.t.Logf("agent %s: %s, %s", a.AgentID, a.State, a.Unavailable)
		for _, h := range a.Held {
			r, err := q.Run(w.t.Context(), h.RunID)
			w.t.Logf("  holds %s/%s/%d: %s %v", h.RunID, h.TaskID, h.Attempt, event.MustMarshal(r), err)
		}
	}
}

// ledger is what the agents did: one line per begun attempt, appended before anything else happens.
type ledger struct {
	t    *testing.T
	file *os.File

	mu     sync.Mutex
	begun  map[event.AttemptRef]int
	tasks  map[[2]string]int
	active map[string]int
	now    int // tasks that go on
	most   int // that went on at the same time
	over   []string
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.ArtifactDir(), "ledger.txt"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return &ledger{t: t, file: f, begun: make(map[event.AttemptRef]int), tasks: make(map[[2]string]int), active: make(map[string]int)}
}

func (l *ledger) enter(agentID string, slots int, ref event.AttemptRef) (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.file, ref.RunID, ref.TaskID, ref.Attempt, agentID)
	ref.Token = ""
	l.begun[ref]++
	l.tasks[[2]string{ref.RunID, ref.TaskID}]++
	l.now++
	l.most = max(l.most, l.now)
	if l.active[agentID]++; l.active[agentID] > slots {
		l.over = append(l.over, fmt.Sprintf("agent %s had %d tasks at once, and %d slots", agentID, l.active[agentID], slots))
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.active[agentID]--
		l.now--
	}
}

// audit checks that every task of every run was begun, no attempt twice and no agent over its slots. It returns how many tasks were
// begun in more than one attempt.
func (l *ledger) audit(runs []string, tasksPerRun int) (again int) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for ref, n := range l.begun {
		if n > 1 {
			l.t.Errorf("attempt %+v was begun %d times", ref, n)
		}
	}
	for _, run := range runs {
		for i := range tasksPerRun {
			switch n := l.tasks[[2]string{run, fmt.Sprintf("t%d", i+1)}]; {
			case n == 0:
				l.t.Errorf("task t%d of run %s was never begun", i+1, run)
			case n > 1:
				again++
			}
		}
	}
	for _, o := range l.over {
		l.t.Error(o)
	}
	return again
}

// auditOnce is audit for tests in which no attempt may be given up: every task is begun exactly once.
func (l *ledger) auditOnce(runs []string, tasksPerRun int) {
	l.t.Helper()
	if again := l.audit(runs, tasksPerRun); again > 0 {
		l.t.Errorf("%d tasks were begun in more than one attempt", again)
	}
}
