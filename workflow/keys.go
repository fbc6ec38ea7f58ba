package workflow

import (
	"strconv"
	"strings"
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/lifecycle"
	"github.com/opspawn/opscore/storage"
)

// Documents.

func runKey(run string) storage.Key       { return storage.Key("run/" + run) }
func runInputKey(run string) storage.Key  { return storage.Key("run-input/" + run) }
func runResultKey(run string) storage.Key { return storage.Key("run-result/" + run) }
func definitionKey(id string) storage.Key { return storage.Key("workflow/" + id) } // which version is the latest
func scheduleKey(id string) storage.Key   { return storage.Key("schedule/" + id) }
func sessionKey(replica string) storage.Key {
	return storage.Key("replica/" + replica)
}

func versionKey(id, version string) storage.Key {
	return storage.Key("workflow-version/" + version + "/" + id)
}

func runTaskKey(run, task string) storage.Key {
	return storage.Key("run-task/" + event.MustToken(run) + "/" + event.MustToken(task))
}

func outputKey(run, task string, attempt int) storage.Key {
	return storage.Key("run-output/" + event.MustToken(run) + "/" + event.MustToken(task) + "/" + strconv.Itoa(attempt))
}

// itemsKey names a page of the items of a forEach, as they were when the task was entered for the n-th time.
func itemsKey(run, task string, round, page int) storage.Key {
	return storage.Key("run-items/" + event.MustToken(run) + "/" + event.MustToken(task) + "/" + strconv.Itoa(round) + "/" + strconv.Itoa(page))
}

// onlyKey names the definition of one task's children; nothing of that name is stored.
func onlyKey(id, version, task string) storage.Key {
	return storage.Key("only/" + version + "/" + event.MustToken(id) + "/" + event.MustToken(task))
}

// limitKey names the limiter of a queue.
func limitKey(queue string) storage.Key { return storage.Key("limit/" + queue) }

// acceptedKey names what is remembered of a task's last attempt; nothing of that name is stored.
func acceptedKey(run, task string) storage.Key { return storage.Key(run + "|" + task) }

// retiredKey names the document that each removal of old runs writes.
const retiredKey storage.Key = "retired"

// watchKey names the document that shows in which time no replica was at work.
const watchKey storage.Key = "watch"

// Indexes.
const (
	runIndex      storage.Index = "runs"      // by creation
	endedIndex    storage.Index = "ended"     // runs that have ended, by when they did
	workflowIndex storage.Index = "workflows" // by id, all with score 0
	scheduleIndex storage.Index = "schedules" // by id, all with score 0
	sessionIndex  storage.Index = "replicas"  // sessions by when they were last written
	classIndex    storage.Index = "classes"   // selector classes that may have ready tasks; the score is a random mark
	earlyIndex    storage.Index = "early"     // runs that commands are kept for, which were not started yet
	approvalIndex storage.Index = "approvals" // run|task of approvals that wait, by when they began to
	dueIndex                    = lifecycle.HandBack
	kinIndex      storage.Index = "due/kin" // timers between parents and children
)

// RunIndex lists the runs that nobody but a client has started, by creation.
const RunIndex = runIndex

// readyIndex orders the ready tasks of a selector class by when they became ready.
func readyIndex(class string) storage.Index { return storage.Index("ready/" + class) }

// pendingIndex orders the runs that wait for their turn in a queue by when they were started.
func pendingIndex(queue string) storage.Index { return storage.Index("pending/" + queue) }

// treeIndex lists the runs of a tree but the first, by creation.
func treeIndex(tree string) storage.Index { return storage.Index("tree/" + tree) }

// A timer's member says what to look at. Its parts are tokens, which hold no '|'.
const (
	timerTask     = "t"                 // t|run|task
	timerRun      = "r"                 // r|run
	timerFact     = "f"                 // f|run|version: the fact of this version was not published yet
	timerDrain    = "d"                 // d|agent|run|task|attempt: a cancel was not confirmed yet
	timerBackoff  = "b"                 // b|agent: its back-off ends, or its breaker lets a task through again
	timerChild    = "p"                 // p|run: a child has ended, and its parent has not taken that in
	timerKin      = "c"                 // c|run|task: a task has ended before its children
	timerHandBack = "g"                 // g|agent: its process was replaced, or it is lost
	timerSchedule = "s"                 // s|schedule: its next tick
	timerEmpty    = "x"                 // x|agent, of lifecycle: its time to drain is over
	timerSpent    = "l"                 // l|run|task|attempt: a dead letter was not stored yet
	timerEarly    = "y"                 // y|run: nobody has started it, and commands are kept for it
	timerLimit    = "m"                 // m|queue: runs that wait for a place in it may begin
	timerQueue    = "q"                 // q|queue: runs that wait in it may begin
	timerAsks     = "w"                 // w|run: a child has begun or ceased to wait for people, and its parent has not taken that in
	timerAgent    = lifecycle.FactTimer // a|agent|cause|n: the fact that this became of it was not published yet
	timerEnd      = "e"                 // e|agent|run|task|attempt|seq, of lifecycle: a state of the agent ended the attempt
)

func timer(kind string, ids ...string) string {
	var b strings.Builder
	b.WriteString(kind)
	for _, id := range ids {
		b.WriteByte('|')
		b.WriteString(event.MustToken(id))
	}
	return b.String()
}

// parseTimer splits a timer's member; ok is false for one that this version does not know.
func parseTimer(member string) (kind string, ids []string, ok bool) {
	parts := strings.Split(member, "|")
	want := map[string]int{
		timerTask: 2, timerRun: 1, timerFact: 2, timerDrain: 4, timerBackoff: 1, timerHandBack: 1, timerEmpty: 1, timerEnd: 5, timerSchedule: 1,
		timerChild: 1, timerAsks: 1, timerKin: 2, timerSpent: 3, timerAgent: 3,
		timerEarly: 1, timerQueue: 1, timerLimit: 1,
	}
	if n, known := want[parts[0]]; !known || n != len(parts)-1 {
		return "", nil, false
	}
	for _, p := range parts[1:] {
		id, err := event.ParseToken(p)
		if err != nil {
			return "", nil, false
		}
		ids = append(ids, id)
	}
	return parts[0], ids, true
}

// dueOp is the entry of a timer.
func dueOp(index storage.Index, member string, at time.Time) storage.IndexOp {
	return storage.IndexOp{Index: index, Member: member, Score: storage.Score(max(at.UnixMicro(), 0))}
}

// readyMember names a ready task in its index.
func readyMember(run, task string) string { return event.MustToken(run) + "|" + event.MustToken(task) }

func parseReady(member string) (run, task string, ok bool) {
	a, b, _ := strings.Cut(member, "|")
	run, err1 := event.ParseToken(a)
	task, err2 := event.ParseToken(b)
	return run, task, err1 == nil && err2 == nil
}
