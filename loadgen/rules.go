package loadgen

import (
	"fmt"
	"strings"
)

// The codes of causes.
const (
	CauseLedger         = "ledger"            // something acknowledged was lost, doubled, reordered, or hangs
	CauseNothingSent    = "nothing_sent"      // the scenario did not send anything
	CauseFaultNotMade   = "fault_not_made"    // a planned fault could not be made, so the run proves less than it should
	CauseNotRecovered   = "not_recovered"     // the server was not ready again after the faults
	CauseUnresolved     = "unresolved"        // the host has no address
	CauseStopped        = "server_stopped"    // nobody listens, from beginning to end
	CauseDied           = "server_died"       // it answered, and then nobody listened any more
	CauseRestarted      = "server_restarted"  // a server ended and was started again
	CauseDeadBehindPort = "dead_behind_port"  // something takes connections, no server answers
	CauseHangs          = "server_hangs"      // connections stand, no answer comes
	CauseKeyMissing     = "key_missing"       // 401 for want of a key
	CauseKeyWrong       = "key_wrong"         // 401 for another key
	CausePayload        = "wrong_payload"     // the body is not what the server expects
	CauseAgentsLost     = "agents_lost"       // registered agents are unknown to the server
	CauseUnknownThing   = "unknown_thing"     // 404
	CauseStoreDown      = "store_down"        // 503, and the store is to blame
	CauseNATSDown       = "nats_down"         // 503, and NATS is to blame
	CauseOverload       = "overload"          // the server says that it has too much to do
	CauseUnavailable    = "unavailable"       // 503 for no known reason
	CauseBroken         = "operation_broken"  // one operation fails every time with a 500
	CauseServerError    = "server_error"      // some requests fail with a 5xx
	CauseIdleReset      = "idle_reset"        // connections are closed while users pause
	CauseUnstable       = "unstable"          // most connections break, and some requests are answered
	CauseSlow           = "too_slow"          // some answers do not come in time
	CauseContent        = "wrong_answers"     // answers with a good status and a wrong body
	CauseThreshold      = "threshold_crossed" // nothing failed, but not within the limits
	CauseUnknown        = "unknown"           // no rule fits
)

// rule is a line of the table of causes: how much it explains, what it says, and what to do.
type rule struct {
	code     string
	about    topic
	explains func(*scene) int64
	cause    func(*scene) string
	do       string
}

// topic is what a rule is about. Rules about the same explain the same failures, so only one of them is worth saying.
type topic int

const (
	aboutRun topic = iota // as a whole: nothing else needs to be said beside it
	aboutConnections
	aboutKey
	aboutBodies
	aboutMissing
	aboutOutage // 503 and time-outs
	aboutErrors // other 5xx
	aboutContent
)

// always is more than any number of failures.
const always = int64(1) << 62

// when makes a cause that is not about failures win over those that are.
func when(holds bool) int64 {
	if holds {
		return always
	}
	return 0
}

// only returns n if a condition holds.
func only(holds bool, n int64) int64 {
	if holds {
		return n
	}
	return 0
}

// rules is the table of causes. The one that explains most failures is the likely cause; of equals, the first.
var rules = append(append(append([]rule{}, wholeRules...), connectionRules...), answerRules...)

// wholeRules are about the run as a whole.
var wholeRules = []rule{
	{
		code: CauseLedger, about: aboutRun,
		explains: func(s *scene) int64 { return when(!s.ledgerClean()) },
		cause: func(s *scene) string {
			return "What the server acknowledged is not what is there: " + ledgerFaults(s.r.Ledger) + "."
		},
		do: "This is an error of the server, whatever the load: keep the run's folder, and repeat it with the same --seed.",
	},
	{
		code: CauseNothingSent, about: aboutRun,
		explains: func(s *scene) int64 { return when(s.r.Requests == 0) },
		cause:    func(*scene) string { return "The scenario ended before any user sent a request." },
		do:       "Look at its users, its run time and its pauses.",
	},
	{
		code: CauseNotRecovered, about: aboutRun,
		explains: func(s *scene) int64 { return when(len(s.r.Faults) > 0 && !s.recovered()) },
		cause:    func(s *scene) string { return "The server did not become ready again after the last fault." },
		do:       "Look at what /readyz says and at the log of the process that was hit last.",
	},
	{
		code: CauseFaultNotMade, about: aboutRun,
		explains: func(s *scene) int64 { return when(len(s.unmade()) > 0) },
		cause: func(s *scene) string {
			return plural(int64(len(s.unmade())), "planned fault") + " could not be made, so the run proves less than it should."
		},
		do: "Look at why; the error is beside each fault.",
	},
	{
		code: CauseThreshold, about: aboutRun,
		explains: func(s *scene) int64 { return when((s.r.Failures == 0 || s.excused()) && len(s.crossed()) > 0) },
		cause: func(s *scene) string {
			return "The run was too slow or too weak: " + s.crossed()[0].Text + " did not hold."
		},
		do: "Compare with a run that held (loadgen compare), and look at which process had no CPU left.",
	},
}

