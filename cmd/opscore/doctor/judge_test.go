package doctor

import (
	"strings"
	"testing"
	"time"

	"github.com/opspawn/opscore/bus"
	"github.com/opspawn/opscore/bus/event"
)

// well is a replica, a NATS server and a Redis server with nothing to complain about.
func well() *Facts {
	stream := func(name, durable string) bus.StreamReport {
		return bus.StreamReport{Name: name, Exists: true, Replicas: 1, Bytes: 1 << 20, MaxBytes: 1 << 30, Durable: durable, Consumes: durable != ""}
	}
	return &Facts{
		Server: Server{URL: "http://s", Version: "1", Ready: true, Setup: Setup{Store: "redis", NATS: "external"}},
		NATS: NATS{
			URL: "nats://n", Version: "2.14.0", Used: 1 << 20, Max: 16 << 30, Sync: Sync{Known: true, Interval: time.Second},
			Streams: []bus.StreamReport{
				stream(event.StreamAgent, event.ConsumerLifecycle), stream(event.StreamWork, event.ConsumerWorkflow),
				stream(event.StreamFact, ""), stream(event.StreamDead, ""),
			},
		},
		Redis: Redis{
			URL: "redis://r", Version: "7.2.4", Library: true, AOF: true, Fsync: "everysec", Policy: "noeviction", Role: "master",
			Used: 1 << 20, Total: 8 << 30,
		},
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*Facts)
		check string // the line that tells
		level Level
		says  string // in what was found or in the advice
	}{
		{"replica down", func(f *Facts) { f.Server = Server{URL: "http://s", Err: "refused"} }, "opscore", Fail, "opscore serve"},
		{"replica not ready", func(f *Facts) { f.Server.Ready = false; f.Server.Failing = []Failing{{"store", "gone"}} }, "opscore", Fail, "store: gone"},
		{"wrong key", func(f *Facts) { f.Server.Refused = "it wants a valid key" }, "opscore set-up", Warn, "OPSCORE_API_KEY"},
		{"NATS of a server that does not tell", func(f *Facts) { f.NATS = NATS{Unasked: "the server does not tell"} }, "consumers", Warn, "not known: the server"},
		{"Redis of a server that does not tell", func(f *Facts) { f.Redis = Redis{Unasked: "the server does not tell"} }, "redis", Warn, "not known: the server"},
		{"clock of what was not asked", func(f *Facts) { f.NATS = NATS{Unasked: "the server does not tell"} }, "clocks", OK, "machine: Redis"},
		{"older replica", func(f *Facts) { f.Server.Setup = Setup{} }, "opscore set-up", Warn, "does not tell"},

		{"nats down", func(f *Facts) { f.NATS = NATS{URL: "nats://n", Err: "refused"} }, "nats", Fail, "--nats-url"},
		{"nats down, streams", func(f *Facts) { f.NATS = NATS{URL: "nats://n", Err: "refused"} }, "streams", Warn, "not known"},
		{"nats 2.13", func(f *Facts) { f.NATS.Version = "2.13.9" }, "nats version", Fail, "2.14"},
		{"nats 2.14", func(f *Facts) { f.NATS.Version = "2.14.0-RC.1" }, "nats version", OK, "2.14.0-RC.1"},
		{"no JetStream", func(f *Facts) { f.NATS.JetStream = "off" }, "jetstream", Fail, "--jetstream"},
		{"storage 81 %", func(f *Facts) { f.NATS.Used, f.NATS.Max = 81, 100 }, "jetstream", Warn, "max_file_store"},
		{"storage 96 %", func(f *Facts) { f.NATS.Used, f.NATS.Max = 96, 100 }, "jetstream", Fail, "max_file_store"},
		{"streams larger than the account", func(f *Facts) { f.NATS.Max = 3 << 30 }, "jetstream", Warn, "4.0 GiB"},
		{"account without limit", func(f *Facts) { f.NATS.Max = -1 }, "jetstream", OK, "no limit"},
		{"sync unknown", func(f *Facts) { f.NATS.Sync = Sync{Err: "no answer"} }, "jetstream sync", Warn, "--nats-monitor"},
		{"sync every 2 min", func(f *Facts) { f.NATS.Sync.Interval = 2 * time.Minute }, "jetstream sync", Warn, "2m0s"},
		{"sync always", func(f *Facts) { f.NATS.Sync = Sync{Known: true, Always: true} }, "jetstream sync", OK, "survives a loss of power"},
		{"sync every 2 min, replicated", func(f *Facts) {
			f.NATS.Sync.Interval = 2 * time.Minute
			for i := range f.NATS.Streams {
				f.NATS.Streams[i].Replicas = 3
			}
		}, "jetstream sync", OK, "several servers"},
		{"stream missing", func(f *Facts) { f.NATS.Streams[1].Exists = false }, "streams", Fail, event.StreamWork},
		{"stream missing before the first start", func(f *Facts) {
			f.Server = Server{URL: "http://s", Err: "refused"}
			f.NATS.Streams[1].Exists = false
		}, "streams", Warn, "yet"},
		{"stream differs", func(f *Facts) { f.NATS.Streams[0].Differs = []string{"max age is 1h, not 0s"} }, "streams", Warn, "max age"},
		{"stream 90 % full", func(f *Facts) { f.NATS.Streams[1].Bytes = f.NATS.Streams[1].MaxBytes / 10 * 9 }, "streams", Warn, "%"},
		{"stream full", func(f *Facts) { f.NATS.Streams[1].Bytes = f.NATS.Streams[1].MaxBytes }, "streams", Fail, "refused"},
		{"facts full", func(f *Facts) { f.NATS.Streams[2].Bytes = f.NATS.Streams[2].MaxBytes }, "streams", OK, "as they should be"},
		{"two things about streams", func(f *Facts) {
			f.NATS.Streams[0].Differs = []string{"max age is 1h, not 0s"}
			f.NATS.Streams[1].Exists = false
		}, "streams", Fail, "max age"},
		{"one of a cluster", func(f *Facts) { f.NATS.Cluster = "c" }, "streams", Warn, "--replicas 3"},
		{"consumer missing", func(f *Facts) { f.NATS.Streams[1].Consumes = false }, "consumers", Fail, event.ConsumerWorkflow},
		{"consumer behind", func(f *Facts) { f.NATS.Streams[1].Waiting = lagWarn }, "consumers", Warn, "50000"},
		{"consumer busy", func(f *Facts) { f.NATS.Streams[1].Waiting = 100 }, "consumers", OK, "100 wait"},

		{"redis down", func(f *Facts) { f.Redis = Redis{URL: "redis://r", Err: "refused"} }, "redis", Fail, "--redis-url"},
		{"redis down, memory", func(f *Facts) { f.Redis = Redis{URL: "redis://r", Err: "refused"} }, "redis memory", Warn, "not known"},
		{"no Redis wanted", func(f *Facts) { f.Redis = Redis{Unused: true} }, "redis appendonly", OK, "does not apply"},
		{"INFO refused", func(f *Facts) { f.Redis.InfoErr = "NOPERM" }, "redis memory", Warn, "INFO"},
		{"INFO refused to serve", func(f *Facts) { f.Redis.InfoErr = "NOPERM" }, "redis version", Fail, "allow INFO"},
		{"INFO refused, CONFIG not", func(f *Facts) { f.Redis.InfoErr = "NOPERM" }, "redis appendfsync", OK, "everysec"},
		{"CONFIG refused", func(f *Facts) { f.Redis.Fsync = "" }, "redis appendfsync", Warn, "CONFIG GET"},
		{"redis 6", func(f *Facts) { f.Redis.Version = "6.2.14" }, "redis version", Fail, "7.0"},
		{"valkey", func(f *Facts) { f.Redis.Valkey = "8.1.0" }, "redis version", OK, "Valkey 8.1.0"},
		{"no AOF", func(f *Facts) { f.Redis.AOF = false }, "redis appendonly", Fail, "appendonly yes"},
		{"AOF broken", func(f *Facts) { f.Redis.AOFFailed = true }, "redis appendonly", Fail, "disk"},
		{"AOF rewritten early", func(f *Facts) { f.Redis.RewriteFrom = minRewrite - 1 }, "redis appendonly", OK, "auto-aof-rewrite-min-size 512mb"},
		{"fsync always", func(f *Facts) { f.Redis.Fsync = "always" }, "redis appendfsync", OK, "always"},
		{"fsync no", func(f *Facts) { f.Redis.Fsync = "no" }, "redis appendfsync", Warn, "everysec"},
		{"evicts", func(f *Facts) { f.Redis.Policy, f.Redis.Max = "allkeys-lru", 8<<30 }, "redis maxmemory-policy", Fail, "noeviction"},
		{"would evict", func(f *Facts) { f.Redis.Policy = "allkeys-lru" }, "redis maxmemory-policy", Warn, "noeviction"},
		{"memory 85 %", func(f *Facts) { f.Redis.Used, f.Redis.Max = 85, 100 }, "redis memory", Warn, "85 % of maxmemory"},
		{"memory 96 %", func(f *Facts) { f.Redis.Used, f.Redis.Max = 96, 100 }, "redis memory", Fail, "--retention"},
		{"machine 96 %", func(f *Facts) { f.Redis.Used, f.Redis.Total = 96, 100 }, "redis memory", Fail, "machine"},
		{"a replica of Redis", func(f *Facts) { f.Redis.Role = "slave" }, "redis replication", Fail, "master"},
		{"replicated", func(f *Facts) { f.Redis.Replicas = 2 }, "redis replication", OK, "2 replicas"},

		{"clock a second ahead", func(f *Facts) { f.NATS.Ahead = time.Second }, "clocks", Warn, "NATS +1.000s"},
		{"clocks far apart", func(f *Facts) { f.NATS.Ahead, f.Redis.Ahead = 3*time.Second, -3*time.Second }, "clocks", Fail, "NTP"},
		{"HTTP tells whole seconds", func(f *Facts) { f.Server.Ahead = 1400 * time.Millisecond }, "clocks", OK, "+0.400s"},
		{"nothing answers", func(f *Facts) {
			*f = Facts{Server: Server{Err: "x"}, NATS: NATS{Err: "x"}, Redis: Redis{Err: "x"}}
		}, "clocks", Warn, "no server"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := well()
			c.spoil(f)
			findings := Judge(f)
			var got *Finding
			for i := range findings {
				if findings[i].Check == c.check {
					got = &findings[i]
				}
			}
			if got == nil || got.Level != c.level || !strings.Contains(got.Found+" "+got.Advice, c.says) {
				t.Errorf("%s is %+v, want %s and %q", c.check, got, c.level, c.says)
			}
		})
	}
}

