package doctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus"
)

const (
	// The janitor keeps a stream below 70 percent; one that is fuller than these means that it cannot.
	streamWarn, streamFail = 80, 95
	// lagWarn messages wait: more than a replica takes in within some seconds.
	lagWarn = 50_000
	// syncWarn is the longest time between two syncs that passes without a warning.
	syncWarn = 10 * time.Second
)

// judgeNATS judges the NATS server. Streams that are absent are created by a replica's start.
func judgeNATS(n *NATS, setup Setup, running bool) []Finding {
	const reach = "nats"
	rest := []string{"nats version", "jetstream", "jetstream sync", "streams", "consumers"}
	switch {
	case n.Unasked != "":
		return append([]Finding{unknown(reach, n.Unasked)}, unknowns(rest, n.Unasked)...)
	case n.Err != "":
		return append([]Finding{advise(reach, Fail, n.URL+" does not answer: "+n.Err, "start it, or name another one with --nats-url")},
			unknowns(rest, "NATS does not answer")...)
	}
	findings := []Finding{ok(reach, "%s answers", n.URL), judgeVersion(n.Version)}
	if n.JetStream != "" {
		findings = append(findings, advise("jetstream", Fail, n.JetStream, "switch JetStream on: nats-server --jetstream, and for the account"))
		return append(findings, unknowns(rest[2:], "JetStream cannot be used")...)
	}
	return append(findings, judgeLimits(n), judgeSync(n, setup), judgeStreams(n, running), judgeConsumers(n, running))
}

func judgeVersion(version string) Finding {
	const check = "nats version"
	if !bus.NewEnough(version) {
		return advise(check, Fail, fmt.Sprintf("%s; at least %s is needed, to set consumers back when a store lost data", version, bus.MinServer),
			"upgrade nats-server; opscore serve refuses this one")
	}
	return ok(check, "%s", version)
}

func judgeLimits(n *NATS) Finding {
	const check = "jetstream"
	var need int64
	for _, s := range n.Streams {
		need += max(s.MaxBytes, 0)
	}
	if n.Max <= 0 {
		return ok(check, "%s used, the account has no limit; the streams may take %s", size(n.Used), size(need))
	}
	found := fmt.Sprintf("%s of %s used; the streams may take %s", size(n.Used), size(n.Max), size(need))
	const advice = "give the account more (max_file_store), or make streams smaller (nats stream edit)"
	switch used := percent(n.Used, n.Max); {
	case used >= streamFail:
		return advise(check, Fail, found, advice)
	case used >= streamWarn, need > n.Max:
		return advise(check, Warn, found, advice)
	}
	return ok(check, "%s", found)
}

func judgeSync(n *NATS, setup Setup) Finding {
	const check = "jetstream sync"
	replicated := len(n.Streams) > 0
	for _, s := range n.Streams {
		replicated = replicated && (!s.Exists || s.Replicas > 1)
	}
	switch {
	case !n.Sync.Known:
		return advise(check, Warn, "not known: "+n.Sync.Err+"; 2m unless it is set: what was acknowledged since may be lost with the power",
			"name its monitoring address with --nats-monitor")
	case n.Sync.Always:
		return ok(check, "always: what is acknowledged survives a loss of power")
	case replicated:
		return ok(check, "every %s, on several servers: what is acknowledged survives unless most of them lose power at once", n.Sync.Interval)
	}
	found := fmt.Sprintf("every %s: what is acknowledged survives the death of every process; a loss of power may take the last %s", n.Sync.Interval, n.Sync.Interval)
	if n.Sync.Interval > syncWarn {
		return advise(check, Warn, found, "set sync_interval to 1s or always, or use streams of three replicas (--stream-replicas 3)")
	}
	if setup.NATS == "embedded" {
		found += " (embedded server)"
	}
	return ok(check, "%s", found)
}

// problem keeps the worst of several findings about things of one kind.
type problem struct {
	level  Level
	found  []string
	advice string
}

func (p *problem) add(level Level, advice, format string, args ...any) {
	p.found = append(p.found, fmt.Sprintf(format, args...))
	if p.level == "" || level == Fail && p.level != Fail {
		p.level, p.advice = level, advice
	}
}

func (p *problem) finding(check string, fine Finding) Finding {
	if p.level == "" {
		return fine
	}
	return advise(check, p.level, strings.Join(p.found, "; "), p.advice)
}

func judgeStreams(n *NATS, running bool) Finding {
	const check = "streams"
	var p problem
	single := 0
	for _, s := range n.Streams {
		full := percent(s.Bytes, s.MaxBytes)
		switch {
		case !s.Exists && running:
			p.add(Fail, "restart a replica: it creates what is missing", "%s does not exist", s.Name)
		case !s.Exists:
			p.add(Warn, "start a replica: it creates what is missing", "%s does not exist yet", s.Name)
		case len(s.Differs) > 0:
			p.add(Warn, "streams and consumers are not changed once they exist: nats stream edit, nats consumer edit", "%s: %s", s.Name, strings.Join(s.Differs, ", "))
		case s.Durable != "" && full >= streamFail:
			p.add(Fail, "publishers will be refused: see why the store does not keep up, or make it larger (nats stream edit)", "%s is %d %% full", s.Name, full)
		case s.Durable != "" && full >= streamWarn:
			p.add(Warn, "see why the store does not keep up, or make it larger (nats stream edit)", "%s is %d %% full", s.Name, full)
		}
		if s.Exists && s.Replicas < 2 {
			single++
		}
	}
	if n.Cluster != "" && single > 0 {
		p.add(Warn, "nats stream edit --replicas 3", "%d streams stand on one server of cluster %s only", single, n.Cluster)
	}
	return p.finding(check, ok(check, "%d as they should be", len(n.Streams)))
}

func judgeConsumers(n *NATS, running bool) Finding {
	const check = "consumers"
	var p problem
	var shown []string
	for _, s := range n.Streams {
		switch {
		case s.Durable == "":
		case !s.Consumes && running:
			p.add(Fail, "restart a replica: it creates what is missing", "%s does not exist", s.Durable)
		case !s.Consumes:
			p.add(Warn, "start a replica: it creates what is missing", "%s does not exist yet", s.Durable)
		case s.Waiting >= lagWarn:
			p.add(Warn, "is a replica of that role running? Does the store keep up?", "%s is behind by %d messages", s.Durable, s.Waiting)
		default:
			shown = append(shown, fmt.Sprintf("%s: %d wait, %d in hand", s.Durable, s.Waiting, s.Unacked))
		}
	}
	return p.finding(check, ok(check, "%s", strings.Join(shown, "; ")))
}
