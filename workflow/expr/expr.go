package expr

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

// Kind is the type that an expression must have.
type Kind int

// The kinds of expressions.
const (
	Any  Kind = iota // whatever JSON can hold
	Bool             // a condition
	List             // items
	Time             // a timestamp, or a string in RFC 3339
	Text             // a string, a number or a boolean
)

var kindNames = map[Kind]string{Any: "any value", Bool: "true or false", List: "a list", Time: "a timestamp or a string", Text: "a string, a number or a boolean"}

// Expr is an expression that was compiled. It never changes and may be used by several goroutines.
type Expr struct {
	source string
	refs   Refs
	path   *path // not nil: the expression only hands on a value of JSON

	ast     *cel.Ast // until the program is made, at the first evaluation
	plan    sync.Once
	program cel.Program
	planErr error
}

// Mistake is one thing that is wrong with an expression or a template.
type Mistake struct {
	Pointer jsontext.Pointer // of the string in a template, empty in an expression
	Offset  int              // in bytes, from the start of the source or of the string
	Text    string
}

// Mistakes is the error of Compile and ParseTemplate: all of them at once.
type Mistakes []Mistake

// Error lists the mistakes, one per line.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, one := range m {
		lines[i] = one.Text
	}
	return strings.Join(lines, "\n")
}

// Compile compiles an expression that must be of a kind. Its error is Mistakes.
func Compile(source string, kind Kind) (*Expr, error) {
	if strings.TrimSpace(source) == "" {
		return nil, Mistakes{{Text: "the expression is empty"}}
	}
	if len(source) > MaxSource {
		return nil, Mistakes{{Text: fmt.Sprintf("the expression has %d bytes, at most %d are allowed", len(source), MaxSource)}}
	}
	if !utf8.ValidString(source) {
		return nil, Mistakes{{Text: "the expression is not valid UTF-8"}}
	}
	if p, ok := scanPath(source); ok {
		return &Expr{source: source, refs: p.refs(), path: p}, nil
	}
	ast, issues := environment().Compile(source)
	if issues.Err() != nil {
		return nil, mistakes(source, issues)
	}
	if got := ast.OutputType(); !fits(kind, got) {
		return nil, Mistakes{{Text: fmt.Sprintf("the expression must be %s, it is %s", kindNames[kind], typeName(got))}}
	}
	refs, wrong := refsOf(ast)
	if len(wrong) > 0 {
		return nil, wrong
	}
	return &Expr{source: source, refs: refs, ast: ast}, nil
}

// Source returns the expression as it was written.
func (x *Expr) Source() string { return x.source }

// Refs returns what the expression refers to.
func (x *Expr) Refs() Refs { return x.refs }

func fits(kind Kind, t *cel.Type) bool {
	switch t.Kind() {
	case types.DynKind, types.AnyKind:
		return true
	case types.BoolKind:
		return kind == Any || kind == Bool || kind == Text
	case types.ListKind:
		return kind == Any || kind == List
	case types.TimestampKind:
		return kind == Any || kind == Time
	case types.StringKind:
		return kind == Any || kind == Time || kind == Text
	case types.IntKind, types.UintKind, types.DoubleKind:
		return kind == Any || kind == Text
	case types.TypeKind:
		return false
	}
	return kind == Any
}

func typeName(t *cel.Type) string {
	switch t.Kind() {
	case types.ListKind:
		return "a list"
	case types.MapKind:
		return "an object"
	case types.NullTypeKind:
		return "null"
	case types.IntKind, types.UintKind, types.DoubleKind:
		return "a number"
	case types.StringKind:
		return "a string"
	case types.BoolKind:
		return "a boolean"
	case types.TypeKind:
		return "a type"
	}
	return "a " + t.TypeName()
}

// maxMistakes bounds how many mistakes of one expression are named.
const maxMistakes = 10

