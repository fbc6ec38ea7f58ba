// Package bus connects Ops-Core to NATS: connections that neither lose nor resend silently, the fixed streams, durable
// publishing, the batch consume loop, call-and-wait, and the embedded server of single-process mode.
//
// # What the bus promises
//
//   - Intake is at least once. A publisher's acknowledgement means that the message survives a kill -9 of every process.
//     A message may be delivered again, late, and after newer ones; [Consumer] adds nothing that hides this.
//   - [Consumer] acknowledges a message only after its handler gave a verdict, and handlers give verdicts only after the
//     commit. An acknowledgement that is lost leads to a redelivery, never to a loss.
//   - Messages of one key (the last token of the subject, or what the handler's key function says) that are in one process at the same
//     time are handled in stream order by one worker. Nothing is promised about order between keys or between processes.
//   - A handler that cannot decide (the store is down) returns an error: the batch is kept, its ownership is renewed, no
//     more is pulled, and it is tried again. There is no bare Nak and no delivery count after which a message is given up.
//   - A handler that panics has its batch bisected until the message is found that panics alone; that one becomes a dead
//     letter, the rest goes on.
//   - A message whose verdict is Dead is stored in the dead-letter stream before it is acknowledged; once, also if it is delivered again
//     within two minutes because the acknowledgement was lost. Whatever else is given up goes there by [Conn.Bury].
//   - [Conn.ReplayDead] sends a dead letter again once, however often and by however many it is asked to.
//
// # Goroutines
//
// Every long-lived type has a Run(ctx) method that returns when all its goroutines have. A slow handler costs only its own
// worker: the other workers go on until the number of unacknowledged messages reaches the consumer's limit.
package bus
