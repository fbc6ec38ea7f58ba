package event_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/opspawn/opscore/bus/event"
)

func TestLegacyIdsOfAttempts(t *testing.T) {
	for _, c := range []struct {
		ref event.AttemptRef
		id  string
	}{
		{event.AttemptRef{RunID: "run", TaskID: "task", Attempt: 1}, "run.task.1"},
		{event.AttemptRef{RunID: "run", TaskID: "task", Attempt: 1012, Token: "secret"}, "run.task.1012"},
		{event.AttemptRef{RunID: "order 7", TaskID: "a.b", Attempt: 2}, "=order=207.=a=2Eb.2"},
	} {
		if got := c.ref.LegacyID(); got != c.id {
			t.Errorf("LegacyID of %+v = %q, want %q", c.ref, got, c.id)
		}
	}
}

func TestOnlyLegacyIdsAreParsed(t *testing.T) {
	for _, id := range []string{
		"", ".", "..", "run", "run.task", "run.task.", ".task.1", "run..1", "run.task.1.2", "run.task.0", "run.task.-1", "run.task.+1",
		"run.task.01", "run.task.1e1", "run.task.99999999999999999999", "r n.task.1", "=run.task.1", "run.=FF.1", " run.task.1",
	} {
		if ref, err := event.ParseLegacyID(id); !errors.Is(err, &event.Error{Code: event.CodeInvalid}) || ref != (event.AttemptRef{}) {
			t.Errorf("ParseLegacyID(%q) = %+v, %v; want code %s", id, ref, err, event.CodeInvalid)
		}
	}
}

func TestEachAttemptHasOneLegacyID(t *testing.T) {
	refs := rapid.Custom(func(t *rapid.T) event.AttemptRef {
		ids := rapid.StringOfN(rapid.RuneFrom([]rune("a1_=:. ü")), 1, 4, -1)
		return event.AttemptRef{RunID: ids.Draw(t, "run"), TaskID: ids.Draw(t, "task"), Attempt: rapid.IntRange(1, 12).Draw(t, "attempt")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := refs.Draw(t, "a"), refs.Draw(t, "b")
		if (a.LegacyID() == b.LegacyID()) != (a == b) {
			t.Fatalf("%+v and %+v have the ids %q and %q", a, b, a.LegacyID(), b.LegacyID())
		}
		if back, err := event.ParseLegacyID(a.LegacyID()); err != nil || back != a {
			t.Fatalf("ParseLegacyID(%q) = %+v, %v; want %+v", a.LegacyID(), back, err, a)
		}
	})
}

func FuzzParseLegacyID(f *testing.F) {
	for _, id := range []string{"run.task.1", "=a=2Eb.c.12", "a.b.01", "..", "a.b.1.c"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if ref, err := event.ParseLegacyID(id); err == nil && ref.LegacyID() != id {
			t.Errorf("LegacyID(ParseLegacyID(%q)) = %q", id, ref.LegacyID())
		}
	})
}
