package workflow

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
)

// body checks that a task does at most one thing, and that it is one that can be repeated if it is.
func (c *checker) body(i int) {
	t, at := &c.d.Tasks[i], taskPath(i)
	var bodies []string
	for _, b := range []struct {
		name  string
		there bool
	}{
		{"select", t.Select != nil},
		{"agentCapability", t.AgentCapability != "" || t.AgentID != ""},
		{"workflow", t.Workflow != nil},
		{"wait", t.Wait != nil},
		{"signal", t.Signal != nil},
		{"approval", t.Approval != nil},
	} {
		if b.there {
			bodies = append(bodies, b.name)
		}
	}
	if len(bodies) > 1 {
		c.add(at, "a task does one thing, this one has %s", strings.Join(bodies, " and "))
	}
	repeats := t.ForEach != nil || t.Loop != nil
	if t.ForEach != nil && t.Loop != nil {
		c.add(at, "a task has forEach or loop, not both; put one of them into a workflow of its own")
	}
	if repeats && len(bodies) == 0 {
		c.add(at, "forEach and loop repeat what a task does; this one does nothing")
	}
	if t.Select != nil {
		c.selects(i, at+".select", t.Select)
	}
}

// selects checks which agents may do a task.
func (c *checker) selects(i int, at string, s *Select) {
	if s.AgentID == "" && s.Capability == "" && s.SameAs == "" {
		c.add(at, "select must have capability, agentId or sameAs")
	}
	if s.AgentID != "" {
		checkID(at, "agentId", s.AgentID, c.add)
	}
	if len(s.Capability) > event.MaxName {
		c.add(at+".capability", "capability has %d bytes, at most %d are allowed", len(s.Capability), event.MaxName)
	}
	if len(s.Version) > event.MaxName {
		c.add(at+".version", "version has %d bytes, at most %d are allowed", len(s.Version), event.MaxName)
	} else if _, err := lifecycle.ParseVersionRange(s.Version); err != nil {
		c.add(at+".version", "%s", asError(err).Message)
	}
	if len(s.Labels) > event.MaxLabels {
		c.add(at+".labels", "%d labels, at most %d are allowed", len(s.Labels), event.MaxLabels)
	}
	if s.SameAs == "" {
		return
	}
	j, ok := c.index[s.SameAs]
	switch {
	case !ok:
		c.unknownTask(at+".sameAs", "sameAs", s.SameAs)
	case c.d.kind(&c.d.Tasks[j]) != nodeAgent:
		c.add(at+".sameAs", "task %q is not done by an agent", s.SameAs)
	case !c.before(j, i):
		c.add(at+".sameAs", "task %q does not come before this one, so its agent may not be known yet", s.SameAs)
	}
}

// edges checks dependsOn, join and switch. That tasks which are named exist was checked with the links.
func (c *checker) edges(i int) {
	t, at := &c.d.Tasks[i], taskPath(i)
	seen := make(map[string]bool, len(t.DependsOn))
	for k, id := range t.DependsOn {
		if seen[id] {
			c.add(fmt.Sprintf("%s.dependsOn[%d]", at, k), "dependsOn names %q twice", clip(id, 60))
		}
		seen[id] = true
	}
	for k, one := range t.Switch {
		here := fmt.Sprintf("%s.switch[%d]", at, k)
		switch {
		case one.When != "":
			c.expression(here+".when", "when", one.When, kindBool, reach{task: i, self: true})
		case k < len(t.Switch)-1:
			c.add(here, "a case without when is always taken, so it must be the last")
		}
	}
	c.join(at, t.Join, c.into[i])
}

func (c *checker) join(at string, join event.Raw, edges int) {
	if len(join) == 0 || join.Kind() == 'n' || string(join) == `"all"` {
		return
	}
	n := 1
	if string(join) != `"any"` {
		if _, err := fmt.Sscanf(string(join), "%d", &n); err != nil || fmt.Sprint(n) != string(join) || n < 1 {
			c.add(at+".join", `join must be "all", "any" or a number from 1, not %s`, shorten(join))
			return
		}
	}
	if n > edges {
		c.add(at+".join", "join can never be met: it wants %d of %d edges", n, edges)
	}
}

// repeats checks forEach and loop.
func (c *checker) repeats(i int) {
	t, at := &c.d.Tasks[i], taskPath(i)
	if f := t.ForEach; f != nil {
		c.required(at+".forEach.items", "forEach.items", f.Items, kindList, reach{task: i})
		if f.MaxParallel < 0 || f.MaxParallel > MaxParallel {
			c.add(at+".forEach.maxParallel", "forEach.maxParallel must be 0 to %d", MaxParallel)
		}
		oneOf(at+".forEach.onFailure", "forEach.onFailure", f.OnFailure, c.add, "fail", "collect")
		if f.Tolerate < 0 || f.Tolerate > 0 && f.OnFailure == "collect" {
			c.add(at+".forEach.tolerate", "forEach.tolerate must be a number from 0, and is only for onFailure fail")
		}
	}
	if l := t.Loop; l != nil {
		c.required(at+".loop.while", "loop.while", l.While, kindBool, reach{task: i, index: true, last: true})
		if l.Max < 1 || l.Max > MaxLoop {
			c.add(at+".loop.max", "loop.max must be 1 to %d", MaxLoop)
		}
	}
}

