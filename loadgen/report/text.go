package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/opspawn/opscore/loadgen"
)

// textWidth is the most columns of a terminal that a report takes.
const textWidth = 100

// The bounds of what a terminal shows; the HTML report and the JSON have all of it.
const (
	maxTextErrors = 10
	maxTextName   = 26
)

// tone is a colour of a terminal, as the number of its escape sequence.
type tone string

const (
	toneNone  tone = ""
	toneTitle tone = "1"
	toneFaint tone = "2"
	toneBad   tone = "1;31"
	toneGood  tone = "1;32"
)

// Text writes what a run came to for people: the verdict first, then what was measured. No line is longer than 100 columns but those
// of the servers' logs. Colours are for terminals. It returns the error of w.
func Text(w io.Writer, r *loadgen.Result, colour bool) error {
	t := &text{colour: colour}
	t.verdict(&r.Verdict)
	t.operations(r)
	t.errors(r.Errors)
	t.ledger(r.Ledger)
	t.thresholds(r.Thresholds)
	t.processes(r.Processes)
	if len(r.Faults) > 0 {
		t.heading("Faults", fmt.Sprintf("%d, of which %d could not be made", len(r.Faults), unmade(r.Faults)))
	}
	t.line("")
	t.wrap("", fmt.Sprintf("%s over %s, seed %d, %s, %s users at most, %s", r.Scenario, r.Transport, r.Seed, clock(r.Seconds), count(int64(r.PeakUsers)),
		joined(", ", fmt.Sprintf("%d cores", r.Machine.Cores), r.Machine.CPU, r.Machine.OS)), toneFaint)
	_, err := io.WriteString(w, t.b.String())
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func unmade(faults []loadgen.Fault) (n int) {
	for _, f := range faults {
		if f.Error != "" {
			n++
		}
	}
	return n
}

// text collects the lines of a report.
type text struct {
	b      strings.Builder
	colour bool
}

func (t *text) paint(s string, c tone) string {
	if !t.colour || c == toneNone || s == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

func (t *text) line(s string) { t.b.WriteString(strings.TrimRight(s, " ") + "\n") }

// heading begins a part of the report.
func (t *text) heading(title, remark string) {
	t.line("")
	if remark != "" {
		remark = "  " + t.paint(remark, toneFaint)
	}
	t.line(t.paint(title, toneTitle) + remark)
}

// wrap writes a text in as many lines as it needs, each after the indent.
func (t *text) wrap(indent, s string, c tone) {
	line := ""
	for _, word := range strings.Fields(printable(s)) {
		for limit := textWidth - utf8.RuneCountInString(indent); ; {
			switch {
			case line == "" && utf8.RuneCountInString(word) > limit: // longer than a line
				t.line(indent + t.paint(string([]rune(word)[:limit]), c))
				word = string([]rune(word)[limit:])
				continue
			case line == "":
				line = word
			case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > limit:
				t.line(indent + t.paint(line, c))
				line = ""
				continue
			default:
				line += " " + word
			}
			break
		}
	}
	if line != "" {
		t.line(indent + t.paint(line, c))
	}
}

func (t *text) verdict(v *loadgen.Verdict) {
	c := toneBad
	if v.OK {
		c = toneGood
	}
	for i, line := range v.Lines {
		switch i {
		case 0:
			t.wrap("", line, c)
			if v.Cause != "" {
				t.wrap("  ", "Likely cause: "+v.Cause, toneTitle)
			}
			if v.Do != "" {
				t.wrap("  ", "What to do: "+v.Do, toneNone)
			}
		default:
			t.wrap("  ", line, toneNone)
		}
	}
	if len(v.Logs) > 0 {
		t.heading("The server's log", "")
		for _, line := range v.Logs {
			t.line("  " + printable(line))
		}
	}
}

func (t *text) operations(r *loadgen.Result) {
	t.heading("Operations", "in ms from the intended time of sending; raw: from the real one")
	rows := [][]string{{"", "requests", "failed", "req/s", "p50", "p95", "p99", "p99.9", "max", "raw p50", "raw p99"}}
	add := func(name string, o loadgen.Operation) {
		q, raw := o.Latency, o.Uncorrected
		rows = append(rows, []string{
			name, count(o.Requests), count(o.Failures), number(o.RPS), millis(q.P50), millis(q.P95), millis(q.P99), millis(q.P999), millis(q.Max),
			millis(raw.P50), millis(raw.P99),
		})
	}
	for _, name := range slices.Sorted(maps.Keys(r.Operations)) {
		add(name, r.Operations[name])
	}
	if len(r.Operations) > 1 && r.Total.Requests > 0 {
		add("all", r.Total)
	}
	t.table(rows, 2)
	if len(r.Spans) == 0 {
		return
	}
	rows = [][]string{{"other times, ms", "p50", "p90", "p99", "p99.9", "max"}}
	for _, name := range slices.Sorted(maps.Keys(r.Spans)) {
		q := r.Spans[name]
		rows = append(rows, []string{name, millis(q.P50), millis(q.P90), millis(q.P99), millis(q.P999), millis(q.Max)})
	}
	t.table(rows, -1)
}

func (t *text) errors(classes []loadgen.ErrorClass) {
	if len(classes) == 0 {
		return
	}
	t.heading("Errors", "")
	for _, c := range classes[:min(maxTextErrors, len(classes))] {
		t.line("  " + t.paint(fmt.Sprintf("%9s × %-12s", count(c.Count), c.Class), toneBad) + " " + cut(printable(c.Operation), maxTextName))
		if c.Detail != "" {
			t.line("              " + cut(printable(c.Detail), textWidth-14))
		}
	}
	if more := len(classes) - maxTextErrors; more > 0 {
		t.line(fmt.Sprintf("  and %d classes more", more))
	}
}

func (t *text) ledger(l *loadgen.Ledger) {
	if l == nil {
		return
	}
	remark := "clean"
	if !l.Clean() {
		remark = "not clean"
	}
	t.heading("Ledger", remark)
	rows := [][]string{nil, nil}
	for _, r := range ledgerRows(l) {
		rows[0], rows[1] = append(rows[0], r.Name), append(rows[1], count(r.N))
	}
	t.table(rows, -1)
	if len(l.Unconfirmed) > 0 {
		t.wrap("  ", "never confirmed a cancel: "+strings.Join(l.Unconfirmed, ", "), toneNone)
	}
}

func (t *text) thresholds(list []loadgen.Threshold) {
	if len(list) == 0 {
		return
	}
	t.heading("Thresholds", "")
	for _, th := range list {
		word, c := "held   ", toneGood
		if !th.Held {
			word, c = "crossed", toneBad
		}
		t.line(fmt.Sprintf("  %s  %s, seen %s", t.paint(word, c), cut(printable(th.Text), 60), number(th.Seen)))
	}
}

func (t *text) processes(list map[string]loadgen.Process) {
	if len(list) == 0 {
		return
	}
	t.heading("Processes", "memory at its highest")
	rows := [][]string{{"", "CPU s", "own MiB", "RSS MiB", "read MiB", "written MiB", "restarts"}}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		p := list[name]
		rows = append(rows, []string{
			name, number(p.CPUSeconds), number(p.OwnMiB), number(p.RSSMiB), number(p.ReadMiB), number(p.WrittenMiB), count(int64(p.Restarts)),
		})
	}
	t.table(rows, -1)
}

// table writes rows below a head: the first column to the left and cut off where there is no room, the others to the right. What is not 0 in the bad column is coloured.
func (t *text) table(rows [][]string, bad int) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	room := textWidth // for the first column
	for _, w := range widths[1:] {
		room -= w + 2
	}
	widths[0] = min(widths[0], maxTextName, max(room-2, 1))
	for n, row := range rows {
		row[0] = cut(printable(row[0]), widths[0])
		line := " "
		for i, cell := range row {
			c := toneNone
			if n == 0 {
				c = toneFaint
			} else if i == bad && cell != "0" {
				c = toneBad
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				line += " " + t.paint(cell, c) + pad
			} else {
				line += "  " + pad + t.paint(cell, c)
			}
		}
		t.line(line)
	}
}

// printable makes what others wrote harmless for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsControl(r):
			return ' '
		case unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s)
}

// cut shortens a text to n characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}
