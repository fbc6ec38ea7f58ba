package doctor

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	minRedis = 7 // major version

	memoryWarn, memoryFail = 80, 95 // percent

	minRewrite = 256 << 20 // bytes; Redis's own setting is 64 MiB
)

// redisChecks are the lines about Redis, in their order.
var redisChecks = []string{"redis version", "redis appendonly", "redis appendfsync", "redis maxmemory-policy", "redis memory", "redis replication"}

func judgeRedis(r *Redis) []Finding {
	const reach = "redis"
	switch {
	case r.Unused:
		findings := []Finding{ok(reach, "not used: the documents are in a file, which is synced before each answer")}
		for _, check := range redisChecks {
			findings = append(findings, ok(check, "does not apply"))
		}
		return findings
	case r.Unasked != "":
		return append([]Finding{unknown(reach, r.Unasked)}, unknowns(redisChecks, r.Unasked)...)
	case r.Err != "":
		return append([]Finding{advise(reach, Fail, r.URL+" does not answer: "+r.Err, "start it, or name another one with --redis-url")},
			unknowns(redisChecks, "Redis does not answer")...)
	}
	answers := ok(reach, "%s answers in %s", r.URL, r.RoundTrip.Round(10_000))
	if r.InfoErr != "" {
		findings := append([]Finding{answers}, unknowns(redisChecks, "it refuses INFO ("+r.InfoErr+")")...)
		findings[1] = advise(redisChecks[0], Fail, findings[1].Found+"; opscore serve asks by it which server it writes to", "allow INFO to the user")
		findings[3] = judgeFsync(r)
		return findings
	}
	return []Finding{answers, judgeRedisVersion(r), judgeAOF(r), judgeFsync(r), judgePolicy(r), judgeMemory(r), judgeReplication(r)}
}

func judgeRedisVersion(r *Redis) Finding {
	const check = "redis version"
	shown := r.Version
	if r.Valkey != "" {
		shown = "Valkey " + r.Valkey
	}
	major, _, _ := strings.Cut(r.Version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < minRedis {
		return advise(check, Fail, shown+"; at least 7.0 is needed, for functions", "upgrade Redis, or use Valkey")
	}
	if !r.Library {
		shown += "; the functions of Ops-Core are loaded at its first start"
	}
	return ok(check, "%s", shown)
}

func judgeAOF(r *Redis) Finding {
	const check = "redis appendonly"
	switch {
	case !r.AOF:
		return advise(check, Fail, "no: a restart loses all that was stored since the last snapshot", "set appendonly yes")
	case r.AOFFailed:
		return advise(check, Fail, "yes, but the last write to the append-only file failed", "see the log of Redis, and whether its disk is full")
	case r.RewriteFrom > 0 && r.RewriteFrom < minRewrite:
		return advise(check, OK, "yes; its file is rewritten from "+size(r.RewriteFrom)+" on, under load every few seconds while it is young",
			"auto-aof-rewrite-min-size 512mb spares tasks the delay")
	}
	return ok(check, "yes")
}

func judgeFsync(r *Redis) Finding {
	const check = "redis appendfsync"
	switch r.Fsync {
	case "always":
		return ok(check, "always: what is stored survives a loss of power")
	case "everysec":
		return ok(check, "everysec: a loss of power takes the last second, which is read again from the streams")
	case "":
		return advise(check, Warn, "not known: it refuses CONFIG GET", "look it up where this Redis is managed: everysec or always")
	}
	return advise(check, Warn, r.Fsync+": the system decides when to write to the disk, some 30 s later", "set appendfsync everysec")
}

func judgePolicy(r *Redis) Finding {
	const check = "redis maxmemory-policy"
	switch {
	case r.Policy == "noeviction":
		return ok(check, "%s", r.Policy)
	case r.Policy == "":
		return unknown(check, "it does not tell")
	case r.Max == 0:
		return advise(check, Warn, r.Policy+": it would evict documents, if it had a maxmemory", "set maxmemory-policy noeviction")
	}
	return advise(check, Fail, r.Policy+": it evicts documents when its memory is full", "set maxmemory-policy noeviction")
}

func judgeMemory(r *Redis) Finding {
	const check = "redis memory"
	limit, name := r.Max, "maxmemory"
	if limit == 0 {
		limit, name = r.Total, "the machine's memory"
	}
	if limit == 0 {
		return ok(check, "%s used, no limit", size(r.Used))
	}
	used := percent(r.Used, limit)
	found := fmt.Sprintf("%s used, %d %% of %s (%s)", size(r.Used), used, name, size(limit))
	const advice = "give it more memory, or keep ended runs for a shorter time (--retention)"
	switch {
	case used >= memoryFail:
		return advise(check, Fail, found+"; writes are refused when it is full", advice)
	case used >= memoryWarn:
		return advise(check, Warn, found, advice)
	}
	return ok(check, "%s", found)
}

func judgeReplication(r *Redis) Finding {
	const check = "redis replication"
	switch {
	case r.Role == "":
		return unknown(check, "it does not tell")
	case r.Role != "master":
		return advise(check, Fail, "it is a replica: it takes no writes", "name the master with --redis-url")
	case r.Replicas == 0:
		return ok(check, "a master without replicas: with its disk the documents are gone, and the streams give back what they hold")
	}
	return ok(check, "a master with %d replicas; a fail-over may lose the last moment, which is read again from the streams", r.Replicas)
}
