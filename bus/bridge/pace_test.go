package bridge_test

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

// An agent that writes too fast is told to wait, on the old route and on the new one; the others are served.
func TestOneLoudAgentIsToldToWait(t *testing.T) {
	b := setup(t, nil)
	b.register("loud")
	b.register("quiet")
	b.served.Exhaust("loud")
	auth := []string{"Authorization", "Bearer " + oldKey}
	old := b.do("POST", "/v1/opscore/agent/loud/state", stateBody("loud", "null"), auth...).want(t, http.StatusTooManyRequests)
	if detail := decode[map[string]string](t, old)["detail"]; detail == "" {
		t.Errorf("body is %s", old.body)
	}
	fresh := b.do("POST", "/api/v1/agents/loud/state", `{"state":"idle"}`, auth...)
	fresh.problem(t, http.StatusTooManyRequests, "too_many_requests")
	for _, r := range []response{old, fresh} {
		if s, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || s < 1 || s > 60 {
			t.Errorf("Retry-After is %q", r.Header.Get("Retry-After"))
		}
	}
	b.do("POST", "/v1/opscore/agent/quiet/state", stateBody("quiet", "null"), auth...).want(t, http.StatusAccepted)
	agent := decode[event.Agent](t, b.do("GET", "/api/v1/agents/quiet", "", auth...).want(t, http.StatusOK))
	if agent.State != "idle" {
		t.Errorf("the quiet agent is %q", agent.State)
	}
}
