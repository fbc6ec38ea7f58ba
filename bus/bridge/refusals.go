package bridge

import (
	"sync"
	"time"
)

// maxRefusalLines is how many lines per second and route are written about refused requests.
const maxRefusalLines = 20

// refusalLines bounds what refused requests write into the log, so that a flood of them does not become one of lines. What it holds
// is bounded by the number of routes.
type refusalLines struct {
	mu     sync.Mutex
	routes map[string]*routeLines
}

// routeLines counts the lines of a route in the second that began at from.
type routeLines struct {
	from       time.Time
	lines      int
	suppressed int // since the last line
}

// allow reports whether a line may be written, and how many were not since the one before.
func (r *refusalLines) allow(route string, now time.Time) (suppressed int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.routes == nil {
		r.routes = make(map[string]*routeLines)
	}
	l := r.routes[route]
	if l == nil {
		l = &routeLines{from: now}
		r.routes[route] = l
	}
	if now.Sub(l.from) >= time.Second {
		l.from, l.lines = now, 0
	}
	if l.lines >= maxRefusalLines {
		l.suppressed++
		return 0, false
	}
	l.lines++
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}
