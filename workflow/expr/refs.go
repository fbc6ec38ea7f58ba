package expr

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// Refs says what an expression or a template refers to, so that it can be loaded before. The ids are in order, each once.
type Refs struct {
	Input, Run, Item, Index, Last bool     // Last: the output of the time before, in a loop
	Outputs                       []string // tasks whose output is used
	States                        []string // tasks of which state, error or agentId is used
}

// Tasks returns the ids of all tasks that are referred to, in order.
func (r Refs) Tasks() []string { return union(r.Outputs, r.States) }

// Or returns what either refers to.
func (r Refs) Or(s Refs) Refs {
	return Refs{
		Input: r.Input || s.Input, Run: r.Run || s.Run, Item: r.Item || s.Item, Index: r.Index || s.Index, Last: r.Last || s.Last,
		Outputs: union(r.Outputs, s.Outputs), States: union(r.States, s.States),
	}
}

func union(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// The members of a task and of run.
var (
	taskMembers = []string{"output", "state", "error", "agentId"}
	runMembers  = []string{"id", "workflowId", "workflowVersion", "labels", "priority", "createdAt"}
)

// finder walks an expression. Names that a macro such as map binds hide the variables of the same name.
type finder struct {
	info   *ast.SourceInfo
	hidden []string
	refs   Refs
	wrong  Mistakes
}

func refsOf(a *cel.Ast) (Refs, Mistakes) {
	native := a.NativeRep()
	f := &finder{info: native.SourceInfo()}
	f.walk(native.Expr())
	f.refs.Outputs, f.refs.States = union(nil, f.refs.Outputs), union(nil, f.refs.States)
	return f.refs, f.wrong
}

// walk goes through an expression, whose depth the parser has bounded.
func (f *finder) walk(e ast.Expr) {
	if f.member(e) {
		return
	}
	switch e.Kind() {
	case ast.IdentKind:
		f.ident(e)
	case ast.SelectKind:
		f.walk(e.AsSelect().Operand())
	case ast.CallKind:
		call := e.AsCall()
		f.pattern(call)
		if call.IsMemberFunction() {
			f.walk(call.Target())
		}
		for _, arg := range call.Args() {
			f.walk(arg)
		}
	case ast.ListKind:
		for _, element := range e.AsList().Elements() {
			f.walk(element)
		}
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			f.walk(entry.AsMapEntry().Key())
			f.walk(entry.AsMapEntry().Value())
		}
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		f.walk(c.IterRange())
		f.walk(c.AccuInit())
		before := len(f.hidden)
		f.hidden = append(f.hidden, c.IterVar(), c.IterVar2(), c.AccuVar())
		f.walk(c.LoopCondition())
		f.walk(c.LoopStep())
		f.hidden = append(f.hidden[:before], c.AccuVar())
		f.walk(c.Result())
		f.hidden = f.hidden[:before]
	}
}

// pattern checks a regular expression. It must be written down: one that came with data could take any time.
func (f *finder) pattern(call ast.CallExpr) {
	if call.FunctionName() != "matches" || len(call.Args()) == 0 {
		return
	}
	arg := call.Args()[len(call.Args())-1]
	var pattern types.String
	written := arg.Kind() == ast.LiteralKind
	if written {
		pattern, written = arg.AsLiteral().(types.String)
	}
	if !written {
		f.mistake(arg, "the regular expression of matches must be written down, as in input.name.matches(\"^a\")")
	} else if _, err := Pattern(string(pattern)); err != nil {
		f.mistake(arg, "%v", err)
	}
}

func (f *finder) ident(e ast.Expr) {
	if slices.Contains(f.hidden, e.AsIdent()) {
		return
	}
	switch e.AsIdent() {
	case "input":
		f.refs.Input = true
	case "run":
		f.mistake(e, "say which member of run: %s", strings.Join(runMembers, ", "))
	case "item":
		f.refs.Item = true
	case "index":
		f.refs.Index = true
	case "output":
		f.refs.Last = true
	case "tasks":
		f.mistake(e, "tasks must be followed by the id of a task, as in tasks.a.output or tasks[\"a-b\"].output")
	}
}

// member takes in tasks.ID, tasks.ID.member and run.member.
func (f *finder) member(e ast.Expr) bool {
	of, name, ok := memberOf(e)
	if !ok {
		return false
	}
	if f.is(of, "run") {
		f.refs.Run = true
		f.known(e, "run", name, runMembers)
		return true
	}
	if f.is(of, "tasks") {
		f.mistake(e, "say which member of task %q: %s", name, strings.Join(taskMembers, ", "))
		return true
	}
	root, id, ok := memberOf(of)
	if !ok || !f.is(root, "tasks") {
		return false
	}
	f.known(e, "a task", name, taskMembers)
	if name == "output" {
		f.refs.Outputs = append(f.refs.Outputs, id)
	} else {
		f.refs.States = append(f.refs.States, id)
	}
	return true
}

func (f *finder) is(e ast.Expr, name string) bool {
	return e.Kind() == ast.IdentKind && e.AsIdent() == name && !slices.Contains(f.hidden, name)
}

func (f *finder) known(e ast.Expr, of, name string, members []string) {
	if !slices.Contains(members, name) {
		f.mistake(e, "%s has no member %q; it has %s", of, clip(name, 60), strings.Join(members, ", "))
	}
}

func (f *finder) mistake(e ast.Expr, format string, args ...any) {
	if len(f.wrong) == maxMistakes {
		return
	}
	at, _ := f.info.GetOffsetRange(e.ID())
	f.wrong = append(f.wrong, Mistake{Offset: int(at.Start), Text: fmt.Sprintf(format, args...)})
}

// memberOf takes x.name and x["name"] apart.
func memberOf(e ast.Expr) (of ast.Expr, name string, ok bool) {
	switch e.Kind() {
	case ast.SelectKind:
		return e.AsSelect().Operand(), e.AsSelect().FieldName(), true
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index || call.Args()[1].Kind() != ast.LiteralKind {
			return nil, "", false
		}
		key, ok := call.Args()[1].AsLiteral().(types.String)
		return call.Args()[0], string(key), ok
	}
	return nil, "", false
}
