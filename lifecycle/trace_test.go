package lifecycle_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

const watchBase = 20 // the attempts of these tests were assigned behind it

// watched is the gate of an old agent that holds some attempts.
func watched(attempts ...int) *lifecycle.Gate {
	g := &lifecycle.Gate{Agent: "a", Registered: true, Slots: 3, Delivery: event.DeliveryAgentKit}
	for _, n := range attempts {
		g.Take(attempt(n), "", epoch)
		g.Watch(attempt(n), watchBase)
	}
	return g
}

// names is the details of a state that names an attempt.
func names(n int) event.Raw {
	return event.Raw(fmt.Sprintf(`{"x":1.0,"opscore_task_id":%q}`, attempt(n).LegacyID()))
}

// endOf tells how an attempt ended, empty while it goes on.
func endOf(g *lifecycle.Gate, n int) string {
	end, failed, ok := g.Find(attempt(n)).Trace.End()
	switch {
	case !ok:
		return ""
	case failed:
		return fmt.Sprintf("failed at %d", end.Seq)
	}
	return fmt.Sprintf("completed at %d", end.Seq)
}

// traceTable says what a state of an old agent means for an attempt it holds.
func traceTable() string {
	rows := [][]string{{"state", "names", "nothing said yet", "works", "works, and holds another one"}}
	for _, row := range []struct {
		word, names string
		seq         uint64
	}{
		{"active, busy", "nothing", 30},
		{"idle, finished, completed", "nothing", 30},
		{"error", "nothing", 30},
		{"others", "nothing", 30},
		{"active, busy", "it", 30},
		{"idle, finished, completed", "it", 30},
		{"error", "it", 30},
		{"others", "it", 30},
		{"any", "another one", 30},
		{"idle, finished, completed", "nothing", 23},
		{"any", "it, before its base", watchBase},
	} {
		cells := []string{row.word, row.names}
		if row.seq == 23 {
			cells[1] = "nothing, said before the work"
		}
		for column := range 3 {
			meanings := make(map[string]bool)
			for _, word := range wordsOf(row.word) {
				meanings[meaning(column, word, row.names, row.seq)] = true
			}
			cells = append(cells, strings.Join(slices.Sorted(maps.Keys(meanings)), " or "))
		}
		rows = append(rows, cells)
	}
	return render(rows)
}

// wordsOf lists the words that a row of the table is about, in two spellings.
func wordsOf(row string) (words []string) {
	switch row {
	case "any":
		return []string{"active", "idle", "error", "offline"}
	case "others":
		return []string{"offline", "draining", "initializing", "UNKNOWN", "pondering", ""}
	}
	for word := range strings.SplitSeq(row, ", ") {
		words = append(words, word, strings.ToUpper(word))
	}
	return words
}

// meaning says what one state does to attempt 1, which has been at work since 25 except in the first column.
func meaning(column int, word, named string, seq uint64) string {
	g := watched(1)
	if column == 2 {
		g = watched(1, 2)
	}
	if column > 0 {
		g.Witness(&event.State{State: "active", Details: names(1)}, mark(25))
	}
	state := &event.State{State: word}
	switch named {
	case "another one":
		state.Details = names(3)
	case "nothing":
	default:
		state.Details = names(1)
	}
	changed := g.Witness(state, mark(seq))
	switch end := endOf(g, 1); {
	case end != "":
		end, _, _ = strings.Cut(end, " ")
		return end
	case !changed:
		return "-"
	case g.Find(attempt(1)).Trace.Active == seq:
		return "works"
	}
	return "noted"
}

