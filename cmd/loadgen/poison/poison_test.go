package poison

import (
	"log/slog"
	"testing"

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

// Every kind of poison leaves one letter with its reason, and harms no good message, on two replicas.
func TestPoisonHarmsNothing(t *testing.T) {
	r, err := Run(t.Context(), Config{
		Good: 4000, Poison: 120, Replicas: 2, Seed: 7, Progress: func(int, int) {},
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() || r.Good != 4000 || r.Poison != 120 || len(r.Kinds) != len(kinds) {
		t.Errorf("%+v", *r)
	}
}

func TestResultIsBad(t *testing.T) {
	good := Result{Good: 9, Poison: 3, Letters: 3, Ledger: loadgen.Ledger{Acked: 9, Stored: 9}}
	if !good.OK() {
		t.Error("a good result is bad")
	}
	for name, change := range map[string]func(*Result){
		"missing":        func(r *Result) { r.Missing, r.Letters = []string{"x"}, 2 },
		"doubled":        func(r *Result) { r.Doubled, r.Letters = []string{"x"}, 4 },
		"one too many":   func(r *Result) { r.Letters = 4 },
		"wrong":          func(r *Result) { r.Wrong = []string{"x"} },
		"foreign":        func(r *Result) { r.Foreign = []string{"x"} },
		"a good is lost": func(r *Result) { r.Ledger.Lost = 1 },
		"nothing is known": func(r *Result) {
			r.Ledger = loadgen.Ledger{}
		},
	} {
		r := good
		change(&r)
		if r.OK() {
			t.Errorf("%s: called good", name)
		}
	}
}
