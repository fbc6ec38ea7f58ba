package workflow_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow"
)

// ticked returns the ids of the runs that the store lists, and fails the test when one is there twice.
func (b *bundle) ticked(t *testing.T) map[string]event.Run {
	t.Helper()
	page, err := b.runs.Runs(t.Context(), "", 500)
	if err != nil {
		t.Fatal(err)
	}
	runs := make(map[string]event.Run)
	for _, r := range page.Items {
		if _, twice := runs[r.RunID]; twice {
			t.Errorf("run %s is listed twice", r.RunID)
		}
		runs[r.RunID] = r
	}
	return runs
}

// The replica that holds a tick dies after it has sent the start and before the tick is called judged, and with it its connection: the other one sends the same
// again, and goes on. No tick is missed, none is doubled.
func TestNoTickIsMissedOrDoubledWhenAReplicaDies(t *testing.T) {
	t.Parallel()
	server, store := bustest.Server(t), boltStore(t)
	doomed := bustest.Dial(t, server)
	died := make(chan struct{})
	var once sync.Once
	_, stopDoomed := replica(t, doomed, store, func(point string) {
		if point == "schedule-after-start" {
			once.Do(func() {
				doomed.NC().Close()
				close(died)
			})
			<-t.Context().Done() // it does nothing any more
		}
	})
	observer := bundle{conn: bustest.Dial(t, server), store: store, runs: workflow.NewQueries(store)}
	observer.call(t, event.KindWorkflowApply, "w", sequence("w", "c"))
	observer.call(t, event.KindScheduleApply, "each", &event.ScheduleSpec{WorkflowID: "w", EverySeconds: 1, Overlap: event.OverlapAllow})
	<-died
	heir, stop := replica(t, bustest.Dial(t, server), store, nil)
	heir.serve(t, "any", []string{"c"}, func(context.Context, *agent.Task) (any, error) { return nil, nil })
	var s *event.Schedule
	bustest.Eventually(t, "four ticks are judged", func() bool {
		var err error
		if s, err = heir.runs.Schedule(t.Context(), "each"); err != nil {
			t.Fatal(err)
		}
		return s.Started >= 4
	})
	heir.call(t, event.KindSchedulePause, "each", struct{}{})
	if s, _ = heir.runs.Schedule(t.Context(), "each"); !s.Paused || s.NextAt != nil || s.Missed+s.Skipped != 0 {
		t.Errorf("paused it shows %s", event.MustMarshal(s))
	}
	runs := make(map[string]event.Run)
	bustest.Eventually(t, "all runs are listed", func() bool {
		runs = heir.ticked(t)
		return len(runs) >= int(s.Started)
	})
	if len(runs) != int(s.Started) {
		t.Errorf("%d runs of %d ticks", len(runs), s.Started)
	}
	for tick := *s.LastAt; tick.After(s.LastAt.Add(-time.Duration(s.Started) * time.Second)); tick = tick.Add(-time.Second) {
		id := fmt.Sprintf("each-%s", tick.Format("20060102T150405Z"))
		if r := heir.ended(t, id); r.State != event.RunCompleted || r.Labels["opscore.schedule"] != "each" {
			t.Errorf("the run of %v is %s", tick, event.MustMarshal(r))
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	go func() { _ = stopDoomed() }()
}

// A schedule that was triggered starts one run, however often the command comes; deleted, it is unknown, and its timer gone.
func TestTriggerAndDelete(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.call(t, event.KindWorkflowApply, "w", sequence("w", "c"))
	b.call(t, event.KindScheduleApply, "rare", &event.ScheduleSpec{WorkflowID: "w", Cron: "0 0 1 1 *", TimeZone: "Asia/Tokyo", Input: event.Raw(`{"a":1}`)})
	o := b.call(t, event.KindScheduleTrigger, "rare", struct{}{})
	r, err := b.runs.Run(t.Context(), o.RunID)
	if err != nil || string(r.Input) != `{"a":1}` {
		t.Fatalf("the run is %s, %v", event.MustMarshal(r), err)
	}
	b.call(t, event.KindScheduleDelete, "rare", struct{}{})
	if _, err := b.runs.Schedule(t.Context(), "rare"); err == nil || err.(*event.Error).Code != event.CodeUnknownSchedule {
		t.Errorf("after it was deleted: %v", err)
	}
	if page, err := b.runs.Schedules(t.Context(), "", 10); err != nil || len(page.Items) != 0 {
		t.Errorf("it is still listed: %v %v", page, err)
	}
}
