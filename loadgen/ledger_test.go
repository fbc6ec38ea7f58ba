package loadgen

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// story is a journal under construction, and what is found of it.
type story struct {
	*Journal

	found Found
	at    time.Time
}

func newStory() *story {
	return &story{
		Journal: NewJournal(), at: time.Unix(1_000_000, 0),
		found: Found{Agents: make(map[string]*FoundAgent), Runs: make(map[string]*FoundRun), Dead: make(map[Position]string)},
	}
}

// say sends a message about a key that is acknowledged at a sequence.
func (s *story) say(kind Kind, key string, seq uint64) uint64 {
	n := s.Send(kind, key)
	stream := event.StreamWork
	switch kind {
	case KindRegister, KindDeregister, KindState:
		stream = event.StreamAgent
	}
	s.Ack(n, Position{Stream: stream, Seq: seq})
	return n
}

func (s *story) agent(id string) *FoundAgent {
	if s.found.Agents[id] == nil {
		s.found.Agents[id] = &FoundAgent{Registered: true}
	}
	return s.found.Agents[id]
}

// took makes a state that was sent a stored one, with its entry in the history.
func (s *story) took(id string, n, seq uint64) {
	a := s.agent(id)
	a.State = FoundLevel{Seq: seq, N: n}
	a.History = append(a.History, FoundEntry{Seq: seq, N: n})
}

// do begins an attempt after so many milliseconds, which lasts so many more and then completes.
func (s *story) do(agent string, slots int, ref event.AttemptRef, after, lasts int) {
	s.Begin(agent, slots, ref, s.at.Add(time.Duration(after)*time.Millisecond))
	s.End(agent, ref, event.StatusCompleted, s.at.Add(time.Duration(after+lasts)*time.Millisecond))
}

func (s *story) run(id string, state event.RunState, due bool, tasks ...FoundTask) {
	s.found.Runs[id] = &FoundRun{State: state, Due: due, Waits: "a sign", Tasks: tasks}
}

func attemptOf(run, task string, number int) event.AttemptRef {
	return event.AttemptRef{RunID: run, TaskID: task, Attempt: number}
}

