package workflow

import (
	"context"
	"fmt"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// explainer explains the tasks of one run; many of them may wait in the same queue.
type explainer struct {
	q      *Queries
	now    time.Time
	paused pauses
	asked  int // agents at most
	known  map[string]*crowd
}

// crowd is a queue and the agents that could serve it.
type crowd struct {
	want  lifecycle.Want
	queue event.Queue
	census
}

// meet asks the agents that some classes could go to: each agent is read once, for all of them.
func (x *explainer) meet(ctx context.Context, classes []string) error {
	var named, open []*crowd
	var ids []string
	for _, class := range classes {
		if x.known[class] != nil {
			continue
		}
		queue, err := x.q.queue(ctx, class, x.paused)
		if err != nil {
			return err
		}
		c := &crowd{want: parseClass(class), queue: queue}
		if x.known[class] = c; c.want.Agent != "" {
			named, ids = append(named, c), append(ids, c.want.Agent)
		} else {
			open = append(open, c)
		}
	}
	gates, err := lifecycle.Gates(ctx, x.q.store, ids...)
	if err != nil {
		return err
	}
	for i, c := range named {
		c.ask(gates[i], c.want, x.now)
	}
	if len(open) == 0 {
		return nil
	}
	return x.askFleet(ctx, open)
}

// askFleet asks all registered agents.
func (x *explainer) askFleet(ctx context.Context, crowds []*crowd) error {
	asked := 0
	for after := (storage.Cursor{}); ; {
		limit := min(askPage, x.asked-asked)
		entries, err := x.q.store.Range(ctx, lifecycle.AgentIndex, after, 0, limit)
		if err != nil {
			return fmt.Errorf("list agents: %w", err)
		}
		ids := make([]string, len(entries))
		for i, entry := range entries {
			ids[i] = entry.Member
		}
		gates, err := lifecycle.Gates(ctx, x.q.store, ids...)
		if err != nil {
			return err
		}
		asked += len(gates)
		more := len(entries) == limit
		for _, c := range crowds {
			for _, g := range gates {
				c.ask(g, c.want, x.now)
			}
			c.more = more
		}
		if !more || asked >= x.asked {
			return nil
		}
		after = storage.Cursor{Member: ids[limit-1]}
	}
}

func (q *Queries) explainer(ctx context.Context, asked int) (*explainer, error) {
	paused, _, err := readPauses(ctx, q.store)
	return &explainer{q: q, now: time.Now(), paused: paused, asked: asked, known: make(map[string]*crowd)}, err
}
