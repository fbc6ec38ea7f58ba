package lifecycle

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Bounds of a roster. Beats beyond them are not remembered, and count for nobody.
const (
	maxWatched  = 1 << 20         // agents
	maxLooks    = 1 << 17         // agents that wait to be looked up
	maxAsks     = 1024            // beats that wait for a refusal
	tellEvery   = 5 * time.Second // at most so often an agent is told that its beats are refused
	keepUnknown = time.Minute     // how long the beats of an agent that is not registered are remembered
)

// tick is a time on the monotonic clock of this process, since it was made; 0 is never.
type tick = time.Duration

// beater is what a roster holds of one agent. A fleet of 100,000 has as many, so it is kept small.
type beater struct {
	token string
	beat  tick   // last heartbeat of the registered process, or of any while it is not known which that is
	from  uint64 // the process that said it
	told  tick   // when it was last told that its beats are refused
	every uint32 // ms between heartbeats, as registered
	want  uint64 // the registered process; 0: any
	said  event.Liveness
	known bool // the rest stands in its gate, as it was read last
	look  bool // the gate is to be read
}

// ask is a beat that is refused unless the agent's gate says that it is the process that registered.
type ask struct{ token, instance, reply string }

// roster remembers when each agent was heard last. It is fed by one goroutine and judged by another.
type roster struct {
	mu      sync.Mutex
	seed    maphash.Seed
	places  map[string]int32
	beaters []beater
	looks   []string // tokens of beaters with look
	asks    []ask
	judging bool // this replica looks agents up; the others only listen
	lost    uint64
	swept   int // where the next sweep begins
	judged  int // where the next judgement begins: of many that are silent, all have their turn
}

func newRoster() *roster {
	return &roster{seed: maphash.MakeSeed(), places: make(map[string]int32)}
}

// process hashes the name of a process; no name is 0.
func (r *roster) process(instance string) uint64 {
	if instance == "" {
		return 0
	}
	return max(maphash.String(r.seed, instance), 1)
}

// hear takes in a heartbeat. One of another process than the registered one does not count.
func (r *roster) hear(token, instance, reply string, now tick) {
	from := r.process(instance)
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.find(token)
	if b == nil {
		if b = r.add(token); b == nil {
			return
		}
	}
	if !b.known || b.want == 0 || from == 0 || from == b.want {
		b.beat, b.from = now, from
		if b.known {
			return
		}
	}
	if r.judging {
		r.lookAt(b)
		if reply != "" && len(r.asks) < maxAsks && (b.told == 0 || now-b.told > tellEvery) {
			b.told = now
			r.asks = append(r.asks, ask{b.token, instance, reply})
		}
	}
}

func (r *roster) find(token string) *beater {
	if i, ok := r.places[token]; ok {
		return &r.beaters[i]
	}
	return nil
}

func (r *roster) add(token string) *beater {
	if len(r.beaters) >= maxWatched {
		r.lost++
		return nil
	}
	token = strings.Clone(token)
	r.places[token] = int32(len(r.beaters))
	r.beaters = append(r.beaters, beater{token: token})
	return &r.beaters[len(r.beaters)-1]
}

func (r *roster) lookAt(b *beater) {
	if !b.look && len(r.looks) < maxLooks {
		b.look = true
		r.looks = append(r.looks, b.token)
	}
}

// hint asks for a look at agents whose gates have changed.
func (r *roster) hint(agents []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range agents {
		token, err := event.Token(id)
		if err != nil || !r.judging {
			continue
		}
		b := r.find(token)
		if b == nil {
			b = r.add(token)
		}
		if b != nil {
			r.lookAt(b)
		}
	}
}

// take returns agents to look up, at most n, and the refusals that wait for that.
func (r *roster) take(n int) (tokens []string, asks []ask) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n = min(n, len(r.looks))
	tokens = append(tokens, r.looks[:n]...)
	r.looks = r.looks[n:]
	if len(r.looks) == 0 {
		r.looks, asks, r.asks = nil, r.asks, nil // now all of them are looked up
	}
	for _, t := range tokens {
		if b := r.find(t); b != nil {
			b.look = false
		}
	}
	return tokens, asks
}

