package workflow

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/opspawn/opscore/bus/event"
)

// maxWarnings bounds how many warnings are given.
const maxWarnings = 100

// Warnings returns what is allowed in a definition but hardly meant: members that nobody knows, tasks that are never reached, and what does nothing
// where it stands. Of a definition with mistakes it names only the members that nobody knows, which may be why.
func Warnings(raw event.Raw) Problems {
	var p Problems
	add := p.warn
	unknownMembers(raw, reflect.TypeFor[Definition](), "$", add)
	d, err := Parse(raw)
	if err != nil {
		return p
	}
	d.unreached(add)
	for i := range d.Tasks {
		t, at := &d.Tasks[i], taskPath(i)
		none := d.graph() && d.kind(t) == nodePass || t.Wait != nil || t.Signal != nil || t.Approval != nil
		if none && len(t.Parameters) > 0 && t.Parameters.Kind() != 'n' {
			add(at+".parameters", "nothing takes these parameters: the task has no agentCapability, agentId, select or workflow")
		}
		if none && t.Retry != nil {
			add(at+".retry", "nothing is tried again here: neither an agent nor another workflow does this task")
		}
		if none && t.TimeoutSeconds != 0 {
			add(at+".timeoutSeconds", "this is the time of agents, and no agent does this task; signal and approval have a timeoutSeconds of their own")
		}
		if t.Workflow != nil && t.Workflow.ID == d.ID {
			add(at+".workflow.id", "the workflow includes itself; it ends when a condition leaves this task out, or at %d levels", MaxDepth)
		}
		if o := t.Timeouts; o != nil && d.kind(t) != nodeAgent && d.kind(t) != nodeChildren {
			add(at+".timeouts", "these are the clocks of agents, and no agent does this task")
		}
	}
	return p
}

// ScheduleWarnings returns the members of a schedule that nobody knows.
func ScheduleWarnings(raw event.Raw) Problems {
	var p Problems
	unknownMembers(raw, reflect.TypeFor[event.ScheduleSpec](), "$", p.warn)
	return p
}

func (p *Problems) warn(path, format string, args ...any) {
	if len(*p) < maxWarnings {
		*p = append(*p, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
	}
}

// unreached names the tasks of a sequence that it does not come to. In a graph every task is reached, or begins it.
func (d *Definition) unreached(add problem) {
	if d.graph() || len(d.Tasks) == 0 {
		return
	}
	reached := make(map[string]bool, len(d.Tasks))
	for t := &d.Tasks[0]; t != nil && !reached[t.TaskID]; t = d.after(t) {
		reached[t.TaskID] = true
	}
	for i, t := range d.Tasks {
		if !reached[t.TaskID] {
			add(taskPath(i), "task %q is never reached: no nextTaskId leads to it from the first task", clip(t.TaskID, 60))
		}
	}
}

// unknownMembers names members that no type of the language has, and which may have been meant.
func unknownMembers(raw event.Raw, t reflect.Type, path string, add problem) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[event.Raw]():
		return // anything may stand there
	case t.Kind() == reflect.Slice && raw.Kind() == '[':
		d := jsontext.NewDecoder(strings.NewReader(string(raw)))
		_, err := d.ReadToken()
		for i := 0; err == nil && d.PeekKind() != ']'; i++ {
			var v event.Raw
			if v, err = d.ReadValue(); err == nil {
				unknownMembers(v.Clone(), t.Elem(), fmt.Sprintf("%s[%d]", path, i), add)
			}
		}
	case t.Kind() == reflect.Map && raw.Kind() == '{':
		eachMember(raw, func(name string, v event.Raw) { unknownMembers(v, t.Elem(), path+"."+name, add) })
	case t.Kind() == reflect.Struct && raw.Kind() == '{':
		known := membersOf(t)
		eachMember(raw, func(name string, v event.Raw) {
			if of, ok := known[name]; ok {
				unknownMembers(v, of, path+"."+name, add)
				return
			}
			names := make([]string, 0, len(known))
			for n := range known {
				names = append(names, n)
			}
			slices.Sort(names)
			add(path+"."+clip(name, 60), "nobody knows %q, so it does nothing%s", clip(name, 60), didYouMean(name, names))
		})
	}
}

func eachMember(raw event.Raw, do func(name string, v event.Raw)) {
	d := jsontext.NewDecoder(strings.NewReader(string(raw)))
	_, err := d.ReadToken()
	for err == nil && d.PeekKind() == '"' {
		var name jsontext.Token
		if name, err = d.ReadToken(); err != nil {
			return
		}
		text := name.String()
		var v event.Raw
		if v, err = d.ReadValue(); err == nil {
			do(text, v.Clone())
		}
	}
}

// membersOf returns the members of a type of the language as JSON names them, with those of what it embeds.
func membersOf(t reflect.Type) map[string]reflect.Type {
	members := make(map[string]reflect.Type)
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			for n, of := range membersOf(f.Type) {
				members[n] = of
			}
		case f.IsExported() && name != "":
			members[name] = f.Type
		}
	}
	return members
}

// Capabilities returns what the tasks of a definition ask of agents, in order, each once, with the path of the first task that does.
func (d *Definition) Capabilities() (names []string, paths map[string]string) {
	paths = make(map[string]string)
	ask := func(path, name string) {
		if _, seen := paths[name]; name != "" && !seen {
			paths[name] = path
			names = append(names, name)
		}
	}
	for i := range d.Tasks {
		t, at := &d.Tasks[i], taskPath(i)
		if t.AgentID == "" {
			ask(at+".agentCapability", t.AgentCapability)
		}
		if t.Select != nil {
			ask(at+".select.capability", t.Select.Capability)
		}
		if t.OnFailure != nil {
			for k, s := range t.OnFailure.Fallback {
				ask(fmt.Sprintf("%s.onFailure.fallback[%d].capability", at, k), s.Capability)
			}
		}
		if t.Compensate != nil {
			ask(at+".compensate.select.capability", t.Compensate.Select.Capability)
		}
	}
	slices.Sort(names)
	return names, paths
}