// ledgerCases are stories and what the ledger must make of them. Counts that are left out are 0.
var ledgerCases = []struct {
	name string
	tell func(s *story)
	want Ledger
	text []string // words that the first finding must hold
}{
	{name: "nothing"},
	{name: "never acknowledged", tell: func(s *story) {
		s.Send(KindState, "a")
		s.Send(KindStart, "r")
		s.Refuse(s.Send(KindStart, "r2"), "503")
	}},
	{name: "all stored", want: Ledger{Acked: 4, Stored: 4}, tell: func(s *story) {
		n := s.say(KindRegister, "a", 1)
		s.agent("a").Register = FoundLevel{Seq: 1, N: n}
		s.agent("a").History = []FoundEntry{{Seq: 1}}
		s.took("a", s.say(KindState, "a", 2), 2)
		s.took("a", s.say(KindState, "a", 3), 3)
		s.say(KindStart, "r", 1)
		s.run("r", event.RunCompleted, false)
	}},
	{name: "a report that the fence has not passed", want: Ledger{Acked: 2, Stored: 1, Lost: 1}, text: []string{"agent a", "number 2", "OPSCORE_AGENT/3", "2"}, tell: func(s *story) {
		s.took("a", s.say(KindState, "a", 2), 2)
		s.say(KindState, "a", 3)
	}},
	{name: "a report of an agent that does not exist", want: Ledger{Acked: 1, Lost: 1}, tell: func(s *story) { s.say(KindState, "a", 3) }},
	{name: "a superseded report that the history left out", want: Ledger{Acked: 3, Stored: 2, Lost: 1}, text: []string{"history"}, tell: func(s *story) {
		s.took("a", s.say(KindState, "a", 1), 1)
		s.say(KindState, "a", 2)
		s.took("a", s.say(KindState, "a", 3), 3)
	}},
	{name: "the same after a kill", want: Ledger{Acked: 3, Stored: 3}, tell: func(s *story) {
		s.found.Broken.Engine = true
		s.took("a", s.say(KindState, "a", 1), 1)
		s.say(KindState, "a", 2)
		s.took("a", s.say(KindState, "a", 3), 3)
	}},
	{name: "older than the history goes back", want: Ledger{Acked: 2, Stored: 2}, tell: func(s *story) {
		s.say(KindState, "a", 1)
		s.took("a", s.say(KindState, "a", 2), 2)
		s.agent("a").Full = true
	}},
	{name: "a dead letter", want: Ledger{Acked: 1, Stored: 1}, tell: func(s *story) {
		s.say(KindState, "a", 7)
		s.found.Dead[Position{Stream: event.StreamAgent, Seq: 7}] = "unknown agent"
	}},
	{name: "voided by a deregistration", want: Ledger{Acked: 3, Stored: 3}, tell: func(s *story) {
		s.say(KindRegister, "a", 1)
		s.say(KindState, "a", 2)
		s.say(KindDeregister, "a", 3)
		a := s.agent("a")
		a.Registered, a.Deregister = false, 3
		a.History = []FoundEntry{{Seq: 1}, {Seq: 2}, {Seq: 3}}
	}},
	{name: "an older report came back", want: Ledger{Acked: 2, Stored: 1, OutOfOrder: 1}, text: []string{"overwritten"}, tell: func(s *story) {
		first := s.say(KindState, "a", 1)
		s.took("a", first, 1)
		s.took("a", s.say(KindState, "a", 2), 2)
		s.agent("a").State = FoundLevel{Seq: 1, N: first}
	}},
	{name: "an older number under a newer fence", want: Ledger{Acked: 2, Stored: 1, OutOfOrder: 1}, tell: func(s *story) {
		first := s.say(KindState, "a", 1)
		s.took("a", first, 1)
		s.took("a", s.say(KindState, "a", 2), 2)
		s.agent("a").State.N = first
	}},
	{name: "by number: an older one is stored", want: Ledger{Acked: 2, Stored: 1, Lost: 1}, tell: func(s *story) {
		s.took("a", s.say(KindState, "a", 0), 8)
		s.say(KindState, "a", 0)
	}},
	{name: "by number: under way at the same time", want: Ledger{Acked: 2, Stored: 2}, tell: func(s *story) {
		first, second := s.Send(KindState, "a"), s.Send(KindState, "a")
		s.Ack(second, Position{})
		s.Ack(first, Position{})
		s.took("a", first, 8)
	}},
	{name: "history twice and backwards", want: Ledger{Doubled: 1, OutOfOrder: 1}, tell: func(s *story) {
		s.agent("a").History = []FoundEntry{{Seq: 4}, {Seq: 4}, {Seq: 3}}
	}},
	{name: "the log holds an entry twice", want: Ledger{Doubled: 1}, tell: func(s *story) { s.agent("a").Repeats = []uint64{9} }},
	{name: "the log after a replica was started again", tell: func(s *story) {
		s.found.Broken.Engine = true
		s.agent("a").Repeats = []uint64{9}
	}},
	{name: "no such run", want: Ledger{Acked: 1, Lost: 1}, text: []string{"run r", "OPSCORE_WORK/5"}, tell: func(s *story) { s.say(KindStart, "r", 5) }},
	{name: "no such run yet", want: Ledger{Acked: 1, Lost: 1}, text: []string{"may still be taken in", "stands at 4"}, tell: func(s *story) {
		s.say(KindStart, "r", 5)
		s.found.Pending, s.found.Floors = 1, map[string]uint64{event.StreamWork: 4}
	}},
	{name: "a run whose id the server made", want: Ledger{Acked: 1, Stored: 1}, tell: func(s *story) {
		n := s.say(KindStart, "", 5)
		s.run("made", event.RunCompleted, false)
		s.found.Runs["made"].N = n
	}},
	{name: "a start that was refused", want: Ledger{Acked: 1, Stored: 1}, tell: func(s *story) { s.Refuse(s.say(KindStart, "r", 5), "unknown_definition") }},
	{name: "a cancel without effect", want: Ledger{Acked: 1, Lost: 1}, text: []string{"running"}, tell: func(s *story) {
		s.say(KindCancel, "r", 5)
		s.run("r", event.RunRunning, true)
	}},
	{name: "stuck", want: Ledger{Stuck: 1}, text: []string{"run r", "running", "a sign"}, tell: func(s *story) {
		s.run("r", event.RunRunning, false)
		s.run("waits", event.RunRunning, true)
	}},
	{name: "results by their effect", want: Ledger{Acked: 4, Stored: 3, Lost: 1}, text: []string{"attempt 1", "running"}, tell: func(s *story) {
		for _, task := range []string{"done", "again", "retried", "ignored"} {
			status := event.StatusCompleted
			if task == "retried" {
				status = event.StatusFailed
			}
			s.Ack(s.SendResult(attemptOf("r", task, 1), status), Position{Stream: event.StreamWork, Seq: 1})
		}
		s.run("r", event.RunRunning, true, FoundTask{TaskID: "done", State: event.TaskCompleted, Attempt: 1}, FoundTask{TaskID: "again", State: event.TaskRunning, Attempt: 2},
			FoundTask{TaskID: "retried", State: event.TaskRetrying, Attempt: 1}, FoundTask{TaskID: "ignored", State: event.TaskRunning, Attempt: 1})
	}},
	{name: "a result that an agent has delivered", want: Ledger{Acked: 1, Lost: 1}, text: []string{"agent x"}, tell: func(s *story) {
		s.do("x", 1, attemptOf("r", "t", 1), 0, 10)
		s.Delivered("x")
		s.run("r", event.RunRunning, true, FoundTask{TaskID: "t", State: event.TaskAssigned, Attempt: 1})
	}},
	{name: "one attempt begun twice", want: Ledger{Doubled: 1}, text: []string{"attempt 1 of task t of run r on agent y", "agent x", "before"}, tell: func(s *story) {
		s.do("x", 1, attemptOf("r", "t", 1), 0, 10)
		s.do("y", 1, attemptOf("r", "t", 1), 9000, 10)
	}},
	{name: "a second attempt while the first is live", want: Ledger{Acked: 1, Stored: 1, Doubled: 1}, text: []string{"live"}, tell: func(s *story) {
		s.do("x", 1, attemptOf("r", "t", 1), 0, 1000)
		s.Delivered("x")
		s.do("y", 1, attemptOf("r", "t", 2), 500, 10)
		s.run("r", event.RunCompleted, false)
	}},
	{name: "a second attempt after the first was given up", want: Ledger{Acked: 1, Stored: 1}, tell: func(s *story) {
		s.do("x", 1, attemptOf("r", "t", 1), 0, 9000)
		s.Delivered("x")
		s.do("y", 1, attemptOf("r", "t", 2), 5500, 10)
		s.run("r", event.RunCompleted, false)
	}},
	{name: "slots in turn", tell: func(s *story) {
		s.do("x", 1, attemptOf("r1", "t", 1), 0, 10)
		s.do("x", 1, attemptOf("r2", "t", 1), 10, 10)
	}},
	{name: "over its slots", want: Ledger{OverSlot: 1}, text: []string{"run r2", "agent x", "1 slots"}, tell: func(s *story) {
		s.do("x", 1, attemptOf("r1", "t", 1), 0, 10)
		s.do("x", 1, attemptOf("r2", "t", 1), 9, 10)
	}},
	{name: "a cancel that was ignored", want: Ledger{Unconfirmed: []string{"r1"}}, tell: func(s *story) {
		s.Begin("x", 1, attemptOf("r1", "t", 1), s.at)
		s.Cancelled("x", attemptOf("r1", "t", 1), s.at.Add(time.Second))
		s.do("x", 1, attemptOf("r2", "t", 1), 11_001, 10)
		s.End("x", attemptOf("r1", "t", 1), "", s.at.Add(time.Minute))
	}},
	{name: "a slot given away before the second grace was over", want: Ledger{OverSlot: 1}, tell: func(s *story) {
		s.Begin("x", 1, attemptOf("r1", "t", 1), s.at)
		s.Cancelled("x", attemptOf("r1", "t", 1), s.at.Add(time.Second))
		s.do("x", 1, attemptOf("r2", "t", 1), 10_000, 10)
		s.End("x", attemptOf("r1", "t", 1), "", s.at.Add(time.Minute))
	}},
}

