package expr

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

func sampleScope() *Scope {
	return &Scope{
		Input: event.Raw(`{"lang":"go","n":3,"half":0.5,"big":9007199254740993,"huge":12345678901234567891,"files":[{"name":"a","size":1},{"name":"b","size":200}],
			"none":null,"yes":true,"at":"2026-01-02T03:04:05Z","d-e":{"f":[[1,2],[3]]}}`),
		Run: RunView{
			ID: "r1", WorkflowID: "review", WorkflowVersion: "0123", Labels: map[string]string{"team": "core"}, Priority: 4,
			CreatedAt: time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC),
		},
		Tasks: map[string]TaskView{
			"a":       {State: event.TaskCompleted, Output: event.Raw(`{"score":0.75,"total":0.10000000000000000001,"text":"x\"y"}`), AgentID: "agent-1"},
			"fetch-1": {State: event.TaskFailed, Error: &event.TaskError{Code: "timeout", Message: "too slow"}},
		},
		Item: event.Raw(`{"name":"b"}`), Index: 7, Output: event.Raw(`{"done":false}`),
	}
}

const limit = 960 << 10

func TestAnExpressionHasItsValue(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		// Paths are handed on as they are written.
		`input.lang`:                `"go"`,
		` input.files[1].name `:     `"b"`,
		`input["d-e"].f[0][1]`:      `2`,
		`input['d-e']`:              `{"f":[[1,2],[3]]}`,
		`input.huge`:                `12345678901234567891`,
		`tasks.a.output.total`:      `0.10000000000000000001`,
		`tasks["fetch-1"].output`:   `null`,
		`item.name`:                 `"b"`,
		`output.done`:               `false`,
		`input.none`:                `null`,
		`tasks.never.output`:        `null`,
		`(input.files)[0]["size"]`:  `1`,
		`index`:                     `7`,
		`input.big + 1`:             `9007199254740994`,
		`input.n * 2`:               `6`,
		`input.half * 2.0`:          `1`,
		`input.n > 2.5`:             `true`,
		`input.half < 1`:            `true`,
		`double(input.n) / 2.0`:     `1.5`,
		`tasks.a.state`:             `"completed"`,
		`tasks.a.agentId`:           `"agent-1"`,
		`tasks.a.error == null`:     `true`,
		`tasks.never.state`:         `"pending"`,
		`tasks["fetch-1"].error`:    `{"code":"timeout","message":"too slow"}`,
		`run`:                       ``, // see TestMistakes
		`run.labels.team`:           `"core"`,
		`"x" in run.labels`:         `false`,
		`run.createdAt`:             `"2026-11-22T04:00:00Z"`,
		`run.priority + 1`:          `5`,
		`has(input.nothing)`:        `false`,
		`has(tasks.a.output.score)`: `true`,
		`input.files.filter(f, f.size > 100).map(f, {"n": f.name, "a": 1})`: `[{"a":1,"n":"b"}]`,
		`input.files.map(tasks, tasks.name)`:                                `["a","b"]`,
		`[3, 1, 2].sort()`:                                                  `[1,2,3]`,
		`input.lang.upperAscii() + "!"`:                                     `"GO!"`,
		`input.lang.matches("^g.$")`:                                        `true`,
		`"a,b".split(",")`:                                                  `["a","b"]`,
		`sets.contains([1,2,3], [1])`:                                       `true`,
		`math.greatest(1, input.n)`:                                         `3`,
		`base64.encode(b"hi")`:                                              `"aGk="`,
		`b"hi"`:                                                             `"aGk="`,
		`duration("90s")`:                                                   `"90s"`,
		`timestamp(input.at) + duration("1h")`:                              `"2026-01-02T04:04:05Z"`,
		`{1: "a", true: "b"}`:                                               `{"1":"a","true":"b"}`,
		`cel.bind(x, input.n, x + x)`:                                       `6`,
		`input.yes ? "y" : "n"`:                                             `"y"`,
		`"tab\t\u00e9"`:                                                     `"tab\té"`,
	} {
		if want == "" {
			continue
		}
		x, err := Compile(source, Any)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		got, err := x.Raw(sampleScope(), limit)
		if err != nil || string(got) != want {
			t.Errorf("%s is %s, %v; want %s", source, got, err, want)
		}
	}
}

