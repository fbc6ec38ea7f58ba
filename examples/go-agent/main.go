// Command go-agent is a complete agent: it counts words. Copy it and replace countWords.
//
//	NATS_URL=nats://127.0.0.1:4222 go run ./examples/go-agent
//
// It runs until it gets SIGINT or SIGTERM; then it finishes what it has and says goodbye.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
)

func main() {
	err := agent.Main(agent.Config{
		URL:          os.Getenv("NATS_URL"), // empty: nats://127.0.0.1:4222
		ID:           cmp.Or(os.Getenv("AGENT_ID"), "word-counter"),
		Name:         "Word counter",
		Version:      "1.0.0",
		Capabilities: []string{"count-words"}, // tasks of workflows ask for one of these
		Slots:        4,                       // at most this many tasks at the same time
		CapabilitySchemas: map[string]event.CapabilitySchemas{"count-words": {
			Input:  event.Raw(inputSchema), // a task with another input is not given to this agent
			Output: event.Raw(outputSchema),
		}},
	}, countWords)
	if err != nil {
		slog.Error("agent stopped", "err", err)
		os.Exit(1)
	}
}

// inputSchema and outputSchema are optional: what the agent takes and gives, as JSON Schemas. Ops-Core holds everybody to them.
const (
	inputSchema = `{
		"type": "object", "required": ["texts"],
		"properties": {"texts": {"type": "array", "items": {"type": "string"}}}
	}`
	outputSchema = `{
		"type": "object", "required": ["words", "total"],
		"properties": {"words": {"type": "array", "items": {"type": "integer"}}, "total": {"type": "integer"}}
	}`
)

// input and output are JSON objects on the wire.
type input struct {
	Texts []string `json:"texts"`
}

type output struct {
	Words []int `json:"words"`
	Total int   `json:"total"`
}

// countWords does one task. Everything it needs to know of Ops-Core is here: take the input, say how far it is, stop when
// told, and return the output or an error.
func countWords(ctx context.Context, t *agent.Task) (any, error) {
	var in input
	if err := t.Bind(&in); err != nil {
		return nil, err // input of another shape fails the task for good
	}
	if len(in.Texts) == 0 {
		return nil, agent.Permanent(agent.Fail("no_texts", "the input has no texts"))
	}
	var out output
	lastSaid := time.Now()
	for i, text := range in.Texts {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx) // cancelled, too late, or the agent is stopping
		}
		n := len(strings.Fields(text))
		out.Words = append(out.Words, n)
		out.Total += n

		// Progress renews the lease of a long task. Say it now and then, not for every item.
		if time.Since(lastSaid) > 5*time.Second {
			lastSaid = time.Now()
			p := agent.Progress{Message: fmt.Sprintf("%d texts counted", i+1), Percent: 100 * float64(i+1) / float64(len(in.Texts))}
			if err := t.Progress(ctx, p); err != nil {
				slog.Warn("progress was not stored", "err", err) // no reason to stop
			}
		}
	}
	return out, nil
}
