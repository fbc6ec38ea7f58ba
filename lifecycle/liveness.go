package lifecycle

import (
	"math"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/event"
)

// Heartbeats that an agent may miss before it is taken out of rotation, and before its work is given to others.
const (
	suspectAfter = 2
	lostAfter    = 3
)

// minBeat is the shortest time between heartbeats that is judged; who beats more often is judged by this.
const minBeat = time.Second

// beatSlack is the part of an interval by which a heartbeat may be late before it counts as missed.
const beatSlack = 4

// never is how long ago something was that never happened.
const never = time.Duration(math.MaxInt64)

// Pulse is what is known of an agent at the moment it is judged.
type Pulse struct {
	Every  time.Duration  // time between its heartbeats; 0: it has not said, and did not beat before
	Said   event.Liveness // what the judge last said of it
	Beat   time.Duration  // since the last heartbeat of the process that is registered, or since that registered
	Stored time.Duration  // since the last message of it that a stream has stored
	Window time.Duration  // how long, until now, every heartbeat has been heard
}

// missed is how many heartbeats in a row were missed in a silence.
func missed(every, silence time.Duration) int {
	return int(max(silence-every/beatSlack, 0) / every)
}

// bySilence is what a silence alone says of an agent.
func bySilence(every, silence time.Duration) event.Liveness {
	switch n := missed(every, silence); {
	case n >= lostAfter:
		return event.LivenessLost
	case n >= suspectAfter:
		return event.LivenessSuspect
	}
	return event.LivenessLive
}

// Verdict says what the agent is now. Silence counts only as far back as every heartbeat was heard, so that no outage of ours is taken for the
// agent's; and only a sign of life, not the end of such an outage, makes it live again. An agent that has not said how often it beats is watched from
// its first heartbeat on, and never lost before: nothing it stores starts the watching.
func (p Pulse) Verdict() event.Liveness {
	every := p.Every
	if every <= 0 {
		if p.Said == event.LivenessUnwatched && p.Beat > event.DefaultHeartbeat {
			return event.LivenessUnwatched
		}
		every = event.DefaultHeartbeat
	}
	every = max(every, minBeat)
	silence := min(p.Beat, p.Stored)
	if bySilence(every, silence) == event.LivenessLive {
		return event.LivenessLive
	}
	worst := bySilence(every, min(silence, p.Window))
	if worst == event.LivenessLost || p.Said == event.LivenessLost {
		return event.LivenessLost
	}
	if worst == event.LivenessSuspect || p.Said == event.LivenessSuspect {
		return event.LivenessSuspect
	}
	return event.LivenessLive
}

// reason says for people why the verdict is what it is.
func (p Pulse) reason() string {
	switch silence := min(p.Beat, p.Stored); {
	case p.Verdict() == event.LivenessLive && p.Said == event.LivenessUnwatched:
		return "its first heartbeat"
	case p.Verdict() == event.LivenessLive && p.Beat <= p.Stored:
		return "it beats again"
	case p.Verdict() == event.LivenessLive:
		return "it was heard of again"
	case silence == never:
		return "no heartbeat yet"
	default:
		return "no heartbeat for " + silence.Round(100*time.Millisecond).String()
	}
}

// Liveness is what is known of the agent's heartbeat.
func (g *Gate) Liveness() event.Liveness {
	switch {
	case g.Live != "":
		return g.Live
	case g.Beat > 0:
		return event.LivenessLive
	}
	return event.LivenessUnwatched
}

// Judged notes what the judge says of the agent, who had regarded its messages of StreamAgent up to seq.
func (g *Gate) Judged(l event.Liveness, seq uint64) {
	g.Live, g.LiveSeq = l, seq
	if l == event.LivenessLive && g.Beat > 0 {
		g.Live = "" // as after a registration
	}
}

// Refreshed takes in that the agent's present process has stored a message at seq, and reports whether that makes it live again: it does unless the
// judge had regarded the message.
func (g *Gate) Refreshed(seq uint64) bool {
	if g.Live != event.LivenessSuspect && g.Live != event.LivenessLost || seq <= g.LiveSeq {
		return false
	}
	g.Judged(event.LivenessLive, seq)
	return true
}

// followBeat brings the gate in line with how often the agent says that it beats. A new process is watched anew.
func (g *Gate) followBeat(r *Record, before *Gate) {
	if r.Reg == nil {
		g.Beat, g.Live, g.LiveSeq = 0, "", 0
		return
	}
	g.Beat = int64(math.Ceil(r.Reg.Event.HeartbeatSeconds * 1000))
	if g.Instance != before.Instance || g.Beat > 0 && g.Live == event.LivenessLive {
		g.Live, g.LiveSeq = "", 0
	}
}

// revive takes in that the agent was heard of.
func (f *fold) revive() {
	for i, it := range f.b.items {
		switch e := it.event.(type) {
		case *event.Register:
			if f.answers[i].OK && it.msg.Delivered <= 1 {
				f.heard = true
			}
			f.signOfLife(e.Instance, it.mark)
		case *event.State:
			f.signOfLife(e.Instance, it.mark)
		}
	}
}

func (f *fold) signOfLife(instance string, at Mark) {
	if r := f.b.record; r.Registered() && !r.voided(r.place(at)) && !r.Stale(instance, at) && f.b.gate.Refreshed(at.Seq) {
		f.heard, f.revived = true, true
	}
}

// sayHeard hints to whoever judges that agents have registered, or came back. A lost hint costs time: the judge looks at an agent again
// before it says anything of it.
func sayHeard(nc *nats.Conn, agents []string) {
	_ = nc.Publish(event.SubjectHeard, event.MustMarshal(event.Wake{Agents: agents})) // nobody to tell when the connection is down
}
