package audit

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/storage"
	"github.com/opspawn/opscore/storage/storagetest"
)

func TestMain(m *testing.M) {
	server.Drivers = append(server.Drivers, faultyDriver(func(s storage.Store) storage.Store {
		present.Store = s
		return present
	}))
	goleak.VerifyTestMain(m)
}

// present is the faulty store of the server that runs now.
var present *faulty

// world is a real server over real stores, one of which is faulty.
type world struct {
	t       *testing.T
	redis   *storagetest.RedisServer
	nats    *bus.Embedded
	conn    *bus.Conn
	journal *loadgen.Journal
}

func newWorld(t *testing.T, do fault, seed uint64) *world {
	t.Helper()
	w := &world{t: t, redis: storagetest.StartRedis(t), nats: bustest.ListeningServer(t), journal: loadgen.NewJournal()}
	present = &faulty{do: do, victim: rand.New(rand.NewPCG(seed, 0)).IntN(faultEvery), revs: storage.NewRevisions()}
	w.conn = bustest.DialURL(t, w.nats.URL())
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- server.Run(ctx, server.Config{
			NATSURL: w.nats.URL(), StoreURL: "faulty://" + w.redis.Addr() + "/0", Roles: []server.Role{server.RoleLifecycle, server.RoleWorkflow},
			Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})), Ready: func(server.Addresses) { close(ready) },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return w
}

// report has many agents register and report, all at once and each in its order.
func (w *world) report(agents, reports int) {
	w.t.Helper()
	for round := range reports + 1 {
		var all sync.WaitGroup
		for i := range agents {
			id := fmt.Sprintf("agent-%03d", i)
			m := nats.NewMsg(event.AgentSubject(event.VerbState, id))
			kind := loadgen.KindState
			if round == 0 {
				kind, m.Subject = loadgen.KindRegister, event.AgentSubject(event.VerbRegister, id)
			}
			n := w.journal.Send(kind, id)
			m.Data = event.MustMarshal(&event.State{State: "idle", Details: event.Raw(fmt.Sprintf(`{"n":%d}`, n))})
			if round == 0 {
				m.Data = event.MustMarshal(&event.Register{AgentName: id, Version: "1", Capabilities: []string{"c"}, Metadata: event.Raw(fmt.Sprintf(`{"n":%d}`, n))})
			}
			all.Add(1)
			err := w.conn.PublishAsync(m, func(at bus.Ack, err error) {
				defer all.Done()
				if err != nil {
					w.t.Error(err)
					return
				}
				w.journal.Ack(n, loadgen.Position{Stream: at.Stream, Seq: at.Seq})
			})
			if err != nil {
				w.t.Fatal(err)
			}
		}
		all.Wait()
		bustest.Eventually(w.t, "the round has been taken in", func() bool { // or a whole agent would be folded into one write
			v, err := (&reader{conn: w.conn, store: present.Store, runs: map[string]*seenRun{}, due: map[string]storage.Score{}, floors: map[string]uint64{}}).look(w.t.Context())
			return err == nil && v.pending == 0
		})
	}
}

