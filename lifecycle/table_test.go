package lifecycle_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

var update = flag.Bool("update", false, "rewrite the tables of doc.go")

// The tables of the package comment are made from the code: each cell is what really happens.
func TestTablesOfThePackageComment(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	want := string(text)
	for heading, table := range map[string]string{
		"# What an event does to a record":                              recordTable(),
		"# What a word does to a gate":                                  wordTable(),
		"# What an act does to a gate":                                  actTable(),
		"# What the judge says of an agent":                             livenessTable(),
		"# What ends an attempt of an agent that knows no result event": traceTable(),
	} {
		if want, err = withTable(want, heading, table); err != nil {
			t.Fatal(err)
		}
	}
	if *update {
		if err := os.WriteFile("doc.go", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), want); diff != "" {
		t.Errorf("the tables of doc.go differ from the code (-doc.go +code); decide which is right, then use -update:\n%s", diff)
	}
}

// withTable returns a source text with the first preformatted block behind a heading replaced.
func withTable(source, heading, table string) (string, error) {
	before, rest, found := strings.Cut(source, "// "+heading+"\n")
	if !found {
		return "", fmt.Errorf("doc.go has no heading %q", heading)
	}
	prose, block, found := strings.Cut(rest, "//\t")
	if !found || strings.Contains(prose, "// #") {
		return "", fmt.Errorf("doc.go has no table behind %q", heading)
	}
	for more := true; more; {
		_, block, _ = strings.Cut(block, "\n")
		block, more = strings.CutPrefix(block, "//\t")
	}
	return before + "// " + heading + "\n" + prose + table + block, nil
}

// render lays rows of cells out as a preformatted block of a comment.
func render(rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // a Builder takes everything
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		out.WriteString("//\t" + strings.TrimRight(line, " \n") + "\n")
	}
	return out.String()
}

// The documents of the table stand on these places of the stream; rows say where the event comes.
const (
	earlierSeq = 10
	betweenSeq = 25
	laterSeq   = 50
)

// recordStates are the documents an event can meet, each made by the events that lead to it.
func recordStates() (names []string, build map[string]func() *lifecycle.Record) {
	made := func(events ...at) func() *lifecycle.Record {
		return func() *lifecycle.Record { return fold(events...) }
	}
	return []string{"new", "early", "unknown", "speaks", "gone"}, map[string]func() *lifecycle.Record{
		"new":     made(),
		"early":   made(at{30, said("A", "idle")}),
		"unknown": made(at{20, registered("A")}),
		"speaks":  made(at{20, registered("A")}, at{30, said("A", "idle")}),
		"gone":    made(at{20, registered("A")}, at{30, said("A", "idle")}, at{40, deregistered()}),
	}
}

// stateOf names what a record amounts to.
func stateOf(r *lifecycle.Record) string {
	switch {
	case r.Registered() && r.Current() != nil:
		return "speaks"
	case r.Registered():
		return "unknown"
	case len(r.Reports) > 0:
		return "early"
	case r.Dereg.Seq > 0:
		return "gone"
	}
	return "new"
}

// visible names the events that a record shows at present.
func visible(r *lifecycle.Record) string {
	var registration, report uint64
	if r.Registered() {
		registration = r.Reg.Mark.Seq
	}
	if p := r.Current(); p != nil {
		report = p.Mark.Seq
	} else if !r.Registered() && len(r.Reports) > 0 {
		report = r.Reports[0].Mark.Seq
	}
	return fmt.Sprint(stateOf(r), registration, report)
}