func mistakes(source string, issues *cel.Issues) Mistakes {
	var all Mistakes
	for _, e := range issues.Errors() {
		if len(all) == maxMistakes {
			break
		}
		at := offset(source, e.Location)
		text, syntax := strings.CutPrefix(e.Message, syntaxError)
		if syntax {
			text = plainSyntax(text, strings.TrimSpace(source[at:]) == "")
		}
		all = append(all, Mistake{Offset: at, Text: plain(text)})
		if syntax {
			break // what the parser says after its first mistake follows from that
		}
	}
	if len(all) == 0 {
		all = append(all, Mistake{Text: plain(issues.Err().Error())})
	}
	return all
}

// offset turns the place of an error, which counts lines and characters, into bytes.
func offset(source string, at common.Location) int {
	from := 0
	for range at.Line() - 1 {
		n := strings.IndexByte(source[from:], '\n')
		if n < 0 {
			break
		}
		from += n + 1
	}
	column := at.Column()
	for i := range source[from:] {
		if column <= 0 {
			return from + i
		}
		column--
	}
	return len(source)
}

// Codes of errors of evaluation.
const (
	CodeExpression = "expression_error" // it has no value: a member that is not there, a type that does not fit
	CodeCost       = "expression_cost"  // it takes more steps than MaxCost
	CodeTooLarge   = "too_large"        // it reads or makes too much
	CodeTooMany    = "too_many_items"   // its list has more items than allowed
)

// Error says why an expression or a template has no value.
type Error struct {
	Code   string // one of the codes above
	Source string // the expression, empty for a template as a whole
	Text   string
}

// Error returns the reason and the expression.
func (e *Error) Error() string {
	if e.Source == "" {
		return e.Text
	}
	return clip(e.Text, 600) + ", in ${{ " + strings.TrimSpace(clip(e.Source, 300)) + " }}"
}

// TaskError is the error as the failure of a task. It would fail again.
func (e *Error) TaskError() *event.TaskError {
	no := false
	return &event.TaskError{Code: e.Code, Message: e.Error(), Retryable: &no}
}

func (x *Expr) errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Source: x.source, Text: fmt.Sprintf(format, args...)}
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// Bool evaluates a condition. Its error is an *Error.
func (x *Expr) Bool(s *Scope) (bool, error) {
	if x.path != nil {
		raw, err := x.follow(s)
		if err != nil {
			return false, err
		}
		if k := raw.Kind(); k == 't' || k == 'f' {
			return k == 't', nil
		}
		return false, x.errorf(CodeExpression, "it must be true or false, it is %s", kindOf(raw))
	}
	v, err := x.eval(s)
	if err != nil {
		return false, err
	}
	if b, ok := v.(types.Bool); ok {
		return bool(b), nil
	}
	return false, x.wrongType(Bool, v)
}

// Raw evaluates an expression to JSON of at most limit bytes. Its error is an *Error.
func (x *Expr) Raw(s *Scope, limit int) (event.Raw, error) {
	raw, err := x.append(nil, s, limit)
	return event.Raw(raw), err
}

// append appends the value as JSON.
func (x *Expr) append(dst []byte, s *Scope, limit int) ([]byte, error) {
	if x.path != nil {
		raw, err := x.follow(s)
		if err != nil {
			return nil, err
		}
		if len(dst)+len(raw) > limit {
			return nil, x.errorf(CodeTooLarge, "the result has more than %d bytes", limit)
		}
		return append(dst, raw...), nil
	}
	v, err := x.eval(s)
	if err != nil {
		return nil, err
	}
	return x.write(dst, v, limit)
}

// List evaluates an expression to a list of at most most items and, together, limit bytes. Its error is an *Error.
func (x *Expr) List(s *Scope, most, limit int) ([]event.Raw, error) {
	raw, err := x.list(s, most, limit)
	if err != nil {
		return nil, err
	}
	if raw.Kind() != '[' {
		return nil, x.errorf(CodeExpression, "it must be a list, it is %s", kindOf(raw))
	}
	var items []event.Raw
	for item := range elements(raw) {
		if len(items) == most {
			return nil, x.errorf(CodeTooMany, "the list has more than %d items", most)
		}
		items = append(items, item)
	}
	return items, nil
}

