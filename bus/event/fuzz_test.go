package event_test

import (
	"bytes"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/opspawn/opscore/bus/event"
)

// Whatever is published, Decode gives an event that can be encoded and decoded again, or a refusal that fits into an answer.
func FuzzDecode(f *testing.F) {
	for _, g := range goldens() {
		if g.subject != "" {
			f.Add(g.subject, g.text(f))
		}
	}
	f.Fuzz(func(t *testing.T, subject string, body []byte) {
		m, err := event.Decode(subject, body)
		if err != nil {
			var refused *event.Error
			if !errors.As(err, &refused) {
				t.Fatalf("error %v is no *event.Error", err)
			}
			if len(refused.Message) > event.MaxErrorText || !utf8.ValidString(refused.Message) {
				t.Fatalf("refusal %q is too long or not UTF-8", refused.Message)
			}
			event.MustMarshal(event.Refused(refused))
			return
		}
		if w, ok := m.Event.(*event.WorkflowApply); ok {
			if !bytes.Equal(w.Definition, body) {
				t.Fatalf("definition %q of body %q", w.Definition, body)
			}
			return
		}
		once := event.MustMarshal(m.Event)
		again, err := event.Decode(subject, once)
		if err != nil {
			t.Fatalf("body %q is taken, but not when encoded again as %q: %v", body, once, err)
		}
		if twice := event.MustMarshal(again.Event); !bytes.Equal(once, twice) {
			t.Fatalf("encoded as %q, and then as %q", once, twice)
		}
		event.MustMarshal(m.Address) // ids go into documents
	})
}
