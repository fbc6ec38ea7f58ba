package bridge_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// polled asks for a task on a goroutine of its own.
func (b *bundle) polled(id, query string) chan response {
	answer := make(chan response, 1)
	go func() { answer <- b.do("GET", "/api/v1/agents/"+id+"/tasks"+query, "") }()
	return answer
}

// waits reports whether anybody waits for a task of an agent: whoever does ignores one for another process, without an answer.
func (b *bundle) waits(id string) bool {
	_, err := b.conn.NC().Request(event.TaskSubject(id), []byte(`{"instance":"another one"}`), 20*time.Millisecond)
	return !errors.Is(err, nats.ErrNoResponders)
}

func TestAPollGetsTheTaskAndTheEngineHearsAccepted(t *testing.T) {
	b := setup(t, nil)
	b.known("p", event.DeliveryPoll, "", "")
	if got := b.pushed("p", theTask("nobody asks")); got != "503" {
		t.Errorf("without a poll: %s, want 503", got)
	}
	// Whichever of the two comes first, they meet.
	for _, run := range []string{"r1", "r2", "r3"} {
		answer := b.polled("p", "?wait=20")
		if got := b.pushed("p", theTask(run)); got != acceptedAnswer {
			t.Errorf("the engine hears %s", got)
		}
		r := (<-answer).want(t, http.StatusOK)
		if task := decode[event.Task](t, r); task.RunID != run || string(task.Input) != `{"b":1.0,"a":{"x":[]}}` {
			t.Errorf("the agent got %s", r.body)
		}
	}
}

func TestAPollThatGetsNothing(t *testing.T) {
	b := setup(t, nil)
	b.known("p", event.DeliveryPoll, "", "")
	b.known("h", event.DeliveryHTTP, "http://127.0.0.1:1/", "")
	b.do("GET", "/api/v1/agents/p/tasks?wait=0", "").want(t, http.StatusNoContent)
	b.do("HEAD", "/api/v1/agents/p/tasks?wait=20", "").want(t, http.StatusNoContent)
	b.do("GET", "/api/v1/agents/p/tasks?wait=61", "").want(t, http.StatusUnprocessableEntity)
	b.do("GET", "/api/v1/agents/nobody/tasks", "").want(t, http.StatusNotFound)
	if r := b.do("GET", "/api/v1/agents/h/tasks", "").want(t, http.StatusConflict); !strings.Contains(r.body, `"not_allowed_now"`) {
		t.Error(r.body)
	}
}

func TestANewerPollEndsTheOlder(t *testing.T) {
	b, other := twoReplicas(t)
	b.known("p", event.DeliveryPoll, "", "")
	for _, second := range []*bundle{b, other} {
		older := b.polled("p", "?wait=60&instance=i")
		bustest.Eventually(t, "the agent waits", func() bool { return b.waits("p") })
		sibling := b.polled("p", "?wait=60&instance=j")
		newer := second.polled("p", "?wait=60&instance=i")
		select {
		case r := <-older:
			r.want(t, http.StatusNoContent)
		case <-soon(t).Done():
			t.Fatal("the older one goes on")
		}
		for _, instance := range []string{"i", "j"} {
			task := theTask(instance)
			task.Instance = instance
			if got := b.pushed("p", task); got != acceptedAnswer {
				t.Fatalf("the engine hears %s", got)
			}
		}
		for want, answer := range map[string]chan response{"i": newer, "j": sibling} {
			if got := decode[event.Task](t, (<-answer).want(t, http.StatusOK)).RunID; got != want {
				t.Errorf("instance %s got the task of %s", want, got)
			}
		}
	}
}