func TestWhatAStateMeansForAnAttempt(t *testing.T) {
	type state struct {
		seq     uint64
		word    string
		details event.Raw
	}
	for _, c := range []struct {
		name   string
		states []state
		want   string
	}{
		{"nothing", nil, ""},
		{"rest alone", []state{{21, "idle", nil}}, ""},
		{"work and rest", []state{{21, "active", nil}, {22, "idle", nil}}, "completed at 22"},
		{"as they were delivered", []state{{22, "idle", nil}, {21, "active", nil}}, "completed at 22"},
		{"rest and work", []state{{21, "idle", nil}, {22, "busy", nil}}, ""},
		{"work before the base", []state{{20, "active", nil}, {22, "idle", nil}}, ""},
		{"rest before the base", []state{{19, "active", nil}, {20, "idle", nil}}, ""},
		{"twice at work", []state{{21, "active", nil}, {22, "idle", nil}, {23, "active", nil}, {24, "finished", nil}}, "completed at 24"},
		{"still at work again", []state{{21, "active", nil}, {22, "idle", nil}, {23, "active", nil}}, "completed at 22"},
		{"error at once", []state{{21, "error", nil}}, "failed at 21"},
		{"error, then rest", []state{{21, "active", nil}, {22, "ERROR", nil}, {23, "idle", nil}}, "failed at 22"},
		{"rest, then error", []state{{21, "active", nil}, {22, "idle", nil}, {23, "error", nil}}, "completed at 22"},
		{"rest before work, then error", []state{{21, "idle", nil}, {22, "active", nil}, {23, "error", nil}}, "failed at 23"},
		{"rest that names it", []state{{21, "idle", names(1)}}, "completed at 21"},
		{"rest that names another", []state{{21, "active", nil}, {22, "idle", names(2)}}, ""},
		{"error that names another", []state{{21, "error", names(2)}}, ""},
		{"work that names another", []state{{21, "active", names(2)}, {22, "idle", nil}}, ""},
		{"a name that is no id of ours", []state{{21, "active", event.Raw(`{"opscore_task_id":"4711"}`)}, {22, "idle", nil}}, ""},
		{"a name that is no text", []state{{21, "active", nil}, {22, "idle", event.Raw(`{"opscore_task_id":7}`)}}, ""},
		{"no name after all", []state{
			{21, "active", event.Raw(`{"opscore_task_id":null}`)}, {22, "idle", event.Raw(`{"opscore_task_id":""}`)},
		}, "completed at 22"},
		{"details that are none", []state{{21, "active", event.Raw(`null`)}, {22, "idle", event.Raw(`{}`)}}, "completed at 22"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := watched(1)
			for _, s := range c.states {
				g.Witness(&event.State{State: s.word, Details: s.details}, mark(s.seq))
			}
			if got := endOf(g, 1); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestOfSeveralAttemptsOnlyTheNamedOneIsMeant(t *testing.T) {
	g := watched(1, 2)
	for seq, word := range []string{"active", "idle", "error"} {
		if g.Witness(&event.State{State: word}, mark(uint64(30+seq))) {
			t.Errorf("%s without an id is taken for one of two attempts", word)
		}
	}
	g.Witness(&event.State{State: "idle", Details: names(2)}, mark(40))
	if endOf(g, 1) != "" || endOf(g, 2) != "completed at 40" {
		t.Errorf("the ends are %q and %q", endOf(g, 1), endOf(g, 2))
	}
	// One that was assigned later cannot be meant by what was said before.
	g = watched(1)
	g.Take(attempt(2), "", epoch)
	g.Watch(attempt(2), 50)
	g.Witness(&event.State{State: "active"}, mark(45))
	g.Witness(&event.State{State: "idle", Details: names(1)}, mark(55))
	if endOf(g, 1) != "completed at 55" || endOf(g, 2) != "" {
		t.Errorf("the ends are %q and %q", endOf(g, 1), endOf(g, 2))
	}
}

func TestAnotherProcessEndsNoAttempt(t *testing.T) {
	g := &lifecycle.Gate{Agent: "a", Slots: 1, Delivery: event.DeliveryAgentKit}
	g.Take(attempt(1), "A", epoch)
	g.Watch(attempt(1), watchBase)
	if g.Witness(&event.State{State: "idle", Instance: "B", Details: names(1)}, mark(21)) {
		t.Error("a state of another process counts")
	}
	if !g.Witness(&event.State{State: "idle", Instance: "A", Details: names(1)}, mark(22)) || endOf(g, 1) != "completed at 22" {
		t.Errorf("a state of its own process: %q", endOf(g, 1))
	}
}

// Only the traces of agents without result events cost anything.
func TestAnAttemptIsTracedOnlyWhenItIsWatched(t *testing.T) {
	g := freeGate(2)
	g.Take(attempt(1), "A", epoch)
	g.Watch(attempt(2), watchBase)
	before := string(g.Encode())
	if g.Witness(&event.State{State: "error", Details: names(1)}, mark(30)) || string(g.Encode()) != before {
		t.Errorf("the gate became %s", g.Encode())
	}
	if strings.Contains(before, "trace") || strings.Contains(before, "delivery") {
		t.Errorf("the gate of an agent on NATS says more than it must: %s", before)
	}
	g.Watch(attempt(1), watchBase)
	g.Witness(&event.State{State: "active"}, mark(30))
	g.Watch(attempt(1), 40)
	if trace := g.Find(attempt(1)).Trace; trace.Base != watchBase || trace.Active != 30 {
		t.Errorf("watched twice, the trace is %+v", trace)
	}
}

// heardState is a state event and its place.
type heardState struct {
	seq   uint64
	event *event.State
}

func statesBehind(t *rapid.T) []heardState {
	states := make([]heardState, rapid.IntRange(0, 10).Draw(t, "states"))
	for i := range states {
		states[i] = heardState{uint64(watchBase - 1 + i), &event.State{
			State:   rapid.SampledFrom([]string{"idle", "active", "busy", "error", "finished", "offline"}).Draw(t, "word"),
			Details: rapid.SampledFrom([]event.Raw{nil, nil, nil, names(1), names(2), names(9)}).Draw(t, "details"),
		}}
	}
	return states
}

// In whatever order, how often and in whatever batches states are delivered, also to replicas that read the gate anew: an attempt ends the
// same way, and it has a timer exactly when it has ended.
func TestTheEndDoesNotDependOnTheDelivery(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		held := rapid.SampledFrom([][]int{{1}, {1, 2}}).Draw(t, "held")
		states := statesBehind(t)
		plain := watched(held...)
		for _, s := range states {
			plain.Witness(s.event, mark(s.seq))
		}
		repeat := rapid.SampledFrom(append(slices.Clone(states), heardState{1, said("", "idle")}))
		delivered := append(slices.Clone(states), rapid.SliceOfN(repeat, 0, 5).Draw(t, "repeats")...)
		delivered = rapid.Permutation(delivered).Draw(t, "order")

		g, timers := watched(held...), make(map[string]bool)
		for len(delivered) > 0 {
			n := rapid.IntRange(1, len(delivered)).Draw(t, "batch")
			batch := slices.Clone(delivered[:n])
			delivered = delivered[n:]
			slices.SortStableFunc(batch, func(a, b heardState) int { return int(a.seq) - int(b.seq) })
			before := *g
			image := string(before.Encode())
			for _, s := range batch {
				g.Witness(s.event, mark(s.seq))
			}
			add, remove := lifecycle.EndOps(&before, g, epoch)
			for _, op := range add {
				timers[op.Member] = true
			}
			for _, op := range remove {
				delete(timers, op.Member)
			}
			if string(before.Encode()) != image {
				t.Fatalf("a copy of the gate changed: %s, was %s", before.Encode(), image)
			}
			read := &lifecycle.Gate{}
			if err := event.Unmarshal(g.Encode(), read); err != nil {
				t.Fatal(err)
			}
			g = read
		}
		if diff := cmp.Diff(string(plain.Encode()), string(g.Encode())); diff != "" {
			t.Fatalf("the gate (-in order +as delivered): %s", diff)
		}
		want := make(map[string]bool)
		for _, n := range held {
			if end, _, ok := g.Find(attempt(n)).Trace.End(); ok {
				want[lifecycle.EndMember("a", attempt(n), end.Seq)] = true
			}
		}
		if diff := cmp.Diff(want, timers); diff != "" {
			t.Fatalf("timers (-ends +timers): %s", diff)
		}
		before := *g
		for _, n := range held {
			g.Release(attempt(n), time.Time{})
		}
		if _, remove := lifecycle.EndOps(&before, g, epoch); len(remove) != len(want) {
			t.Fatalf("%d timers are removed with the slots, want %d", len(remove), len(want))
		}
	})
}

// Delivered one by one and in order, the first state that ends the attempt is the one that a person would say ended it.
func TestTheEndIsTheFirstOneInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, worked := watched(1), false
		for _, s := range statesBehind(t) {
			g.Witness(s.event, mark(s.seq))
			want := ""
			named := string(s.event.Details) == string(names(1))
			if s.seq > watchBase && (named || len(s.event.Details) == 0) {
				switch s.event.State {
				case "active", "busy":
					worked = true
				case "idle", "finished":
					if worked || named {
						want = fmt.Sprintf("completed at %d", s.seq)
					}
				case "error":
					want = fmt.Sprintf("failed at %d", s.seq)
				}
			}
			if got := endOf(g, 1); got != want {
				t.Fatalf("after %s at %d: %q, want %q", s.event.State, s.seq, got, want)
			}
			if want != "" {
				return
			}
		}
	})
}

