package bridge

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

// issueJSON is one schema error in the form of the old API.
type issueJSON struct {
	Type  string    `json:"type"`
	Loc   []any     `json:"loc"`
	Msg   string    `json:"msg"`
	Input event.Raw `json:"input"`
	Ctx   event.Raw `json:"ctx,omitzero"`
}

// checker collects the schema errors of a body, in the order of the fields.
type checker struct{ issues []issueJSON }

// err returns the answer to a body with errors.
func (c *checker) err() error {
	if len(c.issues) == 0 {
		return nil
	}
	return &oldError{http.StatusUnprocessableEntity, c.issues}
}

func (c *checker) add(kind string, loc []any, msg string, input event.Raw, ctx event.Raw) {
	shown := input.Clone()
	if err := shown.Format(); err != nil || len(shown) == 0 { // compact, as everything the old server sent
		shown = event.Raw("null")
	}
	c.issues = append(c.issues, issueJSON{Type: kind, Loc: loc, Msg: msg, Input: shown, Ctx: ctx})
}

// object is a JSON object being checked.
type object struct {
	c       *checker
	loc     []any
	raw     event.Raw
	members map[string]event.Raw
}

// body checks that the body is an object. It returns nil after an error.
func (c *checker) body(raw event.Raw) *object {
	if raw == nil {
		c.add("missing", []any{"body"}, "Field required", nil, nil)
		return nil
	}
	return c.object(raw, []any{"body"}, "model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
}

func (c *checker) object(raw event.Raw, loc []any, kind, msg string) *object {
	o := &object{c: c, loc: loc, raw: raw}
	if raw.Kind() != '{' || event.Unmarshal(raw, &o.members) != nil {
		c.add(kind, loc, msg, raw, nil)
		return nil
	}
	return o
}

func (o *object) at(name any) []any { return append(slices.Clip(o.loc), name) }

// has reports whether a member is there and not null.
func (o *object) has(name string) bool {
	v, ok := o.members[name]
	return ok && v.Kind() != 'n'
}

// present returns a member, and complains if it is not there.
func (o *object) present(name string) (event.Raw, bool) {
	v, ok := o.members[name]
	if !ok {
		o.c.add("missing", o.at(name), "Field required", o.raw, nil)
	}
	return v, ok
}

// text returns a member that must be a string.
func (o *object) text(name string) string {
	if v, ok := o.present(name); ok {
		return o.c.text(v, o.at(name))
	}
	return ""
}

// textOr is text for a member that may be absent, but not null.
func (o *object) textOr(name, absent string) string {
	if _, ok := o.members[name]; !ok {
		return absent
	}
	return o.text(name)
}

// optionalText is text for a member that may be absent or null.
func (o *object) optionalText(name string) string {
	if !o.has(name) {
		return ""
	}
	return o.text(name)
}

func (c *checker) text(v event.Raw, loc []any) string {
	var s string
	if v.Kind() != '"' || event.Unmarshal(v, &s) != nil {
		c.add("string_type", loc, "Input should be a valid string", v, nil)
	}
	return s
}

// model returns a member that must be an object with members of its own.
func (o *object) model(name string) *object {
	v, ok := o.present(name)
	if !ok {
		return nil
	}
	return o.c.object(v, o.at(name), "model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
}

// dict returns a member that must be an object of any kind, nil if it is absent.
func (o *object) dict(name string) event.Raw {
	v, ok := o.members[name]
	if !ok {
		return nil
	}
	if v.Kind() != '{' {
		o.c.add("dict_type", o.at(name), "Input should be a valid dictionary", v, nil)
	}
	return v
}

// optionalDict is dict for a member that may be null.
func (o *object) optionalDict(name string) event.Raw {
	if !o.has(name) {
		return nil
	}
	return o.dict(name)
}

// list returns the items of a member that must be a list.
func (o *object) list(name string) []event.Raw {
	v := o.members[name]
	var items []event.Raw
	if v.Kind() != '[' || event.Unmarshal(v, &items) != nil {
		o.c.add("list_type", o.at(name), "Input should be a valid list", v, nil)
	}
	return items
}

// texts returns a list of strings that may be absent, but not null.
func (o *object) texts(name string) []string {
	list := []string{}
	if _, ok := o.members[name]; !ok {
		return list
	}
	for i, v := range o.list(name) {
		list = append(list, o.c.text(v, append(o.at(name), i)))
	}
	return list
}

// valueError adds an error about the object as a whole.
func (o *object) valueError(msg string) {
	o.c.add("value_error", o.loc, "Value error, "+msg, o.raw, event.Raw(`{"error":{}}`))
}

// checkSyntax returns what is wrong with a JSON text, where the old server's parser would have seen it.
func checkSyntax(body event.Raw) *issueJSON {
	if body.IsValid() {
		return nil
	}
	_, err := jsontext.AppendFormat(nil, body)
	at := len(body)
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		at = min(int(syntax.ByteOffset), len(body))
	}
	reason := "Expecting value"
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		reason = "Duplicate member"
	case at == len(body) && inString(body):
		reason, at = "Unterminated string starting at", strings.LastIndexByte(string(body), '"')
	case at < len(body):
		at, reason = syntaxReason(body, at)
	}
	return &issueJSON{
		Type: "json_invalid", Loc: []any{"body", at}, Msg: "JSON decode error", Input: event.Raw("{}"),
		Ctx: event.MustMarshal(map[string]string{"error": reason}),
	}
}

// inString reports whether a text ends within a string.
func inString(body event.Raw) bool {
	open, escaped := false, false
	for _, c := range body {
		switch {
		case escaped:
			escaped = false
		case open && c == '\\':
			escaped = true
		case c == '"':
			open = !open
		}
	}
	return open
}

// syntaxReason says what stands at an offset instead of what.
func syntaxReason(body event.Raw, at int) (int, string) {
	for at > 0 && isLetter(body[at]) && isLetter(body[at-1]) {
		at-- // a word is wrong from its first letter
	}
	before := strings.TrimRight(string(body[:at]), " \t\r\n")
	last := byte(0)
	if before != "" {
		last = before[len(before)-1]
	}
	switch {
	case last == '{', last == ',' && body[at] != ']' && openBracket(body[:at]) == '{':
		return at, "Expecting property name enclosed in double quotes"
	case last == 0, last == ':', last == ',', last == '[':
		return at, "Expecting value"
	case openBracket(body[:at]) == 0:
		return at, "Extra data"
	case last == '"' && openBracket(body[:at]) == '{' && isName(before):
		return at, "Expecting ':' delimiter"
	}
	return at, "Expecting ',' delimiter"
}

// isName reports whether a text within an object ends with the name of a member.
func isName(before string) bool {
	start := strings.LastIndexByte(before[:len(before)-1], '"')
	prefix := strings.TrimRight(before[:max(start, 0)], " \t\r\n")
	return strings.HasSuffix(prefix, "{") || strings.HasSuffix(prefix, ",")
}

// openBracket returns the innermost bracket that is still open, 0 if none is.
func openBracket(body event.Raw) byte {
	var open []byte
	inside, escaped := false, false
	for _, c := range body {
		switch {
		case escaped:
			escaped = false
		case inside && c == '\\':
			escaped = true
		case c == '"':
			inside = !inside
		case inside:
		case c == '{' || c == '[':
			open = append(open, c)
		case (c == '}' || c == ']') && len(open) > 0:
			open = open[:len(open)-1]
		}
	}
	if len(open) == 0 {
		return 0
	}
	return open[len(open)-1]
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
