package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/opspawn/opscore/bus/agent"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/examples/workflows"
	"github.com/opspawn/opscore/loadgen"
	"github.com/opspawn/opscore/workflow"
	"github.com/opspawn/opscore/workflow/contract"
)

// examples is what a load of the example workflows has to do, and what must come of it.
type examples struct {
	plan []planned

	mu      sync.Mutex
	started map[string]*workflows.Run // by run: what it comes to when nothing is broken; its start was acknowledged
}

// planned is one of the runs that are started again and again.
type planned struct {
	workflow string
	run      *workflows.Run
}

// promises are what must be brought: by workflow and task, and by agent and capability.
type promises map[[2]string]*contract.Contract

func (p promises) add(of, what string, schema event.Raw) error {
	if len(schema) == 0 {
		return nil
	}
	c, err := contract.Compile(schema)
	if err != nil {
		return fmt.Errorf("schema of %s %s: %w", of, what, err)
	}
	p[[2]string{of, what}] = c
	return nil
}

func (p promises) kept(of, what string, out any) bool {
	c := p[[2]string{of, what}]
	return c == nil || c.Check(event.MustMarshal(out)) == nil
}

// newExamples stores the example workflows and starts their agents.
func newExamples(ctx, working context.Context, l *load) (*examples, error) {
	all, err := workflows.All()
	if err != nil {
		return nil, err
	}
	x := &examples{started: make(map[string]*workflows.Run)}
	outputs := make(promises)
	for i := range all {
		ex := &all[i]
		d, err := workflow.ParseFile(ex.Source)
		if err != nil {
			return nil, fmt.Errorf("example %s: %w", ex.Name, err)
		}
		if err := l.apply(ctx, d.ID, event.MustMarshal(d)); err != nil {
			return nil, err
		}
		for _, t := range d.Tasks {
			if err := outputs.add("workflow "+d.ID, t.TaskID, t.OutputSchema); err != nil {
				return nil, err
			}
		}
		for j := range ex.Runs {
			x.plan = append(x.plan, planned{d.ID, &ex.Runs[j]})
		}
	}
	for _, who := range workflows.Agents() {
		id := who.Config.ID
		for capability, s := range who.Config.CapabilitySchemas {
			if err := outputs.add("agent "+id, capability, s.Output); err != nil {
				return nil, err
			}
		}
		w := &worker{journal: l.c.journal, id: id, slots: who.Config.Slots, does: who.Handle, fits: func(t *agent.Task, out any) bool {
			return outputs.kept("workflow "+t.WorkflowID, t.TaskID, out) && outputs.kept("agent "+id, t.Capability, out)
		}}
		if err := l.startAgent(ctx, working, w, who.Config); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// startExample starts the n-th run, sends it the signals that it needs, and says a person's word when it asks.
func (l *load) startExample(ctx context.Context, due time.Time, n int) {
	x := l.examples
	p := x.plan[n%len(x.plan)]
	run := uuid.NewString()
	body := &event.RunStart{WorkflowID: p.workflow, Input: p.run.Input}
	start := message{opStart, event.CommandSubject(event.KindRunStart, run), event.MustMarshal(body), due, 0}
	if !l.publish(ctx, l.c.journal.Send(loadgen.KindStart, run), start) {
		return
	}
	x.mu.Lock()
	x.started[run] = p.run
	x.mu.Unlock()
	for _, s := range p.run.Signals {
		l.tell(ctx, event.KindRunSignal, run, &event.RunCommand{Name: s.Name, Payload: s.Payload})
	}
	if w := p.run.Approve; w != nil {
		kind := event.KindRunReject
		if w.Approved {
			kind = event.KindRunApprove
		}
		for _, asking := range l.asks(ctx, run, w.Task) {
			for range 1 + rand.IntN(2) { // the same word again changes nothing
				l.tell(ctx, kind, asking, &event.RunCommand{TaskID: w.Task, By: w.By})
			}
		}
	}
}

// tell sends a command about a run that is not in the journal: how the run ends tells whether it was taken in.
func (l *load) tell(ctx context.Context, kind event.CommandKind, run string, body *event.RunCommand) {
	if _, err := l.send(ctx, message{opTell, event.CommandSubject(kind, run), event.MustMarshal(body), time.Now(), 0}); err != nil {
		l.c.cfg.Log.Warn("a command was not sent", "kind", kind, "run_id", run, "err", err)
	}
}

const (
	askEvery = 200 * time.Millisecond // for how a run goes
	asksFor  = 30 * time.Second
)

// asks waits until a task of a run waits for a person's word, and returns the runs that do: itself, or those that a forEach has started. It returns none if
// it never does.
func (l *load) asks(ctx context.Context, run, task string) []string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), asksFor)
	defer cancel()
	for pause(ctx, askEvery) {
		r := new(event.Run)
		if l.get(ctx, run, r) != nil {
			continue
		}
		for i := range r.Tasks {
			switch t := &r.Tasks[i]; {
			case t.TaskID != task || t.State != event.TaskWaiting:
			case t.Children == nil:
				return []string{run}
			case t.Children.Total > 0 && t.Children.Active == t.Children.Total:
				if items := l.items(ctx, run); len(items) == t.Children.Total {
					return items
				}
			}
		}
		if r.State.Final() {
			return nil
		}
	}
	return nil
}

// items returns the runs that a run has started.
func (l *load) items(ctx context.Context, run string) (ids []string) {
	var list event.List[event.Run]
	if l.get(ctx, run+"/children", &list) != nil {
		return nil
	}
	for i := range list.Items {
		ids = append(ids, list.Items[i].RunID)
	}
	return ids
}

// get reads what any replica says of a run.
func (l *load) get(ctx context.Context, run string, into any) error {
	url := l.c.env.URLs[rand.IntN(len(l.c.env.URLs))] + "/api/v1/runs/" + run
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+l.c.env.Key)
	resp, err := l.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, event.MaxBody))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return event.Unmarshal(body, into)
}
