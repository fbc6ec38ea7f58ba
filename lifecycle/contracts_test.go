package lifecycle_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

// typed is a registration whose capability brings what a schema says.
func typed(output string) *event.Register {
	r := registered("")
	r.CapabilitySchemas = map[string]event.CapabilitySchemas{"echo": {Output: event.Raw(output)}}
	return r
}

// gate returns the gate of an agent.
func (f *fleet) gate(id string) *lifecycle.Gate {
	f.Helper()
	gates, err := lifecycle.Gates(f.Context(), f.store, id)
	if err != nil {
		f.Fatal(err)
	}
	return gates[0]
}

// wantKept compares what is kept under the name of a schema.
func (f *fleet) wantKept(id, want string) {
	f.Helper()
	if got, err := lifecycle.CapabilitySchema(f.Context(), f.store, "a", id); err != nil || string(got) != want {
		f.Errorf("schema %q is %.100s, %v; want %.100s", id, got, err, want)
	}
}

// The schemas of a registration are shown with the agent and stand in no document that is written often but by name; those of earlier ones are kept for the attempts
// that were given under them.
func TestSchemasOfCapabilitiesAreKeptByName(t *testing.T) {
	eachStore(t, func(f *fleet) {
		f.serve()
		first := typed(`{"type": "object", "required": ["a"]}`)
		f.wantOK(f.say(event.VerbRegister, "a", first))
		f.wantOK(f.say(event.VerbState, "a", said("", "idle")))
		const canonical = `{"required":["a"],"type":"object"}`
		if got := f.agent("a").CapabilitySchemas; string(got["echo"].Output) != canonical || got["echo"].Input != nil {
			f.Errorf("the agent shows %v", got)
		}
		if list, err := f.queries.List(f.Context(), "", 10); err != nil || len(list.Items) != 1 || list.Items[0].CapabilitySchemas != nil {
			f.Errorf("the list shows %+v, %v", list.Items, err)
		}
		old := f.gate("a").Schemas["echo"].Output
		f.wantKept(old, canonical)
		docs, err := f.store.Get(f.Context(), lifecycle.RecordKey("a"), lifecycle.GateKey("a"))
		if err != nil {
			f.Fatal(err)
		}
		for _, d := range docs {
			if strings.Contains(string(d.Data), "required") || !strings.Contains(string(d.Data), old) {
				f.Errorf("document %s: %s", d.Key, d.Data)
			}
		}

		f.wantOK(f.say(event.VerbRegister, "a", typed(`{"required":["a"],"type":"object"}`))) // says the same
		if now := f.gate("a").Schemas["echo"].Output; now != old {
			f.Errorf("the same schema is now named %s, before %s", now, old)
		}
		f.wantOK(f.say(event.VerbRegister, "a", typed(`false`)))
		f.wantKept(f.gate("a").Schemas["echo"].Output, `false`)
		f.wantKept(old, canonical)
		f.wantOK(f.say(event.VerbRegister, "a", registered("")))
		if got := f.agent("a"); got.CapabilitySchemas != nil || f.gate("a").Schemas != nil {
			f.Errorf("without schemas: %+v, %v", got, f.gate("a").Schemas)
		}
		f.wantKept(old, canonical)
		f.wantOK(f.say(event.VerbRegister, "a", first))
		f.wantOK(f.say(event.VerbDeregister, "a", deregistered()))
		if g := f.gate("a"); g.Schemas != nil {
			f.Errorf("deregistered: %v", g.Schemas)
		}
		f.wantKept(old, canonical)
		f.wantKept("none", "")
	})
}

// An agent that registers another schema each time does not fill the store: the oldest are let go.
func TestSchemasThatWereReplacedLongAgoAreLetGo(t *testing.T) {
	t.Parallel()
	f := newFleet(t, boltStore(t))
	f.serve()
	large := func(i int) string {
		return fmt.Sprintf(`{"$comment":"%d%s"}`, i, strings.Repeat("x", event.MaxSchema-100))
	}
	names := make([]string, 20)
	for i := range names {
		f.wantOK(f.say(event.VerbRegister, "a", typed(large(i))))
		names[i] = f.gate("a").Schemas["echo"].Output
	}
	kept := 0
	for i, name := range names {
		raw, err := lifecycle.CapabilitySchema(t.Context(), f.store, "a", name)
		if err != nil {
			t.Fatal(err)
		}
		if raw != nil {
			kept++
		} else if kept > 0 {
			t.Errorf("schema %d was let go before an older one", i)
		}
	}
	if kept < 4 || kept > 2*event.MaxSchemas/event.MaxSchema {
		t.Errorf("%d of %d are kept", kept, len(names))
	}
}

