package loadgen

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// failed makes a result of 100 requests of which some failed.
func failed(errors ...ErrorClass) *Result {
	r := &Result{Requests: 100, Seconds: 10, Errors: errors, Operations: map[string]Operation{"POST state": {Requests: 90}, "POST workflow": {Requests: 10}}}
	for _, e := range errors {
		r.Failures += e.Count
	}
	return r
}

func class(operation, class string, count int64, detail string) ErrorClass {
	return ErrorClass{Operation: operation, Class: class, Count: count, Detail: detail, RequestIDs: []string{"id-" + class}}
}

func TestVerdictCauses(t *testing.T) {
	ready, gone := Probe{Health: "200", Ready: "200"}, Probe{Health: ClassRefused, Ready: ClassRefused}
	kill := []Fault{{Second: 3, Kind: "kill", Target: "redis"}}
	with := func(r *Result, change func(*Result)) *Result {
		change(r)
		return r
	}
	for _, test := range []struct {
		name     string
		result   *Result
		evidence Evidence
		want     string // code, empty: the run is good
	}{
		{"good", failed(), Evidence{}, ""},
		{"nothing sent", &Result{}, Evidence{}, CauseNothingSent},
		{"no address", failed(class("POST state", ClassResolve, 100, "")), Evidence{}, CauseUnresolved},
		{"refused from the beginning", failed(class("POST state", ClassRefused, 100, "")), Evidence{}, CauseStopped},
		{"refused later", failed(class("POST state", ClassRefused, 40, ""), class("POST state", ClassReset, 3, "")), Evidence{}, CauseDied},
		{"refused for a while", with(failed(class("POST state", ClassRefused, 4, "")), func(r *Result) {
			r.Processes = map[string]Process{"opscore-1": {Restarts: 1}}
		}), Evidence{}, CauseRestarted},
		{"all closed", failed(class("POST state", ClassNoResponse, 60, ""), class("POST workflow", ClassReset, 40, "")), Evidence{}, CauseDeadBehindPort},
		{"all hang", failed(class("POST state", ClassTimeout, 100, "")), Evidence{}, CauseHangs},
		{"some hang", failed(class("POST state", ClassTimeout, 10, "")), Evidence{}, CauseSlow},
		{"some reset", failed(class("POST state", ClassReset, 1, "")), Evidence{}, CauseIdleReset},
		{"most reset", failed(class("POST state", ClassReset, 70, "")), Evidence{}, CauseUnstable},
		{"no key", failed(class("POST state", "401", 90, "Authorization header missing")), Evidence{}, CauseKeyMissing},
		{"another key", failed(class("POST state", "401", 90, "Invalid authentication credentials")), Evidence{}, CauseKeyWrong},
		{"forbidden", failed(class("POST state", "403", 90, "")), Evidence{}, CauseKeyWrong},
		{"wrong body", failed(class("POST workflow", "422", 10, "")), Evidence{}, CausePayload},
		{"unknown agents", failed(class("POST state", "404", 9, "")), Evidence{Registered: 10, AgentsFound: 9}, CauseAgentsLost},
		{"unknown path", failed(class("POST state", "404", 90, "Not Found")), Evidence{Registered: 10, AgentsFound: 10}, CauseUnknownThing},
		{"store down by probe", failed(class("POST state", "503", 9, "")), Evidence{Probes: []Probe{{Ready: "503", Failing: []string{"store: refused"}}}}, CauseStoreDown},
		{"store down by detail", failed(class("POST state", "503", 9, "the store does not answer")), Evidence{}, CauseStoreDown},
		{"NATS down", failed(class("POST state", "503", 9, "NATS is not connected")), Evidence{}, CauseNATSDown},
		{"too much", failed(class("POST state", "503", 9, "too many requests at once")), Evidence{}, CauseOverload},
		{"unavailable", failed(class("POST state", "503", 9, "shutting down")), Evidence{}, CauseUnavailable},
		{"one operation broken", failed(class("POST workflow", "500", 10, "")), Evidence{}, CauseBroken},
		{"now and then broken", failed(class("POST workflow", "500", 9, "")), Evidence{}, CauseServerError},
		{"bad gateway", failed(class("POST workflow", "502", 9, "")), Evidence{}, CauseServerError},
		{"wrong content", failed(class("GET state", ClassContent, 9, "")), Evidence{}, CauseContent},
		{"other", failed(class("GET state", ClassOther, 9, "")), Evidence{}, CauseUnknown},
		{"the most frequent", failed(class("POST state", "401", 20, ""), class("POST workflow", "500", 10, "")), Evidence{}, CauseKeyWrong},
		{"a threshold", with(failed(), func(r *Result) { r.Thresholds = []Threshold{{Text: "p(99)<1", Seen: 2}} }), Evidence{}, CauseThreshold},
		{"a ledger", with(failed(class("POST state", "503", 9, "")), func(r *Result) { r.Ledger = &Ledger{Lost: 1} }), Evidence{}, CauseLedger},
		{"a clean ledger", with(failed(), func(r *Result) { r.Ledger = &Ledger{Acked: 5, Stored: 5} }), Evidence{}, ""},
		{"faults", with(failed(class("POST state", "503", 9, "")), func(r *Result) { r.Faults = kill }), Evidence{Probes: []Probe{gone, ready}}, ""},
		{"faults for ever", with(failed(class("POST state", ClassRefused, 9, "")), func(r *Result) { r.Faults = kill }), Evidence{Probes: []Probe{ready, gone}}, CauseNotRecovered},
		{"a fault that was not", with(failed(), func(r *Result) { r.Faults = []Fault{{Kind: "kill", Error: "no such process"}} }), Evidence{}, CauseFaultNotMade},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := Judge(test.result, test.evidence)
			if v.Code != test.want || v.OK != (test.want == "") {
				t.Errorf("code %q, OK %v, want %q; %q", v.Code, v.OK, test.want, v.Lines)
			}
			if !v.OK && (v.Cause == "" || v.Do == "") {
				t.Errorf("cause %q, do %q: neither may be empty", v.Cause, v.Do)
			}
			if begins := strings.HasPrefix(v.Lines[0], "OK: "); begins != v.OK {
				t.Errorf("the first line is %q", v.Lines[0])
			}
		})
	}
}

