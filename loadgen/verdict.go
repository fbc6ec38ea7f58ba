package loadgen

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
)

// The bounds of a verdict: it is read by people.
const (
	maxVerdictOperations = 8
	maxVerdictWarnings   = 5
	maxVerdictLogs       = 8
	maxVerdictDetail     = 160
)

// Judge says what a run came to. A run is good when something was sent and nothing failed, the ledger is clean, every threshold held and
// every planned fault was made; failures while faults were made do not count when the server was ready at the end. Otherwise the verdict
// names what failed and the likely cause. It depends on nothing but its arguments, and changes neither.
func Judge(r *Result, e Evidence) Verdict {
	s := newScene(r, e)
	v := Verdict{OK: s.good()}
	v.Lines = append(v.Lines, s.headline(v.OK))
	v.Lines = append(v.Lines, s.operationLines()...)
	v.Lines = append(v.Lines, s.ledgerLines()...)
	v.Lines = append(v.Lines, s.limitLines()...)
	v.Lines = append(v.Lines, s.probeLines()...)
	warnings := e.Warnings[:min(maxVerdictWarnings, len(e.Warnings))]
	for _, w := range warnings {
		v.Lines = append(v.Lines, "Warning: "+clip(w))
	}
	if more := len(e.Warnings) - len(warnings); more > 0 {
		v.Lines = append(v.Lines, fmt.Sprintf("Warning: %s more in the logs", grouped(int64(more))))
	}
	if w := r.Machine.StealWarning(); w != "" {
		v.Lines = append(v.Lines, "Warning: "+w+".")
	}
	if v.OK {
		return v
	}
	main, others := s.causes()
	v.Code, v.Cause, v.Do = main.code, main.cause(s), main.do
	for _, o := range others {
		v.Lines = append(v.Lines, "Besides: "+o.cause(s))
	}
	v.Logs = about(e.Logs, r.RequestIDs(), maxVerdictLogs)
	return v
}

// JudgeCheck says why the check before a load has failed, as Judge does for the load.
func JudgeCheck(c *CheckError, e Evidence) Verdict {
	class := ErrorClass{Operation: "the check before the load, step " + c.Step, Class: cmp.Or(c.Class, ClassOther), Count: 1, Detail: c.Err.Error()}
	if f, ok := errors.AsType[*failure](c.Err); ok {
		class.Detail = f.detail
	}
	if c.RequestID != "" {
		class.RequestIDs = []string{c.RequestID}
	}
	return Judge(&Result{
		Requests: 1, Failures: 1, Errors: []ErrorClass{class}, Operations: map[string]Operation{class.Operation: {Requests: 1, Failures: 1}},
	}, e)
}

// scene is a run as the rules look at it.
type scene struct {
	r      *Result
	e      Evidence
	failed map[string]int64 // failures by class
}

func newScene(r *Result, e Evidence) *scene {
	s := &scene{r: r, e: e, failed: make(map[string]int64)}
	if r.Ledger != nil && e.Registered == 0 {
		s.e.Registered, s.e.AgentsFound = r.Ledger.Registered, r.Ledger.AgentsFound
	}
	for _, c := range r.Errors {
		s.failed[c.Class] += c.Count
	}
	return s
}

// of sums up the failures of some classes.
func (s *scene) of(classes ...string) (n int64) {
	for _, c := range classes {
		n += s.failed[c]
	}
	return n
}

// dropped is the number of requests whose connection ended before an answer.
func (s *scene) dropped() int64 { return s.of(ClassReset, ClassNoResponse) }

// answered reports whether any request was answered by an HTTP server, with whatever status.
func (s *scene) answered() bool {
	if s.r.Requests > s.r.Failures || s.failed[ClassContent] > 0 {
		return true
	}
	for class := range s.failed {
		if isStatus(class) {
			return true
		}
	}
	return false
}

// statuses sums up the failures whose status lies in a range.
func (s *scene) statuses(from, to int) (n int64) {
	for class, count := range s.failed {
		if status, err := strconv.Atoi(class); err == nil && status >= from && status <= to {
			n += count
		}
	}
	return n
}

