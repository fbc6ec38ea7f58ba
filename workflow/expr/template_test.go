package expr

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
)

func TestATemplateIsRendered(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]string{
		``:                     ``,
		`{"a": [1, 2.50]}`:     `{"a":[1,2.50]}`,
		`"${{ input.n }}"`:     `3`,
		`{"n":"${{input.n}}"}`: `{"n":3}`,
		`["${{ input.huge }}", "${{ tasks.a.output }}"]`:                           `[12345678901234567891,{"score":0.75,"total":0.10000000000000000001,"text":"x\"y"}]`,
		`"n is ${{ input.n }}"`:                                                    `"n is 3"`,
		`"${{ input.lang }} ${{ input.none }}|${{ input.half }}|${{ input.yes }}"`: `"go |0.5|true"`,
		`"list: ${{ input['d-e'].f }}"`:                                            `"list: [[1,2],[3]]"`,
		`"${{ tasks.a.output.text }}!"`:                                            `"x\"y!"`,
		`"${{ {\"a\": {\"b\": 1}}.a }}"`:                                           `{"b":1}`,
		`"${{ \"}}\" + '}}' }}"`:                                                   `"}}}}"`,
		`"${{ r'\\' + '''a'b''' }}"`:                                               `"\\a'b"`,
		`"a $${{ b }} c"`:                                                          `"a ${{ b }} c"`,
		`"$${{ a }} ${{ input.n }}"`:                                               `"${{ a }} 3"`,
		`"price $ {{ 5 }}"`:                                                        `"price $ {{ 5 }}"`,
		`"\u0024{{ input.n }}"`:                                                    `3`,
		`"$\u007b{ input.n }}"`:                                                    `3`,
		`{"${{ input.n }}": 1}`:                                                    `{"${{ input.n }}":1}`,
		`{"a":{"b":"x${{ item.name }}","c":[]},"d":"${{ index }}"}`:                `{"a":{"b":"xb","c":[]},"d":7}`,
		`"<&>${{ input.lang }}"`:                                                   `"<&>go"`,
	} {
		tpl, err := ParseTemplate(event.Raw(template))
		if err != nil {
			t.Errorf("%s: %v", template, err)
			continue
		}
		got, err := tpl.Render(sampleScope(), limit)
		if err != nil || string(got) != want {
			t.Errorf("%s becomes %s, %v; want %s", template, got, err, want)
		}
		if tpl.Static() != (template == want || tpl.Expressions() == 0 && !strings.Contains(template, "$${{") || strings.HasPrefix(template, `{"${{`)) {
			t.Errorf("%s: static is %v", template, tpl.Static())
		}
	}
}

func TestAllMistakesOfATemplateAreNamed(t *testing.T) {
	t.Parallel()
	_, err := ParseTemplate(event.Raw(`{"a":"${{ nobody }}","b":["x","ok ${{ 1 + }} and ${{ run.x }}"],"c":"é${{ \"open ","d":"${{ input.x }}"}`))
	var got Mistakes
	if !errors.As(err, &got) {
		t.Fatal(err)
	}
	want := Mistakes{
		{Pointer: "/a", Offset: 4, Text: "undeclared reference to 'nobody'"},
		{Pointer: "/b/1", Offset: 11, Text: "the expression ends too early"},
		{Pointer: "/b/1", Offset: 25, Text: `run has no member "x"; it has id, workflowId, workflowVersion, labels, priority, createdAt`},
		{Pointer: "/c", Offset: 2, Text: "${{ without }}"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, template := range []string{`{`, `"${{ }}"`, `"${{ {1} "`, `"${{ } }}"`} {
		if _, err := ParseTemplate(event.Raw(template)); err == nil {
			t.Errorf("%s is taken", template)
		}
	}
}

func TestATemplateSaysWhatItNeeds(t *testing.T) {
	t.Parallel()
	tpl, err := ParseTemplate(event.Raw(`{"a":"${{ tasks.b.output.x }}","c":"${{ input.y }} ${{ tasks.a.state }} ${{ tasks.b.output }}"}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Refs{Input: true, Outputs: []string{"b"}, States: []string{"a"}}, tpl.Refs()); diff != "" {
		t.Error(diff)
	}
	if n := tpl.Expressions(); n != 4 {
		t.Errorf("%d expressions", n)
	}
}

func TestARenderedTemplateIsBounded(t *testing.T) {
	t.Parallel()
	s := &Scope{Input: event.Raw(`{"big":"` + strings.Repeat("x", 100) + `"}`)}
	for template, code := range map[string]string{
		`{"a":"${{ input.big }}"}`:                        "",
		`{"a":"${{ input.big }}","b":"${{ input.big }}"}`: CodeTooLarge,
		`"${{ input.big }} ${{ input.big }}"`:             CodeTooLarge,
		`"${{ input.big + input.big }}"`:                  CodeTooLarge,
		`"` + strings.Repeat("y", 200) + `"`:              CodeTooLarge,
		`"${{ input.small }}"`:                            CodeExpression,
	} {
		tpl, err := ParseTemplate(event.Raw(template))
		if err != nil {
			t.Fatal(err)
		}
		_, err = tpl.Render(s, 150)
		var e *Error
		if errors.As(err, &e); code == "" && err != nil || code != "" && (e == nil || e.Code != code) {
			t.Errorf("%.60s: %v, want %q", template, err, code)
		}
	}
}

// Whatever is given, it is refused or becomes JSON.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		`{"a":"x ${{ input.a }} y"}`, `"${{ {\"a\":{}}}}"`, `"$${{ ${{ 1 }}"`, `"\u0024{{ 'a' }}"`, `["${{ r'\\' }}"]`, `"${{ [1].map(x, x) }}"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		tpl, err := ParseTemplate(raw)
		if err != nil {
			return
		}
		out, err := tpl.Render(sampleScope(), limit)
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("an error of no known type: %v", err)
		}
		if err == nil && len(raw) > 0 && !out.IsValid() {
			t.Fatalf("%q becomes %q", raw, out)
		}
	})
}

func BenchmarkRender(b *testing.B) {
	big := event.Raw(`{"text":"` + strings.Repeat("x", 500<<10) + `","n":1}`)
	for name, template := range map[string]string{
		"static": `{"a":1}`, "path": `{"a":"${{ tasks.a.output.score }}"}`, "text": `{"a":"score ${{ tasks.a.output.score }} of ${{ input.lang }}"}`,
		"500 KiB": `{"a":"${{ item }}"}`,
	} {
		b.Run(name, func(b *testing.B) {
			tpl, err := ParseTemplate(event.Raw(template))
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				s := sampleScope()
				s.Item = big
				if _, err := tpl.Render(s, limit); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
