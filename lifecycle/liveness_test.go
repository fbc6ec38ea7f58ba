package lifecycle_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

// never is as long as anything lasts.
const never = time.Duration(1<<63 - 1)

// livenessTable is what the judge says of an agent that beats each second, or has not said how often.
func livenessTable() string {
	rows := [][]string{{"heartbeats missed", "since the last gap", "stored since", "live", "suspect", "lost", "unwatched"}}
	said := []event.Liveness{event.LivenessLive, event.LivenessSuspect, event.LivenessLost, event.LivenessUnwatched}
	for _, row := range []struct {
		missed, window, stored string
		pulse                  lifecycle.Pulse
	}{
		{"0", "any", "any", lifecycle.Pulse{Beat: time.Second, Stored: never}},
		{"1", "any", "any", lifecycle.Pulse{Beat: 2 * time.Second, Stored: never, Window: never}},
		{"2", "1 s", "nothing", lifecycle.Pulse{Beat: 2300 * time.Millisecond, Stored: never, Window: time.Second}},
		{"2", "longer", "nothing", lifecycle.Pulse{Beat: 2300 * time.Millisecond, Stored: never, Window: never}},
		{"2", "longer", "a message", lifecycle.Pulse{Beat: 2300 * time.Millisecond, Stored: time.Second, Window: never}},
		{"3", "1 s", "nothing", lifecycle.Pulse{Beat: 3300 * time.Millisecond, Stored: never, Window: time.Second}},
		{"3", "2.5 s", "nothing", lifecycle.Pulse{Beat: 3300 * time.Millisecond, Stored: never, Window: 2500 * time.Millisecond}},
		{"3", "longer", "nothing", lifecycle.Pulse{Beat: 3300 * time.Millisecond, Stored: never, Window: never}},
		{"3", "longer", "a message", lifecycle.Pulse{Beat: 3300 * time.Millisecond, Stored: time.Second, Window: never}},
		{"3", "longer", "2 beats before", lifecycle.Pulse{Beat: 3300 * time.Millisecond, Stored: 2300 * time.Millisecond, Window: never}},
		{"all, it never beat", "1 s", "nothing", lifecycle.Pulse{Beat: never, Stored: never, Window: time.Second}},
		{"all, it never beat", "longer", "nothing", lifecycle.Pulse{Beat: never, Stored: never, Window: never}},
		{"all, it never beat", "longer", "a message", lifecycle.Pulse{Beat: never, Stored: time.Second, Window: never}},
	} {
		cells := []string{row.missed, row.window, row.stored}
		for _, l := range said {
			p := row.pulse
			p.Said, p.Every = l, time.Second
			if l == event.LivenessUnwatched {
				p.Every = 0
			}
			if verdict := p.Verdict(); verdict == l {
				cells = append(cells, "-")
			} else {
				cells = append(cells, string(verdict))
			}
		}
		rows = append(rows, cells)
	}
	return render(rows)
}

// judged runs a judge until the test ends or stop is called.
func (f *fleet) judged() (stop func()) {
	f.Helper()
	log := bustest.Log(f)
	keeper := lifecycle.NewKeeper(f.store, f.conn, log, func() {})
	if err := keeper.Check(f.Context()); err != nil {
		f.Fatal(err)
	}
	j := lifecycle.NewJudge(lifecycle.JudgeConfig{Store: f.store, Bus: f.conn, Keeper: keeper, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- j.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Errorf("judge: %v", err)
		}
	})
	f.Cleanup(stop)
	return stop
}