// where sums up the failures of a class whose detail speaks of something.
func (s *scene) where(class string, speaks func(detail string) bool) (n int64) {
	for _, c := range s.r.Errors {
		if c.Class == class && speaks(c.Detail) {
			n += c.Count
		}
	}
	return n
}

// detail returns what the server said with the most frequent failures of a class, in quotes; empty if it said nothing.
func (s *scene) detail(class string) string {
	for _, c := range s.r.Errors {
		if c.Class == class && c.Detail != "" {
			return "\"" + plain(c.Detail) + "\""
		}
	}
	return ""
}

// said appends what the server said to a sentence without its full stop.
func (s *scene) said(sentence, class string) string {
	if d := s.detail(class); d != "" {
		sentence += "; the server says " + d
	}
	return sentence + "."
}

// brokenOperations are the operations of which every request failed with a status of 500.
func (s *scene) brokenOperations() []string {
	return s.wholly(func(c ErrorClass) bool { return c.Class == "500" })
}

// wholly lists the operations of which every request failed in one way.
func (s *scene) wholly(way func(ErrorClass) bool) []string {
	failures := make(map[string]int64)
	for _, c := range s.r.Errors {
		if way(c) {
			failures[c.Operation] += c.Count
		}
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(failures)) {
		if failures[name] >= s.r.Operations[name].Requests {
			names = append(names, name)
		}
	}
	return names
}

// failing reports whether a check of /readyz failed while the run lasted.
func (s *scene) failing(check string) bool {
	return slices.ContainsFunc(s.e.Probes, func(p Probe) bool {
		return slices.ContainsFunc(p.Failing, func(f string) bool { return strings.HasPrefix(f, check) })
	})
}

// restarts names the servers that were started again although nobody had planned it.
func (s *scene) restarts() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(s.r.Processes)) {
		if n := s.r.Processes[name].Restarts; n > 0 {
			names = append(names, fmt.Sprintf("%s (%d×)", name, n))
		}
	}
	return names
}

// recovered reports whether the server was ready when it was last asked, or was never asked.
func (s *scene) recovered() bool {
	n := len(s.e.Probes)
	return n == 0 || s.e.Probes[n-1].ready()
}

// crossed lists the thresholds that did not hold.
func (s *scene) crossed() []Threshold {
	return slices.DeleteFunc(slices.Clone(s.r.Thresholds), func(t Threshold) bool { return t.Held })
}

// unmade lists the faults that were planned and could not be made.
func (s *scene) unmade() []Fault {
	return slices.DeleteFunc(slices.Clone(s.r.Faults), func(f Fault) bool { return f.Error == "" })
}

func (s *scene) ledgerClean() bool { return s.r.Ledger == nil || s.r.Ledger.Clean() }

// excused reports whether failed requests are what the faults of the run were to be expected to lead to.
func (s *scene) excused() bool { return len(s.r.Faults) > 0 && s.recovered() }

func (s *scene) good() bool {
	return s.r.Requests > 0 && (s.r.Failures == 0 || s.excused()) && s.ledgerClean() && len(s.crossed()) == 0 && len(s.unmade()) == 0
}

// causes returns the rule that explains most of what went wrong, and what else explains at least a tenth of the failures.
func (s *scene) causes() (rule, []rule) {
	main, most := unknown, int64(0)
	best := make(map[topic]rule) // of each topic
	share := make(map[topic]int64)
	for _, c := range rules {
		n := c.explains(s)
		if n > most { // the first of equals: the table is in order
			main, most = c, n
		}
		if n > share[c.about] {
			best[c.about], share[c.about] = c, n
		}
	}
	if main.about == aboutRun {
		return main, nil
	}
	var others []rule
	for _, about := range slices.Sorted(maps.Keys(best)) {
		if about != main.about && share[about]*10 >= s.r.Failures {
			others = append(others, best[about])
		}
	}
	return main, others
}

