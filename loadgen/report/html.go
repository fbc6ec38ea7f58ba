// Package report shows what a run of the load generator came to: as one HTML file that opens offline, as text, and beside another run.
package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opspawn/opscore/loadgen"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

//go:embed page.js
var pageScript string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"count": count,
	"ms":    number,
	"num":   number,
	"clock": clock,
	"lead":  lead,
	"style": func() template.CSS { return template.CSS(pageStyle) },
	"code":  func() template.JS { return template.JS(pageScript) },
}).Parse(pageText))

// HTML writes the report of a run as one page that needs nothing else: no request leaves it. Its charts are drawn here; the script in it
// only shows the values under the pointer. It returns the error of w.
func HTML(w io.Writer, r *loadgen.Result) error {
	if err := pageTemplate.Execute(w, newView(r)); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// view is what the template shows.
type view struct {
	*loadgen.Result
	Title      string
	Started    string
	Tiles      []tile
	Charts     []chart
	Plain      []string // what has no chart because there was nothing to draw
	Ops        []namedOperation
	Procs      []namedProcess
	Times      []namedTime
	LedgerRows []ledgerRow
	FaultRows  []faultRow
	Facts      []fact // machine, versions, command
	FirstAt    func(time.Time) string
}

// tile is one figure of the summary.
type tile struct {
	Name, Value, Unit string
	Tone              string // "good", "bad" or nothing
}

type namedOperation struct {
	Name string
	loadgen.Operation
}

type namedProcess struct {
	Name  string
	Cores float64 // on average
	loadgen.Process
}

// namedTime is a time that is not one of a request.
type namedTime struct {
	Name string
	loadgen.Quantiles
}

type ledgerRow struct {
	Name, Meaning string
	N             int64
	Bad           bool
}

type faultRow struct {
	Number int
	loadgen.Fault
}

type fact struct{ Name, Value string }

func newView(r *loadgen.Result) *view {
	p := &view{
		Result: r, Title: "Load test: " + r.Scenario, Started: r.StartedAt.UTC().Format("2006-01-02 15:04:05 UTC"),
		Tiles: tiles(r), Facts: facts(r), LedgerRows: ledgerRows(r.Ledger), Ops: operations(r), Procs: processes(r),
	}
	for _, name := range slices.Sorted(maps.Keys(r.Spans)) {
		p.Times = append(p.Times, namedTime{name, r.Spans[name]})
	}
	for i, f := range r.Faults {
		p.FaultRows = append(p.FaultRows, faultRow{i + 1, f})
	}
	p.FirstAt = func(at time.Time) string { return clock(max(0, at.Sub(r.StartedAt).Seconds())) }
	p.Charts, p.Plain = charts(r)
	return p
}

func tiles(r *loadgen.Result) []tile {
	failures := tile{Name: "Failures", Value: count(r.Failures), Unit: share(r.Failures, r.Requests), Tone: "good"}
	if r.Failures > 0 {
		failures.Tone = "bad"
	}
	list := []tile{{Name: "Requests", Value: count(r.Requests)}, failures}
	if measured(r) {
		list = append(list,
			tile{Name: "Throughput", Value: number(r.RPS), Unit: "/s"},
			tile{Name: "Median", Value: number(r.P50Ms), Unit: "ms"},
			tile{Name: "p99", Value: number(r.P99Ms), Unit: "ms"},
			tile{Name: "Users at peak", Value: count(int64(r.PeakUsers))},
		)
	}
	if n := len(r.Faults); n > 0 {
		list = append(list, tile{Name: "Faults", Value: count(int64(n))})
	}
	list = append(list, tile{Name: "Duration", Value: clock(r.Seconds)})
	if l := r.Ledger; l != nil {
		ledger := tile{Name: "Ledger", Value: "clean", Tone: "good"}
		if !l.Clean() {
			ledger.Value, ledger.Unit, ledger.Tone = count(l.Wrong()), "wrong", "bad"
		}
		list = append(list, ledger)
	}
	return list
}

func operations(r *loadgen.Result) []namedOperation {
	var list []namedOperation
	for _, name := range slices.Sorted(maps.Keys(r.Operations)) {
		list = append(list, namedOperation{name, r.Operations[name]})
	}
	return list
}

func processes(r *loadgen.Result) []namedProcess {
	var list []namedProcess
	for _, name := range slices.Sorted(maps.Keys(r.Processes)) {
		p := namedProcess{Name: name, Process: r.Processes[name]}
		if r.Seconds > 0 {
			p.Cores = p.CPUSeconds / r.Seconds
		}
		list = append(list, p)
	}
	return list
}

func ledgerRows(l *loadgen.Ledger) []ledgerRow {
	if l == nil {
		return nil
	}
	rows := []ledgerRow{
		{Name: "acknowledged", Meaning: "events, commands and results that the server confirmed", N: l.Acked},
		{Name: "stored", Meaning: "of these, found with their effect by a separate reader", N: l.Stored},
		{Name: "lost", Meaning: "of these, not found", N: l.Lost},
		{Name: "doubled", Meaning: "effects that happened twice", N: l.Doubled},
		{Name: "out of order", Meaning: "an older word over a newer one", N: l.OutOfOrder},
		{Name: "stuck", Meaning: "runs that have not ended and for which nothing is due", N: l.Stuck},
		{Name: "over slot", Meaning: "tasks begun on an agent without a free slot", N: l.OverSlot},
		{Name: "not ended", Meaning: "runs that should have ended by then", N: l.Unended},
	}
	for i := range rows[2:] {
		rows[2+i].Bad = rows[2+i].N > 0
	}
	return rows
}

// facts are what one must know to repeat the run.
func facts(r *loadgen.Result) []fact {
	m := r.Machine
	list := []fact{
		{"Command", strings.Join(append([]string{"loadgen"}, r.Args...), " ")},
		{"Seed", fmt.Sprint(r.Seed)},
		{"Transport", r.Transport},
		{"Machine", joined(", ", fmt.Sprintf("%d cores", m.Cores), m.CPU, number(m.RAMGiB)+" GiB", m.OS, m.Kernel)},
	}
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		list = append(list, fact{name, r.Versions[name]})
	}
	if r.Commit != "" {
		list = append(list, fact{"Commit", r.Commit})
	}
	return list
}

// lead is the first line of a verdict without the word that stands beside it anyway.
func lead(line string) string {
	for _, word := range []string{"OK: ", "FAILED: "} {
		if rest, ok := strings.CutPrefix(line, word); ok {
			return strings.ToUpper(rest[:1]) + rest[1:]
		}
	}
	return line
}

// joined joins what is not empty.
func joined(sep string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), sep)
}