// A registration with a schema that is none, or that a check could not be done with, is refused as a whole, with the place and what to do.
func TestARegistrationWithASchemaThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, boltStore(t))
	f.serve()
	f.wantOK(f.say(event.VerbRegister, "a", typed(`true`)))
	for schema, want := range map[string]string{
		`{"type":"strin"}`:                                                   `it is no JSON Schema: /type: `,
		`{"$ref":"https://example.com/s.json"}`:                              `https://example.com/s.json is not part of the schema`,
		`{"$ref":"file:///etc/passwd"}`:                                      `file:///etc/passwd is not part of the schema`,
		`{"$schema":"http://127.0.0.1:1/m"}`:                                 `http://127.0.0.1:1/m is not part of the schema`,
		`{"pattern":"(a{30}){30}"}`:                                          `regex`,
		strings.Repeat(`{"not":`, 1000) + `true` + strings.Repeat(`}`, 1000): `nested deeper`,
	} {
		o := f.say(event.VerbRegister, "a", typed(schema))
		if o.OK || o.Error.Code != event.CodeInvalid || !strings.HasPrefix(o.Error.Message, `the output schema of capability "echo" cannot be used: `) ||
			!strings.Contains(o.Error.Message, want) || !strings.HasSuffix(o.Error.Message, "; correct it or leave it out") || len(o.Error.Message) > event.MaxErrorText {
			t.Errorf("%.60s: %+v, %v", schema, o, o.Error)
		}
	}
	if got := f.agent("a").CapabilitySchemas; string(got["echo"].Output) != `true` {
		t.Errorf("the agent shows %v", got)
	}
}

// Whatever order registrations are taken in, and however often: the last one in the stream counts, with its schemas.
func TestTheSchemasOfTheLastRegistrationCount(t *testing.T) {
	t.Parallel()
	events := []at{{10, typed(`true`)}, {20, typed(`{"type":"object"}`)}, {30, said("", "idle")}}
	want := fold(events...)
	for _, order := range [][]int{{0, 1, 2}, {1, 0, 2}, {2, 1, 0}, {1, 2, 0, 1, 0, 2}} {
		r := &lifecycle.Record{}
		for _, i := range order {
			r.Apply(events[i].event, mark(events[i].seq))
		}
		ignore := cmp.Options{cmpopts.IgnoreUnexported(lifecycle.Registration{}), cmpopts.IgnoreFields(lifecycle.Record{}, "Version", "Firsts")}
		if diff := cmp.Diff(want, r, ignore); diff != "" || r.Reg.Schemas["echo"].Output == "" || r.Reg.Event.CapabilitySchemas != nil {
			t.Errorf("order %v: %+v %s", order, r.Reg, diff)
		}
	}
	g := &lifecycle.Gate{Agent: "a"}
	if g.Follow(want, true); g.Schemas["echo"] != want.Reg.Schemas["echo"] {
		t.Errorf("the gate has %v", g.Schemas)
	}
	if changed, _ := g.Follow(want, true); changed {
		t.Error("the same record changes the gate")
	}
	if changed, _ := g.Follow(fold(events[0], events[2]), true); !changed {
		t.Error("another schema does not change the gate")
	}
}

// What waits for an agent that takes it is told when one learns to.
func TestAnotherSchemaWakesTheDispatcher(t *testing.T) {
	t.Parallel()
	w := newWitness(newFleet(t, boltStore(t)))
	w.hand(1, at{1, typed(`true`)}, at{2, said("", "idle")})
	for i, c := range []struct {
		schema string
		want   int
	}{{`true`, 0}, {`{"type":"object"}`, 1}} {
		w.woken = nil
		if w.hand(1, at{uint64(3 + i), typed(c.schema)}); len(w.woken) != c.want {
			t.Errorf("after schema %s %v were woken, want %d", c.schema, w.woken, c.want)
		}
	}
}
