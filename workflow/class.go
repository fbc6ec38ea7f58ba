package workflow

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opspawn/opscore/lifecycle"
)

// Selector says which agent a task may go to: a named one, or any that offers a capability and is what else is asked for.
type Selector struct {
	Agent      string            // a named agent, of which nothing else is asked
	Bound      bool              // the run has worked on Agent before, and goes on there even while it is drained
	Capability string            // else, what the agent must offer
	Version    string            // the range its version must be in, as lifecycle.ParseVersionRange reads it
	Labels     map[string]string // what it must have, all of it
	Spread     bool              // of those that could take the task the one with the fewest
	Unfit      []string          // names of input schemas of agents that the input of the task does not fit
}

// The kinds of selector classes. A class is the queue of all ready tasks that ask for the same; its name says what.
const (
	namedClass  = "a:" // a:AGENT
	boundClass  = "b:" // b:AGENT
	simpleClass = "c:" // c:CAPABILITY
	pickyClass  = "s:" // s:cap=CAPABILITY&label.KEY=VALUE&spread=1&unfit=SCHEMA&version=RANGE, in this order, what is not asked for left out
)

// Members of the name of a picky class.
const (
	capMember     = "cap"
	labelMember   = "label."
	spreadMember  = "spread"
	unfitMember   = "unfit" // once for each schema
	versionMember = "version"
)

// classOf names the class of a selector: equal for selectors that ask for the same. It is empty for one that asks for nothing.
func classOf(s Selector) string {
	switch {
	case s.Agent != "" && s.Bound:
		return boundClass + s.Agent
	case s.Agent != "":
		return namedClass + s.Agent
	case s.Capability == "":
		return ""
	case s.Version == "" && len(s.Labels) == 0 && !s.Spread && len(s.Unfit) == 0:
		return simpleClass + s.Capability
	}
	members := url.Values{capMember: {s.Capability}}
	if version := strings.Join(strings.Fields(s.Version), " "); version != "" {
		members.Set(versionMember, version)
	}
	for k, v := range s.Labels {
		members.Set(labelMember+k, v)
	}
	if s.Spread {
		members.Set(spreadMember, "1")
	}
	if len(s.Unfit) > 0 {
		members[unfitMember] = slices.Sorted(slices.Values(s.Unfit))
	}
	return pickyClass + members.Encode()
}

// parseClass returns what the tasks of a class ask for. What it cannot read, because a newer version has named it, asks for what no agent is.
func parseClass(name string) lifecycle.Want {
	kind, rest := name[:min(len(name), 2)], name[min(len(name), 2):]
	switch kind {
	case namedClass:
		return lifecycle.Want{Agent: rest}
	case boundClass:
		return lifecycle.Want{Agent: rest, Bound: true}
	case simpleClass:
		return lifecycle.Want{Capability: rest}
	}
	members, err := url.ParseQuery(rest)
	if kind != pickyClass || err != nil {
		return lifecycle.Want{}
	}
	var want lifecycle.Want
	for member, values := range members {
		label, isLabel := strings.CutPrefix(member, labelMember)
		switch {
		case isLabel:
			if want.Labels == nil {
				want.Labels = make(map[string]string, len(members))
			}
			want.Labels[label] = values[0]
		case member == capMember:
			want.Capability = values[0]
		case member == spreadMember:
			want.Spread = true
		case member == unfitMember:
			want.Unfit = values
		case member == versionMember:
			if want.Version, err = lifecycle.ParseVersionRange(values[0]); err != nil {
				return lifecycle.Want{}
			}
		default:
			return lifecycle.Want{}
		}
	}
	return want
}

// Bounds of a priority. A ready task stands in its queue as if it had been ready its priority times ageingStep earlier: one of a higher priority goes
// first, and one that has waited that much longer before it, so that no task waits for ever.
const (
	MinPriority = 0
	MaxPriority = 9
	ageingStep  = 30 * time.Second
)

// place is where a task stands in the queue of its class.
func place(ready time.Time, priority int) time.Time {
	return ready.Add(-time.Duration(min(max(priority, MinPriority), MaxPriority)) * ageingStep)
}
