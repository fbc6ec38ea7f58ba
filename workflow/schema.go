package workflow

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

// JSONSchema returns the JSON Schema of definitions, for editors. It follows from the types of the language and says more than they do: what
// each member is for, which are needed, and which words and numbers are allowed. A member that it does not know is named, although it would be ignored.
func JSONSchema() []byte {
	defs := make(map[string]any)
	root := schemaOf(reflect.TypeFor[Definition](), defs).(map[string]any)
	top := defs["Definition"].(map[string]any)
	top["properties"].(map[string]any)["$schema"] = map[string]any{"type": "string"}
	schema := map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Ops-Core workflow", "$ref": root["$ref"], "$defs": defs,
	}
	raw, err := json.Marshal(schema, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		panic(err) // it is made of maps, strings and numbers
	}
	return append(bytes.TrimSpace(raw), '\n')
}

// schemaOf returns the schema of a type; that of a struct stands among the definitions.
func schemaOf(t reflect.Type, defs map[string]any) any {
	switch {
	case t == reflect.TypeFor[event.Raw]():
		return map[string]any{}
	case t.Kind() == reflect.Pointer:
		return schemaOf(t.Elem(), defs)
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), defs)}
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), defs)}
	case t.Kind() == reflect.Struct:
		if _, known := defs[t.Name()]; !known {
			defs[t.Name()] = nil // a type may hold itself
			defs[t.Name()] = objectSchema(t, defs)
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	case t.Kind() == reflect.Float64:
		return map[string]any{"type": "number", "minimum": 0}
	case t.Kind() == reflect.Int:
		return map[string]any{"type": "integer", "minimum": 0}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	}
	return map[string]any{"type": "string"}
}

func objectSchema(t reflect.Type, defs map[string]any) map[string]any {
	properties := make(map[string]any)
	for name, of := range membersOf(t) {
		schema, _ := schemaOf(of, defs).(map[string]any)
		doc := memberDocs[t.Name()+"."+name]
		schema["description"] = doc.text
		if of.Kind() == reflect.Pointer && of.Elem().Kind() == reflect.String {
			schema["type"] = []string{"string", "null"} // nextTaskId: null
		}
		maps.Copy(schema, doc.more)
		properties[name] = schema
	}
	schema := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if needed := neededMembers[t.Name()]; needed != nil {
		schema["required"] = needed
	}
	if t == reflect.TypeFor[Task]() {
		schema["not"] = map[string]any{"required": []string{"forEach", "loop"}}
	}
	return schema
}

// neededMembers are the members without which a value of the language is a mistake.
var neededMembers = map[string][]string{
	"Definition": {"id", "tasks"}, "Task": {"taskId"}, "Case": {"taskId"}, "ForEach": {"items"}, "Loop": {"while", "max"}, "SubWorkflow": {"id"},
	"Signal": {"name"}, "Concurrency": {"max"},
}

// memberDoc is what the schema says of a member besides its type.
type memberDoc struct {
	text string
	more map[string]any
}

func about(text string) memberDoc { return memberDoc{text: text} }

func between(text string, least, most int) memberDoc {
	return memberDoc{text, map[string]any{"minimum": least, "maximum": most}}
}

func words(text string, allowed ...string) memberDoc {
	return memberDoc{text, map[string]any{"enum": append(slices.Clone(allowed), "")}}
}

func typedAs(text string, kinds ...string) memberDoc {
	return memberDoc{text, map[string]any{"type": kinds}}
}

func clock(text string) memberDoc { return between(text+", in seconds", 0, maxSeconds) }

// anExpression ends the text about a member that is an expression.
func anExpression(text string) memberDoc {
	return about(strings.TrimSuffix(text, ".") + ". A CEL expression over input, tasks.ID.output, .state, .error and .agentId, and run.")
}

// aTemplate ends the text about a member that is a template.
func aTemplate(text string, kinds ...string) memberDoc {
	d := about(text + " Strings may hold ${{ expression }}.")
	if kinds != nil {
		d.more = map[string]any{"type": kinds}
	}
	return d
}
