package event

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const upperHex = "0123456789ABCDEF"

// Token returns the subject token that stands for an id.
//
// An id of 1 to 128 characters of [A-Za-z0-9_-] stands for itself. Every other id is written as '=' followed by its bytes,
// each byte outside that set as '=' and two upper-case hexadecimal digits. A plain id never begins with '=', so the two
// forms cannot collide, and each id has exactly one token. Token fails with CodeInvalid for the empty id and for one that is not
// UTF-8 (no JSON document could hold it), and with CodeTooLarge when the token would be longer than MaxToken bytes (a client
// library closes its connection over a longer subject).
func Token(id string) (string, error) {
	if id == "" {
		return "", Errorf(CodeInvalid, "an id must not be empty")
	}
	if len(id) <= MaxPlainID && isPlain(id) {
		return id, nil
	}
	if !utf8.ValidString(id) {
		return "", Errorf(CodeInvalid, "the id %q is not UTF-8", id)
	}
	var b strings.Builder
	b.WriteByte('=')
	for i := range len(id) {
		if c := id[i]; isPlainByte(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('=')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
	}
	if b.Len() > MaxToken {
		return "", Errorf(CodeTooLarge, "the id is too long: its escaped form has %d bytes, at most %d are allowed", b.Len(), MaxToken)
	}
	return b.String(), nil
}

// ParseToken returns the id a subject token stands for. It accepts only what [Token] produces.
func ParseToken(token string) (string, error) {
	if token == "" || len(token) > MaxToken {
		return "", Errorf(CodeInvalid, "an id token has 1 to %d bytes", MaxToken)
	}
	if token[0] != '=' {
		if len(token) > MaxPlainID || !isPlain(token) {
			return "", Errorf(CodeInvalid,
				"the id token %q must be escaped: '=', then each byte outside [A-Za-z0-9_-] as '=' and two upper-case hexadecimal digits", token)
		}
		return token, nil
	}
	id := make([]byte, 0, len(token))
	for i := 1; i < len(token); i++ {
		c := token[i]
		if c == '=' {
			if i+2 >= len(token) {
				return "", Errorf(CodeInvalid, "the id token %q ends inside an escape", token)
			}
			hi, lo := strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
			if hi < 0 || lo < 0 {
				return "", Errorf(CodeInvalid, "the id token %q has a bad escape", token)
			}
			c = byte(hi<<4 | lo)
			i += 2
		}
		id = append(id, c)
	}
	again, err := Token(string(id))
	if err != nil {
		return "", err
	}
	if again != token {
		return "", Errorf(CodeInvalid, "the id token %q is not in its canonical form %q", token, again)
	}
	return string(id), nil
}

// MustToken is Token for ids known to be valid. It panics on others.
func MustToken(id string) string {
	t, err := Token(id)
	if err != nil {
		panic(fmt.Sprintf("event: id %q: %v", id, err))
	}
	return t
}

func isPlain(s string) bool {
	for i := range len(s) {
		if !isPlainByte(s[i]) {
			return false
		}
	}
	return true
}

func isPlainByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}
