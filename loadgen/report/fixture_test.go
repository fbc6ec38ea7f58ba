package report

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/opspawn/opscore/loadgen"
)

// fixture is a run of chaos as it could have been: a ramp, a plateau with three faults, and an end.
func fixture(seconds int) *loadgen.Result {
	start := time.Date(2026, 11, 21, 14, 3, 0, 0, time.UTC)
	r := &loadgen.Result{
		Scenario: "scenario-3", Seed: 42, StartedAt: start, Seconds: float64(seconds), Transport: "http", PeakUsers: 300,
		Args:    []string{"chaos", "-t", "300s", "--kill", "engine:1,nats:1,redis:1", "--replicas", "2", "--seed", "42", "--out", "out"},
		Machine: loadgen.Machine{OS: "linux/amd64", Cores: 2, CPU: "AMD EPYC 7B13", RAMGiB: 7.8, Kernel: "6.12.48"},
		Versions: map[string]string{
			"opscore": "v0.4.0-12-gb9f211b", "go": "go1.26.8", "nats-server": "2.15.2", "redis-server": "8.0.2",
		},
		Commit: "b9f211b4c0de", Requests: 28_412, Failures: 67, RPS: 94.7, P50Ms: 3.12, P99Ms: 41.8,
		Operations: map[string]loadgen.Operation{
			"POST notify":   operation(300, 0, 2.2),
			"POST state":    operation(22_489, 41, 3.1),
			"GET state":     operation(4_217, 5, 1.4),
			"POST workflow": operation(1_406, 21, 6.8),
		},
		Errors: []loadgen.ErrorClass{
			{
				Operation: "POST state", Class: "503", Count: 41, FirstAt: start.Add(200 * time.Second), Detail: "the store does not answer",
				RequestIDs: []string{"6f9c1b2e77d04a15", "0b1d92a6c3ff4e28", "c41f0dd2a9be7763"},
			},
			{
				Operation: "POST workflow", Class: "503", Count: 21, FirstAt: start.Add(201 * time.Second), Detail: "the store does not answer",
				RequestIDs: []string{"91c7de5500ab12f0"},
			},
			{
				Operation: "GET state", Class: loadgen.ClassReset, Count: 5, FirstAt: start.Add(80 * time.Second),
				Detail: "read tcp 127.0.0.1:41822->127.0.0.1:25071: read: connection reset by peer",
			},
		},
		Spans: map[string]loadgen.Quantiles{"start → agent": {P50: 0.92, P90: 1.8, P95: 2.6, P99: 7.9, P999: 180, Max: 1240}},
		Ledger: &loadgen.Ledger{
			Acked: 27_990, Stored: 27_988, Lost: 2, Unconfirmed: []string{"agent-0184"},
			Findings: []loadgen.Finding{
				{Kind: "lost", Text: "state n=18231 of loadtest-agent-48213, acknowledged with 202 at 3:21 as OPSCORE_AGENT 19442, is not behind its fence 19440"},
				{Kind: "lost", Text: "state n=18240 of loadtest-agent-77120, acknowledged with 202 at 3:21 as OPSCORE_AGENT 19443, is not behind its fence 19440"},
			},
		},
		Thresholds: []loadgen.Threshold{{Text: "p(99)<50", Seen: 41.8, Held: true}, {Text: "failed<0.1%", Seen: 0.236, Held: false}},
		Faults: []loadgen.Fault{
			{Second: 80, Kind: "kill", Target: "engine-1", Text: "kill -9, started again after 1.2 s"},
			{Second: 140, Kind: "kill", Target: "nats", Text: "kill -9, started again after 0.9 s"},
			{Second: 200, Kind: "kill", Target: "redis", Text: "kill -9, started again after 2.0 s"},
		},
		Processes: map[string]loadgen.Process{
			"opscore-1": {PID: 4121, CPUSeconds: 61.2, OwnMiB: 48.1, RSSMiB: 71.5, ReadMiB: 212, WrittenMiB: 301, Restarts: 1},
			"opscore-2": {PID: 4130, CPUSeconds: 60.4, OwnMiB: 47.2, RSSMiB: 70.2, ReadMiB: 208, WrittenMiB: 296},
			"nats":      {PID: 4102, CPUSeconds: 33.8, OwnMiB: 38.9, RSSMiB: 61.0, ReadMiB: 180, WrittenMiB: 420, Restarts: 1},
			"redis":     {PID: 4103, CPUSeconds: 21.6, OwnMiB: 19.3, RSSMiB: 28.4, ReadMiB: 144, WrittenMiB: 160, Restarts: 1},
			"loadgen":   {PID: 4099, CPUSeconds: 40.1, OwnMiB: 55.0, RSSMiB: 74.9, ReadMiB: 90, WrittenMiB: 88},
		},
	}
	r.Series = series(seconds)
	r.Verdict = loadgen.Judge(r, loadgen.Evidence{
		Target:   "http://127.0.0.1:25071",
		Warnings: []string{"redis: Asynchronous AOF fsync is taking too long (disk is busy?)"},
		Logs: []loadgen.LogLine{{
			Process: "opscore-2", Level: "INFO", Msg: "request", RequestID: "6f9c1b2e77d04a15",
			Text: `{"time":"2026-11-21T14:06:20.412Z","level":"INFO","msg":"request","method":"POST","route":"/v1/opscore/agent/{agent_id}/state",` +
				`"status":503,"ms":0.213,"request_id":"6f9c1b2e77d04a15","err":"unavailable: the store does not answer"}`,
		}},
	})
	return r
}

