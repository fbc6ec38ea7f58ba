package lifecycle

import (
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// TestEncodeIsMarshal compares the encodings of the hot path with the one by reflection, for full and for empty documents.
func TestEncodeIsMarshal(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)
	mark := Mark{Era: 1, Seq: 7, At: at}
	register := event.Register{AgentName: "n", Version: "1", Capabilities: []string{"a", "ü\"\n"}, Labels: map[string]string{"k": "v"}}
	report := Report{Mark: mark, Instance: "i", State: "idle", Timestamp: "t", Details: event.Raw(`{"a":1.0}`)}
	ref := event.AttemptRef{RunID: "r", TaskID: "t", Attempt: 3, Token: "x"}
	fullGate := &Gate{
		Agent: "a", Registered: true, Instance: "i", Slots: 2, Caps: []string{"c", ""}, Version: "1", Labels: map[string]string{"k": "v"},
		Delivery: event.DeliveryHTTP, Cordoned: true, Drained: true, DrainBy: at, Open: true, Word: "idle", Silent: true, Until: at, Misses: 3,
		Held: []Held{
			{AttemptRef: ref, Instance: "i", Drain: at, Delivery: event.DeliveryAgentKit, Probe: true, Away: true, Trace: &Trace{
				Base: 4, Active: 5, Rest: Word{Seq: 6, At: at, State: "idle"}, Error: Word{Seq: 7, At: at, State: "ERROR"},
			}}, {Trace: &Trace{}}, {},
		}, Released: at, Used: 12, Listed: true, Beat: 1500, Live: event.LivenessLost, LiveSeq: 9,
		Able: 5, Breaker: &Breaker{Last: "ox", Opens: 2, Until: at}, Facts: 3,
		Schemas: map[string]SchemaIDs{"c": {Input: "x", Output: "y"}},
	}
	fullRecord := &Record{
		Version: 3, Era: 1, EraAt: at, Top: mark, Reg: &Registration{Mark: mark, Event: register, Schemas: fullGate.Schemas}, Firsts: []Mark{mark, {}},
		Instance: InstanceMark{ID: "i", Mark: mark}, Dereg: mark, Reports: []Report{report, {}},
		Cordon: CordonMark{On: true, Drain: true, By: at, Reason: "r", Mark: mark},
	}
	fullEntry := &HistoryEntry{
		Seq: 1, At: at, Event: "state", State: "idle", Timestamp: "t", Details: event.Raw(`null`), Instance: "i", Reason: "r",
		Liveness: event.LivenessLost,
	}
	for _, c := range []struct {
		name      string
		got, want []byte
	}{
		{"gate", fullGate.Encode(), event.MustMarshal(fullGate)},
		{"empty gate", new(Gate).Encode(), event.MustMarshal(new(Gate))},
		{"record", fullRecord.encode(), event.MustMarshal(fullRecord)},
		{"empty record", new(Record).encode(), event.MustMarshal(new(Record))},
		{"history", fullEntry.encode(), event.MustMarshal(fullEntry)},
		{"empty history", new(HistoryEntry).encode(), event.MustMarshal(new(HistoryEntry))},
	} {
		if string(c.got) != string(c.want) {
			t.Errorf("%s:\nencode:  %s\nmarshal: %s", c.name, c.got, c.want)
		}
	}
}
