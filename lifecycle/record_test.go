package lifecycle_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

// sameRecord compares records but for the change count, which says how and not what.
var sameRecord = cmp.Options{cmpopts.IgnoreFields(lifecycle.Record{}, "Version"), wholeRecord}

// wholeRecord compares records but for what they remember of their own encoding.
var wholeRecord = cmp.Options{cmpopts.IgnoreUnexported(lifecycle.Registration{}), cmpopts.EquateEmpty()}

// sentence is one event in its stream, for a drawn set of them.
type sentence struct {
	event event.Event
	mark  lifecycle.Mark
}

func (s sentence) String() string {
	return fmt.Sprintf("%d@%v %T%+v", s.mark.Seq, s.mark.At.Sub(epoch), s.event, s.event)
}

// sentences draws what one agent said, in stream order, within the bounds of a record.
func sentences() *rapid.Generator[[]sentence] {
	instances := rapid.SampledFrom([]string{"", "A", "B", "C"})
	return rapid.Custom(func(t *rapid.T) []sentence {
		kinds := rapid.SliceOfN(rapid.SampledFrom([]string{"register", "register", "deregister", "state", "state", "state", "command"}), 1, 16).Draw(t, "kinds")
		var said []sentence
		registrations, now, seq := 0, epoch, uint64(0)
		for i, kind := range kinds {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, 3 * time.Minute, 6 * time.Minute}).Draw(t, "pause"))
			seq += rapid.Uint64Range(1, 3).Draw(t, "step")
			s := sentence{mark: lifecycle.Mark{Seq: seq, At: now}}
			switch kind {
			case "register":
				if registrations++; registrations > 8 {
					continue
				}
				e := registered(instances.Draw(t, "instance"))
				e.Version, e.Slots = fmt.Sprint(i), rapid.IntRange(0, 3).Draw(t, "slots")
				s.event = e
			case "deregister":
				s.event = deregistered()
			case "command":
				kind := rapid.SampledFrom([]event.CommandKind{event.KindAgentCordon, event.KindAgentUncordon, event.KindAgentDrain}).Draw(t, "kind")
				s.event = &event.AgentCommand{Kind: kind, Reason: fmt.Sprint(i), DeadlineSeconds: float64(i % 3)}
			case "state":
				word := rapid.SampledFrom([]string{"idle", "busy", "error"}).Draw(t, "word")
				s.event = &event.State{State: word, Instance: instances.Draw(t, "instance"), Timestamp: fmt.Sprint(i)}
			}
			said = append(said, s)
		}
		return said
	})
}

// hear folds events and lets a gate follow after each.
func hear(said []sentence) (*lifecycle.Record, *lifecycle.Gate) {
	r, g := &lifecycle.Record{}, &lifecycle.Gate{Agent: "a"}
	for _, s := range said {
		r.Apply(s.event, s.mark)
		g.Follow(r, true)
	}
	return r, g
}

func TestOrderAndRepetitionOfEventsChangeNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		said := sentences().Draw(t, "said")
		want, wantGate := hear(said)

		delivered := slices.Clone(said)
		for range rapid.IntRange(0, 6).Draw(t, "repeats") {
			delivered = append(delivered, rapid.SampledFrom(said).Draw(t, "again"))
		}
		delivered = rapid.Permutation(delivered).Draw(t, "delivered")
		got, gotGate := hear(delivered)

		if diff := cmp.Diff(want, got, sameRecord); diff != "" {
			t.Fatalf("record (-in order +as delivered):\n%s", diff)
		}
		if diff := cmp.Diff(want.Current(), got.Current(), sameRecord); diff != "" {
			t.Fatalf("current report (-in order +as delivered):\n%s", diff)
		}
		if diff := cmp.Diff(wantGate, gotGate, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("gate (-in order +as delivered):\n%s", diff)
		}
	})
}