// connectionRules are about requests that were not answered.
var connectionRules = []rule{
	{
		code: CauseUnresolved, about: aboutConnections,
		explains: func(s *scene) int64 { return s.of(ClassResolve) },
		cause:    func(s *scene) string { return fmt.Sprintf("The host name of %s has no address.", s.target()) },
		do:       "Check --host and the name service.",
	},
	{
		code: CauseStopped, about: aboutConnections,
		explains: func(s *scene) int64 { return only(!s.answered(), s.of(ClassRefused)) },
		cause: func(s *scene) string {
			return fmt.Sprintf("Nothing listens at %s: the server is not running.", s.target())
		},
		do: "Start it, or see in its log why it ended; check host and port.",
	},
	{
		code: CauseRestarted, about: aboutConnections,
		explains: func(s *scene) int64 {
			return only(s.answered() && len(s.restarts()) > 0 && len(s.r.Faults) == 0, s.of(ClassRefused)+s.dropped())
		},
		cause: func(s *scene) string {
			return fmt.Sprintf("A server ended and was started again: %s.", strings.Join(s.restarts(), ", "))
		},
		do: "The end of its log before the restart says why.",
	},
	{
		code: CauseDied, about: aboutConnections,
		// What is refused tells that it died; what was dropped was on its way at that moment.
		explains: func(s *scene) int64 {
			return only(s.answered() && s.of(ClassRefused) > 0, s.of(ClassRefused)+s.dropped())
		},
		cause: func(s *scene) string {
			return fmt.Sprintf("The server at %s answered first, and then nobody listened there any more.", s.target())
		},
		do: "It crashed or was stopped; the end of its log says why.",
	},
	{
		code: CauseDeadBehindPort, about: aboutConnections,
		explains: func(s *scene) int64 { return only(!s.answered(), s.dropped()) },
		cause: func(s *scene) string {
			return fmt.Sprintf("The port of %s is open, but no server answers behind it: every connection is taken and closed. "+
				"The server process did not start or has died behind a proxy, a container's port or a supervisor.", s.target())
		},
		do: "Look at why the process itself does not run, not at the requests; wait for /readyz before the load.",
	},
	{
		code: CauseHangs, about: aboutOutage,
		explains: func(s *scene) int64 { return only(!s.answered(), s.of(ClassTimeout)) },
		cause: func(s *scene) string {
			return fmt.Sprintf("%s takes connections and never answers: it hangs or is frozen.", s.target())
		},
		do: "Take a stack dump (SIGQUIT), and see whether it waits for NATS or the store.",
	},
	{
		code: CauseIdleReset, about: aboutConnections,
		explains: func(s *scene) int64 {
			return only(s.answered() && s.of(ClassRefused) == 0 && 2*s.dropped() < s.r.Requests, s.dropped())
		},
		cause: func(s *scene) string {
			if s.e.IdleClosed > 0 && s.e.IdleClosed <= s.e.Pause {
				return fmt.Sprintf("The server closes a connection that was idle for %s, and users pause up to %s: "+
					"a request sent at that moment meets a closed connection.", seconds(s.e.IdleClosed.Seconds()), seconds(s.e.Pause.Seconds()))
			}
			return "Single requests met a connection that the other side had just closed, while the server was well: " +
				"most likely its idle time-out, or that of a proxy before it, is shorter than the users' pauses."
		},
		do: "Set the idle (keep-alive) time-out of the server and of all proxies well above the longest pause. This is not overload.",
	},
	{
		code: CauseUnstable, about: aboutConnections,
		explains: func(s *scene) int64 { return only(s.answered(), s.dropped()) },
		cause: func(*scene) string {
			return "Most connections break before an answer, while some requests succeed: the server, or a proxy before it, ends again and again."
		},
		do: "Look for crashes and for the memory limit in the logs of the server and of whatever starts it.",
	},
	{
		code: CauseSlow, about: aboutOutage,
		explains: func(s *scene) int64 { return only(s.answered(), s.of(ClassTimeout)) },
		cause: func(*scene) string {
			return "Some answers did not come in time: the server, or this machine, has too much to do."
		},
		do: "Look at the CPU and the queue of each process over time, and find the limit with loadgen find-limit.",
	},
}