// list returns the list as JSON. The size of one that was made is known before it is written.
func (x *Expr) list(s *Scope, most, limit int) (event.Raw, error) {
	if x.path != nil {
		return x.Raw(s, limit)
	}
	v, err := x.eval(s)
	if err != nil {
		return nil, err
	}
	l, ok := v.(traits.Lister)
	if !ok {
		return nil, x.wrongType(List, v)
	}
	if n, ok := l.Size().(types.Int); !ok || int64(n) > int64(most) {
		return nil, x.errorf(CodeTooMany, "the list has %d items, at most %d are allowed", int64(n), most)
	}
	return x.write(nil, v, limit)
}

// write appends a value as JSON.
func (x *Expr) write(dst []byte, v ref.Val, limit int) ([]byte, error) {
	w := writer{buf: dst, limit: limit}
	err := w.value(v, 0)
	switch {
	case errors.Is(err, errTooLarge):
		return nil, x.errorf(CodeTooLarge, "%v", err)
	case err != nil:
		return nil, x.errorf(CodeExpression, "%v", err)
	}
	return w.buf, nil
}

// Time evaluates an expression to a time. Its error is an *Error.
func (x *Expr) Time(s *Scope) (time.Time, error) {
	text, err := x.Text(s, 1<<10)
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, x.errorf(CodeExpression, "%q is not a time in RFC 3339", clip(text, 60))
	}
	return t, nil
}

// Text evaluates an expression to a string. Numbers and booleans are spelled as in JSON. Its error is an *Error.
func (x *Expr) Text(s *Scope, limit int) (string, error) {
	raw, err := x.Raw(s, limit)
	if err != nil {
		return "", err
	}
	switch raw.Kind() {
	case '"':
		text, err := jsontext.AppendUnquote(nil, raw)
		if err != nil {
			return "", x.errorf(CodeExpression, "%v", err)
		}
		return string(text), nil
	case '0', 't', 'f':
		return string(raw), nil
	}
	return "", x.errorf(CodeExpression, "it must be a string, a number or a boolean, it is %s", kindOf(raw))
}

func (x *Expr) wrongType(want Kind, got ref.Val) *Error {
	t, ok := got.Type().(*cel.Type)
	if !ok {
		return x.errorf(CodeExpression, "it must be %s", kindNames[want])
	}
	return x.errorf(CodeExpression, "it must be %s, it is %s", kindNames[want], typeName(t))
}

// follow evaluates an expression that is a path.
func (x *Expr) follow(s *Scope) (event.Raw, error) {
	raw, err := x.path.in(s)
	if err != nil {
		return nil, x.errorf(CodeExpression, "%v", err)
	}
	return raw, nil
}

// eval runs the program.
func (x *Expr) eval(s *Scope) (ref.Val, error) {
	x.plan.Do(func() {
		x.program, x.planErr = environment().Program(x.ast, bounds()...)
		x.ast = nil
	})
	if x.planErr != nil {
		return nil, x.errorf(CodeExpression, "%v", x.planErr)
	}
	vars, err := s.vars(x.refs)
	if errors.Is(err, errReadsTooMuch) {
		return nil, x.errorf(CodeTooLarge, "%v", err)
	} else if err != nil {
		return nil, x.errorf(CodeExpression, "%v", err)
	}
	v, _, err := x.program.Eval(vars)
	var stopped interpreter.EvalCancelledError
	switch {
	case errors.As(err, &stopped) && stopped.Cause == interpreter.MemoryLimitExceeded:
		return nil, x.errorf(CodeTooLarge, "it makes a value that is too large")
	case errors.As(err, &stopped):
		return nil, x.errorf(CodeCost, "it takes more than %d steps", MaxCost)
	case err != nil:
		return nil, x.errorf(CodeExpression, "%s", plain(err.Error()))
	}
	return v, nil
}