// The same rules, once more and in the plainest way: by looking at all that was said.
func TestARecordIsWhatTheWholeStreamAmountsTo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		said := sentences().Draw(t, "said")
		r, _ := hear(rapid.Permutation(said).Draw(t, "delivered"))

		var cordoned, drained bool
		var alive []sentence // what the last deregistration did not void
		for _, s := range said {
			switch e := s.event.(type) {
			case *event.Deregister:
				alive = nil
			case *event.AgentCommand:
				cordoned, drained = e.Kind != event.KindAgentUncordon, e.Kind == event.KindAgentDrain
			default:
				alive = append(alive, s)
			}
		}
		if r.Cordon.On != cordoned || r.Cordon.Drain != drained {
			t.Fatalf("cordoned %t, drained %t, want %t, %t", r.Cordon.On, r.Cordon.Drain, cordoned, drained)
		}
		var first, last *sentence // registrations
		var instance string
		for _, s := range alive {
			if e, ok := s.event.(*event.Register); ok {
				if last = &s; first == nil {
					first = &s
				}
				if e.Instance != "" {
					instance = e.Instance
				}
			}
		}
		if r.Registered() != (last != nil) {
			t.Fatalf("registered %t, last registration %v", r.Registered(), last)
		}
		if last == nil {
			if r.Current() != nil {
				t.Fatalf("an agent that is not registered says %+v", r.Current())
			}
			return
		}
		if r.Reg.Mark != last.mark || r.Instance.ID != instance {
			t.Fatalf("registration %v of %q, want %v of %q", r.Reg.Mark, r.Instance.ID, last.mark, instance)
		}
		var current *sentence
		for _, s := range alive {
			e, ok := s.event.(*event.State)
			tooEarly := s.mark.Before(first.mark) && first.mark.At.Sub(s.mark.At) > lifecycle.EarlyReportTTL
			if ok && !tooEarly && (e.Instance == "" || instance == "" || e.Instance == instance) {
				current = &s
			}
		}
		switch got := r.Current(); {
		case got == nil && current == nil:
		case got == nil || current == nil || got.Mark != current.mark:
			t.Fatalf("current report %+v, want %v", got, current)
		}
	})
}

func TestEventsOfDifferentFieldGroupsDoNotShadowEachOther(t *testing.T) {
	r := fold(at{30, said("", "idle")}, at{20, registered("A")})
	if !r.Registered() || r.Current() == nil || r.Current().State != "idle" {
		t.Errorf("a registration that came after a newer state: %+v", r)
	}
	r.Apply(registered("A"), mark(40))
	if r.Current() == nil || r.Current().State != "idle" || r.Reg.Mark.Seq != 40 {
		t.Errorf("registering again took the state away: %+v", r)
	}
}

func TestADeregistrationVoidsWhatStoodBeforeItEvenUnderANewerRegistration(t *testing.T) {
	r := fold(at{10, registered("A")}, at{20, deregistered()}, at{30, registered("A")})
	if v := r.Apply(said("A", "busy"), mark(15)); v != lifecycle.Old || r.Current() != nil {
		t.Errorf("a state from before the deregistration: verdict %v, current %+v", v, r.Current())
	}
	if v := r.Apply(said("A", "idle"), mark(25)); v != lifecycle.Applied || r.Current() == nil {
		t.Errorf("a state from after it: verdict %v, current %+v", v, r.Current())
	}
	if v := r.Apply(registered("B"), mark(5)); v != lifecycle.Old || r.Instance.ID != "A" {
		t.Errorf("a registration from before it: verdict %v, instance %q", v, r.Instance.ID)
	}
}

func TestALateDeregistrationTakesAwayOnlyWhatItVoids(t *testing.T) {
	r := fold(at{10, registered("A")}, at{15, said("A", "busy")}, at{30, registered("B")}, at{35, said("B", "idle")})
	r.Apply(deregistered(), mark(20))
	if !r.Registered() || r.Instance.ID != "B" || r.Current() == nil || r.Current().State != "idle" || len(r.Reports) != 1 {
		t.Errorf("after the late deregistration: %+v", r)
	}
	r.Apply(deregistered(), mark(40))
	if r.Registered() || r.Instance.ID != "" || len(r.Reports) != 0 || len(r.Firsts) != 0 {
		t.Errorf("after the last deregistration: %+v", r)
	}
}

func TestAnEarlyReportWaitsFiveMinutesOfStreamTime(t *testing.T) {
	for _, c := range []struct {
		name  string
		waits time.Duration
		want  bool
	}{
		{"at once", 0, true},
		{"at the last moment", lifecycle.EarlyReportTTL, true},
		{"too late", lifecycle.EarlyReportTTL + time.Nanosecond, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			early, late := lifecycle.Mark{Seq: 1, At: epoch}, lifecycle.Mark{Seq: 2, At: epoch.Add(c.waits)}
			r := &lifecycle.Record{}
			r.Apply(said("", "idle"), early)
			r.Apply(registered(""), late)
			if got := r.Current() != nil; got != c.want {
				t.Errorf("kept %t, want %t", got, c.want)
			}
			r.Apply(registered(""), lifecycle.Mark{Seq: 3, At: late.At.Add(time.Hour)})
			if got := r.Current() != nil; got != c.want {
				t.Errorf("after registering again: kept %t, want %t: the first registration judges", got, c.want)
			}
		})
	}
}

