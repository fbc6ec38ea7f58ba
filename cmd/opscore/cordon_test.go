package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/opspawn/opscore/bus/event"
)

// fleet runs a server with agents a1 (pool a, version 1), a2 (pool a, version 2) and b1 (pool b, version 1) that are idle.
func fleet(t *testing.T) *program {
	t.Helper()
	url, _ := dev(t, map[string]string{})
	for id, about := range map[string]string{"a1": `"1.0.0","labels":{"pool":"a"}`, "a2": `"2.1.0","labels":{"pool":"a"}`, "b1": `"1.5.0","labels":{"pool":"b"}`} {
		body := fmt.Sprintf(`{"agentName":"n","capabilities":["work"],"version":%s}`, about)
		if code := status(t, "PUT", url+"/api/v1/agents/"+id, "", body); code/100 != 2 {
			t.Fatalf("register %s: %d", id, code)
		}
		if code := status(t, "POST", url+"/api/v1/agents/"+id+"/state", "", `{"state":"idle"}`); code/100 != 2 {
			t.Fatalf("state of %s: %d", id, code)
		}
	}
	return &program{t: t, env: map[string]string{envServer: url}}
}

// drawn lists the agents that take no new work, with a star behind those that are drained.
func drawn(t *testing.T, p *program) string {
	t.Helper()
	got := p.run("agent", "list", "-o", "json")
	var list event.List[event.Agent]
	if err := event.Unmarshal([]byte(got.stdout), &list); got.code != exitOK || err != nil {
		t.Fatalf("%+v %v", got, err)
	}
	var out []string
	for _, g := range list.Items {
		switch {
		case g.Draining:
			out = append(out, g.AgentID+"*")
		case g.Cordoned:
			out = append(out, g.AgentID)
		}
	}
	return strings.Join(out, " ")
}

func TestAgentsAreCordonedByIDLabelAndVersion(t *testing.T) {
	t.Parallel()
	p := fleet(t)
	for _, c := range []struct {
		args, want string
		code       int
	}{
		{"agent cordon a1 b1 a1", "a1 b1", exitOK},
		{"agent drain -l pool=a --deadline 1h --reason upgrade", "a1* a2* b1", exitOK},
		{"agent undrain a2", "a1* b1", exitOK},
		{"agent uncordon --version >=1.0.0", "", exitOK},
		{"agent drain -l pool=a --version <2 --wait", "a1*", exitOK}, // it holds nothing
		{"agent uncordon a1 nobody", "", exitNotFound},               // the others are told all the same
		{"agent cordon -l pool=z", "", exitNotFound},
		{"agent cordon", "", exitUsage},
		{"agent cordon a1 -l pool=a", "", exitUsage},
		{"agent cordon --version soon", "", exitUsage},
		{"agent drain a1 --deadline -5s", "", exitUsage},
	} {
		if got := p.run(strings.Fields(c.args)...); got.code != c.code {
			t.Errorf("%s: %+v", c.args, got)
		}
		if got := drawn(t, p); got != c.want {
			t.Errorf("%s: no new work for %q, want %q", c.args, got, c.want)
		}
	}
}

func TestAnAgentSaysThatItIsDrained(t *testing.T) {
	t.Parallel()
	p := fleet(t)
	got := p.run("agent", "drain", "a1", "--deadline", "1h", "--reason", "upgrade")
	if want := regexp.MustCompile(`(?m)^a1 .* no: it is drained: it takes no new work, and what it holds is handed back at \d{4}-`); !want.MatchString(got.stdout) {
		t.Errorf("%+v", got)
	}
	got = p.run("agent", "get", "a1")
	if want := regexp.MustCompile(`(?m)^Drained +what it holds is given to others at \d{4}-\S+: upgrade$`); !want.MatchString(got.stdout) {
		t.Errorf("%+v", got)
	}
}
