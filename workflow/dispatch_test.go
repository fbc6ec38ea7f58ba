package workflow

import (
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/boltstore"
)

// yard is a store that is filled without any events, and an engine on it.
type yard struct {
	testing.TB
	store  storage.Store
	conn   *bus.Conn
	engine *Engine
	revs   *storage.Revisions
	def    *Definition
	seeded int // tasks so far
}

// yardBatch is how many members of an index go into one Txn of a yard.
const yardBatch = 500

func newYard(tb testing.TB, store storage.Store) *yard {
	tb.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	y := &yard{TB: tb, store: store, conn: bustest.Conn(tb), revs: storage.NewRevisions()}
	keeper := lifecycle.NewKeeper(store, y.conn, log, func() {})
	if err := keeper.Check(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	y.engine = NewEngine(Config{Store: store, Bus: y.conn, Keeper: keeper, Log: log})
	raw := event.Raw(`{"id":"d","name":"D","tasks":[{"taskId":"t","agentCapability":"work"}]}`)
	var err error
	if y.def, err = Parse(raw); err != nil {
		tb.Fatal(err)
	}
	y.commit(storage.Put{Key: versionKey("d", "v"), Data: raw})
	return y
}

// commit writes new documents, and what follows from them.
func (y *yard) commit(put storage.Put, add ...storage.IndexOp) {
	y.Helper()
	txn := storage.Txn{Rev: y.revs.Next(), If: []storage.Cond{{Key: put.Key}}, Put: []storage.Put{put}, IndexAdd: add}
	if err := y.store.Commit(y.Context(), txn)[0]; err != nil {
		y.Fatal(err)
	}
}

// agents registers idle agents; change says what is special about each.
func (y *yard) agents(prefix string, n int, change func(*lifecycle.Gate)) {
	y.Helper()
	txns := make([]storage.Txn, 0, n)
	for i := range n {
		g := &lifecycle.Gate{
			Agent: fmt.Sprintf("%s%04d", prefix, i), Registered: true, Open: true, Slots: 1, Caps: []string{"work"}, Version: "1.0.0",
		}
		change(g)
		add, _ := lifecycle.FreeOps(&lifecycle.Gate{Agent: g.Agent}, g, time.Now())
		key := lifecycle.GateKey(g.Agent)
		txns = append(txns, storage.Txn{
			Rev: y.revs.Next(), If: []storage.Cond{{Key: key}}, Put: []storage.Put{{Key: key, Data: g.Encode()}}, IndexAdd: add,
		})
	}
	for _, err := range y.store.Commit(y.Context(), txns...) {
		if err != nil {
			y.Fatal(err)
		}
	}
}

// ready queues up runs whose one task is ready in a class, oldest first.
func (y *yard) ready(class string, n int) (runs []string) {
	y.Helper()
	var txns []storage.Txn
	for range n {
		y.seeded++
		start := &Start{Event: &event.RunStart{RunID: fmt.Sprintf("run%08d", y.seeded)}, Workflow: "d", DefVersion: "v"}
		at := time.Now().Add(time.Duration(y.seeded) * time.Microsecond)
		run := Decide(y.def, nil, start, At{Now: at, Seq: uint64(y.seeded), Stream: at}).Run
		run.Tasks[0].Class = class
		txn := storage.Txn{Rev: y.revs.Next(), If: []storage.Cond{{Key: runKey(run.ID)}}, Put: []storage.Put{{Key: runKey(run.ID), Data: run.encode()}}}
		(&indexOps{txn: &txn}).run(nil, run)
		txns, runs = append(txns, txn), append(runs, run.ID)
		if len(txns) == yardBatch || len(runs) == n {
			for _, err := range y.store.Commit(y.Context(), txns...) {
				if err != nil {
					y.Fatal(err)
				}
			}
			txns = txns[:0]
		}
	}
	return runs
}

// behind fills the back of a queue with members whose runs nobody will ever look at.
func (y *yard) behind(class string, n int) {
	y.Helper()
	score := storage.Score(time.Now().Add(24 * time.Hour).UnixMicro())
	for start := 0; start < n; start += yardBatch {
		add := make([]storage.IndexOp, min(yardBatch, n-start))
		for i := range add {
			add[i] = storage.IndexOp{Index: readyIndex(class), Member: readyMember(fmt.Sprintf("behind%08d", start+i), "t"), Score: score}
		}
		y.commit(storage.Put{Key: storage.Key(fmt.Sprintf("filler/%s/%d", class, start)), Data: []byte("{}")}, add...)
	}
}

// given returns the agent that a run's task was given to, empty if it was not.
func (y *yard) given(run string) string {
	y.Helper()
	r, err := NewQueries(y.store).readRun(y.Context(), run)
	if err != nil {
		y.Fatal(err)
	}
	return r.Tasks[0].Agent
}

// scans takes turns of the slow scan until a run is given to an agent, and returns how many that took.
func (y *yard) scans(run string, most int) int {
	y.Helper()
	for n := range most {
		if y.given(run) != "" {
			return n
		}
		if err := y.engine.hintTurn(y.Context(), nil, nil, nil, true); err != nil {
			y.Fatal(err)
		}
	}
	return most
}

func boltYard(tb testing.TB) *yard {
	tb.Helper()
	store, err := boltstore.Driver.Open(tb.Context(), &url.URL{Scheme: "file", Opaque: filepath.Join(tb.TempDir(), "opscore.db")})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = store.Close() })
	return newYard(tb, store)
}

