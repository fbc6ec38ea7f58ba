package workflow

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// candidate is the gate of an agent that offers code and is idle, changed.
func candidate(id string, change func(*lifecycle.Gate)) *lifecycle.Gate {
	g := &lifecycle.Gate{Agent: id, Registered: true, Open: true, Slots: 1, Caps: []string{"code"}, Version: "1.0.0"}
	change(g)
	return g
}

func TestWhatWouldUnblockATask(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	const class = "s:cap=code&label.pool=a&version=%3E%3D1"
	pooled := func(change func(*lifecycle.Gate)) func(*lifecycle.Gate) {
		return func(g *lifecycle.Gate) {
			g.Labels = map[string]string{"pool": "a"}
			change(g)
		}
	}
	cordoned := pooled(func(g *lifecycle.Gate) { g.Cordoned = true })
	for _, c := range []struct {
		name    string
		class   string
		agents  []func(*lifecycle.Gate)
		paused  bool
		unblock string
		why     string
	}{
		{"nobody", class, nil, false, `register an agent that offers "code" in a version ">=1" with pool=a`, "no agent is registered"},
		{"nobody fits", class, []func(*lifecycle.Gate){
			func(g *lifecycle.Gate) { g.Caps = nil },
			func(g *lifecycle.Gate) {},
			pooled(func(g *lifecycle.Gate) { g.Version = "0.9" }),
		}, false, `register an agent that offers "code" in a version ">=1" with pool=a`, "3 agents do not take it: label (1), version (1), capability (1)"},
		{"cordoned", class, []func(*lifecycle.Gate){cordoned}, false, `uncordon agent "a0"`, `agent "a0" does not take it: it is cordoned`},
		{"three are cordoned", class, []func(*lifecycle.Gate){cordoned, cordoned, cordoned}, false, `uncordon agent "a0", or the same of one of 2 others`, "3 agents do not take it: cordoned (3)"},
		{
			"busy before cordoned", class,
			[]func(*lifecycle.Gate){cordoned, pooled(func(g *lifecycle.Gate) { g.Held = make([]lifecycle.Held, 1) })},
			false, `wait until agent "a1" has a free slot, or register another one like it`, "2 agents do not take it: slots (1), cordoned (1)",
		},
		{
			"back-off", class,
			[]func(*lifecycle.Gate){pooled(func(g *lifecycle.Gate) { g.Until = now.Add(12 * time.Second) })},
			false, `wait 12s: back-off of agent "a0"`, `agent "a0" does not take it: it refused its last task; it is asked again in 12s`,
		},
		{"breaker", class, []func(*lifecycle.Gate){pooled(func(g *lifecycle.Gate) {
			g.Breaker = &lifecycle.Breaker{Last: "xxxxx", Opens: 1, Until: now.Add(8 * time.Second)}
		})}, false, `wait 8s: breaker of agent "a0"`, `agent "a0" does not take it: it has failed 5 of its last 5 tasks; it is tried again in 8s`},
		{
			"silence", class,
			[]func(*lifecycle.Gate){pooled(func(g *lifecycle.Gate) { g.Silent, g.Until = true, now.Add(time.Second) })},
			false, `wait 1s: silence of agent "a0", or let it be heard of`, `agent "a0" does not take it: nobody answered on its subject; it is asked again at its next sign of life or in 1s`,
		},
		{
			"drained", class,
			[]func(*lifecycle.Gate){pooled(func(g *lifecycle.Gate) { g.Drained = true })},
			false, `undrain agent "a0"`, `agent "a0" does not take it: it is drained: it takes no new work`,
		},
		{
			"lost", class,
			[]func(*lifecycle.Gate){pooled(func(g *lifecycle.Gate) { g.Live = event.LivenessLost })},
			false, `a heartbeat of agent "a0"`, `agent "a0" does not take it: it is lost: it has missed three heartbeats, and its tasks were handed back; it is free again with the next one`,
		},
		{
			"state", class,
			[]func(*lifecycle.Gate){pooled(func(g *lifecycle.Gate) { g.Open, g.Word = false, "error" })},
			false, `let agent "a0" report that it is idle`, `agent "a0" does not take it: its state is "error"`,
		},
		{
			"free", class,
			[]func(*lifecycle.Gate){cordoned, pooled(func(*lifecycle.Gate) {})},
			false, "nothing: it is about to be given out, or stands behind others in its queue", `agent "a1" is free`,
		},
		{"paused", class, []func(*lifecycle.Gate){pooled(func(*lifecycle.Gate) {})}, true, `resume the queue of "code"`, `agent "a0" is free`},
		{
			"named and gone", "a:a0",
			[]func(*lifecycle.Gate){func(g *lifecycle.Gate) { *g = lifecycle.Gate{Agent: "a0"} }},
			false, `register agent "a0"`, `agent "a0" does not take it: the agent is not registered`,
		},
		{"named and cordoned", "b:a0", []func(*lifecycle.Gate){cordoned}, false, `uncordon agent "a0"`, `agent "a0" does not take it: it is cordoned`},
		{
			"bound to one that drains", "b:a0",
			[]func(*lifecycle.Gate){pooled(func(g *lifecycle.Gate) { g.Drained = true })},
			false, "nothing: it is about to be given out, or stands behind others in its queue", `agent "a0" is free`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := parseClass(c.class)
			var x census
			for i, change := range c.agents {
				x.ask(candidate(fmt.Sprintf("a%d", i), change), want, now)
			}
			if got := unblock(&want, &event.Queue{Paused: c.paused}, &x, now); got != c.unblock {
				t.Errorf("to unblock it: %q, want %q", got, c.unblock)
			}
			if got := x.sentence(x.refusals(nil)); got != c.why {
				t.Errorf("why: %q, want %q", got, c.why)
			}
		})
	}
}

