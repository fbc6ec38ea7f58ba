package main

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
)

// What an agent takes and gives is registered, shown, held to and explained; what is no schema is refused.
func TestSchemasOfAgents(t *testing.T) {
	t.Parallel()
	url, _ := dev(t, map[string]string{})
	p := &program{t: t, env: map[string]string{envServer: url}}
	register := func(id, schemas string) int {
		body := `{"agentName":"n","version":"1","capabilities":["work"],"capabilitySchemas":` + schemas + `}`
		return status(t, http.MethodPut, url+"/api/v1/agents/"+id, "", body)
	}
	takesText := `{"work":{"input":{"required":["v"],"properties":{"v":{"type":"string"}}},"output":{"type":"object"}}}`
	if code := register("a1", takesText); code != http.StatusOK {
		t.Fatalf("registered: %d", code)
	}
	for _, schemas := range []string{`{"work":{"input":{"type":"strin"}}}`, `{"work":{"output":{"$ref":"https://example.com/s"}}}`, `{"play":{"input":true}}`} {
		if code := register("a2", schemas); code != http.StatusUnprocessableEntity && code != http.StatusBadRequest {
			t.Errorf("%s: %d", schemas, code)
		}
	}
	if code := status(t, http.MethodPost, url+"/api/v1/agents/a1/state", "", `{"state":"idle"}`); code/100 != 2 {
		t.Fatalf("state: %d", code)
	}
	file := t.TempDir() + "/w.json"
	if err := os.WriteFile(file, []byte(`{"id":"w","tasks":[{"taskId":"t1","agentCapability":"work","parameters":{"v":1}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := p.run("workflow", "apply", "-f", file); got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	var run event.Run
	if got := p.run("run", "start", "w", "-o", "json"); event.Unmarshal([]byte(got.stdout), &run) != nil || run.RunID == "" {
		t.Fatalf("%+v", got)
	}
	bustest.Eventually(t, "it was turned away", func() bool { return strings.Contains(p.run("queue", "list").stdout, "work that takes the input") })
	for _, c := range []struct{ args, want string }{
		{"agent get a1", `(?m)^Takes +work: {"properties":{"v":{"type":"string"}},"required":\["v"\]}\nGives +work: {"type":"object"}$`},
		{"agent get a1 -o json", `(?s)"capabilitySchemas": {\s+"work": {\s+"input": {.*"output": {\s+"type": "object"`},
		{"run explain " + run.RunID, `(?s)^Task "t1" has waited for an agent that offers "work" and takes the input for .*: agent "a1" does not take it: ` +
			`the input does not fit the schema that it has registered for capability "work": /v: got number, want string\.\n.*To go on +register an agent that offers "work" and takes the input\n`},
		{"run get " + run.RunID, `a1: the input does not fit the schema .*/v: got number, want string`},
		{"queue list", `(?m)^work that takes the input +.* 1 +yes$`},
		{"agent explain a1", `^Agent "a1" is free, and no task waits that it could do\.`},
	} {
		got := p.run(strings.Fields(c.args)...)
		if got.code != exitOK || !regexp.MustCompile(c.want).MatchString(got.stdout) {
			t.Errorf("%s: %+v\nwant %s", c.args, got, c.want)
		}
	}
}
