package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// oldServer is as much of the old API as users need, with a place to misbehave.
type oldServer struct {
	*httptest.Server

	mu       sync.Mutex
	seen     []seenRequest
	counts   map[string]int // by method and the end of the path
	seq      int
	bodies   bool                                              // keep them
	intrude  func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
	register []time.Time
}

// seenRequest is one request.
type seenRequest struct {
	Line, Auth string
	Body       map[string]any
}

func newOldServer(t *testing.T) *oldServer {
	s := &oldServer{counts: make(map[string]int)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *oldServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.seq++
	seq := s.seq
	end := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	s.counts[r.Method+" "+end]++
	if end == "notify" {
		s.register = append(s.register, time.Now())
	}
	if s.bodies {
		seen := seenRequest{Line: r.Method + " " + r.URL.Path, Auth: r.Header.Get("Authorization")}
		_ = json.Unmarshal(body, &seen.Body) // a read has none
		s.seen = append(s.seen, seen)
	}
	intrude := s.intrude
	s.mu.Unlock()
	if intrude != nil && intrude(w, r) {
		return
	}
	w.Header().Set(headerSequence, fmt.Sprintf("OPSCORE_AGENT/%d", seq))
	switch r.Method + " " + end {
	case "GET state":
		_, _ = io.WriteString(w, `{"agentId":"a","state":"UNKNOWN","details":null,"timestamp":"2026-01-01T00:00:00Z"}`)
	case "POST notify":
		_, _ = io.WriteString(w, `{"status":"success"}`)
	default:
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"status":"success"}`)
	}
}

func (s *oldServer) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[what]
}

// put runs a scenario against a server.
func put(t *testing.T, s *oldServer, scenario *Scenario, change func(*Config)) *Result {
	t.Helper()
	cfg := Config{Scenario: scenario, Target: Target{HTTP: s.URL, Key: "key"}, Seed: 7, Log: slog.New(slog.DiscardHandler), Grace: 2 * time.Second}
	if change != nil {
		change(&cfg)
	}
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// brief is a scenario of users that post their state.
func brief(users int, pause, runTime time.Duration) *Scenario {
	return &Scenario{
		Name: "brief", Users: users, RunTime: runTime, Pause: constant(pause), IDs: IDs{Prefix: "u-"},
		OnStart: []Step{{Op: OpRegister}}, Tasks: []Step{{Op: OpPostState}},
	}
}

// stallOnce makes the server stand still once, for all requests that come meanwhile.
func (s *oldServer) stallOnce(after int, long time.Duration) {
	var once sync.Once
	var until time.Time
	var mu sync.Mutex
	s.intrude = func(_ http.ResponseWriter, r *http.Request) bool {
		if s.count("POST state") < after {
			return false
		}
		mu.Lock()
		once.Do(func() { until = time.Now().Add(long) })
		wait := time.Until(until)
		mu.Unlock()
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-r.Context().Done():
			}
		}
		return false
	}
}

// The users of a closed model send nothing while they wait, so only one request each is slow in a stall: 4 of some hundreds.
func TestAStallIsChargedToWhatCouldNotBeSent(t *testing.T) {
	const stall = 600 * time.Millisecond
	for _, c := range []struct {
		name     string
		scenario *Scenario
	}{
		{"closed", brief(4, 4*time.Millisecond, 2500*time.Millisecond)},
		{"open", func() *Scenario {
			s := brief(4, 0, 2500*time.Millisecond)
			s.Rate, s.Pause = 400, Span{}
			return s
		}()},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newOldServer(t)
			s.stallOnce(400, stall)
			r := put(t, s, c.scenario, nil)
			o := r.Operations["POST state"]
			if o.Requests < 450 {
				t.Fatalf("only %d requests: nothing can be said", o.Requests)
			}
			half := stall.Seconds() * 1000 / 2
			if o.Latency.P99 < half || o.Latency.Max < 2*half*0.95 {
				t.Errorf("from the intended time the p99 is %v ms and the worst %v ms; the stall of %v must show", o.Latency.P99, o.Latency.Max, stall)
			}
			if o.Uncorrected.P99 >= half {
				t.Errorf("from the real time the p99 is %v ms: then this test proves nothing", o.Uncorrected.P99)
			}
			if o.Latency.Mean < 3*o.Uncorrected.Mean {
				t.Errorf("the mean is %v ms corrected and %v ms not", o.Latency.Mean, o.Uncorrected.Mean)
			}
		})
	}
}

func TestAnOpenModelKeepsItsRate(t *testing.T) {
	s := newOldServer(t)
	scenario := brief(8, 0, 1500*time.Millisecond)
	scenario.Rate, scenario.Pause = 200, Span{}
	r := put(t, s, scenario, nil)
	if n := r.Operations["POST state"].Requests + r.Unsent; n < 299 || n > 301 {
		t.Errorf("%d tasks in 1.5 s at 200/s, want 300", n)
	}
}

func TestTasksThatNobodyWasFreeForAreCounted(t *testing.T) {
	s := newOldServer(t)
	s.intrude = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/state") {
			select {
			case <-time.After(200 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
		return false
	}
	scenario := brief(2, 0, time.Second)
	scenario.Rate, scenario.Pause = 100, Span{}
	r := put(t, s, scenario, nil)
	sent := r.Operations["POST state"].Requests
	if sent > 14 || sent+r.Unsent < 98 || sent+r.Unsent > 102 {
		t.Errorf("two users sent %d tasks of 200 ms in 1 s, and %d of 100 are called unsent", sent, r.Unsent)
	}
}

func TestRequestsOnTheirWayAtTheEndAreCounted(t *testing.T) {
	s := newOldServer(t)
	s.intrude = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/state") {
			<-r.Context().Done() // never answers
		}
		return false
	}
	begin := time.Now()
	r := put(t, s, brief(5, 50*time.Millisecond, 300*time.Millisecond), func(c *Config) { c.Grace = 200 * time.Millisecond })
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the run took %v", took)
	}
	if o := r.Operations["POST state"]; o.Requests != 5 || o.Failures != 5 || len(r.Errors) != 1 || r.Errors[0].Class != ClassTimeout {
		t.Errorf("%d of %d requests failed, %+v; want 5 timeouts", o.Failures, o.Requests, r.Errors)
	}
}

func TestAnInterruptedRunHasAResult(t *testing.T) {
	s := newOldServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg := Config{
		Scenario: brief(3, 5*time.Millisecond, time.Hour), Target: Target{HTTP: s.URL}, Log: slog.New(slog.DiscardHandler),
		Progress: func(*Snapshot) { cancel() },
	}
	r, err := Run(ctx, cfg)
	if err != nil || r.Requests < 10 || len(r.Series) == 0 {
		t.Fatalf("it ends with %v and %+v, want what was measured until then", err, r)
	}
	if _, err := Run(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("a run that is interrupted before it begins ends with %v", err)
	}
}

func TestErrorsAreCountedWithTheirRequests(t *testing.T) {
	s := newOldServer(t)
	var n int
	var mu sync.Mutex
	var failed []string
	s.intrude = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/state") {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if n++; n%2 == 0 {
			return false
		}
		failed = append(failed, r.Header.Get("X-Request-Id"))
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"detail":"the store is down"}`)
		return true
	}
	r := put(t, s, brief(5, 10*time.Millisecond, 400*time.Millisecond), nil)
	mu.Lock()
	defer mu.Unlock()
	if len(r.Errors) != 1 {
		t.Fatalf("the errors are %+v, want one class", r.Errors)
	}
	e := r.Errors[0]
	if e.Operation != "POST state" || e.Class != "503" || e.Count != int64(len(failed)) || e.Detail != "the store is down" || e.FirstAt.Before(r.StartedAt) {
		t.Errorf("the class is %+v, want POST state, 503, %d times", e, len(failed))
	}
	if len(e.RequestIDs) != 20 || slices.ContainsFunc(e.RequestIDs, func(id string) bool { return !slices.Contains(failed, id) }) {
		t.Errorf("the ids are %v, want 20 of %v", e.RequestIDs, failed)
	}
	if r.Failures != e.Count || r.Operations["POST state"].Failures != e.Count {
		t.Errorf("%d failures in all, %d of the operation, want %d", r.Failures, r.Operations["POST state"].Failures, e.Count)
	}
}