func (w *world) audit() *loadgen.Ledger {
	w.t.Helper()
	if err := present.release(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	ledger, err := Run(w.t.Context(), Target{NATSURL: w.nats.URL(), StoreURL: w.redis.URL()}, w.journal)
	if err != nil {
		w.t.Fatal(err)
	}
	return ledger
}

const agents, reports = 340, 29 // more than faultEvery writes, and fewer than a history holds of each agent

func TestCleanRunHasACleanLedger(t *testing.T) {
	w := newWorld(t, faultNone, 1)
	w.report(agents, reports)
	ledger := w.audit()
	if !ledger.Clean() || ledger.Acked != agents*(reports+1) || ledger.Stored != ledger.Acked {
		t.Errorf("ledger is %+v", ledger)
	}
}

// TestOneWrongWriteInTenThousandIsCaught has a driver answer "done" to a write that it does not do, does twice or does too late.
func TestOneWrongWriteInTenThousandIsCaught(t *testing.T) {
	for do, kind := range map[fault]string{faultDrop: "lost", faultDouble: "doubled", faultReorder: "outOfOrder"} {
		for _, seed := range seeds {
			t.Run(fmt.Sprintf("%s/%d", do, seed), func(t *testing.T) {
				w := newWorld(t, do, seed)
				w.report(agents, reports)
				ledger := w.audit()
				if present.hit == "" {
					t.Fatalf("no write of %d was the victim", present.count)
				}
				t.Logf("write %d, of %s: %+v", present.victim, present.hit, *ledger)
				if len(ledger.Findings) == 0 || ledger.Clean() {
					t.Fatalf("a write of %s was done wrongly, and the ledger is clean", present.hit)
				}
				if ledger.Findings[0].Kind != kind {
					t.Errorf("found %+v, want it to be %s", ledger.Findings[0], kind)
				}
			})
		}
	}
}

// TestRunsThatWait tells a run that waits for an agent from one that is stuck, and a start from one that was never taken in.
func TestRunsThatWait(t *testing.T) {
	w := newWorld(t, faultNone, 1)
	m := nats.NewMsg(event.CommandSubject(event.KindWorkflowApply, "one"))
	m.Data = []byte(`{"id":"one","tasks":[{"taskId":"t1","agentCapability":"nobody"}]}`)
	if outcome, _, err := w.conn.Call(t.Context(), m); err != nil || !outcome.OK {
		t.Fatalf("apply: %v %v", outcome.Error, err)
	}
	run := uuid.NewString()
	n := w.journal.Send(loadgen.KindStart, run)
	m = nats.NewMsg(event.CommandSubject(event.KindRunStart, run))
	m.Data = event.MustMarshal(&event.RunStart{WorkflowID: "one", Input: event.Raw(fmt.Sprintf(`{"n":%d}`, n))})
	ack, err := w.conn.Publish(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	w.journal.Ack(n, loadgen.Position{Stream: ack.Stream, Seq: ack.Seq})
	target := Target{NATSURL: w.nats.URL(), StoreURL: w.redis.URL()}
	found, err := Read(t.Context(), target, w.journal)
	if err != nil {
		t.Fatal(err)
	}
	if f := found.Runs[run]; f == nil || f.N != n || !f.Due || f.State != event.RunRunning || f.Waits == "" {
		t.Fatalf("the run was found as %+v", f)
	}
	if ledger := loadgen.Audit(w.journal, found); !ledger.Clean() || ledger.Stored != 1 {
		t.Errorf("ledger is %+v", ledger)
	}
	w.strike(run)
	ledger, err := Run(t.Context(), target, w.journal)
	if err != nil || ledger.Stuck != 1 {
		t.Errorf("with its queue entry gone, the ledger is %+v, %v", ledger, err)
	}
}

// strike removes a run from every queue, as a driver that loses index entries would.
func (w *world) strike(run string) {
	w.t.Helper()
	var classes []string
	r := &reader{store: present.Store}
	if err := r.each(w.t.Context(), classIndex, func(e storage.Entry) { classes = append(classes, e.Member) }); err != nil {
		w.t.Fatal(err)
	}
	struck := 0
	for _, class := range classes {
		entries, err := present.Range(w.t.Context(), readyIndex(class), storage.Cursor{}, storage.MaxScore, 10)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range entries {
			if err := present.Store.Commit(w.t.Context(), storage.Txn{
				IndexRemove: []storage.IndexOp{{Index: readyIndex(class), Member: e.Member, Score: e.Score}},
			})[0]; err != nil {
				w.t.Fatal(err)
			}
			struck++
		}
	}
	if struck != 1 {
		w.t.Fatalf("%d entries of run %s struck", struck, run)
	}
}
