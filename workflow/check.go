package workflow

import (
	"fmt"
	"regexp"

	"github.com/opspawn/opscore/bus/event"
)

// Bounds of the clocks and lists of a definition.
const (
	maxSeconds  = 365 * 24 * 60 * 60
	maxRetries  = 1000
	maxCodes    = 100 // of a retry
	maxFallback = 20  // of an onFailure
)

// Check returns all mistakes of a definition: what must hold before a run of it can end well.
func (d *Definition) Check() Problems { return d.check(false) }

// check returns the mistakes. Those who use the old API write sequences and know no templates, so in these nothing is looked for.
func (d *Definition) check(legacy bool) Problems {
	c := &checker{d: d, graph: d.usesGraph(), index: make(map[string]int, len(d.Tasks))}
	checkID("$", "id", d.ID, c.add)
	checkClocks("$", d.TimeoutSeconds, d.Retry, c.add)
	switch {
	case d.Tasks == nil:
		c.add("$.tasks", "tasks is missing")
	case len(d.Tasks) > MaxTasks:
		c.add("$.tasks", "%d tasks, at most %d are allowed", len(d.Tasks), MaxTasks)
		return c.found
	}
	for i := range d.Tasks {
		t := &d.Tasks[i]
		at := taskPath(i)
		if first, dup := c.index[t.TaskID]; !dup {
			c.index[t.TaskID] = i
		} else if t.TaskID != "" {
			c.add(at+".taskId", "taskId %q is used twice, first by task %d", t.TaskID, first+1)
		}
		c.oldMembers(at, t)
	}
	c.drawLinks()
	c.cycles()
	if legacy && !c.graph {
		return c.found
	}
	c.definition()
	for i := range d.Tasks {
		c.task(i)
	}
	return c.found
}

// checker carries one check.
type checker struct {
	d     *Definition
	graph bool // it uses the language of graphs
	found Problems
	index map[string]int // taskId: place of the first task of that name

	links     []link
	out       [][]int  // by task: links from it
	into      []int    // by task: from how many others there are links to it
	cyclic    bool     // it has a cycle, so that nothing comes before anything
	ancestors []bitset // by task: the tasks before it, drawn when first asked for

	computed map[string]bool // expressions and templates that are more than a path
	count    int             // of the expressions in them
	schemas  map[string]bool
}

// problem takes a mistake.
type problem func(path, format string, args ...any)

