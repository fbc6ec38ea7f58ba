package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/opspawn/opscore/bus/event"
)

// Want is what a task asks of the agent that may run it: a named agent, of which nothing else is asked, or a capability and what else the agent
// must be.
type Want struct {
	Agent      string
	Bound      bool // its run has worked on Agent before: it goes on there even while the agent is drained
	Probe      bool // nobody else could take it: an open breaker does not refuse it
	Capability string
	Version    VersionRange
	Labels     map[string]string // each must be the agent's
	Spread     bool              // of the agents that could take it the one with the fewest tasks
	Unfit      []string          // names of input schemas that what is asked for does not fit
}

// Picky reports whether offering the capability is not enough.
func (w *Want) Picky() bool { return w.Version.text != "" || len(w.Labels) > 0 || len(w.Unfit) > 0 }

// VersionRange is a range of semantic versions as in ">=1.2 <3", "^2.1", "~1.4.2" or "1.x || >=3". The zero VersionRange holds every version, also
// one that is not semantic.
type VersionRange struct {
	text   string
	within *semver.Constraints
}

// ParseVersionRange reads a range. It fails with an *event.Error of CodeInvalid.
func ParseVersionRange(text string) (VersionRange, error) {
	text = strings.Join(strings.Fields(text), " ")
	if text == "" {
		return VersionRange{}, nil
	}
	within, err := semver.NewConstraint(text)
	if err != nil || len(text) > event.MaxName {
		return VersionRange{}, event.Errorf(event.CodeInvalid, "%q is no range of versions; write it like \">=1.2 <3\" or \"^2.1\"", text)
	}
	return VersionRange{text, within}, nil
}

// String returns the range as it was written, with single spaces.
func (r VersionRange) String() string { return r.text }

// Holds reports whether the range holds a version. A pre-release is held only by a range that names one.
func (r VersionRange) Holds(version string) bool {
	if r.within == nil {
		return r.text == ""
	}
	v, err := semver.NewVersion(version)
	return err == nil && r.within.Check(v)
}

// The rules by which an agent is refused a task.
const (
	RuleUnregistered = "unregistered"
	RuleNotNamed     = "not_named"
	RuleCapability   = "capability"
	RuleVersion      = "version"
	RuleLabel        = "label"
	RuleSchema       = "schema"
	RuleCordoned     = "cordoned"
	RuleSuspect      = "suspect"
	RuleLost         = "lost"
	RuleDraining     = "draining"
	RuleSilent       = "no_responder"
	RuleBackoff      = "backoff"
	RuleState        = "state"
	RuleSlots        = "slots"
	RuleBreaker      = "breaker"
)

// Rules lists all of them, the one that is least in the way first: by how soon, and with how little doing, the agent may take a task after all.
var Rules = []string{
	RuleSlots, RuleBackoff, RuleBreaker, RuleSuspect, RuleDraining, RuleCordoned, RuleState, RuleSilent, RuleLost, RuleLabel, RuleVersion,
	RuleSchema, RuleCapability, RuleUnregistered, RuleNotNamed,
}

// Match returns nil when the agent behind the gate may be given the task now, and otherwise the first rule that refuses it.
func Match(g *Gate, w Want, now time.Time) *event.Refusal {
	rule := unfit(g, &w)
	if rule == "" {
		rule = g.refusal(&w, now)
	}
	if rule == "" {
		return nil
	}
	return &event.Refusal{AgentID: g.Agent, Rule: rule, Text: refusalText(g, w, rule, now)}
}

// Fits reports whether the agent behind the gate is what a task asks for, whether it may be given one now or not.
func Fits(g *Gate, w Want) bool { return g.Registered && unfit(g, &w) == "" }

// unfit names the first rule by which the agent is not what is asked for, or is empty.
func unfit(g *Gate, w *Want) string {
	switch {
	case w.Agent != "" && w.Agent != g.Agent:
		return RuleNotNamed
	case w.Agent != "":
		return ""
	case !g.Registered:
		return RuleUnregistered
	case w.Capability == "" || !slices.Contains(g.Caps, w.Capability):
		return RuleCapability
	case !w.Version.Holds(g.Version):
		return RuleVersion
	case lacking(g, w) != "":
		return RuleLabel
	case len(w.Unfit) > 0 && slices.Contains(w.Unfit, g.Schemas[w.Capability].Input):
		return RuleSchema
	}
	return ""
}

// lacking returns the first label that is asked for and that the agent does not have, as k=v, or "".
func lacking(g *Gate, w *Want) string {
	first := ""
	for k, v := range w.Labels {
		if have, ok := g.Labels[k]; !ok || have != v {
			if label := k + "=" + v; first == "" || label < first {
				first = label
			}
		}
	}
	return first
}

func refusalText(g *Gate, w Want, rule string, now time.Time) string {
	switch rule {
	case RuleUnregistered:
		return "the agent is not registered"
	case RuleNotNamed:
		return fmt.Sprintf("the task is for agent %q", w.Agent)
	case RuleCapability:
		return fmt.Sprintf("it does not offer capability %q", w.Capability)
	case RuleVersion:
		return fmt.Sprintf("its version %q is not within %q", g.Version, w.Version)
	case RuleLabel:
		return fmt.Sprintf("it does not have the label %q", lacking(g, &w))
	case RuleSchema:
		return fmt.Sprintf("the input does not fit the schema that it has registered for capability %q", w.Capability)
	case RuleCordoned:
		return "it is cordoned"
	case RuleSuspect:
		return "it has missed two heartbeats; it is free again with the next one"
	case RuleLost:
		return "it is lost: it has missed three heartbeats, and its tasks were handed back; it is free again with the next one"
	case RuleDraining:
		if g.DrainBy.IsZero() {
			return "it is drained: it takes no new work"
		}
		return "it is drained: it takes no new work, and what it holds is handed back at " + g.DrainBy.UTC().Format(time.RFC3339)
	case RuleSilent:
		return "nobody answered on its subject; it is asked again at its next sign of life or in " + wait(g, now)
	case RuleBackoff:
		return "it refused its last task; it is asked again in " + wait(g, now)
	case RuleState:
		if g.Word == "" {
			return "it has not reported a state yet"
		}
		return fmt.Sprintf("its state is %q", g.Word)
	case RuleSlots:
		return fmt.Sprintf("%d of its %d slots are in use", len(g.Held), g.Slots)
	case RuleBreaker:
		return breakerText(g, now)
	}
	return rule
}

func breakerText(g *Gate, now time.Time) string {
	failed := fmt.Sprintf("it has failed %d of its last %d tasks", g.Breaker.failures(), len(g.Breaker.Last))
	if left := g.Breaker.Until.Sub(now); left > 0 {
		return failed + "; it is tried again in " + left.Round(100*time.Millisecond).String()
	}
	return failed + "; it is being tried with one task"
}

func wait(g *Gate, now time.Time) string {
	return max(g.Until.Sub(now), 0).Round(100 * time.Millisecond).String()
}
