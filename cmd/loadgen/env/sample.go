package env

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/loadgen"
)

// sampler remembers what the processes had used when they were looked at last.
type sampler struct {
	mu   sync.Mutex
	at   time.Time
	used map[string]usage // CPU, read and written since the process's first start
	peak map[string]usage // own and resident
}

// Sample fills in what each process has used since the last call, as a rate, and how many messages the consumers have not taken in. What
// cannot be seen at the moment is left out. It takes half a second at most.
func (e *Env) Sample(p *loadgen.Point) {
	p.Queue = e.queues()
	e.sampling.mu.Lock()
	defer e.sampling.mu.Unlock()
	now := time.Now()
	used := e.look()
	seconds := now.Sub(e.sampling.at).Seconds()
	p.Processes = make(map[string]loadgen.ProcessPoint, len(used))
	for name, u := range used {
		point := loadgen.ProcessPoint{RSSMiB: u.resident}
		if before, ok := e.sampling.used[name]; ok && seconds > 0 {
			point.CPU = max(0, u.cpu-before.cpu) / seconds
			point.IOMiB = max(0, u.read+u.written-before.read-before.written) / seconds
		}
		p.Processes[name] = point
	}
	e.sampling.at, e.sampling.used = now, used
}

// look reads what all processes have used, this one included, and keeps the peaks of their memory.
func (e *Env) look() map[string]usage {
	used := make(map[string]usage, len(e.procs)+1)
	for _, p := range e.procs {
		used[p.name] = p.usage()
	}
	if u, err := readUsage(os.Getpid()); err == nil {
		used[Self] = u
	}
	if e.sampling.peak == nil {
		e.sampling.peak = make(map[string]usage)
	}
	for name, u := range used {
		peak := e.sampling.peak[name]
		peak.own, peak.resident = max(peak.own, u.own), max(peak.resident, u.resident)
		e.sampling.peak[name] = peak
	}
	return used
}

// usage returns what all incarnations of a process have used, and the memory of the present one.
func (p *process) usage() usage {
	run := p.current()
	if run == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.spent
	}
	now, err := readUsage(run.id.PID)
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-run.ended: // and added up by now
		return p.spent
	default:
	}
	if err == nil {
		run.last = now
	}
	sum := run.last
	sum.cpu += p.spent.cpu
	sum.read += p.spent.read
	sum.written += p.spent.written
	return sum
}

// Processes says what each process has used since it was first started. Memory is the peak of what Sample and this have seen.
func (e *Env) Processes() map[string]loadgen.Process {
	e.sampling.mu.Lock()
	defer e.sampling.mu.Unlock()
	shown := make(map[string]loadgen.Process)
	for name, u := range e.look() {
		peak := e.sampling.peak[name]
		shown[name] = loadgen.Process{
			PID: os.Getpid(), CPUSeconds: u.cpu, OwnMiB: peak.own, RSSMiB: peak.resident, ReadMiB: u.read, WrittenMiB: u.written,
		}
	}
	for _, p := range e.procs {
		s := shown[p.name]
		p.mu.Lock()
		s.PID, s.Restarts = p.run.id.PID, p.starts-1
		p.mu.Unlock()
		shown[p.name] = s
	}
	return shown
}

// Memory returns what a process holds now, in MiB: its own (RssAnon + RssShmem), and all that is resident (VmRSS).
func (e *Env) Memory(name string) (own, resident float64) {
	u := e.process(name).usage()
	return u.own, u.resident
}

// durables names the consumer that takes in each stream.
var durables = map[string]string{event.StreamAgent: event.ConsumerLifecycle, event.StreamWork: event.ConsumerWorkflow}

// queues counts the messages of each intake stream that are not taken in, delivered ones included.
func (e *Env) queues() map[string]int64 {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	counts := make(map[string]int64)
	for stream, durable := range durables {
		if c, err := e.conn.JS().Consumer(ctx, stream, durable); err == nil {
			info := c.CachedInfo()
			counts[stream] = int64(info.NumPending) + int64(info.NumAckPending)
		}
	}
	return counts
}
