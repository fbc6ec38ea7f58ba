package loadgen

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// ParseError says where a scenario file is wrong and what to do about it.
type ParseError struct {
	File         string
	Line, Column int // from 1
	Text         string
}

func (e *ParseError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// maxScenarioFile bounds what a scenario file may take, in bytes.
const maxScenarioFile = 1 << 20

// Parse reads a scenario from YAML. Members that it does not know are refused. Its errors are a [*ParseError]; file is the name to show.
func Parse(file string, text []byte) (*Scenario, error) {
	if len(text) > maxScenarioFile {
		return nil, &ParseError{file, 1, 1, fmt.Sprintf("a scenario file has at most %d bytes", maxScenarioFile)}
	}
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, placed(file, err)
	}
	if len(tree.Docs) != 1 || tree.Docs[0].Body == nil {
		return nil, &ParseError{file, 1, 1, "a scenario file holds one YAML document; \"loadgen scenarios scenario-1\" prints one to start from"}
	}
	s := &Scenario{}
	if err := yaml.NodeToValue(tree.Docs[0].Body, s, yaml.DisallowUnknownField()); err != nil {
		return nil, placed(file, withToken(tree.Docs[0].Body, err))
	}
	var wrong *fault
	if err := s.Check(); errors.As(err, &wrong) {
		line, column := locate(tree, wrong.path)
		return nil, &ParseError{file, line, column, wrong.text}
	}
	return s, nil
}

// placed gives an error of the YAML library its place.
func placed(file string, err error) error {
	e := &ParseError{File: file, Line: 1, Column: 1, Text: err.Error()}
	var where yaml.Error
	if !errors.As(err, &where) {
		return e
	}
	e.Text = where.GetMessage()
	if t := where.GetToken(); t != nil && t.Position != nil {
		e.Line, e.Column = t.Position.Line, t.Position.Column
	}
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) {
		e.Text += "; \"loadgen scenarios scenario-3\" prints a scenario that shows the members"
	}
	return e
}

// withToken gives the error of a time that cannot be read its place, which the library leaves out.
func withToken(root ast.Node, err error) error {
	if where := yaml.Error(nil); errors.As(err, &where) {
		return err
	}
	for _, n := range ast.Filter(ast.StringType, root) {
		if strings.Contains(err.Error(), strconv.Quote(n.String())) {
			return &yaml.SyntaxError{Message: err.Error() + "; a time looks like 90s or 1m30s", Token: n.GetToken()}
		}
	}
	return err
}

// locate returns where a path of a document stands, or the nearest member above it that is there.
func locate(tree *ast.File, path string) (line, column int) {
	for ; path != ""; path = parent(path) {
		p, err := yaml.PathString(path)
		if err != nil {
			continue
		}
		node, err := p.FilterFile(tree)
		if err != nil || node == nil {
			continue
		}
		if m, ok := node.(*ast.MappingNode); ok && len(m.Values) > 0 {
			node = m.Values[0].Key
		}
		if t := node.GetToken(); t != nil && t.Position != nil {
			return t.Position.Line, t.Position.Column
		}
	}
	return 1, 1
}

// parent cuts the last member off a path, as "$.tasks[1].op" to "$.tasks[1]"; nothing is above "$".
func parent(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			return path[:i]
		}
	}
	return ""
}

// YAML returns the scenario in the form that [Parse] reads.
func (s *Scenario) YAML() ([]byte, error) {
	text, err := yaml.MarshalWithOptions(s, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("write scenario %s as YAML: %w", s.Name, err)
	}
	return text, nil
}
