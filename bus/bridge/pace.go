package bridge

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/opspawn/opscore/bus/event"
)

// What one agent may write through one replica: far more than an agent has to say, and far less than keeps others waiting.
const (
	agentRate  = 500 // messages a second
	agentBurst = 1000
	maxPaces   = 8192 // agents remembered; one that is forgotten begins anew
)

const codeTooFast event.Code = "too_many_requests"

// paces holds how fast each agent writes. It keeps two generations and drops the older one when the younger is full.
type paces struct {
	mu         sync.Mutex
	young, old map[string]*rate.Limiter
}

// admit returns a refusal if an agent writes too fast.
func (p *paces) admit(agent string, now time.Time) error {
	r := p.of(agent).ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	r.CancelAt(now)
	return &Problem{
		Status: http.StatusTooManyRequests, Code: codeTooFast, Wait: wait,
		Detail: "agent " + strconv.Quote(agent) + " writes more than " + strconv.Itoa(agentRate) + " messages a second",
	}
}

func (p *paces) of(agent string) *rate.Limiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.young[agent]
	if l != nil {
		return l
	}
	if l = p.old[agent]; l == nil {
		l = rate.NewLimiter(agentRate, agentBurst)
	}
	if len(p.young) >= maxPaces || p.young == nil {
		p.old, p.young = p.young, make(map[string]*rate.Limiter)
	}
	p.young[agent] = l
	return l
}

// seconds is a time to wait as the header Retry-After has it, at least one.
func seconds(d time.Duration) string {
	return strconv.Itoa(max(int(math.Ceil(d.Seconds())), retryAfter))
}
