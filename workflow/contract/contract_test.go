package contract

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

const reportSchema = `{
	"type": "object",
	"required": ["title", "score"],
	"properties": {
		"title": {"type": "string", "minLength": 1},
		"score": {"type": "number", "minimum": 0, "maximum": 1},
		"files": {"type": "array", "items": {"$ref": "#/$defs/file"}},
		"at": {"type": "string", "format": "date-time"}
	},
	"additionalProperties": false,
	"$defs": {"file": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "pattern": "^[a-z]+$"}}}}
}`

func TestAValueFitsItsSchemaOrIsToldWhy(t *testing.T) {
	t.Parallel()
	c, err := Compile(event.Raw(reportSchema))
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		`{"title":"a","score":1}`: "",
		`{"title":"a","score":0.5,"files":[{"name":"x"}],"at":"2026-11-22T04:00:00Z"}`: "",
		``:                          "got null, want object",
		`[]`:                        "got array, want object",
		`{"title":"a"}`:             "missing property 'score'",
		`{"title":"","score":2}`:    "/score: maximum: got 2, want 1; /title: minLength: got 0, want 1",
		`{"title":"a","score":1e9}`: "/score: maximum: got ",
		`{"title":"a","score":0,"files":[{"name":"x"},{"name":"X"},{}]}`: "/files/1/name: 'X' does not match pattern '^[a-z]+$'; /files/2: missing property 'name'",
		`{"title":"a","score":0,"at":"now"}`:                             "/at: 'now' is not valid date-time",
		`{"title":"a","score":0,"x/y":1}`:                                "additional properties 'x/y' not allowed",
		`{"title":"a","score":1e999}`:                                    "/score: ",
	} {
		err := c.Check(event.Raw(value))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", value, err, want)
		}
	}
}

func TestASchemaThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for schema, want := range map[string]string{
		`{"type":"strin"}`:                                "it is no JSON Schema: /type: ",
		`{"type":5}`:                                      "it is no JSON Schema: /type: ",
		`"object"`:                                        "a schema must be an object, or true or false",
		`{"$ref":"#/$defs/none"}`:                         "none",
		`{"$ref":"https://example.com/s.json"}`:           "https://example.com/s.json is not part of the schema",
		`{"$ref":"file:///etc/passwd"}`:                   "file:///etc/passwd is not part of the schema",
		`{"$schema":"https://example.com/m"}`:             "https://example.com/m is not part of the schema",
		`{"pattern":"("}`:                                 "regex",
		`{"pattern":"` + strings.Repeat("a", 1001) + `"}`: "it is no JSON Schema: /pattern: ",
		`{"pattern":"(a{30}){30}"}`:                       "regex",
		`{"description":"` + strings.Repeat("x", event.MaxSchema) + `"}`:     "at most 65536 are allowed",
		strings.Repeat(`{"not":`, 1000) + `true` + strings.Repeat(`}`, 1000): "nested deeper",
		`{"$ref":"#"}`: "",
	} {
		c, err := Compile(event.Raw(schema))
		if want == "" { // it may be taken, but must not run for ever
			if err == nil {
				err = c.Check(event.Raw(`1`))
			}
			if err == nil {
				t.Errorf("%.60s: nothing is wrong", schema)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 2*maxText {
			t.Errorf("%.60s: %v, want %s", schema, err, want)
		}
	}
}

// Schemas that refer to each other twice take a time that doubles with each level; the steps are counted instead.
func TestAHostileSchemaIsStopped(t *testing.T) {
	t.Parallel()
	levels := func(holder, leaf string) string {
		var b strings.Builder
		b.WriteString(`{"$ref":"#/$defs/l0","$defs":{`)
		for i := range 60 {
			fmt.Fprintf(&b, `"l%d":{"%s":[{"$ref":"#/$defs/l%d"},{"$ref":"#/$defs/l%d"}]},`, i, holder, i+1, i+1)
		}
		return b.String() + `"l60":` + leaf + `}}`
	}
	deep := strings.Repeat(`{"a":`, 90) + "1" + strings.Repeat("}", 90)
	for schema, value := range map[string]string{
		levels("allOf", `{"type":"number"}`):                                       "1",
		levels("anyOf", `{"type":"string"}`):                                       "1",
		levels("anyOf", `{"const":2}`):                                             "1",
		levels("oneOf", `{"type":"number"}`):                                       "1",
		levels("oneOf", `false`):                                                   "1",
		`{"properties":{"a":{"allOf":[{"$ref":"#"},{"$ref":"#"}]}}}`:               deep,
		`{"items":{"type":"string"},"uniqueItems":true}`:                           "[" + strings.Repeat("1,", 300_000) + "1]",
		`{"additionalProperties":{"anyOf":[{"type":"string"},{"type":"object"}]}}`: manyMembers(260_000),
		`{"type":"array","contains":{"type":"string"},"items":{"$ref":"#/$defs/x"},"$defs":{"x":{"type":"number"}}}`: "[" + strings.Repeat("1,", 300_000) + "1]",
	} {
		c, err := Compile(event.Raw(schema))
		if err != nil {
			t.Errorf("%.60s: %v", schema, err)
			continue
		}
		if err := c.Check(event.Raw(value)); !errors.Is(err, errSteps) {
			t.Errorf("%.60s: %.200v", schema, err)
		}
		if c.steps > 2*maxSteps+400_000 {
			t.Errorf("%.60s: %d steps", schema, c.steps)
		}
	}
}

func manyMembers(n int) string {
	var b strings.Builder
	b.WriteString(`{"m":1`)
	for i := range n {
		fmt.Fprintf(&b, `,"m%d":1`, i)
	}
	return b.String() + "}"
}

func BenchmarkContract(b *testing.B) {
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			if _, err := Compile(event.Raw(reportSchema)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		c, err := Compile(event.Raw(reportSchema))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := c.Check(event.Raw(`{"title":"a","score":0.5,"files":[{"name":"x"}]}`)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestSchemasThatSayTheSameHaveOneName(t *testing.T) {
	t.Parallel()
	ids := make(map[string]bool)
	for _, schema := range []string{`{"type":"object","required":["a"]}`, `{ "required": ["a"],
		"type": "object" }`} {
		id, canonical, err := ID(event.Raw(schema))
		if err != nil || string(canonical) != `{"required":["a"],"type":"object"}` {
			t.Errorf("%s is kept as %s, %v", schema, canonical, err)
		}
		ids[id] = true
	}
	if other, _, _ := ID(event.Raw(`{"type":"object","required":["b"]}`)); len(ids) != 1 || ids[other] {
		t.Errorf("%v; another one is %s", ids, other)
	}
}
