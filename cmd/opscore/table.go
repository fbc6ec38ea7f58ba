package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opspawn/opscore/bus/event"
)

// style says how to print to a stream.
type style struct {
	terminal bool      // times are relative
	color    bool      // states have colours
	now      time.Time // what relative times and durations count to
}

// color is a colour of a terminal, as the number of its escape sequence.
type color string

// The colours in use.
const (
	colorNone  color = ""
	colorFaint color = "2"
	colorGood  color = "32"
	colorWarn  color = "33"
	colorBad   color = "31"
	colorBusy  color = "36"
	colorTitle color = "1"
)

// cell is one value of a table.
type cell struct {
	text  string
	color color
}

// text makes a cell without colour. What others wrote is made harmless for terminals; nothing is shown as "-".
func text(s string) cell {
	if s = printable(s); s == "" {
		s = "-"
	}
	return cell{text: s}
}

// printable replaces what could move the cursor or change the direction of a line.
func printable(s string) string { return strings.TrimSpace(harmless(s)) }

// harmless is printable for what stands where it does for a reason, with the spaces around it.
func harmless(s string) string {
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

// in gives a cell a colour.
func (c cell) in(col color) cell {
	c.color = col
	return c
}

// sheet collects what is printed for people, and is written at once.
type sheet struct {
	style
	b      strings.Builder
	fields [][]cell // name and value, aligned when something else follows
}

// field adds a named value.
func (p *sheet) field(name string, value cell) {
	p.fields = append(p.fields, []cell{text(name).in(colorFaint), value})
}

// optional adds a named value unless it is empty.
func (p *sheet) optional(name, value string) {
	if value != "" {
		p.field(name, text(value))
	}
}

// line adds a line of text.
func (p *sheet) line(cells ...cell) {
	p.flush()
	p.write(cells, nil)
}

// section adds an empty line and a title.
func (p *sheet) section(title string) {
	p.line()
	if title != "" {
		p.line(cell{text: title, color: colorTitle})
	}
}

// rows adds rows of a table, with its head if wanted.
func (p *sheet) rows(t *table, rows [][]cell, head bool) {
	p.flush()
	t.fit(rows)
	if head {
		p.write(t.head, t.widths)
	}
	for _, r := range rows {
		p.write(r, t.widths)
	}
}

// flush writes the fields collected so far as two aligned columns.
func (p *sheet) flush() {
	t := &table{}
	t.fit(p.fields)
	for _, f := range p.fields {
		p.write(f, t.widths)
	}
	p.fields = nil
}

func (p *sheet) write(cells []cell, widths []int) {
	p.b.WriteString(p.style.row(cells, widths, 0))
	p.b.WriteByte('\n')
}

// writeTo writes the sheet to w.
func (p *sheet) writeTo(w io.Writer) error {
	p.flush()
	_, err := io.WriteString(w, p.b.String())
	return err
}

// table is a head and the widths of columns. They grow with the rows: a long list is aligned page by page.
type table struct {
	head   []cell
	widths []int
}

// newTable makes a table with titles of its columns.
func newTable(head ...string) *table {
	t := &table{}
	for _, h := range head {
		t.head = append(t.head, cell{text: h, color: colorFaint})
	}
	t.fit([][]cell{t.head})
	return t
}

// fit makes the columns wide enough for rows.
func (t *table) fit(rows [][]cell) {
	for _, r := range rows {
		for i, c := range r {
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c.text))
		}
	}
}

// row formats cells with two spaces between them, each as wide as its column, and cuts the row off at limit characters unless that is 0.
func (s style) row(cells []cell, widths []int, limit int) string {
	var b strings.Builder
	used := 0
	for i, c := range cells {
		pad := 0
		if i > 0 {
			pad = 2
			if i <= len(widths) {
				pad += widths[i-1] - utf8.RuneCountInString(cells[i-1].text)
			}
		}
		shown := c.text
		if limit > 0 {
			if used+pad >= limit {
				break
			}
			shown = cut(shown, limit-used-pad)
		}
		b.WriteString(strings.Repeat(" ", pad))
		b.WriteString(s.paint(shown, c.color))
		used += pad + utf8.RuneCountInString(shown)
	}
	return strings.TrimRight(b.String(), " ")
}

// cut shortens a text to n characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// paint gives a text a colour, if there are colours.
func (s style) paint(text string, c color) string {
	if !s.color || c == colorNone || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// time shows a point in time: how long ago it was on a terminal, else as RFC 3339.
func (s style) time(t time.Time) cell {
	switch {
	case t.IsZero():
		return text("")
	case s.terminal:
		return text(ago(s.now.Sub(t)))
	}
	return text(t.UTC().Format(time.RFC3339))
}

// between shows how long something took, or has taken so far; nothing before it began.
func (s style) between(start, end *time.Time) cell {
	if start == nil || start.IsZero() {
		return text("")
	}
	until := s.now
	if end != nil {
		until = *end
	}
	return text(short(until.Sub(*start)))
}

// ago says in words how long ago something was.
func ago(d time.Duration) string {
	if d < time.Second {
		return "now"
	}
	return short(d) + " ago"
}

// short shows a duration with the two digits or units that matter.
func short(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(d, 0); {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < day:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd", d/day)
}

// state shows the state of a run or a task in its colour.
func state[S ~string](s S) cell {
	c := text(string(s))
	switch event.TaskState(s) {
	case event.TaskCompleted:
		return c.in(colorGood)
	case event.TaskFailed:
		return c.in(colorBad)
	case event.TaskCancelled, event.TaskRetrying, event.TaskWaiting:
		return c.in(colorWarn)
	case event.TaskRunning, event.TaskAssigned, event.TaskReady:
		return c.in(colorBusy)
	case event.TaskPending, event.TaskSkipped:
		return c.in(colorFaint)
	}
	return c
}
