package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/cmd/opscore/server"
)

// childEnv makes this program one of the servers that only benchmarks have: "dev DIR", "bare" or "relay NATS REDIS".
const childEnv = "OPSCORE_BENCH_CHILD"

// Child runs what this process was started for, until SIGTERM, and reports true; it reports false in any other process. Programs that call [Run] call
// it first of all.
func Child() bool {
	args := strings.Fields(os.Getenv(childEnv))
	if len(args) == 0 {
		return false
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server.TuneMemory()
	env.ShareCores()
	var err error
	switch args[0] {
	case "bare":
		err = serveBare(ctx)
	case "relay":
		err = serveRelay(ctx, args[1], args[2])
	case "dev":
		err = serveDev(ctx, args[1])
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "bench child:", err)
		os.Exit(1)
	}
	return true
}

// serveDev is what `opscore dev` runs.
func serveDev(ctx context.Context, dir string) error {
	log := slog.New(slog.DiscardHandler)
	return server.Run(ctx, server.Config{
		Embedded: &bus.EmbeddedConfig{Dir: filepath.Join(dir, "nats"), Addr: "127.0.0.1:0", Log: log},
		StoreURL: "file:" + filepath.Join(dir, "opscore.db"), HTTPAddr: "127.0.0.1:0", OldKey: httpKey, Log: log,
		Ready: func(at server.Addresses) { fmt.Println(at.HTTP) },
	})
}

// serveBare answers every request with a fixed body: what HTTP alone costs on this machine.
func serveBare(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"status":"success","message":"State update accepted"}`)
	})}
	go func() {
		<-ctx.Done()
		_ = srv.Close()
	}()
	fmt.Println(l.Addr())
	return srv.Serve(l)
}

// helper is a child of this package.
type helper struct {
	cmd  *exec.Cmd
	addr string // of its HTTP listener, if it has one
}

// help starts a child and returns when it has said that it is ready, or where it listens.
func (l *lab) help(ctx context.Context, args ...string) (*helper, error) {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	h := &helper{cmd: cmd}
	l.extra = append(l.extra, h)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("start %s: it did not get ready: %w", args[0], err)
	}
	h.addr = strings.TrimSpace(line)
	return h, nil
}

func (h *helper) close() {
	_ = h.cmd.Cancel()
	_ = h.cmd.Wait() // it was stopped
}