func TestOfManyAgentsOnlyTheNearestAreNamed(t *testing.T) {
	now, want := time.Unix(1_700_000_000, 0), parseClass("c:code")
	var x census
	for i := range 1000 {
		x.ask(candidate(fmt.Sprintf("a%d", i), func(g *lifecycle.Gate) {
			switch {
			case i >= 990:
				g.Until = now.Add(time.Second)
			case i%2 == 0:
				g.Cordoned = true
			default:
				g.Caps = nil
			}
		}), want, now)
	}
	if x.asked != 1000 || len(x.refused) != maxNamed {
		t.Fatalf("%d asked, %d named", x.asked, len(x.refused))
	}
	for i, r := range x.refusals(nil) {
		if want := map[bool]string{true: lifecycle.RuleBackoff, false: lifecycle.RuleCordoned}[i < 10]; r.Rule != want {
			t.Errorf("number %d is refused by %s, want %s", i, r.Rule, want)
		}
	}
	if got := fmt.Sprint(x.counts()); got != "[{backoff 10} {cordoned 495} {capability 495}]" {
		t.Errorf("counts %s", got)
	}
}

func TestWhatARunWaitsForThatNeedsNoAgent(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	at := now.Add(time.Minute)
	x := &explainer{now: now}
	for _, c := range []struct {
		task RunTask
		node *Task
		want string
	}{
		{RunTask{State: event.TaskAssigned, Agent: "a", Attempt: 1, Assigned: now.Add(-time.Second), AcceptBy: at}, nil, `was given to agent "a" 1s ago (attempt 1), whose answer`},
		{RunTask{State: event.TaskRunning, Agent: "a", Attempt: 2, Assigned: now.Add(-90 * time.Second), Lease: at}, nil, `has been at work on agent "a" for 1m30s (attempt 2)`},
		{RunTask{State: event.TaskRetrying, Attempt: 2, Retry: at, Error: &event.TaskError{Code: "timeout", Message: "m"}}, nil, "is tried again at 2023-11-14T22:14:20Z, after attempt 2 failed with timeout: m"},
		{RunTask{State: event.TaskWaiting, Look: at}, nil, "is waiting, and is looked at again at 2023-11-14T22:14:20Z"},
		{RunTask{State: event.TaskWaiting, Look: at}, &Task{Node: Node{Wait: &Wait{Seconds: 60}}}, "is waiting until 2023-11-14T22:14:20Z"},
		{RunTask{State: event.TaskWaiting}, &Task{Node: Node{Signal: &Signal{Name: "go"}}}, `is waiting: for signal "go"`},
		{RunTask{State: "dreaming"}, &Task{}, "is dreaming"},
	} {
		out, err := x.task(t.Context(), c.node, &c.task)
		if err != nil || !strings.HasPrefix(out.Text, c.want) {
			t.Errorf("%s: %q, want %q, %v", c.task.State, out.Text, c.want, err)
		}
	}
}

