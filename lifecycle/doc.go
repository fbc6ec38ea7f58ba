// Package lifecycle keeps what is known of agents: it folds what they say into documents, decides whether one may be given a
// task, notices when a stream or the store went back in time, and answers questions about agents.
//
// # What it owns
//
//   - The record of an agent ([Record]): of each group of facts the newest event. Registration, state, deregistration
//     and cordon have a fence of their own, the place of that event in its stream.
//   - The history of an agent: its last events, in stream order, and the last changes of its liveness.
//   - The gate of an agent ([Gate]), the only source of "free". It is a document of its own, because package workflow writes it
//     too, through the methods here, in the Txn that takes or frees a slot.
//   - The schemas that an agent has registered, now and lately, in a document of their own: record and gate have their names ([SchemaIDs]).
//   - The index of free agents per capability, which follows the gate ([FreeOps]).
//   - The timers of attempts that were ended by a state of their agent, which follow the gate too ([EndOps]).
//   - The positions of the streams, and the epoch ([Keeper]).
//   - Who is live, suspect or lost ([Judge]).
//
// Reducers are pure: [Record] and [Gate] know no store, no clock and no connection. [Service] is what drives them: it
// acknowledges a message only after the Txn that holds its effect was committed.
//
// # Goroutines
//
// [Service.Run] runs a consumer with two workers, and the sweeper of early reports; all share the two caches of the Service.
// Two of them may hold documents of one agent at the same time: the revisions decide who wins, and the other reads again. A
// cached document is never changed, only replaced.
// [Keeper.Run] and [Judge.Run] are one goroutine each; heartbeats come to the latter by one of the connection, which only notes when. All return
// when ctx has ended and their goroutines are gone. [Queries] has none.
//
// # What an event does to a record
//
// Columns are what the record says before: nothing (new), a report without a registration (early), a registration without
// a report that counts (unknown), both (speaks), or a deregistration (gone). Its registration, of process A, stands at 20 in
// the stream, its report at 30 and its deregistration at 40; an event is earlier (10), between (25) or later (50).
//
// Cells are what the record says after; "-" means that the event is old and changes nothing, "kept" that it is remembered but
// does not count, "?" that it looks as if the stream had been rolled back: the stream is asked. A cordon changes nothing but the
// cordon, which outlives a deregistration. An event that comes again is always "-". A report that waits becomes a dead letter when the registration is of
// another process, or comes too late.
//
//	event                        its place                new        early      unknown    speaks     gone
//	register                     later                    unknown    speaks     unknown    speaks     unknown
//	register                     between                  unknown    speaks     unknown    speaks     -
//	register                     earlier                  unknown    speaks     kept       kept       -
//	register                     later, after 5 min       unknown    unknown    unknown    speaks     unknown
//	register, another process    later                    unknown    unknown    unknown    unknown    unknown
//	register, another process    earlier                  unknown    unknown    kept       kept       -
//	register, no process named   later                    unknown    speaks     unknown    speaks     unknown
//	deregister                   later                    gone       gone       gone       gone       kept
//	deregister                   between                  gone       kept       gone       early      -
//	deregister                   earlier                  gone       kept       kept       kept       -
//	state                        later                    early      early      speaks     speaks     early
//	state                        between                  early      -          speaks     -          -
//	state                        earlier                  early      -          speaks     -          -
//	state, another process       later                    early      early      kept       kept       early
//	state, no process named      later                    early      early      speaks     speaks     early
//	cordon                       later                    cordoned   cordoned   cordoned   cordoned   cordoned
//	cordon                       earlier                  cordoned   cordoned   cordoned   cordoned   cordoned
//	drain                        later                    drained    drained    drained    drained    drained
//	uncordon                     later                    kept       kept       kept       kept       kept
//	any                          low, but by newer time   early      ?          ?          ?          ?
//
// # What a word does to a gate
//
// The last word that counts, in upper or lower case, opens the gate or shuts it, whatever was said before. A working word does not
// shut it while an attempt is held, which explains it, nor when it was said before the result of the last attempt.
//
//	last word      holds nothing   holds nothing, said before the last result   holds an attempt
//	(none)         shut            shut                                         shut
//	UNKNOWN        shut            shut                                         shut
//	idle           open            open                                         open
//	finished       open            open                                         open
//	completed      open            open                                         open
//	active         shut            open                                         open
//	busy           shut            open                                         open
//	error          shut            shut                                         shut
//	offline        shut            shut                                         shut
//	draining       shut            shut                                         shut
//	initializing   shut            shut                                         shut
//	pondering      shut            shut                                         shut
//
// # What an act does to a gate
//
// Columns are the rule that refuses a task to an agent with one slot; cells are the rule afterwards, "-" is the same one. The slot in
// use is the attempt that the acts are about, and the back-off is the first, of a second.
//
//	act                          free           unregistered   cordoned   suspect   lost   draining   no_responder   backoff        state          slots          breaker
//	a sign of life               -              -              -          -         -      -          free           -              -              -              -
//	a message behind that        -              -              -          free      free   -          -              -              -              -              -
//	a new process                -              free           -          free      free   -          free           free           free           -              free
//	a heartbeat                  -              -              -          free      free   -          -              -              -              -              -
//	Take                         slots          -              -          -         -      -          -              -              -              -              slots
//	Release                      -              -              -          -         -      -          -              -              -              free           -
//	Drain                        -              -              -          -         -      -          -              -              -              -              -
//	Rejected                     backoff        -              -          -         -      -          -              -              -              backoff        backoff
//	Unheard                      no_responder   -              -          -         -      -          -              no_responder   no_responder   no_responder   no_responder
//	Answered                     -              -              -          -         -      -          free           free           -              -              -
//	Failed, for the fifth time   breaker        -              -          -         -      -          -              -              -              -              -
//	Worked                       -              -              -          -         -      -          -              -              -              -              -
//	a second passes              -              -              -          -         -      -          free           free           -              -              -
//	ten seconds pass             -              -              -          -         -      -          free           free           -              -              free
//
// # What the judge says of an agent
//
// Agents beat on core NATS, to all replicas. The one that holds the lease judges: [Judge] reads the gate, the record and the last message of each agent
// that should be called something else, and says it in a Txn that conditions on them and on the lease. Silence counts from the last gap on: the start of
// the process or of its lease, a reconnect, a probe that came back late, dropped messages, a store or stream that did not answer, and time in which
// the process stood still.
//
// Columns are what was said before of an agent that beats each second, or, unwatched, has not said how often; cells what is said now, "-" is the
// same. A heartbeat is missed when it is late by a quarter of the interval. "Stored" is the last message of its present process in a stream.
//
//	heartbeats missed    since the last gap   stored since     live      suspect   lost   unwatched
//	0                    any                  any              -         live      live   live
//	1                    any                  any              -         live      live   live
//	2                    1 s                  nothing          -         -         -      live
//	2                    longer               nothing          suspect   -         -      live
//	2                    longer               a message        -         live      live   live
//	3                    1 s                  nothing          -         -         -      live
//	3                    2.5 s                nothing          suspect   -         -      live
//	3                    longer               nothing          lost      lost      -      live
//	3                    longer               a message        -         live      live   live
//	3                    longer               2 beats before   suspect   -         -      live
//	all, it never beat   1 s                  nothing          -         -         -      -
//	all, it never beat   longer               nothing          lost      lost      -      -
//	all, it never beat   longer               a message        -         live      live   -
//
// # What ends an attempt of an agent that knows no result event
//
// While such an agent holds an attempt, each of its states is taken into the [Trace] of the attempt that it is about, by [Gate.Witness],
// and not only the newest one: a record folds states away, and a late one is none of its business. Workflow is woken, and has a timer in
// the same Txn, when the attempt has ended.
//
// The attempt was assigned at 20 and is at work since 25, except in the first column; the state is said at 30. Cells are what it does to
// the attempt, "-" is nothing. "Noted" is a state of rest that ends the attempt when it turns out that it was at work before.
//
//	state                       names                           nothing said yet   works       works, and holds another one
//	active, busy                nothing                         works              -           -
//	idle, finished, completed   nothing                         noted              completed   -
//	error                       nothing                         failed             failed      -
//	others                      nothing                         -                  -           -
//	active, busy                it                              works              -           -
//	idle, finished, completed   it                              completed          completed   completed
//	error                       it                              failed             failed      failed
//	others                      it                              -                  -           -
//	any                         another one                     -                  -           -
//	idle, finished, completed   nothing, said before the work   noted              noted       -
//	any                         it, before its base             -                  -           -
package lifecycle
