package workflow

import (
	"bytes"
	"errors"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/opspawn/opscore/bus/event"
)

// maxYAMLDepth bounds the nesting of a YAML file.
const maxYAMLDepth = 200

// ToJSON turns a JSON or YAML file into JSON. JSON is passed through, so that numbers keep their digits and the version is the one others
// compute. Its error is Problems, or an *event.Error of CodeTooLarge.
func ToJSON(source []byte) (event.Raw, error) {
	if len(source) > MaxDefinitionBytes {
		return nil, tooLarge(len(source))
	}
	if raw := event.Raw(bytes.TrimSpace(source)); len(raw) > 0 && raw[0] == '{' && raw.IsValid() {
		return raw, nil
	}
	if err := checkYAML(source); err != nil {
		return nil, err
	}
	raw, err := yaml.YAMLToJSON(source)
	if err != nil {
		return nil, yamlProblem(err)
	}
	if raw := event.Raw(bytes.TrimSpace(raw)); raw.IsValid() {
		return raw, nil
	}
	return nil, Problems{{Text: "it holds a number that JSON does not know: .inf or .nan"}}
}

func yamlProblem(err error) error {
	var syntax yaml.Error
	if errors.As(err, &syntax) && syntax.GetToken() != nil {
		text := syntax.GetMessage()
		if strings.HasPrefix(text, "found character '\t'") {
			text = "a tab stands here; YAML is indented with blanks"
		}
		return Problems{{Line: syntax.GetToken().Position.Line, Text: text}}
	}
	return Problems{{Text: "neither JSON nor YAML: " + err.Error()}}
}

// checkYAML refuses what would take much time or memory to read: deep nesting, and aliases that stand for much more than is written.
func checkYAML(source []byte) error {
	tokens := lexer.Tokenize(string(source))
	if line := tooDeep(tokens); line > 0 {
		return Problems{{Line: line, Text: "it is nested too deeply"}}
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		return yamlProblem(err)
	}
	if len(file.Docs) > 1 {
		second := Problem{Text: "the file holds more than one document"}
		if body := file.Docs[1].Body; body != nil {
			second.Line = body.GetToken().Position.Line
		}
		return Problems{second}
	}
	written := sizer{anchors: make(map[string]int)}
	for _, doc := range file.Docs {
		if written.size(doc.Body) > MaxDefinitionBytes {
			return event.Errorf(event.CodeTooLarge, "with its aliases written out the definition has more than %d bytes", MaxDefinitionBytes)
		}
	}
	return nil
}

// tooDeep returns the line where brackets, or dashes and question marks in a row, are nested too deeply, or 0.
func tooDeep(tokens token.Tokens) int {
	brackets, row, rowLine := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType:
			if t.Position.Line != rowLine {
				row, rowLine = 0, t.Position.Line
			}
			row++
		}
		if brackets > maxYAMLDepth || row > maxYAMLDepth || t.Position.Column > 0 && t.Position.IndentNum > 4*maxYAMLDepth {
			return t.Position.Line
		}
	}
	return 0
}

// sizer estimates how large a document is as JSON.
type sizer struct {
	anchors map[string]int // sizes of what anchors name
}

// size never returns much more than is too large, so that it cannot overflow.
func (s *sizer) size(node ast.Node) int {
	n := 0
	switch v := node.(type) {
	case nil:
	case *ast.MappingNode:
		for _, value := range v.Values {
			n = s.add(n, s.size(value))
		}
	case *ast.MappingValueNode:
		n = s.add(s.size(v.Key), s.size(v.Value))
	case *ast.MappingKeyNode:
		n = s.size(v.Value)
	case *ast.SequenceNode:
		for _, value := range v.Values {
			n = s.add(n, s.size(value))
		}
	case *ast.TagNode:
		n = s.size(v.Value)
	case *ast.AnchorNode:
		n = s.size(v.Value)
		s.anchors[v.Name.GetToken().Value] = n
	case *ast.AliasNode:
		n = s.anchors[v.Value.GetToken().Value]
	default:
		n = len(node.GetToken().Value)
	}
	return s.add(n, 2)
}

func (s *sizer) add(a, b int) int { return min(a+b, MaxDefinitionBytes+1) }
