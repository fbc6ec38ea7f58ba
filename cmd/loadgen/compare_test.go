package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/loadgen/report"
)

// resultFile writes a result with one operation.
func resultFile(t *testing.T, p99 float64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "result.json")
	text, err := json.Marshal(&loadgen.Result{
		Scenario: "scenario-1", Requests: 10, P99Ms: p99,
		Operations: map[string]loadgen.Operation{"POST state": {Requests: 10, Latency: loadgen.Quantiles{P99: p99}}},
	})
	if err == nil {
		err = os.WriteFile(name, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCompareCommand(t *testing.T) {
	slow, fast := resultFile(t, 40), resultFile(t, 20)
	other := filepath.Join(t.TempDir(), "other.json")
	if err := os.WriteFile(other, []byte(`{"name":"something else"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // parts of them
	}{
		{"worse", []string{fast, slow}, exitOK, "! worse", ""},
		{"worse and not allowed", []string{fast, slow, "--fail-on-regression", "50%"}, exitBad, "! worse", "worse than before: all p99 ms, POST state p99 ms"},
		{"worse and allowed", []string{fast, slow, "--fail-on-regression", "100"}, exitOK, "! worse", ""},
		{"better", []string{slow, fast, "--fail-on-regression", "0%"}, exitOK, "+ better", ""},
		{"one file", []string{fast}, exitUsage, "", "needs two results"},
		{"no such file", []string{fast, "nothing.json"}, exitUsage, "", "there is no file nothing.json"},
		{"another file", []string{other, fast}, exitBad, "", "is no result of loadgen"},
		{"no percentage", []string{fast, slow, "--fail-on-regression", "-1%"}, exitUsage, "", "it is a percentage"},
		{"another format", []string{fast, slow, "-o", "xml"}, exitUsage, "", "table or json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"compare"}, test.args...), func(string) string { return "" }, &stdout, &stderr)
			if code != test.code || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("code %d, want %d; stdout %q should say %q; stderr %q should say %q", code, test.code, &stdout, test.stdout, &stderr, test.stderr)
			}
		})
	}
}

func TestCompareCommandPrintsJSON(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"compare", resultFile(t, 0), resultFile(t, 20), "-o", "json"}, os.Getenv, &stdout, &stderr); code != exitOK {
		t.Fatalf("code %d: %s", code, &stderr)
	}
	var c report.Comparison
	if err := json.Unmarshal(stdout.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	for _, ch := range c.Changes {
		if ch.Of == "POST state" && ch.What == "p99 ms" && ch.Mark == report.MarkWorse && ch.Percent == nil {
			return // from 0 there is no percentage
		}
	}
	t.Errorf("the p99 that came from 0 is missing in %s", &stdout)
}