func TestLedger(t *testing.T) {
	for _, c := range ledgerCases {
		t.Run(c.name, func(t *testing.T) {
			s := newStory()
			if c.tell != nil {
				c.tell(s)
			}
			got := Audit(s.Journal, s.found)
			if len(got.Unconfirmed) != len(c.want.Unconfirmed) {
				t.Errorf("unconfirmed: %q, want %q", got.Unconfirmed, c.want.Unconfirmed)
			}
			for _, word := range c.text {
				if len(got.Findings) == 0 || !strings.Contains(got.Findings[0].Text, word) {
					t.Errorf("no %q in the first of %q", word, got.Findings)
				}
			}
			if again := Audit(s.Journal, s.found); !reflect.DeepEqual(got, again) {
				t.Errorf("a second audit differs: %+v, %+v", got, again)
			}
			findings := len(got.Findings)
			got.Findings, got.Unconfirmed, c.want.Unconfirmed = nil, nil, nil
			got.Runs, got.Registered, got.AgentsFound = EndedRuns{}, 0, 0 // which have a test of their own
			if !reflect.DeepEqual(*got, c.want) {
				t.Errorf("ledger is %+v, want %+v", *got, c.want)
			}
			if bad := int(got.Wrong()); findings != bad {
				t.Errorf("%d findings in words for %d", findings, bad)
			}
		})
	}
}

