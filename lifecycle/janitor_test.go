package lifecycle

import (
	"testing"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
)

// TestJanitorKeepsWhatHealingNeeds looks at how much of a stream may go, minute by minute.
func TestJanitorKeepsWhatHealingNeeds(t *testing.T) {
	t.Parallel()
	work := func(position, last uint64, bytes int64) *streamView {
		return &streamView{
			name: event.StreamWork, pos: Position{Seq: position},
			state: bus.StreamState{FirstSeq: 1, LastSeq: last, Bytes: bytes, MaxBytes: 1000},
		}
	}
	var j janitor
	for minute := range 60 {
		if got := j.keepFrom(work(uint64(100*(minute+1)), 10_000, 10)); got != 0 {
			t.Fatalf("minute %d: everything below %d could go, within the hour", minute, got)
		}
	}
	if j.keepFrom(work(6100, 10_000, 10)); j.samples[0] != 100 {
		t.Fatalf("the oldest sample is %d, want the first position", j.samples[0])
	}
	if got := j.keepFrom(work(6200, 10_000, 10)); got != 201 {
		t.Errorf("after an hour everything below %d may go, want 201", got)
	}
	if got := new(janitor).keepFrom(work(9000, 9001, 800)); got != 1+9000/3 {
		t.Errorf("of a stream that is 80 percent full everything below %d may go, want the oldest third", got)
	}
	if got := new(janitor).keepFrom(work(50, 9001, 990)); got != 51 {
		t.Errorf("everything below %d may go, and the store has taken in only 50", got)
	}
	agents := work(9000, 9001, 10)
	agents.name = event.StreamAgent
	for range 100 {
		if got := j.keepFrom(agents); got != 0 {
			t.Fatalf("the last words of agents below %d may go, with room to spare", got)
		}
	}
}
