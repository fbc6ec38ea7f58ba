package lifecycle

import (
	"fmt"
	"slices"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// Want is what a task asks of the agent that may run it: a named agent, which skips the check of the capability, or a capability.
type Want struct {
	Agent      string
	Capability string
}

// The rules by which an agent is refused a task.
const (
	RuleUnregistered = "unregistered"
	RuleNotNamed     = "not_named"
	RuleCapability   = "capability"
	RuleCordoned     = "cordoned"
	RuleSilent       = "no_responder"
	RuleBackoff      = "backoff"
	RuleState        = "state"
	RuleSlots        = "slots"
)

// Match returns nil when the agent behind the gate may be given the task now, and otherwise the first rule that refuses it.
func Match(g *Gate, w Want, now time.Time) *event.Refusal {
	rule := ""
	switch {
	case w.Agent != "" && w.Agent != g.Agent:
		rule = RuleNotNamed
	case w.Agent == "" && !slices.Contains(g.Caps, w.Capability):
		rule = RuleCapability
		if !g.Registered {
			rule = RuleUnregistered
		}
	default:
		rule = g.refusal(now)
	}
	if rule == "" {
		return nil
	}
	return &event.Refusal{AgentID: g.Agent, Rule: rule, Text: refusalText(g, w, rule, now)}
}

func refusalText(g *Gate, w Want, rule string, now time.Time) string {
	switch rule {
	case RuleUnregistered:
		return "the agent is not registered"
	case RuleNotNamed:
		return fmt.Sprintf("the task is for agent %q", w.Agent)
	case RuleCapability:
		return fmt.Sprintf("it does not offer capability %q", w.Capability)
	case RuleCordoned:
		return "it is cordoned"
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
	}
	return rule
}

func wait(g *Gate, now time.Time) string {
	return max(g.Until.Sub(now), 0).Round(100 * time.Millisecond).String()
}
