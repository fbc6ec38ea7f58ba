package lifecycle_test

import (
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

// replica is one of several services of a store. Messages are handed to it one by one, so that the test says who has which first.
type replica struct {
	*fleet
	service *lifecycle.Service
}

func (f *fleet) replica(crash func(point string)) *replica {
	log := slog.New(slog.NewTextHandler(f.Output(), nil))
	return &replica{f, lifecycle.New(lifecycle.Config{Store: f.store, Bus: f.conn, Log: log, Crash: crash})}
}

// take delivers messages of OPSCORE_AGENT in one batch, each for the n-th time. Those that become letters by their verdict are counted in dead.
func (r *replica) take(n uint64, seqs ...uint64) (dead int) {
	r.Helper()
	var batch []*bus.Msg
	for _, m := range r.stream(event.StreamAgent) {
		at, err := m.Metadata()
		if err != nil {
			r.Fatal(err)
		}
		for _, seq := range seqs {
			if at.Sequence.Stream == seq {
				batch = append(batch, &bus.Msg{
					Subject: m.Subject(), Data: m.Data(), Stream: event.StreamAgent, Seq: seq, Time: at.Timestamp.UTC(), Delivered: n,
				})
			}
		}
	}
	if len(batch) != len(seqs) {
		r.Fatalf("%d of the messages %v are in the stream", len(batch), seqs)
	}
	if err := r.service.Handle(r.Context(), batch); err != nil {
		r.Fatal(err)
	}
	for _, m := range batch {
		if m.Verdict.Kind == bus.VerdictDead {
			dead++
		}
	}
	return dead
}

// wantBuried compares the sequences, and the classes, of the reports that became dead letters.
func (f *fleet) wantBuried(code event.Code, seqs ...uint64) {
	f.Helper()
	letters := f.deadLetters()
	if len(letters) != len(seqs) {
		f.Errorf("%d dead letters, want %d", len(letters), len(seqs))
		return
	}
	for i, m := range letters {
		if got := m.Headers().Get(event.HeaderDeadSeq); got != strconv.FormatUint(seqs[i], 10) || m.Subject() != event.DeadSubject(code) {
			f.Errorf("dead letter %s of message %s, want %s of %d", m.Subject(), got, code, seqs[i])
		}
	}
}

// told stores states and registrations of agent "a", in this order: the first has sequence 1.
func (f *fleet) told(events ...event.Event) {
	f.Helper()
	for _, e := range events {
		verb := event.VerbState
		if _, registers := e.(*event.Register); registers {
			verb = event.VerbRegister
		}
		f.publish(event.AgentSubject(verb, "a"), event.MustMarshal(e))
	}
}

func TestAReportHeldForAnotherProcessIsBuried(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.serve()
		f.publish(stateSubject("a"), event.MustMarshal(&event.State{State: "offline", Instance: "before", Details: event.Raw(`{"n":1.0}`)}))
		f.settle()
		f.publish(stateSubject("a"), event.MustMarshal(said("now", "idle")))
		f.wantNoDeadLetters()
		f.wantOK(f.say(event.VerbRegister, "a", registered("now")))
		f.wantState("a", "idle")
		f.wantBuried(event.CodeStaleInstance, 1)
		m := f.wantDeadLetter(event.CodeStaleInstance, `another process of agent "a" has taken over`)
		if got := string(m.Data()); got != `{"state":"offline","details":{"n":1.0},"instance":"before"}` {
			f.Errorf("the report is kept as %s", got)
		}
		if h := m.Headers(); h.Get(event.HeaderDeadStream) != event.StreamAgent || h.Get(event.HeaderDeadSubject) != stateSubject("a") {
			f.Errorf("the letter says of the message: %v", h)
		}
	})
}

// Whoever has the report and the registration, and in whatever order, there is one letter, also when both come again.
func TestOneLetterOfAReportThatAnotherReplicaHeld(t *testing.T) {
	register, report := registered("now"), said("before", "offline")
	for _, c := range []struct {
		name             string
		events           []event.Event
		report, register uint64 // places
	}{
		{"said before the registration", []event.Event{report, register}, 1, 2},
		{"said behind the registration", []event.Event{register, report}, 2, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, boltStore(t))
			f.told(c.events...)
			one, other := f.replica(nil), f.replica(nil)
			dead := one.take(1, c.report) + other.take(1, c.register)
			f.wantBuried(event.CodeStaleInstance, c.report)
			dead += one.take(2, c.report) + other.take(2, c.register) + one.take(3, 1, 2)
			if dead != 0 {
				f.Errorf("%d more letters, of messages that had theirs", dead)
			}
			f.wantBuried(event.CodeStaleInstance, c.report)
		})
		t.Run(c.name+", in one batch", func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, boltStore(t))
			f.told(c.events...)
			dead := f.replica(nil).take(1, 1, 2)
			if dead += len(f.deadLetters()); dead != 1 {
				f.Errorf("%d letters, want one", dead)
			}
		})
	}
}

func TestADeathAroundTheBurialNeitherLosesNorRepeatsIt(t *testing.T) {
	for _, point := range []string{"lifecycle-after-bury", "lifecycle-after-commit"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, boltStore(t))
			f.told(said("before", "offline"), registered("now"))
			f.replica(nil).take(1, 1)
			dies := f.replica(func(p string) {
				if p == point {
					panic(p)
				}
			})
			func() {
				defer func() {
					if recover() == nil {
						f.Error("it did not die")
					}
				}()
				dies.take(1, 2)
			}()
			f.replica(nil).take(2, 2)
			f.wantState("a", "UNKNOWN")
			f.wantBuried(event.CodeStaleInstance, 1)
		})
	}
}

// A replica that remembers the report as held does not know that it has counted since.
func TestAReportThatHasCountedIsNotBuried(t *testing.T) {
	t.Parallel()
	f := newFleet(t, boltStore(t))
	f.told(said("before", "idle"), registered("before"), registered("now"))
	one, other := f.replica(nil), f.replica(nil)
	one.take(1, 1)
	other.take(1, 2)
	f.wantState("a", "idle")
	one.take(1, 3)
	f.wantState("a", "UNKNOWN")
	f.wantNoDeadLetters()
}

// A registration may come between the end of a report's time and the sweeper.
func TestAReportThatWaitedTooLongIsBuriedByTheRegistration(t *testing.T) {
	t.Parallel()
	f := newFleet(t, boltStore(t))
	r := f.replica(nil)
	old := &bus.Msg{
		Subject: stateSubject("a"), Data: event.MustMarshal(said("A", "idle")), Stream: event.StreamAgent, Seq: 1,
		Time: time.Now().Add(-2 * lifecycle.EarlyReportTTL), Delivered: 1,
	}
	if err := r.service.Handle(f.Context(), []*bus.Msg{old}); err != nil {
		f.Fatal(err)
	}
	f.told(said("B", "x"), registered("A"))
	r.take(1, 2)
	f.wantState("a", "UNKNOWN")
	f.wantBuried(event.CodeExpired, 1)
}