func TestWhatAReplacedProcessSaysDoesNotCount(t *testing.T) {
	r := fold(at{1, registered("A")}, at{2, said("A", "busy")}, at{3, registered("B")})
	if r.Current() != nil {
		t.Errorf("the state of the new process is that of the old one: %+v", r.Current())
	}
	r.Apply(said("A", "busy"), mark(4))
	if r.Current() != nil || !r.Stale("A", mark(4)) {
		t.Errorf("current %+v, stale %t", r.Current(), r.Stale("A", mark(4)))
	}
	r.Apply(registered("B"), mark(5))
	if r.Current() != nil {
		t.Errorf("registering again brought the old process back: %+v", r.Current())
	}
	r.Apply(said("B", "idle"), mark(6))
	if r.Current() == nil || r.Current().State != "idle" || r.Stale("B", mark(6)) || r.Stale("", mark(6)) {
		t.Errorf("current %+v", r.Current())
	}
	r.Apply(registered(""), mark(7))
	if r.Instance.ID != "B" || r.Current() == nil {
		t.Errorf("registering without a process: instance %q, current %+v", r.Instance.ID, r.Current())
	}
}

// A redelivery of what was right when it was said is no reason to refuse it.
func TestAnEventFromBeforeTheNewProcessIsNotStale(t *testing.T) {
	r := fold(at{1, registered("A")}, at{2, said("A", "busy")}, at{3, registered("B")})
	if r.Stale("A", mark(1)) || r.Stale("A", mark(2)) {
		t.Error("events from before the new process are stale")
	}
}

func TestCordonsCommute(t *testing.T) {
	cordon, uncordon := command(event.KindAgentCordon), command(event.KindAgentUncordon)
	for _, c := range []struct {
		name          string
		first, second *event.AgentCommand
		want          bool
	}{
		{"cordon, uncordon", cordon, uncordon, false},
		{"uncordon, cordon", uncordon, cordon, true},
		{"cordon twice", cordon, cordon, true},
		{"cordon, drain", cordon, command(event.KindAgentDrain), true},
		{"drain, uncordon", command(event.KindAgentDrain), uncordon, false},
		{"drain, cordon", command(event.KindAgentDrain), cordon, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inOrder := fold(at{1, registered("A")}, at{3, c.first}, at{4, c.second}, at{5, deregistered()}, at{6, registered("B")})
			reversed := fold(at{6, registered("B")}, at{5, deregistered()}, at{4, c.second}, at{4, c.second}, at{3, c.first}, at{1, registered("A")})
			if inOrder.Cordon.Drain != (c.second.Kind == event.KindAgentDrain) {
				t.Errorf("drained %t", inOrder.Cordon.Drain)
			}
			if inOrder.Cordon.On != c.want {
				t.Errorf("cordoned %t, want %t", inOrder.Cordon.On, c.want)
			}
			if diff := cmp.Diff(inOrder, reversed, sameRecord); diff != "" {
				t.Errorf("record (-in order +reversed):\n%s", diff)
			}
		})
	}
}

func TestACommandMovesTheFence(t *testing.T) {
	r := fold(at{1, registered("A")}, at{7, command(event.KindAgentCordon)})
	if r.Top.Seq != 7 {
		t.Errorf("fence %d: a caller whose answer was lost would ask for ever", r.Top.Seq)
	}
}

// after is a message that was published long after those of the tests, at a sequence that was used before.
func after(seq uint64) lifecycle.Mark {
	return lifecycle.Mark{Seq: seq, At: epoch.Add(24*time.Hour + time.Duration(seq)*time.Second)}
}

func TestASequenceThatIsUsedAgainIsSuspect(t *testing.T) {
	for _, e := range []event.Event{registered("A"), registered("C"), deregistered(), said("A", "idle"), said("C", "idle"), said("", "idle"), command(event.KindAgentCordon)} {
		for _, seq := range []uint64{1, 25, 40} {
			r := fold(at{20, registered("A")}, at{30, said("A", "busy")}, at{40, said("A", "idle")})
			before := *r
			if v := r.Apply(e, after(seq)); v != lifecycle.Suspect {
				t.Errorf("%T of newer time at %d: verdict %v, want suspect", e, seq, v)
			}
			if diff := cmp.Diff(&before, r, wholeRecord); diff != "" {
				t.Errorf("a suspect event changed the record (-before +after):\n%s", diff)
			}
		}
	}
	r := fold(at{20, registered("A")}, at{40, said("A", "idle")})
	if v := r.Apply(said("A", "idle"), mark(40)); v != lifecycle.Old {
		t.Errorf("the newest event again: verdict %v, want old", v)
	}
}

