package main

import (
	"fmt"
	"os"
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

func TestCommandsAboutAFleet(t *testing.T) {
	t.Parallel()
	p := fleet(t)
	cordonByIDLabelAndVersion(t, p)
	sayThatAnAgentIsDrained(t, p)
	explainWhatWaits(t, p)
}

func cordonByIDLabelAndVersion(t *testing.T, p *program) {
	t.Helper()
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

func sayThatAnAgentIsDrained(t *testing.T, p *program) {
	t.Helper()
	if got, want := p.run("agent", "drain", "nobody"), (result{exitNotFound, "", "opscore: agent \"nobody\" is not registered\n"}); got != want {
		t.Errorf("%+v", got)
	}
	got := p.run("agent", "drain", "a1", "--deadline", "1h", "--reason", "upgrade")
	if want := regexp.MustCompile(`(?m)^a1 .* no: it is drained: it takes no new work, and what it holds is handed back at \d{4}-`); !want.MatchString(got.stdout) {
		t.Errorf("%+v", got)
	}
	got = p.run("agent", "get", "a1")
	defer p.run("agent", "undrain", "a1")
	if want := regexp.MustCompile(`(?m)^Drained +what it holds is given to others at \d{4}-\S+: upgrade$`); !want.MatchString(got.stdout) {
		t.Errorf("%+v", got)
	}
}

// What nobody can do, why, and what helps: on the screen and for machines.
func explainWhatWaits(t *testing.T, p *program) {
	t.Helper()
	file := t.TempDir() + "/w.json"
	if err := os.WriteFile(file, []byte(`{"id":"w","name":"W","tasks":[{"taskId":"t1","select":{"capability":"work","labels":{"pool":"b"}}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"agent cordon b1", "workflow apply -f " + file} {
		if got := p.run(strings.Fields(args)...); got.code != exitOK {
			t.Fatalf("%s: %+v", args, got)
		}
	}
	var run event.Run
	if got := p.run("run", "start", "w", "-o", "json"); event.Unmarshal([]byte(got.stdout), &run) != nil || run.RunID == "" {
		t.Fatalf("%+v", got)
	}
	for _, c := range []struct{ args, want string }{
		{"run explain " + run.RunID, `(?s)^Task "t1" has waited for an agent that offers "work" with pool=b for .*, at place 1 of 1: 3 agents do not take it: cordoned \(1\), label \(2\)\.\n` +
			`.*To go on +uncordon agent "b1"\n.*Refused +b1: it is cordoned\nRefused +a1: it does not have the label "pool=b"\n`},
		{"run explain " + run.RunID + " -o json", `(?s)"refused": \[\s+{\s+"agentId": "b1",\s+"rule": "cordoned"`},
		{"agent explain b1", `(?s)^Agent "b1" is given nothing: it is cordoned\. 1 tasks wait that it could do\.\nTo go on +uncordon agent "b1"\n.*\nwork +- +pool=b +1 +yes\n`},
		{"agent explain a1", `^Agent "a1" is free, and no task waits that it could do\.\n\n1 other queue for other agents\.\n$`},
		{"queue pause work --reason incident", `^Queue +work\nPaused +true\n$`},
		{"queue list", `(?m)^work +- +pool=b +1 +no: paused: incident$`},
		{"run explain " + run.RunID, `(?s)that queue is paused \(incident\)\.\n.*To go on +resume the queue of "work"\n`},
		{"queue resume work", `Paused +false`},
		{"agent uncordon b1", `(?m)^b1 `},
	} {
		if got := p.run(strings.Fields(c.args)...); got.code != exitOK || !regexp.MustCompile(c.want).MatchString(got.stdout) {
			t.Errorf("%s: %+v\nwant %s", c.args, got, c.want)
		}
	}
	for _, args := range []string{"run explain none", "agent explain none"} {
		if got := p.run(strings.Fields(args)...); got.code != exitNotFound {
			t.Errorf("%s: %+v", args, got)
		}
	}
}