func TestTheJournalHearsWhatBecameOfEachRequest(t *testing.T) {
	s := newOldServer(t)
	s.bodies = true
	s.intrude = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.Contains(r.URL.Path, "u-1/state"):
			w.WriteHeader(http.StatusNotFound)
			return true
		case strings.Contains(r.URL.Path, "u-2/state"):
			panic(http.ErrAbortHandler)
		}
		return false
	}
	j := NewJournal()
	put(t, s, brief(3, time.Hour, 200*time.Millisecond), nil)
	if j.last.Load() != 0 {
		t.Fatal("a run without a journal has written into one")
	}
	put(t, s, brief(3, 300*time.Millisecond, 500*time.Millisecond), func(c *Config) { c.Journal = j })
	got := make(map[string]string)
	j.each(func(n uint64, e sent) {
		text := "unknown"
		switch {
		case e.state&bitAcked != 0:
			text = "acked by " + j.names.name(uint32(e.stream))
		case e.state&bitRefused != 0:
			text = "refused: " + j.why(n)
		}
		got[string(kinds[e.kind-1])+" "+e.key] = text
	})
	want := map[string]string{
		"register u-0": "acked by OPSCORE_AGENT", "register u-1": "acked by OPSCORE_AGENT", "register u-2": "acked by OPSCORE_AGENT",
		"state u-0": "acked by OPSCORE_AGENT", "state u-1": "refused: 404: ", "state u-2": "unknown",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, r := range s.seen {
		if details, ok := r.Body["details"].(map[string]any); ok && details["n"] == nil {
			t.Errorf("a report travels without its number: %v", r.Body)
		}
	}
}

