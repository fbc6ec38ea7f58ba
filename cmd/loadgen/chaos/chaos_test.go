package chaos

import (
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/loadgen"
)

func TestMain(m *testing.M) {
	if env.Child() {
		return
	}
	goleak.VerifyTestMain(m)
}

// breakIt runs chaos and wants a clean ledger and every fault carried out.
func breakIt(t *testing.T, cfg Config) {
	t.Helper()
	cfg.Dir = t.ArtifactDir()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *r.Ledger)
	for _, line := range r.Verdict.Lines {
		t.Log(line)
	}
	if !r.Verdict.OK || !r.Ledger.Clean() {
		t.Errorf("the verdict is bad: seed %d", cfg.Seed)
	}
	planned := loadgen.PlanFaults(cfg.Seed, cfg.Time, cfg.Replicas, cfg.Wishes)
	if len(r.Faults) != len(planned) {
		t.Errorf("%d faults, want %d", len(r.Faults), len(planned))
	}
	for _, f := range r.Faults {
		if f.Error != "" {
			t.Errorf("%s of %s: %s", f.Kind, f.Target, f.Error)
		}
	}
	if atLeast := int64(cfg.Time.Seconds() * cfg.Rate); r.Ledger.Acked < atLeast || r.Ledger.Stored != r.Ledger.Acked {
		t.Errorf("%d acknowledged, %d stored, want at least %d", r.Ledger.Acked, r.Ledger.Stored, atLeast)
	}
	for _, name := range []string{opStart, opState, opPost} { // most are answered: what is refused proves nothing
		if o := r.Operations[name]; o.Requests == 0 || o.Failures*2 > o.Requests || o.Latency.P50 <= 0 {
			t.Errorf("%s: %d requests, %d failed, p50 %.1f ms: %v", name, o.Requests, o.Failures, o.Latency.P50, r.Errors)
		}
	}
	if r.Processes[env.Replica(1)].CPUSeconds == 0 || len(r.Series) < int(cfg.Time.Seconds())-1 {
		t.Errorf("processes are %+v, and there are %d samples", r.Processes, len(r.Series))
	}
}

func TestKilledReplicasLoseNothing(t *testing.T) {
	breakIt(t, Config{Time: 5 * time.Second, Replicas: 2, Seed: 3, Rate: 40, Wishes: []loadgen.Wish{
		{Kind: loadgen.FaultKill, Target: "engine", Count: 2}, {Kind: loadgen.FaultCut, Target: env.Redis, Count: 1},
	}})
}

// The runs of all examples end as is written beside them, or for a reason, while replicas and Redis are killed.
func TestExamplesEndAsWrittenUnderFaults(t *testing.T) {
	breakIt(t, Config{Time: 5 * time.Second, Replicas: 2, Seed: 4, Rate: 20, Examples: true, Wishes: []loadgen.Wish{
		{Kind: loadgen.FaultKill, Target: "engine", Count: 2}, {Kind: loadgen.FaultKill, Target: env.Redis, Count: 1},
	}})
}
