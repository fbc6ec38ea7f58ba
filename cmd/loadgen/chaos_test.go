package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// command runs the program with arguments.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.WithoutCancel(t.Context()), args, func(string) string { return "" }, &out, &errs)
	return code, out.String(), errs.String()
}

func TestChaosPlanFollowsFromSeedAndFlags(t *testing.T) {
	args := []string{"chaos", "--plan", "-t", "60s", "--replicas", "3", "--seed", "9", "--kill", "engine:4,nats:2", "--older-aof", "redis:1", "--crash-points", "2"}
	code, first, _ := command(t, args...)
	if lines := strings.Count(first, "\n"); code != exitOK || lines != 9 {
		t.Fatalf("exit code %d, %d lines:\n%s", code, lines, first)
	}
	if _, second, _ := command(t, args...); second != first {
		t.Errorf("the same seed and flags gave another plan:\n%s\n%s", first, second)
	}
	args[7] = "10"
	if _, other, _ := command(t, args...); other == first {
		t.Error("another seed gave the same plan")
	}
}

func TestChaosRefusesWhatMakesNoSense(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"--kill moon:1", "moon"},
		{"--cut engine:1", "engine"},
		{"--kill engine", "COUNT"},
		{"--replicas 0", "--replicas"},
		{"-t 1s", "--run-time"},
		{"-o xml", "--output"},
		{"more", "more"},
	} {
		code, _, stderr := command(t, append([]string{"chaos"}, strings.Fields(c.args)...)...)
		if code != exitUsage || !strings.Contains(stderr, c.says) {
			t.Errorf("chaos %s: exit code %d, %s", c.args, code, stderr)
		}
	}
}

func TestEnvLivesBetweenCommands(t *testing.T) {
	dir := t.TempDir()
	if code, _, stderr := command(t, "env", "reset", "--dir", dir); code != exitBad || !strings.Contains(stderr, "env up") {
		t.Errorf("reset of nothing: exit code %d, %s", code, stderr)
	}
	code, up, stderr := command(t, "env", "up", "--dir", dir)
	if code != exitOK {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	defer command(t, "env", "down", "--dir", dir)
	for _, line := range []string{"export OPSCORE_URL=http://127.0.0.1:", "export OPSCORE_API_KEY='test-api-key'", "export NATS_URL=nats://", "export REDIS_URL=redis://"} {
		if !strings.Contains(up, line) {
			t.Errorf("no %q in\n%s", line, up)
		}
	}
	if code, _, stderr := command(t, "env", "down", "--dir", dir); code != exitOK || !strings.Contains(stderr, "3 processes ended") {
		t.Errorf("down: exit code %d, %s", code, stderr)
	}
	if code, _, stderr := command(t, "env", "down", "--dir", dir); code != exitOK || !strings.Contains(stderr, "none") {
		t.Errorf("down again: exit code %d, %s", code, stderr)
	}
	if code, _, _ := command(t, "env"); code != exitUsage {
		t.Errorf("env alone: exit code %d", code)
	}
}

func TestShellQuote(t *testing.T) {
	if got, want := shellQuote("it's $x"), `'it'\''s $x'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
