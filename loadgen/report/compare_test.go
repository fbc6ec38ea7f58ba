package report

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/opspawn/opscore/loadgen"
)

// find returns one change of a comparison.
func find(t *testing.T, c *Comparison, of, what string) Change {
	t.Helper()
	for _, ch := range c.Changes {
		if ch.Of == of && ch.What == what {
			return ch
		}
	}
	t.Fatalf("there is no %s of %s", what, of)
	return Change{}
}

func TestCompareMarksWhatIsBeyondNoise(t *testing.T) {
	operation := func(rps, p50, p99 float64, failures int64) loadgen.Operation {
		return loadgen.Operation{Requests: 1000, Failures: failures, RPS: rps, Latency: loadgen.Quantiles{P50: p50, P95: p99, P99: p99}}
	}
	a := &loadgen.Result{Requests: 1000, Operations: map[string]loadgen.Operation{
		"latency": operation(100, 10, 20, 0), "small": operation(100, 0.2, 0.9, 0), "rate": operation(100, 10, 20, 0), "failures": operation(100, 1, 2, 10),
	}, Processes: map[string]loadgen.Process{"nats": {OwnMiB: 100, CPUSeconds: 1}}, Ledger: &loadgen.Ledger{}}
	b := &loadgen.Result{Requests: 1000, Operations: map[string]loadgen.Operation{
		"latency": operation(100, 8, 25, 0), "small": operation(100, 0.4, 1.9, 0), "rate": operation(94, 10.9, 23.9, 1), "failures": operation(107, 1, 2, 9),
	}, Processes: map[string]loadgen.Process{"nats": {OwnMiB: 150, CPUSeconds: 0.5}}, Ledger: &loadgen.Ledger{Stuck: 1}}
	c := Compare(a, b)
	for _, want := range []Change{
		{Of: "latency", What: "p50 ms", Mark: MarkBetter},
		{Of: "latency", What: "p99 ms", Mark: MarkWorse},
		{Of: "latency", What: "requests/s", Mark: MarkNoise},
		{Of: "small", What: "p50 ms", Mark: MarkNoise}, // twice as long, and still nothing
		{Of: "small", What: "p99 ms", Mark: MarkNoise},
		{Of: "rate", What: "requests/s", Mark: MarkWorse},
		{Of: "rate", What: "p50 ms", Mark: MarkNoise},
		{Of: "rate", What: "p99 ms", Mark: MarkNoise},
		{Of: "rate", What: "failed %", Mark: MarkWorse}, // there is no noise about failures
		{Of: "failures", What: "failed %", Mark: MarkBetter},
		{Of: "failures", What: "requests/s", Mark: MarkBetter},
		{Of: "nats", What: "own MiB", Mark: MarkWorse},
		{Of: "nats", What: "CPU ms/request", Mark: MarkBetter},
		{Of: "ledger", What: "wrong", Mark: MarkWorse},
	} {
		if got := find(t, c, want.Of, want.What); got.Mark != want.Mark {
			t.Errorf("%s of %s: %v → %v is %s, want %s", want.What, want.Of, got.A, got.B, got.Mark, want.Mark)
		}
	}
	worse := func(percent float64) string {
		var list []string
		for _, ch := range c.Worse(percent) {
			list = append(list, ch.Of+" "+ch.What)
		}
		return strings.Join(list, ", ")
	}
	if got, want := worse(30), "rate failed %, nats own MiB, ledger wrong"; got != want {
		t.Errorf("worse by more than 30 %%: %s; want %s", got, want)
	}
	if got, want := worse(60), "rate failed %, ledger wrong"; got != want {
		t.Errorf("worse by more than 60 %%: %s; want %s", got, want)
	}
}

func TestCompareSaysWhatElseIsDifferent(t *testing.T) {
	a, b := fixture(60), fixture(60)
	if c := Compare(a, b); len(c.Differences) > 0 || len(c.Worse(0)) > 0 {
		t.Errorf("a run differs from itself: %q, %+v", c.Differences, c.Worse(0))
	}
	b.Machine.Cores, b.Versions["nats-server"], b.Commit, b.Args, b.Ledger, b.Seconds = 4, "2.14.0", "", []string{"run", "scenario-3"}, nil, 70
	delete(b.Operations, "GET state")
	b.Machine.StealPercent = 24
	got := strings.Join(Compare(a, b).Differences, "\n")
	for _, want := range []string{
		"duration: 1:00 → 1:10", "machine: 2 cores, AMD EPYC 7B13, 7.80 GiB, linux/amd64, 6.12.48 → 4 cores, ", "version of nats-server: 2.15.2 → 2.14.0",
		"commit: b9f211b4c0de → none", "command: chaos -t 300s", "operation GET state is only in a", "only one of them has a ledger",
		"b: the host took 24 %",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("nothing says %q in\n%s", want, got)
		}
	}
}

func TestComparisonFitsATerminal(t *testing.T) {
	a, b := fixture(60), fixture(60)
	b.Args, b.P99Ms, b.RPS = []string{strings.Repeat("x", 300)}, 1e7, 2e6
	var out bytes.Buffer
	if err := Compare(a, b).Text(&out, false); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > textWidth {
			t.Errorf("%d columns, want at most %d: %s", n, textWidth, line)
		}
	}
	if text := out.String(); !strings.Contains(text, "! worse") || !strings.Contains(text, "+ better") || !strings.Contains(text, "p99 ms 20 % or 2") {
		t.Errorf("marks or bounds are missing:\n%s", text)
	}
}