func (s *scene) headline(ok bool) string {
	r := s.r
	switch {
	case r.Requests == 0:
		return "FAILED: no request was sent."
	case ok && r.Failures == 0:
		return fmt.Sprintf("OK: %s in %s, none failed; p50 %s ms, p99 %s ms.", plural(r.Requests, "request"), seconds(r.Seconds), figure(r.P50Ms), figure(r.P99Ms))
	case ok:
		return fmt.Sprintf("OK: %s of %s failed while %s; the server came back.", grouped(r.Failures), plural(r.Requests, "request"), s.faultsMade())
	case r.Failures == 0:
		return fmt.Sprintf("FAILED: all of %s in %s succeeded, but not all is well.", plural(r.Requests, "request"), seconds(r.Seconds))
	}
	return fmt.Sprintf("FAILED: %s of %s failed (%s) in %s.", grouped(r.Failures), plural(r.Requests, "request"), percent(r.Failures, r.Requests),
		seconds(r.Seconds))
}

func (s *scene) faultsMade() string {
	return plural(int64(len(s.r.Faults)-len(s.unmade())), "fault") + " were made on purpose"
}

// operationLines says of each operation that failed how often and how, worst first.
func (s *scene) operationLines() []string {
	ways := make(map[string][]string)
	total := make(map[string]int64)
	for _, c := range s.r.Errors {
		way := fmt.Sprintf("%s × %s", grouped(c.Count), className(c.Class))
		if c.Detail != "" {
			way += " (" + plain(c.Detail) + ")"
		}
		ways[c.Operation] = append(ways[c.Operation], way)
		total[c.Operation] += c.Count
	}
	names := slices.SortedFunc(maps.Keys(ways), func(a, b string) int {
		return cmp.Or(cmp.Compare(total[b], total[a]), cmp.Compare(a, b))
	})
	var lines []string
	for i, name := range names {
		if i == maxVerdictOperations {
			lines = append(lines, fmt.Sprintf("%s more failed.", plural(int64(len(names)-i), "operation")))
			break
		}
		lines = append(lines, fmt.Sprintf("%s: %s of %s failed: %s.", name, grouped(total[name]), grouped(max(s.r.Operations[name].Requests, total[name])),
			strings.Join(ways[name], ", ")))
	}
	return lines
}

func (s *scene) ledgerLines() []string {
	l := s.r.Ledger
	switch {
	case l == nil:
		return nil
	case l.Clean():
		line := fmt.Sprintf("Ledger: clean, all %s that were acknowledged were found.", grouped(l.Acked))
		if n := len(l.Unconfirmed); n > 0 {
			line += fmt.Sprintf(" %s never confirmed a cancel.", plural(int64(n), "agent"))
		}
		return append([]string{line}, runLines(l)...)
	}
	lines := append([]string{"Ledger: " + ledgerFaults(l) + "."}, runLines(l)...)
	for _, f := range l.Findings[:min(maxVerdictOperations, len(l.Findings))] {
		lines = append(lines, "Ledger: "+clip(f.Text))
	}
	return lines
}

// runLines says how the runs ended.
func runLines(l *Ledger) []string {
	r := l.Runs
	ended := r.Completed + r.Failed + r.Cancelled
	if ended+r.GoingOn == 0 {
		return nil
	}
	line := fmt.Sprintf("Runs: %s of %s ended (%s completed, %s failed, %s cancelled)",
		grouped(ended), grouped(ended+r.GoingOn), grouped(r.Completed), grouped(r.Failed), grouped(r.Cancelled))
	if r.GoingOn > 0 {
		return []string{line + fmt.Sprintf("; %s went on.", grouped(r.GoingOn))}
	}
	return []string{line + "."}
}

// ledgerFaults says what is wrong with a ledger.
func ledgerFaults(l *Ledger) string {
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{
		{l.Lost, "lost"},
		{l.Doubled, "doubled"},
		{l.OutOfOrder, "out of order"},
		{l.Stuck, "stuck"},
		{l.OverSlot, "over an agent's slots"},
		{l.Unended, "not ended in time"},
	} {
		if p.n > 0 {
			parts = append(parts, grouped(p.n)+" "+p.what)
		}
	}
	return strings.Join(parts, ", ")
}

