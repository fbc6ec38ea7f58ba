package workflow

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

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
	c, err := compileContract(event.Raw(reportSchema))
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
		err := c.check(event.Raw(value))
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
		`{"description":"` + strings.Repeat("x", MaxSchemaBytes) + `"}`:      "at most 65536 are allowed",
		strings.Repeat(`{"not":`, 1000) + `true` + strings.Repeat(`}`, 1000): "nested deeper",
		`{"$ref":"#"}`: "",
	} {
		c, err := compileContract(event.Raw(schema))
		if want == "" { // it may be taken, but must not run for ever
			if err == nil {
				err = c.check(event.Raw(`1`))
			}
			if err == nil {
				t.Errorf("%.60s: nothing is wrong", schema)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 2*maxSchemaText {
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
		c, err := compileContract(event.Raw(schema))
		if err != nil {
			t.Errorf("%.60s: %v", schema, err)
			continue
		}
		if err := c.check(event.Raw(value)); !errors.Is(err, errSteps) {
			t.Errorf("%.60s: %.200v", schema, err)
		}
		if c.steps > 2*maxSchemaSteps+400_000 {
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

func TestASchemaIsUsedByManyAtOnce(t *testing.T) {
	t.Parallel()
	d := decoded(t, `{"id":"d","inputSchema":`+reportSchema+`,"tasks":[{"taskId":"a","outputSchema":{"type":"object","required":["n"]}}]}`)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if why := d.checkInput(event.Raw(`{"title":"a","score":1}`)); why != nil {
				t.Errorf("an input that fits: %+v", why)
			}
			if why := d.checkInput(nil); why == nil || why.Code != "invalid" {
				t.Errorf("no input: %+v", why)
			}
			if why := d.checkOutput(&d.Tasks[0], event.Raw(`{}`)); why == nil || why.Code != CodeInvalidOutput || why.Retryable != nil {
				t.Errorf("an output that does not fit: %+v", why)
			}
		})
	}
	all.Wait()
	kept := 0
	d.compiled.contracts.Range(func(any, any) bool { kept++; return true })
	if kept != 2 {
		t.Errorf("%d schemas are kept, want 2", kept)
	}
}

func decoded(t *testing.T, source string) *Definition {
	t.Helper()
	d, err := Decode(event.Raw(source))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func BenchmarkContract(b *testing.B) {
	b.Run("compile", func(b *testing.B) {
		for b.Loop() {
			if _, err := compileContract(event.Raw(reportSchema)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		c, err := compileContract(event.Raw(reportSchema))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := c.check(event.Raw(`{"title":"a","score":0.5,"files":[{"name":"x"}]}`)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// An output that does not fit is a failed attempt whose violations the next attempt is told; one that fits completes the task. Repeats change nothing.
func TestAnOutputThatDoesNotFitIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	def := decoded(t, `{"id":"d","retry":{"attempts":1},"tasks":[{"taskId":"a","agentCapability":"x","outputSchema":{"type":"object","required":["n"]}}]}`)
	at := At{Now: noon, Stream: noon, Seq: 1}
	run := Decide(def, nil, &Start{Event: &event.RunStart{RunID: "r"}, Workflow: "d"}, at).Run
	bad, good := event.Raw(`{"m":1}`), event.Raw(`{"n":1}`)
	report := func(attempt int, output event.Raw) Decision {
		ref := event.AttemptRef{RunID: "r", TaskID: "a", Attempt: attempt, Token: "t"}
		return Decide(def, run, &Said{Agent: "g", Event: &event.Result{AttemptRef: ref, Status: event.StatusCompleted, Output: output}}, at)
	}
	assign := func() { run = Decide(def, run, &Assign{TaskID: "a", Agent: "g", Token: "t"}, at).Run }

	assign()
	out := report(1, bad)
	run = out.Run
	if got := run.Tasks[0]; got.State != event.TaskRetrying || got.Error.Code != CodeInvalidOutput || !strings.Contains(got.Error.Message, "missing property 'n'") {
		t.Fatalf("after an output that does not fit: %+v", got)
	}
	if len(out.Slots) != 1 || !out.Slots[0].Failed {
		t.Errorf("its slot: %+v", out.Slots)
	}
	if again := report(1, bad); again.Run != nil || again.Refuse != nil {
		t.Errorf("its repeat: %+v", again)
	}
	at.Now = at.Now.Add(time.Hour)
	run = Decide(def, run, &Tick{TaskID: "a"}, at).Run
	assign()
	completed := report(2, good).Run
	if completed.State != event.RunCompleted || completed.Tasks[0].Error != nil {
		t.Errorf("after an output that fits: %+v", completed)
	}
	run = report(2, bad).Run
	if run.State != event.RunFailed || run.Error.Code != CodeInvalidOutput {
		t.Errorf("without a retry left: %+v", run)
	}
	if again := report(2, bad); again.Run != nil || again.Refuse != nil {
		t.Errorf("the repeat of the last: %+v", again)
	}
}

func TestARunDoesNotBeginWithAnInputThatDoesNotFit(t *testing.T) {
	t.Parallel()
	def := decoded(t, `{"id":"d","inputSchema":{"type":"object","required":["n"]},"tasks":[{"taskId":"a","agentCapability":"x"}]}`)
	at := At{Now: noon, Stream: noon, Seq: 1}
	start := func(input string, legacy bool) Decision {
		return Decide(def, nil, &Start{Event: &event.RunStart{RunID: "r", Input: event.Raw(input), Legacy: legacy}, Workflow: "d"}, at)
	}
	if out := start(`{"m":1}`, false); out.Run != nil || out.Refuse == nil || out.Refuse.Code != event.CodeInvalid || !strings.Contains(out.Refuse.Message, "'n'") {
		t.Errorf("an input that does not fit: %+v", out)
	}
	if out := start(`{"n":1}`, false); out.Refuse != nil || out.Run.State != event.RunRunning {
		t.Errorf("an input that fits: %+v", out)
	}
	if out := start(`{}`, true); out.Refuse != nil || out.Run.State != event.RunFailed {
		t.Errorf("of the old API: %+v", out)
	}
}

func TestARunHasThePriorityOfItsDefinitionUnlessItIsGivenOne(t *testing.T) {
	t.Parallel()
	def := decoded(t, `{"id":"d","priority":4,"tasks":[{"taskId":"a","agentCapability":"x"}]}`)
	for given, want := range map[int]int{0: 4, 7: 7, 99: 9} {
		start := &Start{Event: &event.RunStart{RunID: "r", Priority: given}, Workflow: "d"}
		if got := Decide(def, nil, start, At{Now: noon, Stream: noon, Seq: 1}).Run.Priority; got != want {
			t.Errorf("given %d it is %d, want %d", given, got, want)
		}
	}
}
