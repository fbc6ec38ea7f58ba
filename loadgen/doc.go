// Package loadgen puts load on an Ops-Core installation and proves what became of it: scenarios of users and agents, latency from
// the intended time of sending, and a ledger that compares everything that was acknowledged with what a separate reader finds.
//
// # Latency
//
// A latency counts from the intended time of sending to the last byte of the answer; beside it stands the uncorrected one, from the real
// time of sending. What is intended depends on the model:
//
//   - In an open model ([Scenario].Rate) task n is intended for the begin of the run plus n/Rate, whether or not a user is free for it
//     then. What is due at the end and was never sent is counted as unsent.
//   - In a closed model a user waits for each answer, pauses, and sends again; a task is intended for the end of the pause. A user that
//     waits for longer than a mean pause would have sent more meanwhile: for each mean pause m within a latency L there is one more
//     latency, L-m, L-2m and so on, of the requests that were left out. Only the corrected histogram has those; requests and failures
//     count what was sent. Without pauses nothing is left out, because nothing says when the next request would have been due.
//
// # What it leaves to others
//
// This package knows no server process and no store. Program loadgen (cmd/loadgen) starts those, reads the store for the ledger and
// prints what this package measures.
package loadgen