func TestAllUsersReconnectAtTheSameMoment(t *testing.T) {
	s := newOldServer(t)
	scenario := brief(40, 100*time.Millisecond, 1300*time.Millisecond)
	scenario.Reconnect = &Reconnect{Every: 500 * time.Millisecond, Times: 2}
	put(t, s, scenario, nil)
	slices.SortFunc(s.register, time.Time.Compare)
	if len(s.register) != 2+40*3 { // the check registers and deregisters
		t.Fatalf("%d registrations, want 122", len(s.register))
	}
	if gap := s.register[42].Sub(s.register[41]); gap < 200*time.Millisecond {
		t.Errorf("the first reconnect comes %v after the start, want about 500ms", gap)
	}
}

func TestAScenarioEndsWhenItIsTooSlow(t *testing.T) {
	j := &judge{limits: &Stop{MeanMs: 100, Failures: 0.05}}
	second := func(requests, failures int64, took time.Duration) string {
		h := newHistogram()
		h.record(took)
		return j.add(&gathered{requests: requests, failures: failures, operations: map[string]histogram{"POST state": h}})
	}
	half := func(requests, failures int64, took time.Duration) (cause string) {
		for i := range judgeSeconds {
			if cause = second(requests, failures, took); cause != "" && i < judgeSeconds-1 {
				t.Errorf("it is judged after %d s", i+1)
			}
		}
		return cause
	}
	if cause := half(100, 5, 90*time.Millisecond); cause != "" {
		t.Errorf("it ends because %s", cause)
	}
	if cause := half(100, 6, 90*time.Millisecond); cause != "6.0 % of all requests failed" {
		t.Errorf("with 6 %% of failures it ends because %q", cause)
	}
	if cause := half(100, 0, 110*time.Millisecond); cause != "POST state took 110 ms on average" {
		t.Errorf("at 110 ms it ends because %q", cause)
	}
	if j = new(judge); half(100, 100, time.Hour) != "" {
		t.Error("a scenario without limits ends itself")
	}
}