// TestEveryReportHasTheSameLines also holds that a problem needs advice, and that all is well when all is.
func TestEveryReportHasTheSameLines(t *testing.T) {
	names := func(f *Facts) string {
		var all []string
		for _, finding := range Judge(f) {
			all = append(all, finding.Check)
			if finding.Level == Fail && finding.Advice == "" {
				t.Errorf("%+v says not what to do", finding)
			}
		}
		return strings.Join(all, "\n")
	}
	want := names(well())
	if findings := Judge(well()); !Healthy(findings) {
		t.Errorf("all is well, and yet: %+v", findings)
	}
	if got := names(&Facts{Server: Server{URL: "u"}, Redis: Redis{Unused: true}, NATS: NATS{JetStream: "off"}}); got != want {
		t.Errorf("lines\n%s\nwant\n%s", got, want)
	}
	if got := names(&Facts{Server: Server{URL: "u"}, Redis: Redis{Unasked: "x"}, NATS: NATS{Unasked: "x"}}); got != want {
		t.Errorf("lines\n%s\nwant\n%s", got, want)
	}
	if down := (&Facts{Server: Server{Err: "x"}, NATS: NATS{Err: "x"}, Redis: Redis{Err: "x"}}); names(down) != strings.Replace(want, "opscore set-up\n", "", 1) || Healthy(Judge(down)) {
		t.Errorf("with everything down the lines are\n%s", names(down))
	}
}
