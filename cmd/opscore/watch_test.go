package main

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/opspawn/opscore/bus/event"
)

// follow serves a start and then, poll by poll, the given answers; the last one again and again.
func follow(polls ...http.HandlerFunc) http.Handler {
	var next atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/runs", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		write(`{"runId":"r-1","workflowId":"report","workflowVersion":"v","state":"pending"}`)(w, r)
	})
	mux.HandleFunc("GET /api/v1/runs/r-1", func(w http.ResponseWriter, r *http.Request) {
		n := int(next.Add(1)) - 1
		polls[min(n, len(polls)-1)](w, r)
	})
	return mux
}

// inState answers with a run in a state.
func inState(s event.RunState) http.HandlerFunc {
	r := event.Run{RunID: "r-1", WorkflowID: "report", State: s, CreatedAt: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)}
	if s == event.RunFailed {
		r.Error = &event.TaskError{Code: "boom", Message: "it broke"}
	}
	return write(string(event.MustMarshal(r)))
}

// TestWait follows a run to its end, and says by the exit code which end it was.
func TestWait(t *testing.T) {
	t.Parallel()
	down := problemOf(503, `{"detail":"the store is down"}`)
	for _, c := range []struct {
		name   string
		server http.Handler
		code   int
		state  event.RunState // printed; empty: nothing is
		stderr string
	}{
		{"completed", follow(inState(event.RunPending), inState(event.RunRunning), inState(event.RunCompleted)), exitOK, event.RunCompleted, ""},
		{"failed", follow(inState(event.RunFailed)), exitRun, event.RunFailed, "opscore: run r-1 is failed: boom: it broke\n"},
		{"cancelled", follow(inState(event.RunCancelled)), exitRun, event.RunCancelled, "opscore: run r-1 is cancelled\n"},
		{"outage on the way", follow(down, hangUp, inState(event.RunCompleted)), exitOK, event.RunCompleted, ""},
		{"gone", follow(problemOf(404, `{"code":"unknown_run","detail":"no such run"}`)), exitNotFound, "", "opscore: lost sight of run r-1: no such run\n"},
		{
			"time is up", follow(inState(event.RunRunning)), exitRun, event.RunRunning,
			"opscore: no end within 2s; run r-1 goes on; see \"opscore run get r-1\"\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			args := []string{"run", "start", "report", "--wait", "-o", "json"}
			if c.code == exitRun {
				args = append(args, "--timeout", "2s")
			}
			got := newProgram(t, c.server).run(args...)
			var printed event.Run
			if got.stdout != "" {
				if err := event.Unmarshal([]byte(got.stdout), &printed); err != nil {
					t.Fatal(err)
				}
			}
			if got.code != c.code || printed.State != c.state || got.stderr != c.stderr {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestWatch writes a line for each change where there is no terminal.
func TestWatch(t *testing.T) {
	t.Parallel()
	at := func(run event.RunState, task event.TaskState) http.HandlerFunc {
		return write(string(event.MustMarshal(event.Run{RunID: "r-1", State: run, Tasks: []event.RunTask{
			{TaskID: "a", State: task, AgentID: "me", Attempt: 1}, {TaskID: "b", State: event.TaskPending},
		}})))
	}
	running, done := at(event.RunRunning, event.TaskRunning), at(event.RunCompleted, event.TaskCompleted)
	got := newProgram(t, follow(running, running, done)).run("run", "watch", "r-1")
	var lines []string
	for line := range strings.Lines(got.stderr) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{"task a running me -", "run r-1 running", "task a completed me -", "run r-1 completed"}
	if !slices.Equal(lines, want) || got.code != exitOK || !strings.Contains(got.stdout, "completed") {
		t.Errorf("lines %q, want %q; %+v", lines, want, got)
	}
}

// TestWaitInterrupted says that the run goes on.
func TestWaitInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := newProgram(t, follow(inState(event.RunRunning), func(w http.ResponseWriter, r *http.Request) {
		cancel()
		inState(event.RunRunning)(w, r)
	}))
	got := p.runIn(ctx, "run", "start", "report", "--wait")
	want := result{exitInterrupt, "", "opscore: interrupted; run r-1 goes on; see \"opscore run get r-1\"\n"}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestFrame draws what a live view shows of a run.
func TestFrame(t *testing.T) {
	t.Parallel()
	var r event.Run
	if err := event.Unmarshal([]byte(fixture(t, "run.json")), &r); err != nil {
		t.Fatal(err)
	}
	percent := 40.0
	r.State, r.EndedAt = event.RunRunning, nil
	r.Tasks[1] = event.RunTask{TaskID: "write", State: event.TaskRunning, Attempt: 2, AgentID: "writer-1", StartedAt: &r.CreatedAt, Percent: &percent, Message: "page 3"}
	r.Tasks[2] = event.RunTask{TaskID: "send", State: event.TaskReady, Reasons: []event.Refusal{{AgentID: "mailer", Text: "it is cordoned"}}}
	r.Tasks[3].State = event.TaskPending
	s := style{terminal: true, now: r.CreatedAt.Add(5 * time.Second)}
	golden(t, "frame", strings.Join(frame(s, &r, 80, 24), "\n")+"\n")
	golden(t, "frame-small", strings.Join(frame(s, &r, 40, 6), "\n")+"\n")
	for _, line := range frame(s, &r, 40, 6) {
		if n := len([]rune(line)); n >= 40 {
			t.Errorf("%d characters in a terminal of 40: %q", n, line)
		}
	}
}

// TestWindow keeps the task that is being worked on in sight.
func TestWindow(t *testing.T) {
	t.Parallel()
	tasks := make([]event.RunTask, 10)
	for done, want := range map[int][2]int{0: {0, 4}, 1: {0, 4}, 4: {3, 7}, 9: {6, 10}, 10: {6, 10}} {
		for i := range tasks {
			tasks[i].State = event.TaskPending
			if i < done {
				tasks[i].State = event.TaskCompleted
			}
		}
		from, to := window(tasks, 4)
		if diff := cmp.Diff(want, [2]int{from, to}); diff != "" {
			t.Errorf("%d done: %s", done, diff)
		}
	}
}
