package expr

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
)

// maxPattern bounds a regular expression: the time of a match is the length of the text times the instructions.
const maxPattern = 300

// Pattern compiles a regular expression of RE2 whose matches take a bounded time.
func Pattern(source string) (*regexp.Regexp, error) {
	if len(source) > 1000 {
		return nil, fmt.Errorf("the regular expression has %d bytes, at most 1000 are allowed", len(source))
	}
	tree, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return nil, errors.New(clip(err.Error(), 200))
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, errors.New(clip(err.Error(), 200))
	}
	if len(program.Inst) > maxPattern {
		return nil, fmt.Errorf("the regular expression has %d instructions, at most %d are allowed: repeat less", len(program.Inst), maxPattern)
	}
	return regexp.Compile(source)
}
