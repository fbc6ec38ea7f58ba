// Package bridge is the HTTP edge of Ops-Core: the five routes of the old API, the new API under /api/v1, and the probes.
//
// The bridge decides nothing. A write becomes a message of the intake streams and is answered once its [event.Outcome] is known,
// which is after the commit: whoever has got a success reads his own write. When no outcome comes in time, the bridge asks the
// aggregate whether it has passed the sequence of the message, and only then says 503; repeating a request is always safe. A
// read goes through [AgentQueries] and [RunQueries].
//
// # The old API
//
// Old clients are served exactly as before: status codes, order of checks, texts, the order of members. What differs is deliberate:
//
//   - A second REGISTER keeps the state that the agent has reported since.
//   - DEREGISTER takes effect.
//   - Ops-Core not being able to serve is 503 with Retry-After, never 400 or 500.
//   - A body over 1 MiB, details over 64 KiB and an id too long for a subject are 413.
//   - An inline definition with an empty id is 400.
//   - NaN and Infinity, duplicate members and lone surrogates in a body are broken JSON.
//
// # Errors
//
// errors.go is the only place where an error meets a status code. The old API answers {"detail": …}, the new one
// application/problem+json; both say the same.
//
// # Goroutines
//
// [Bridge.Serve] is the only thing that starts any, and returns when they are gone. A [Bridge] that is used through its
// [Bridge.Handler] alone has none.
package bridge
