package env

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"syscall"
)

// guard is a process that outlives this one for a moment: it ends the servers when this one dies without having done so. A server cannot
// see to that itself: redis-server does not know its parent, and a frozen process notices nothing.
type guard struct {
	in   io.WriteCloser
	wait func() error
}

func startGuard() (*guard, error) {
	cmd, err := childSpec{Run: "guard"}.command()
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	return &guard{in: in, wait: cmd.Wait}, nil
}

// watch makes the guard answerable for a process.
func (g *guard) watch(id identity) error {
	if g == nil {
		return nil // the servers are to survive this process
	}
	if _, err := fmt.Fprintln(g.in, id.PID, id.Start); err != nil {
		return fmt.Errorf("tell the guard of process %d: %w", id.PID, err)
	}
	return nil
}

// close ends the guard, which kills whatever still runs.
func (g *guard) close() error {
	if g == nil {
		return nil
	}
	_ = g.in.Close()
	return g.wait()
}

// standGuard is the guard's own process: it reads of processes until its parent is gone, and kills those that are left.
func standGuard(in io.Reader) error {
	var watched []identity
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var id identity
		if _, err := fmt.Sscan(lines.Text(), &id.PID, &id.Start); err != nil {
			return fmt.Errorf("unreadable line %q: %w", lines.Text(), err)
		}
		watched = append(watched, id)
	}
	for _, id := range watched {
		if id.alive() {
			_ = syscall.Kill(id.PID, syscall.SIGKILL)
		}
	}
	return lines.Err()
}
