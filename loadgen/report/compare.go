package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/opspawn/opscore/loadgen"
)

// The marks of a change.
const (
	MarkBetter = "better"
	MarkWorse  = "worse"
	MarkNoise  = "noise" // too small to mean anything
)

// Comparison is what changed from one run to another.
type Comparison struct {
	A           string   `json:"a"` // scenario and time of the run that is compared with
	B           string   `json:"b"`
	Differences []string `json:"differences"` // of what was run, on what, and how: they may be the reason
	Changes     []Change `json:"changes"`
}

// Change is one figure of both runs.
type Change struct {
	Of      string   `json:"of"`   // an operation, a process, "all" or "ledger"
	What    string   `json:"what"` // as "p99 ms"
	A       float64  `json:"a"`
	B       float64  `json:"b"`
	Percent *float64 `json:"percent"` // of A; nil if A is 0 and B is not
	Mark    string   `json:"mark"`    // MarkBetter, MarkWorse or MarkNoise
}

// noise is how much a figure differs between two runs of the same on one machine: a change below either bound means nothing.
type noise struct {
	what     string
	percent  float64
	absolute float64
	more     bool // more is better
}

// The kinds of figures. Failures and the ledger have no noise: they are to be 0.
var (
	rateNoise     = noise{what: "requests/s", percent: 5, absolute: 0.5, more: true}
	failureNoise  = noise{what: "failed %"}
	p50Noise      = noise{what: "p50 ms", percent: 10, absolute: 0.5}
	p95Noise      = noise{what: "p95 ms", percent: 15, absolute: 1}
	p99Noise      = noise{what: "p99 ms", percent: 20, absolute: 2}
	cpuNoise      = noise{what: "CPU ms/request", percent: 10, absolute: 0.02}
	memoryNoise   = noise{what: "own MiB", percent: 10, absolute: 8}
	ledgerNoise   = noise{what: "wrong"}
	noiseInWords  = []noise{rateNoise, p50Noise, p95Noise, p99Noise, cpuNoise, memoryNoise}
	compareFooter = "of one run each; ~ is within what two runs of the same differ by: "
)

// Compare says what changed from run a to run b.
func Compare(a, b *loadgen.Result) *Comparison {
	c := &Comparison{A: title(a), B: title(b), Differences: differences(a, b)}
	c.add("all", rateNoise, a.RPS, b.RPS)
	c.add("all", failureNoise, failedShare(a.Failures, a.Requests), failedShare(b.Failures, b.Requests))
	c.add("all", p50Noise, a.P50Ms, b.P50Ms)
	c.add("all", p99Noise, a.P99Ms, b.P99Ms)
	for _, name := range both(a.Operations, b.Operations) {
		x, y := a.Operations[name], b.Operations[name]
		c.add(name, rateNoise, x.RPS, y.RPS)
		c.add(name, failureNoise, failedShare(x.Failures, x.Requests), failedShare(y.Failures, y.Requests))
		c.quantiles(name, x.Latency, y.Latency)
	}
	for _, name := range both(a.Spans, b.Spans) {
		c.quantiles(name, a.Spans[name], b.Spans[name])
	}
	for _, name := range both(a.Processes, b.Processes) {
		x, y := a.Processes[name], b.Processes[name]
		c.add(name, cpuNoise, 1000*x.CPUSeconds/float64(max(a.Requests, 1)), 1000*y.CPUSeconds/float64(max(b.Requests, 1)))
		c.add(name, memoryNoise, x.OwnMiB, y.OwnMiB)
	}
	if a.Ledger != nil && b.Ledger != nil {
		c.add("ledger", ledgerNoise, float64(wrong(a.Ledger)), float64(wrong(b.Ledger)))
	}
	return c
}

func (c *Comparison) quantiles(of string, a, b loadgen.Quantiles) {
	c.add(of, p50Noise, a.P50, b.P50)
	c.add(of, p95Noise, a.P95, b.P95)
	c.add(of, p99Noise, a.P99, b.P99)
}

func (c *Comparison) add(of string, kind noise, a, b float64) {
	change := Change{Of: of, What: kind.what, A: a, B: b, Mark: MarkNoise}
	percent, difference := math.Inf(1), math.Abs(b-a)
	switch {
	case a == b:
		percent = 0
		change.Percent = &percent
	case a != 0:
		percent = 100 * (b - a) / a
		change.Percent = &percent
	}
	if difference > kind.absolute && math.Abs(percent) > kind.percent {
		change.Mark = MarkWorse
		if (b > a) == kind.more {
			change.Mark = MarkBetter
		}
	}
	c.Changes = append(c.Changes, change)
}

// Worse returns the changes to the worse, beyond noise, by more than so many percent. One from 0 is more than any.
func (c *Comparison) Worse(percent float64) []Change {
	return slices.DeleteFunc(slices.Clone(c.Changes), func(ch Change) bool {
		return ch.Mark != MarkWorse || ch.Percent != nil && math.Abs(*ch.Percent) <= percent
	})
}

