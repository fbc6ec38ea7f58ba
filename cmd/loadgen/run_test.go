package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/cmd/opscore/server/servertest"
	"github.com/opspawn/opscore/loadgen"
)

// program runs the program with an environment and returns its exit code and what it wrote.
func program(t *testing.T, environment map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, func(k string) string { return environment[k] }, &out, &errs)
	return code, out.String(), errs.String()
}

// result runs a scenario that must be good and returns its result.
func result(t *testing.T, environment map[string]string, args ...string) *loadgen.Result {
	t.Helper()
	code, stdout, stderr := program(t, environment, append([]string{"run", "-o", "json"}, args...)...)
	if code != exitOK {
		t.Fatalf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
	r := new(loadgen.Result)
	if err := json.Unmarshal([]byte(stdout), r); err != nil {
		t.Fatalf("stdout is not one JSON object: %v\n%s", err, stdout)
	}
	return r
}

func TestScenariosAgainstARealServer(t *testing.T) {
	at := servertest.Start(t, server.Config{Key: "the-key"})
	environment := map[string]string{envURL: "http://" + at.HTTP, envNATS: at.NATS, envKey: "the-key"}
	for _, c := range []struct {
		args []string
		want map[string]int64 // operations, and how often at least
	}{
		{[]string{"scenario-1", "-u", "40", "-t", "8s"}, map[string]int64{"POST register": 40, "GET state": 40, "POST state": 10}},
		{[]string{"scenario-3", "-u", "60", "-t", "4"}, map[string]int64{"POST register": 60, "GET state": 1, "POST state": 30, "POST workflow": 1}},
		{[]string{"scenario-3", "-u", "60", "-t", "4s", "--transport", "nats"}, map[string]int64{"PUB register": 60, "ASK state": 1, "PUB state": 30}},
		{[]string{"dispatch", "-t", "2s", "--rate", "50"}, map[string]int64{"POST run": 95}},
		{[]string{"dispatch", "-t", "2s", "--rate", "50", "--transport", "nats"}, map[string]int64{"CALL run": 95}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			r := result(t, environment, append(c.args, "--seed", "3")...)
			if r.Failures != 0 || r.Seed != 3 || len(r.Series) < 2 || r.RPS <= 0 || r.P99Ms <= 0 || !r.Verdict.OK {
				t.Errorf("%d failures %+v, seed %d, %d points, verdict %+v", r.Failures, r.Errors, r.Seed, len(r.Series), r.Verdict)
			}
			for name, least := range c.want {
				if n := r.Operations[name].Requests; n < least {
					t.Errorf("%d times %s, want at least %d", n, name, least)
				}
			}
			if c.args[0] == "dispatch" && r.Spans["start → agent"].P50 <= 0 {
				t.Errorf("the times from start to agent are missing: %v", r.Spans)
			}
		})
	}
}

func TestExitCodesOfRun(t *testing.T) {
	at := servertest.Start(t, server.Config{Key: "the-key"})
	good := map[string]string{envURL: "http://" + at.HTTP, envKey: "the-key"}
	file := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(file, []byte("name: x\nusers: 1\nrunTime: 1s\ntasks:\n  - op: pst\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		environment map[string]string
		args        []string
		code        int
		says        string // on stderr
	}{
		{"nobody listens", map[string]string{}, []string{"scenario-0", "-H", "http://127.0.0.1:1"}, exitUnreachable, "not running"},
		{"wrong key", map[string]string{envURL: good[envURL], envKey: "x"}, []string{"scenario-0"}, exitBad, "401"},
		{"threshold", good, []string{"scenario-0", "-u", "2", "-t", "1", "--threshold", "p(50)<0.0001"}, exitThreshold, "p(50)<0.0001"},
		{"threshold of nothing", good, []string{"scenario-0", "--threshold", "PUT x:avg<1"}, exitUsage, "POST register, POST state"},
		{"wrong threshold", good, []string{"scenario-0", "--threshold", "p99<1"}, exitUsage, "p(99)<20"},
		{"wrong file", good, []string{file}, exitUsage, "mine.yaml:5:9: there is no op"},
		{"no such scenario", good, []string{"scenario-9"}, exitUsage, "loadgen scenarios"},
		{"no scenario", good, nil, exitUsage, "needs one scenario"},
		{"agents without NATS", good, []string{"dispatch"}, exitUsage, "NATS URL"},
		{"wrong URL", good, []string{"scenario-0", "-H", "localhost:8000"}, exitUsage, "http://127.0.0.1:8000"},
		{"unknown flag", good, []string{"scenario-0", "--usrs", "3"}, exitUsage, "--help"},
		{"wrong time", good, []string{"scenario-0", "-t", "soon"}, exitUsage, "1h30m"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := program(t, c.environment, append([]string{"run"}, c.args...)...)
			if code != c.code || !strings.Contains(stderr, c.says) {
				t.Errorf("exit code %d, want %d, with %q on stderr:\n%s", code, c.code, c.says, stderr)
			}
			if strings.Contains(stdout, "panic") || c.code == exitUsage && stdout != "" {
				t.Errorf("stdout holds %s", stdout)
			}
		})
	}
}

