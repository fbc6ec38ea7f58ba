// Package contract holds JSON values to JSON Schemas: what a run is given, what a task brings, and what an agent says that it takes and gives.
// Whoever writes a schema may be mistaken or hostile: it stands for itself, and the steps of a check are counted.
package contract

import (
	"crypto/sha256"
	"encoding/hex"
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
	maxSteps  = 250_000 // places of a value that are looked at, each once for every schema that is about it
	maxErrors = 10      // that are named
	maxText   = 2 << 10 // bytes of what is named
)

// Contract is a JSON Schema that was compiled. It may be used by several goroutines, one after the other.
type Contract struct {
	schema *jsonschema.Schema
	mu     sync.Mutex
	steps  int // of the check that goes on
}

// errSteps stops a check that takes too many steps: schemas that refer to each other twice can take a time that doubles with each level.
var errSteps = fmt.Errorf("checking it takes more than %d steps", maxSteps)

// Compile compiles a JSON Schema, draft 2020-12 unless it names another. It must stand for itself: nothing is loaded. The error says what is wrong with it.
func Compile(raw event.Raw) (*Contract, error) {
	if len(raw) > event.MaxSchema {
		return nil, fmt.Errorf("the schema has %d bytes, at most %d are allowed", len(raw), event.MaxSchema)
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
	one := &Contract{schema: schema}
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
	return errors.New(clip(strings.ReplaceAll(err.Error(), "opscore:schema", ""), maxText))
}

// count makes every schema below one count its checks. Its format is what is looked at first, before it leads on to others.
func (c *Contract) count(s *jsonschema.Schema, seen map[*jsonschema.Schema]bool) {
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
		if c.steps > maxSteps {
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

// Check reports how a value does not fit, nil if it does. No value is null.
func (c *Contract) Check(raw event.Raw) (err error) {
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
		if len(all) == maxErrors {
			more++
			return
		}
		var at strings.Builder
		for _, token := range e.InstanceLocation {
			at.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(token))
		}
		text := clip(e.ErrorKind.LocalizedString(english), 300)
		if at.Len() > 0 {
			text = clip(at.String(), 200) + ": " + text
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
	return clip(strings.Join(all, "; "), maxText)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// ID returns the name of a schema, which follows from what it says, and the form in which it is kept: equal for schemas that differ in nothing but the order of
// members and white space. It fails if the schema is not JSON.
func ID(raw event.Raw) (id string, canonical event.Raw, err error) {
	canonical = raw.Clone()
	if err := canonical.Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false)); err != nil {
		return "", nil, err
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:12]), canonical, nil
}