func TestVerdictSaysWhatFailedAndShowsTheLog(t *testing.T) {
	r := failed(class("POST workflow", "500", 10, "Internal Server Error"), class("POST state", ClassReset, 30, "connection reset by peer"),
		class("POST state", "422", 2, `[{"type":"missing","msg":"Field required"},{"type":"x","msg":"Not \"so\""}]`))
	v := Judge(r, Evidence{
		Warnings: []string{"redis: disk is busy"},
		Logs: []LogLine{
			{Process: "opscore-1", Level: "WARN", Text: "something else"},
			{Process: "opscore-2", RequestID: "id-500", Err: "boom", Text: "the line"},
		},
	})
	text := strings.Join(v.Lines, "\n")
	for _, want := range []string{
		"FAILED: 42 of 100 requests failed (42.0 %) in 10.0 s.",
		"POST workflow: 10 of 10 failed: 10 × status 500 (Internal Server Error).",
		`POST state: 32 of 90 failed: 30 × connection reset (connection reset by peer), 2 × status 422 (Field required; Not "so").`,
		"Warning: redis: disk is busy",
		"Besides: Every single POST workflow fails inside the server (500)", "(its log: boom)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no line says %q in\n%s", want, text)
		}
	}
	if want := []string{"opscore-2: the line"}; !slices.Equal(v.Logs, want) {
		t.Errorf("logs %q, want %q", v.Logs, want)
	}
	if strings.Contains(text, "Some requests fail inside") || strings.Contains(text, v.Cause) {
		t.Errorf("the same failures are explained twice:\n%s", text)
	}
}

func TestVerdictLeavesItsArgumentsAlone(t *testing.T) {
	r := failed(class("POST state", "503", 9, ""))
	r.Thresholds = []Threshold{{Text: "a", Held: true}, {Text: "b"}}
	e := Evidence{Probes: []Probe{{Ready: "503", Failing: []string{"store: x"}}}, Logs: []LogLine{{Level: "INFO", Text: "a"}, {Level: "WARN", Text: "b"}}}
	first, second := Judge(r, e), Judge(r, e)
	if !slices.Equal(first.Lines, second.Lines) || !slices.Equal(first.Logs, second.Logs) || r.Thresholds[0].Text != "a" || e.Logs[0].Text != "a" {
		t.Errorf("judging twice gives %+v and %+v", first, second)
	}
}

func TestLogsAreRead(t *testing.T) {
	log := strings.Join([]string{
		`{"time":"2026-11-22T00:46:33.5Z","level":"INFO","msg":"request","request_id":"a","err":"unavailable"}`,
		`{"time":"2026-11-22T00:46:34Z","level":"INFO","msg":"request","request_id":"b"}`,
		`time=2026-11-22T00:46:35Z level=WARN msg="it \"is\" slow" err="x y" n=3`,
		`goroutine 1 [running]:`,
		`{"level":`,
	}, "\n")
	lines, err := ReadLogs("opscore-1", strings.NewReader(log), map[string]bool{"a": true})
	if err != nil || len(lines) != 2 {
		t.Fatalf("%d lines, %v; want that of request a and the warning: %+v", len(lines), err, lines)
	}
	if l := lines[0]; l.RequestID != "a" || l.Err != "unavailable" || !l.Time.Equal(time.Date(2026, 11, 22, 0, 46, 33, 5e8, time.UTC)) || l.Process != "opscore-1" {
		t.Errorf("JSON is read as %+v", l)
	}
	if l := lines[1]; l.Msg != `it "is" slow` || l.Err != "x y" || l.Level != "WARN" {
		t.Errorf("logfmt is read as %+v", l)
	}
	many := strings.Repeat(`{"level":"ERROR","msg":"again"}`+"\n", 3*maxSerious)
	if lines, _ := ReadLogs("x", strings.NewReader(many), nil); len(lines) != maxSerious {
		t.Errorf("%d of many errors are kept, want %d", len(lines), maxSerious)
	}
}

func TestWarningsAreRead(t *testing.T) {
	log := strings.Join([]string{
		"4103:M 22 Nov 2026 00:46:33.123 * Ready to accept connections tcp",
		"4103:M 22 Nov 2026 00:46:34.123 # Asynchronous AOF fsync is taking too long (disk is busy?)",
		"4103:C 22 Nov 2026 00:46:33.001 # oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo",
		"4103:M 22 Nov 2026 00:46:33.002 # Server initialized",
		"[12] 2026/11/22 00:46:33.000001 [INF] Server is ready",
		"[12] 2026/11/22 00:46:33.000001 [WRN] JetStream is low on space",
		"some text # with a sign",
	}, "\n")
	got, err := ReadWarnings("it", strings.NewReader(log))
	want := []string{"it: Asynchronous AOF fsync is taking too long (disk is busy?)", "it: JetStream is low on space"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