// A process that begins anew, or goes, does not read the answer to what it asked before: that request takes no task and does not say idle for it.
func TestAPollEndsWhenItsProcessBeginsAnewOrGoes(t *testing.T) {
	b, other := twoReplicas(t)
	const register = `{"agentName":"p","version":"1","capabilities":["c"],"delivery":"http","contactEndpoint":"http://127.0.0.1:1/"`
	for _, c := range []struct{ query, method, path, body string }{
		{"?wait=60&instance=i", "PUT", "/api/v1/agents/p", register + `,"instance":"i"}`},
		{"?wait=60", "PUT", "/api/v1/agents/p", register + `,"instance":"i"}`},
		{"?wait=60", "DELETE", "/api/v1/agents/p", ""},
		{"?wait=60", "POST", "/v1/opscore/agent/p/state", `{"agentId":"p","timestamp":"2026-01-01T00:00:00Z","state":"Offline"}`},
		{"?wait=60&instance=i", "POST", "/api/v1/agents/p/state", `{"state":"draining"}`},
		{"?wait=60&instance=i", "POST", "/api/v1/agents/p/state", `{"state":"offline","instance":"i"}`},
	} {
		for _, at := range []*bundle{b, other} {
			b.known("p", event.DeliveryPoll, "", "")
			asks, err := b.conn.NC().SubscribeSync(event.PollSubject("p"))
			if err != nil {
				t.Fatal(err)
			}
			older := b.polled("p", c.query)
			if _, err := asks.NextMsgWithContext(soon(t)); err != nil {
				t.Fatal(err)
			}
			bustest.Eventually(t, "the agent is called idle because it asks", func() bool {
				return decode[event.Agent](t, b.do("GET", "/api/v1/agents/p", "").want(t, http.StatusOK)).Available
			})
			var key []string
			if strings.HasPrefix(c.path, "/v1/") {
				key = []string{"Authorization", "Bearer " + oldKey}
			}
			if r := at.do(c.method, c.path, c.body, key...); r.StatusCode >= http.StatusBadRequest {
				t.Fatalf("%s %s: %d %s", c.method, c.path, r.StatusCode, r.body)
			}
			select {
			case r := <-older:
				r.want(t, http.StatusNoContent)
			case <-soon(t).Done():
				t.Fatalf("after %s %s the older request goes on", c.method, c.body)
			}
		}
	}
	if a := decode[event.Agent](t, b.do("GET", "/api/v1/agents/p", "").want(t, http.StatusOK)); a.Available {
		t.Errorf("%+v: somebody has said idle for it", a)
	}
}

// What a process says while it waits, and what is said of another one or is refused, ends nothing.
func TestAPollGoesOnWhenItsProcessStays(t *testing.T) {
	b, other := twoReplicas(t)
	b.known("p", event.DeliveryPoll, "", "")
	waiting := b.polled("p", "?wait=60&instance=i")
	bustest.Eventually(t, "the agent waits", func() bool { return b.waits("p") })
	for _, at := range []*bundle{b, other} {
		for _, body := range []string{`{"state":"busy","instance":"i"}`, `{"state":"idle"}`, `{"state":"offline","instance":"j"}`, `{"stat":"offline"}`} {
			at.do("POST", "/api/v1/agents/p/state", body)
		}
		at.do("PUT", "/api/v1/agents/p", `{"agentName":5}`).want(t, http.StatusBadRequest)
	}
	if got := b.pushed("p", theTask("r")); got != acceptedAnswer {
		t.Errorf("the engine hears %s", got)
	}
	if task := decode[event.Task](t, (<-waiting).want(t, http.StatusOK)); task.RunID != "r" {
		t.Errorf("the agent got %+v", task)
	}
}

// Of two tasks that come to one request at once, the second is declined, also when the server had sent it before it heard that nobody listens any more:
// without an answer it would be given out again only after seconds.
func TestATaskThatComesTooLateIsDeclined(t *testing.T) {
	b := setup(t, nil)
	b.known("p", event.DeliveryPoll, "", "")
	for range 50 {
		answer := b.polled("p", "?wait=60&instance=i")
		bustest.Eventually(t, "the agent waits", func() bool { return b.waits("p") })
		asked := make(chan error, 4)
		for range cap(asked) {
			go func() {
				_, err := b.conn.NC().Request(event.TaskSubject("p"), event.MustMarshal(theTask("r")), 10*time.Second)
				asked <- err
			}()
		}
		taken := 0
		for range cap(asked) {
			switch err := <-asked; {
			case err == nil:
				taken++
			case !errors.Is(err, nats.ErrNoResponders):
				t.Fatalf("a task was not answered: %v", err)
			}
		}
		(<-answer).want(t, http.StatusOK)
		if taken != 1 {
			t.Fatalf("%d tasks were accepted", taken)
		}
	}
}

