package loadgen

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Line sums a moment of a run up in one line.
func (s *Snapshot) Line() string {
	return fmt.Sprintf("%s of %s  %d users  %.1f/s  %d requests  %d failures  p50 %s  p99 %s",
		clock(s.Elapsed), clock(s.Duration), s.Users, s.Point.RPS, s.Total.Requests, s.Total.Failures, millis(s.Point.P50Ms), millis(s.Point.P99Ms))
}

// clock shows a time in whole seconds.
func clock(d time.Duration) string { return d.Round(time.Second).String() }

// millis shows milliseconds with the digits that matter.
func millis(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// WriteTable writes what was measured of each operation so far, and what failed. It returns the number of lines.
func (s *Snapshot) WriteTable(w io.Writer) (lines int, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %s, %d of %d users, %.1f requests/s\n\n", clock(s.Elapsed), clock(s.Duration), s.Users, s.Peak, s.Point.RPS)
	writeOperations(&b, s.Operations, s.Total)
	writeErrors(&b, s.Errors)
	_, err = io.WriteString(w, b.String())
	return strings.Count(b.String(), "\n"), err
}

// writeOperations writes a line for each operation. Latencies count from the intended time; in the last columns, from the real one.
func writeOperations(b *strings.Builder, operations map[string]Operation, total Operation) {
	rows := [][]string{{"operation", "requests", "failures", "req/s", "mean", "p50", "p95", "p99", "p99.9", "max", "raw p50", "raw p99"}}
	for _, name := range slices.Sorted(maps.Keys(operations)) {
		rows = append(rows, operationRow(name, operations[name]))
	}
	if len(operations) != 1 {
		rows = append(rows, operationRow("all", total))
	}
	align(b, rows)
}

func operationRow(name string, o Operation) []string {
	q, raw := o.Latency, o.Uncorrected
	return []string{
		name, fmt.Sprint(o.Requests), fmt.Sprint(o.Failures), fmt.Sprintf("%.1f", o.RPS),
		millis(q.Mean), millis(q.P50), millis(q.P95), millis(q.P99), millis(q.P999), millis(q.Max), millis(raw.P50), millis(raw.P99),
	}
}

// shownErrors is how many classes of errors a table shows.
const shownErrors = 10

func writeErrors(b *strings.Builder, errors []ErrorClass) {
	if len(errors) == 0 {
		return
	}
	rows := [][]string{{"operation", "failed", "class", "what one of them said"}}
	for _, e := range errors[:min(len(errors), shownErrors)] {
		rows = append(rows, []string{e.Operation, fmt.Sprint(e.Count), e.Class, oneLine(e.Detail)})
	}
	b.WriteByte('\n')
	align(b, rows)
	if more := len(errors) - shownErrors; more > 0 {
		fmt.Fprintf(b, "and %d classes more\n", more)
	}
}

// oneLine makes what a server said harmless for a terminal, and short.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsControl(r):
			return ' '
		case unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s)
	const width = 100
	if utf8.RuneCountInString(s) > width {
		s = string([]rune(s)[:width-1]) + "…"
	}
	return s
}

// align writes rows as columns. Cells that begin with a digit stand right.
func align(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	numbers := rows[len(rows)-1]
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i > 0 {
				line.WriteString("  ")
			}
			if n := numbers[i]; n != "" && n[0] >= '0' && n[0] <= '9' && i < len(row)-1 || i == len(row)-1 && len(row) > 6 {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