func TestWhatAnOldAgentBrings(t *testing.T) {
	for _, c := range []struct{ details, result, complaint string }{
		{``, `{"state":"idle","details":null}`, ""},
		{`null`, `{"state":"idle","details":null}`, ""},
		{`{"a":1.0}`, `{"state":"idle","details":{"a":1.0}}`, ""},
		{`{"last_task_result":null}`, `{"state":"idle","details":{"last_task_result":null}}`, ""},
		{`{"last_task_result":{"sum":1.0}}`, `{"sum":1.0}`, ""},
		{`{"last_task_result":"text","message":"hm"}`, `"text"`, "hm"},
		{`{"last_task_result":[],"error":"no paper","message":"hm"}`, `[]`, "no paper"},
		{`{"error":{"code":7},"reason":"tired"}`, `{"state":"idle","details":{"error":{"code":7},"reason":"tired"}}`, "tired"},
	} {
		h := &lifecycle.HistoryEntry{State: "idle", Details: event.Raw(c.details)}
		if got := string(h.Result()); got != c.result {
			t.Errorf("%s brings %s, want %s", c.details, got, c.result)
		}
		if got := h.Complaint(); got != c.complaint {
			t.Errorf("%s complains %q, want %q", c.details, got, c.complaint)
		}
	}
}

