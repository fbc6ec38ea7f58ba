package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/workflow"
)

const (
	queryLimit   = 50 // items of a page unless the request says otherwise
	maxQuery     = 500
	queryWorkers = 16 // queries answered at the same time; more wait
	queryTimeout = 5 * time.Second
)

// query is the body of a request: which one, or which page.
type query struct {
	ID      string `json:"id,omitzero"`
	Version string `json:"version,omitzero"`
	Cursor  string `json:"cursor,omitzero"`
	Limit   int    `json:"limit,omitzero"`

	Since time.Time `json:"since,omitzero"` // of histories and dead letters
	deadQuery
}

// deadQuery says which dead letter, or which of them.
type deadQuery struct {
	Seq     uint64     `json:"seq,omitzero"`
	Class   event.Code `json:"class,omitzero"`
	Subject string     `json:"subject,omitzero"`
	AgentID string     `json:"agentId,omitzero"`
	RunID   string     `json:"runId,omitzero"`
}

// queries maps the subjects behind event.SubjectAPI to what answers them.
func (s *server) queries() map[string]func(context.Context, query) (any, error) {
	agents, runs := lifecycle.NewQueries(s.store), workflow.NewQueries(s.store)
	return map[string]func(context.Context, query) (any, error){
		"agent.get":     func(ctx context.Context, q query) (any, error) { return agents.Get(ctx, q.ID) },
		"agent.list":    func(ctx context.Context, q query) (any, error) { return agents.List(ctx, q.Cursor, q.limit()) },
		"workflow.get":  func(ctx context.Context, q query) (any, error) { return runs.Workflow(ctx, q.ID, q.Version) },
		"workflow.list": func(ctx context.Context, q query) (any, error) { return runs.Workflows(ctx, q.Cursor, q.limit()) },
		"run.get":       func(ctx context.Context, q query) (any, error) { return runs.Run(ctx, q.ID) },
		"run.list":      func(ctx context.Context, q query) (any, error) { return runs.Runs(ctx, q.Cursor, q.limit()) },
		"approval.list": func(ctx context.Context, q query) (any, error) { return runs.Approvals(ctx, q.Cursor, q.limit()) },
		"run.children":  func(ctx context.Context, q query) (any, error) { return runs.Children(ctx, q.ID, q.Cursor, q.limit()) },
		"schedule.get":  func(ctx context.Context, q query) (any, error) { return runs.Schedule(ctx, q.ID) },
		"schedule.list": func(ctx context.Context, q query) (any, error) { return runs.Schedules(ctx, q.Cursor, q.limit()) },
		"agent.history": func(ctx context.Context, q query) (any, error) { return history(ctx, agents, q) },
		"run.history":   func(ctx context.Context, q query) (any, error) { return runs.History(ctx, q.ID) },
		"dead.get":      func(ctx context.Context, q query) (any, error) { return s.conn.DeadLetter(ctx, q.Seq) },
		"dead.list": func(ctx context.Context, q query) (any, error) {
			filter := event.DeadFilter{Class: q.Class, Subject: q.Subject, AgentID: q.AgentID, RunID: q.RunID, Since: q.Since}
			return s.conn.DeadLetters(ctx, filter, q.Cursor, q.limit())
		},
		"run.explain":   func(ctx context.Context, q query) (any, error) { return runs.ExplainRun(ctx, q.ID) },
		"agent.explain": func(ctx context.Context, q query) (any, error) { return runs.ExplainAgent(ctx, q.ID) },
		"queue.list":    func(ctx context.Context, _ query) (any, error) { return runs.Queues(ctx) },
		"system.health": func(ctx context.Context, _ query) (any, error) { return s.health(ctx), nil },
	}
}

func (q query) limit() int {
	if q.Limit <= 0 {
		return queryLimit
	}
	return min(q.Limit, maxQuery)
}

