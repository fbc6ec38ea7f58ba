// Package simagent plays the agent of the old load tests: it registers with AgentKit, takes tasks by HTTP and knows no result event. That it was
// active and is idle again is all it says of a task.
package simagent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// The agent's first report may come before Ops-Core knows it, so it is repeated.
const (
	firstTries  = 5
	firstDelay  = time.Second
	laterDelay  = 3 * time.Second
	reportLimit = 30 * time.Second
	maxBody     = 4 << 20
)

// Config says who the agent is.
type Config struct {
	AgentKitURL     string // ends in /v1
	OpsCoreURL      string // ends in /v1
	Key             string
	Name            string
	ContactEndpoint string        // the URL of its /task
	Work            time.Duration // how long a task takes
	Log             *slog.Logger  // nil logs nothing
}

// Agent is a simulated agent. Its methods are safe for concurrent use.
type Agent struct {
	cfg    Config
	client *http.Client
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	id    string
	tasks []string
}

// New makes an agent that has not registered.
func New(cfg Config) *Agent {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	transport := &http.Transport{DisableKeepAlives: true}
	return &Agent{cfg: cfg, client: &http.Client{Transport: transport, Timeout: reportLimit}, ctx: ctx, cancel: cancel}
}

// Close ends the work on tasks. The handler must not be in use any more.
func (a *Agent) Close() {
	a.cancel()
	a.work.Wait()
}

// ID returns the id that AgentKit gave, empty before.
func (a *Agent) ID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.id
}

// Tasks returns the opscore_task_id of each task that came, in order.
func (a *Agent) Tasks() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.tasks...)
}

// Start registers with AgentKit and reports idle, five times if need be. It fails if either does not succeed.
func (a *Agent) Start(ctx context.Context) error {
	var answer struct {
		Data struct {
			AgentID string `json:"agentId"`
		} `json:"data"`
	}
	body := map[string]any{
		"agentName": a.cfg.Name, "version": "1.0", "capabilities": []string{"simulated_task_processing"},
		"contactEndpoint": a.cfg.ContactEndpoint, "metadata": map[string]any{"description": "A simulated agent"},
	}
	if err := a.post(ctx, a.cfg.AgentKitURL+"/agents/register", body, &answer); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	a.mu.Lock()
	a.id = answer.Data.AgentID
	a.mu.Unlock()
	a.cfg.Log.Info("registered", "agent", answer.Data.AgentID)
	delay := firstDelay
	for try := 1; ; try++ {
		if err := sleep(ctx, delay); err != nil {
			return err
		}
		delay = laterDelay
		err := a.report(ctx, "idle", map[string]any{})
		if err == nil {
			return nil
		}
		a.cfg.Log.Warn("first report failed", "try", try, "err", err)
		if try == firstTries {
			return fmt.Errorf("first report: %w", err)
		}
	}
}

// Handler returns the handler of the agent's two routes.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if id := a.ID(); id != "" {
			write(w, http.StatusOK, map[string]any{"status": "healthy", "agent_id": id})
			return
		}
		write(w, http.StatusOK, map[string]any{"status": "registering", "agent_id": nil})
	})
	mux.HandleFunc("POST /task", a.take)
	return mux
}

// task is what the agent reads of a request.
type task struct {
	Payload struct {
		Name       string         `json:"task_name"`
		Parameters map[string]any `json:"task_parameters"`
	} `json:"payload"`
	TaskID string `json:"opscore_task_id"`
}

func (a *Agent) take(w http.ResponseWriter, r *http.Request) {
	var t task
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil || t.Payload.Name == "" {
		write(w, http.StatusUnprocessableEntity, map[string]any{"detail": "payload.task_name is required"})
		return
	}
	a.mu.Lock()
	a.tasks = append(a.tasks, t.TaskID)
	a.mu.Unlock()
	a.cfg.Log.Info("task", "name", t.Payload.Name, "task", t.TaskID)
	a.work.Go(func() { a.do(t) })
	write(w, http.StatusOK, map[string]any{"status": "success", "message": "Task received and processing started."})
}

// do says active, takes its time, and says idle.
func (a *Agent) do(t task) {
	details := map[string]any{"opscore_task_id": t.TaskID}
	if err := a.report(a.ctx, "active", details); err != nil {
		a.cfg.Log.Error("report failed", "state", "active", "err", err)
	}
	state := "idle"
	if sleep(a.ctx, a.cfg.Work) != nil {
		state = "error"
	}
	if err := a.report(a.ctx, state, details); err != nil {
		a.cfg.Log.Error("report failed", "state", state, "err", err)
	}
}

// report tells Ops-Core the state.
func (a *Agent) report(ctx context.Context, state string, details map[string]any) error {
	id := a.ID()
	return a.post(ctx, a.cfg.OpsCoreURL+"/opscore/agent/"+url.PathEscape(id)+"/state", map[string]any{
		"agentId": id, "timestamp": time.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00"), "state": state, "details": details,
	}, nil)
}

// post sends JSON and reads the answer into v unless it is nil.
func (a *Agent) post(ctx context.Context, target string, body, v any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+a.cfg.Key)
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return errors.New(resp.Status + ": " + strings.TrimSpace(string(answer)))
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(answer, v)
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone otherwise
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
