package workflow

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// hostile returns files that want to cost much, each with what it must be refused for. None may be taken, and none may take long: what each
// took is printed; that it is bounded follows from what is refused before it is done.
func hostile() map[string]struct{ source, want string } {
	list := func(n int, one func(i int) string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = one(i)
		}
		return `{"id":"d","tasks":[` + strings.Join(all, ",") + `]}`
	}
	var lists, objects strings.Builder
	lists.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	objects.WriteString("a0: &a0 {x: 1}\n")
	for i := range 30 {
		fmt.Fprintf(&lists, "a%d: &a%d [%s*a%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 9), i)
		fmt.Fprintf(&objects, "a%d: &a%d {b: *a%d, c: *a%d}\n", i+1, i+1, i, i)
	}
	var block strings.Builder
	for i := range 1200 {
		block.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	const deep = "nested too deeply"
	return map[string]struct{ source, want string }{
		"10 MB":                 {strings.Repeat(" ", 10<<20), "too_large: the definition has 10485760 bytes"},
		"JSON 20,000 deep":      {`{"id":"d","tasks":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}", deep},
		"YAML 20,000 brackets":  {"id: d\ntasks: " + strings.Repeat("[", 20_000), deep},
		"YAML 20,000 dashes":    {"id: d\ntasks:\n" + strings.Repeat("- ", 20_000) + "x\n", deep},
		"YAML 20,000 questions": {strings.Repeat("? ", 20_000), deep},
		"YAML 1,200 indents":    {block.String(), deep},
		"200,000 tasks":         {`{"id":"d","tasks":[` + strings.Repeat("{},", 199_999) + "{}]}", "200000 tasks, at most 10000 are allowed"},
		"lists of aliases":      {lists.String(), "too_large: with its aliases written out"},
		"objects of aliases":    {objects.String(), "too_large: with its aliases written out"},
		"an alias of itself":    {"id: d\ntasks: &x [*x]\n", ""},
		"brackets and zeros":    {strings.Repeat("\x00\x01{[", 200_000), ""},
		"800,000 quotes":        {strings.Repeat(`"`, 800_000), ""},
		"9,000 expressions": {list(9000, func(i int) string {
			return fmt.Sprintf(`{"taskId":"t%d","agentId":"x","when":"input.a + %d > 1"}`, i, i)
		}), "more than 2000 different expressions"},
		"140,000 in a template": {list(1, func(int) string {
			return `{"taskId":"a","agentId":"x","parameters":{"p":"` + strings.Repeat("${{1}}", 140_000) + `"}}`
		}), "more than 1000 expressions"},
		"9,000 schemas": {list(9000, func(i int) string {
			return fmt.Sprintf(`{"taskId":"t%d","agentId":"x","outputSchema":{"const":%d}}`, i, i)
		}), "more than 500 different schemas"},
		"4,000 parentheses": {list(1, func(int) string {
			return `{"taskId":"a","agentId":"x","when":"` + strings.Repeat("(", 4000) + strings.Repeat(")", 4000) + `"}`
		}), "recursion limit exceeded"},
		"an expression too long": {list(1, func(int) string { return `{"taskId":"a","agentId":"x","when":"` + strings.Repeat("!", 9000) + `true"}` }), "the expression has 9004 bytes, at most 8192 are allowed"},
		"a regular expression":   {list(1, func(int) string { return `{"taskId":"a","agentId":"x","when":"input.a.matches(\"(x{30}){30}\")"}` }), "instructions, at most 300 are allowed"},
		"a schema in a net":      {list(1, func(int) string { return `{"taskId":"a","agentId":"x","outputSchema":{"$ref":"http://127.0.0.1:1/s"}}` }), "is not part of the schema"},
		"a schema in a file":     {list(1, func(int) string { return `{"taskId":"a","agentId":"x","outputSchema":{"$ref":"file:///etc/passwd"}}` }), "is not part of the schema"},
		"a schema's pattern":     {list(1, func(int) string { return `{"taskId":"a","agentId":"x","outputSchema":{"pattern":"(x{30}){30}"}}` }), "it is no JSON Schema"},
		"a ring of 10,000": {list(MaxTasks, func(i int) string {
			return fmt.Sprintf(`{"taskId":"t%d","dependsOn":["t%d"]}`, i, (i+1)%MaxTasks)
		}), "a cycle: "},
		"200 edges for each of 700": {list(700, func(i int) string {
			ids := make([]string, 200)
			for k := range ids {
				ids[k] = fmt.Sprintf(`"%d"`, (i+k+1)%700)
			}
			return fmt.Sprintf(`{"taskId":"%d","dependsOn":[%s]}`, i, strings.Join(ids, ","))
		}), "a cycle: "},
	}
}

func TestHostileFilesAreRefused(t *testing.T) {
	for name, c := range hostile() {
		began := time.Now()
		_, err := ParseFile([]byte(c.source))
		t.Logf("%6d ms  %s", time.Since(began).Milliseconds(), name)
		var p Problems
		var e *event.Error
		if !errors.As(err, &p) && !errors.As(err, &e) {
			t.Errorf("%s: an error of no known type: %.200v", name, err)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %.300v, want %s", name, err, c.want)
		}
	}
}

// The largest definition that is allowed is taken.
func TestTheLargestGraphIsTaken(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`{"id":"d","tasks":[{"taskId":"0"}`)
	for i := 1; i < MaxTasks; i++ {
		fmt.Fprintf(&b, `,{"taskId":"%d","dependsOn":["%d"],"when":"tasks[\"%d\"].output.a"}`, i, i/2, i/4)
	}
	began := time.Now()
	if _, err := Parse(event.Raw(b.String() + `]}`)); err != nil {
		t.Errorf("%.500v", err)
	}
	t.Logf("%d KiB, %d ms", b.Len()>>10, time.Since(began).Milliseconds())
}
