package workflow

import (
	"sync"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow/contract"
	"github.com/opspawn/opscore/workflow/expr"
)

// compiled keeps what was compiled of a definition: each expression, template and schema once, when it is first used. It may be used by several
// goroutines, and dies with its definition.
type compiled struct {
	expressions sync.Map // expressionKey: *expr.Expr
	templates   sync.Map // source: *expr.Template
	contracts   sync.Map // source: *contract.Contract
}

type expressionKey struct {
	source string
	kind   expr.Kind
}

// expression compiles an expression of the definition. Its error is expr.Mistakes.
func (d *Definition) expression(source string, kind expr.Kind) (*expr.Expr, error) {
	key := expressionKey{source, kind}
	return once(&d.kept().expressions, key, func() (*expr.Expr, error) { return expr.Compile(source, kind) })
}

// template compiles a template of the definition. Its error is expr.Mistakes.
func (d *Definition) template(raw event.Raw) (*expr.Template, error) {
	return once(&d.kept().templates, string(raw), func() (*expr.Template, error) { return expr.ParseTemplate(raw) })
}

// contract compiles a schema of the definition.
func (d *Definition) contract(schema event.Raw) (*contract.Contract, error) {
	return once(&d.kept().contracts, string(schema), func() (*contract.Contract, error) { return contract.Compile(schema) })
}

// once makes a value that cannot be made wrong, and keeps it. What is wrong is made again: only Check meets it.
func once[K comparable, V any](kept *sync.Map, key K, make func() (*V, error)) (*V, error) {
	if v, ok := kept.Load(key); ok {
		return v.(*V), nil
	}
	v, err := make()
	if err != nil {
		return nil, err
	}
	first, _ := kept.LoadOrStore(key, v)
	return first.(*V), nil
}

// kept is what was compiled; a definition that was not decoded keeps nothing.
func (d *Definition) kept() *compiled {
	if d.compiled == nil {
		return new(compiled)
	}
	return d.compiled
}
