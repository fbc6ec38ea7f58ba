package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/opspawn/opscore/cmd/loadgen/audit"
	"github.com/opspawn/opscore/cmd/loadgen/env"
	"github.com/opspawn/opscore/loadgen"
)

// startEnv starts servers for one run and points the configuration at them.
func (a *app) startEnv(ctx context.Context, f *runFlags, cfg *loadgen.Config) (*env.Env, error) {
	fmt.Fprintln(a.stderr, "starting NATS, Redis and Ops-Core")
	e, err := env.Start(ctx, env.Config{Dir: f.out, LegacyRunTimeout: cfg.Scenario.RunsEnd})
	if err != nil {
		return nil, err
	}
	cfg.Target = loadgen.Target{HTTP: e.URLs[0], NATS: e.NATSURL, Key: e.Key}
	cfg.Sample = e.Sample
	return e, nil
}

// runFresh runs a scenario on servers of its own, audits the ledger and judges the run with what their logs say.
func (a *app) runFresh(ctx context.Context, e *env.Env, cfg loadgen.Config) (*loadgen.Result, error) {
	cfg.Journal = loadgen.NewJournal()
	return a.measure(ctx, cfg, func(r *loadgen.Result, evidence *loadgen.Evidence, failed error) (err error) {
		requests := make(map[string]bool)
		if check, ok := errors.AsType[*loadgen.CheckError](failed); ok {
			requests[check.RequestID] = true
		}
		if r != nil {
			r.Processes = e.Processes()
			r.Versions["nats-server"], r.Versions["redis-server"] = moduleVersion("github.com/nats-io/nats-server/v2"), redisVersion(ctx)
			requests = r.RequestIDs()
			// Also after Ctrl-C: what was sent until then is a load like any other.
			r.Ledger, err = audit.Run(context.WithoutCancel(ctx), audit.Target{NATSURL: e.NATSURL, StoreURL: e.StoreURL, RunsEnd: cfg.Scenario.RunsEnd}, cfg.Journal)
		}
		a.addLogs(e, requests, evidence)
		return err
	})
}

// addLogs adds to the evidence what the servers have written about some requests, and their warnings.
func (a *app) addLogs(e *env.Env, requests map[string]bool, evidence *loadgen.Evidence) {
	for _, name := range e.Names() {
		err := readLog(e, name, func(r io.Reader) (err error) {
			if name == env.NATS || name == env.Redis {
				var warnings []string
				warnings, err = loadgen.ReadWarnings(name, r)
				evidence.Warnings = append(evidence.Warnings, warnings...)
				return err
			}
			lines, err := loadgen.ReadLogs(name, r, requests)
			evidence.Logs = append(evidence.Logs, lines...)
			return err
		})
		if err != nil {
			a.log.Warn("a log cannot be read", "process", name, "err", err)
		}
	}
}

func readLog(e *env.Env, name string, read func(io.Reader) error) error {
	f, err := os.Open(e.LogFile(name))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return read(f)
}

// moduleVersion returns the version of a module in this program, empty if it has none.
func moduleVersion(path string) string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path == path {
			return strings.TrimPrefix(dep.Version, "v")
		}
	}
	return ""
}

var redisVersionForm = regexp.MustCompile(`v=(\S+)`)

// redisVersion asks the redis-server on PATH for its version; empty if it does not tell.
func redisVersion(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, "redis-server", "--version").Output()
	if m := redisVersionForm.FindSubmatch(text); err == nil && m != nil {
		return string(m[1])
	}
	return ""
}
