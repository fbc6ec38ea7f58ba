package event

import (
	"slices"
	"strings"
)

// Root is the first two tokens of every subject.
const Root = "opscore.v1"

// Wildcards that streams, consumers and servers subscribe to.
const (
	SubjectAgentAll      = Root + ".agent.>"
	SubjectRegister      = Root + ".agent.register.*"
	SubjectDeregister    = Root + ".agent.deregister.*"
	SubjectState         = Root + ".agent.state.*"
	SubjectAccepted      = Root + ".agent.accepted.*"
	SubjectProgress      = Root + ".agent.progress.*"
	SubjectResult        = Root + ".agent.result.*"
	SubjectCommandAll    = Root + ".command.>"
	SubjectHeartbeatAll  = Root + ".heartbeat.*"
	SubjectPushAll       = Root + ".push.*"
	SubjectPushCancelAll = Root + ".push-cancel.*"
	SubjectFactAll       = Root + ".fact.>"
	SubjectDeadAll       = Root + ".dead.>"
	SubjectAPI           = Root + ".api"               // prefix of queries: SubjectAPI.<noun>.<verb>
	SubjectRequestGet    = SubjectAPI + ".request.get" // asked of all bridges; only one that has served the request answers
	SubjectWake          = Root + ".wake"              // hints between replicas, a Wake
	SubjectHeard         = Root + ".heard"             // hints to whoever judges liveness: agents that registered or came back, a Wake
)

// Verb is what an agent says: the fourth token of its subjects.
type Verb string

// The verbs of agents.
const (
	VerbRegister   Verb = "register"
	VerbDeregister Verb = "deregister"
	VerbState      Verb = "state"
	VerbAccepted   Verb = "accepted"
	VerbProgress   Verb = "progress"
	VerbResult     Verb = "result"
)

// CommandKind is what a client asks for: the fourth token of command subjects.
type CommandKind string

// The kinds of commands.
const (
	KindWorkflowApply   CommandKind = "workflow-apply"
	KindRunStart        CommandKind = "run-start"
	KindRunCancel       CommandKind = "run-cancel"
	KindRunPause        CommandKind = "run-pause"
	KindRunResume       CommandKind = "run-resume"
	KindRunSignal       CommandKind = "run-signal"
	KindRunRetry        CommandKind = "run-retry"
	KindScheduleApply   CommandKind = "schedule-apply"
	KindScheduleDelete  CommandKind = "schedule-delete"
	KindSchedulePause   CommandKind = "schedule-pause"
	KindScheduleResume  CommandKind = "schedule-resume"
	KindScheduleTrigger CommandKind = "schedule-trigger"
	KindQueuePause      CommandKind = "queue-pause"
	KindQueueResume     CommandKind = "queue-resume"
	KindAgentCordon     CommandKind = "agent-cordon"
	KindAgentUncordon   CommandKind = "agent-uncordon"
	KindAgentDrain      CommandKind = "agent-drain"
	KindRunRerun        CommandKind = "run-rerun"
	KindRunApprove      CommandKind = "run-approve"
	KindRunReject       CommandKind = "run-reject"
	KindWorkflowPause   CommandKind = "workflow-pause"
	KindWorkflowResume  CommandKind = "workflow-resume"
)

// workflowKinds, scheduleKinds and agentKinds split the commands between the streams; the first two go to StreamWork.
var (
	workflowKinds = []CommandKind{
		KindWorkflowApply, KindRunStart, KindRunCancel, KindRunPause, KindRunResume, KindRunSignal, KindRunRetry,
		KindRunRerun, KindRunApprove, KindRunReject, KindWorkflowPause, KindWorkflowResume,
	}
	scheduleKinds = []CommandKind{
		KindScheduleApply, KindScheduleDelete, KindSchedulePause, KindScheduleResume, KindScheduleTrigger,
	}
	queueKinds = []CommandKind{KindQueuePause, KindQueueResume}
	agentKinds = []CommandKind{KindAgentCordon, KindAgentUncordon, KindAgentDrain}
)

// AgentSubjects lists what StreamAgent carries: what is said by and about agents. Subjects are listed one by one, so that
// a verb or a kind that nobody reads is refused when it is published.
func AgentSubjects() []string {
	s := []string{SubjectRegister, SubjectDeregister, SubjectState}
	for _, k := range agentKinds {
		s = append(s, Root+".command."+string(k)+".*")
	}
	return s
}

