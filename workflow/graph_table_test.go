package workflow

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus/event"
)

// joinTable tells when a task begins that three others lead to, by how many of the edges were taken (t), never will be (n), or are open (o).
func joinTable(t *testing.T) string {
	t.Helper()
	var rows []row
	for _, edges := range strings.Fields("ttt ttn tto tnn tno too nnn nno noo ooo") {
		for _, when := range []string{"true", "false"} {
			name := fmt.Sprintf("%d taken, %d not, %d open", strings.Count(edges, "t"), strings.Count(edges, "n"), strings.Count(edges, "o"))
			if when == "false" {
				if edges != "ttt" {
					continue
				}
				name += ", when does not hold"
			}
			r := row{event: name}
			for _, join := range []string{`"all"`, `2`, `"any"`} {
				s := tell(t, fmt.Sprintf(`{"id":"d","tasks":[{"taskId":"a","agentCapability":"c","when":"input.e[0] != 'n'"},
					{"taskId":"b","agentCapability":"c","when":"input.e[1] != 'n'"},{"taskId":"c","agentCapability":"c","when":"input.e[2] != 'n'"},
					{"taskId":"j","agentCapability":"c","dependsOn":["a","b","c"],"join":%s,"when":"%s"}]}`, join, when),
					&event.RunStart{Input: event.MustMarshal(map[string]any{"e": strings.Split(edges, "")})})
				for i, id := range []string{"a", "b", "c"} {
					if edges[i] == 't' {
						s.does(id)
					}
				}
				state := event.TaskPending
				if j := s.run.Find("j"); j != nil {
					state = j.State
				}
				r.results = append(r.results, result{strings.Trim(join, `"`), string(state)})
			}
			rows = append(rows, r)
		}
	}
	return render("EDGES\tJOIN\tTASK IS", rows)
}

// failureTable tells what follows from a failure, by what the task says about failures.
func failureTable(t *testing.T) string {
	t.Helper()
	no := false
	broke := func(s *story) { s.put(failed(s.assign("a"), &event.TaskError{Code: "broke"})) }
	events := []struct {
		name string
		task string
		do   func(*story)
	}{
		{"failed, a retry is left", `"retry":{"attempts":1}`, broke},
		{"failed, no retry is left", `"retry":{"attempts":0}`, broke},
		{"failed, with a code of nonRetryable", `"retry":{"nonRetryable":["broke"]}`, broke},
		{"failed, not retryable", `"retry":{}`, func(s *story) {
			s.put(failed(s.assign("a"), &event.TaskError{Code: "broke", Retryable: &no}))
		}},
		{"not taken in time", `"timeouts":{"queueSeconds":5}`, func(s *story) { s.looks("a") }},
		{"its parameters have no value", `"parameters":{"x":"${{ input.none }}"}`, func(*story) {}},
	}
	policies := []struct{ name, json string }{
		{"nothing", ``},
		{"fallback", `"onFailure":{"fallback":[{"capability":"spare"}]},`},
		{"taskId", `"onFailure":{"taskId":"mend"},`},
		{"continue", `"onFailure":{"continue":true},`},
	}
	rows := make([]row, len(events))
	for i, e := range events {
		rows[i].event = e.name
		for _, p := range policies {
			s := tell(t, `{"id":"d","tasks":[{"taskId":"done","agentCapability":"c","compensate":{}},
				{"taskId":"a","agentCapability":"c","dependsOn":["done"],`+p.json+e.task+`},
				{"taskId":"next","agentCapability":"c","dependsOn":["a"]},{"taskId":"mend","agentCapability":"c","dependsOn":["a"]}]}`, &event.RunStart{})
			s.does("done")
			e.do(s)
			text := string(s.task("a").State)
			if a := s.task("a"); a.Fallback > 0 {
				text += " for the fallback"
			}
			for _, id := range []string{"next", "mend", "done~undo"} {
				if f := s.run.Find(id); f != nil && f.State == event.TaskReady {
					text += ", " + map[string]string{"next": "goes on", "mend": "taskId begins", "done~undo": "run undoes and fails"}[id]
				}
			}
			rows[i].results = append(rows[i].results, result{p.name, strings.ReplaceAll(text, "goes on, taskId begins", "goes on")})
		}
	}
	return render("TASK HAS\tONFAILURE SAYS\tTASK IS", rows)
}

// clockTable tells what becomes of a task when one of its times is over. The run has 60 s in all.
func clockTable(t *testing.T) string {
	t.Helper()
	clocks := []struct {
		name, timeouts string
		after          time.Duration
		run            bool
	}{
		{"queueSeconds", `{"queueSeconds":20}`, 20 * time.Second, false},
		{"acceptSeconds", `{"acceptSeconds":20}`, 20 * time.Second, false},
		{"runSeconds", `{"runSeconds":20}`, 20 * time.Second, false},
		{"progressSeconds", `{"progressSeconds":20}`, 20 * time.Second, false},
		{"runTimeoutSeconds", `{}`, time.Minute, true},
	}
	var rows []row
	for _, c := range clocks {
		for _, how := range []string{"over", "intake behind", "paused before"} {
			r := row{event: c.name + " " + how}
			if how == "over" {
				r.event = c.name + " are over"
			} else {
				r.event = "… " + how
			}
			for _, state := range []string{"ready", "assigned", "running", "retrying"} {
				r.results = append(r.results, result{state, clockResult(t, c.timeouts, state, how, c.after, c.run)})
			}
			rows = append(rows, r)
		}
	}
	return render("CLOCK\tTASK IS\tRESULT", rows)
}

func clockResult(t *testing.T, timeouts, state, how string, after time.Duration, run bool) string {
	t.Helper()
	s := tell(t, `{"id":"d","runTimeoutSeconds":60,"tasks":[{"taskId":"a","agentCapability":"c",
		"retry":{"attempts":2,"initialSeconds":1000,"maxSeconds":1000,"jitter":"none"},"timeouts":`+timeouts+`}]}`, &event.RunStart{})
	if state != "ready" {
		ref := s.assign("a")
		switch state {
		case "running":
			s.put(&Said{Agent: "ann", Event: &event.Accepted{AttemptRef: ref}})
		case "retrying":
			s.put(failed(ref, &event.TaskError{Code: "broke"}))
		}
	}
	in := &Tick{TaskID: "a", Intake: noon.Add(after)}
	if run {
		in.TaskID = ""
	}
	switch how {
	case "intake behind":
		in.Intake = noon
	case "paused before":
		s.put(&Command{RunCommand: &event.RunCommand{Kind: event.KindRunPause, RunID: runID}})
	}
	s.now = noon.Add(after)
	before := *s.task("a")
	s.put(in)
	a := s.task("a")
	switch {
	case s.run.State.Final():
		return "run failed: " + s.run.Error.Code
	case a.Error != nil && (before.Error == nil || a.Error.Code != before.Error.Code):
		return string(a.State) + ": " + a.Error.Code
	case a.State != before.State:
		return string(a.State)
	}
	return "-"
}
