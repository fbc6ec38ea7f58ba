package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/cmd/opscore/server"
)

// childEnv makes this program run a server instead: "nats DIR ADDR", "serve NATS_URL REDIS_URL", "http NATS_URL REDIS_URL", "bare" or "dev DIR".
const childEnv = "OPSCORE_BENCH_CHILD"

// child runs what childEnv says until SIGTERM; it reports false when there is nothing to run.
func child() bool {
	args := strings.Fields(os.Getenv(childEnv))
	if len(args) == 0 {
		return false
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	defer profile(args[0])()
	server.TuneMemory()
	var err error
	switch args[0] {
	case "nats":
		var s *bus.Embedded
		if s, err = bus.StartEmbedded(bus.EmbeddedConfig{Dir: args[1], Addr: args[2], Log: log, MaxStore: 8 << 30}); err == nil {
			fmt.Println("ready", s.URL())
			<-ctx.Done()
			s.Shutdown()
		}
	case "serve":
		err = server.Run(ctx, server.Config{
			NATSURL: args[1], StoreURL: args[2], Roles: []server.Role{server.RoleLifecycle, server.RoleWorkflow}, Log: log,
			Ready: func(server.Addresses) { fmt.Println("ready") },
		})
	case "http":
		err = server.Run(ctx, server.Config{
			NATSURL: args[1], StoreURL: args[2], HTTPAddr: "127.0.0.1:0", Key: httpKey, Log: log,
			Ready: func(at server.Addresses) { fmt.Println("ready", at.HTTP) },
		})
	case "bare":
		err = serveBare(ctx)
	case "dev":
		err = server.Run(ctx, server.Config{
			Embedded: &bus.EmbeddedConfig{Dir: filepath.Join(args[1], "nats"), Addr: "127.0.0.1:0", Log: log},
			StoreURL: "file:" + filepath.Join(args[1], "opscore.db"), HTTPAddr: "127.0.0.1:0", OldKey: "test-api-key", Log: log,
			Ready: func(at server.Addresses) { fmt.Println("ready", at.HTTP) },
		})
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "bench child:", err)
		os.Exit(1)
	}
	return true
}

// profile writes a CPU profile of a child to $OPSCORE_BENCH_PROFILE.NAME, if that is set.
func profile(name string) (stop func()) {
	prefix := os.Getenv("OPSCORE_BENCH_PROFILE")
	if prefix == "" {
		return func() {}
	}
	f, err := os.Create(prefix + "." + name)
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench child: no profile:", err)
		return func() {}
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}
}

// lab is the servers of one benchmark, in a folder of their own.
type lab struct {
	dir   string
	procs []*exec.Cmd
	names map[*exec.Cmd]string
	nats  string // URL
	redis string // URL
}

func newLab(context.Context) (*lab, error) {
	dir, err := os.MkdirTemp("", "opscore-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary folder: %w", err)
	}
	return &lab{dir: dir, names: make(map[*exec.Cmd]string)}, nil
}

// close ends the processes in the reverse order of their start and removes the folder.
func (l *lab) close() {
	for i := len(l.procs) - 1; i >= 0; i-- {
		p := l.procs[i]
		_ = p.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = p.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = p.Process.Kill()
			<-done
		}
	}
	_ = os.RemoveAll(l.dir)
}

// start runs this program again as a server and returns what it says when it is ready.
func (l *lab) start(args ...string) (*exec.Cmd, string, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("start %s: %w", args[0], err)
	}
	l.procs = append(l.procs, cmd)
	l.names[cmd] = args[0]
	line, err := bufio.NewReader(out).ReadString('\n')
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || word != "ready" {
		return nil, "", fmt.Errorf("start %s: it did not get ready: %q %w", args[0], line, err)
	}
	return cmd, rest, nil
}

// startBus starts NATS, with the streams of Ops-Core.
func (l *lab) startBus(ctx context.Context) (*bus.Conn, error) {
	_, url, err := l.start("nats", filepath.Join(l.dir, "nats"), "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l.nats = url
	conn, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	return conn, conn.EnsureStreams(ctx, bus.StreamConfig{})
}

func (l *lab) dial(ctx context.Context) (*bus.Conn, error) {
	return bus.Connect(ctx, bus.Config{URL: l.nats, Name: "bench"})
}

// startRedis starts redis-server with AOF everysec.
func (l *lab) startRedis(ctx context.Context) error {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("redis-server is not on PATH: apt-get install redis-server: %w", err)
	}
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := probe.Addr().(*net.TCPAddr).Port
	_ = probe.Close()
	cmd := exec.Command(path, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", l.dir,
		"--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no", "--loglevel", "warning")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start redis-server: %w", err)
	}
	l.procs = append(l.procs, cmd)
	l.names[cmd] = "redis"
	l.redis = fmt.Sprintf("redis://127.0.0.1:%d/0", port)
	for range 200 {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return c.Close()
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("redis-server did not start")
}

// startAll starts NATS, Redis and a replica with all roles but the bridge.
func (l *lab) startAll(ctx context.Context) (*bus.Conn, *exec.Cmd, error) {
	conn, err := l.startBus(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := l.startRedis(ctx); err != nil {
		return nil, nil, err
	}
	cmd, _, err := l.start("serve", l.nats, l.redis)
	return conn, cmd, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// memory returns the memory of a process in MiB: what is its own (RssAnon + RssShmem), and all that is resident (VmRSS).
func memory(pid int) (own, resident float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kb float64
		name, value, _ := strings.Cut(line, ":")
		if _, err := fmt.Sscanf(strings.TrimSpace(value), "%f kB", &kb); err != nil {
			continue
		}
		switch name {
		case "RssAnon", "RssShmem":
			own += kb / 1024
		case "VmRSS":
			resident = kb / 1024
		}
	}
	return own, resident, nil
}

// cpuTimes is the CPU time that the processes of a lab have used, by name.
type cpuTimes map[string]float64

// cpu reads the CPU times of all processes, this one included.
func (l *lab) cpu() cpuTimes {
	times := cpuTimes{"bench (agents, clients)": cpuSeconds(os.Getpid())}
	for _, p := range l.procs {
		times[l.names[p]] = cpuSeconds(p.Process.Pid)
	}
	return times
}

func (t cpuTimes) since(before cpuTimes) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(t)) {
		parts = append(parts, fmt.Sprintf("%s %.1f", name, t[name]-before[name]))
	}
	return strings.Join(parts, ", ")
}

// cpuSeconds reads the user and system time of a process, which Linux counts in hundredths of a second.
func cpuSeconds(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}