// WorkSubjects lists what StreamWork carries: results of tasks, and commands about definitions and runs.
func WorkSubjects() []string {
	s := []string{SubjectAccepted, SubjectProgress, SubjectResult}
	for _, k := range slices.Concat(workflowKinds, scheduleKinds, queueKinds) {
		s = append(s, Root+".command."+string(k)+".*")
	}
	return s
}

// AgentSubject is where an agent publishes. The id is given as a token ([Token]).
func AgentSubject(v Verb, agentToken string) string {
	return Root + ".agent." + string(v) + "." + agentToken
}

// CommandSubject is where a client publishes a command; the key is the token of the run, definition or agent id.
func CommandSubject(k CommandKind, keyToken string) string {
	return Root + ".command." + string(k) + "." + keyToken
}

// HeartbeatSubject is where an agent beats, on core NATS.
func HeartbeatSubject(agentToken string) string { return Root + ".heartbeat." + agentToken }

// TaskSubject is where an agent takes task requests, on core NATS.
func TaskSubject(agentToken string) string { return Root + ".task." + agentToken }

// CancelSubject is where an agent takes cancel requests, on core NATS.
func CancelSubject(agentToken string) string { return Root + ".cancel." + agentToken }

// PushSubject is where the bridge takes task requests for agents reached by HTTP.
func PushSubject(agentToken string) string { return Root + ".push." + agentToken }

// PushCancelSubject is where the bridge takes cancel requests for agents reached by HTTP.
func PushCancelSubject(agentToken string) string { return Root + ".push-cancel." + agentToken }

// FactSubject is where facts about an "agent" or a "run" are published.
func FactSubject(noun, idToken string) string { return Root + ".fact." + noun + "." + idToken }

// DeadSubject is where dead letters of a class (a [Code]) are published.
func DeadSubject(class Code) string { return Root + ".dead." + string(class) }

// APISubject is where a query is answered.
func APISubject(noun, verb string) string { return SubjectAPI + "." + noun + "." + verb }

// StreamOf returns the stream that carries what an agent or a client publishes on a subject, empty if none does.
func StreamOf(subject string) string {
	carries := func(subjects []string) bool {
		return slices.ContainsFunc(subjects, func(s string) bool {
			rest, ok := strings.CutPrefix(subject, strings.TrimSuffix(s, "*"))
			return ok && rest != "" && !strings.Contains(rest, ".")
		})
	}
	switch {
	case carries(AgentSubjects()):
		return StreamAgent
	case carries(WorkSubjects()):
		return StreamWork
	}
	return ""
}

// MatchSubject reports whether a subject matches a pattern with the wildcards of NATS.
func MatchSubject(pattern, subject string) bool {
	for {
		p, restP, moreP := strings.Cut(pattern, ".")
		s, restS, moreS := strings.Cut(subject, ".")
		switch {
		case p == ">":
			return true
		case p != "*" && p != s, moreP != moreS:
			return false
		case !moreP:
			return true
		}
		pattern, subject = restP, restS
	}
}

// Address is what the subject of an intake message says.
type Address struct {
	Family string // "agent" or "command"
	Name   string // the verb or the kind
	ID     string // id of the agent, run or definition, decoded
}

// ParseSubject splits the subject of an intake message. It fails with CodeMalformed for any other subject.
func ParseSubject(subject string) (Address, error) {
	rest, ok := strings.CutPrefix(subject, Root+".")
	parts := strings.SplitN(rest, ".", 4)
	if !ok || len(parts) != 3 || (parts[0] != "agent" && parts[0] != "command") {
		return Address{}, unknownSubject(subject)
	}
	id, err := ParseToken(parts[2])
	if err != nil {
		return Address{}, Errorf(CodeMalformed, "subject %q: %s", subject, err.(*Error).Message)
	}
	return Address{Family: parts[0], Name: parts[1], ID: id}, nil
}

func unknownSubject(subject string) *Error {
	return Errorf(CodeMalformed, "unknown subject %q; want %s.agent.<verb>.<agent> or %s.command.<kind>.<key>", subject, Root, Root)
}

// Key returns the last token of a subject, which names the aggregate of a message, without checking it.
func Key(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }
