package event

import "time"

// Streams that carry the bus. They are created if absent and never silently reconfigured.
const (
	StreamAgent = "OPSCORE_AGENT" // register, deregister, state, and commands about agents: level events
	StreamWork  = "OPSCORE_WORK"  // accepted, progress, result, and commands about definitions and runs: edge events
	StreamFact  = "OPSCORE_FACT"  // what became of agents and runs, for subscribers
	StreamDead  = "OPSCORE_DEAD"  // dead letters
)

// Durable consumers, shared by all replicas.
const (
	ConsumerLifecycle = "lifecycle" // of StreamAgent
	ConsumerWorkflow  = "workflow"  // of StreamWork
)

// Headers of messages. NATS header names are case-sensitive.
const (
	HeaderReply       = "Opscore-Reply"       // inbox that gets the Outcome after the commit
	HeaderDeadline    = "Opscore-Deadline-Ms" // milliseconds after the stream timestamp; not begun by then: expired
	HeaderRequest     = "Opscore-Request"     // id of the request, for logs
	HeaderTraceparent = "traceparent"         // W3C trace context
	HeaderTracestate  = "tracestate"
)

// Headers of an Outcome: when the consumer got the message, and when its handler had committed. RFC 3339 with nanoseconds.
const (
	HeaderConsumedAt  = "Opscore-Consumed-At"
	HeaderCommittedAt = "Opscore-Committed-At"
)

// Headers of dead letters.
const (
	HeaderDeadSubject = "Opscore-Dead-Subject" // original subject
	HeaderDeadStream  = "Opscore-Dead-Stream"  // original stream
	HeaderDeadSeq     = "Opscore-Dead-Seq"     // sequence in the original stream
	HeaderDeadCode    = "Opscore-Dead-Code"    // reason, a Code
	HeaderDeadReason  = "Opscore-Dead-Reason"  // reason, for people
	HeaderDeadTime    = "Opscore-Dead-Time"    // when it was buried, RFC 3339
	HeaderDeadCount   = "Opscore-Dead-Count"   // how often it was delivered
	HeaderDeadFirst   = "Opscore-Dead-First"   // when it was said, RFC 3339
	HeaderDeadSize    = "Opscore-Dead-Size"    // bytes of the body; more than there are if it was cut off
	HeaderDeadAgent   = "Opscore-Dead-Agent"   // token of the agent it is about
	HeaderDeadRun     = "Opscore-Dead-Run"     // token of the run it is about
	HeaderDeadHops    = "Opscore-Dead-Hops"    // how often it was sent again; also on the message that is
	HeaderDeadReplay  = "Opscore-Dead-Replay"  // on a message that is sent again: the letter it comes from
)

// InboxPrefix is the only kind of subject honoured in HeaderReply: anything else could be a stream's own subject.
const InboxPrefix = "_INBOX."

// Limits of the wire. A message that goes over one is refused as too_large.
const (
	MaxToken     = 255       // bytes of an encoded id
	MaxPlainID   = 128       // characters of an id that stands for itself
	MaxDetails   = 64 << 10  // bytes of state details
	MaxSchema    = 64 << 10  // bytes of a JSON Schema
	MaxSchemas   = 256 << 10 // bytes of all JSON Schemas of a registration
	MaxErrorText = 4 << 10   // bytes of an error message, of a reason and of a comment
	MaxSignal    = 64 << 10  // bytes of the payload of a signal
	MaxBody      = 960 << 10 // bytes of a message or task output with the server's default max_payload of 1 MiB
	MaxDeadBody  = 64 << 10  // bytes kept of a dead letter that is too large
)

// Defaults that both sides of the wire share.
const (
	DefaultSlots     = 1
	DefaultHeartbeat = 10 * time.Second // of an agent that beats without having said how often
	AcceptDeadline   = 5 * time.Second  // an attempt nobody accepted by then is taken back
	PushDeadline     = 15 * time.Second // the same, of an agent that is reached by HTTP
)