// waits checks wait, signal and approval.
func (c *checker) waits(i int) {
	t, at := &c.d.Tasks[i], taskPath(i)
	if w := t.Wait; w != nil {
		checkSeconds(at+".wait", "seconds", w.Seconds, c.add)
		if w.Until != "" {
			c.expression(at+".wait.until", "wait.until", w.Until, kindTime, c.inside(i))
		}
		if (w.Seconds != 0) == (w.Until != "") {
			c.add(at+".wait", "wait must have either seconds or until")
		}
	}
	if s := t.Signal; s != nil {
		if s.Name == "" {
			c.add(at+".signal.name", "signal.name is missing")
		} else if len(s.Name) > event.MaxName {
			c.add(at+".signal.name", "signal.name has %d bytes, at most %d are allowed", len(s.Name), event.MaxName)
		} else if strings.Contains(s.Name, "${{") {
			c.add(at+".signal.name", "signal.name is no template: of a forEach each item waits in a run of its own, so one name is enough")
		}
		checkSeconds(at+".signal", "timeoutSeconds", s.TimeoutSeconds, c.add)
		c.schema(at+".signal.schema", "signal.schema", s.Schema)
	}
	if a := t.Approval; a != nil {
		checkSeconds(at+".approval", "timeoutSeconds", a.TimeoutSeconds, c.add)
		oneOf(at+".approval.onTimeout", "approval.onTimeout", a.OnTimeout, c.add, "fail", "approve", "reject")
		oneOf(at+".approval.onReject", "approval.onReject", a.OnReject, c.add, "fail", "continue")
		if a.OnTimeout != "" && a.TimeoutSeconds == 0 {
			c.add(at+".approval.onTimeout", "approval.onTimeout needs timeoutSeconds")
		}
		if strings.Contains(a.Message, "${{") {
			c.template(at+".approval.message", "approval.message", event.MustMarshal(a.Message), c.inside(i))
		}
	}
}

// failure checks what follows from a failure.
func (c *checker) failure(i int) {
	t, at := &c.d.Tasks[i], taskPath(i)
	if f := t.OnFailure; f != nil {
		if f.TaskID != "" && f.Continue {
			c.add(at+".onFailure", "onFailure has taskId or continue, not both")
		}
		if f.TaskID == "" && !f.Continue && len(f.Fallback) == 0 {
			c.add(at+".onFailure", "onFailure must have fallback, taskId or continue")
		}
		if len(f.Fallback) > maxFallback {
			c.add(at+".onFailure.fallback", "%d fallbacks, at most %d are allowed", len(f.Fallback), maxFallback)
			return
		}
		if len(f.Fallback) > 0 && !c.byAgent(t) {
			c.add(at+".onFailure.fallback", "fallback names agents, but this task is not done by one")
		}
		for k := range f.Fallback {
			c.selects(i, fmt.Sprintf("%s.onFailure.fallback[%d]", at, k), &f.Fallback[k])
		}
	}
	if u := t.Compensate; u != nil {
		if s := &u.Select; s.AgentID != "" || s.Capability != "" || s.SameAs != "" {
			c.selects(i, at+".compensate.select", s)
		} else if c.d.kind(t) != nodeAgent {
			c.add(at+".compensate", "compensate must say in select who undoes it, because no agent has done it")
		}
		c.object(at+".compensate", "parameters", u.Parameters)
		c.template(at+".compensate.parameters", "compensate.parameters", u.Parameters, reach{task: i, self: true})
	}
}

// byAgent reports whether an agent does a task, or what it repeats.
func (c *checker) byAgent(t *Task) bool {
	return c.d.kind(t) == nodeAgent || c.d.kind(t) == nodeChildren && (t.Select != nil || t.AgentCapability != "" || t.AgentID != "")
}

// unknownTask says that a name is of no task, and which is like it.
func (c *checker) unknownTask(path, name, id string) {
	c.add(path, "%s %q names no task of this definition%s", name, clip(id, 60), c.didYouMean(id))
}

func (c *checker) didYouMean(id string) string {
	if len(c.index) > 1000 {
		return ""
	}
	names := make([]string, 0, len(c.index))
	for name := range c.index {
		names = append(names, name)
	}
	return didYouMean(id, names)
}

// didYouMean names what is most like a word, in parentheses, or nothing.
func didYouMean(word string, words []string) string {
	best, least := "", min(2+len(word)/4, max(len(word), 1))
	slices.Sort(words)
	for _, w := range words {
		if n := edits(word, w, least); n < least {
			best, least = w, n
		}
	}
	if best == "" || best == word {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// edits counts the letters that must be put in, taken out or replaced to turn one word into another, in any case; at least limit if it is more.
func edits(a, b string, limit int) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(a) > 100 {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := last
			if a[i] != b[j] {
				next = 1 + min(last, row[j], row[j+1])
			}
			last, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

func orList(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
