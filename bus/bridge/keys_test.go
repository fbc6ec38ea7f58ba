package bridge_test

import (
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus/bridge"
	"github.com/opspawn/opscore/bus/event"
)

// A key with a name says who decides: what a person says to be stands in the comment. A key without a name is as good as before, and then the person's word counts.
func TestKeysSayWhoShowsThem(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *bridge.Config) {
		c.Key = "plain"
		c.Keys = []bridge.NamedKey{{Name: "ops", Key: "k:1"}, {Name: "ops", Key: "k2"}, {Name: "ci", Key: "k3"}}
	})
	as := func(key string) []string { return []string{"Authorization", "Bearer " + key} }
	for key, status := range map[string]int{"plain": 200, "k:1": 200, "k2": 200, "k3": 200, "ops": 401, "ops:k:1": 401, "k": 401, "": 401, oldKey: 401} {
		b.do("GET", "/api/v1/agents", "", as(key)...).want(t, status)
	}
	b.do("GET", "/api/v1/agents", "").want(t, 401)
	b.do("PUT", "/api/v1/workflows/ask", `{"id":"ask","tasks":[{"taskId":"a","approval":{}}]}`, as("plain")...).want(t, 200)
	for i, tt := range []struct{ key, body, by, comment, shown string }{
		{"k2", `{"by":"ada","comment":"good to go"}`, "ops", "as ada: good to go", "ops"},
		{"k:1", `{"by":"ada"}`, "ops", "as ada", "ops"},
		{"k3", `{"by":"ci","comment":"green"}`, "ci", "green", "ci"},
		{"k3", "", "ci", "", "ci"},
		{"k3", `{"by":"ada","comment":"` + strings.Repeat("é", 2000) + `"}`, "ci", "as ada: " + strings.Repeat("é", 2000), "ci"},
		{"k3", `{"by":"ada","comment":"` + strings.Repeat("x", event.MaxErrorText) + `"}`, "ci", "as ada: " + strings.Repeat("x", event.MaxErrorText-len("as ada: …")) + "…", "ci"},
		{"plain", `{"by":"ada","comment":"fine"}`, "ada", "fine", ""},
	} {
		run := decode[event.Run](t, b.do("POST", "/api/v1/runs", `{"workflowId":"ask"}`, as("plain")...).want(t, 202))
		done := b.do("POST", "/api/v1/runs/"+run.RunID+"/tasks/a/approve", tt.body, as(tt.key)...).want(t, 200)
		var out struct {
			By      string `json:"by"`
			Comment string `json:"comment"`
		}
		shown := decode[event.Run](t, b.do("GET", "/api/v1/runs/"+run.RunID, "", as("plain")...).want(t, 200))
		if err := event.Unmarshal(shown.Output, &out); err != nil || out.By != tt.by || out.Comment != tt.comment {
			t.Errorf("%d: %v: by %q: %q", i, err, out.By, out.Comment)
		}
		trace := decode[event.RequestTrace](t, b.do("GET", "/api/v1/requests/"+done.Header.Get("X-Request-Id"), "", as("plain")...).want(t, 200))
		if trace.Key != tt.shown {
			t.Errorf("%d: the key of the request is %q", i, trace.Key)
		}
	}
}

// With keys that have names, and no other, nothing is open: neither the new API nor the old routes.
func TestNamedKeysAloneCloseTheAPI(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *bridge.Config) { c.Keys = []bridge.NamedKey{{Name: "ops", Key: "k"}} })
	for key, status := range map[string]int{"k": 200, oldKey: 401, "": 401} {
		b.do("GET", "/api/v1/agents", "", "Authorization", "Bearer "+key).want(t, status)
		old := b.do("POST", "/v1/opscore/agent/a1/state", `{}`, "Authorization", "Bearer "+key)
		if (old.StatusCode == 401) != (status == 401) {
			t.Errorf("the old route answers %q with %d", key, old.StatusCode)
		}
	}
}
