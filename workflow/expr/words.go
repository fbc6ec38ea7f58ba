package expr

import (
	"fmt"
	"strings"
)

// syntaxError begins what the parser of CEL says, unlike what its type checker does.
const syntaxError = "Syntax error: "

// plain takes from a message of CEL what says nothing here.
func plain(message string) string {
	return clip(strings.ReplaceAll(message, " (in container '')", ""), 300)
}

// plainSyntax says in plain words what the parser stumbled over. atEnd says that it was the end of the source.
func plainSyntax(said string, atEnd bool) string {
	said, wanted, _ := strings.Cut(said, " expecting ")
	what, found, _ := strings.Cut(said, " '")
	found = strings.TrimSpace(strings.TrimSuffix(found, "'"))
	const end = "<EOF>"
	switch what {
	case "mismatched input", "extraneous input", "no viable alternative at input":
		switch {
		case atEnd && strings.HasPrefix(wanted, "'"):
			return fmt.Sprintf("the expression ends too early: %s is missing", wanted)
		case atEnd || found == end:
			return "the expression ends too early"
		case wanted == end:
			return fmt.Sprintf("%q cannot follow: the expression is complete before it", found)
		}
		return fmt.Sprintf("%q cannot stand here", found)
	case "missing":
		token, before, _ := strings.Cut(found, "' at '")
		if before == end {
			return fmt.Sprintf("the expression ends too early: '%s' is missing", token)
		}
		return fmt.Sprintf("'%s' is missing before %q", token, before)
	case "token recognition error at:":
		return plainToken(found)
	}
	return said
}

// plainToken says in plain words why something is no part of an expression.
func plainToken(found string) string {
	if found == "" {
		return "there is something that is no part of an expression"
	}
	switch c := found[:1]; c {
	case "=", "&", "|":
		return fmt.Sprintf("%q means nothing here, %q does", c, c+c)
	case `"`, "'":
		return "the string that begins here does not end"
	}
	return fmt.Sprintf("%q is no part of an expression", found)
}