// beats lets agents beat each 200 ms until the test ends or stop is called.
func (f *fleet) beats(body string, agents ...string) (stop func()) {
	f.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for {
			for _, a := range agents {
				_ = f.conn.NC().Publish(event.HeartbeatSubject(event.MustToken(a)), []byte(body))
			}
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	f.Cleanup(stop)
	return stop
}

// becomes waits until an agent is live, suspect, lost or unwatched.
func (f *fleet) becomes(agent string, l event.Liveness) {
	f.Helper()
	bustest.Eventually(f, agent+" is "+string(l), func() bool { return f.liveness(agent) == l })
}

func (f *fleet) liveness(agent string) event.Liveness {
	f.Helper()
	a, err := f.queries.Get(f.Context(), agent)
	if err != nil {
		f.Fatal(err)
	}
	return a.Liveness
}

func beating(instance string, seconds float64) *event.Register {
	r := registered(instance)
	r.HeartbeatSeconds = seconds
	return r
}

// The whole life of agents, with two judges of which one judges: who falls silent is suspect, then lost, and live again with its next word; who has never beaten is left alone.
func TestSilentAgentsAreLost(t *testing.T) {
	t.Parallel()
	eachStore(t, func(f *fleet) {
		f.serve()
		f.judged()
		f.judged() // another replica, on the same store
		for _, id := range []string{"beats", "falls silent", "unwatched", "old client"} {
			r := beating("p1", 1)
			if id == "unwatched" || id == "old client" {
				r = beating("", 0)
			}
			f.say(event.VerbRegister, id, r)
			f.say(event.VerbState, id, said(r.Instance, "idle"))
		}
		f.beats(`{"instance":"p1"}`, "beats")
		silence := f.beats(`{"instance":"p1"}`, "falls silent")
		f.beats("", "old client")
		f.becomes("old client", event.LivenessLive)
		if got := f.liveness("falls silent"); got != event.LivenessLive {
			t.Errorf("before it fell silent: %s", got)
		}
		silence()
		f.becomes("falls silent", event.LivenessSuspect)
		f.becomes("falls silent", event.LivenessLost)
		for id, want := range map[string]event.Liveness{
			"beats": event.LivenessLive, "unwatched": event.LivenessUnwatched, "old client": event.LivenessLive,
		} {
			if got := f.liveness(id); got != want {
				t.Errorf("%s is %s, want %s", id, got, want)
			}
		}
		a, err := f.queries.Get(t.Context(), "falls silent")
		if err != nil || a.Available || a.Unavailable == "" {
			t.Errorf("a lost agent: available %v, %q (%v)", a.Available, a.Unavailable, err)
		}
		f.say(event.VerbState, "falls silent", said("p1", "idle"))
		if got := f.liveness("falls silent"); got != event.LivenessLive {
			t.Errorf("after it has reported: %s", got)
		}
		f.becomes("falls silent", event.LivenessLost) // it still does not beat
		f.beats(`{"instance":"p1"}`, "falls silent")
		f.becomes("falls silent", event.LivenessLive)
		var said []event.Liveness
		history, err := f.queries.History(t.Context(), "falls silent")
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range history {
			if h.Event == lifecycle.EventLiveness {
				said = append(said, h.Liveness)
			}
		}
		want := []event.Liveness{
			event.LivenessSuspect, event.LivenessLost, event.LivenessLive, event.LivenessSuspect, event.LivenessLost, event.LivenessLive,
		}
		if !slices.Equal(said, want) {
			t.Errorf("its history is %v, want %v", said, want)
		}
	})
}

// A heartbeat of a process that is not registered counts for nothing, and is refused if it says where.
func TestHeartbeatsOfStrangersAreRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, boltStore(t))
	f.serve()
	f.judged()
	f.say(event.VerbRegister, "replaced", beating("new", 1))
	f.becomes("replaced", event.LivenessLive)
	f.beats(`{"load":0.5,"instance":"old"}`, "replaced")
	for _, tc := range []struct {
		agent, body string
		want        event.Code
	}{
		{"replaced", `{"load":0.5,"instance":"old"}`, event.CodeStaleInstance},
		{"stranger", `{"instance":"old"}`, event.CodeUnknownAgent},
		{"stranger too", ``, event.CodeUnknownAgent},
	} {
		var o event.Outcome
		bustest.Eventually(f, "the beat is refused", func() bool {
			m, err := f.conn.NC().Request(event.HeartbeatSubject(event.MustToken(tc.agent)), []byte(tc.body), time.Second)
			return err == nil && event.Unmarshal(m.Data, &o) == nil
		})
		if o.OK || o.Error == nil || o.Error.Code != tc.want {
			t.Errorf("%s %s: %+v, want %s", tc.agent, tc.body, o.Error, tc.want)
		}
	}
	f.becomes("replaced", event.LivenessLost) // the old process beats all the time
	f.wantUnknown("stranger")
}

// What a process says that another one has replaced is refused, its goodbye too: it speaks for itself alone.
func TestReplacedProcessCannotSayGoodbye(t *testing.T) {
	t.Parallel()
	f := newFleet(t, boltStore(t))
	f.serve()
	f.say(event.VerbRegister, "a", registered("old"))
	f.say(event.VerbRegister, "a", registered("new"))
	f.wantRefused(f.say(event.VerbState, "a", said("old", "idle")), event.CodeStaleInstance)
	f.wantRefused(f.say(event.VerbDeregister, "a", &event.Deregister{Instance: "old"}), event.CodeStaleInstance)
	if a := f.agent("a"); a.Instance != "new" {
		t.Errorf("its process is %q", a.Instance)
	}
	f.wantOK(f.say(event.VerbDeregister, "a", &event.Deregister{Instance: "new"}))
	f.wantUnknown("a")
}
