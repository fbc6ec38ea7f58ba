package loadgen

import (
	"context"
	"slices"
	"time"
)

// transport carries what users do to a server.
type transport interface {
	session() session       // of one user; only that user uses it
	operation(op Op) string // what a step is called in the statistics
	newRunID() string       // for a run to be started; empty: the server makes it
	close()
}

// session is what one user keeps: a connection, for HTTP.
type session interface {
	do(ctx context.Context, a *action) reply
	drop() // the connection; the next request opens another
}

// action is one request of a user, independent of the transport.
type action struct {
	scenario *Scenario
	step     *Step
	agent    string    // the user's id
	run      string    // of a start: the run's id, if it is made here
	state    string    // of post-state
	n        uint64    // number in the journal, 0 without one
	request  string    // id of the request, for the server's log
	intended time.Time // when it should be sent
}

// reply is what became of an action.
type reply struct {
	status   int // of HTTP
	bytes    int // of the answer
	position Position
	missing  bool     // there is no state
	refused  bool     // failed, and the server has said that it did nothing
	failed   *failure // nil: it did not
}

func agentName(id string) string { return "LoadTestAgent-" + id }

// contactEndpoint is an address that does not resolve, on purpose: agents that cannot be reached must not slow anything down.
func contactEndpoint(id string) string { return "http://fake-agent-" + id + ".local/run" }

// capabilities returns those of the users; none is an empty list.
func (s *Scenario) capabilities() []string { return slices.Concat([]string{}, s.Capabilities) }

// metadata returns that of a registration.
func (a *action) metadata() map[string]any {
	m := merged(map[string]any{"load_test_user": a.agent}, a.scenario.Metadata)
	return a.numbered(m)
}

// details returns those of a state.
func (a *action) details() map[string]any {
	return a.numbered(map[string]any{"load_test": true, "user": "user-" + a.agent})
}

// input returns that of a run. It holds when the run should have started, for agents of this process.
func (a *action) input() map[string]any {
	return a.numbered(map[string]any{inputIntended: a.intended.UnixMicro()})
}

// inputIntended is the member of a run's input that tells when it should have been started, in µs.
const inputIntended = "intendedUs"

func (a *action) numbered(m map[string]any) map[string]any {
	if a.n > 0 {
		m["n"] = a.n
	}
	return m
}
