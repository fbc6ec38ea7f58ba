package env

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"sync"
	"syscall"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/cmd/opscore/server"
)

// childEnv makes this program run a server instead of what its arguments say; its value is a childSpec.
const childEnv = "OPSCORE_LOADGEN_CHILD"

// maxStore is how many bytes JetStream may use.
const maxStore = 8 << 30

// childSpec says what a child runs.
type childSpec struct {
	Run   string `json:"run"` // "nats", "opscore" or "guard"
	Dir   string `json:"dir,omitempty"`
	Addr  string `json:"addr,omitempty"`
	NATS  string `json:"nats,omitempty"`
	Store string `json:"store,omitempty"`
	Key   string `json:"key,omitempty"`
	Crash string `json:"crash,omitempty"` // POINT:N

	LegacyRunTimeout time.Duration `json:"legacyRunTimeout,omitempty"`
}

// command returns the command that runs this program as a child. Servers get a session of their own: Ctrl-C is for the parent, which
// ends them in order.
func (c childSpec) command() (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	return cmd, nil
}

// Child runs the server that this process was started for, until SIGTERM, and reports true; it reports false in any other process. Programs
// that call [Start] call it first of all.
func Child() bool {
	text := os.Getenv(childEnv)
	if text == "" {
		return false
	}
	_ = os.Unsetenv(childEnv)
	var spec childSpec
	err := json.Unmarshal([]byte(text), &spec)
	if err == nil {
		err = spec.run()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "loadgen: %s: %v\n", spec.Run, err)
		os.Exit(1)
	}
	return true
}

var sharing sync.Once

// ShareCores leaves this process half of the cores, unless GOMAXPROCS says otherwise: NATS, Redis, the replicas and the load stand on one machine here, and a
// process that is given each of few cores spends more on waking threads than they win (docs/performance.md).
func ShareCores() {
	if os.Getenv("GOMAXPROCS") == "" {
		sharing.Do(func() { runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0)/2, 1)) })
	}
}

func (c childSpec) run() error {
	if c.Run == "guard" {
		signal.Ignore(os.Interrupt, syscall.SIGTERM) // it ends when its parent has
		return standGuard(os.Stdin)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server.TuneMemory()
	ShareCores()
	defer profile(c.Run)()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	switch c.Run {
	case "nats":
		return serveNATS(ctx, c, log)
	case "opscore":
		return serveOpscore(ctx, c, log)
	}
	return fmt.Errorf("unknown server %q", c.Run)
}

func serveNATS(ctx context.Context, c childSpec, log *slog.Logger) error {
	s, err := bus.StartEmbedded(bus.EmbeddedConfig{Dir: c.Dir, Addr: c.Addr, Log: log, MaxStore: maxStore})
	if err != nil {
		return err
	}
	<-ctx.Done()
	s.Shutdown()
	return nil
}

func serveOpscore(ctx context.Context, c childSpec, log *slog.Logger) error {
	err := server.Run(ctx, server.Config{
		NATSURL: c.NATS, StoreURL: c.Store, HTTPAddr: c.Addr, Key: c.Key, Log: log, Version: "loadgen", Crash: server.CrashAt(c.Crash),
		Runs: server.Runs{LegacyTimeout: c.LegacyRunTimeout},
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// profileEnv, if set, is the beginning of the names of the files into which servers write what their CPU time went into.
const profileEnv = "OPSCORE_LOADGEN_PROFILE"

// profile writes a CPU profile until stop is called, if profileEnv is set.
func profile(name string) (stop func()) {
	prefix := os.Getenv(profileEnv)
	if prefix == "" {
		return func() {}
	}
	f, err := os.Create(fmt.Sprintf("%s.%s.%d", prefix, name, os.Getpid()))
	if err == nil {
		err = pprof.StartCPUProfile(f)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadgen: no profile:", err)
		return func() {}
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}
}
