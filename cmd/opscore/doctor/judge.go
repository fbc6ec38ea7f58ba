package doctor

import (
	"fmt"
	"strings"
	"time"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // it works, and may not on a bad day
	Fail Level = "fail" // it does not work, or loses data
)

// Finding is one line of the report.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Found  string `json:"found"`
	Advice string `json:"advice,omitzero"` // what to do, empty if nothing
}

// Healthy reports whether nothing fails.
func Healthy(findings []Finding) bool {
	for _, f := range findings {
		if f.Level == Fail {
			return false
		}
	}
	return true
}

// Clocks that differ by more than these are a warning, or a failure: a command whose caller waits 5 s counts as too late when the clocks of NATS and the
// replica that handles it differ by that.
const (
	clockWarn = 500 * time.Millisecond
	clockFail = 5 * time.Second
	// dateError is how coarse the time of an HTTP answer is.
	dateError = time.Second
)

// Judge says what the facts mean. Every line is there each time, so that two reports can be compared.
func Judge(f *Facts) []Finding {
	findings := judgeServer(&f.Server)
	findings = append(findings, judgeNATS(&f.NATS, f.Server.Setup, f.Server.Err == "")...)
	findings = append(findings, judgeRedis(&f.Redis)...)
	return append(findings, judgeClocks(f))
}

func ok(check, format string, args ...any) Finding {
	return Finding{Check: check, Level: OK, Found: fmt.Sprintf(format, args...)}
}

// advise makes a finding that needs something to be done.
func advise(check string, level Level, found, advice string) Finding {
	return Finding{Check: check, Level: level, Found: found, Advice: advice}
}

// unknown is the finding of what could not be looked at because of something that has a line of its own.
func unknown(check, why string) Finding {
	return Finding{Check: check, Level: Warn, Found: "not known: " + why}
}

// unknowns are the findings of several that could not be looked at.
func unknowns(checks []string, why string) []Finding {
	findings := make([]Finding, len(checks))
	for i, check := range checks {
		findings[i] = unknown(check, why)
	}
	return findings
}

func judgeServer(s *Server) []Finding {
	const check = "opscore"
	if s.Err != "" {
		return []Finding{advise(check, Fail, s.URL+" does not answer: "+s.Err, "start it (opscore serve, opscore dev), or name another one with --server")}
	}
	findings := []Finding{ok(check, "%s is ready", s.URL)}
	if !s.Ready {
		why := make([]string, len(s.Failing))
		for i, c := range s.Failing {
			why[i] = c.Name + ": " + c.Err
		}
		findings[0] = advise(check, Fail, s.URL+" is not ready: "+strings.Join(why, "; "), "see the lines below, and its log")
	}
	switch {
	case s.Refused != "":
		findings = append(findings, advise("opscore set-up", Warn, "not known: "+s.Refused, "put the key into OPSCORE_API_KEY"))
	case s.Setup == Setup{}:
		findings = append(findings, unknown("opscore set-up", "version "+s.Version+" does not tell"))
	default:
		findings = append(findings, ok("opscore set-up", "version %s, store %s, NATS %s", s.Version, s.Setup.Store, s.Setup.NATS))
	}
	return findings
}

func judgeClocks(f *Facts) Finding {
	const check = "clocks"
	type clock struct {
		name  string
		ahead time.Duration
	}
	var clocks []clock
	if f.NATS.Unasked == "" && f.NATS.Err == "" && f.NATS.JetStream == "" {
		clocks = append(clocks, clock{"NATS", f.NATS.Ahead})
	}
	if f.Redis.Unasked == "" && !f.Redis.Unused && f.Redis.Err == "" {
		clocks = append(clocks, clock{"Redis", f.Redis.Ahead})
	}
	if f.Server.Err == "" {
		// The seconds are cut off, which is nobody's fault.
		clocks = append(clocks, clock{"Ops-Core", beyond(f.Server.Ahead, dateError)})
	}
	if len(clocks) == 0 {
		return unknown(check, "no server answers")
	}
	low, high := time.Duration(0), time.Duration(0) // this machine's is one of them
	shown := make([]string, len(clocks))
	for i, c := range clocks {
		low, high = min(low, c.ahead), max(high, c.ahead)
		shown[i] = fmt.Sprintf("%s %+.3fs", c.name, c.ahead.Seconds())
	}
	found := "against this machine: " + strings.Join(shown, ", ")
	const advice = "let all machines follow the same time server (NTP)"
	switch apart := high - low; {
	case apart >= clockFail:
		return advise(check, Fail, found+"; commands would count as expired", advice)
	case apart >= clockWarn:
		return advise(check, Warn, found, advice)
	}
	return ok(check, "%s", found)
}

// beyond is how far a duration lies outside an error.
func beyond(d, e time.Duration) time.Duration {
	switch {
	case d > e:
		return d - e
	case d < -e:
		return d + e
	}
	return 0
}

// size shows bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, names := float64(n), []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := -1
	for v >= unit && i < len(names)-1 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.1f %s", v, names[i])
}

// percent is how much of a whole is used, 0 for a whole that is not known.
func percent(used, whole int64) int64 {
	if whole <= 0 {
		return 0
	}
	return int64(float64(used) / float64(whole) * 100)
}