// twoReplicas returns the servers of two bridges over one bus and one store.
func twoReplicas(t *testing.T) (b, other *bundle) {
	t.Helper()
	b = setupOn(t, bustest.Conn(t), nil)
	replica, err := bridge.New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	runDelivery(t, replica)
	server := httptest.NewServer(replica.Handler())
	t.Cleanup(server.Close)
	second := *b
	second.url = server.URL
	return b, &second
}

func TestAClientThatIsGoneTakesNoTask(t *testing.T) {
	b := setup(t, nil)
	b.known("p", event.DeliveryPoll, "", "")
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/api/v1/agents/p/tasks?wait=60&instance=i", nil)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() {
		resp, err := b.client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		left <- err
	}()
	bustest.Eventually(t, "the agent waits", func() bool { return b.waits("p") })
	leave()
	if err := <-left; err == nil {
		t.Error("the request was answered")
	}
	bustest.Eventually(t, "nobody waits", func() bool { return !b.waits("p") })
	if got := b.pushed("p", theTask("r")); got != "503" {
		t.Errorf("the engine hears %s, want 503", got)
	}
}

// An agent that does all by HTTP: the engine, the gate and the result are those of agents on NATS.
func TestARunOfAnAgentThatPolls(t *testing.T) {
	b := setup(t, nil)
	b.known("p", event.DeliveryPoll, "", "")
	b.apply("w", `{"id":"w","tasks":[{"taskId":"one","agentCapability":"c","parameters":{"n":1},"nextTaskId":"two"},{"taskId":"two","agentCapability":"c"}]}`)
	started := decode[event.Run](t, b.do("POST", "/api/v1/runs", `{"workflowId":"w"}`).want(t, http.StatusAccepted))
	var last event.AttemptRef
	for range 2 {
		task := decode[event.Task](t, b.do("GET", "/api/v1/agents/p/tasks?wait=60", "").want(t, http.StatusOK))
		last = task.Ref()
		b.do("POST", "/api/v1/agents/p/accepted", string(event.MustMarshal(&event.Accepted{AttemptRef: last}))).want(t, http.StatusOK)
		b.do("POST", "/api/v1/agents/p/progress", string(event.MustMarshal(&event.Progress{AttemptRef: last, Message: "half"}))).want(t, http.StatusOK)
		result := string(event.MustMarshal(&event.Result{AttemptRef: last, Status: event.StatusCompleted, Output: event.Raw(`{"ok":1}`)}))
		b.do("POST", "/api/v1/agents/p/result", result).want(t, http.StatusOK)
	}
	run := decode[event.Run](t, b.do("GET", "/api/v1/runs/"+started.RunID, "").want(t, http.StatusOK))
	if run.State != event.RunCompleted {
		t.Errorf("the run is %s", run.State)
	}
	last.Attempt = 7
	stale := string(event.MustMarshal(&event.Result{AttemptRef: last, Status: event.StatusCompleted}))
	if r := b.do("POST", "/api/v1/agents/p/result", stale).want(t, http.StatusConflict); !strings.Contains(r.body, `"stale_attempt"`) {
		t.Error(r.body)
	}
}

