package workflow_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow"
)

// grain is by how much something may come after its time: the timers are looked for ten times a second.
const grain = 300 * time.Millisecond

// diary notes when attempts begin.
type diary struct {
	mu    sync.Mutex
	begun map[string][]time.Time // by run
}

func (d *diary) note(task *agent.Task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begun[task.RunID] = append(d.begun[task.RunID], time.Now())
}

// clockedAgent does what the clocks of tasks are about: it fails, says nothing, or takes its time.
func (d *diary) clockedAgent(ctx context.Context, task *agent.Task) (any, error) {
	d.note(task)
	var in struct{ Do string }
	if err := task.Bind(&in); err != nil {
		return nil, err
	}
	switch in.Do {
	case "fail":
		return nil, agent.Fail("broke", "no")
	case "sleep":
		<-ctx.Done()
		return nil, context.Cause(ctx)
	case "toil":
		for range 10 {
			select {
			case <-time.After(time.Minute):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			if err := task.Progress(ctx, agent.Progress{Message: "still at it"}); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// Minutes of waits, retries, leases, pauses and people, by the clock of a bubble: each comes at its time, and not a second later.
func TestClocksKeepTheirTime(t *testing.T) {
	t.Parallel()
	bustest.Bubble(t, func(t *testing.T) {
		b := setup(t)
		d := &diary{begun: make(map[string][]time.Time)}
		ctx, stop := context.WithCancel(t.Context())
		a, err := agent.New(agent.Config{
			Conn: b.conn.NC(), ID: "a", Version: "1", Capabilities: []string{"c"}, Slots: 10, Log: slog.New(slog.DiscardHandler),
		}, d.clockedAgent)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		defer func() { stop(); <-ended }()
		<-a.Ready()

		begin := time.Now()
		after := func(id string, want time.Duration, state event.RunState) {
			t.Helper()
			r, err := b.runs.Run(t.Context(), id)
			if err != nil || r.State != state || r.EndedAt == nil {
				t.Errorf("%s is not %s: %v, %s", id, state, err, event.MustMarshal(r))
				return
			}
			if took := r.EndedAt.Sub(begin); took < want || took > want+grain {
				t.Errorf("%s took %v, want %v", id, took, want)
			}
		}
		for id, tasks := range map[string]string{
			"retries": `"retry":{"attempts":5,"initialSeconds":1,"factor":2,"maxSeconds":10,"jitter":"none"},"tasks":[
				{"taskId":"a","select":{"capability":"c"},"parameters":{"do":"fail"}}]`,
			"silence":  `"retry":{"attempts":0},"tasks":[{"taskId":"a","agentCapability":"c","parameters":{"do":"sleep"},"timeoutSeconds":120}]`,
			"toil":     `"tasks":[{"taskId":"a","agentCapability":"c","parameters":{"do":"toil"},"timeoutSeconds":90}]`,
			"overtime": `"retry":{"attempts":0},"tasks":[{"taskId":"a","agentCapability":"c","parameters":{"do":"toil"},"timeouts":{"runSeconds":200,"progressSeconds":90}}]`,
			"wait":     `"tasks":[{"taskId":"a","wait":{"seconds":420}}]`,
			"paused":   `"tasks":[{"taskId":"a","wait":{"seconds":60}}]`,
			"asks":     `"runTimeoutSeconds":60,"tasks":[{"taskId":"a","approval":{"timeoutSeconds":300,"onTimeout":"approve"}},{"taskId":"b","dependsOn":["a"],"wait":{"seconds":30}}]`,
			"over":     `"runTimeoutSeconds":90,"tasks":[{"taskId":"a","wait":{"seconds":400}}]`,
			"nobody":   `"tasks":[{"taskId":"a","select":{"capability":"none"},"timeouts":{"queueSeconds":150}}]`,
		} {
			b.call(t, event.KindWorkflowApply, id, event.Raw(`{"id":"`+id+`",`+tasks+`}`))
			b.call(t, event.KindRunStart, id, &event.RunStart{WorkflowID: id})
		}
		<-time.After(20 * time.Second)
		b.call(t, event.KindRunPause, "paused", &event.RunCommand{})
		<-time.After(300 * time.Second)
		b.call(t, event.KindRunResume, "paused", &event.RunCommand{})
		<-time.After(300 * time.Second)

		after("retries", 25*time.Second, event.RunFailed)
		after("silence", 120*time.Second, event.RunFailed)
		after("toil", 600*time.Second, event.RunCompleted)
		after("overtime", 200*time.Second, event.RunFailed)
		after("wait", 420*time.Second, event.RunCompleted)
		after("paused", 360*time.Second, event.RunCompleted)
		after("asks", 330*time.Second, event.RunCompleted)
		after("over", 90*time.Second, event.RunFailed)
		after("nobody", 150*time.Second, event.RunFailed)
		d.mu.Lock()
		defer d.mu.Unlock()
		begun := d.begun["retries"]
		for i, wait := range []time.Duration{1, 2, 4, 8, 10} {
			if len(begun) != 6 {
				t.Fatalf("%d attempts", len(begun))
			}
			if got := begun[i+1].Sub(begun[i]); got < wait*time.Second || got > wait*time.Second+grain {
				t.Errorf("the %d. retry came after %v, want %v s", i+1, got, wait)
			}
		}
		if len(d.begun["toil"]) != 1 {
			t.Errorf("what made progress was begun %d times", len(d.begun["toil"]))
		}
	})
}

// The ticks of five minutes while one of two replicas dies each minute: each at its time, and once.
func TestTicksKeepTheirTime(t *testing.T) {
	t.Parallel()
	bustest.Bubble(t, func(t *testing.T) {
		server, store := bustest.Server(t), boltStore(t)
		var ends [2]func()
		start := func(i int) {
			conn := bustest.Dial(t, server)
			_, stop := replica(t, conn, store, nil)
			ends[i] = func() {
				conn.NC().Close() // it says nothing more
				_ = stop()
			}
		}
		start(0)
		start(1)
		o := bundle{conn: bustest.Dial(t, server), store: store, runs: workflow.NewQueries(store)}
		o.call(t, event.KindWorkflowApply, "w", event.Raw(`{"id":"w","tasks":[{"taskId":"a","wait":{"seconds":1}}]}`))
		begin := time.Now()
		o.call(t, event.KindScheduleApply, "s", &event.ScheduleSpec{WorkflowID: "w", EverySeconds: 10, Overlap: event.OverlapAllow})
		for minute := range 5 {
			<-time.After(time.Minute)
			ends[minute%2]()
			start(minute % 2)
		}
		<-time.After(5 * time.Second)
		ends[0]()
		ends[1]()
		var created []time.Time
		for _, r := range o.ticked(t) {
			created = append(created, r.CreatedAt)
		}
		slices.SortFunc(created, time.Time.Compare)
		if len(created) != 30 {
			t.Fatalf("%d runs, want 30: %v", len(created), created)
		}
		for i, at := range created {
			if want := begin.Add(time.Duration(i+1) * 10 * time.Second); at.Before(want) || at.After(want.Add(grain)) {
				t.Errorf("tick %d was kept at %s, want %s", i+1, at, want)
			}
		}
	})
}

// An agent of the SDK beats for ten minutes and is called nothing but live. Then it falls silent: it is suspect and lost when as many heartbeats were missed as is
// written, and what it held goes to another.
func TestHeartbeatsKeepTheirTime(t *testing.T) {
	t.Parallel()
	const every = 20 * time.Second
	bustest.Bubble(t, func(t *testing.T) {
		server := bustest.Server(t)
		b, stop := replica(t, bustest.Dial(t, server), boltStore(t), nil)
		defer func() { _ = stop() }()
		b.judge(t)
		var mu sync.Mutex
		var beats []time.Time
		heard := func(*nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			beats = append(beats, time.Now())
		}
		if _, err := b.conn.NC().Subscribe(event.HeartbeatSubject("doomed"), heard); err != nil {
			t.Fatal(err)
		}
		b.call(t, event.KindWorkflowApply, "w", event.Raw(`{"id":"w","retry":{"attempts":0},"tasks":[{"taskId":"a","agentCapability":"c","timeoutSeconds":7200}]}`))
		conn := bustest.Dial(t, server)
		serve := func(id string, conn *bus.Conn, does agent.Handler) {
			a, err := agent.New(agent.Config{
				Conn: conn.NC(), ID: id, Version: "1", Capabilities: []string{"c"}, Heartbeat: every, DrainTimeout: time.Second, Log: slog.New(slog.DiscardHandler),
			}, does)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan struct{})
			go func() { defer close(ended); _ = a.Run(ctx) }()
			t.Cleanup(func() { cancel(); <-ended })
			<-a.Ready()
		}
		serve("doomed", conn, func(ctx context.Context, _ *agent.Task) (any, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})
		b.call(t, event.KindRunStart, "r", &event.RunStart{WorkflowID: "w"})
		liveness := func() event.Liveness {
			a, err := b.agents.Get(t.Context(), "doomed")
			if err != nil {
				t.Fatal(err)
			}
			return a.Liveness
		}
		for range 120 {
			<-time.After(5 * time.Second)
			if l := liveness(); l != event.LivenessLive && l != event.LivenessUnwatched {
				t.Fatalf("it beats, and is %s", l)
			}
		}
		conn.NC().Close()
		mu.Lock()
		last := beats[len(beats)-1]
		for i := range len(beats) - 1 {
			if gap := beats[i+1].Sub(beats[i]); gap > every+time.Millisecond || gap < every*3/4 {
				t.Errorf("heartbeat %d came %v after the one before", i+1, gap)
			}
		}
		mu.Unlock()
		serve("spare", b.conn, func(context.Context, *agent.Task) (any, error) { return "mine", nil })
		for _, want := range []struct {
			is     event.Liveness
			missed time.Duration
		}{{event.LivenessSuspect, 2}, {event.LivenessLost, 3}} {
			for liveness() != want.is && time.Since(last) < 5*every {
				<-time.After(100 * time.Millisecond)
			}
			silence := time.Since(last)
			if due := every*want.missed + every/4; silence < due || silence > due+2*time.Second {
				t.Errorf("it is %s after %v of silence, want %v", want.is, silence, due)
			}
		}
		if r := b.ended(t, "r"); r.State != event.RunCompleted || r.Tasks[0].AgentID != "spare" || r.Tasks[0].Attempt != 2 || time.Since(last) > 4*every {
			t.Errorf("after %v the run is %s", time.Since(last), event.MustMarshal(r))
		}
	})
}
