package workflow

import (
	"fmt"
	"testing"
	"time"

	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

func newView(agents ...string) *view {
	v := &view{
		now: time.Unix(1, 0), runs: make(map[string]*slot[*Run]), gates: make(map[string]*slot[*lifecycle.Gate]), touched: make(map[storage.Key]*group),
	}
	for _, a := range agents {
		v.gates[a] = &slot[*lifecycle.Gate]{rev: "old", val: &lifecycle.Gate{Agent: a}}
	}
	return v
}

// use seals a change of a run that touches gates, with conditions on others.
func (v *view) use(revs *storage.Revisions, run string, gates []string, conds ...storage.Key) *group {
	if v.runs[run] == nil {
		v.runs[run] = &slot[*Run]{}
	}
	s := v.runs[run]
	c := &change{run: s, before: s.val, after: &Run{ID: run, Created: v.now}}
	for _, g := range gates {
		v.gate(c, g).Slots++
	}
	for _, k := range conds {
		c.conds = append(c.conds, storage.Cond{Key: k, Rev: "old"})
	}
	v.seal(c, revs)
	return c.group
}

func TestChangesOfOneGateGoTogether(t *testing.T) {
	t.Parallel()
	revs := storage.NewRevisions()
	v := newView("a", "b")
	for i := range 2 * maxGroup {
		v.use(revs, fmt.Sprint("run-", i), []string{[]string{"a", "b"}[i%2]})
	}
	if len(v.groups) != 2 {
		t.Fatalf("%d Txns for two gates and %d runs, want 2", len(v.groups), 2*maxGroup)
	}
	for _, g := range v.groups {
		g.close(v.now)
		if err := g.txn.Check(); err != nil {
			t.Fatal(err)
		}
		if len(g.txn.Put) != maxGroup+1 {
			t.Errorf("a Txn writes %d documents, want %d runs and a gate", len(g.txn.Put), maxGroup)
		}
	}
	if n := v.gates["a"].val.Slots; n != maxGroup {
		t.Errorf("%d changes of the gate are left of %d", n, maxGroup)
	}
	if g := v.use(revs, "one more", []string{"a"}); g != v.groups[2] {
		t.Error("a full group took one more change")
	}
	v.apart = true
	if g := v.use(revs, "apart", []string{"a"}); len(g.changes) != 1 {
		t.Error("a change that shall go out alone does not")
	}
}

// A change must not go out before what it builds on, nor before what was decided on the state that it changes.
func TestChangesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	for name, scenario := range map[string]func(v *view, use func(run string, gates []string, conds ...storage.Key) *group){
		"a run again": func(v *view, use func(string, []string, ...storage.Key) *group) {
			use("r", []string{"a"})
			use("r", []string{"a"})
		},
		"a run that moved to a gate with an earlier Txn": func(v *view, use func(string, []string, ...storage.Key) *group) {
			use("x", []string{"b"})
			use("r", []string{"a"})
			use("r", []string{"b"})
		},
		"a condition on a gate that is written later": func(v *view, use func(string, []string, ...storage.Key) *group) {
			use("x", []string{"a"})
			use("y", []string{"b"}, lifecycle.GateKey("c"))
			use("z", []string{"a", "c"})
		},
		"a condition on a gate that is written by the group": func(v *view, use func(string, []string, ...storage.Key) *group) {
			use("x", []string{"a"})
			use("y", []string{"b"})
			use("z", []string{"a"}, lifecycle.GateKey("c"))
		},
		"two gates of different Txns": func(v *view, use func(string, []string, ...storage.Key) *group) {
			use("x", []string{"a"})
			use("y", []string{"b"})
			use("z", []string{"a", "b"})
			use("w", []string{"a"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			revs := storage.NewRevisions()
			v := newView("a", "b", "c")
			docs := map[storage.Key]storage.Rev{lifecycle.GateKey("a"): "old", lifecycle.GateKey("b"): "old", lifecycle.GateKey("c"): "old"}
			scenario(v, func(run string, gates []string, conds ...storage.Key) *group {
				return v.use(revs, run, gates, conds...)
			})
			for _, g := range v.groups {
				g.close(v.now)
				if err := g.txn.Check(); err != nil {
					t.Fatal(err)
				}
				for _, cond := range g.txn.If {
					if docs[cond.Key] != cond.Rev {
						t.Errorf("Txn %d wants %s at %q, it is %q", g.place, cond.Key, cond.Rev, docs[cond.Key])
					}
				}
				for _, put := range g.txn.Put {
					docs[put.Key] = g.txn.Rev
				}
			}
		})
	}
}

// The back-off of an agent is over, and it begins a new one: its timer must stay.
func TestATimerThatIsSetAgainStays(t *testing.T) {
	t.Parallel()
	v := newView("a")
	over := &change{remove: []storage.IndexOp{{Index: dueIndex, Member: timer(timerBackoff, "a")}}}
	v.gate(over, "a").Answered()
	v.seal(over, storage.NewRevisions())
	again := &change{}
	v.gate(again, "a").Rejected(v.now, time.Second)
	v.seal(again, storage.NewRevisions())
	g := v.groups[0]
	g.close(v.now)
	if len(v.groups) != 1 || len(g.txn.IndexRemove) != 0 || len(g.txn.IndexAdd) != 1 {
		t.Errorf("%d Txns; the first adds %v and removes %v, want the timer added", len(v.groups), g.txn.IndexAdd, g.txn.IndexRemove)
	}
}