func TestALateEventWhoseClockWasAheadIsTakenByItsSequence(t *testing.T) {
	r := fold(at{40, said("A", "idle")})
	if v := r.Apply(registered("A"), after(20)); v != lifecycle.Suspect {
		t.Fatalf("verdict %v, want suspect", v)
	}
	if v := r.ApplyLate(registered("A"), after(20)); v != lifecycle.Applied || r.Current() == nil || r.Top.Seq != 40 {
		t.Errorf("verdict %v, record %+v", v, r)
	}
}

// After a confirmed rollback the new messages count, and what survived of the old ones keeps its place when it is replayed.
func TestARollbackOpensAnEraThatReplaysCannotEnter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		said := sentences().Filter(func(s []sentence) bool { return len(s) > 0 }).Draw(t, "before")
		r, _ := hear(said)
		kept := rapid.IntRange(0, len(said)-1).Draw(t, "kept") // the tail behind it is lost, its sequences are used again
		var used uint64
		if kept > 0 {
			used = said[kept-1].mark.Seq
		}
		r.Rollback()
		fresh := &event.Register{AgentName: "n", Version: "after", Capabilities: []string{}, Instance: "D"}
		word := &event.State{State: "after", Instance: "D"}
		delivered := append(slices.Clone(said[:kept]),
			sentence{fresh, after(used + 1)}, sentence{word, after(used + 2)}, sentence{fresh, after(used + 1)})
		for _, s := range rapid.Permutation(delivered).Draw(t, "replayed") {
			if v := r.Apply(s.event, s.mark); v == lifecycle.Suspect {
				t.Fatalf("%v is suspect in the new era", s)
			}
		}
		if !r.Registered() || r.Reg.Event.Version != "after" || r.Current() == nil || r.Current().State != "after" {
			t.Fatalf("record %+v", r)
		}
		if r.Top != (lifecycle.Mark{Era: 1, Seq: used + 2, At: after(used + 2).At}) {
			t.Fatalf("fence %+v", r.Top)
		}
	})
}

// The registration stood in the tail that is lost, and only a state has come since: the deregistration before it is still the older one.
func TestAReplayAfterARollbackVoidsNothingNewer(t *testing.T) {
	r := fold(at{10, registered("A")}, at{20, deregistered()}, at{30, registered("B")}, at{40, command(event.KindAgentCordon)})
	r.Rollback()
	r.Apply(said("B", "idle"), after(25))
	for _, replayed := range []at{{10, registered("A")}, {15, command(event.KindAgentUncordon)}, {20, deregistered()}} {
		if v := r.Apply(replayed.event, mark(replayed.seq)); v != lifecycle.Old {
			t.Errorf("%T replayed: verdict %v, want old", replayed.event, v)
		}
	}
	if !r.Registered() || r.Instance.ID != "B" || r.Current() == nil || !r.Cordon.On {
		t.Errorf("after the replay: %+v", r)
	}
}

// A cached record is shared by goroutines: what was copied out of it must not change.
func TestApplyingAnEventLeavesCopiesAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		said := sentences().Draw(t, "said")
		r := &lifecycle.Record{}
		for _, s := range rapid.Permutation(said).Draw(t, "delivered") {
			copied := *r
			want := string(event.MustMarshal(&copied))
			r.Apply(s.event, s.mark)
			if got := string(event.MustMarshal(&copied)); got != want {
				t.Fatalf("%v changed a copy of the record:\n%s\n%s", s, want, got)
			}
		}
	})
}

func TestARecordIsBounded(t *testing.T) {
	r := &lifecycle.Record{}
	for i := range uint64(50) {
		r.Apply(registered(""), mark(2*i+1))
		r.Apply(said(fmt.Sprint(i), "idle"), mark(2*i+2))
	}
	if len(r.Reports) > 4 || len(r.Firsts) > 8 {
		t.Errorf("%d reports and %d registrations are remembered", len(r.Reports), len(r.Firsts))
	}
	if r.Reports[0].Instance != "49" {
		t.Errorf("the newest report is of %s", r.Reports[0].Instance)
	}
}

func TestARegisteredAgentHasAFirstRegistrationWhateverIsForgotten(t *testing.T) {
	r := &lifecycle.Record{}
	for i := range uint64(20) {
		r.Apply(registered(""), mark(i+1))
	}
	r.Apply(deregistered(), mark(19))
	if want := []lifecycle.Mark{mark(20)}; !slices.Equal(r.Firsts, want) {
		t.Errorf("first registrations %v, want %v", r.Firsts, want)
	}
}

func TestARecordSurvivesTheStore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, _ := hear(sentences().Draw(t, "said"))
		var got lifecycle.Record
		if err := event.Unmarshal(event.MustMarshal(want), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, &got, wholeRecord); diff != "" {
			t.Fatalf("record (-before +read back):\n%s", diff)
		}
	})
}
