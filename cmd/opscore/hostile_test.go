package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/bustest"
)

// maxResident is what a server may hold, in MiB, whatever it is sent.
const maxResident = 400

// A server that is sent definitions made to cost much refuses each, stays below its memory, and goes on.
func TestHostileDefinitionsDoNotHarmAServer(t *testing.T) {
	t.Parallel()
	url, pid := serverProcess(t)
	p := &program{t: t, env: map[string]string{envServer: url}}
	put := func(body string) int { return status(t, "PUT", url+"/api/v1/workflows/d", "", body) }
	list := func(n int, one func(i int) string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = one(i)
		}
		return `{"id":"d","tasks":[` + strings.Join(all, ",") + `]}`
	}
	for name, body := range map[string]string{
		"10 MB":         `{"id":"d","tasks":[],"x":"` + strings.Repeat("x", 10<<20) + `"}`,
		"20,000 deep":   `{"id":"d","tasks":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}",
		"200,000 tasks": `{"id":"d","tasks":[` + strings.Repeat("{},", 199_999) + "{}]}",
		"9,000 expressions": list(9000, func(i int) string {
			return fmt.Sprintf(`{"taskId":"t%d","agentId":"x","when":"input.a + %d > 1"}`, i, i)
		}),
		"140,000 expressions": `{"id":"d","tasks":[{"taskId":"a","agentId":"x","parameters":{"p":"` + strings.Repeat("${{1}}", 140_000) + `"}}]}`,
		"9,000 schemas": list(9000, func(i int) string {
			return fmt.Sprintf(`{"taskId":"t%d","agentId":"x","outputSchema":{"const":%d}}`, i, i)
		}),
		"a ring of 10,000": list(10_000, func(i int) string { return fmt.Sprintf(`{"taskId":"t%d","dependsOn":["t%d"]}`, i, (i+1)%10_000) }),
		"a remote schema":  `{"id":"d","tasks":[{"taskId":"a","agentId":"x","outputSchema":{"$ref":"http://127.0.0.1:1/"}}]}`,
	} {
		began := time.Now()
		if code := put(body); code/100 != 4 {
			t.Errorf("%s: answered %d", name, code)
		}
		t.Logf("%6d ms, %3d MiB  %s", time.Since(began).Milliseconds(), resident(t, pid, "VmRSS"), name)
	}
	// An expression that burns time is stopped when it runs: the run fails, and the server goes on.
	burns := `{"id":"d","tasks":[{"taskId":"a","dependsOn":[],"when":"lists.range(10000).all(x, lists.range(10000).all(y, x + y >= 0))"}]}`
	tenMillion := `{"id":"e","tasks":[{"taskId":"a","agentId":"x","forEach":{"items":"lists.range(10000000)"}}]}`
	for id, c := range map[string]struct{ body, code string }{"d": {burns, "expression_cost"}, "e": {tenMillion, "expression_error"}} {
		if code := status(t, "PUT", url+"/api/v1/workflows/"+id, "", c.body); code/100 != 2 {
			t.Fatalf("%s is not taken: %d", c.body, code)
		}
		if got := p.run("run", "start", id, "--wait"); got.code != exitRun || !strings.Contains(got.stdout+got.stderr, c.code) {
			t.Errorf("%s: %+v, want %s", c.body, got, c.code)
		}
	}
	peak := resident(t, pid, "VmHWM")
	t.Logf("at most %d MiB", peak)
	if peak > maxResident {
		t.Errorf("the server held %d MiB, at most %d are allowed", peak, maxResident)
	}
}

// serverProcess runs "opscore dev" as a process of its own until the test ends: the program as it is released, since the race detector takes several
// times the memory and the time.
func serverProcess(t *testing.T) (url string, pid int) {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "opscore")
	if out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log := &lines{}
	cmd := exec.Command(exe, "dev", "--data-dir", bustest.Dir(t), "--http-addr", "127.0.0.1:0", "--nats-addr", "127.0.0.1:0")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 143 {
			t.Errorf("the server ended with %v:\n%s", err, log)
		}
	})
	ready := regexp.MustCompile(`"http":"(http://[^"]+)"`)
	bustest.Eventually(t, "ready", func() bool { return ready.MatchString(log.String()) })
	return ready.FindStringSubmatch(log.String())[1], cmd.Process.Pid
}

// resident reads what a process holds, or has held at most, in MiB.
func resident(t *testing.T, pid int, name string) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindStringSubmatch(string(raw))
	if m == nil {
		t.Fatalf("no %s of process %d", name, pid)
	}
	kib, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}
