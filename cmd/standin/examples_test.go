package main

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opspawn/opscore/bus/bustest"
	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/cmd/opscore/server"
)

// The examples are run as their readers would: with nothing but the environment that they name.
func TestTheHTTPExamplesServeARun(t *testing.T) {
	const secret = "whsec_b3BzY29yZS1leGFtcGxl"
	w := &world{t: t, url: "http://" + runServer(t, options{delivery: server.Delivery{Secrets: []string{secret}}})}
	w.do("PUT", "/api/v1/workflows/words", `{"id":"words","tasks":[
		{"taskId":"a","agentCapability":"count","parameters":{"text":"one two three"},"nextTaskId":"b"},
		{"taskId":"b","agentCapability":"count","parameters":{"text":"say \"hi\" {runId}","runId":"no","attempt":9}}]}`, http.StatusOK)
	for _, c := range []struct{ name, program, output string }{
		{"agent.sh", "agent.sh", `{"bytes":`},
		{"agent.py", "agent.py", `{"words":3}`},
		{"agent.py --poll", "agent.py --poll", `{"words":3}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			stop := w.example(t, c.program, "OPSCORE_PUSH_SECRET="+secret)
			var run event.Run
			if err := event.Unmarshal(w.do("POST", "/api/v1/runs", `{"workflowId":"words"}`, http.StatusAccepted), &run); err != nil {
				t.Fatal(err)
			}
			bustest.Eventually(t, "the run ends", func() bool { run = w.run(run.RunID); return run.State.Final() })
			if run.State != event.RunCompleted || !strings.HasPrefix(string(run.Tasks[0].Output), c.output) {
				t.Errorf("the run is %s, with output %s and error %v", run.State, run.Tasks[0].Output, run.Error)
			}
			for _, task := range run.Tasks {
				if task.Attempt != 1 || task.Message == "" {
					t.Errorf("task %s: attempt %d, message %q: want the first, with progress", task.TaskID, task.Attempt, task.Message)
				}
			}
			stop()
			if !strings.Contains(string(w.do("GET", "/api/v1/agents/example", "", http.StatusOK)), `"state":"offline"`) {
				t.Error("the agent went without a word")
			}
		})
	}
}

// Requests that nobody has signed are refused by the agent, and so is the task.
func TestTheHTTPExampleRefusesWhatIsNotSigned(t *testing.T) {
	w := &world{t: t, url: "http://" + runServer(t, options{})}
	w.do("PUT", "/api/v1/workflows/words", `{"id":"words","tasks":[{"taskId":"a","agentCapability":"count"}]}`, http.StatusOK)
	w.example(t, "agent.py", "OPSCORE_PUSH_SECRET=whsec_b3BzY29yZS1leGFtcGxl")
	shows := func(text string) func() bool {
		return func() bool { return strings.Contains(string(w.do("GET", "/api/v1/agents", "", http.StatusOK)), text) }
	}
	bustest.Eventually(t, "the agent is ready", shows(`"available":true`))
	var run event.Run
	if err := event.Unmarshal(w.do("POST", "/api/v1/runs", `{"workflowId":"words"}`, http.StatusAccepted), &run); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, "the agent is left alone", shows(`"available":false`))
	if run = w.run(run.RunID); run.State.Final() || run.Tasks[0].State == event.TaskRunning {
		t.Errorf("the run is %s, its task %s: the agent took what nobody had signed", run.State, run.Tasks[0].State)
	}
}

// example runs a program of examples/http-agent until stop, or the end of the test, and returns when it gets tasks.
func (w *world) example(t *testing.T, program string, env ...string) (stop func()) {
	t.Helper()
	args := strings.Fields(program)
	cmd := exec.Command(filepath.Join("..", "..", "examples", "http-agent", args[0]), args[1:]...)
	cmd.Env = append(cmd.Environ(), append(env, "OPSCORE_URL="+w.url, "AGENT_ID=example", "AGENT_CAPABILITY=count", "AGENT_WAIT=5")...)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s ends with %v", program, err)
		}
	}
	t.Cleanup(stop)
	return stop
}
