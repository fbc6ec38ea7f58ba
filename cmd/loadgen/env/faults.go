package env

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/opspawn/opscore/storage/storagetest/netproxy"
)

// running returns a process that runs.
func (e *Env) running(name string) (*process, *incarnation, error) {
	p := e.process(name)
	if p == nil {
		return nil, nil, fmt.Errorf("there is no server %q", name)
	}
	run := p.current()
	if run == nil {
		return nil, nil, fmt.Errorf("%s does not run", name)
	}
	return p, run, nil
}

// Kill ends a server with SIGKILL and waits until it is gone. Under [Env.Supervise] it is started again. It fails if the server does not run.
func (e *Env) Kill(name string) error {
	p, _, err := e.running(name)
	if err != nil {
		return err
	}
	p.kill()
	return nil
}

// Freeze stops a server in its tracks, until [Env.Thaw]. It fails if the server does not run.
func (e *Env) Freeze(name string) error { return e.tell(name, syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (e *Env) Thaw(name string) error { return e.tell(name, syscall.SIGCONT) }

func (e *Env) tell(name string, s syscall.Signal) error {
	p, run, err := e.running(name)
	if err != nil {
		return err
	}
	p.signal(run, s)
	return nil
}

// Restart starts a server again, killing it first if it runs, and returns when it is ready.
func (e *Env) Restart(ctx context.Context, name string) error {
	p := e.process(name)
	if p == nil {
		return fmt.Errorf("there is no server %q", name)
	}
	p.op.Lock()
	defer p.op.Unlock()
	p.stopLocked(syscall.SIGKILL)
	return p.startLocked(ctx)
}

// CrashAt kills a replica now and has its next incarnation, which a supervisor starts, kill itself when it reaches a named point for the nth time.
func (e *Env) CrashAt(name, point string, n int) error {
	p, _, err := e.running(name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.crash = fmt.Sprintf("%s:%d", point, n)
	p.mu.Unlock()
	p.kill()
	return nil
}

// CopyRedis copies the append-only file as it is now into a folder, which must not exist.
func (e *Env) CopyRedis(to string) error {
	if err := os.CopyFS(to, os.DirFS(e.dataDir(Redis))); err != nil {
		return fmt.Errorf("copy the append-only file: %w", err)
	}
	return nil
}

// RestoreRedis kills Redis, replaces its files with a copy made by [Env.CopyRedis] and starts it again: it has lost what it acknowledged since.
func (e *Env) RestoreRedis(ctx context.Context, from string) error {
	p := e.process(Redis)
	p.op.Lock()
	defer p.op.Unlock()
	p.stopLocked(syscall.SIGKILL)
	if err := os.RemoveAll(e.dataDir(Redis)); err != nil {
		return fmt.Errorf("remove the append-only file: %w", err)
	}
	if err := os.CopyFS(e.dataDir(Redis), os.DirFS(from)); err != nil {
		return fmt.Errorf("bring back the append-only file: %w", err)
	}
	return p.startLocked(ctx)
}

// Supervise starts servers again that end, until ctx ends; it returns when nothing is being started any more. It tells failed of
// starts that did not succeed, one call at a time, and goes on trying.
func (e *Env) Supervise(ctx context.Context, failed func(name string, err error)) {
	var all sync.WaitGroup
	var one sync.Mutex
	for _, p := range e.procs {
		all.Go(func() {
			p.supervise(ctx, func(err error) {
				one.Lock()
				defer one.Unlock()
				failed(p.name, err)
			})
		})
	}
	all.Wait()
}

// Proxy returns the proxy between the replicas and [NATS] or [Redis], nil unless Config.Proxied.
func (e *Env) Proxy(server string) *netproxy.Proxy { return e.proxies[server] }

// AwaitReady waits until every server that should run is ready, or ctx ends.
func (e *Env) AwaitReady(ctx context.Context) error {
	for _, p := range e.procs {
		if err := waitFor(ctx, func() error { return p.ready(ctx, p.addr) }); err != nil {
			return fmt.Errorf("%s is not ready: %w", p.name, err)
		}
	}
	return nil
}