func (s *scene) limitLines() []string {
	var lines []string
	for _, t := range s.crossed() {
		lines = append(lines, fmt.Sprintf("Threshold crossed: %s, seen %s.", t.Text, figure(t.Seen)))
	}
	if s.r.Unsent > 0 {
		lines = append(lines, fmt.Sprintf("Never sent: %s that were due, because no user was free for them.", plural(s.r.Unsent, "task")))
	}
	if s.r.StopCause != "" {
		lines = append(lines, fmt.Sprintf("Ended by itself at %s: %s.", plural(int64(s.r.PeakUsers), "user"), s.r.StopCause))
	}
	for _, f := range s.unmade() {
		lines = append(lines, fmt.Sprintf("Fault not made: %s %s at %s: %s.", f.Kind, f.Target, seconds(f.Second), clip(f.Error)))
	}
	return lines
}

// probeLines says for how long the server was not ready, and why.
func (s *scene) probeLines() []string {
	first, down := -1, 0
	why := make(map[string]bool)
	for i, p := range s.e.Probes {
		if p.ready() {
			continue
		}
		if down++; first < 0 {
			first = i
		}
		if len(p.Failing) == 0 {
			why[className(p.Ready)] = true
		}
		for _, f := range p.Failing {
			why[clip(f)] = true
		}
	}
	if down == 0 {
		return nil
	}
	reasons := slices.Sorted(maps.Keys(why))
	return []string{fmt.Sprintf("Probes: /readyz did not say ready in %d of %d looks, first at %s (%s).", down, len(s.e.Probes),
		seconds(s.e.Probes[first].Second), strings.Join(reasons[:min(3, len(reasons))], "; "))}
}

func isStatus(class string) bool {
	_, err := strconv.Atoi(class)
	return err == nil
}

// className is a class in words.
func className(class string) string {
	switch class {
	case ClassRefused:
		return "connection refused"
	case ClassReset:
		return "connection reset"
	case ClassNoResponse:
		return "closed without an answer"
	case ClassTimeout:
		return "timed out"
	case ClassResolve:
		return "host name without an address"
	case ClassContent:
		return "wrong answer"
	}
	if isStatus(class) {
		return "status " + class
	}
	return class
}

// clip makes one line of bounded length of what others wrote.
func clip(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if utf8.RuneCountInString(text) <= maxVerdictDetail {
		return text
	}
	return string([]rune(text)[:maxVerdictDetail-1]) + "…"
}

// plain is what a server said without the JSON around it: the message of an error object, or those of a list of mistakes.
func plain(detail string) string {
	var one struct {
		Message string `json:"message"`
	}
	if json.Unmarshal([]byte(detail), &one) == nil && one.Message != "" {
		return clip(one.Message)
	}
	var messages []string
	for _, m := range mistakes.FindAllStringSubmatch(detail, -1) { // a long list is cut off in the middle
		if text, err := strconv.Unquote(m[1]); err == nil && !slices.Contains(messages, text) {
			messages = append(messages, text)
		}
	}
	if strings.HasPrefix(detail, "[") && len(messages) > 0 {
		return clip(strings.Join(messages, "; "))
	}
	return clip(detail)
}

var mistakes = regexp.MustCompile(`"msg":("(?:[^"\\]|\\.)*")`)

// grouped writes a number with commas between its thousands.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func plural(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return grouped(n) + " " + thing + "s"
}

// percent shows a share; what is not 0 is not shown as 0.
func percent(part, whole int64) string {
	share := 100 * float64(part) / float64(max(whole, 1))
	if share < 0.01 && part > 0 {
		return "under 0.01 %"
	}
	return figure(share) + " %"
}

func seconds(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) + " s" }

// figure writes a number with the digits that matter.
func figure(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
