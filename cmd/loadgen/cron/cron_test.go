package cron

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

func TestTicksUnderKills(t *testing.T) {
	r, err := Run(t.Context(), Config{
		Every: time.Second, Time: 6 * time.Second, Replicas: 2, Seed: 3, Struck: func(string) {},
		Wishes: []loadgen.Wish{{Kind: loadgen.FaultKill, Target: "engine", Count: 3}},
		Log:    slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() || r.Ticks < 5 || r.Kills == 0 {
		t.Errorf("%+v", *r)
	}
}

// What is missed, extra or not recorded is bad.
func TestResultIsBad(t *testing.T) {
	good := Result{Ticks: 3, Runs: 3, Recorded: 3}
	if !good.OK() {
		t.Error("a good result is bad")
	}
	for name, change := range map[string]func(*Result){
		"missed":       func(r *Result) { r.Missed, r.Runs = []string{"x"}, 2 },
		"extra":        func(r *Result) { r.Extra, r.Runs = []string{"x"}, 4 },
		"not recorded": func(r *Result) { r.Recorded = 2 },
	} {
		r := good
		change(&r)
		if r.OK() {
			t.Errorf("%s: called good", name)
		}
	}
}
