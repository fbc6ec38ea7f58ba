package workflow

import (
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

// TestEncodeIsMarshal compares the run's own encoding with the one by reflection, so that a member cannot be added to one alone.
func TestEncodeIsMarshal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		run := &Run{Tasks: make([]RunTask, rapid.IntRange(0, 3).Draw(t, "tasks"))}
		fill(t, reflect.ValueOf(run).Elem())
		for i := range run.Tasks {
			fill(t, reflect.ValueOf(&run.Tasks[i]).Elem())
		}
		if got, want := string(run.encode()), string(event.MustMarshal(run)); got != want {
			t.Fatalf("encode:  %s\nmarshal: %s", got, want)
		}
	})
}

// fill gives each member of a struct a value, or leaves it zero.
func fill(t *rapid.T, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		name := v.Type().Field(i).Name
		if rapid.Bool().Draw(t, name+" is zero") {
			continue
		}
		switch f.Interface().(type) {
		case time.Time:
			f.Set(reflect.ValueOf(time.UnixMicro(rapid.Int64Range(1, 1<<50).Draw(t, name)).UTC()))
		case event.Raw:
			f.Set(reflect.ValueOf(event.Raw(`{"a":[1.0,"ü"]}`)))
		case []event.Raw:
			f.Set(reflect.ValueOf([]event.Raw{event.Raw(`{"n":1}`), event.Raw("[]")}))
		case *event.TaskError:
			f.Set(reflect.ValueOf(&event.TaskError{Code: "c", Message: "m\n<>&"}))
		case *float64:
			p := rapid.Float64Range(0, 100).Draw(t, name)
			f.Set(reflect.ValueOf(&p))
		case map[string]string:
			f.Set(reflect.ValueOf(map[string]string{"k": "v"}))
		case []uint64:
			f.Set(reflect.ValueOf(rapid.SliceOfN(rapid.Uint64Range(0, 1<<53), 0, 3).Draw(t, name)))
		case []int:
			f.Set(reflect.ValueOf(rapid.SliceOfN(rapid.Int(), 0, 3).Draw(t, name)))
		case *Asks:
			f.Set(reflect.ValueOf(&Asks{Since: time.UnixMicro(7).UTC(), Ms: 3}))
		case *Undoing:
			f.Set(reflect.ValueOf(&Undoing{State: event.RunFailed, Error: &event.TaskError{Code: "c"}, Failed: []NotUndone{{TaskID: "a"}}, Missed: 1}))
		case []byte:
			f.Set(reflect.ValueOf(rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, name)))
		case []string:
			f.Set(reflect.ValueOf(rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, name)))
		case []EndedTask:
			f.Set(reflect.ValueOf([]EndedTask{{ID: "x", Attempt: 1, State: event.TaskFailed}}))
		case *Control:
			f.Set(reflect.ValueOf(&Control{Seq: 7, Signals: []HeldSignal{{Name: "go", Payload: event.Raw(`1`)}}}))
		case []Early:
			f.Set(reflect.ValueOf([]Early{{Kind: event.KindRunCancel, Seq: 7, Body: event.RunCommand{Reason: "r"}}}))
		default:
			fillPlain(t, name, f)
		}
	}
}

func fillPlain(t *rapid.T, name string, f reflect.Value) {
	switch f.Kind() {
	case reflect.String:
		f.SetString(rapid.String().Draw(t, name))
	case reflect.Bool:
		f.SetBool(true)
	case reflect.Int, reflect.Int64:
		f.SetInt(rapid.Int64Range(-5, 1<<40).Draw(t, name))
	case reflect.Uint64:
		f.SetUint(rapid.Uint64Range(0, 1<<53).Draw(t, name))
	}
}