// The few agents that a task asks for may stand behind thousands that are free and are not what it asks for: they are found, a bounded number of looks at
// a time.
func TestAPickyTaskFindsItsAgentBehindThousands(t *testing.T) {
	for name, class := range map[string]string{
		"version": classOf(Selector{Capability: "work", Version: ">=2"}),
		"labels":  classOf(Selector{Capability: "work", Labels: map[string]string{"pool": "a"}}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := boltYard(t)
			const others = 5000
			y.agents("other", others, func(*lifecycle.Gate) {})
			y.agents("fits", 1, func(g *lifecycle.Gate) { g.Used, g.Version, g.Labels = 1, "2.0.0", map[string]string{"pool": "a"} })
			run := y.ready(class, 1)[0]
			const least = others / (maxLooks + poolPage)
			if n := y.scans(run, 10); y.given(run) != "fits0000" || n < least || n > least+3 {
				t.Errorf("given to %q after %d turns", y.given(run), n)
			}
			// Those that are nobody's do not keep an ordinary task waiting meanwhile.
			if run := y.ready(simpleClass+"work", 1)[0]; y.scans(run, 10) > 1 {
				t.Error("an ordinary task waits")
			}
		})
	}
}

// An agent that fits is told of: its task does not wait until a scan has come that far.
func TestAPickyTaskIsGivenToAnAgentThatBecomesFree(t *testing.T) {
	t.Parallel()
	y := boltYard(t)
	y.agents("other", 3000, func(*lifecycle.Gate) {})
	class := classOf(Selector{Capability: "work", Version: ">=2"})
	run := y.ready(class, 1)[0]
	if n := y.scans(run, 3); n != 3 {
		t.Fatalf("given to %q", y.given(run))
	}
	y.agents("fits", 1, func(g *lifecycle.Gate) { g.Used, g.Version = 1, "2.0.0" })
	if err := y.engine.hintTurn(t.Context(), nil, []string{"fits0000"}, nil, false); err != nil {
		t.Fatal(err)
	}
	if y.given(run) != "fits0000" {
		t.Errorf("given to %q", y.given(run))
	}
}

func TestASpreadTaskGoesToTheAgentWithTheFewest(t *testing.T) {
	t.Parallel()
	y := boltYard(t)
	y.agents("busy", 10, func(g *lifecycle.Gate) {
		g.Slots, g.Held = 5, []lifecycle.Held{{AttemptRef: event.AttemptRef{RunID: "x"}}, {AttemptRef: event.AttemptRef{RunID: "y"}}}
	})
	y.agents("calm", 1, func(g *lifecycle.Gate) { g.Used, g.Slots = 1, 5 }) // used last
	runs := y.ready(classOf(Selector{Capability: "work", Spread: true}), 3)
	y.scans(runs[2], 3)
	for i, want := range []string{"calm0000", "calm0000", ""} {
		got := y.given(runs[i])
		if i < 2 && got != want || i == 2 && got == "" {
			t.Errorf("task %d is given to %q, want %q", i, got, want)
		}
	}
}