// witness is a service whose batches the test makes, and what it said of the agents that wake the dispatcher.
type witness struct {
	*fleet
	service *lifecycle.Service
	woken   []string
}

func newWitness(f *fleet) *witness {
	w := &witness{fleet: f}
	w.service = lifecycle.New(lifecycle.Config{
		Store: f.store, Bus: f.conn, Log: bustest.Log(f.T), Wake: func(agents []string) { w.woken = append(w.woken, agents...) },
	})
	return w
}

// hand hands a batch of events of agent a to the service.
func (w *witness) hand(delivered uint64, events ...at) {
	w.Helper()
	var batch []*bus.Msg
	for _, e := range events {
		verb := event.VerbState
		switch e.event.(type) {
		case *event.Register:
			verb = event.VerbRegister
		case *event.Deregister:
			verb = event.VerbDeregister
		}
		m := mark(e.seq)
		batch = append(batch, &bus.Msg{
			Subject: event.AgentSubject(verb, "a"), Data: event.MustMarshal(e.event), Seq: m.Seq, Time: m.At, Delivered: delivered,
		})
	}
	if err := w.service.Handle(w.Context(), batch); err != nil {
		w.Fatal(err)
	}
}

// hold gives the agent an attempt behind the service's back, as the engine of another replica does.
func (w *witness) hold(n int, base uint64) {
	w.Helper()
	w.change(func(g *lifecycle.Gate) {
		g.Take(attempt(n), "", epoch)
		g.Watch(attempt(n), base)
	})
}

func (w *witness) change(act func(*lifecycle.Gate)) {
	w.Helper()
	docs, err := w.store.Get(w.Context(), lifecycle.GateKey("a"))
	if err != nil {
		w.Fatal(err)
	}
	g := &lifecycle.Gate{Agent: "a"}
	if err := event.Unmarshal(docs[0].Data, g); err != nil {
		w.Fatal(err)
	}
	act(g)
	txn := storage.Txn{
		Rev: storage.NewRevisions().Next(), If: []storage.Cond{{Key: docs[0].Key, Rev: docs[0].Rev}},
		Put: []storage.Put{{Key: docs[0].Key, Data: g.Encode()}},
	}
	if err := w.store.Commit(w.Context(), txn)[0]; err != nil {
		w.Fatal(err)
	}
}

// wantEnd compares how the attempt ended, and the timers that say so.
func (w *witness) wantEnd(n int, end string, seq uint64) {
	w.Helper()
	gates, err := lifecycle.Gates(w.Context(), w.store, "a")
	if err != nil {
		w.Fatal(err)
	}
	if got := endOf(gates[0], n); got != end {
		w.Errorf("the attempt ended as %q, want %q", got, end)
	}
	due, err := w.store.Range(w.Context(), lifecycle.HandBack, storage.Cursor{}, storage.MaxScore, 100)
	if err != nil {
		w.Fatal(err)
	}
	var got, want []string
	for _, e := range due {
		if !isFact(e.Member) {
			got = append(got, e.Member)
		}
	}
	if end != "" {
		want = []string{lifecycle.EndMember("a", attempt(n), seq)}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("timers (-want +got): %s", diff)
	}
	if end == "" {
		return
	}
	if h, err := lifecycle.Recall(w.Context(), w.store, "a", seq); err != nil || h == nil || h.Seq != seq {
		w.Errorf("the state that ended the attempt is recalled as %+v, %v", h, err)
	}
}

