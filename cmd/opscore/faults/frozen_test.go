package faults_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
)

// agentEnv makes the test binary an agent: "NATS_URL ID".
const agentEnv = "OPSCORE_FAULTS_AGENT"

// beAgent is an agent in a process of its own, with one slot. It works on each task until that is cancelled, and says so on its standard output. It ends when
// its parent does, which closes its standard input.
func beAgent(args []string) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	a, err := agent.New(agent.Config{
		URL: args[0], ID: args[1], Version: "1", Capabilities: []string{"one"}, Heartbeat: time.Second, DrainTimeout: time.Second,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}, func(ctx context.Context, t *agent.Task) (any, error) {
		fmt.Println("begun", t.RunID)
		<-ctx.Done()
		fmt.Println("ended", t.RunID)
		return nil, context.Cause(ctx)
	})
	if err == nil {
		err = a.Run(ctx)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

// agentProcess is such an agent.
type agentProcess struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
}

func (w *world) agentProcess(id string) *agentProcess {
	w.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	a := &agentProcess{t: w.t, cmd: exec.Command(exe), lines: make(chan string, 16)}
	a.cmd.Env = append(os.Environ(), agentEnv+"="+w.nats.URL()+" "+id)
	a.cmd.Stderr = w.t.Output()
	stdin, err := a.cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(out); s.Scan(); {
			a.lines <- s.Text()
		}
	}()
	w.t.Cleanup(func() {
		_ = a.cmd.Process.Kill() // also when it is frozen
		<-read
		_ = a.cmd.Wait()
		_ = stdin.Close()
	})
	return a
}

// says waits for what the agent says next.
func (a *agentProcess) says(want string) {
	a.t.Helper()
	select {
	case got := <-a.lines:
		if got != want {
			a.t.Fatalf("the agent says %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		a.t.Fatalf("the agent does not say %q", want)
	}
}

func (a *agentProcess) signal(s os.Signal) {
	a.t.Helper()
	if err := a.cmd.Process.Signal(s); err != nil {
		a.t.Fatal(err)
	}
}

// TestAFrozenAgentIsToldToStopWhenItReturns freezes an agent for so long that its task is done by another one.
func TestAFrozenAgentIsToldToStopWhenItReturns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.replica(allRoles, "")
	w.apply("seq", "one")
	w.applyRaw("named", `{"id":"named","tasks":[{"taskId":"t1","agentId":"frozen"}]}`)
	frozen := w.agentProcess("frozen")
	run := w.start("seq")
	frozen.says("begun " + run)
	w.agent("other", 1, time.Millisecond, "one")
	frozen.signal(syscall.SIGSTOP)
	w.complete([]string{run}, 90*time.Second)

	frozen.signal(syscall.SIGCONT)
	frozen.says("ended " + run)
	next := w.start("named") // its slot is free again
	frozen.says("begun " + next)
	store := w.store()
	bustest.Eventually(t, "the old attempt is none of its work any more", func() bool {
		docs, err := store.Get(t.Context(), "gate/frozen")
		return err == nil && strings.Contains(string(docs[0].Data), next) && !strings.Contains(string(docs[0].Data), run)
	})
}
