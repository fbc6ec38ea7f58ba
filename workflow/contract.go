package workflow

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/workflow/expr"
)

// Bounds of contracts.
const (
	MaxSchemaBytes  = 64 << 10 // of one JSON Schema
	maxSchemaSteps  = 250_000  // places of a value that are looked at, each once for every schema that is about it
	maxSchemaErrors = 10       // that are named
	maxSchemaText   = 2 << 10  // bytes of what is named
)

// CodeInvalidOutput is the code of a failure: the output of a task does not fit its schema.
const CodeInvalidOutput = "invalid_output"

// contract is a JSON Schema that was compiled. It may be used by several goroutines, one after the other.
type contract struct {
	schema *jsonschema.Schema
	mu     sync.Mutex
	steps  int // of the check that goes on
}

// errSteps stops a check that takes too many steps: schemas that refer to each other twice can take a time that doubles with each level.
var errSteps = fmt.Errorf("checking it takes more than %d steps", maxSchemaSteps)

// compileContract compiles a JSON Schema, draft 2020-12 unless it names another. It must stand for itself: nothing is loaded.
func compileContract(raw event.Raw) (*contract, error) {
	if len(raw) > MaxSchemaBytes {
		return nil, fmt.Errorf("the schema has %d bytes, at most %d are allowed", len(raw), MaxSchemaBytes)
	}
	doc, err := expr.Decode(raw)
	if err != nil {
		return nil, err
	}
	if _, isObject := doc.(map[string]any); !isObject {
		if _, isBool := doc.(bool); !isBool {
			return nil, errors.New("a schema must be an object, or true or false")
		}
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	c.AssertFormat()
	c.UseRegexpEngine(func(pattern string) (jsonschema.Regexp, error) { return expr.Pattern(pattern) })
	const name = "opscore:schema"
	if err := c.AddResource(name, doc); err != nil {
		return nil, err
	}
	schema, err := c.Compile(name)
	if err != nil {
		return nil, schemaMistake(err)
	}
	one := &contract{schema: schema}
	one.count(schema, make(map[*jsonschema.Schema]bool))
	return one, nil
}

type noLoader struct{}

// Load refuses: a schema that is loaded could change, and whoever writes a definition must not reach files and networks from here.
func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s is not part of the schema; schemas must stand for themselves", url)
}

// schemaMistake says what is wrong with a schema.
func schemaMistake(err error) error {
	var invalid *jsonschema.SchemaValidationError
	var load *jsonschema.LoadURLError
	switch {
	case errors.As(err, &invalid):
		var v *jsonschema.ValidationError
		if errors.As(invalid.Err, &v) {
			return errors.New("it is no JSON Schema: " + violations(v))
		}
	case errors.As(err, &load):
		return load.Err
	}
	return errors.New(clipText(strings.ReplaceAll(err.Error(), "opscore:schema", ""), maxSchemaText))
}

// count makes every schema below one count its checks. Its format is what is looked at first, before it leads on to others.
func (c *contract) count(s *jsonschema.Schema, seen map[*jsonschema.Schema]bool) {
	if s == nil || seen[s] {
		return
	}
	seen[s] = true
	format := jsonschema.Format{Validate: func(any) error { return nil }}
	if s.Format != nil {
		format = *s.Format
	}
	check := format.Validate
	format.Validate = func(v any) error {
		c.steps++
		switch v := v.(type) {
		case []any:
			c.steps += len(v)
		case map[string]any:
			c.steps += len(v)
		}
		if c.steps > maxSchemaSteps {
			panic(errSteps)
		}
		return check(v)
	}
	s.Format = &format
	schemas(reflect.ValueOf(*s), func(next *jsonschema.Schema) { c.count(next, seen) })
}

// schemas yields the schemas that one holds, whatever member they stand in.
func schemas(v reflect.Value, yield func(*jsonschema.Schema)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				schemas(v.Field(i), yield)
			}
		}
	case reflect.Pointer:
		if s, ok := v.Interface().(*jsonschema.Schema); ok {
			yield(s)
		} else if d, ok := v.Interface().(*jsonschema.DynamicRef); ok && d != nil {
			yield(d.Ref)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Pointer {
			for i := range v.Len() {
				schemas(v.Index(i), yield)
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			schemas(it.Value(), yield)
		}
	case reflect.Interface:
		if !v.IsNil() {
			schemas(v.Elem(), yield)
		}
	}
}

// check reports how a value does not fit, nil if it does.
func (c *contract) check(raw event.Raw) (err error) {
	if len(raw) == 0 {
		raw = event.Raw("null")
	}
	v, err := expr.Decode(raw)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.steps = 0
	defer func() {
		if r := recover(); r == errSteps { //nolint:errorlint // the value itself
			err = errSteps
		} else if r != nil {
			panic(r)
		}
	}()
	var invalid *jsonschema.ValidationError
	if err := c.schema.Validate(v); errors.As(err, &invalid) {
		return errors.New(violations(invalid))
	}
	return nil
}

var english = message.NewPrinter(language.English)

// violations says in one line where a value does not fit and why.
func violations(e *jsonschema.ValidationError) string {
	var all []string
	more := 0
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		for _, cause := range e.Causes {
			walk(cause)
		}
		if len(e.Causes) > 0 {
			return
		}
		if len(all) == maxSchemaErrors {
			more++
			return
		}
		var at strings.Builder
		for _, token := range e.InstanceLocation {
			at.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(token))
		}
		text := clipText(e.ErrorKind.LocalizedString(english), 300)
		if at.Len() > 0 {
			text = clipText(at.String(), 200) + ": " + text
		}
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	walk(e)
	slices.Sort(all)
	if more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return clipText(strings.Join(all, "; "), maxSchemaText)
}

func clipText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// checkInput says why a run cannot begin with an input, nil if it can.
func (d *Definition) checkInput(input event.Raw) *event.TaskError {
	if len(input) == 0 {
		input = event.Raw("{}")
	}
	return d.fit(d.InputSchema, input, string(event.CodeInvalid), "the input does not fit the inputSchema of the workflow")
}

// checkOutput says why the output of a task is none, nil if it is. Another attempt may do better, and is told.
func (d *Definition) checkOutput(t *Task, output event.Raw) *event.TaskError {
	return d.fit(t.OutputSchema, output, CodeInvalidOutput, "the output does not fit the outputSchema of the task")
}

func (d *Definition) fit(schema, value event.Raw, code, what string) *event.TaskError {
	if len(schema) == 0 || schema.Kind() == jsontext.KindNull {
		return nil
	}
	c, err := d.contract(schema)
	if err == nil {
		err = c.check(value)
	}
	if err == nil {
		return nil
	}
	return &event.TaskError{Code: code, Message: what + ": " + err.Error()}
}
