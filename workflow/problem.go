package workflow

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Problem is one mistake in a definition. Line and Column are its place in the file it was read from, 0 if that is unknown.
type Problem struct {
	Path   string `json:"path"` // as in $.tasks[1].nextTaskId
	Line   int    `json:"line,omitzero"`
	Column int    `json:"column,omitzero"`
	Text   string `json:"text"`
}

// Problems is the error of a definition: all its mistakes at once.
type Problems []Problem

// Error lists the mistakes, one per line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, m := range p {
		lines[i] = m.String()
	}
	return strings.Join(lines, "\n")
}

// String says where the mistake is and what it is.
func (m Problem) String() string {
	text := m.Text
	if m.Line > 0 {
		text = fmt.Sprintf("line %d: %s", m.Line, text)
	}
	if m.Path != "" {
		text += " (" + m.Path + ")"
	}
	return text
}

// maxLocated bounds how many mistakes are looked up in the file.
const maxLocated = 100

// Locate fills in the places of mistakes in a JSON or YAML file by the paths they were found at. A member that is missing has the place of
// what it is missing from.
func Locate(source []byte, problems Problems) {
	if len(problems) == 0 {
		return
	}
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		return
	}
	for i := range problems[:min(len(problems), maxLocated)] {
		p := &problems[i]
		for at := p.Path; at != "" && p.Line == 0; at = parent(at) {
			p.Line, p.Column = placeOf(file, at)
		}
	}
}

func placeOf(file *ast.File, at string) (line, column int) {
	path, err := yaml.PathString(at)
	if err != nil {
		return 0, 0
	}
	node, err := path.FilterFile(file)
	if err != nil || node == nil || node.GetToken() == nil {
		return 0, 0
	}
	position := node.GetToken().Position
	return position.Line, position.Column
}

// parent returns the path without its last member or place, empty for the root.
func parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

const (
	excerptAround = 1  // lines before and after
	excerptWidth  = 96 // of a line
)

// Excerpt returns the lines of a file around a mistake, numbered, the line itself marked; empty if its place is unknown.
func (m Problem) Excerpt(source []byte) string {
	if m.Line <= 0 {
		return ""
	}
	var b strings.Builder
	n := 0
	for line := range strings.Lines(string(source)) {
		n++
		if n > m.Line+excerptAround {
			break
		}
		if n < m.Line-excerptAround {
			continue
		}
		mark := " "
		if n == m.Line {
			mark = ">"
		}
		fmt.Fprintf(&b, "%s %4d | %s\n", mark, n, window(strings.TrimRight(line, "\r\n"), m.Column))
	}
	return b.String()
}

// window cuts a long line down to what stands around a column.
func window(line string, column int) string {
	line = strings.ToValidUTF8(strings.ReplaceAll(line, "\t", "    "), "?")
	if utf8.RuneCountInString(line) <= excerptWidth {
		return line
	}
	all := []rune(line)
	from := min(max(column-excerptWidth/3, 0), max(len(all)-excerptWidth, 0))
	to := min(from+excerptWidth, len(all))
	text := string(all[from:to])
	if from > 0 {
		text = "…" + text
	}
	if to < len(all) {
		text += "…"
	}
	return text
}