func (c *checker) add(path, format string, args ...any) {
	c.found = append(c.found, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
}

func taskPath(i int) string { return fmt.Sprintf("$.tasks[%d]", i) }

// oldMembers checks what a task had before there were graphs.
func (c *checker) oldMembers(at string, t *Task) {
	checkID(at, "taskId", t.TaskID, c.add)
	if t.AgentID != "" {
		checkID(at, "agentId", t.AgentID, c.add)
	}
	if len(t.AgentCapability) > event.MaxName {
		c.add(at+".agentCapability", "agentCapability has %d bytes, at most %d are allowed", len(t.AgentCapability), event.MaxName)
	}
	c.object(at, "parameters", t.Parameters)
	checkClocks(at, t.TimeoutSeconds, t.Retry, c.add)
}

// object checks that a member that is raw JSON is an object, if it is there.
func (c *checker) object(at, name string, raw event.Raw) {
	if k := raw.Kind(); len(raw) > 0 && k != '{' && k != 'n' {
		c.add(at+"."+name, "%s must be an object", name)
	}
}

// checkID checks an id that will be part of subjects and of members of indexes.
func checkID(at, name, id string, add problem) {
	if id == "" {
		add(at+"."+name, "%s is missing", name)
	} else if _, err := event.Token(id); err != nil {
		add(at+"."+name, "%s is too long: escaped for a subject it must have at most %d bytes", name, event.MaxToken)
	}
}

func checkSeconds(at, name string, s float64, add problem) {
	if s < 0 || s > maxSeconds {
		add(at+"."+name, "%s must be 0 to %d", name, maxSeconds)
	}
}

func checkClocks(at string, timeout float64, r *Retry, add problem) {
	checkSeconds(at, "timeoutSeconds", timeout, add)
	if r == nil {
		return
	}
	if r.Attempts != nil && (*r.Attempts < 0 || *r.Attempts > maxRetries) {
		add(at+".retry.attempts", "retry.attempts must be 0 to %d", maxRetries)
	}
	checkSeconds(at, "retry.initialSeconds", r.InitialSeconds, add)
	checkSeconds(at, "retry.maxSeconds", r.MaxSeconds, add)
	if r.Factor < 0 {
		add(at+".retry.factor", "retry.factor must not be negative")
	}
	oneOf(at+".retry.jitter", "retry.jitter", r.Jitter, add, "full", "none")
	if len(r.NonRetryable) > maxCodes || len(r.Codes) > maxCodes {
		add(at+".retry", "retry names more than %d codes", maxCodes)
		return
	}
	for code, own := range r.Codes {
		if own.Codes != nil || own.NonRetryable != nil {
			add(at+".retry.codes", "the retry of code %q must not have codes of its own", code)
		}
		checkClocks(at+".retry.codes."+code, 0, &Retry{
			Attempts: own.Attempts, InitialSeconds: own.InitialSeconds, MaxSeconds: own.MaxSeconds, Factor: own.Factor, Jitter: own.Jitter,
		}, func(_, format string, args ...any) {
			add(at+".retry.codes", "of code %q: "+format, append([]any{code}, args...)...)
		})
	}
}

// oneOf checks a member that may be empty or one of a few words.
func oneOf(at, name, value string, add problem, words ...string) {
	for _, w := range append(words, "") {
		if value == w {
			return
		}
	}
	add(at, "%s must be %s, not %q", name, orList(words), clip(value, 60))
}

// priority checks a priority.
func (c *checker) priority(at string, p int) {
	if p < MinPriority || p > MaxPriority {
		c.add(at+".priority", "priority must be %d to %d", MinPriority, MaxPriority)
	}
}

// definition checks what the language of graphs adds to a definition.
func (c *checker) definition() {
	d := c.d
	checkSeconds("$", "runTimeoutSeconds", d.RunTimeoutSeconds, c.add)
	c.priority("$", d.Priority)
	c.schema("$.inputSchema", "inputSchema", d.InputSchema)
	c.template("$.output", "output", d.Output, reach{all: true})
	if d.Concurrency == nil {
		return
	}
	if d.Concurrency.Max < 1 {
		c.add("$.concurrency.max", "concurrency.max must be at least 1")
	}
	if d.Concurrency.Key != "" {
		c.expression("$.concurrency.key", "concurrency.key", d.Concurrency.Key, kindText, reach{none: true})
	}
}

// inside is what the templates of a task may refer to that are looked at each time that it does something.
func (c *checker) inside(i int) reach {
	t := &c.d.Tasks[i]
	return reach{task: i, item: t.ForEach != nil, index: t.ForEach != nil || t.Loop != nil, last: t.Loop != nil}
}

// taken are ids that look as if they named an item of a forEach, or what undoes a task.
var taken = regexp.MustCompile(`\[\d+\]$|` + undoSuffix + `$`)

// task checks what the language of graphs adds to a task.
func (c *checker) task(i int) {
	t, at := &c.d.Tasks[i], taskPath(i)
	if c.graph && taken.MatchString(t.TaskID) {
		c.add(at+".taskId", "taskId %q looks like an item of a forEach, or like what undoes a task; name it otherwise", clip(t.TaskID, 60))
	}
	c.body(i)
	c.edges(i)
	c.repeats(i)
	c.waits(i)
	c.failure(i)
	inside := c.inside(i)
	c.template(at+".parameters", "parameters", t.Parameters, inside)
	if t.When != "" {
		c.expression(at+".when", "when", t.When, kindBool, reach{task: i})
	}
	if w := t.Workflow; w != nil {
		checkID(at+".workflow", "id", w.ID, c.add)
		if len(w.Version) > event.MaxName {
			c.add(at+".workflow.version", "version has %d bytes, at most %d are allowed", len(w.Version), event.MaxName)
		}
		c.object(at+".workflow", "input", w.Input)
		c.template(at+".workflow.input", "workflow.input", w.Input, inside)
	}
	c.schema(at+".outputSchema", "outputSchema", t.OutputSchema)
	if t.Priority != nil {
		c.priority(at, *t.Priority)
	}
	if o := t.Timeouts; o != nil {
		checkSeconds(at+".timeouts", "queueSeconds", o.QueueSeconds, c.add)
		checkSeconds(at+".timeouts", "acceptSeconds", o.AcceptSeconds, c.add)
		checkSeconds(at+".timeouts", "runSeconds", o.RunSeconds, c.add)
		checkSeconds(at+".timeouts", "progressSeconds", o.ProgressSeconds, c.add)
	}
}