func TestPausesAreLevel(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	on := pause{On: true, Seq: 5, At: at}
	off := pause{Seq: 7, At: at.Add(time.Second)}
	for _, list := range [][]pause{{on, off}, {off, on}, {on, off, on, off}, {off, off, on}} {
		var p pauses
		for _, one := range list {
			p, _ = p.with("code", one)
		}
		if p.Queues["code"] != off {
			t.Errorf("%+v leaves %+v", list, p.Queues["code"])
		}
	}
	var full pauses
	for i := range maxPauses {
		full, _ = full.with(fmt.Sprint(i), pause{On: i > 0, Seq: uint64(i + 1), At: at.Add(time.Duration(i))})
	}
	full, ok := full.with("code", on)
	if _, known := full.Queues["0"]; !ok || known || len(full.Queues) != maxPauses {
		t.Errorf("the one that is not paused was kept: %v, %d queues", known, len(full.Queues))
	}
	if _, ok := full.with("more", on); ok {
		t.Error("there is no end to the queues that can be paused")
	}
}

// gateReads counts how often each gate is read.
type gateReads struct {
	storage.Store

	n map[storage.Key]int
}

func (s *gateReads) Get(ctx context.Context, keys ...storage.Key) ([]storage.Doc, error) {
	for _, k := range keys {
		if strings.HasPrefix(string(k), "gate/") {
			s.n[k]++
		}
	}
	return s.Store.Get(ctx, keys...)
}

// A run whose tasks wait in many queues asks each agent once, for all of them.
func TestExplainingManyQueuesReadsEachGateOnce(t *testing.T) {
	t.Parallel()
	store := &gateReads{openTestStore(t), make(map[storage.Key]int)}
	revs := storage.NewRevisions()
	put := func(key storage.Key, doc any, adds ...storage.IndexOp) {
		t.Helper()
		txn := storage.Txn{Rev: revs.Next(), If: []storage.Cond{{Key: key}}, Put: []storage.Put{{Key: key, Data: event.MustMarshal(doc)}}, IndexAdd: adds}
		if err := store.Commit(t.Context(), txn)[0]; err != nil {
			t.Fatal(err)
		}
	}
	const agents, queues = 3, 40
	for i := range agents {
		g := candidate(fmt.Sprint("a", i), func(g *lifecycle.Gate) { g.Cordoned = true })
		put(lifecycle.GateKey(g.Agent), g, storage.IndexOp{Index: lifecycle.AgentIndex, Member: g.Agent})
	}
	r := &Run{ID: "r", State: event.RunRunning, Created: old}
	for i := range queues {
		r.Tasks = append(r.Tasks, RunTask{ID: fmt.Sprint("t", i), State: event.TaskReady, Ready: old, Class: fmt.Sprint("c:code", i)})
	}
	r.Tasks = append(r.Tasks,
		RunTask{ID: "code", State: event.TaskReady, Ready: old, Class: "c:code"}, RunTask{ID: "named", State: event.TaskReady, Ready: old, Class: "a:a1"})
	put(runKey(r.ID), r)
	said, err := NewQueries(store).ExplainRun(t.Context(), "r")
	if err != nil {
		t.Fatal(err)
	}
	if len(said.Tasks) != queues+2 {
		t.Fatalf("%d tasks are explained", len(said.Tasks))
	}
	for _, task := range said.Tasks {
		want := event.RuleCount{Rule: lifecycle.RuleCapability, Agents: agents}
		switch task.TaskID {
		case "code":
			want.Rule = lifecycle.RuleCordoned
		case "named":
			want = event.RuleCount{Rule: lifecycle.RuleCordoned, Agents: 1}
		}
		if len(task.Rules) != 1 || task.Rules[0] != want || len(task.Refused) != want.Agents {
			t.Errorf("%s: %v %v, want %v", task.TaskID, task.Rules, task.Refused, want)
		}
	}
	for key, n := range store.n {
		if want := map[storage.Key]int{"gate/a1": 2}[key]; n != max(want, 1) { // it is named, too
			t.Errorf("%s was read %d times", key, n)
		}
	}
}