func TestReportsByHTTP(t *testing.T) {
	b := setup(t, nil)
	b.known("p", event.DeliveryPoll, "", "")
	b.do("POST", "/api/v1/agents/p/state", `{"state":"busy","details":{"a":1}}`).want(t, http.StatusOK)
	if a := decode[event.Agent](t, b.do("GET", "/api/v1/agents/p", "")); a.State != "busy" {
		t.Errorf("the state is %s", a.State)
	}
	beats, err := b.conn.NC().SubscribeSync(event.SubjectHeartbeatAll)
	if err != nil {
		t.Fatal(err)
	}
	b.do("POST", "/api/v1/agents/p/heartbeat", `{"instance":"i"}`).want(t, http.StatusAccepted)
	b.do("POST", "/api/v1/agents/p/heartbeat", "").want(t, http.StatusAccepted)
	for _, want := range []string{`{"instance":"i"}`, ""} {
		if m, err := beats.NextMsgWithContext(soon(t)); err != nil || string(m.Data) != want || m.Subject != event.HeartbeatSubject("p") {
			t.Errorf("a beat: %v, %v, want %q", m, err, want)
		}
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "", `{"agentName":"n","version":"1"}`, http.StatusBadRequest},
		{"PUT", "", `{"agentName":"n","version":"1","capabilities":[],"delivery":"pigeon"}`, http.StatusUnprocessableEntity},
		{"POST", "/state", `{}`, http.StatusBadRequest},
		{"POST", "/state", `{"agentId":"q","state":"idle"}`, http.StatusUnprocessableEntity},
		{"POST", "/result", `[]`, http.StatusBadRequest},
		{"POST", "/result", `{"runId":"r","taskId":"t","attempt":1}`, http.StatusBadRequest},
		{"POST", "/result", `{"runId":"r","taskId":"t","attempt":1,"status":"completed"}`, http.StatusNotFound},
		{"POST", "/heartbeat", `{"instance":1}`, http.StatusUnprocessableEntity},
	} {
		b.do(c.method, "/api/v1/agents/p"+c.path, c.body).want(t, c.status)
	}
	b.do("POST", "/api/v1/agents/nobody/state", `{"state":"idle"}`).want(t, http.StatusNotFound)
}

func TestAnUnknownAgentIsAdoptedWhenThatIsAllowed(t *testing.T) {
	report := `{"agentId":"a","timestamp":"2025-04-21T10:11:12+00:00","state":"idle","details":{"x":1}}`
	key := []string{"Authorization", "Bearer " + oldKey}
	strict := setup(t, nil)
	strict.do("POST", "/v1/opscore/agent/a/state", report, key...).want(t, http.StatusNotFound)
	b := setup(t, func(c *bridge.Config) { c.AdoptAgents = true })
	b.do("POST", "/v1/opscore/agent/a/state", report, "Authorization", "Bearer wrong").want(t, http.StatusUnauthorized)
	b.do("GET", "/api/v1/agents/a", "").want(t, http.StatusNotFound)
	b.do("POST", "/v1/opscore/agent/a/state", report, key...).want(t, http.StatusAccepted)
	a := decode[event.Agent](t, b.do("GET", "/api/v1/agents/a", "").want(t, http.StatusOK))
	if a.State != "idle" || a.Delivery != event.DeliveryAgentKit || !a.Available {
		t.Errorf("adopted as %+v", a)
	}
	// A deregistration is meant: the agent does not come back by talking on.
	b.do("DELETE", "/api/v1/agents/a", "").want(t, http.StatusOK)
	b.do("POST", "/v1/opscore/agent/a/state", report, key...).want(t, http.StatusNotFound)
}

// Two processes under one name end each other's requests. They must not do so as fast as they can ask.
func TestTwoProcessesUnderOneNameTakeTurns(t *testing.T) {
	b := setup(t, nil)
	b.known("p", event.DeliveryPoll, "", "")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	asked := make(chan int, 2)
	for range cap(asked) {
		go func() {
			n := 0
			for ctx.Err() == nil {
				b.do("GET", "/api/v1/agents/p/tasks?wait=1", "").want(t, http.StatusNoContent)
				n++
			}
			asked <- n
		}()
	}
	if n := <-asked + <-asked; n > 20 {
		t.Errorf("they asked %d times in 2 s", n)
	}
}

// An agent that looks in now and then, without waiting, gets the task that is on its way because it asks.
func TestAPollThatDoesNotWaitGetsWhatIsOnItsWay(t *testing.T) {
	b := setup(t, nil)
	b.known("p", event.DeliveryPoll, "", "")
	asks, err := b.conn.NC().SubscribeSync(event.SubjectPollAll)
	if err != nil {
		t.Fatal(err)
	}
	answer := b.polled("p", "?wait=0")
	if _, err := asks.NextMsgWithContext(soon(t)); err != nil {
		t.Fatal(err)
	}
	if got := b.pushed("p", theTask("r")); got != acceptedAnswer {
		t.Errorf("the engine hears %s", got)
	}
	if task := decode[event.Task](t, (<-answer).want(t, http.StatusOK)); task.RunID != "r" {
		t.Errorf("the agent got %+v", task)
	}
}
