package expr

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

// Template is JSON whose strings may hold expressions. It never changes and may be used by several goroutines.
type Template struct {
	raw   event.Raw // as it was given, without white space between tokens
	parts []part    // nil when it holds no expression
	refs  Refs
}

// part is JSON as it stands, or a string that holds expressions.
type part struct {
	literal []byte
	pieces  []piece
}

// piece is text of a string, or an expression within it.
type piece struct {
	text string
	expr *Expr
}

const (
	open    = "${{"
	escaped = "$${{" // stands for open
)

// ParseTemplate compiles the expressions of a template. Its error is Mistakes.
func ParseTemplate(raw event.Raw) (*Template, error) {
	t := &Template{raw: raw.Clone()}
	if len(raw) == 0 {
		return t, nil
	}
	if err := t.raw.Compact(); err != nil {
		return nil, Mistakes{{Text: "it is not JSON: " + err.Error()}}
	}
	if !utf8.Valid(t.raw) {
		return nil, Mistakes{{Text: "it is not JSON: it is not UTF-8"}}
	}
	if !bytes.Contains(t.raw, []byte("{{")) && !bytes.Contains(t.raw, []byte(`\u00`)) {
		return t, nil
	}
	var wrong Mistakes
	total := 0
	from := 0 // of the literal that has not been written yet
	d := jsontext.NewDecoder(bytes.NewBuffer(t.raw))
	for {
		k := d.PeekKind()
		if k == jsontext.KindInvalid {
			break // the end; the syntax was checked above
		}
		inObject, before := d.StackIndex(d.StackDepth())
		isName := inObject == '{' && before%2 == 0
		if k != '"' || isName {
			if _, err := d.ReadToken(); err != nil {
				return nil, Mistakes{{Text: err.Error()}}
			}
			continue
		}
		quoted, err := d.ReadValue()
		if err != nil {
			return nil, Mistakes{{Text: err.Error()}}
		}
		if !bytes.Contains(quoted, []byte(`{`)) && !bytes.Contains(quoted, []byte(`\u00`)) {
			continue
		}
		end := int(d.InputOffset())
		start := end - len(quoted)
		text, _ := jsontext.AppendUnquote(nil, quoted)
		if !strings.Contains(string(text), open) {
			continue
		}
		pieces, mistakes := split(string(text))
		for _, m := range mistakes {
			m.Pointer = d.StackPointer()
			wrong = append(wrong, m)
		}
		if total += len(pieces); total > MaxPieces {
			return nil, Mistakes{{Pointer: d.StackPointer(), Text: fmt.Sprintf("the template has more than %d expressions and texts between them", MaxPieces)}}
		}
		t.parts = append(t.parts, part{literal: t.raw[from:start]}, part{pieces: pieces})
		from = end
		for _, p := range pieces {
			if p.expr != nil {
				t.refs = t.refs.Or(p.expr.refs)
			}
		}
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	if t.parts != nil {
		t.parts = append(t.parts, part{literal: t.raw[from:]})
	}
	return t, nil
}

// split takes a string apart into text and expressions.
func split(text string) ([]piece, Mistakes) {
	var pieces []piece
	var wrong Mistakes
	var before strings.Builder
	flush := func() {
		if before.Len() > 0 {
			pieces = append(pieces, piece{text: before.String()})
			before.Reset()
		}
	}
	for at := 0; at < len(text) && len(pieces) <= MaxPieces && len(wrong) < maxMistakes; {
		rest := text[at:]
		next := strings.Index(rest, open)
		if next < 0 {
			before.WriteString(rest)
			break
		}
		if next > 0 && rest[next-1] == escaped[0] {
			before.WriteString(rest[:next-1] + open)
			at += next + len(open)
			continue
		}
		before.WriteString(rest[:next])
		from := at + next + len(open)
		size, ok := closing(text[from:])
		if !ok {
			wrong = append(wrong, Mistake{Offset: at + next, Text: "${{ without }}"})
			break
		}
		flush()
		x, err := Compile(text[from:from+size], Any)
		var mistakes Mistakes
		if errors.As(err, &mistakes) {
			for _, m := range mistakes {
				m.Offset += from
				wrong = append(wrong, m)
			}
		}
		pieces = append(pieces, piece{expr: x})
		at = from + size + len("}}")
	}
	flush()
	return pieces, wrong
}

// closing returns where the }} stands that ends an expression: not within a string, nor within braces of its own.
func closing(s string) (int, bool) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '{':
			depth++
		case '}':
			if depth == 0 {
				return i, strings.HasPrefix(s[i:], "}}")
			}
			depth--
		case '"', '\'':
			raw := i > 0 && (s[i-1] == 'r' || s[i-1] == 'R')
			quote := s[i : i+1]
			if triple := strings.Repeat(quote, 3); strings.HasPrefix(s[i:], triple) {
				quote = triple
			}
			n := endOfString(s[i+len(quote):], quote, raw)
			if n < 0 {
				return 0, false
			}
			i += len(quote) + n + len(quote) - 1
		}
	}
	return 0, false
}

// endOfString returns where a string ends, or -1.
func endOfString(s, quote string, raw bool) int {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && !raw:
			i++
		case strings.HasPrefix(s[i:], quote):
			return i
		}
	}
	return -1
}

// Refs returns what the expressions of the template refer to.
func (t *Template) Refs() Refs { return t.refs }

// Static reports whether the template holds no expression: what it renders is what it is.
func (t *Template) Static() bool { return t.parts == nil }

// Expressions returns how many expressions the template holds.
func (t *Template) Expressions() int {
	n := 0
	for _, p := range t.parts {
		for _, piece := range p.pieces {
			if piece.expr != nil {
				n++
			}
		}
	}
	return n
}

// Render returns the JSON that the template stands for, of at most limit bytes. Its error is an *Error.
func (t *Template) Render(s *Scope, limit int) (event.Raw, error) {
	if t.parts == nil {
		if len(t.raw) > limit {
			return nil, tooLarge(limit)
		}
		return t.raw, nil
	}
	out := make([]byte, 0, len(t.raw)+256)
	var err error
	for _, p := range t.parts {
		switch {
		case p.pieces == nil:
			out = append(out, p.literal...)
		case len(p.pieces) == 1 && p.pieces[0].expr != nil:
			out, err = p.pieces[0].expr.append(out, s, limit)
		default:
			out, err = p.append(out, s, limit)
		}
		if err != nil {
			return nil, err
		}
		if len(out) > limit {
			return nil, tooLarge(limit)
		}
	}
	return out, nil
}

func tooLarge(limit int) *Error {
	return &Error{Code: CodeTooLarge, Text: fmt.Sprintf("the result has more than %d bytes", limit)}
}

// append appends the string that the pieces make.
func (p *part) append(dst []byte, s *Scope, limit int) ([]byte, error) {
	var text []byte
	for _, piece := range p.pieces {
		if piece.expr == nil {
			text = append(text, piece.text...)
			continue
		}
		raw, err := piece.expr.append(nil, s, limit-len(dst))
		if err != nil {
			return nil, err
		}
		switch raw[0] {
		case 'n': // null is put in as nothing
		case '"':
			if text, err = jsontext.AppendUnquote(text, raw); err != nil {
				return nil, piece.expr.errorf(CodeExpression, "%v", err)
			}
		default:
			text = append(text, raw...)
		}
		if len(dst)+len(text) > limit {
			return nil, tooLarge(limit)
		}
	}
	dst, err := jsontext.AppendQuote(dst, text)
	if err != nil {
		return nil, &Error{Code: CodeExpression, Text: err.Error()}
	}
	return dst, nil
}