// Text writes a comparison for people, within 100 columns. Colours are for terminals. It returns the error of w.
func (c *Comparison) Text(w io.Writer, colour bool) error {
	t := &text{colour: colour}
	t.wrap("", "a: "+c.A, toneNone)
	t.wrap("", "b: "+c.B, toneNone)
	if len(c.Differences) > 0 {
		t.heading("What is different about the runs", "it may be the reason")
		for _, d := range c.Differences {
			t.wrap("  ", d, toneNone)
		}
	}
	t.heading("Changes", "")
	of := ""
	for _, ch := range c.Changes {
		if ch.Of != of {
			of = ch.Of
			t.line("  " + t.paint(cut(printable(of), textWidth-2), toneTitle))
		}
		sign, c := "~", toneFaint
		switch ch.Mark {
		case MarkBetter:
			sign, c = "+ better", toneGood
		case MarkWorse:
			sign, c = "! worse", toneBad
		}
		percent := "from 0"
		if ch.Percent != nil {
			percent = fmt.Sprintf("%+.1f %%", *ch.Percent)
		}
		t.line(fmt.Sprintf("    %-16s %10s → %10s  %10s  %s", ch.What, number(ch.A), number(ch.B), percent, t.paint(sign, c)))
	}
	t.line("")
	var bounds []string
	for _, n := range noiseInWords {
		bounds = append(bounds, fmt.Sprintf("%s %g %% or %g", n.what, n.percent, n.absolute))
	}
	t.wrap("", compareFooter+strings.Join(bounds, ", ")+"; failures and the ledger have none.", toneFaint)
	if _, err := io.WriteString(w, t.b.String()); err != nil {
		return fmt.Errorf("write the comparison: %w", err)
	}
	return nil
}

func title(r *loadgen.Result) string {
	return fmt.Sprintf("%s, %s, %s requests in %s", r.Scenario, r.StartedAt.UTC().Format("2006-01-02 15:04:05 UTC"), count(r.Requests), clock(r.Seconds))
}

// failedShare is the share of requests that failed, in percent.
func failedShare(failures, requests int64) float64 {
	return 100 * float64(failures) / float64(max(requests, 1))
}

// wrong is the number of things that a ledger holds against a server.
func wrong(l *loadgen.Ledger) int64 { return l.Wrong() }

// both lists the names that two maps have in common.
func both[T any](a, b map[string]T) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(a)), func(name string) bool {
		_, ok := b[name]
		return !ok
	})
}

// differences says what besides the figures is not the same.
func differences(a, b *loadgen.Result) []string {
	list := []string{}
	differ := func(what, x, y string) {
		if x != y {
			list = append(list, fmt.Sprintf("%s: %s → %s", what, orNone(x), orNone(y)))
		}
	}
	differ("scenario", a.Scenario, b.Scenario)
	differ("transport", a.Transport, b.Transport)
	differ("users at the peak", count(int64(a.PeakUsers)), count(int64(b.PeakUsers)))
	differ("seed", fmt.Sprint(a.Seed), fmt.Sprint(b.Seed))
	if longer := math.Max(a.Seconds, b.Seconds); math.Abs(a.Seconds-b.Seconds) > 0.05*longer {
		differ("duration", clock(a.Seconds), clock(b.Seconds))
	}
	differ("machine", machine(a.Machine), machine(b.Machine))
	for _, side := range []struct {
		name    string
		machine loadgen.Machine
	}{{"a", a.Machine}, {"b", b.Machine}} {
		if w := side.machine.StealWarning(); w != "" {
			list = append(list, side.name+": "+w)
		}
	}
	names := maps.Clone(a.Versions)
	if names == nil {
		names = make(map[string]string)
	}
	maps.Copy(names, b.Versions)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		differ("version of "+name, a.Versions[name], b.Versions[name])
	}
	differ("commit", a.Commit, b.Commit)
	differ("command", strings.Join(a.Args, " "), strings.Join(b.Args, " "))
	list = append(list, onlyOne("operation", a.Operations, b.Operations)...)
	list = append(list, onlyOne("process", a.Processes, b.Processes)...)
	if (a.Ledger == nil) != (b.Ledger == nil) {
		list = append(list, "only one of them has a ledger")
	}
	return list
}

// onlyOne says which names only one of two maps has.
func onlyOne[T any](what string, a, b map[string]T) []string {
	var list []string
	for _, side := range []struct {
		name string
		here map[string]T
		gone map[string]T
	}{{"a", a, b}, {"b", b, a}} {
		for _, name := range slices.Sorted(maps.Keys(side.here)) {
			if _, ok := side.gone[name]; !ok {
				list = append(list, fmt.Sprintf("%s %s is only in %s", what, name, side.name))
			}
		}
	}
	return list
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// machine writes what a run ran on.
func machine(m loadgen.Machine) string {
	return joined(", ", fmt.Sprintf("%d cores", m.Cores), m.CPU, number(m.RAMGiB)+" GiB", m.OS, m.Kernel)
}
