package bustest

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus"
)

// How a server process is told what to do.
const (
	envDir  = "OPSCORE_BUSTEST_DIR"
	envAddr = "OPSCORE_BUSTEST_ADDR"
)

// Process is a NATS server in a process of its own.
type Process struct {
	tb   testing.TB
	dir  string
	addr string
	cmd  *exec.Cmd
	in   io.Closer // closing it stops the server in an orderly way
}

// NATSServer starts a server process on a free port, with a temporary directory; it is killed at the end of the test. The
// package's TestMain must call [Main].
func NATSServer(tb testing.TB) *Process {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Process{tb: tb, dir: tb.TempDir(), addr: l.Addr().String()}
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	p.Restart()
	tb.Cleanup(p.Kill)
	return p
}

// URL is where to connect. It stays the same over restarts.
func (p *Process) URL() string { return "nats://" + p.addr }

// Conn returns a connection, with the streams and durables of Ops-Core. It is closed at the end of the test.
func (p *Process) Conn() *bus.Conn {
	p.tb.Helper()
	return DialURL(p.tb, p.URL())
}

// Kill ends the process with SIGKILL, if it runs.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	p.wait()
}

// Stop ends the process in an orderly way, if it runs.
func (p *Process) Stop() {
	if p.cmd == nil {
		return
	}
	_ = p.in.Close()
	p.wait()
}

func (p *Process) wait() {
	_ = p.cmd.Wait() // a killed process has failed, as it should
	_ = p.in.Close()
	p.cmd = nil
}

// Restart starts the server on its old address and directory; one that runs is killed first. It returns when clients can connect.
func (p *Process) Restart() {
	p.tb.Helper()
	p.Kill()
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), envDir+"="+p.dir, envAddr+"="+p.addr)
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		p.tb.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.tb.Fatal(err)
	}
	p.in = in
	if err := p.cmd.Start(); err != nil {
		p.tb.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, readyLine) {
		p.Kill()
		p.tb.Fatalf("the server process did not start: it said %q, %v; does TestMain call bustest.Main?", line, err)
	}
}

const readyLine = "ready"

// serve runs a server until the standard input is closed, which also happens when the test's process dies.
func serve(dir, addr string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := startRetrying(bus.EmbeddedConfig{Dir: dir, Addr: addr, Log: log, MaxStore: maxStore})
	if err != nil {
		return err
	}
	defer s.Shutdown()
	fmt.Println(readyLine)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// startRetrying waits a little for the address: another test may hold a port that was free a moment ago, as its own end of a
// connection.
func startRetrying(cfg bus.EmbeddedConfig) (s *bus.Embedded, err error) {
	for range 50 {
		if s, err = bus.StartEmbedded(cfg); err == nil {
			return s, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, err
}