func TestAnExpressionWithoutAValueSaysWhy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ source, code, want string }{
		{`input.nothing`, CodeExpression, "no such key: nothing, in ${{ input.nothing }}"},
		{`input.nothing + 1`, CodeExpression, "no such key: nothing"},
		{`input.files[2]`, CodeExpression, "no such place: [2] of a list of 2"},
		{`input.lang.x`, CodeExpression, "no such key: x of a string"},
		{`input.lang[0]`, CodeExpression, "no such place: [0] of a string"},
		{`tasks.never.output.x`, CodeExpression, "no such key: x of null"},
		{`2 * input.half`, CodeExpression, "no such overload"},
		{`1 / (input.n - 3)`, CodeExpression, "division by zero"},
		{`input.n + 9223372036854775807`, CodeExpression, "overflow"},
		{`1.0 / 0.0`, CodeExpression, "JSON has no number"},
		{`type(input)`, "", "the expression must be any value, it is a type"},
		{`[type(input)]`, CodeExpression, "JSON has no value of type"},
		{`int(input.lang)`, CodeExpression, "type conversion error"},
		{strings.Repeat("a", 400), "", "undeclared reference"},
	} {
		x, err := Compile(c.source, Any)
		if err == nil {
			_, err = x.Raw(sampleScope(), limit)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1000 {
			t.Errorf("%s: %v, want %s", c.source, err, c.want)
		}
		var e *Error
		if errors.As(err, &e) != (c.code != "") || e != nil && e.Code != c.code {
			t.Errorf("%s: %#v, want code %q", c.source, err, c.code)
		}
		if e != nil && (e.TaskError().Code != c.code || *e.TaskError().Retryable) {
			t.Errorf("%s: as the failure of a task %+v", c.source, e.TaskError())
		}
	}
}

func TestKinds(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		source string
		kind   Kind
		want   string // a value, or what the error holds
	}{
		{`input.yes`, Bool, "true"},
		{`!input.yes`, Bool, "false"},
		{`input.lang`, Bool, "must be true or false, it is a string"},
		{`input.files[0].size + 1`, Bool, "must be true or false, it is a number"},
		{`"yes"`, Bool, "must be true or false, it is a string"},
		{`1 + 1`, Bool, "must be true or false, it is a number"},
		{`input.files`, List, `[{"name":"a","size":1} {"name":"b","size":200}]`},
		{`[1, "a", null]`, List, `[1 "a" null]`},
		{`lists.range(101)`, List, "the list has 101 items, at most 100 are allowed"},
		{`input.lang`, List, "must be a list, it is a string"},
		{`{"a": 1}`, List, "must be a list, it is an object"},
		{`input.at`, Time, at.String()},
		{`timestamp(input.at)`, Time, at.String()},
		{`input.lang`, Time, `"go" is not a time in RFC 3339`},
		{`true`, Time, "must be a timestamp or a string, it is a boolean"},
		{`input.lang + "-" + string(input.n)`, Text, "go-3"},
		{`input.n`, Text, "3"},
		{`input.files`, Text, "must be a string, a number or a boolean, it is a list"},
		{`[1]`, Text, "must be a string, a number or a boolean, it is a list"},
	} {
		got, err := value(c.source, c.kind)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s as %s: %s, want %s", c.source, kindNames[c.kind], got, c.want)
		}
	}
}

