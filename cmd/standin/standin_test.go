package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
	"github.com/opspawn/opscore/cmd/standin/agentkit"
	"github.com/opspawn/opscore/cmd/standin/simagent"
	"github.com/opspawn/opscore/storage/storagetest"
)

func TestMain(m *testing.M) { bustest.Main(m) }

const (
	key    = "test-api-key"
	secret = "super-secret-webhook-key-123"
)

// world is Ops-Core, AgentKit and the simulated agent, each behind its own HTTP server.
type world struct {
	t     *testing.T
	url   string // of Ops-Core
	agent *simagent.Agent
	taskS string // where the agent takes tasks
	kit   string
}

type options struct {
	kit      agentkit.Config
	delivery server.Delivery
	store    string // empty: a file
}

// newWorld starts all three; the agent has registered with AgentKit and not reported yet.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	w := &world{t: t}
	kitServer := httptest.NewUnstartedServer(nil)
	w.kit = "http://" + kitServer.Listener.Addr().String()
	o.delivery.AgentKitURL = w.kit + "/v1"
	w.url = "http://" + runServer(t, o)
	o.kit.WebhookURL, o.kit.WebhookSecret, o.kit.Log = w.url+"/v1/opscore/internal/agent/notify", secret, bustest.Log(t)
	kit := agentkit.New(o.kit)
	t.Cleanup(kit.Close)
	kitServer.Config.Handler = kit.Handler()
	kitServer.Start()
	t.Cleanup(kitServer.Close)

	agentServer := httptest.NewUnstartedServer(nil)
	w.taskS = "http://" + agentServer.Listener.Addr().String() + "/task"
	w.agent = simagent.New(simagent.Config{
		AgentKitURL: w.kit + "/v1", OpsCoreURL: w.url + "/v1", Key: key, Name: "TestSimulatedAgent", ContactEndpoint: w.taskS,
		Work: 50 * time.Millisecond, Log: bustest.Log(t),
	})
	t.Cleanup(w.agent.Close)
	agentServer.Config.Handler = w.agent.Handler()
	agentServer.Start()
	t.Cleanup(agentServer.Close)
	return w
}

// runServer runs Ops-Core until the end of the test, and returns its address.
func runServer(t *testing.T, o options) string {
	t.Helper()
	dir, log := bustest.Dir(t), bustest.Log(t)
	if o.store == "" {
		o.store = "file:" + filepath.Join(dir, "opscore.db")
	}
	// Not the test's own context, which ends before those who talk to the server do.
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, done := make(chan server.Addresses, 1), make(chan error, 1)
	go func() {
		done <- server.Run(ctx, server.Config{
			StoreURL: o.store, HTTPAddr: "127.0.0.1:0", OldKey: key, WebhookSecrets: []string{secret}, Log: log, Version: "test", Delivery: o.delivery,
			Embedded: &bus.EmbeddedConfig{Dir: filepath.Join(dir, "nats"), Addr: "127.0.0.1:0", Log: log, MaxStore: 1 << 30},
			Ready:    func(a server.Addresses) { ready <- a },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case at := <-ready:
		return at.HTTP
	case err := <-done:
		done <- nil
		t.Fatal(err)
		return ""
	}
}

// start lets the agent register and report idle.
func (w *world) start() {
	w.t.Helper()
	if err := w.agent.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// do sends JSON and returns the answer's body.
func (w *world) do(method, path, body string, want int) []byte {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		w.t.Fatalf("%s %s: status %d, want %d: %s %v", method, path, resp.StatusCode, want, data, err)
	}
	return data
}

// trigger starts a run the way old clients do, for the agent itself.
func (w *world) trigger() (run string) {
	w.t.Helper()
	const definition = `{"workflowDefinition":{"id":"wf","name":"n","tasks":[{"taskId":"step_1","parameters":{"message":"hello"},"nextTaskId":null}]}}`
	var started struct {
		SessionID string `json:"sessionId"`
	}
	if err := json.Unmarshal(w.do("POST", "/v1/opscore/agent/"+w.agent.ID()+"/workflow", definition, http.StatusAccepted), &started); err != nil {
		w.t.Fatal(err)
	}
	return started.SessionID
}

func (w *world) run(id string) event.Run {
	w.t.Helper()
	var run event.Run
	if err := event.Unmarshal(w.do("GET", "/api/v1/runs/"+id, "", http.StatusOK), &run); err != nil {
		w.t.Fatal(err)
	}
	return run
}

// completes fails the test unless a run completes with one attempt, of which the agent was told once.
func (w *world) completes(id string) {
	w.t.Helper()
	before := len(w.agent.Tasks())
	bustest.Eventually(w.t, "the run completes", func() bool { return w.run(id).State.Final() })
	run := w.run(id)
	if run.State != event.RunCompleted || run.Tasks[0].Attempt != 1 {
		w.t.Errorf("the run is %s at attempt %d: %+v", run.State, run.Tasks[0].Attempt, run.Error)
	}
	tasks := w.agent.Tasks()
	want := event.AttemptRef{RunID: id, TaskID: "step_1", Attempt: 1}.LegacyID()
	if len(tasks) == 0 || tasks[len(tasks)-1] != want || len(tasks) > before+1 {
		w.t.Errorf("the agent was told of %q, want %q once", tasks, want)
	}
}

func TestTheOldAgentCompletesARun(t *testing.T) {
	for _, c := range []struct {
		name    string
		options options
	}{
		{"directly", options{}},
		{"directly although AgentKit never delivers", options{kit: agentkit.Config{NeverDelivers: true}}},
		{"through AgentKit", options{delivery: server.Delivery{AgentKitMode: "agentkit"}}},
		{"directly, with Redis", options{store: "redis"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.options.store == "redis" {
				c.options.store = storagetest.StartRedis(t).URL()
			}
			w := newWorld(t, c.options)
			w.start()
			for range 2 {
				w.completes(w.trigger())
			}
		})
	}
}

// AgentKit loses the registration of every agent that has metadata, and this one has. It comes in by reporting, and is reached through AgentKit.
func TestAnAgentThatAgentKitLostIsAdopted(t *testing.T) {
	w := newWorld(t, options{kit: agentkit.Config{LosesMetadata: true}, delivery: server.Delivery{AdoptAgents: true}})
	w.start()
	w.completes(w.trigger())
}

// The other way in is to register it by hand, which also tells where it is reached directly.
func TestAnAgentThatAgentKitLostIsRegisteredByHand(t *testing.T) {
	w := newWorld(t, options{kit: agentkit.Config{LosesMetadata: true, NeverDelivers: true}})
	started := make(chan error, 1)
	go func() { started <- w.agent.Start(t.Context()) }()
	bustest.Eventually(t, "AgentKit gave an id", func() bool { return w.agent.ID() != "" })
	w.do("PUT", "/api/v1/agents/"+w.agent.ID(),
		fmt.Sprintf(`{"agentName":"by hand","version":"1","capabilities":[],"delivery":"agentkit","contactEndpoint":%q}`, w.taskS), http.StatusOK)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	w.completes(w.trigger())
}

func TestHealthOfTheAgent(t *testing.T) {
	agent := simagent.New(simagent.Config{})
	answer := httptest.NewRecorder()
	agent.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/health", nil))
	if got := answer.Body.String(); got != `{"agent_id":null,"status":"registering"}`+"\n" {
		t.Errorf("health %s", got)
	}
}
