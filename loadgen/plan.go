package loadgen

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The kinds of faults.
const (
	FaultKill        = "kill"         // with SIGKILL; a supervisor starts the server again
	FaultFreeze      = "freeze"       // SIGSTOP, and SIGCONT after a while
	FaultCut         = "cut"          // connections are closed, or pass nothing on for a while and are closed then
	FaultDropReplies = "drop-replies" // the server does what it is asked, and the answer is lost with its connection
	FaultOlderAOF    = "older-aof"    // Redis comes back with what it had a moment before
	FaultCrashPoint  = "crash-point"  // a replica kills itself between two steps
)

// faultTargets says which servers a kind of fault may be aimed at.
var faultTargets = map[string][]string{
	FaultKill:        {"engine", "nats", "redis"},
	FaultFreeze:      {"engine", "nats", "redis"},
	FaultCut:         {"nats", "redis"},
	FaultDropReplies: {"nats", "redis"},
	FaultOlderAOF:    {"redis"},
	FaultCrashPoint:  {"engine"},
}

// CrashPoints are the places between two steps of a replica at which it can be made to end.
var CrashPoints = []string{
	"after-fetch", "before-reply", "before-ack", "lifecycle-after-commit", "workflow-after-commit", "workflow-before-request", "workflow-after-request",
}

// Wish is how many faults of a kind are wanted.
type Wish struct {
	Kind   string // a Fault constant
	Target string // "engine", "nats" or "redis"
	Count  int
}

// ParseWishes reads "engine:20,nats:5,redis:5".
func ParseWishes(kind, text string) ([]Wish, error) {
	var wishes []Wish
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		target, count, _ := strings.Cut(part, ":")
		n, err := strconv.Atoi(count)
		if err != nil || n < 0 || n > maxWish {
			return nil, fmt.Errorf("%q is not TARGET:COUNT, as engine:5, with a count of at most %d", part, maxWish)
		}
		if !slices.Contains(faultTargets[kind], target) {
			return nil, fmt.Errorf("%q cannot be the target of %s; it is one of %s", target, kind, strings.Join(faultTargets[kind], ", "))
		}
		wishes = append(wishes, Wish{Kind: kind, Target: target, Count: n})
	}
	return wishes, nil
}

// maxWish bounds the faults of one kind.
const maxWish = 10_000

// Strike is one fault that is planned.
type Strike struct {
	At     time.Duration // since the beginning
	Kind   string
	Target string        // "nats", "redis" or, for the second replica, "opscore-2"
	For    time.Duration // how long it lasts, or how old the copy is that Redis comes back with; 0: it is over at once
	Point  string        // named place of a crash point
	Count  int           // when the place is reached that often, or so many replies are lost
}

// String says what is done, for people.
func (s Strike) String() string {
	switch {
	case s.Kind == FaultCut && s.For > 0:
		return "connections stay open and pass nothing on for " + s.For.String()
	case s.Kind == FaultCut:
		return "all connections are closed"
	case s.Kind == FaultDropReplies:
		return fmt.Sprintf("%d replies are lost", s.Count)
	case s.Kind == FaultOlderAOF:
		return "it comes back as it was " + s.For.String() + " before"
	case s.Kind == FaultCrashPoint:
		return fmt.Sprintf("it ends at %s, the %s time", s.Point, ordinal(s.Count))
	case s.Kind == FaultFreeze:
		return "for " + s.For.String()
	}
	return ""
}

func ordinal(n int) string {
	switch {
	case n%10 == 1 && n%100 != 11:
		return strconv.Itoa(n) + "st"
	case n%10 == 2 && n%100 != 12:
		return strconv.Itoa(n) + "nd"
	case n%10 == 3 && n%100 != 13:
		return strconv.Itoa(n) + "rd"
	}
	return strconv.Itoa(n) + "th"
}

// PlanFaults spreads faults over a time: those of one wish lie in equal parts of it, at random within each. The same arguments give the same
// plan. Nothing strikes in the first and the last twentieth.
func PlanFaults(seed uint64, total time.Duration, replicas int, wishes []Wish) []Strike {
	var plan []Strike
	for i, w := range mergeWishes(wishes) {
		// Each wish has a sequence of its own, so that one more of another kind does not move it.
		dice := rand.New(rand.NewPCG(seed, uint64(i)<<32|uint64(w.Count)))
		for n := range w.Count {
			part := (float64(n) + dice.Float64()) / float64(w.Count)
			s := Strike{At: (total/20 + time.Duration(part*float64(total)*0.9)).Truncate(time.Millisecond), Kind: w.Kind, Target: w.Target}
			if w.Target == "engine" {
				s.Target = "opscore-" + strconv.Itoa(dice.IntN(max(replicas, 1))+1)
			}
			s.detail(dice, n)
			plan = append(plan, s)
		}
	}
	slices.SortStableFunc(plan, func(a, b Strike) int { return cmp.Compare(a.At, b.At) })
	return plan
}

// detail chooses what else a strike needs.
func (s *Strike) detail(dice *rand.Rand, n int) {
	between := func(low, high time.Duration) time.Duration {
		return (low + time.Duration(dice.Int64N(int64(high-low)))).Truncate(time.Millisecond)
	}
	switch s.Kind {
	case FaultFreeze:
		s.For = between(300*time.Millisecond, 4*time.Second)
	case FaultCut:
		if n%2 == 1 {
			s.For = between(300*time.Millisecond, 3*time.Second)
		}
	case FaultDropReplies:
		s.Count = 1 + dice.IntN(3)
	case FaultOlderAOF:
		s.For = between(200*time.Millisecond, 3*time.Second)
	case FaultCrashPoint:
		s.Point = CrashPoints[dice.IntN(len(CrashPoints))]
		s.Count = 1 + dice.IntN(20)
	}
}

// mergeWishes adds up wishes of one kind and target and puts them in order: in which order the flags were given changes nothing.
func mergeWishes(wishes []Wish) []Wish {
	counts := make(map[Wish]int)
	for _, w := range wishes {
		counts[Wish{Kind: w.Kind, Target: w.Target}] += w.Count
	}
	merged := slices.SortedFunc(maps.Keys(counts), func(a, b Wish) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Target, b.Target))
	})
	for i := range merged {
		merged[i].Count = counts[merged[i]]
	}
	return merged
}
