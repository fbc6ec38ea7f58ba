package expr

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

var errTooDeep = fmt.Errorf("it is nested deeper than %d", maxNesting)

// Decode turns JSON into values of Go: integers of 64 bits are int64, other numbers float64. Nothing stands for null. What is nested too deeply is
// refused.
func Decode(raw event.Raw) (any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	return decodeNext(jsontext.NewDecoder(bytes.NewBuffer(raw)), 0)
}

func decodeNext(d *jsontext.Decoder, depth int) (any, error) {
	if depth > maxNesting {
		return nil, errTooDeep
	}
	t, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch t.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return t.Bool(), nil
	case '"':
		return t.String(), nil
	case '0':
		return number(t.String()), nil
	case '[':
		list := []any{}
		for d.PeekKind() != ']' {
			v, err := decodeNext(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.ReadToken()
		return list, err
	}
	object := make(map[string]any)
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		key := name.String()
		if object[key], err = decodeNext(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err = d.ReadToken()
	return object, err
}

// number is an integer if it is written as one and has 64 bits.
func number(text string) any {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	f, _ := strconv.ParseFloat(text, 64) // beyond its range it is infinite, which cannot be written again
	return f
}

var errTooLarge = errors.New("the result is too large")

// writer writes values of CEL as JSON, and stops beyond its limit.
type writer struct {
	buf   []byte
	limit int
}

func (w *writer) value(v ref.Val, depth int) error {
	if depth > maxNesting {
		return errTooDeep
	}
	switch v := v.(type) {
	case types.Null:
		w.buf = append(w.buf, "null"...)
	case types.Bool:
		w.buf = strconv.AppendBool(w.buf, bool(v))
	case types.Int:
		w.buf = strconv.AppendInt(w.buf, int64(v), 10)
	case types.Uint:
		w.buf = strconv.AppendUint(w.buf, uint64(v), 10)
	case types.Double:
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("JSON has no number %v", float64(v))
		}
		w.buf = append(w.buf, jsontext.Float(float64(v)).String()...)
	case types.String:
		return w.text(string(v))
	case types.Bytes:
		return w.text(base64.StdEncoding.EncodeToString(v))
	case types.Timestamp:
		return w.text(v.UTC().Format(time.RFC3339Nano))
	case types.Duration:
		return w.text(strconv.FormatFloat(v.Seconds(), 'f', -1, 64) + "s")
	case traits.Lister:
		return w.list(v, depth)
	case traits.Mapper:
		return w.object(v, depth)
	default:
		return fmt.Errorf("JSON has no value of type %s", v.Type().TypeName())
	}
	return w.check()
}

func (w *writer) check() error {
	if len(w.buf) > w.limit {
		return fmt.Errorf("%w: more than %d bytes", errTooLarge, w.limit)
	}
	return nil
}

func (w *writer) text(s string) error {
	if len(w.buf)+len(s) > w.limit {
		return fmt.Errorf("%w: more than %d bytes", errTooLarge, w.limit)
	}
	w.buf, _ = jsontext.AppendQuote(w.buf, strings.ToValidUTF8(s, "\uFFFD")) // it fails only of invalid UTF-8
	return w.check()
}

func (w *writer) list(l traits.Lister, depth int) error {
	w.buf = append(w.buf, '[')
	for it, first := l.Iterator(), true; it.HasNext() == types.True; first = false {
		if !first {
			w.buf = append(w.buf, ',')
		}
		if err := w.value(it.Next(), depth+1); err != nil {
			return err
		}
	}
	w.buf = append(w.buf, ']')
	return w.check()
}

// object writes members in order of their names, so that the same value is always the same JSON.
func (w *writer) object(m traits.Mapper, depth int) error {
	type member struct {
		name string
		key  ref.Val
	}
	var members []member
	for it := m.Iterator(); it.HasNext() == types.True; {
		key := it.Next()
		switch k := key.(type) {
		case types.String:
			members = append(members, member{string(k), key})
		case types.Int, types.Uint, types.Bool:
			members = append(members, member{fmt.Sprint(k.Value()), key})
		default:
			return fmt.Errorf("a member of an object cannot be named by a %s", key.Type().TypeName())
		}
	}
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	w.buf = append(w.buf, '{')
	for i, one := range members {
		if i > 0 {
			if one.name == members[i-1].name {
				return fmt.Errorf("two members are named %q", clip(one.name, 60))
			}
			w.buf = append(w.buf, ',')
		}
		if err := w.text(one.name); err != nil {
			return err
		}
		w.buf = append(w.buf, ':')
		if err := w.value(m.Get(one.key), depth+1); err != nil {
			return err
		}
	}
	w.buf = append(w.buf, '}')
	return w.check()
}