// answerRules are about answers that are not what was asked for.
var answerRules = []rule{
	{
		code: CauseKeyMissing, about: aboutKey,
		explains: func(s *scene) int64 { return s.where("401", saysMissing) },
		cause:    func(s *scene) string { return s.said("The requests carry no key", "401") },
		do:       "Set OPSCORE_API_KEY for the load generator to the server's key.",
	},
	{
		code: CauseKeyWrong, about: aboutKey,
		explains: func(s *scene) int64 {
			return s.where("401", func(d string) bool { return !saysMissing(d) }) + s.of("403")
		},
		cause: func(s *scene) string { return s.said("The requests carry another key than the server's", "401") },
		do:    "Set OPSCORE_API_KEY for the load generator to the server's key; compare them byte for byte.",
	},
	{
		code: CausePayload, about: aboutBodies,
		explains: func(s *scene) int64 { return s.of("400", "413", "415", "422") },
		cause: func(s *scene) string {
			class := "422"
			if s.failed[class] == 0 {
				class = "400"
			}
			return s.said("The bodies of the requests are not what the server expects", class)
		},
		do: "Mend the scenario's body after what the answer names; load has nothing to do with it.",
	},
	{
		code: CauseAgentsLost, about: aboutMissing,
		explains: func(s *scene) int64 { return only(s.e.Registered > s.e.AgentsFound, s.of("404")) },
		cause: func(s *scene) string {
			return fmt.Sprintf("The server has confirmed %s and knows only %s of them: its store was emptied, or is another one.",
				plural(s.e.Registered, "registration"), grouped(s.e.AgentsFound))
		},
		do: "Check that nothing clears the store, and that all replicas use the same one.",
	},
	{
		code: CauseUnknownThing, about: aboutMissing,
		explains: func(s *scene) int64 { return s.of("404", "405") },
		cause: func(s *scene) string {
			return s.said("The requests ask for something that the server does not know", "404")
		},
		do: "Check the path of --host (a doubled or missing /v1), the definition's id, and that users register first.",
	},
	{
		code: CauseStoreDown, about: aboutOutage,
		explains: func(s *scene) int64 { return only(s.storeDown(), s.of("503", ClassTimeout)) },
		cause:    func(s *scene) string { return s.said("The server runs, but its store does not answer", "503") },
		do:       "Look at Redis: is it running, out of memory or disk, or blocked by a fork or a slow disk?",
	},
	{
		code: CauseNATSDown, about: aboutOutage,
		explains: func(s *scene) int64 { return only(s.natsDown(), s.of("503", ClassTimeout)) },
		cause:    func(s *scene) string { return s.said("The server runs, but its NATS does not answer", "503") },
		do:       "Look at nats-server: is it running, and does its file store have room?",
	},
	{
		code: CauseOverload, about: aboutOutage,
		explains: func(s *scene) int64 { return s.where("503", saysTooMany) + s.of("429") },
		cause:    func(s *scene) string { return s.said("The server refuses what it cannot take in at once", "503") },
		do:       "Offer less, or give it more CPU or replicas; find the limit with loadgen find-limit.",
	},
	{
		code: CauseUnavailable, about: aboutOutage,
		explains: func(s *scene) int64 { return s.of("503") },
		cause:    func(s *scene) string { return s.said("The server says that it is not available", "503") },
		do:       "See what /readyz says while it happens.",
	},
	{
		code: CauseBroken, about: aboutErrors,
		explains: func(s *scene) int64 {
			return only(len(s.brokenOperations()) > 0, s.of("500"))
		},
		cause: func(s *scene) string {
			return s.said(fmt.Sprintf("Every single %s fails inside the server (500), whatever the load: an error in its code or set-up%s",
				strings.Join(s.brokenOperations(), " and "), s.logged()), "500")
		},
		do: "Read the server's log lines for these requests; one request by hand shows it as well.",
	},
	{
		code: CauseServerError, about: aboutErrors,
		explains: func(s *scene) int64 { return s.statuses(500, 599) - s.of("503") },
		cause: func(s *scene) string {
			return s.said("Some requests fail inside the server or in a proxy before it"+s.logged(), "500")
		},
		do: "Read the server's log lines for these requests.",
	},
	{
		code: CauseContent, about: aboutContent,
		explains: func(s *scene) int64 { return s.of(ClassContent) },
		cause: func(s *scene) string {
			return s.said("Answers have the right status and the wrong content", ClassContent)
		},
		do: "Check that the target is Ops-Core and not a proxy's page or a stub.",
	},
}

// unknown is the cause when no rule explains anything.
var unknown = rule{
	code:  CauseUnknown,
	cause: func(*scene) string { return "What failed fits no known pattern." },
	do:    "Read the error classes and the logs.",
}

func (s *scene) target() string {
	if s.e.Target == "" {
		return "the server"
	}
	return s.e.Target
}

// storeDown reports whether something besides the statuses blames the store.
func (s *scene) storeDown() bool {
	return s.failing("store") || s.where("503", func(d string) bool { return strings.Contains(d, "store") }) > 0
}

// natsDown reports whether something besides the statuses blames NATS.
func (s *scene) natsDown() bool {
	return s.failing("nats") || s.where("503", func(d string) bool { return strings.Contains(d, "NATS") }) > 0
}

// logged is the error that the server's log names for a failed request, as part of a sentence.
func (s *scene) logged() string {
	ids := s.r.RequestIDs()
	for _, l := range s.e.Logs {
		if ids[l.RequestID] && l.Err != "" {
			return fmt.Sprintf(" (its log: %s)", clip(l.Err))
		}
	}
	return ""
}

func saysMissing(detail string) bool { return strings.Contains(strings.ToLower(detail), "missing") }

func saysTooMany(detail string) bool { return strings.Contains(detail, "too many requests") }