// isFact reports whether a timer stands for a fact about an agent.
func isFact(member string) bool { return strings.HasPrefix(member, lifecycle.FactTimer+"|") }

func oldAgent() *event.Register {
	return &event.Register{AgentName: "n", Version: "1", Capabilities: []string{"echo"}, Delivery: event.DeliveryAgentKit}
}

func TestEveryDeliveredStateIsWitnessed(t *testing.T) {
	active, idle := said("", "active"), said("", "idle")
	register := func(w *witness) { w.hand(1, at{1, oldAgent()}, at{2, idle}) }
	for name, tell := range map[string]func(w *witness){
		"folded away": func(w *witness) {
			w.hand(1, at{21, active}, at{22, said("", "busy")}, at{23, idle}, at{24, active}, at{25, idle})
			w.wantEnd(1, "completed at 25", 25)
		},
		"late, behind the fence": func(w *witness) {
			w.hand(1, at{25, idle})
			w.wantEnd(1, "", 0)
			w.hand(2, at{24, active})
			w.wantEnd(1, "completed at 25", 25)
		},
		"late rest behind the fence": func(w *witness) {
			w.hand(1, at{25, active})
			w.hand(2, at{24, idle}, at{23, active})
			w.wantEnd(1, "completed at 24", 24)
		},
		"twice, the second time by another replica": func(w *witness) {
			w.hand(1, at{21, active}, at{22, idle})
			other := newWitness(w.fleet)
			other.hand(2, at{21, active}, at{22, idle})
			w.wantEnd(1, "completed at 22", 22)
			if len(other.woken) != 0 {
				w.Errorf("woken again: %v", other.woken)
			}
		},
		"after a deregistration": func(w *witness) {
			w.hand(1, at{21, active}, at{22, deregistered()})
			w.hand(1, at{23, idle})
			w.wantEnd(1, "completed at 23", 23)
		},
		"registered again meanwhile": func(w *witness) {
			again := oldAgent()
			again.Version, again.Delivery = "2", event.DeliveryHTTP
			w.hand(1, at{21, active})
			w.hand(1, at{22, again})
			w.hand(1, at{23, idle}) // of a process that may know nothing of the attempt
			w.wantEnd(1, "", 0)
			w.hand(1, at{24, active}, at{25, idle})
			w.wantEnd(1, "completed at 25", 25)
		},
		"registered again behind the end": func(w *witness) {
			w.hand(1, at{21, active}, at{22, idle}, at{23, oldAgent()})
			w.wantEnd(1, "completed at 22", 22)
		},
		"after it was released": func(w *witness) {
			w.hand(1, at{21, active})
			w.change(func(g *lifecycle.Gate) { g.Release(attempt(1), mark(22).At) })
			w.hand(1, at{23, idle})
			due, err := w.store.Range(w.Context(), lifecycle.HandBack, storage.Cursor{}, storage.MaxScore, 100)
			if due = slices.DeleteFunc(due, func(e storage.Entry) bool { return isFact(e.Member) }); err != nil || len(due) > 0 {
				w.Errorf("timers %v, %v", due, err)
			}
		},
		"delivered again from the beginning": func(w *witness) {
			w.hand(1, at{21, active}, at{22, idle})
			w.change(func(g *lifecycle.Gate) { // the store lost what came of it, but not the attempt
				g.Release(attempt(1), time.Time{})
				g.Take(attempt(1), "", epoch)
				g.Watch(attempt(1), watchBase)
			})
			w.service.Forget()
			w.hand(1, at{1, oldAgent()}, at{2, idle}, at{21, active}, at{22, idle})
			w.wantEnd(1, "completed at 22", 22)
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachStore(t, func(f *fleet) {
				w := newWitness(f)
				register(w)
				w.woken = nil
				w.hold(1, watchBase) // the service remembers the gate without it
				tell(w)
			})
		})
	}
}

func TestTheEndOfAnAttemptWakesTheDispatcher(t *testing.T) {
	w := newWitness(newFleet(t, boltStore(t)))
	w.hand(1, at{1, oldAgent()}, at{2, said("", "idle")})
	w.hold(1, watchBase)
	w.woken = nil
	w.hand(1, at{21, said("", "active")})
	if len(w.woken) != 0 {
		t.Errorf("woken by work: %v", w.woken)
	}
	w.hand(1, at{22, said("", "error")})
	if diff := cmp.Diff([]string{"a"}, w.woken); diff != "" {
		t.Errorf("woken (-want +got): %s", diff)
	}
}