func value(source string, kind Kind) (string, error) {
	x, err := Compile(source, kind)
	if err != nil {
		return "", err
	}
	var v any
	switch kind {
	case Bool:
		v, err = x.Bool(sampleScope())
	case List:
		v, err = x.List(sampleScope(), 100, limit)
	case Time:
		v, err = x.Time(sampleScope())
	case Text:
		v, err = x.Text(sampleScope(), limit)
	}
	return fmt.Sprint(v), err
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		source string
		kind   Kind
		offset int
		text   string
	}{
		{"", Any, 0, "the expression is empty"},
		{"  ", Any, 0, "the expression is empty"},
		{"input.a ==", Any, 10, "the expression ends too early"},
		{"1 +\n  nobody", Any, 6, "undeclared reference to 'nobody'"},
		{`"é" + nobody`, Any, 7, "undeclared reference to 'nobody'"},
		{"input.a(1)", Any, 7, "undeclared reference to 'a'"},
		{`1 + "a"`, Any, 2, "found no matching overload for '_+_' applied to '(int, string)'"},
		{"tasks", Any, 0, "tasks must be followed by the id of a task"},
		{"tasks.a", Any, 5, `say which member of task "a"`},
		{"tasks[input.x].output", Any, 0, "tasks must be followed by the id of a task"},
		{`1 in tasks["a"].output && "a" in tasks`, Any, 33, "tasks must be followed by the id of a task"},
		{"tasks.a.outptu == 1", Any, 7, `a task has no member "outptu"; it has output, state, error, agentId`},
		{"run.name", Any, 3, `run has no member "name"`},
		{"run", Any, 0, "say which member of run"},
		{"has(tasks.a.x)", Any, 3, `a task has no member "x"`},
		{"[1].map(x, run.y)", Any, 14, `run has no member "y"`},
		{strings.Repeat("(", 60) + "1" + strings.Repeat(")", 60), Any, 0, ""},
		{strings.Repeat("1+", 5000) + "1", Any, 0, "the expression has 10001 bytes, at most 8192 are allowed"},
		{`input.a.matches("(")`, Any, 16, "error parsing regexp: missing closing )"},
		{`input.a.matches("a{400}")`, Any, 16, "the regular expression has 402 instructions, at most 300 are allowed"},
		{`input.a.matches(input.b)`, Any, 21, "the regular expression of matches must be written down"},
		{`matches(input.a, "((a{99}){99}){99}")`, Any, 17, "error parsing regexp: invalid repeat count"},
		{"input.a\xff", Any, 0, "the expression is not valid UTF-8"},
	} {
		_, err := Compile(c.source, c.kind)
		var m Mistakes
		if !errors.As(err, &m) {
			t.Errorf("%.40q: %v", c.source, err)
			continue
		}
		if c.text != "" && (m[0].Offset != c.offset || !strings.HasPrefix(m[0].Text, c.text)) {
			t.Errorf("%.40q: %q at %d, want %q at %d", c.source, m[0].Text, m[0].Offset, c.text, c.offset)
		}
		if len(err.Error()) > 4000 {
			t.Errorf("%.40q: the mistakes have %d bytes", c.source, len(err.Error()))
		}
	}
}

func TestRefs(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]Refs{
		`1 + 1`:                    {},
		`input.a + run.priority`:   {Input: true, Run: true},
		`item == index`:            {Item: true, Index: true},
		`output.more`:              {Last: true},
		`tasks.b.output.x`:         {Outputs: []string{"b"}},
		`tasks["b-c"].output == 1`: {Outputs: []string{"b-c"}},
		`has(tasks.b.output.x)`:    {Outputs: []string{"b"}},
		`has(tasks.b.error)`:       {States: []string{"b"}},
		`[tasks.c.output, tasks.b.output, tasks.b.state, tasks.b.output]`: {Outputs: []string{"b", "c"}, States: []string{"b"}},
		`input.list.all(tasks, tasks.output == tasks.state)`:              {Input: true},
		`input.list.exists(x, x == tasks.a.agentId)`:                      {Input: true, States: []string{"a"}},
		`cel.bind(item, input.x, item.y) == tasks.z.output`:               {Input: true, Outputs: []string{"z"}},
		`{"input": 1}.input == 1`:                                         {},
		`{"k": tasks.a.output}.k`:                                         {Outputs: []string{"a"}},
	} {
		x, err := Compile(source, Any)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if diff := cmp.Diff(want, x.Refs()); diff != "" {
			t.Errorf("%s: %s", source, diff)
		}
	}
}