func recordTable() string {
	names, build := recordStates()
	afterTTL := epoch.Add(lifecycle.EarlyReportTTL + time.Hour)
	rows := [][]string{append([]string{"event", "its place"}, names...)}
	for _, row := range []struct {
		name, place string
		event       event.Event
		mark        lifecycle.Mark
	}{
		{"register", "later", registered("A"), mark(laterSeq)},
		{"register", "between", registered("A"), mark(betweenSeq)},
		{"register", "earlier", registered("A"), mark(earlierSeq)},
		{"register", "later, after 5 min", registered("A"), lifecycle.Mark{Seq: laterSeq, At: afterTTL}},
		{"register, another process", "later", registered("B"), mark(laterSeq)},
		{"register, another process", "earlier", registered("B"), mark(earlierSeq)},
		{"register, no process named", "later", registered(""), mark(laterSeq)},
		{"deregister", "later", deregistered(), mark(laterSeq)},
		{"deregister", "between", deregistered(), mark(betweenSeq)},
		{"deregister", "earlier", deregistered(), mark(earlierSeq)},
		{"state", "later", said("A", "busy"), mark(laterSeq)},
		{"state", "between", said("A", "busy"), mark(betweenSeq)},
		{"state", "earlier", said("A", "busy"), mark(earlierSeq)},
		{"state, another process", "later", said("B", "busy"), mark(laterSeq)},
		{"state, no process named", "later", said("", "busy"), mark(laterSeq)},
		{"cordon", "later", command(event.KindAgentCordon), mark(laterSeq)},
		{"cordon", "earlier", command(event.KindAgentCordon), mark(earlierSeq)},
		{"drain", "later", command(event.KindAgentDrain), mark(laterSeq)},
		{"uncordon", "later", command(event.KindAgentUncordon), mark(laterSeq)},
		{"any", "low, but by newer time", said("A", "busy"), lifecycle.Mark{Seq: 5, At: afterTTL}},
	} {
		cells := []string{row.name, row.place}
		for _, name := range names {
			r := build[name]()
			before := visible(r)
			switch r.Apply(row.event, row.mark) {
			case lifecycle.Old:
				cells = append(cells, "-")
			case lifecycle.Suspect:
				cells = append(cells, "?")
			case lifecycle.Applied:
				switch {
				case visible(r) != before:
					cells = append(cells, stateOf(r))
				case r.Cordon.Drain:
					cells = append(cells, "drained")
				case r.Cordon.On:
					cells = append(cells, "cordoned")
				default:
					cells = append(cells, "kept")
				}
			}
		}
		rows = append(rows, cells)
	}
	return render(rows)
}

// words are one of each kind that an agent can say, nothing at first.
func words() []string {
	return []string{"", "UNKNOWN", "idle", "finished", "completed", "active", "busy", "error", "offline", "draining", "initializing", "pondering"}
}

// openAfter says what a gate does that hears one word: the gate held an attempt or not, and a result was taken in long before or
// just after the word was said.
func openAfter(word string, holds, resultAfter, wasOpen bool) bool {
	g := lifecycle.Gate{Agent: "a", Open: wasOpen}
	if holds {
		g.Take(attempt(2), "", epoch)
	}
	if resultAfter {
		g.Release(attempt(1), mark(laterSeq).At)
	}
	r := fold(at{20, registered("")})
	if word != "" {
		r.Apply(said("", word), mark(30))
	}
	g.Follow(r, true)
	return g.Open
}

func wordTable() string {
	rows := [][]string{{"last word", "holds nothing", "holds nothing, said before the last result", "holds an attempt"}}
	for _, word := range words() {
		cell := func(holds, resultAfter bool) string {
			fromOpen, fromShut := openAfter(word, holds, resultAfter, true), openAfter(word, holds, resultAfter, false)
			switch {
			case fromOpen && fromShut:
				return "open"
			case !fromOpen && !fromShut:
				return "shut"
			}
			return "as it was"
		}
		name := word
		if word == "" {
			name = "(none)"
		}
		rows = append(rows, []string{name, cell(false, false), cell(false, true), cell(true, false)})
	}
	return render(rows)
}

// gateState is a gate of an agent with one slot, and the record it follows.
type gateState struct {
	rule   string // that refuses a task, or "free"
	events []at
	record *lifecycle.Record
	gate   *lifecycle.Gate
}

// newGateState makes a gate that follows the events of an agent and was then changed.
func newGateState(rule string, change func(*lifecycle.Gate), events ...at) gateState {
	s := gateState{rule: rule, events: events, record: fold(events...), gate: &lifecycle.Gate{Agent: "a"}}
	s.gate.Follow(s.record, true)
	change(s.gate)
	return s
}

