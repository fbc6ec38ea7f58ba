package expr

import (
	"errors"
	"testing"
)

// What the parser of CEL says is put into plain words, and only its first mistake is named: the others follow from that.
func TestMistakesOfSyntaxAreSaidInPlainWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		source string
		offset int
		text   string
	}{
		{"input. ", 7, "the expression ends too early"},
		{"!", 1, "the expression ends too early"},
		{"[1, 2", 5, "the expression ends too early"},
		{`{"a":`, 5, "the expression ends too early"},
		{"(1 == 2", 7, "the expression ends too early: ')' is missing"},
		{"1 ? 2", 5, "the expression ends too early: ':' is missing"},
		{"[(1]", 3, `')' is missing before "]"`},
		{"(1 2)", 3, `"2" cannot stand here`},
		{"input. == 1", 7, `". ==" cannot stand here`},
		{"== 3", 0, `"==" cannot stand here`},
		{"input.a[]", 8, `"]" cannot stand here`},
		{"1 == 1)", 6, `")" cannot follow: the expression is complete before it`},
		{"input.a and input.b", 8, `"and" cannot follow: the expression is complete before it`},
		{"input.a = 1", 8, `"=" means nothing here, "==" does`},
		{"input.a & true", 8, `"&" means nothing here, "&&" does`},
		{"input.a #", 8, `"#" is no part of an expression`},
		{`"abc`, 0, "the string that begins here does not end"},
		{"'", 0, "the string that begins here does not end"},
	} {
		_, err := Compile(c.source, Any)
		var m Mistakes
		if !errors.As(err, &m) || len(m) != 1 || m[0] != (Mistake{Offset: c.offset, Text: c.text}) {
			t.Errorf("%q: %+v, want %q at %d", c.source, m, c.text, c.offset)
		}
	}
}
