package bus

import (
	"sync"
	"time"
)

const (
	// asidePeriod is how long what nobody waits for is gathered while there is much of it.
	asidePeriod = 4 * time.Millisecond
	// asideMax bounds how much is gathered.
	asideMax = 512
)

// aside sends what nobody waits for: at once when there is little of it, and otherwise what came in a few milliseconds together. A message that is written on
// its own costs this process, the server and whoever gets it a system call and a turn of its own, which is several times what is in it.
type aside struct {
	mu    sync.Mutex
	queue []func()
	sent  time.Time // last
	timer *time.Timer

	sending sync.Mutex // what was gathered first goes first
}

func newAside() *aside {
	a := &aside{}
	a.timer = time.AfterFunc(time.Hour, a.flush)
	a.timer.Stop()
	return a
}

// add sends something soon.
func (a *aside) add(send func()) {
	a.mu.Lock()
	a.queue = append(a.queue, send)
	wait := asidePeriod - time.Since(a.sent)
	later := wait > 0 && len(a.queue) < asideMax
	if later && len(a.queue) == 1 {
		a.timer.Reset(wait)
	}
	a.mu.Unlock()
	if !later {
		a.flush()
	}
}

// flush sends all that was gathered before, and returns when it was sent.
func (a *aside) flush() {
	a.sending.Lock()
	defer a.sending.Unlock()
	a.mu.Lock()
	queue := a.queue
	if len(queue) > 0 {
		a.queue, a.sent = nil, time.Now()
	}
	a.mu.Unlock()
	for _, send := range queue {
		send()
	}
}
