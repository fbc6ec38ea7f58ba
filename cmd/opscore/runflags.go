package main

import (
	"cmp"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/workflow"
)

// The environment variables that say how long runs last, and are kept.
const (
	envRetention     = "OPSCORE_RETENTION"
	envMaxEnded      = "OPSCORE_MAX_ENDED_RUNS"
	envLegacyTimeout = "OPSCORE_LEGACY_RUN_TIMEOUT"
)

// runFlags are the flags about the life of runs. What they leave open, the environment says.
type runFlags struct {
	retention, legacy time.Duration
	maxEnded          int
}

func (f *runFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.DurationVar(&f.retention, "retention", 0, "remove runs so long after their end, but not before their start is gone from the stream (default: OPSCORE_RETENTION, or 168h)")
	flags.IntVar(&f.maxEnded, "max-ended-runs", 0, "keep so many runs that have ended, the newest (default: OPSCORE_MAX_ENDED_RUNS, or 1000000)")
	flags.DurationVar(&f.legacy, "legacy-run-timeout", 0, "`time` after which runs started over the old API fail (default: OPSCORE_LEGACY_RUN_TIMEOUT, or 1h)")
}

// runs puts flags and environment together.
func (a *app) runs(f runFlags) (server.Runs, error) {
	r := server.Runs{Retention: f.retention, MaxEnded: f.maxEnded, LegacyTimeout: f.legacy}
	for env, d := range map[string]*time.Duration{envRetention: &r.Retention, envLegacyTimeout: &r.LegacyTimeout} {
		text := a.getenv(env)
		if *d != 0 || text == "" {
			continue
		}
		var err error
		if *d, err = time.ParseDuration(text); err != nil {
			return r, usagef("%s: %q is not a time like 90m or 168h", env, text)
		}
	}
	if text := a.getenv(envMaxEnded); text != "" && r.MaxEnded == 0 {
		var err error
		if r.MaxEnded, err = strconv.Atoi(text); err != nil {
			return r, usagef("%s: %q is not a number", envMaxEnded, text)
		}
	}
	r.Retention, r.LegacyTimeout = cmp.Or(r.Retention, workflow.DefaultRetention), cmp.Or(r.LegacyTimeout, workflow.LegacyTimeout)
	r.MaxEnded = cmp.Or(r.MaxEnded, workflow.DefaultMaxEnded)
	if r.Retention < 0 || r.LegacyTimeout < time.Millisecond || r.MaxEnded < 0 {
		return r, usagef("--retention, --max-ended-runs and --legacy-run-timeout must be above 0")
	}
	return r, nil
}