// history is the answer to agent.history: the newest entries, all of them unless the request says otherwise.
func history(ctx context.Context, agents *lifecycle.Queries, q query) (any, error) {
	entries, err := agents.History(ctx, q.ID)
	if err == nil && len(entries) == 0 {
		_, err = agents.Get(ctx, q.ID)
	}
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(h lifecycle.HistoryEntry) bool { return h.At.Before(q.Since) })
	if q.Limit > 0 {
		entries = entries[max(0, len(entries)-q.Limit):]
	}
	return event.List[lifecycle.HistoryEntry]{Items: entries}, nil
}

// health is the answer to system.health.
func (s *server) health(ctx context.Context) map[string]any {
	checks := make(map[string]string)
	ok := true
	for _, c := range s.checks(ctx) {
		checks[c.Name] = "ok"
		if c.Err != nil {
			checks[c.Name] = c.Err.Error()
			ok = false
		}
	}
	return map[string]any{"ok": ok, "version": s.cfg.Version, "checks": checks}
}

// serveQueries answers queries over NATS until ctx ends. The micro service stops as a whole when one of its subscriptions has an error; it is then started
// again.
func (s *server) serveQueries(ctx context.Context) error {
	for {
		stopped := make(chan struct{})
		service, err := s.addService(ctx, stopped)
		if err != nil {
			s.cfg.Log.Warn("queries over NATS are not served", "err", err)
			close(stopped)
		}
		select {
		case <-ctx.Done():
			if service != nil {
				_ = service.Stop() // the connection closes next
			}
			return nil
		case <-stopped:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (s *server) addService(ctx context.Context, stopped chan struct{}) (micro.Service, error) {
	service, err := micro.AddService(s.conn.NC(), micro.Config{
		Name: "opscore", Version: "1.0.0", Description: "agents, workflows and runs of Ops-Core",
		Metadata:    map[string]string{"version": s.cfg.Version},
		DoneHandler: func(micro.Service) { close(stopped) },
	})
	if err != nil {
		return nil, fmt.Errorf("add the micro service: %w", err)
	}
	free := make(chan struct{}, queryWorkers)
	for name, answer := range s.queries() {
		handler := micro.HandlerFunc(func(r micro.Request) {
			free <- struct{}{} // an endpoint handles one request at a time; the answers are made elsewhere
			go func() {
				defer func() { <-free }()
				s.answer(ctx, r, answer)
			}()
		})
		subject := event.SubjectAPI + "." + name
		if err := service.AddEndpoint(endpointName(name), handler, micro.WithEndpointSubject(subject)); err != nil {
			_ = service.Stop()
			return nil, fmt.Errorf("add endpoint %s: %w", subject, err)
		}
	}
	return service, nil
}

// endpointName turns "run.get" into "run-get": names of endpoints hold no dots.
func endpointName(name string) string {
	out := []byte(name)
	for i, c := range out {
		if c == '.' {
			out[i] = '-'
		}
	}
	return string(out)
}

func (s *server) answer(ctx context.Context, r micro.Request, answer func(context.Context, query) (any, error)) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var q query
	if len(r.Data()) > 0 {
		if err := event.Unmarshal(r.Data(), &q); err != nil {
			s.refuse(r, err)
			return
		}
	}
	v, err := answer(ctx, q)
	if err != nil {
		s.refuse(r, err)
		return
	}
	if err := r.Respond(event.MustMarshal(v)); err != nil {
		s.cfg.Log.Debug("query not answered", "subject", r.Subject(), "err", err)
	}
}

// refuse answers with the error headers of NATS micro. What is no refusal is the store's fault: the caller may try again.
func (s *server) refuse(r micro.Request, err error) {
	refusal := event.Errorf(event.CodeUnavailable, "the store does not answer; try again")
	if !errors.As(err, &refusal) {
		s.cfg.Log.Warn("query failed", "subject", r.Subject(), "err", err)
	}
	// Not r.Error: the library reads what that notes in the request when its handler has returned, which is before the answer here.
	headers := micro.Headers{micro.ErrorHeader: {refusal.Message}, micro.ErrorCodeHeader: {string(refusal.Code)}}
	if err := r.Respond(nil, micro.WithHeaders(headers)); err != nil {
		s.cfg.Log.Debug("query not answered", "subject", r.Subject(), "err", err)
	}
}