func TestLedgerTellsTheFirstOfEachKind(t *testing.T) {
	s := newStory()
	for i := range 3 * maxFindings {
		s.say(KindStart, fmt.Sprint("r", i), uint64(i+1))
		s.run(fmt.Sprint("stuck", i), event.RunRunning, false)
	}
	got := Audit(s.Journal, s.found)
	if got.Lost != 3*maxFindings || got.Stuck != 3*maxFindings || len(got.Findings) != 2*maxFindings {
		t.Errorf("%d lost, %d stuck, %d in words", got.Lost, got.Stuck, len(got.Findings))
	}
}

// Whether every run ended is judged only where a scenario says that it must; how they ended is always counted.
func TestLedgerOfRunsThatMustEnd(t *testing.T) {
	s := newStory()
	s.run("r1", event.RunCompleted, false)
	s.run("r2", event.RunFailed, false)
	s.run("r3", event.RunCancelled, false)
	s.run("r4", event.RunRunning, true)
	want := EndedRuns{Completed: 1, Failed: 1, Cancelled: 1, GoingOn: 1}
	if got := Audit(s.Journal, s.found); got.Runs != want || !got.Clean() {
		t.Errorf("the ledger has %+v", got)
	}
	s.found.MustEnd = true
	got := Audit(s.Journal, s.found)
	if got.Runs != want || got.Unended != 1 || got.Stuck != 0 || got.Clean() || !strings.Contains(got.Findings[0].Text, "run r4") {
		t.Errorf("where it must end the ledger has %+v", got)
	}
	v := Judge(&Result{Requests: 1, Ledger: got}, Evidence{})
	if text := strings.Join(v.Lines, "\n"); v.OK || v.Code != CauseLedger || !strings.Contains(text, "1 not ended in time") || !strings.Contains(text, "Runs: 3 of 4 ended") {
		t.Errorf("the verdict is %+v", v)
	}
}

// An agent that registered and is not there at the end, because somebody else has removed it, is what a verdict about unknown agents needs to know.
func TestLedgerCountsAgentsThatAreGone(t *testing.T) {
	s := newStory()
	for i, id := range []string{"stays", "gone", "left", "came back"} {
		s.agent(id).Full = true
		s.agent(id).Register = FoundLevel{Seq: uint64(10 * (i + 1)), N: s.say(KindRegister, id, uint64(10*(i+1)))}
	}
	for i, id := range []string{"left", "came back"} {
		s.say(KindDeregister, id, uint64(51+i))
		s.agent(id).Deregister = uint64(51 + i)
	}
	s.agent("came back").Register = FoundLevel{Seq: 60, N: s.say(KindRegister, "came back", 60)}
	s.agent("left").Registered, s.agent("gone").Registered, s.agent("gone").Deregister = false, false, 99
	got := Audit(s.Journal, s.found)
	if got.Registered != 3 || got.AgentsFound != 2 || !got.Clean() {
		t.Fatalf("the ledger has %+v", got)
	}
	r := failed(class("POST state", "404", 9, ""))
	if v := Judge(r, Evidence{}); v.Code == CauseAgentsLost {
		t.Errorf("without a ledger the verdict is %+v", v)
	}
	r.Ledger = got
	if v := Judge(r, Evidence{}); v.Code != CauseAgentsLost || !strings.Contains(v.Cause, "3") || !strings.Contains(v.Cause, "2") {
		t.Errorf("the verdict is %+v", v)
	}
}