func TestTheScriptsSendWhatTheOriginalsSend(t *testing.T) {
	s := newOldServer(t)
	s.bodies = true
	for _, name := range []string{"scenario-0", "scenario-2", "scenario-3"} {
		scenario, _ := Builtin(name)
		scenario.Stages, scenario.Users, scenario.RunTime = nil, 3, 700*time.Millisecond
		scenario.Pause = constant(20 * time.Millisecond)
		if name == "scenario-2" {
			scenario.OnStart[1].For = 10 * time.Millisecond
		}
		put(t, s, scenario, nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shapes := make(map[string]bool)
	for _, r := range s.seen {
		if strings.Contains(fmt.Sprint(r), "loadgen-check-") {
			continue
		}
		shapes[shape(r)] = true
	}
	want := []string{
		`GET /v1/opscore/agent/ID/state auth=Bearer key null`,
		`POST /v1/opscore/agent/ID/state auth=Bearer key {"agentId":"ID","details":{"load_test":true,"user":"user-ID"},"state":"STATE","timestamp":"TIME"}`,
		`POST /v1/opscore/agent/ID/workflow auth=Bearer key {"agentId":"ID","context":{"load_test":true,"scenario":2,"user":"user-ID"},"workflowDefinitionId":"sample_workflow_id"}`,
		`POST /v1/opscore/agent/ID/workflow auth=Bearer key {"workflowDefinition":` + definitionText(t) + `}`,
		`POST /v1/opscore/internal/agent/notify auth= ` + registration(`["workflow_execution"]`, `{"load_test_user":"ID","scenario":2}`),
		`POST /v1/opscore/internal/agent/notify auth=Bearer key ` + registration(`["state_reporting","test_capability","another_capability"]`, `{"load_test_user":"ID","scenario":3}`),
		`POST /v1/opscore/internal/agent/notify auth=Bearer key ` + registration(`["state_reporting"]`, `{"load_test_user":"ID"}`),
	}
	got := slices.Sorted(func(yield func(string) bool) {
		for k := range shapes {
			if !yield(k) {
				return
			}
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func registration(capabilities, metadata string) string {
	return `{"agent_details":{"agentId":"ID","agentName":"LoadTestAgent-ID","capabilities":` + capabilities +
		`,"contactEndpoint":"http://fake-agent-ID.local/run","metadata":` + metadata + `,"version":"1.0"},"event_type":"REGISTER"}`
}

func definitionText(t *testing.T) string {
	t.Helper()
	text, err := json.Marshal(sampleWorkflow())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// shape is a request with what differs from user to user replaced.
func shape(r seenRequest) string {
	id, _ := r.Body["agentId"].(string)
	if d, ok := r.Body["agent_details"].(map[string]any); ok {
		id, _ = d["agentId"].(string)
	}
	if parts := strings.Split(r.Line, "/"); len(parts) > 4 && parts[3] == "agent" {
		id = parts[4]
	}
	if s, ok := r.Body["state"].(string); ok && slices.Contains(states, s) {
		r.Body["state"] = "STATE"
	}
	if s, ok := r.Body["timestamp"].(string); ok {
		if _, err := time.Parse("2006-01-02T15:04:05.000000-07:00", s); err == nil && strings.HasSuffix(s, "+00:00") {
			r.Body["timestamp"] = "TIME"
		}
	}
	body, _ := json.Marshal(r.Body)
	text := fmt.Sprintf("%s auth=%s %s", r.Line, r.Auth, body)
	if id != "" {
		text = strings.ReplaceAll(text, id, "ID")
	}
	return text
}

func TestFiveThousandUsersTakeLittle(t *testing.T) {
	const users = 5000
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"state":"idle"}`)
	}))
	defer s.Close()
	scenario := brief(users, time.Hour, 20*time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	grown := 0
	r, err := Run(ctx, Config{
		Scenario: scenario, Target: Target{HTTP: s.URL}, Log: slog.New(slog.DiscardHandler),
		Progress: func(p *Snapshot) {
			if p.Total.Requests >= users && ctx.Err() == nil {
				runtime.GC()
				runtime.ReadMemStats(&during)
				grown = runtime.NumGoroutine() - goroutines
				cancel()
			}
		},
	})
	if err != nil || r.Requests != users || r.Failures != 0 {
		t.Fatalf("%v: %d requests, %d failures %+v", err, r.Requests, r.Failures, r.Errors)
	}
	// The server of the test has a goroutine and two buffers for each connection, which is most of it.
	each := (int64(during.HeapInuse+during.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / users
	t.Logf("%d bytes for each user and its connection on both sides, %d goroutines for each", each, grown/users)
	if limit := int64(48 << 10); each > limit {
		t.Errorf("a user takes %d bytes, want at most %d", each, limit)
	}
	if grown > users*2+users/10 {
		t.Errorf("%d users take %d goroutines on both sides, want one each", users, grown)
	}
}

func TestRegistrationsMustBeAnsweredWith200(t *testing.T) {
	s := newOldServer(t)
	s.intrude = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/notify") && s.count("POST notify") > 1 { // not that of the check
			w.WriteHeader(http.StatusAccepted)
			return true
		}
		return false
	}
	cfg := Config{Scenario: brief(3, time.Hour, 200*time.Millisecond), Target: Target{HTTP: s.URL}, Log: slog.New(slog.DiscardHandler)}
	_, err := Run(t.Context(), cfg)
	if check, ok := errors.AsType[*CheckError](err); !ok || check.Step != "deregister" || check.Class != "202" || check.RequestID == "" {
		t.Errorf("the check ends with %v, want class 202 at deregister", err)
	}
	if n := s.count("POST notify"); n != 2 {
		t.Errorf("%d notifications: a failed check must not be followed by a load", n)
	}
}

func TestUsersWaitForTheirState(t *testing.T) {
	for _, c := range []struct {
		name     string
		answers  []string // then there is a state; "404" is a status
		missing  bool     // 404 is allowed
		failures []string // classes, by count
		reads    int64
	}{
		{"at once", nil, false, nil, 1},
		{"null is not a state", []string{"null", "null"}, false, []string{ClassContent, "2"}, 3},
		{"missing is a failure", []string{"404"}, false, []string{"404", "1"}, 2},
		{"missing is allowed", []string{"404", "404"}, true, nil, 3},
		{"but not for ever", slices.Repeat([]string{"404"}, 100), true, []string{ClassContent, "1"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newOldServer(t)
			s.intrude = func(w http.ResponseWriter, r *http.Request) bool {
				n := s.count("GET state") - 2 // without that of the check
				if r.Method != http.MethodGet || n < 0 || n >= len(c.answers) {
					return false
				}
				if c.answers[n] == "404" {
					w.WriteHeader(http.StatusNotFound)
				} else {
					_, _ = io.WriteString(w, c.answers[n])
				}
				return true
			}
			scenario := brief(1, time.Hour, 700*time.Millisecond)
			scenario.OnStart = append(scenario.OnStart,
				Step{Op: OpAwaitState, Every: 10 * time.Millisecond, Within: 200 * time.Millisecond, AllowMissing: c.missing})
			r := put(t, s, scenario, nil)
			var failures []string
			for _, e := range r.Errors {
				failures = append(failures, e.Class, fmt.Sprint(e.Count))
			}
			if diff := cmp.Diff(c.failures, failures); diff != "" {
				t.Error(diff)
			}
			if n := r.Operations["GET state"].Requests; c.reads > 0 && n != c.reads {
				t.Errorf("%d reads, want %d", n, c.reads)
			}
		})
	}
}
