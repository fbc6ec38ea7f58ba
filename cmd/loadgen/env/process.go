package env

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	startLimit = 30 * time.Second // for a process to get ready, unless its context ends before
	stopLimit  = 10 * time.Second // for a process to end after SIGTERM
	pollEvery  = 20 * time.Millisecond
)

// process is a server in a process of its own. It may be started again and again, on the same address and files.
type process struct {
	name    string
	logFile string
	addr    string // host:port
	command func(p *process) (*exec.Cmd, error)
	ready   func(ctx context.Context, addr string) error
	guard   *guard // nil: it survives this process

	op sync.Mutex // held while it is started or stopped

	mu     sync.Mutex
	run    *incarnation // nil before the first start
	wanted bool         // a supervisor starts it again when it ends
	crash  string       // POINT:N for the next start
	starts int
	spent  usage // by its earlier incarnations; own and resident are peaks
}

// incarnation is one run of a process.
type incarnation struct {
	id     identity
	log    int64         // size of its log when it began
	ended  chan struct{} // closed when it is gone, and the others below are what it left
	last   usage         // as seen last
	killed bool          // by SIGKILL
}

// current returns the running incarnation, or nil.
func (p *process) current() *incarnation {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil {
		return nil
	}
	select {
	case <-p.run.ended:
		return nil
	default:
		return p.run
	}
}

// start starts the process on its address, or on a free one if it has none, and returns when it is ready.
func (p *process) start(ctx context.Context) error {
	p.op.Lock()
	defer p.op.Unlock()
	return p.startLocked(ctx)
}

func (p *process) startLocked(ctx context.Context) error {
	if p.current() != nil {
		return nil
	}
	p.mu.Lock()
	p.wanted = true
	p.mu.Unlock()
	if p.addr != "" {
		return p.launch(ctx)
	}
	const attempts = 5 // somebody else may take the port between our look and the server's
	var err error
	for range attempts {
		if p.addr, err = freeAddr(); err != nil {
			return err
		}
		if err = p.launch(ctx); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// launch runs the process once and waits until it is ready; one that ends or does not get ready is an error with its last lines.
func (p *process) launch(ctx context.Context) error {
	run, err := p.spawn()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if err = p.ready(ctx, p.addr); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-run.ended:
			if run.killed { // its log says nothing of that
				return fmt.Errorf("start %s: it was killed before it was ready", p.name)
			}
			return fmt.Errorf("start %s: it ended at once; the end of its log:\n%s", p.name, lastLines(p.logFile, run.log, 10))
		case <-ctx.Done():
			p.signal(run, syscall.SIGKILL)
			<-run.ended
			return fmt.Errorf("start %s: it did not get ready (%w); the end of its log:\n%s", p.name, err, lastLines(p.logFile, run.log, 10))
		}
	}
}

// spawn starts the process, with its output at the end of its log.
func (p *process) spawn() (*incarnation, error) {
	cmd, err := p.command(p)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(p.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own
	info, err := log.Stat()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for this process, which ends its servers in order
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	id, err := identify(cmd.Process.Pid)
	if err == nil {
		err = p.guard.watch(id)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, errors.Join(err, cmd.Wait())
	}
	run := &incarnation{id: id, log: info.Size(), ended: make(chan struct{})}
	p.mu.Lock()
	p.run = run
	p.starts++
	p.crash = ""
	p.mu.Unlock()
	go p.reap(cmd, run)
	return run, nil
}

// reap waits for the end of an incarnation and adds up what it used.
func (p *process) reap(cmd *exec.Cmd, run *incarnation) {
	_ = cmd.Wait() // a killed process is what was wanted
	p.mu.Lock()
	defer p.mu.Unlock()
	if state := cmd.ProcessState; state != nil {
		status, _ := state.Sys().(syscall.WaitStatus)
		run.killed = status.Signaled() && status.Signal() == syscall.SIGKILL
		run.last.cpu = (state.UserTime() + state.SystemTime()).Seconds()
	}
	p.spent.cpu += run.last.cpu
	p.spent.read += run.last.read
	p.spent.written += run.last.written
	close(run.ended)
}

// kill ends the process with SIGKILL and waits until it is gone. A supervisor starts it again.
func (p *process) kill() {
	if run := p.current(); run != nil {
		p.signal(run, syscall.SIGKILL)
		<-run.ended
	}
}

// stop ends the process in order, and with SIGKILL if it takes too long; a supervisor leaves it so.
func (p *process) stop() {
	p.op.Lock()
	defer p.op.Unlock()
	p.stopLocked(syscall.SIGTERM)
}

func (p *process) stopLocked(how syscall.Signal) {
	p.mu.Lock()
	p.wanted = false
	p.mu.Unlock()
	run := p.current()
	if run == nil {
		return
	}
	p.signal(run, how)
	p.signal(run, syscall.SIGCONT) // a frozen process could not end
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-run.ended:
	case <-limit.C:
		p.signal(run, syscall.SIGKILL)
		<-run.ended
	}
}

// signal sends a signal to an incarnation unless it has ended.
func (p *process) signal(run *incarnation, s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-run.ended: // its number may be another's by now
	default:
		_ = syscall.Kill(run.id.PID, s)
	}
}

// supervise starts the process again whenever it ends, until ctx ends. It tells failed of starts that did not succeed.
func (p *process) supervise(ctx context.Context, failed func(error)) {
	const pause = 100 * time.Millisecond
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := p.revive(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
	}
}

func (p *process) revive(ctx context.Context) error {
	p.op.Lock()
	defer p.op.Unlock()
	p.mu.Lock()
	wanted := p.wanted
	p.mu.Unlock()
	if !wanted || p.current() != nil {
		return nil
	}
	return p.startLocked(ctx)
}

// freeAddr returns an address of the loopback interface that was free a moment ago. Its port lies below the range from which systems
// give ports to outgoing connections: one of those could hold it when a server starts again.
func freeAddr() (string, error) {
	const first, last, attempts = 20_000, 30_000, 100
	var err error
	for range attempts {
		addr := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first))
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}
