// Package bridge is the HTTP edge of Ops-Core: the five routes of the old API, the new API under /api/v1, and the probes.
//
// The bridge decides nothing. A write becomes a message of the intake streams and is answered once its [event.Outcome] is known,
// which is after the commit: whoever has got a success reads his own write. When no outcome comes in time, the bridge asks the
// aggregate whether it has passed the sequence of the message, and only then says 503; repeating a request is always safe. A
// read goes through [AgentQueries] and [RunQueries].
//
// # The old API
//
// Old clients are served exactly as before: status codes, order of checks, texts, the order of members. What differs is deliberate, and
// stands in the table of docs/http-v1.md and nowhere else.
//
// # What became of a request
//
// Each request has an id, which its answer, its log line and its message in a stream carry. The bridge remembers how far the last
// writes and refused requests came; a bridge that is asked for one of another asks the others.
//
// # Errors
//
// errors.go is the only place where an error meets a status code. The old API answers {"detail": …}, the new one
// application/problem+json; both say the same.
//
// # Delivery
//
// [Bridge.Deliver] takes the task requests of the workflow engine for agents that are reached by HTTP, in one queue group of all replicas. Each
// request is looked up and delivered on a goroutine of its own, at most 10,000 at once:
//
//   - http: a signed POST. The agent knows a repeat by its webhook-id, so a request may be repeated at every level.
//   - agentkit: a POST in the words of old agents, which do not know repeats: never twice, on a connection of its own.
//   - poll: the agent asks by HTTP, at any replica, which for that time subscribes to its task subject like an agent on NATS. A task that finds nobody
//     there is held for a moment and offered again as soon as a replica says that the agent asks.
//
// Nothing sent: the engine hears that nobody is there. Sent, and no answer: accepted, as the agent may be at work. A server that fails is left alone
// by a circuit breaker, and servers that have not answered last time share a quarter of all places, so that those that hang are in nobody's way.
//
// # Goroutines
//
// [Bridge.Serve] and [Bridge.Deliver] are the only things that start any, and return when they are gone. A [Bridge] that is used through its
// [Bridge.Handler] alone has none.
package bridge
