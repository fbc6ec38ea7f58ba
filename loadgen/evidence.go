package loadgen

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Evidence is what was found beside the measurements of a run: what the servers said of themselves. All of it may be missing; the
// more there is, the more a verdict can say.
type Evidence struct {
	Target     string        // the base URL of the requests
	Logs       []LogLine     // of the servers, oldest first
	Warnings   []string      // of Redis and NATS
	Probes     []Probe       // while the run lasted, and one after it
	IdleClosed time.Duration // after which the server closed a connection that was left idle; 0: it closed none
	Pause      time.Duration // the longest between two requests of a user

	Registered  int64 // agents whose registration was confirmed
	AgentsFound int64 // of these, found on the server after the run
}

// Probe is what the probes of a server said at one moment: an HTTP status, or one of the Class constants where there was no answer.
type Probe struct {
	Second  float64  // since the start of the run
	Health  string   // of /health
	Ready   string   // of /readyz
	Failing []string // the checks of /readyz that failed, as "store: connection refused"
}

// ready reports whether the server said that it is ready. A server without /readyz is ready when it is healthy.
func (p Probe) ready() bool {
	return p.Ready == "200" || p.Ready == "404" && p.Health == "200"
}

// LogLine is one line of a server's log.
type LogLine struct {
	Process   string
	Time      time.Time
	Level     string // upper case, as "WARN"
	Msg       string
	Err       string
	RequestID string
	Text      string // the line as it was written
}

// serious reports whether a line is a warning or worse.
func (l LogLine) serious() bool {
	return strings.HasPrefix(l.Level, "WARN") || strings.HasPrefix(l.Level, "ERROR")
}

// The bounds of what is kept of logs.
const (
	maxLogLine  = 1 << 20
	maxSerious  = 200 // lines of a process that are warnings or worse, and warnings of Redis and NATS
	maxOfAnswer = 200 // lines of a process about the requests that are looked for
)

// ReadLogs reads the log of a server, in JSON or logfmt, and keeps the lines about the given requests and the first 200 that are warnings
// or worse. What is not a line of a log, as a stack trace, is left out.
func ReadLogs(process string, r io.Reader, requestIDs map[string]bool) ([]LogLine, error) {
	var kept []LogLine
	serious, ours := 0, 0
	err := eachLine(r, func(text string) {
		l, ok := parseLogLine(text)
		switch {
		case !ok:
			return
		case requestIDs[l.RequestID] && ours < maxOfAnswer:
			ours++
		case l.serious() && serious < maxSerious:
			serious++
		default:
			return
		}
		l.Process = process
		kept = append(kept, l)
	})
	if err != nil {
		return kept, fmt.Errorf("read the log of %s: %w", process, err)
	}
	return kept, nil
}

// ReadWarnings reads the log of a redis-server or nats-server and returns its warnings and errors, the first 200, each after the name of
// the process.
func ReadWarnings(process string, r io.Reader) ([]string, error) {
	var kept []string
	err := eachLine(r, func(text string) {
		if w, ok := warning(text); ok && len(kept) < maxSerious {
			kept = append(kept, process+": "+w)
		}
	})
	if err != nil {
		return kept, fmt.Errorf("read the log of %s: %w", process, err)
	}
	return kept, nil
}

// eachLine calls f for each line that is not empty.
func eachLine(r io.Reader, f func(string)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLogLine)
	for lines.Scan() {
		if text := strings.TrimSpace(lines.Text()); text != "" {
			f(text)
		}
	}
	return lines.Err()
}

// warning returns what a line of redis-server ("123:M 22 Nov 2026 00:46:33.123 # text") or of nats-server
// ("[123] 2026/11/22 00:46:33.123 [WRN] text") warns of.
func warning(line string) (string, bool) {
	for _, mark := range []string{" [WRN] ", " [ERR] ", " [FTL] "} {
		if _, text, ok := strings.Cut(line, mark); ok {
			return text, true
		}
	}
	head, text, ok := strings.Cut(line, " # ")
	pid, _, isRedis := strings.Cut(head, ":")
	if _, err := strconv.Atoi(pid); err != nil {
		isRedis = false
	}
	isNotice := func(notice string) bool { return strings.HasPrefix(text, notice) }
	return text, ok && isRedis && !slices.ContainsFunc(redisNotices, isNotice)
}

// redisNotices are what Redis 7 writes with the mark of a warning at every start.
var redisNotices = []string{"oO0OoO0OoO0Oo", "Redis version=", "Valkey version=", "Configuration loaded", "Server initialized"}

// parseLogLine reads a line that slog's JSON or text handler wrote. It reports false for anything else.
func parseLogLine(text string) (LogLine, bool) {
	values := make(map[string]string)
	if strings.HasPrefix(text, "{") {
		var object map[string]any
		if json.Unmarshal([]byte(text), &object) != nil {
			return LogLine{}, false
		}
		for k, v := range object {
			values[k] = fmt.Sprint(v)
		}
	} else {
		parseLogfmt(text, values)
	}
	l := LogLine{
		Level: strings.ToUpper(values["level"]), Msg: values["msg"], Err: values["err"], RequestID: values["request_id"], Text: text,
	}
	l.Time, _ = time.Parse(time.RFC3339Nano, values["time"]) // zero if there is none
	return l, l.Level != "" && l.Msg != ""
}

// parseLogfmt reads key=value pairs; values with spaces are quoted as in Go.
func parseLogfmt(text string, into map[string]string) {
	for text != "" {
		key, rest, ok := strings.Cut(text, "=")
		if !ok {
			return
		}
		value, quoted := "", strings.HasPrefix(rest, `"`)
		if quoted {
			q, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return
			}
			value, _ = strconv.Unquote(q) // it was just found to be quoted
			rest = rest[len(q):]
		} else {
			value, rest, _ = strings.Cut(rest, " ")
		}
		into[strings.TrimSpace(key)] = value
		text = strings.TrimLeft(rest, " ")
	}
}

// RequestIDs returns the ids of the failed requests that a result names, to look for in the logs.
func (r *Result) RequestIDs() map[string]bool {
	ids := make(map[string]bool)
	for _, c := range r.Errors {
		for _, id := range c.RequestIDs {
			ids[id] = true
		}
	}
	return ids
}

// about returns the lines of logs that tell most about the failures of a run: those of its requests, else the warnings and errors.
func about(logs []LogLine, ids map[string]bool, limit int) []string {
	ours := slices.DeleteFunc(slices.Clone(logs), func(l LogLine) bool { return !ids[l.RequestID] })
	if len(ours) == 0 {
		ours = slices.DeleteFunc(slices.Clone(logs), func(l LogLine) bool { return !l.serious() })
	}
	var lines []string
	for _, l := range ours[:min(limit, len(ours))] {
		if l.Process == "" {
			lines = append(lines, l.Text)
			continue
		}
		lines = append(lines, l.Process+": "+l.Text)
	}
	return lines
}
