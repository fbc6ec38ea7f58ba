package loadgen

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var allWishes = []Wish{
	{Kind: FaultKill, Target: "engine", Count: 20},
	{Kind: FaultKill, Target: "nats", Count: 5},
	{Kind: FaultFreeze, Target: "engine", Count: 4},
	{Kind: FaultCut, Target: "nats", Count: 3},
	{Kind: FaultDropReplies, Target: "redis", Count: 3},
	{Kind: FaultOlderAOF, Target: "redis", Count: 1},
	{Kind: FaultCrashPoint, Target: "engine", Count: 7},
}

func TestSameSeedSamePlan(t *testing.T) {
	backwards := slices.Clone(allWishes)
	slices.Reverse(backwards)
	first, second := PlanFaults(7, time.Minute, 3, allWishes), PlanFaults(7, time.Minute, 3, backwards)
	if !reflect.DeepEqual(first, second) {
		t.Error("the order of the flags changed the plan")
	}
	if reflect.DeepEqual(first, PlanFaults(8, time.Minute, 3, allWishes)) {
		t.Error("another seed gives the same plan")
	}
	// Frozen: a plan that was printed with a failure must still be the plan of its seed tomorrow.
	var head []string
	for _, s := range first[:4] {
		head = append(head, s.At.String()+" "+s.Kind+" "+s.Target)
	}
	if got := strings.Join(head, ", "); got != frozenPlan {
		t.Errorf("the plan of seed 7 begins with %q, it was %q", got, frozenPlan)
	}
}

func TestPlanSpreadsWhatWasAskedFor(t *testing.T) {
	plan := PlanFaults(7, time.Minute, 3, allWishes)
	counts := make(map[Wish]int)
	replicas := make(map[string]bool)
	quarter := make(map[int]int)
	for i, s := range plan {
		w := Wish{Kind: s.Kind, Target: s.Target}
		if strings.HasPrefix(s.Target, "opscore-") {
			replicas[s.Target] = true
			w.Target = "engine"
		}
		counts[w]++
		if w == (Wish{Kind: FaultKill, Target: "engine"}) {
			quarter[int(s.At/(15*time.Second))]++
		}
		if s.At < 3*time.Second || s.At > 57*time.Second || i > 0 && s.At < plan[i-1].At {
			t.Errorf("fault %d strikes at %v", i, s.At)
		}
	}
	for _, w := range allWishes {
		if got := counts[Wish{Kind: w.Kind, Target: w.Target}]; got != w.Count {
			t.Errorf("%d of %+v", got, w)
		}
	}
	if len(replicas) != 3 {
		t.Errorf("only %v are struck", replicas)
	}
	for q := range 4 {
		if n := quarter[q]; n < 4 || n > 6 {
			t.Errorf("%d of 20 kills in quarter %d of the time", n, q)
		}
	}
}

func TestParseWishes(t *testing.T) {
	got, err := ParseWishes(FaultKill, "engine:20,nats:5")
	if want := allWishes[:2]; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := ParseWishes(FaultKill, ""); err != nil || len(got) != 0 {
		t.Errorf("nothing gives %v, %v", got, err)
	}
	for text, says := range map[string]string{"engine": "COUNT", "engine:x": "COUNT", "engine:-1": "COUNT", "moon:1": "moon"} {
		if _, err := ParseWishes(FaultKill, text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ParseWishes(FaultOlderAOF, "nats:1"); err == nil || !strings.Contains(err.Error(), "redis") {
		t.Errorf("nats cannot come back with an older file: %v", err)
	}
}

const frozenPlan = "4.399s crash-point opscore-1, 4.448s cut nats, 4.667s kill nats, 5.392s kill opscore-1"