// What takes long, or makes much, is stopped by the number of its steps, wherever it runs.
func TestCostIsBounded(t *testing.T) {
	t.Parallel()
	double, share := strings.Repeat(`.map(x, x + x)`, 40), strings.Repeat(`.map(x, [x, x])`, 40)
	for _, source := range []string{
		`lists.range(10000).map(x, lists.range(10000).map(y, x * y))`,
		`lists.range(10000).all(x, lists.range(10000).all(y, x + y >= 0))`,
		`[input.text]` + double,
		`[[input.text]]` + double + `.all(l, l.all(x, x != ""))`,
		`cel.bind(l, [[input.text]]` + double + `, l == l)`,
		`cel.bind(l, [0]` + share + `, l == l)`,
		`cel.bind(l, [[input.text]]` + double + `, "x" in l[0])`,
		`[0]` + share + `.flatten(50)`,
		`lists.range(10000).all(x, x in input.list || true)`,
		`lists.range(10000).all(x, input.list == input.list)`,
		`lists.range(10000).all(x, input.list.sort().size() > 0)`,
		`lists.range(10000).all(x, input.list.distinct().size() > 0)`,
		`input.list.distinct().size() > 0`,
		`lists.range(10000).all(x, input.list.map(y, y + 1).size() > 0)`,
		`lists.range(10000).map(x, input.text.matches("(a*)*b"))`,
		`lists.range(10000).all(x, input.text.contains("b") == false)`,
		`lists.range(10000).map(x, input.text.replace("a", "bbbbbbbbbb"))`,
		`lists.range(10000).map(x, input.text.split(""))`,
		`lists.range(10000).map(x, "%s%s".format([input.text, input.text]))`,
		`lists.range(10000).map(x, lists.range(10000)).flatten().distinct()`,
		`lists.range(10000).map(x, base64.encode(bytes(input.text)))`,
		`lists.range(10000).map(x, input.text.reverse())`,
		`lists.range(10000).all(x, sets.contains(lists.range(10000), lists.range(10000)))`,
	} {
		x, err := Compile(source, Any)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		s := &Scope{Input: event.Raw(`{"text":"` + strings.Repeat("a", 50_000) + `","list":[` + strings.Repeat("1,2,3,", 100_000) + `4]}`)}
		began := time.Now()
		_, err = x.Raw(s, limit)
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeCost && e.Code != CodeTooLarge {
			t.Errorf("%.60s: %.200v, want %s", source, err, CodeCost)
		}
		t.Logf("%6d ms  %.70s", time.Since(began).Milliseconds(), source)
	}
}

func TestWhatIsReadAndMadeIsBounded(t *testing.T) {
	t.Parallel()
	s := &Scope{Tasks: map[string]TaskView{}}
	for i := range 5 {
		s.Tasks[fmt.Sprint("t", i)] = TaskView{Output: event.Raw(`"` + strings.Repeat("x", 900<<10) + `"`)}
	}
	for source, want := range map[string]string{
		`size(tasks.t0.output) + size(tasks.t1.output) + size(tasks.t2.output) + size(tasks.t3.output)`:                         "",
		`size(tasks.t0.output) + size(tasks.t1.output) + size(tasks.t2.output) + size(tasks.t3.output) + size(tasks.t4.output)`: CodeTooLarge,
		`[tasks.t0.output]`:                                             "",
		`[tasks.t0.output, tasks.t1.output]`:                            CodeTooLarge,
		`lists.range(10000).map(x, [tasks.t0.output, tasks.t0.output])`: CodeTooLarge,
	} {
		x, err := Compile(source, Any)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := x.Raw(s, limit)
		var e *Error
		if errors.As(err, &e); want == "" && err != nil || want != "" && (e == nil || e.Code != want) {
			t.Errorf("%s: %d bytes, %v, want %q", source, len(raw), err, want)
		}
	}
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	x, err := Compile("input.a + [1]", Any)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Raw(&Scope{Input: event.Raw(`{"a":` + deep + `}`)}, limit); err == nil || !strings.Contains(err.Error(), "nested deeper") {
		t.Errorf("JSON that is nested too deeply: %v", err)
	}
}

