package event

import (
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Object appends JSON objects without reflection, for the documents that are written thousands of times a second. It writes what
// Marshal writes for a struct whose members are all omitzero; the tests of its users compare the two byte by byte.
type Object struct{ buf []byte }

// objects are those that are not in use. What they have written into is used again: a buffer guessed too large is kept for as long as the document in it.
var objects = sync.Pool{New: func() any { return new(Object) }}

// maxScratch is the largest buffer that is kept for the next object.
const maxScratch = 64 << 10

// NewObject begins an object. Its last call is Bytes.
func NewObject() *Object {
	o := objects.Get().(*Object)
	o.buf = append(o.buf[:0], '{')
	return o
}

// Bytes ends the outermost object and returns it. The Object must not be used afterwards.
func (o *Object) Bytes() []byte {
	out := make([]byte, len(o.buf)+1)
	copy(out, o.buf)
	out[len(o.buf)] = '}'
	if cap(o.buf) <= maxScratch {
		objects.Put(o)
	}
	return out
}

func (o *Object) name(name string) {
	if c := o.buf[len(o.buf)-1]; c != '{' && c != '[' {
		o.buf = append(o.buf, ',')
	}
	o.buf = append(o.buf, '"')
	o.buf = append(o.buf, name...)
	o.buf = append(o.buf, '"', ':')
}

// String appends a string, also an empty one.
func (o *Object) String(name, v string) {
	o.name(name)
	o.quote(v)
}

// quote appends a JSON string. Invalid UTF-8 cannot occur: what is stored was decoded strictly.
func (o *Object) quote(v string) {
	plain := true
	for i := range len(v) {
		if c := v[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f {
			plain = false
			break
		}
	}
	if plain {
		o.buf = append(append(append(o.buf, '"'), v...), '"')
		return
	}
	o.buf, _ = jsontext.AppendQuote(o.buf, v)
}

// OptString appends a string unless it is empty.
func (o *Object) OptString(name, v string) {
	if v != "" {
		o.String(name, v)
	}
}

// Int appends an integer, also 0.
func (o *Object) Int(name string, v int64) {
	o.name(name)
	o.buf = strconv.AppendInt(o.buf, v, 10)
}

// OptInt appends an integer unless it is 0.
func (o *Object) OptInt(name string, v int64) {
	if v != 0 {
		o.Int(name, v)
	}
}

// OptBool appends true, or nothing.
func (o *Object) OptBool(name string, v bool) {
	if v {
		o.name(name)
		o.buf = append(o.buf, "true"...)
	}
}

// Time appends a time as RFC 3339 with as many digits as it needs.
func (o *Object) Time(name string, v time.Time) {
	o.name(name)
	o.buf = append(v.AppendFormat(append(o.buf, '"'), time.RFC3339Nano), '"')
}

// OptTime appends a time unless it is zero.
func (o *Object) OptTime(name string, v time.Time) {
	if !v.IsZero() {
		o.Time(name, v)
	}
}

// OptRaw appends a JSON value as it is, unless it is nil.
func (o *Object) OptRaw(name string, v Raw) {
	if v != nil {
		o.name(name)
		o.buf = append(o.buf, v...)
	}
}

// OptValue appends any value, by reflection, if there is one. It is for members that are rare.
func (o *Object) OptValue(name string, there bool, v any) {
	if there {
		o.name(name)
		o.buf = append(o.buf, MustMarshal(v)...)
	}
}

// List appends an array of n members; each calls Begin and End, or Elem.
func (o *Object) List(name string, n int, each func(i int)) {
	o.name(name)
	o.buf = append(o.buf, '[')
	for i := range n {
		if i > 0 {
			o.buf = append(o.buf, ',')
		}
		each(i)
	}
	o.buf = append(o.buf, ']')
}

// Object appends an object whose members members appends.
func (o *Object) Object(name string, members func()) {
	o.name(name)
	o.Begin()
	members()
	o.End()
}

// Begin begins an object inside a list, End ends it.
func (o *Object) Begin() { o.buf = append(o.buf, '{') }

// End ends an object that Begin began.
func (o *Object) End() { o.buf = append(o.buf, '}') }

// StringElem appends a string inside a list.
func (o *Object) StringElem(v string) { o.quote(v) }

// RawElem appends a JSON value as it is inside a list.
func (o *Object) RawElem(v Raw) { o.buf = append(o.buf, v...) }

// UintElem appends an integer inside a list.
func (o *Object) UintElem(v uint64) { o.buf = strconv.AppendUint(o.buf, v, 10) }
