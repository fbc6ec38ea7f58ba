//go:build unix

package bustest

import "syscall"

// Freeze stops the server process as it is: connections stay open and nothing is answered. It returns when all its threads stand still, which
// they do not do at the moment of the signal.
func (p *Process) Freeze() {
	p.tb.Helper()
	p.signal(syscall.SIGSTOP)
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || !status.Stopped() {
			p.tb.Fatalf("the server process was not frozen: %v, %v", status, err)
		}
		return
	}
}

// Thaw lets a frozen process go on.
func (p *Process) Thaw() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.tb.Fatal(err)
	}
}