// The way without CEL has the values of the way with it.
func TestAPathHasTheValueThatCELGivesIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		raw := drawJSON(t, 4)
		source := "input"
		for range rapid.IntRange(0, 4).Draw(t, "steps") {
			source += rapid.SampledFrom([]string{".a", ".b", `["a"]`, `['b-c']`, "[0]", "[1]"}).Draw(t, "step")
		}
		short, err := Compile(source, Any)
		if err != nil || short.path == nil {
			t.Fatalf("%s: %v", source, err)
		}
		long, err := Compile("("+source+")", Any)
		if err != nil || long.path != nil {
			t.Fatalf("(%s): %v", source, err)
		}
		want, wantErr := long.Raw(&Scope{Input: raw}, limit)
		got, err := short.Raw(&Scope{Input: raw}, limit)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%s of %s: %v, with CEL %v", source, raw, err, wantErr)
		}
		if err := got.Canonicalize(); err == nil && string(got) != string(want) {
			t.Fatalf("%s of %s: %s, with CEL %s", source, raw, got, want)
		}
	})
}

func drawJSON(t *rapid.T, depth int) event.Raw {
	if depth == 0 || rapid.Bool().Draw(t, "leaf") {
		return event.Raw(rapid.SampledFrom([]string{"null", "true", "1", "-2.5", `"a"`, `""`, "[]", "{}"}).Draw(t, "value"))
	}
	if rapid.Bool().Draw(t, "list") {
		return event.Raw("[" + string(drawJSON(t, depth-1)) + ", " + string(drawJSON(t, depth-1)) + "]")
	}
	return event.Raw(`{"b-c":` + string(drawJSON(t, depth-1)) + `,"a": ` + string(drawJSON(t, depth-1)) + "}")
}

func TestAnExpressionIsUsedByManyAtOnce(t *testing.T) {
	t.Parallel()
	x, err := Compile(`input.files.map(f, f.name).join("-") + run.id`, Text)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if got, err := x.Text(sampleScope(), limit); err != nil || got != "a-br1" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	all.Wait()
}

func TestAScopeDecodesOnceWhatItsItemsShare(t *testing.T) {
	t.Parallel()
	x, err := Compile(`item.name + string(index) + input.lang`, Text)
	if err != nil {
		t.Fatal(err)
	}
	s := sampleScope()
	var got []string
	for i, item := range []event.Raw{event.Raw(`{"name":"x"}`), event.Raw(`{"name":"y"}`)} {
		one, err := x.Text(s.With(item, i), limit)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, one)
	}
	if !slices.Equal(got, []string{"x0go", "y1go"}) {
		t.Errorf("%q", got)
	}
	if _, ok := s.decoded["input"]; !ok || len(s.decoded) != 1 {
		t.Errorf("kept %v", s.decoded)
	}
}

func BenchmarkCompile(b *testing.B) {
	for name, source := range map[string]string{
		"path": "tasks.a.output.total", "condition": `tasks.a.output.score > 0.5 && input.lang == "go"`,
		"map": `input.files.filter(f, f.size < 100).map(f, {"name": f.name})`,
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Compile(source, Any); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEval(b *testing.B) {
	for name, source := range map[string]string{
		"path": "tasks.a.output.total", "condition": `tasks.a.output.score > 0.5 && input.lang == "go"`,
		"map": `input.files.filter(f, f.size < 100).map(f, {"name": f.name})`,
	} {
		b.Run(name, func(b *testing.B) {
			x, err := Compile(source, Any)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := x.Raw(sampleScope(), limit); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
