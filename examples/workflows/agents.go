package workflows

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
)

// StandIn stands for an agent that does one kind of task: what it brings follows from what it is given, and from which attempt it is.
type StandIn func(ctx context.Context, in map[string]any, task *agent.Task) (any, error)

// Agent is one that the examples need.
type Agent struct {
	Config agent.Config // id, version, capabilities and labels; the connection is missing
	Does   StandIn
}

// Handle does a task.
func (a *Agent) Handle(ctx context.Context, task *agent.Task) (any, error) {
	var in map[string]any
	if err := task.Bind(&in); err != nil {
		return nil, err
	}
	return a.Does(ctx, in, task)
}

// Agents returns all agents that the examples need: one for each capability, named after it, three that build, and three that have registered what they
// take and give.
func Agents() []Agent {
	var list []Agent
	for _, name := range slices.Sorted(maps.Keys(standIns)) {
		list = append(list, Agent{agent.Config{ID: name, Name: name, Version: "1.0.0", Capabilities: []string{name}, Slots: slots}, standIns[name]})
	}
	for _, b := range []struct{ id, version, zone string }{
		{"builder-eu", "2.1.0", "eu"}, {"builder-us", "2.1.0", "us"}, {"builder-old", "1.9.0", "eu"},
	} {
		list = append(list, Agent{agent.Config{
			ID: b.id, Name: b.id, Version: b.version, Capabilities: []string{"build"}, Labels: map[string]string{"zone": b.zone}, Slots: slots,
		}, build})
	}
	for i := range typed {
		a := typed[i]
		a.Config.Name, a.Config.Version, a.Config.Slots = a.Config.ID, "1.0.0", slots
		list = append(list, a)
	}
	return list
}

const slots = 4 // of each agent

type fields = map[string]any

func never(code string) error { return agent.Permanent(agent.Fail(code, "no")) }

func text(v any) string { return fmt.Sprint(v) }

func build(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
	if in["code"] == "broken" {
		return nil, never("does_not_compile")
	}
	return fields{"built": in["code"]}, nil
}

// standIns stand for agents by the capability they offer.
var standIns = map[string]StandIn{
	"collect": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		sources, _ := in["sources"].([]any)
		if len(sources) == 0 {
			return nil, never("nothing_to_report")
		}
		return fields{"count": len(sources)}, nil
	},
	"write": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"text": "about " + text(in["about"])}, nil
	},
	"mailer": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"sent": in["text"]}, nil
	},
	"plan": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"query": text(in["question"]) + "?"}, nil
	},
	"search": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["in"] == "ashes" {
			return nil, never("no_such_archive")
		}
		return fields{"hits": len(text(in["in"])) + len(text(in["for"]))}, nil
	},
	"fetch": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["from"] == "down" {
			return nil, never("unreachable")
		}
		return fields{"data": "data from " + text(in["from"])}, nil
	},
	"review": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"approvedBy": in["by"]}, nil
	},
	"merge": func(context.Context, map[string]any, *agent.Task) (any, error) { return fields{"merged": true}, nil },
	"lint": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		files, _ := in["files"].([]any)
		if len(files) == 0 {
			return nil, never("nothing_to_lint")
		}
		return fields{"clean": true}, nil
	},
	"classify": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		kind := "other"
		switch said := text(in["text"]); {
		case said == "":
			return nil, never("unreadable")
		case strings.HasPrefix(said, "bug"):
			kind = "bug"
		case strings.HasSuffix(said, "?"):
			kind = "question"
		}
		return fields{"kind": kind}, nil
	},
	"summarise": func(_ context.Context, in map[string]any, task *agent.Task) (any, error) {
		if in["text"] == "" {
			return nil, never("unreadable")
		}
		return fields{"summary": fmt.Sprintf("%v: %v", in["place"], in["text"])}, nil
	},
	"improve": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		score := 25.0
		if before, ok := in["before"].(map[string]any); ok {
			score += before["score"].(float64)
		}
		return fields{"score": score}, nil
	},
	"flaky": func(_ context.Context, in map[string]any, task *agent.Task) (any, error) {
		if fails, _ := in["fails"].([]any); task.Attempt <= len(fails) {
			return nil, agent.Fail(text(fails[task.Attempt-1]), "not yet")
		}
		return fields{"attempts": task.Attempt}, nil
	},
	"cheap-model": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["question"] != "2 + 2" {
			return nil, agent.Fail("unsure", "I do not know")
		}
		return fields{"answer": "4", "by": "cheap"}, nil
	},
	"strong-model": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["question"] != "hard" {
			return nil, agent.Fail("unsure", "I do not know either")
		}
		return fields{"answer": "42", "by": "strong"}, nil
	},
	"helpdesk": func(context.Context, map[string]any, *agent.Task) (any, error) { return nil, never("nobody_knows") },
	"book": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["undo"] != nil {
			return fields{"undone": in["undo"]}, nil
		}
		return fields{"booking": text(in["what"]) + "-1"}, nil
	},
	"refund": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		return fields{"undone": in["undo"]}, nil
	},
	"pay": func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["amount"].(float64) > 1000 {
			return nil, never("no_money")
		}
		return fields{"paid": in["amount"]}, nil
	},
	"sleepy": func(ctx context.Context, in map[string]any, _ *agent.Task) (any, error) {
		if in["seconds"].(float64) > 0 {
			<-ctx.Done() // until it is cancelled
			return nil, ctx.Err()
		}
		return fields{"awake": true}, nil
	},
	"extract": func(_ context.Context, in map[string]any, task *agent.Task) (any, error) {
		_, number, found := strings.Cut(text(in["text"]), "total ")
		if !found || task.PreviousError == nil {
			return fields{"total": number}, nil // a string, which the schema does not allow
		}
		var total float64
		_, err := fmt.Sscan(number, &total)
		return fields{"total": total}, err
	},
}

// typed are the agents that have registered what they take and give.
var typed = []Agent{
	{
		agent.Config{ID: "convert-numbers", Capabilities: []string{"convert"}, CapabilitySchemas: convertSchemas("number")},
		func(_ context.Context, in map[string]any, _ *agent.Task) (any, error) {
			return fields{"cents": int(100 * in["amount"].(float64))}, nil
		},
	},
	{
		agent.Config{ID: "convert-texts", Capabilities: []string{"convert"}, CapabilitySchemas: convertSchemas("string")},
		func(_ context.Context, in map[string]any, task *agent.Task) (any, error) {
			digits := strings.ReplaceAll(in["amount"].(string), ",", "")
			if n, err := strconv.Atoi(digits); err == nil && task.PreviousError != nil {
				return fields{"cents": n}, nil
			}
			return fields{"cents": digits}, nil
		},
	},
	{
		agent.Config{ID: "bookkeeper", Capabilities: []string{"book"}, CapabilitySchemas: map[string]event.CapabilitySchemas{
			"book": {Input: event.Raw(`{"properties":{"cents":{"minimum":1}}}`)},
		}},
		func(ctx context.Context, in map[string]any, task *agent.Task) (any, error) {
			if _, is := in["cents"]; !is { // it takes what others book, too
				return standIns["book"](ctx, in, task)
			}
			return fields{"booked": in["cents"]}, nil
		},
	},
}

func convertSchemas(kind string) map[string]event.CapabilitySchemas {
	return map[string]event.CapabilitySchemas{"convert": {
		Input:  event.Raw(`{"type":"object","required":["amount"],"properties":{"amount":{"type":"` + kind + `"}}}`),
		Output: event.Raw(`{"type":"object","required":["cents"],"properties":{"cents":{"type":"integer"}}}`),
	}}
}
