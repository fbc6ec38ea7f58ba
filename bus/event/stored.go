package event

import (
	"bytes"
	"strconv"
)

// Stored reads a stream's acknowledgement as nats-server writes it for a message that it has stored, and reports false for everything else, such as an
// error: that is to be decoded as JSON. One comes for each message that is published.
func Stored(data []byte) (stream string, seq uint64, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	if !ok {
		return "", 0, false
	}
	name, rest, ok := bytes.Cut(rest, []byte(`"`))
	if !ok || len(name) == 0 || bytes.ContainsFunc(name, func(r rune) bool { return r == '\\' || r <= ' ' || r > '~' }) {
		return "", 0, false
	}
	rest, ok = bytes.CutPrefix(rest, []byte(`,"seq":`))
	if !ok {
		return "", 0, false
	}
	digits, ok := bytes.CutSuffix(rest, []byte("}"))
	if !ok || bytes.HasPrefix(digits, []byte("0")) { // JSON knows no leading zeros, and no stream the sequence 0
		return "", 0, false
	}
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	return string(name), seq, err == nil
}