func operation(requests, failures int64, p50 float64) loadgen.Operation {
	quantiles := func(p50, tail float64) loadgen.Quantiles {
		return loadgen.Quantiles{
			Min: p50 / 4, Mean: p50 * 1.3, P50: p50, P66: p50 * 1.3, P75: p50 * 1.7, P80: p50 * 2, P90: p50 * 3.1, P95: p50 * 4.6, P98: p50 * 7,
			P99: p50 * 6 * tail, P999: p50 * 30 * tail, Max: p50 * 90 * tail,
		}
	}
	return loadgen.Operation{
		Requests: requests, Failures: failures, RPS: float64(requests) / 300, MeanBytes: 58,
		Latency: quantiles(p50, 2.2), Uncorrected: quantiles(p50*0.96, 1),
	}
}

// series is the load over time. The same seconds always give the same.
func series(seconds int) []loadgen.Point {
	rng := rand.New(rand.NewPCG(1, 2))
	var list []loadgen.Point
	jitter := func(v, by float64) float64 { return max(0, v*(1+by*(rng.Float64()-0.5))) }
	near := func(second, at, width int) float64 { // 1 at a moment, falling to 0 after it
		if second < at || second > at+width {
			return 0
		}
		return 1 - float64(second-at)/float64(width)
	}
	for i := 1; i <= seconds; i++ {
		share := min(1, float64(i)/(0.2*float64(seconds)), float64(seconds+1-i)/(0.03*float64(seconds)))
		hit := max(near(i, 80, 4), near(i, 140, 3), near(i, 200, 6))
		p50 := jitter(2.4+0.8*share+20*hit, 0.3)
		p := loadgen.Point{
			Second: float64(i), Users: int(300 * share), RPS: jitter(118*share*(1-0.9*hit), 0.2), Failures: math.Round(14 * near(i, 200, 5)),
			P50Ms: p50, P95Ms: jitter(p50*3+60*hit, 0.4), P99Ms: jitter(p50*5+260*hit, 0.5),
			Queue:     map[string]int64{"OPSCORE_AGENT": int64(jitter(4+420*near(i, 200, 9), 0.8)), "OPSCORE_WORK": int64(jitter(2+90*near(i, 80, 5), 0.8))},
			Processes: make(map[string]loadgen.ProcessPoint),
		}
		for n, name := range []string{"loadgen", "nats", "opscore-1", "opscore-2", "redis"} {
			if name == "opscore-1" && i > 80 && i <= 82 {
				continue // killed
			}
			p.Processes[name] = loadgen.ProcessPoint{
				CPU: jitter([]float64{0.16, 0.13, 0.25, 0.24, 0.08}[n]*share+0.01, 0.2), RSSMiB: []float64{55, 44, 58, 53, 20}[n] + 9*(1-math.Exp(-float64(i)/60)) + 1.5*rng.Float64(),
				IOMiB: jitter([]float64{0.6, 2.0, 1.7, 1.6, 1.0}[n]*share, 0.2),
			}
		}
		list = append(list, p)
	}
	return list
}

// quiet is a short run in which nothing went wrong and nothing but the requests was measured.
func quiet() *loadgen.Result {
	r := &loadgen.Result{
		Scenario: "scenario-0", StartedAt: time.Date(2026, 11, 21, 9, 16, 0, 0, time.UTC), Seconds: 30, Transport: "http", PeakUsers: 5, Requests: 151, RPS: 5.03,
		P50Ms: 1.2, P99Ms: 4.4, Operations: map[string]loadgen.Operation{"POST state": operation(151, 0, 1.2)},
	}
	for i := 1; i <= 30; i++ {
		r.Series = append(r.Series, loadgen.Point{Second: float64(i), Users: min(5, i), RPS: 5, P50Ms: 1.2, P95Ms: 2.8, P99Ms: 4})
	}
	r.Verdict = loadgen.Judge(r, loadgen.Evidence{})
	return r
}
