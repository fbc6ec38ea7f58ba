package loadgen

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

func TestJournalNumbersEverythingOnce(t *testing.T) {
	j := NewJournal()
	const writers, each = 8, 3000
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for range each {
				n := j.Send(KindState, fmt.Sprintf("agent-%d", w))
				j.Ack(n, Position{Stream: event.StreamAgent, Seq: n})
			}
		})
	}
	all.Wait()
	seen := 0
	j.each(func(n uint64, e sent) {
		seen++
		if e.seq != n || e.state != bitAcked || j.names.name(uint32(e.stream)) != event.StreamAgent {
			t.Fatalf("number %d holds %+v", n, e)
		}
	})
	if seen != writers*each || j.last.Load() != writers*each {
		t.Errorf("%d messages, and %d numbers, want %d", seen, j.last.Load(), writers*each)
	}
	if agents, runs := j.Keys(); len(agents) != writers || len(runs) != 0 {
		t.Errorf("keys are %v and %v", agents, runs)
	}
}

func TestJournalKeepsAttemptsApart(t *testing.T) {
	j := NewJournal()
	at := time.Unix(1000, 0)
	first, second := event.AttemptRef{RunID: "r", TaskID: "t", Attempt: 1}, event.AttemptRef{RunID: "r", TaskID: "t", Attempt: 2}
	j.Begin("a", 2, first, at)
	j.Begin("a", 2, second, at.Add(1))
	j.Begin("b", 2, first, at.Add(2)) // what must not happen must be seen
	j.Cancelled("a", first, at.Add(3))
	j.End("a", first, "", at.Add(4))
	j.End("a", second, event.StatusFailed, at.Add(5))
	j.End("a", second, event.StatusFailed, at.Add(6)) // ended before: no effect
	j.Delivered("a")
	got := j.begun()
	if len(got) != 3 || got[0].cancelled == 0 || got[0].status != 0 || statuses[got[1].status] != event.StatusFailed || got[1].end != at.Add(5).UnixNano() {
		t.Errorf("attempts are %+v", got)
	}
	if !got[0].delivered || !got[1].delivered || got[2].delivered || got[2].end != 0 {
		t.Errorf("attempts are %+v", got)
	}
	if _, runs := j.Keys(); !slices.Equal(runs, []string{"r"}) {
		t.Errorf("runs are %v", runs)
	}
}

func TestResultKeysAreReversible(t *testing.T) {
	for _, ref := range []event.AttemptRef{{RunID: "r", TaskID: "t", Attempt: 1}, {RunID: "r/1", TaskID: "a|b", Attempt: 12}, {RunID: "r"}} {
		if got := parseResultKey(resultKey(ref)); got != ref {
			t.Errorf("%+v became %+v", ref, got)
		}
	}
}

// A million messages take less than 100 MB.
func TestJournalIsCompact(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const messages, most = 200_000, 100
	before := heap()
	j := NewJournal()
	for i := range messages {
		n := j.Send(KindStart, fmt.Sprintf("%08d-0000-0000-0000-000000000000", i))
		j.Ack(n, Position{Stream: event.StreamWork, Seq: n})
	}
	if each := (heap() - before) / messages; each > most {
		t.Errorf("a message takes %d bytes, want at most %d", each, most)
	}
	runtime.KeepAlive(j)
}
