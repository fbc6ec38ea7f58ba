package loadgen

import (
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

func TestStalls(t *testing.T) {
	began := time.Now()
	j := NewJournal()
	at := func(ms int) {
		j.Begin("a", 1, event.AttemptRef{RunID: "r", TaskID: began.Add(time.Duration(ms)).String(), Attempt: 1}, began.Add(time.Duration(ms)*time.Millisecond))
	}
	for ms := 0; ms <= 60_000; ms += 100 { // a task is begun each 100 ms, but where it stands still
		switch {
		case ms > 10_000 && ms < 10_700, ms > 20_000 && ms < 23_000, ms > 40_000 && ms < 49_000:
		default:
			at(ms)
		}
	}
	faults := []Fault{
		{Second: 10.05, Kind: FaultKill, Target: "opscore-1"},
		{Second: 15, Kind: FaultKill, Target: "nats"},
		{Second: 20.02, Kind: FaultKill, Target: "opscore-2"},
		{Second: 22, Kind: FaultKill, Target: "opscore-3"}, // what is left of it is this one's
		{Second: 30, Kind: FaultKill, Target: "opscore-3", Error: "not made"},
		{Second: 42, Kind: FaultKill, Target: "opscore-3"}, // longer than anybody looks
		{Second: 59.9, Kind: FaultKill, Target: "opscore-1"},
	}
	q, ok := j.Stalls(faults, began, time.Minute)
	want := []float64{650, 0, 1980, 1000, 0, 5000, 100}
	for i, f := range faults {
		if diff := f.StallMs - want[i]; diff > 1 || diff < -1 {
			t.Errorf("fault %d: %v ms, want %v", i, f.StallMs, want[i])
		}
	}
	if !ok || q.Max != 5000 || q.P99 != 5000 || q.P50 != 1000 || q.Min > 101 {
		t.Errorf("together: %+v, %v", q, ok)
	}
	if _, ok := j.Stalls(faults[1:2], began, time.Minute); ok {
		t.Error("there is a stall without the kill of a replica")
	}
}