func gateStates() []gateState {
	register, idle := at{20, registered("A")}, at{30, said("A", "idle")}
	asItIs := func(*lifecycle.Gate) {}
	return []gateState{
		newGateState("free", asItIs, register, idle),
		newGateState(lifecycle.RuleUnregistered, asItIs, register, idle, at{40, deregistered()}),
		newGateState(lifecycle.RuleCordoned, asItIs, register, idle, at{40, command(event.KindAgentCordon)}),
		newGateState(lifecycle.RuleSuspect, func(g *lifecycle.Gate) { g.Judged(event.LivenessSuspect, 30) }, register, idle),
		newGateState(lifecycle.RuleLost, func(g *lifecycle.Gate) { g.Judged(event.LivenessLost, 30) }, register, idle),
		newGateState(lifecycle.RuleDraining, asItIs, register, idle, at{40, command(event.KindAgentDrain)}),
		newGateState(lifecycle.RuleSilent, func(g *lifecycle.Gate) { g.Unheard(epoch) }, register, idle),
		newGateState(lifecycle.RuleBackoff, func(g *lifecycle.Gate) { g.Rejected(epoch, 0) }, register, idle),
		newGateState(lifecycle.RuleState, asItIs, register, at{30, said("A", "draining")}),
		newGateState(lifecycle.RuleSlots, func(g *lifecycle.Gate) { g.Take(attempt(1), "A", epoch) }, register, idle),
		newGateState(lifecycle.RuleBreaker, func(g *lifecycle.Gate) { fail(g, 5) }, register, idle),
	}
}

// fail makes an agent fail so many attempts in a row.
func fail(g *lifecycle.Gate, times int) {
	for range times {
		g.Failed(attempt(1), epoch)
	}
}

func actTable() string {
	rows := [][]string{{"act"}}
	for _, s := range gateStates() {
		rows[0] = append(rows[0], s.rule)
	}
	for _, row := range []struct {
		name string
		act  func(gateState)
	}{
		{"a sign of life", func(s gateState) { s.gate.Follow(s.record, true) }},
		{"a message behind that", func(s gateState) { s.gate.Refreshed(31) }},
		{"a new process", func(s gateState) {
			r := fold(append(s.events, at{50, registered("B")}, at{51, said("B", "idle")})...)
			s.gate.Follow(r, true)
		}},
		{"a heartbeat", func(s gateState) { s.gate.Judged(event.LivenessLive, 0) }},
		{"Take", func(s gateState) { s.gate.Take(attempt(1), "A", epoch) }},
		{"Release", func(s gateState) { s.gate.Release(attempt(1), mark(60).At) }},
		{"Drain", func(s gateState) { s.gate.Drain(attempt(1), epoch.Add(time.Minute)) }},
		{"Rejected", func(s gateState) { s.gate.Rejected(epoch, 0) }},
		{"Unheard", func(s gateState) { s.gate.Unheard(epoch) }},
		{"Answered", func(s gateState) { s.gate.Answered() }},
		{"Failed, for the fifth time", func(s gateState) { fail(s.gate, 5) }},
		{"Worked", func(s gateState) { s.gate.Worked(attempt(1)) }},
		{"a second passes", nil},
		{"ten seconds pass", nil},
	} {
		cells := []string{row.name}
		for _, s := range gateStates() {
			now := epoch
			switch {
			case row.act != nil:
				row.act(s)
			case row.name == "a second passes":
				now = now.Add(time.Second)
			default:
				now = now.Add(10 * time.Second)
			}
			cells = append(cells, ruleOf(s.gate, now, s.rule))
		}
		rows = append(rows, cells)
	}
	return render(rows)
}

// ruleOf names the rule that refuses a task, or "-" if it is the same as before.
func ruleOf(g *lifecycle.Gate, now time.Time, before string) string {
	rule := "free"
	if refusal := lifecycle.Match(g, lifecycle.Want{Agent: "a"}, now); refusal != nil {
		rule = refusal.Rule
	}
	if rule == before {
		return "-"
	}
	return rule
}
