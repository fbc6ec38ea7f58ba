package vigil

import (
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opspawn/opscore/cmd/loadgen/env"
)

func TestMain(m *testing.M) {
	if env.Child() {
		return
	}
	goleak.VerifyTestMain(m)
}

func config(t *testing.T) Config {
	return Config{
		Agents: 20, Replicas: 2, Dir: t.ArtifactDir(),
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// check wants that nothing befell agents that lived. How long things took is for the command to judge, on a machine that does nothing else.
func check(t *testing.T, r *Result, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *r)
	if r.Lost+r.Astray > 0 || !r.Ledger.Clean() || r.Ledger.Acked < 20 {
		t.Errorf("%d falsely lost, %d falsely moved, ledger %+v: %v", r.Lost, r.Astray, *r.Ledger, r.Verdict.Lines)
	}
}

func TestWorkOfKilledAgentsIsMoved(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Kill = 5
	r, err := Kill(t.Context(), cfg)
	check(t, r, err)
	if r.Out.Count != cfg.Kill || r.Moved.Count == 0 || r.Moved.P50 <= r.Out.P50 {
		t.Errorf("out of rotation: %+v, moved: %+v", r.Out, r.Moved)
	}
}

func TestOutageIsNoSilence(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Target, cfg.How, cfg.For = env.NATS, HowKill, 5*time.Second
	r, err := Outage(t.Context(), cfg)
	check(t, r, err)
	if r.Resumed == nil || r.Resumed.Commit <= 0 || r.Resumed.Dispatch <= 0 {
		t.Fatalf("work went on after %+v", r.Resumed)
	}
	inTime := max(r.Resumed.Ready, r.Resumed.Commit, r.Resumed.Dispatch) <= MaxResume.Seconds()
	if !r.Verdict.OK && inTime {
		t.Errorf("the verdict is bad: %v", r.Verdict.Lines)
	}
}

func TestTimesOf(t *testing.T) {
	t.Parallel()
	all := make([]time.Duration, 0, 50)
	for i := range 50 {
		all = append(all, time.Duration(50-i)*time.Second)
	}
	if got, want := timesOf(all), (Times{Count: 50, P50: 25, P99: 50, Max: 50}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := timesOf(nil); got != (Times{}) {
		t.Errorf("of nothing: %+v", got)
	}
}
