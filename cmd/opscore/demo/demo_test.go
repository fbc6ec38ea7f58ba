package demo_test

import (
	"log/slog"
	"testing"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/demo"
	"github.com/opspawn/opscore/storage/storagetest"
)

// TestDemo runs what a newcomer runs first, on each store.
func TestDemo(t *testing.T) {
	for _, c := range []struct {
		name  string
		redis func(t *testing.T) string
	}{
		{"file", func(*testing.T) string { return "" }},
		{"redis", func(t *testing.T) string { return storagetest.StartRedis(t).URL() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			report, err := demo.Run(t.Context(), demo.Config{RedisURL: c.redis(t), Runs: 50, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s", event.MustMarshal(report))
			if !report.OK() || report.Runs.Completed != 50 || report.Tasks != 150 {
				t.Errorf("the demo is not what it should be: %s", event.MustMarshal(report))
			}
		})
	}
}
