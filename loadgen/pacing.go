package loadgen

import (
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// after returns the number of users at the end of one round of a stage.
func (s Stage) after(users int) int {
	if s.Add > 0 {
		return users + s.Add*max(s.Times, 1)
	}
	return max(users, s.Users)
}

// stages returns the ramp of a scenario as stages, each done once.
func (s *Scenario) stages() []Stage {
	if len(s.Stages) == 0 {
		ramp := time.Duration(0)
		if s.SpawnRate > 0 {
			ramp = time.Duration(float64(s.Users) / s.SpawnRate * float64(time.Second))
		}
		return []Stage{{Users: s.Users, Over: ramp, Hold: max(0, s.RunTime-ramp)}}
	}
	var all []Stage
	users := 0
	for _, stage := range s.Stages {
		for range max(stage.Times, 1) {
			users = Stage{Users: stage.Users, Add: stage.Add}.after(users)
			all = append(all, Stage{Users: users, Over: stage.Over, Hold: stage.Hold})
		}
	}
	return all
}

// Peak returns the largest number of users.
func (s *Scenario) Peak() int {
	stages := s.stages()
	return stages[len(stages)-1].Users
}

// Duration returns how long a run takes, from the first user's start.
func (s *Scenario) Duration() time.Duration {
	if s.RunTime > 0 {
		return s.RunTime
	}
	var d time.Duration
	for _, stage := range s.stages() {
		d += stage.Over + stage.Hold
	}
	return d
}

// starts returns when each user starts, counted from the beginning of the run, in order. Within a stage the users come evenly.
func (s *Scenario) starts() []time.Duration {
	all := make([]time.Duration, 0, s.Peak())
	var begin time.Duration
	for _, stage := range s.stages() {
		more := stage.Users - len(all)
		for i := range more {
			all = append(all, begin+time.Duration(float64(stage.Over)*float64(i)/float64(more)))
		}
		begin += stage.Over + stage.Hold
	}
	return all
}

// Compressed returns the scenario with ramps that take a time-scale-th of their time. The time at each number of users, the pauses
// and the work of agents stay as they are; a RunTime shrinks by what the ramps save.
func (s *Scenario) Compressed(scale float64) *Scenario {
	c := *s
	var saved time.Duration
	shrink := func(d time.Duration) time.Duration {
		short := time.Duration(float64(d) / scale)
		saved += d - short
		return short
	}
	if len(s.Stages) == 0 {
		shrink(s.stages()[0].Over)
		c.SpawnRate *= scale
	} else {
		c.Stages = make([]Stage, len(s.Stages))
		for i, stage := range s.Stages {
			for range max(stage.Times, 1) {
				c.Stages[i] = stage
				c.Stages[i].Over = shrink(stage.Over)
			}
		}
	}
	if c.RunTime > 0 {
		c.RunTime = max(c.RunTime-saved, time.Second)
	}
	return &c
}

// dice is the chance of one user: the same seed and number give the same sequence, whatever the other users do.
type dice struct{ *rand.Rand }

func newDice(seed uint64, user int) dice {
	return dice{rand.New(rand.NewPCG(seed, uint64(user)))}
}

// span draws a time.
func (d dice) span(s Span) time.Duration {
	if s.Max <= s.Min {
		return s.Min
	}
	return s.Min + time.Duration(d.Int64N(int64(s.Max-s.Min)+1))
}

// id draws the id of a user.
func (d dice) id(ids IDs, user int) string {
	switch {
	case ids.UUID:
		var b [16]byte
		for i := range b {
			b[i] = byte(d.Uint32())
		}
		b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // version 4
		return ids.Prefix + uuid.UUID(b).String()
	case ids.To > 0:
		return ids.Prefix + strconv.Itoa(ids.From+d.IntN(ids.To-ids.From+1))
	}
	return ids.Prefix + strconv.Itoa(user)
}

// step draws a task by weight.
func (d dice) step(tasks []Step) *Step {
	total := 0
	for i := range tasks {
		total += max(tasks[i].Weight, 1)
	}
	at := d.IntN(total)
	for i := range tasks {
		if at -= max(tasks[i].Weight, 1); at < 0 {
			return &tasks[i]
		}
	}
	return &tasks[len(tasks)-1]
}

// states are what the users of the original scripts say of themselves.
var states = []string{"idle", "active", "error", "finished"}

// state draws what a user says of itself.
func (d dice) state() string { return states[d.IntN(len(states))] }
