// Package agentkit plays AgentKit as far as Ops-Core meets it: agents register, Ops-Core is told by webhook, and tasks for agents are passed on. Two
// faults of the published AgentKit can be switched on.
package agentkit

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	webhookTimeout  = 10 * time.Second
	deliveryTimeout = 15 * time.Second
	maxBody         = 4 << 20
)

// Config says how AgentKit behaves.
type Config struct {
	WebhookURL    string // told of registrations; only when the secret is set too
	WebhookSecret string
	// LosesMetadata is the fault that Ops-Core is not told of an agent that registered with metadata.
	LosesMetadata bool
	// NeverDelivers is the fault that a task is said to be scheduled and never sent.
	NeverDelivers bool
	Log           *slog.Logger // nil logs nothing
}

// AgentKit is a registry of agents in memory. Its methods are safe for concurrent use.
type AgentKit struct {
	cfg    Config
	client *http.Client
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	agents map[string]details // by id
}

// details is what is known of an agent; the order of the members is that of the webhook.
type details struct {
	AgentID         string         `json:"agentId"`
	AgentName       string         `json:"agentName"`
	Version         string         `json:"version"`
	Capabilities    []string       `json:"capabilities"`
	ContactEndpoint string         `json:"contactEndpoint"`
	Metadata        map[string]any `json:"metadata"`
}

// New makes an AgentKit without agents.
func New(cfg Config) *AgentKit {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	transport := &http.Transport{DisableKeepAlives: true}
	return &AgentKit{cfg: cfg, client: &http.Client{Transport: transport}, ctx: ctx, cancel: cancel, agents: make(map[string]details)}
}

// Close ends what goes on behind the answers. The handler must not be in use any more.
func (k *AgentKit) Close() {
	k.cancel()
	k.work.Wait()
}

// Handler returns the handler of AgentKit's routes.
func (k *AgentKit) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, map[string]string{"message": "Welcome to AgentKit API"})
	})
	mux.HandleFunc("POST /v1/agents/register", k.register)
	mux.HandleFunc("POST /v1/agents/{id}/run", k.run)
	return mux
}

// outcome is how AgentKit says that something is done.
type outcome struct {
	Status    string  `json:"status"`
	Message   string  `json:"message"`
	Data      any     `json:"data"`
	ErrorCode *string `json:"error_code"`
}

func (k *AgentKit) register(w http.ResponseWriter, r *http.Request) {
	var d details
	if err := read(r, &d); err != nil || d.AgentName == "" || d.Version == "" || d.ContactEndpoint == "" {
		write(w, http.StatusUnprocessableEntity, map[string]any{"detail": "agentName, version and contactEndpoint are required"})
		return
	}
	d.AgentID = uuid.NewString()
	if d.Capabilities == nil {
		d.Capabilities = []string{}
	}
	hasMetadata := d.Metadata != nil
	d.Metadata = kept(d.Metadata)
	if !k.add(d) {
		write(w, http.StatusConflict, map[string]any{"detail": fmt.Sprintf("Agent with name '%s' already registered.", d.AgentName)})
		return
	}
	write(w, http.StatusCreated, outcome{
		Status: "success", Message: fmt.Sprintf("Agent '%s' registered successfully.", d.AgentName), Data: map[string]string{"agentId": d.AgentID},
	})
	switch {
	case k.cfg.WebhookURL == "" || k.cfg.WebhookSecret == "":
	case hasMetadata && k.cfg.LosesMetadata:
		k.cfg.Log.Error("webhook not sent: Object of type AgentMetadata is not JSON serializable", "agent", d.AgentID)
	default:
		k.later(func() { k.notify(d) })
	}
}

// kept is what AgentKit keeps of metadata.
func kept(m map[string]any) map[string]any {
	out := make(map[string]any)
	for _, name := range []string{"description", "config"} {
		if v := m[name]; v != nil {
			out[name] = v
		}
	}
	return out
}

// add reports whether the name was free.
func (k *AgentKit) add(d details) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, other := range k.agents {
		if other.AgentName == d.AgentName {
			return false
		}
	}
	k.agents[d.AgentID] = d
	return true
}

func (k *AgentKit) agent(id string) (details, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, ok := k.agents[id]
	return d, ok
}

// notify tells Ops-Core of a registration, once.
func (k *AgentKit) notify(d details) {
	body, err := json.Marshal(struct {
		EventType string  `json:"event_type"`
		Details   details `json:"agent_details"`
	}{"REGISTER", d})
	if err != nil {
		k.cfg.Log.Error("webhook not sent", "agent", d.AgentID, "err", err)
		return
	}
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(k.cfg.WebhookSecret))
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	header := http.Header{"X-AgentKit-Timestamp": {stamp}, "X-AgentKit-Signature": {hex.EncodeToString(mac.Sum(nil))}}
	k.post(k.cfg.WebhookURL, body, header, webhookTimeout)
}

// message is a task on its way to an agent, with the members that AgentKit passes on.
type message struct {
	SenderID    string         `json:"senderId"`
	Timestamp   string         `json:"timestamp"`
	MessageType string         `json:"messageType"`
	Payload     map[string]any `json:"payload"`
	Context     *session       `json:"sessionContext"`
	TaskName    *string        `json:"task_name"`
	SessionID   *string        `json:"opscore_session_id"`
	TaskID      *string        `json:"opscore_task_id"`
}

type session struct {
	SessionID     string   `json:"sessionId"`
	PriorMessages []string `json:"priorMessages"`
}

func (k *AgentKit) run(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	d, ok := k.agent(id)
	if !ok {
		write(w, http.StatusNotFound, map[string]any{"detail": fmt.Sprintf("Agent with ID '%s' not found.", id)})
		return
	}
	var m message
	if err := read(r, &m); err != nil || m.SenderID == "" || m.MessageType == "" || m.Payload == nil {
		write(w, http.StatusUnprocessableEntity, map[string]any{"detail": "senderId, messageType and payload are required"})
		return
	}
	if m.Timestamp == "" {
		m.Timestamp = time.Now().UTC().Format(time.RFC3339Nano)
	}
	if m.Context != nil && m.Context.PriorMessages == nil {
		m.Context.PriorMessages = []string{}
	}
	write(w, http.StatusAccepted, outcome{
		Status: "success", Message: fmt.Sprintf("Task accepted for agent %s. Dispatch scheduled.", id),
		Data: map[string]string{"agentId": id, "dispatch_status": "scheduled"},
	})
	if k.cfg.NeverDelivers {
		k.cfg.Log.Error("task not delivered: Invalid type for url", "agent", id)
		return
	}
	body, err := json.Marshal(m)
	if err != nil {
		k.cfg.Log.Error("task not delivered", "agent", id, "err", err)
		return
	}
	k.later(func() { k.post(d.ContactEndpoint, body, http.Header{}, deliveryTimeout) })
}

func (k *AgentKit) later(do func()) {
	k.work.Go(do)
}

// post sends something once; what becomes of it is only logged.
func (k *AgentKit) post(url string, body []byte, header http.Header, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(k.ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		k.cfg.Log.Error("request not sent", "url", url, "err", err)
		return
	}
	for name, v := range header {
		req.Header[http.CanonicalHeaderKey(name)] = v
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		k.cfg.Log.Error("request failed", "url", url, "err", err)
		return
	}
	resp.Body.Close()
	k.cfg.Log.Info("request sent", "url", url, "status", resp.StatusCode)
}

func read(r *http.Request, v any) error {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber()
	return decoder.Decode(v)
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone otherwise
}
