package loadgen

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Locust's heads, as its 2.x releases write them.
const (
	locustStats = "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,Max Response Time," +
		"Average Content Size,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%"
	locustHistory = "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%," +
		"Total Request Count,Total Failure Count,Total Median Response Time,Total Average Response Time,Total Min Response Time," +
		"Total Max Response Time,Total Average Content Size"
	locustFailures   = "Method,Name,Error,Occurrences"
	locustExceptions = "Count,Message,Traceback,Nodes"
)

func TestCSVFilesAreLocusts(t *testing.T) {
	prefix := filepath.Join(t.TempDir(), "x")
	c, err := NewCSV(prefix)
	if err != nil {
		t.Fatal(err)
	}
	o := Operation{
		Requests: 4, Failures: 1, RPS: 2, MeanBytes: 10.5, Latency: Quantiles{P50: 99, Max: 999},
		Uncorrected: Quantiles{Min: 1, Mean: 2.5, P50: 2, P66: 3, P75: 4, P80: 5, P90: 6, P95: 7, P98: 8, P99: 9, P999: 10, P9999: 11, Max: 12},
	}
	err = c.Add(&Snapshot{At: time.Unix(1_700_000_000, 0), Users: 3, Point: Point{RPS: 4, Failures: 1.5}, Total: o})
	if err != nil {
		t.Fatal(err)
	}
	r := &Result{
		Seconds: 2, Total: o, Operations: map[string]Operation{"POST state": o, "GET state": {}},
		Errors: []ErrorClass{{Operation: "POST state", Class: "503", Detail: `said "no", twice`, Count: 1}},
	}
	if err := c.Close(r); err != nil {
		t.Fatal(err)
	}
	const values = "2,2.5,1,12"
	const percentiles = "2,3,4,5,6,7,8,9,10,11,12"
	for name, want := range map[string]string{
		"stats": locustStats + "\nGET,state,0,0,0,0,0,0,0,0,0" + strings.Repeat(",N/A", 11) +
			"\nPOST,state,4,1," + values + ",10.5,2,0.5," + percentiles +
			"\n,Aggregated,4,1," + values + ",10.5,2,0.5," + percentiles + "\n",
		"stats_history": locustHistory + "\n1700000000,3,,Aggregated,4,1.5," + percentiles + ",4,1," + values + ",10.5\n",
		"failures":      locustFailures + "\nPOST,state,\"503: said \"\"no\"\", twice\",1\n",
		"exceptions":    locustExceptions + "\n",
	} {
		text, err := os.ReadFile(prefix + "_" + name + ".csv")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(text)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if _, err := csv.NewReader(strings.NewReader(string(text))).ReadAll(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	s := newStatistics()
	now := time.Now()
	for i := range 100 {
		sample := &sample{operation: "POST state", intended: now, sent: now, done: now.Add(time.Duration(i+1) * time.Millisecond)}
		if i < 5 {
			sample.failed = failuref("503", "no")
		}
		s.shard(i).record(sample)
	}
	s.shard(0).record(&sample{operation: "GET state", intended: now, sent: now, done: now.Add(time.Second)})
	s.gather()
	for text, want := range map[string]bool{
		"p(50)<1000":                    true,
		"POST state:p(99)<100":          true,
		"POST state:p(99)<98":           false,
		"POST state: p( 99.0 ) >= 98.9": true,
		"GET state:min>999":             true,
		"POST state:max<=100.1":         true,
		"avg<40":                        false,
		"POST state:avg<51":             true,
		"rate<0.05":                     true,
		"POST state:rate<0.05":          false,
		"POST state:rate<=0.05":         true,
		"rps>10":                        true,
		"rps>10.2":                      false,
		"PUT state:p(99)<1000":          false, // never seen
	} {
		l, err := ParseLimit(text)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := l.judge(s, 10*time.Second); got.Held != want || got.Text != text {
			t.Errorf("%+v, want held %v", got, want)
		}
	}
	for _, text := range []string{"", "p99<20", "p(99)", "p(99)=3", "p(101)<3", "p(99)<x", "errors<3", "p(99)<20 please", "p()<1"} {
		if l, err := ParseLimit(text); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q is read as %+v, %v", text, l, err)
		}
	}
}

func TestASecondIsGatheredOnce(t *testing.T) {
	s := newStatistics()
	now := time.Now()
	for user := range 10 {
		s.shard(user).record(&sample{operation: "POST state", intended: now, sent: now, done: now.Add(time.Millisecond), bytes: 7})
		s.shard(user).span("start → agent", 3*time.Millisecond)
	}
	if g := s.gather(); g.requests != 10 || g.all.count() != 10 || g.operations["POST state"].count() != 10 {
		t.Errorf("%d requests in the first second, %d latencies, want 10", g.requests, g.all.count())
	}
	if g := s.gather(); g.requests != 0 || g.all.count() != 0 {
		t.Errorf("%d requests in a second without any", g.requests)
	}
	o := s.operations(time.Second)["POST state"]
	if o.Requests != 10 || o.MeanBytes != 7 || o.RPS != 10 || s.totals().requests != 10 {
		t.Errorf("in all %+v, want 10 requests of 7 bytes", o)
	}
	if q := s.spanQuantiles()["start → agent"]; q.P50 < 2.9 || q.P50 > 3.1 {
		t.Errorf("the span is %+v, want 3 ms", q)
	}
}

func TestOmittedRequestsAreBounded(t *testing.T) {
	h := newHistogram()
	h.recordOmitted(100*time.Millisecond, 30*time.Millisecond)
	if h.count() != 3 || h.hdr.Max() < 69_000 || h.hdr.Min() > 10_100 {
		t.Errorf("100 ms at one request in 30 ms leave out %d, between %d and %d µs; want 70, 40 and 10 ms", h.count(), h.hdr.Min(), h.hdr.Max())
	}
	h = newHistogram()
	h.recordOmitted(time.Hour, time.Nanosecond)
	h.recordOmitted(time.Hour, 0)
	if h.count() != maxOmitted {
		t.Errorf("%d were recorded, want %d", h.count(), maxOmitted)
	}
}

func TestTheTableSaysWhatMatters(t *testing.T) {
	var b strings.Builder
	s := &Snapshot{
		Elapsed: 61 * time.Second, Duration: 5 * time.Minute, Users: 4, Peak: 5, Point: Point{RPS: 2},
		Operations: map[string]Operation{"POST state": {Requests: 120, Failures: 3, RPS: 2, Latency: Quantiles{P50: 1.234, P99: 123.4}}},
		Errors:     []ErrorClass{{Operation: "POST state", Class: "503", Count: 3, Detail: "down\x1b[2J\nnow"}},
	}
	lines, err := s.WriteTable(&b)
	if err != nil || lines != strings.Count(b.String(), "\n") {
		t.Fatalf("%d lines, %v:\n%s", lines, err, b.String())
	}
	for _, want := range []string{"1m1s of 5m0s, 4 of 5 users", "POST state       120         3", "1.23", "123", "3    503  down [2J now"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
}
