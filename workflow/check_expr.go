package workflow

import (
	"bytes"
	"errors"
	"strings"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow/expr"
)

// Bounds of what is compiled of a definition: to compile takes far longer than to write.
const (
	maxComputed = 2_000 // expressions that are more than a path, each counted once
	maxSchemas  = 500   // schemas, each counted once
)

// The kinds of expressions, under names that do not hide those of tasks.
const (
	kindBool = expr.Bool
	kindList = expr.List
	kindTime = expr.Time
	kindText = expr.Text
)

// reach says what an expression may refer to besides input and run.
type reach struct {
	task        int  // the tasks before this one
	self        bool // and itself
	all, none   bool // all tasks, no task
	item, index bool
	last        bool // the output of the time before
}

// required checks an expression that must be there.
func (c *checker) required(path, name, source string, kind expr.Kind, r reach) {
	if source == "" {
		c.add(path, "%s is missing", name)
		return
	}
	c.expression(path, name, source, kind, r)
}

// expression checks an expression and what it refers to.
func (c *checker) expression(path, name, source string, kind expr.Kind, r reach) {
	if inner, ok := strings.CutPrefix(strings.TrimSpace(source), "${{"); ok {
		c.add(path, "%s is an expression already, write it without ${{ }}: %s", name, clip(strings.TrimSuffix(inner, "}}"), 100))
		return
	}
	if !c.mayCompile(path, source) {
		return
	}
	x, err := c.d.expression(source, kind)
	if err != nil {
		c.mistakes(path, name, err)
		return
	}
	c.refs(path, name, x.Refs(), r)
}

// template checks the expressions of a template.
func (c *checker) template(path, name string, raw event.Raw, r reach) {
	if !bytes.Contains(raw, []byte("{{")) && !bytes.Contains(raw, []byte(`\u00`)) || !c.mayCompile(path, string(raw)) {
		return
	}
	t, err := c.d.template(raw)
	if err != nil {
		c.mistakes(path, name, err)
		return
	}
	c.count += t.Expressions() - 1
	c.refs(path, name, t.Refs(), r)
}

// mayCompile counts what is compiled, and names the place where it becomes too much.
func (c *checker) mayCompile(path, source string) bool {
	if expr.Plain(source) || c.computed[source] {
		return true
	}
	if c.computed == nil {
		c.computed = make(map[string]bool)
	}
	if c.count > maxComputed {
		return false
	}
	c.computed[source] = true
	if c.count++; c.count > maxComputed {
		c.add(path, "the definition has more than %d different expressions and templates with expressions", maxComputed)
		return false
	}
	return true
}

// mistakes names what is wrong with an expression or a template.
func (c *checker) mistakes(path, name string, err error) {
	var all expr.Mistakes
	if !errors.As(err, &all) {
		c.add(path, "%s: %v", name, err)
		return
	}
	for _, m := range all {
		here, what := path, name
		if m.Pointer != "" {
			below := strings.TrimPrefix(pathOf(m.Pointer), "$")
			here, what = path+below, name+below
		}
		c.add(here, "%s: %s (at character %d)", what, m.Text, m.Offset+1)
	}
}

// refs checks that what an expression refers to is there when it is evaluated.
func (c *checker) refs(path, name string, refs expr.Refs, r reach) {
	if refs.Item && !r.item {
		c.add(path, "%s refers to item, which is there only in what a task with forEach is given: its parameters, workflow.input, wait.until and approval.message", name)
	}
	if refs.Index && !r.index {
		c.add(path, "%s refers to index, which is there only in a task with forEach or loop", name)
	}
	if refs.Last && !r.last {
		c.add(path, "%s refers to output, which is there only in a task with loop; write tasks.ID.output", name)
	}
	for _, id := range refs.Tasks() {
		i, ok := c.index[id]
		switch {
		case r.none:
			c.add(path, "%s refers to task %q, but it is looked at before the run begins", name, clip(id, 60))
		case !ok:
			c.add(path, "%s refers to task %q, which is no task of this definition%s", name, clip(id, 60), c.didYouMean(id))
		case r.all || r.self && i == r.task:
		case i == r.task:
			c.add(path, "%s refers to the task itself, whose output does not exist yet", name)
		case !c.before(i, r.task):
			c.add(path, "%s refers to task %q, which does not come before this one: its output may not exist yet", name, id)
		}
	}
}

// schema checks a JSON Schema.
func (c *checker) schema(path, name string, raw event.Raw) {
	if len(raw) == 0 || raw.Kind() == 'n' || c.schemas[string(raw)] {
		return
	}
	if c.schemas == nil {
		c.schemas = make(map[string]bool)
	}
	switch n := len(c.schemas); {
	case n > maxSchemas:
		return
	case n == maxSchemas:
		c.add(path, "the definition has more than %d different schemas", maxSchemas)
	default:
		if _, err := c.d.contract(raw); err != nil {
			c.add(path, "%s: %v", name, err)
		}
	}
	c.schemas[string(raw)] = true
}
