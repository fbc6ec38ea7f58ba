package lifecycle

import (
	"time"

	"github.com/opspawn/opscore/bus/event"
	"github.com/opspawn/opscore/storage"
)

// RecordKey names the document of an agent's record.
func RecordKey(agent string) storage.Key { return storage.Key("agent/" + agent) }

// GateKey names the document of an agent's gate.
func GateKey(agent string) storage.Key { return storage.Key("gate/" + agent) }

// schemasKey names the document of the schemas that an agent has registered.
func schemasKey(agent string) storage.Key { return storage.Key("agent-schemas/" + agent) }

// Indexes of lifecycle.
const (
	AgentIndex storage.Index = "agents"       // registered agents by id, all with score 0
	earlyIndex storage.Index = "early"        // agents that have only reported, by when the report expires
	HandBack   storage.Index = "due/workflow" // workflow's timers: an agent's new epoch, and the end of an attempt, is announced there
)

// HandBackMember is the timer member that tells workflow to take back what an agent's earlier process held, or a lost agent holds, and to tell one that has
// returned.
func HandBackMember(agent string) string { return "g|" + event.MustToken(agent) }

func handBackOp(agent string, at time.Time) storage.IndexOp {
	return storage.IndexOp{Index: HandBack, Member: HandBackMember(agent), Score: storage.Score(at.UnixMicro())}
}

// FactTimer is the first part of the timer members a|agent|cause|n that stand for facts about agents.
const FactTimer = "a"

// DrainMember is the timer member that tells workflow to take back what an agent still holds when its time to drain is over.
func DrainMember(agent string) string { return "x|" + event.MustToken(agent) }

func positionKey(stream string) storage.Key { return storage.Key("position/" + stream) }

// epochKey names the document that counts healed regressions.
const epochKey storage.Key = "epoch"