// An agent that is only busy is a candidate: a task waits for it rather than for one that fails.
func TestABreakerStaysOpenWhileOthersAreOnlyBusy(t *testing.T) {
	for _, class := range []string{simpleClass + "work", classOf(Selector{Capability: "work", Version: "1"})} {
		y := boltYard(t)
		open := func(g *lifecycle.Gate) {
			g.Breaker = &lifecycle.Breaker{Last: "xxxxx", Opens: 1, Until: time.Now().Add(time.Hour)}
		}
		busy := func(g *lifecycle.Gate) { g.Held = []lifecycle.Held{{AttemptRef: event.AttemptRef{RunID: "x"}}} }
		y.agents("bad", 3, open)
		y.agents("busy", 1, busy)
		y.agents("other", 100, func(g *lifecycle.Gate) { g.Caps = []string{"else"} })
		run := y.ready(class, 1)[0]
		if y.scans(run, 3); y.given(run) != "" {
			t.Errorf("class %s: given to %q", class, y.given(run))
		}
	}
}

// Time frees an agent twice: its back-off ends, and later its breaker lets a task through.
func TestTheEndOfABackoffArmsTheTimerOfTheBreaker(t *testing.T) {
	t.Parallel()
	now := time.Now()
	g := &lifecycle.Gate{
		Agent: "a", Registered: true, Open: true, Slots: 1, Caps: []string{"work"}, Until: now,
		Breaker: &lifecycle.Breaker{Last: "xxxxx", Opens: 1, Until: now.Add(time.Minute)},
	}
	for _, until := range []time.Time{now, {}} { // a sign of life may have ended the back-off before
		g.Until = until
		lifecycle.FreeOps(&lifecycle.Gate{Agent: "a"}, g, now) // it is listed as it should be
		v := &view{now: now.Add(time.Second), gates: map[string]*slot[*lifecycle.Gate]{"a": {val: g}}, touched: make(map[storage.Key]*group)}
		c := &change{}
		if !v.backoffOver(c, "a") {
			t.Fatal("the timer is removed, and nobody will look again")
		}
		v.seal(c, storage.NewRevisions())
		c.group.close(v.now)
		var armed storage.Score
		for _, op := range c.group.txn.IndexAdd {
			if op.Index == dueIndex && op.Member == "b|a" {
				armed = op.Score
			}
		}
		if armed != micros(g.Breaker.Until) {
			t.Errorf("armed for %d, want %d", armed, micros(g.Breaker.Until))
		}
	}
}

// Tasks for agents that never answer stand in queues of their own: however many there are, others are given out in the same turn as without them.
func TestTasksOfDeadAgentsHoldUpNobody(t *testing.T) {
	t.Parallel()
	y := boltYard(t)
	y.agents("dead", 200, func(g *lifecycle.Gate) { g.Caps = nil })
	var pinned []string
	for i := range 200 {
		pinned = append(pinned, y.ready(fmt.Sprintf("%sdead%04d", namedClass, i), 10)[0])
	}
	for _, run := range pinned {
		if y.scans(run, 20); y.given(run) == "" {
			t.Fatalf("the first task of its agent is not given out: %s", run)
		}
	}
	y.agents("live", 64, func(*lifecycle.Gate) {})
	runs := y.ready(simpleClass+"work", 64)
	if err := y.engine.hintTurn(t.Context(), nil, nil, []string{simpleClass + "work"}, true); err != nil {
		t.Fatal(err)
	}
	for _, run := range runs {
		if y.given(run) == "" {
			t.Errorf("run %s waits", run)
		}
	}
}

func TestPriorityGoesFirst(t *testing.T) {
	t.Parallel()
	y := boltYard(t)
	txn := &storage.Txn{}
	at := time.Now()
	for i, priority := range []int{0, 9, 3} {
		ready := &RunTask{ID: "t", Class: "c:work", Priority: priority, Ready: at.Add(time.Duration(i) * time.Second)}
		(&indexOps{txn: txn}).task(&Run{}, &Run{ID: fmt.Sprint("p", i), State: event.RunRunning}, &RunTask{}, ready)
	}
	y.commit(storage.Put{Key: "x", Data: []byte("{}")}, txn.IndexAdd...)
	entries, err := y.store.Range(t.Context(), readyIndex("c:work"), storage.Cursor{}, storage.MaxScore, 10)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, e := range entries {
		order = append(order, e.Member)
	}
	if got := strings.Join(order, " "); got != "p1|t p2|t p0|t" {
		t.Errorf("order %s", got)
	}
}