func TestOutLeavesEverythingInAFolder(t *testing.T) {
	at := servertest.Start(t, server.Config{Key: "the-key"})
	dir := filepath.Join(t.TempDir(), "out")
	environment := map[string]string{envURL: "http://" + at.HTTP, envKey: "the-key"}
	code, stdout, stderr := program(t, environment, "run", "scenario-0", "-u", "3", "-t", "2", "--out", dir)
	if code != exitOK || !strings.Contains(stdout, "POST state") || !strings.Contains(stderr, " users ") {
		t.Fatalf("exit code %d\nstdout: %s\nstderr: %s", code, stdout, stderr)
	}
	for name, want := range map[string]string{
		"report.html": "<html", "result.json": `"scenario": "scenario-0"`, "load_stats.csv": "POST,state,",
		"load_stats_history.csv": ",Aggregated,", "load_failures.csv": "Method,Name", "load_exceptions.csv": "Count,Message",
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, want %s in it", name, err, want)
		}
	}
}

func TestAPrintedScenarioRuns(t *testing.T) {
	at := servertest.Start(t, server.Config{Key: "the-key"})
	code, text, _ := program(t, nil, "scenarios", "scenario-0")
	if code != exitOK {
		t.Fatal(code)
	}
	file := filepath.Join(t.TempDir(), "copy.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(text, "name: scenario-0", "name: mine", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	r := result(t, map[string]string{envURL: "http://" + at.HTTP, envKey: "the-key"}, file, "--time-scale", "60", "-t", "2")
	if r.Scenario != "mine" || r.PeakUsers != 5 {
		t.Errorf("scenario %q with %d users, want mine with 5 after a ramp of a second", r.Scenario, r.PeakUsers)
	}
}

func TestFlagsChangeAScenario(t *testing.T) {
	s, _ := loadgen.Builtin("scenario-1")
	for _, c := range []struct {
		flags runFlags
		users int
		time  string
	}{
		{runFlags{timeScale: 1}, 500, "20m0s"},
		{runFlags{timeScale: 10}, 500, "15m30s"},
		{runFlags{timeScale: 1, users: 50}, 50, "20m0s"},
		{runFlags{timeScale: 2, users: 50, spawnRate: 1, runTime: 0}, 50, "19m35s"},
		{runFlags{timeScale: 10, runTime: 90e9}, 500, "1m30s"},
	} {
		got, err := c.flags.apply(s)
		if err != nil || got.Peak() != c.users || got.Duration().String() != c.time {
			t.Errorf("%+v give %d users for %v, %v; want %d for %s", c.flags, got.Peak(), got.Duration(), err, c.users, c.time)
		}
	}
	if s.Peak() != 500 || s.Duration().String() != "20m0s" {
		t.Error("the scenario itself was changed")
	}
}

func TestTheKeyIsNotKept(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"run", "x", "--api-key", "secret", "-u", "1"}, {"run", "--api-key=secret"}, {"run", "--api-key"}} {
		a := &app{args: args}
		if shown := strings.Join(a.shownArgs(), " "); strings.Contains(shown, "secret") || len(a.shownArgs()) != len(args) {
			t.Errorf("%q is kept as %q", args, shown)
		}
		if args[len(args)-1] == "…" {
			t.Error("the arguments themselves were changed")
		}
	}
}