// learn takes in what an agent's gate says, read by the judge. A process that has registered since, and an agent that was revived, was heard just now.
func (r *roster) learn(token string, g *Gate, now tick) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.find(token)
	if b == nil {
		if !g.Registered || g.Liveness() == event.LivenessUnwatched {
			return // nobody to watch
		}
		if b = r.add(token); b == nil {
			return
		}
	}
	if !g.Registered {
		b.known, b.said = false, ""
		return
	}
	want, said := r.process(g.Instance), g.Liveness()
	switch {
	case b.known && (b.want != want || said == event.LivenessLive && b.said != said && b.said != event.LivenessUnwatched):
		b.beat, b.from = now, want
	case !b.known && want != 0 && b.from != 0 && b.from != want:
		b.beat, b.from = 0, 0 // it was another process that was heard
	}
	if !b.known && said == event.LivenessLive && b.beat == 0 {
		b.beat, b.from = now, want // silence before it was known says nothing
	}
	b.known, b.want, b.said, b.every = true, want, said, uint32(min(g.Beat, event.MaxHeartbeat.Milliseconds()))
}

// differs reports whether an agent's gate says something else than what is remembered of it.
func (r *roster) differs(token string, g *Gate) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.find(token)
	return b == nil || !b.known || !g.Registered || b.want != r.process(g.Instance) || b.said != g.Liveness()
}

// refresh notes that an agent was heard at a time other than by a heartbeat.
func (r *roster) refresh(token string, at tick) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.find(token); b != nil {
		b.beat = max(b.beat, at)
	}
}

// suspicion is an agent that is not what was last said of it.
type suspicion struct {
	token string
	pulse Pulse
}

// judge returns the agents whose verdict is not what was said of them, at most n. Clear is up to when, and since from when, everything was heard.
func (r *roster) judge(clear, since tick, n int) (out []suspicion) {
	r.mu.Lock()
	defer r.mu.Unlock()
	start := r.judged
	for i := range r.beaters {
		r.judged = (start + i + 1) % len(r.beaters)
		b := &r.beaters[(start+i)%len(r.beaters)]
		if !b.known {
			continue
		}
		p := Pulse{
			Every: time.Duration(b.every) * time.Millisecond, Said: b.said,
			Beat: never, Stored: never, Window: clear - since,
		}
		if b.beat > 0 {
			p.Beat = max(clear-b.beat, 0)
		}
		if p.Verdict() == b.said {
			continue
		}
		if out = append(out, suspicion{b.token, p}); len(out) == n {
			break
		}
	}
	return out
}

// sweepEach is how many agents one sweep looks at.
const sweepEach = 4096

// sweep forgets agents that are not registered and have not beaten for a while, some at a time.
func (r *roster) sweep(now tick) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range min(sweepEach, len(r.beaters)) {
		if r.swept >= len(r.beaters) {
			r.swept = 0
		}
		b := &r.beaters[r.swept]
		if b.known || b.look || now-b.beat < keepUnknown {
			r.swept++
			continue
		}
		delete(r.places, b.token)
		last := len(r.beaters) - 1
		if r.swept != last {
			*b = r.beaters[last]
			r.places[b.token] = int32(r.swept)
		}
		r.beaters[last] = beater{}
		if r.beaters = r.beaters[:last]; last == 0 {
			return
		}
	}
}

// begin makes this replica the one that looks agents up, or not any more. Either way nothing that was read of them counts any longer.
func (r *roster) begin(judging bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.judging, r.looks, r.asks = judging, nil, nil
	for i := range r.beaters {
		b := &r.beaters[i]
		b.known, b.look, b.said = false, false, ""
	}
}
